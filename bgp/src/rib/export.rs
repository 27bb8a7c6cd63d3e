//! What is sent on, and what becomes of its attributes on the way out.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Exported, Exports, Own, PeerId, Source};
use crate::attr::{Attributes, Interner};
use crate::community::Community;
use crate::config::NextHopMode;
use crate::decision::PathOrigin;
use crate::family::{Family, PerFamily};
use crate::msg::update_out::Encoded;
use crate::policy::{Policy, Verdict};

/// Whom routes are sent to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Target {
    External,
    /// In our AS; a client of ours or not.
    Internal {
        client: bool,
    },
}

/// All that the messages for a peer depend on: peers with the same key are sent the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct GroupKey {
    pub(crate) target: Target,
    pub(crate) families: PerFamily<bool>,
    /// The AS we are to the peer.
    pub(crate) local_asn: u32,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) requires_policy: bool,
    pub(crate) next_hop: NextHopMode,
    /// Our next hop, where we put ourselves.
    pub(crate) own: PerFamily<Option<IpAddr>>,
    pub(crate) subnet: Option<IpNet>,
    /// 4-octet AS numbers.
    pub(crate) wide: bool,
    /// IPv6 next hops for IPv4 prefixes.
    pub(crate) extended_next_hop: bool,
    /// Longest message, bytes.
    pub(crate) most: usize,
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &GroupKey) -> bool {
        let key = |k: &GroupKey| {
            let policy = k.policy.as_ref().map(Arc::as_ptr);
            let who = (k.target, k.families, k.local_asn, policy, k.requires_policy);
            (who, k.next_hop, k.own, k.subnet, (k.wide, k.extended_next_hop, k.most))
        };
        key(self) == key(other)
    }
}

impl GroupKey {
    /// The route as these peers see it; `None`: not at all.
    pub(crate) fn export(
        &self,
        net: &IpNet,
        (from, source): (PeerId, &Source),
        attributes: &Arc<Attributes>,
        own: &Own,
        memo: &mut Exports,
        interner: &mut Interner<Attributes>,
    ) -> Option<Arc<Attributes>> {
        let verdict = match &self.policy {
            Some(policy) => policy.verdict(net, attributes),
            None if self.requires_policy && self.target == Target::External => Verdict::Reject,
            None => Verdict::Accept,
        };
        if verdict == Verdict::Reject {
            return None;
        }
        let key = (Arc::as_ptr(attributes) as usize, from, verdict);
        let exported = match memo.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let family = Family::of(net);
                let exported = match self.transform(source, attributes, verdict, family, own) {
                    Exported::As(a) if Encoded::new(&a, family, self.wide, self.most).is_none() => {
                        Exported::Unsendable
                    }
                    Exported::As(a) => Exported::As(interner.intern(Arc::unwrap_or_clone(a))),
                    other => other,
                };
                memo.known.insert(key, exported.clone());
                exported
            }
        };
        match exported {
            Exported::As(attributes) => Some(attributes),
            Exported::Nothing => None,
            Exported::Unsendable => {
                memo.unsendable += 1;
                None
            }
        }
    }

    fn transform(
        &self,
        source: &Source,
        attributes: &Attributes,
        verdict: Verdict,
        family: Family,
        own: &Own,
    ) -> Exported {
        if !self.may(source, attributes, own) {
            return Exported::Nothing;
        }
        let mut out = attributes.clone();
        let Some(next_hop) = self.next_hop(attributes.next_hop.addr, family) else {
            return Exported::Unsendable;
        };
        out.next_hop = next_hop.into();
        let external = self.target == Target::External;
        if external {
            out.local_pref = None;
            out.originator_id = None;
            out.cluster_list = Box::default();
            // RFC 4271 section 5.1.4: another AS's MED is not passed on.
            if source.origin != PathOrigin::Local {
                out.med = None;
            }
        } else {
            out.local_pref = Some(attributes.preference());
            if source.origin == PathOrigin::Internal {
                out.originator_id = attributes.originator_id.or(Some(source.router_id));
                let cluster = own.cluster_id.unwrap_or(own.router_id);
                out.cluster_list =
                    std::iter::once(cluster).chain(attributes.cluster_list.iter().copied()).collect();
            }
        }
        let kept = out.local_pref;
        if let Some(policy) = &self.policy {
            policy.change(verdict, &mut out);
        }
        if external {
            // Policy may not tell another AS our preferences; its prepending stands behind our own AS.
            out.local_pref = kept;
            out.as_path.prepend(self.local_asn, 1);
        }
        let fits = match (family, out.next_hop.addr) {
            (Family::Ipv4, IpAddr::V6(_)) => self.extended_next_hop,
            (Family::Ipv6, IpAddr::V4(_)) => false,
            _ => true,
        };
        if fits { Exported::As(Arc::new(out)) } else { Exported::Unsendable }
    }

    /// Split horizon within an AS, reflection (RFC 4456 section 6), and the communities everybody obeys (RFC 1997).
    fn may(&self, source: &Source, attributes: &Attributes, own: &Own) -> bool {
        if attributes.has(Community::NO_ADVERTISE) {
            return false;
        }
        match self.target {
            Target::External => {
                !attributes.has(Community::NO_EXPORT) && !attributes.has(Community::NO_EXPORT_SUBCONFED)
            }
            Target::Internal { client } => {
                source.origin != PathOrigin::Internal || own.cluster_id.is_some() && (client || source.client)
            }
        }
    }

    /// RFC 4271 section 5.1.3.
    fn next_hop(&self, received: IpAddr, family: Family) -> Option<IpAddr> {
        let own = || {
            let other = self.own[Family::Ipv6].filter(|_| family == Family::Ipv4 && self.extended_next_hop);
            self.own[family].or(other)
        };
        let shared = || self.subnet.is_some_and(|subnet| subnet.contains(&received));
        if received.is_unspecified() {
            return own();
        }
        match (self.next_hop, self.target) {
            (NextHopMode::Own, _) => own(),
            (NextHopMode::Auto, Target::External) if !shared() => own(),
            (NextHopMode::Auto | NextHopMode::Keep, _) => Some(received),
        }
    }
}
