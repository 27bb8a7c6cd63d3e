//! What is taken in: loop checks first, then policy.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Own;
use crate::attr::{Attributes, Interner};
use crate::community::Community;
use crate::policy::{Policy, Verdict};

/// Why a route does not take part in the decision. It stays in Adj-RIB-In and counts against the peer's limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rejected {
    /// Our own AS is in its path (RFC 4271 section 9.1.2).
    AsLoop,
    /// Its path does not begin with the peer's AS.
    FirstAs,
    /// We are its originator (RFC 4456 section 8).
    OriginatorLoop,
    /// It has been through our cluster (RFC 4456 section 8).
    ClusterLoop,
    /// Its next hop is one of our own addresses (RFC 4271 section 5.1.3).
    OwnNextHop,
    /// No import policy is configured for this peer of another AS (RFC 8212).
    NoPolicy,
    /// Import policy.
    Policy,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Rejected::AsLoop => "own AS in path",
            Rejected::FirstAs => "first AS is not the peer's",
            Rejected::OriginatorLoop => "own originator id",
            Rejected::ClusterLoop => "own cluster id",
            Rejected::OwnNextHop => "own address as next hop",
            Rejected::NoPolicy => "no import policy",
            Rejected::Policy => "import policy",
        })
    }
}

/// One peer's import.
#[derive(Debug)]
pub(crate) struct Import {
    /// The peer's AS, if that is not ours.
    pub(crate) external: Option<u32>,
    pub(crate) local_asn: u32,
    pub(crate) allow_own_as: u8,
    pub(crate) enforce_first_as: bool,
    pub(crate) requires_policy: bool,
    pub(crate) policy: Option<Arc<Policy>>,
    /// Our end of the session.
    pub(crate) local: IpAddr,
    /// The last outcome: the routes of an UPDATE share their attributes.
    pub(crate) memo: Option<Memo>,
}

/// What became of attributes under a verdict.
#[derive(Debug)]
pub(crate) struct Memo {
    received: Arc<Attributes>,
    checked: Result<Arc<Attributes>, Rejected>,
    changed: Option<(Verdict, Arc<Attributes>)>,
}

impl Import {
    /// What becomes of a route.
    pub(crate) fn judge(
        &mut self,
        net: &IpNet,
        received: &Arc<Attributes>,
        own: &Own,
        interner: &mut Interner<Attributes>,
    ) -> Result<Arc<Attributes>, Rejected> {
        if self.memo.as_ref().is_none_or(|memo| !Arc::ptr_eq(&memo.received, received)) {
            let checked = self.check(received, own, interner);
            self.memo = Some(Memo { received: Arc::clone(received), checked, changed: None });
        }
        let Some(memo) = &mut self.memo else { return Err(Rejected::Policy) };
        let base = memo.checked.clone()?;
        let Some(policy) = &self.policy else { return Ok(base) };
        match policy.verdict(net, &base) {
            Verdict::Reject => Err(Rejected::Policy),
            Verdict::Accept => Ok(base),
            verdict @ Verdict::Change(_) => {
                if let Some((known, changed)) = &memo.changed
                    && *known == verdict
                {
                    return Ok(Arc::clone(changed));
                }
                let mut attributes = Attributes::clone(&base);
                policy.change(verdict, &mut attributes);
                let changed = interner.intern(attributes);
                memo.changed = Some((verdict, Arc::clone(&changed)));
                Ok(changed)
            }
        }
    }

    /// What does not depend on the prefix.
    fn check(
        &self,
        received: &Arc<Attributes>,
        own: &Own,
        interner: &mut Interner<Attributes>,
    ) -> Result<Arc<Attributes>, Rejected> {
        let path = &received.as_path;
        let ours = path.numbers().filter(|n| *n == own.asn || *n == self.local_asn).count();
        if ours > usize::from(self.allow_own_as) {
            return Err(Rejected::AsLoop);
        }
        if own.addresses.contains(&received.next_hop.addr) || received.next_hop.addr == self.local {
            return Err(Rejected::OwnNextHop);
        }
        let Some(asn) = self.external else {
            if received.originator_id == Some(own.router_id) {
                return Err(Rejected::OriginatorLoop);
            }
            let cluster = own.cluster_id.unwrap_or(own.router_id);
            if received.cluster_list.contains(&cluster) {
                return Err(Rejected::ClusterLoop);
            }
            return Ok(Arc::clone(received));
        };
        if self.enforce_first_as && path.neighbor() != Some(asn) {
            return Err(Rejected::FirstAs);
        }
        if self.policy.is_none() && self.requires_policy {
            return Err(Rejected::NoPolicy);
        }
        if received.has(Community::GRACEFUL_SHUTDOWN) {
            // RFC 8326: any other path is better.
            return Ok(interner.intern(Attributes { local_pref: Some(0), ..Attributes::clone(received) }));
        }
        Ok(Arc::clone(received))
    }
}
