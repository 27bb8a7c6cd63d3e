//! Which path is the best: RFC 4271 section 9.1.2.2, with the steps of route reflection (RFC 4456 section 9).
//!
//! Each step takes candidates out of the race; what is left at the end is the best path, and what was still left before
//! the tie-breakers is equal to it. MULTI_EXIT_DISC is compared among routes of one neighbouring AS only, so the paths
//! are not simply ordered: the steps run over the whole set, and the outcome does not depend on the order of arrival.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::attr::Attributes;

#[cfg(test)]
mod tests;

/// The steps, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// There was no other path.
    OnlyPath,
    /// Our own routes win.
    LocalRoute,
    /// Highest LOCAL_PREF.
    LocalPref,
    /// Shortest AS_PATH.
    AsPathLength,
    /// Lowest ORIGIN.
    Origin,
    /// Lowest MULTI_EXIT_DISC among routes of one neighbouring AS; missing counts as 0.
    Med,
    /// From another AS rather than from our own.
    ExternalOverInternal,
    /// Lowest metric to the next hop.
    IgpMetric,
    /// Lowest router id; ORIGINATOR_ID stands for it.
    RouterId,
    /// Shortest CLUSTER_LIST.
    ClusterListLength,
    /// Lowest peer address.
    PeerAddress,
    /// Lowest path identifier (one peer, ADD-PATH).
    PathId,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Step::OnlyPath => "only path",
            Step::LocalRoute => "local route",
            Step::LocalPref => "higher local preference",
            Step::AsPathLength => "shorter AS path",
            Step::Origin => "lower origin",
            Step::Med => "lower MED",
            Step::ExternalOverInternal => "external over internal",
            Step::IgpMetric => "lower metric to the next hop",
            Step::RouterId => "lower router id",
            Step::ClusterListLength => "shorter cluster list",
            Step::PeerAddress => "lower peer address",
            Step::PathId => "lower path identifier",
        })
    }
}

/// What the decision knows of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) origin: PathOrigin,
    /// Router id of the peer it came from.
    pub(crate) router_id: Ipv4Addr,
    pub(crate) peer: IpAddr,
    pub(crate) path_id: u32,
    /// To the next hop.
    pub(crate) metric: u32,
}

/// Where a path came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PathOrigin {
    /// Announced here.
    Local,
    /// From a peer of another AS.
    External,
    /// From a peer of our AS.
    Internal,
}

/// Outcome: places in the list of candidates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    pub(crate) best: usize,
    /// Paths to use together, the best first.
    pub(crate) equal: Vec<usize>,
    /// What took the last other candidate out.
    pub(crate) step: Step,
}

/// Which paths may be used beside the best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multipath {
    pub(crate) most: usize,
    pub(crate) relax: bool,
}

/// Chooses; `None` without candidates.
pub(crate) fn decide(candidates: &[Candidate<'_>], multipath: Multipath) -> Option<Decision> {
    let mut race = Race { candidates, left: (0..candidates.len()).collect(), step: Step::OnlyPath };
    race.keep_least(Step::LocalRoute, |c| c.origin != PathOrigin::Local);
    race.keep_least(Step::LocalPref, |c| std::cmp::Reverse(c.attributes.preference()));
    race.keep_least(Step::AsPathLength, |c| c.attributes.as_path.length());
    race.keep_least(Step::Origin, |c| c.attributes.origin);
    race.med();
    race.keep_least(Step::ExternalOverInternal, |c| c.origin == PathOrigin::Internal);
    race.keep_least(Step::IgpMetric, |c| c.metric);
    let equal = race.left.clone();
    race.keep_least(Step::RouterId, |c| c.attributes.originator_id.unwrap_or(c.router_id));
    race.keep_least(Step::ClusterListLength, |c| c.attributes.cluster_list.len());
    race.keep_least(Step::PeerAddress, |c| c.peer);
    race.keep_least(Step::PathId, |c| c.path_id);
    let best = *race.left.first()?;
    let path = &candidates.get(best)?.attributes.as_path;
    let others = equal.into_iter().filter(|at| {
        *at != best && (multipath.relax || candidates.get(*at).is_some_and(|c| c.attributes.as_path == *path))
    });
    let equal = std::iter::once(best).chain(others).take(multipath.most).collect();
    Some(Decision { best, equal, step: race.step })
}

struct Race<'a> {
    candidates: &'a [Candidate<'a>],
    left: Vec<usize>,
    step: Step,
}

impl<'a> Race<'a> {
    fn retain(&mut self, step: Step, keep: impl Fn(&Candidate<'a>) -> bool) {
        let before = self.left.len();
        self.left.retain(|at| self.candidates.get(*at).is_some_and(&keep));
        if self.left.len() < before {
            self.step = step;
        }
    }

    fn keep_least<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate<'a>) -> K) {
        if self.left.len() > 1
            && let Some(least) = self.left.iter().filter_map(|at| self.candidates.get(*at)).map(&key).min()
        {
            self.retain(step, |c| key(c) == least);
        }
    }

    /// RFC 4271 section 9.1.2.2 c: whoever is beaten by a route of the same neighbouring AS is out.
    fn med(&mut self) {
        let of = |c: &Candidate<'_>| (c.attributes.as_path.neighbor(), c.attributes.med.unwrap_or(0));
        if self.left.len() < 2 {
            return;
        }
        let mut least = BTreeMap::new();
        for (neighbor, med) in self.left.iter().filter_map(|at| self.candidates.get(*at)).map(of) {
            least.entry(neighbor).and_modify(|least: &mut u32| *least = med.min(*least)).or_insert(med);
        }
        self.retain(Step::Med, |c| {
            let (neighbor, med) = of(c);
            least.get(&neighbor) == Some(&med)
        });
    }
}
