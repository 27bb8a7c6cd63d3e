//! Learned routes that are no pods': the host's kernel sends packets there.
//!
//! Changes are collected and written in bulk, a turn at a time, so that the thread looks at its sockets between; what
//! is collected is bounded by reading less ([`Kernel::is_behind`]). What the kernel refuses is tried again. Which routes
//! the kernel has is the kernel's to know: it is asked at the start and at the end.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::FibRoute;
use ipnet::IpNet;

use super::hops::NextHops;
use crate::daemon::chain;
use crate::sys::netlink::{LearnedRoute, Netlink};

/// Routes written before the thread looks at its sockets again.
const TURN: usize = 4096;
/// Changes that wait before neighbours are read no further.
const MOST: usize = 64 << 10;
/// How soon a refused change is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A route as it is to be; none = there is to be none.
type Wanted = Option<Arc<FibRoute>>;

/// The routes, as they are to be.
#[derive(Default)]
pub(super) struct Kernel {
    pending: HashMap<IpNet, Wanted>,
    /// Refused, to be tried again.
    refused: HashMap<IpNet, Wanted>,
    again: Option<Instant>,
    /// There from before, and not learned again yet.
    stale: HashSet<IpNet>,
}

impl Kernel {
    /// Takes note of what an earlier process left in the kernel.
    pub(super) fn take_up(&mut self) {
        match Netlink::open().and_then(|mut nl| nl.learned()) {
            Ok(there) => self.stale.extend(there),
            Err(err) => tracing::warn!(err = %chain(&err), "routes of before stay in the kernel"),
        }
    }

    /// A route changes. One that was never there may be told to go.
    pub(super) fn set(&mut self, net: IpNet, route: Wanted) {
        self.stale.remove(&net);
        self.refused.remove(&net);
        self.pending.insert(net, route);
    }

    /// What was there before and was not learned again is to go.
    pub(super) fn sift(&mut self) {
        self.pending.extend(self.stale.drain().map(|net| (net, None)));
        self.stale = HashSet::new();
    }

    /// Does so much wait that nothing more should be learned?
    pub(super) fn is_behind(&self) -> bool {
        self.pending.len() >= MOST
    }

    /// Changes that the kernel does not have yet.
    pub(super) fn waiting(&self) -> u64 {
        (self.pending.len() + self.refused.len()) as u64
    }

    /// All of it is to go, now.
    pub(super) fn clear(&mut self) {
        let done = Netlink::open().and_then(|mut nl| {
            let gone = |dst| LearnedRoute { dst, hops: [].into() };
            let all: Vec<LearnedRoute> = nl.learned()?.into_iter().map(gone).collect();
            nl.set_learned(&all)
        });
        match done {
            Ok(refused) => {
                if let Some((_, err)) = refused.first() {
                    tracing::warn!(%err, count = refused.len(), "learned routes stay in the kernel");
                }
            }
            Err(err) => tracing::warn!(err = %chain(&err), "learned routes stay in the kernel"),
        }
        *self = Kernel::default();
    }

    /// When [`Kernel::flush`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.pending.is_empty() { self.again } else { Some(Instant::now()) }
    }

    /// Writes a turn's worth of what is pending, and tells `hops` of it.
    pub(super) fn flush(&mut self, hops: &mut NextHops) {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            self.pending.extend(self.refused.drain());
        }
        if self.pending.is_empty() {
            return;
        }
        let turn: Vec<IpNet> = self.pending.keys().take(TURN).copied().collect();
        let turn: Vec<(IpNet, Wanted)> =
            turn.into_iter().filter_map(|net| Some((net, self.pending.remove(&net)?))).collect();
        if self.pending.is_empty() && self.pending.capacity() > MOST {
            // A table that was large once gives its memory back.
            self.pending = HashMap::new();
        }
        let mut known = Known::default();
        let routes: Vec<LearnedRoute> = turn
            .iter()
            .map(|(net, route)| LearnedRoute { dst: *net, hops: known.hops(route.as_ref(), hops) })
            .collect();
        match Netlink::open().and_then(|mut nl| nl.set_learned(&routes)) {
            Ok(refused) => self.take_back(&turn, &routes, refused),
            Err(err) => {
                tracing::error!(err = %chain(&err), "write learned routes to the kernel");
                turn.iter().for_each(|(net, route)| self.refuse(*net, route.clone()));
            }
        }
        turn.iter().for_each(|(net, _)| hops.written(net));
    }

    /// What was refused, and what has no way yet, is tried again.
    fn take_back(
        &mut self,
        turn: &[(IpNet, Wanted)],
        written: &[LearnedRoute],
        refused: Vec<(usize, std::io::Error)>,
    ) {
        for (at, err) in refused {
            if let Some((net, route)) = turn.get(at) {
                tracing::debug!(%net, %err, "the kernel refuses a learned route");
                self.refuse(*net, route.clone());
            }
        }
        for ((net, route), _) in
            turn.iter().zip(written).filter(|((_, r), w)| r.is_some() && w.hops.is_empty())
        {
            self.refuse(*net, route.clone());
        }
    }

    fn refuse(&mut self, net: IpNet, route: Wanted) {
        self.refused.insert(net, route);
        self.again.get_or_insert_with(|| Instant::now() + RETRY);
    }
}

/// The last route looked at: neighbouring prefixes mostly have the same.
#[derive(Default)]
struct Known {
    route: Option<Arc<FibRoute>>,
    hops: Arc<[(IpAddr, u32)]>,
}

impl Known {
    /// Gateways and links of a route.
    fn hops(&mut self, route: Option<&Arc<FibRoute>>, hops: &NextHops) -> Arc<[(IpAddr, u32)]> {
        let Some(route) = route else { return Arc::default() };
        if self.route.as_ref().is_some_and(|known| Arc::ptr_eq(known, route)) {
            return Arc::clone(&self.hops);
        }
        let ways = route.hops.iter().filter_map(|hop| hops.way(hop.addr));
        let mut found: Vec<(IpAddr, u32)> = ways.map(|way| (way.via, way.oif)).collect();
        found.sort_unstable();
        found.dedup();
        (self.route, self.hops) = (Some(Arc::clone(route)), found.into());
        Arc::clone(&self.hops)
    }
}
