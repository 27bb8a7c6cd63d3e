//! Import and export policy: rules in order, the first that matches decides.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attr::{Attributes, Origin};
use crate::community::{Community, LargeCommunity};

mod prefix_list;
#[cfg(test)]
mod tests;

pub use prefix_list::{PrefixList, PrefixListError};

/// What a rule says about the AS path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AsPathMatch {
    /// It is empty: the route started in our own AS.
    Empty,
    /// It starts (at its right end) in this AS.
    Originates(u32),
    /// It was received from this AS.
    Neighbor(u32),
    /// It goes through this AS.
    Contains(u32),
    /// It has at least this many ASes, a set counting as one.
    AtLeast(usize),
    /// One of these is so.
    Any(Vec<AsPathMatch>),
}

impl AsPathMatch {
    fn matches(&self, attributes: &Attributes) -> bool {
        let path = &attributes.as_path;
        match self {
            AsPathMatch::Empty => path.is_empty(),
            AsPathMatch::Originates(asn) => path.origin() == Some(*asn),
            AsPathMatch::Neighbor(asn) => path.neighbor() == Some(*asn),
            AsPathMatch::Contains(asn) => path.numbers().any(|number| number == *asn),
            AsPathMatch::AtLeast(least) => path.length() >= *least,
            AsPathMatch::Any(all) => all.iter().any(|one| one.matches(attributes)),
        }
    }
}

/// When a rule applies: when everything it names is so. An empty one always applies.
#[derive(Clone, Default, Debug)]
pub struct Match {
    /// The prefix is on one of these lists; an empty list matches nothing.
    pub prefixes: Option<PrefixList>,
    /// The route has one of these communities or of those below; none named: no condition.
    pub communities: Vec<Community>,
    /// Large communities, of which the route has one.
    pub large_communities: Vec<LargeCommunity>,
    /// All of these are so.
    pub as_path: Vec<AsPathMatch>,
    /// The next hop lies in one of these; none named: no condition.
    pub next_hops: Vec<IpNet>,
    /// The origin.
    pub origin: Option<Origin>,
}

impl Match {
    fn tagged(&self, attributes: &Attributes) -> bool {
        let anything = self.communities.is_empty() && self.large_communities.is_empty();
        anything
            || self.communities.iter().any(|c| attributes.has(*c))
            || self.large_communities.iter().any(|c| attributes.large_communities.contains(c))
    }

    fn applies(&self, net: &IpNet, attributes: &Attributes) -> bool {
        /// No condition, or one of them is so.
        fn any<T>(of: &[T], is: impl Fn(&T) -> bool) -> bool {
            of.is_empty() || of.iter().any(is)
        }
        self.prefixes.as_ref().is_none_or(|list| list.contains(net))
            && self.tagged(attributes)
            && self.as_path.iter().all(|m| m.matches(attributes))
            && any(&self.next_hops, |n| n.contains(&attributes.next_hop.addr))
            && self.origin.is_none_or(|origin| origin == attributes.origin)
    }
}

/// What an accepting rule changes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Set {
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// The next hop.
    pub next_hop: Option<IpAddr>,
    /// Communities taken away, before others are added.
    pub remove_communities: Vec<Community>,
    /// Communities added.
    pub add_communities: Vec<Community>,
    /// Large communities taken away, before others are added.
    pub remove_large_communities: Vec<LargeCommunity>,
    /// Large communities added.
    pub add_large_communities: Vec<LargeCommunity>,
    /// An AS put in front of the path, and how many times.
    pub prepend: Option<(u32, u8)>,
}

impl Set {
    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        *self == Set::default()
    }

    /// Changes the attributes.
    pub fn apply(&self, attributes: &mut Attributes) {
        attributes.local_pref = self.local_pref.or(attributes.local_pref);
        attributes.med = self.med.or(attributes.med);
        if let Some(addr) = self.next_hop {
            attributes.next_hop = addr.into();
        }
        if !self.remove_communities.is_empty() || !self.add_communities.is_empty() {
            let kept = attributes.communities.iter().filter(|c| !self.remove_communities.contains(c));
            let mut communities: Vec<Community> = kept.chain(&self.add_communities).copied().collect();
            communities.sort_unstable();
            communities.dedup();
            attributes.communities = communities.into();
        }
        if !self.remove_large_communities.is_empty() || !self.add_large_communities.is_empty() {
            let kept =
                attributes.large_communities.iter().filter(|c| !self.remove_large_communities.contains(c));
            let mut communities: Vec<LargeCommunity> =
                kept.chain(&self.add_large_communities).copied().collect();
            communities.sort_unstable();
            communities.dedup();
            attributes.large_communities = communities.into();
        }
        if let Some((asn, times)) = self.prepend {
            attributes.as_path.prepend(asn, times);
        }
    }
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// When it applies.
    pub when: Match,
    /// What it changes; `None`: it rejects.
    pub then: Option<Set>,
}

/// Rules in order, and what happens to a route none of them applies to.
#[derive(Clone, Default, Debug)]
pub struct Policy {
    /// Only prefixes on this list are looked at, all others rejected; `None`: every prefix is.
    pub within: Option<PrefixList>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Is a route accepted that no rule applies to?
    pub otherwise: bool,
}

/// What a policy says about a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Not accepted.
    Reject,
    /// Accepted as it is.
    Accept,
    /// Accepted, with the changes of this rule.
    Change(usize),
}

impl Policy {
    /// Takes everything as it is.
    pub fn accept_all() -> Policy {
        Policy { otherwise: true, ..Policy::default() }
    }

    /// What it says about this route.
    pub fn verdict(&self, net: &IpNet, attributes: &Attributes) -> Verdict {
        if self.within.as_ref().is_some_and(|list| !list.contains(net)) {
            return Verdict::Reject;
        }
        match self.rules.iter().enumerate().find(|(_, rule)| rule.when.applies(net, attributes)) {
            Some((_, Rule { then: None, .. })) => Verdict::Reject,
            Some((at, Rule { then: Some(set), .. })) if !set.is_empty() => Verdict::Change(at),
            Some(_) => Verdict::Accept,
            None if self.otherwise => Verdict::Accept,
            None => Verdict::Reject,
        }
    }

    /// Makes the changes of a verdict.
    pub fn change(&self, verdict: Verdict, attributes: &mut Attributes) {
        if let Verdict::Change(at) = verdict
            && let Some(Rule { then: Some(set), .. }) = self.rules.get(at)
        {
            set.apply(attributes);
        }
    }
}
