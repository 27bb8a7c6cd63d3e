//! Learned routes that are no pods': the host's kernel sends packets there.
//!
//! Changes are collected and written in bulk. A next hop that is not on a link of ours is looked up in the kernel's own
//! routes. What the kernel refuses (a link that is down) is tried again.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::daemon::chain;
use crate::sys::netlink::{LearnedRoute, Netlink, NetlinkError};

/// Routes written before the thread looks at its sockets again.
const TURN: usize = 8192;
/// How soon a refused route is tried again.
const RETRY: Duration = Duration::from_secs(5);

type Hops = Box<[IpAddr]>;

/// The routes, as they are to be.
#[derive(Default)]
pub(super) struct Kernel {
    /// To be written; none = to be removed.
    pending: HashMap<IpNet, Option<Hops>>,
    /// Refused, to be tried again.
    refused: HashMap<IpNet, Hops>,
    again: Option<Instant>,
    /// There from before, and not learned again yet.
    stale: HashSet<IpNet>,
    ours: HashSet<IpNet>,
}

impl Kernel {
    /// Takes note of what an earlier process left in the kernel.
    pub(super) fn take_up(&mut self) {
        match Netlink::open().and_then(|mut nl| nl.learned()) {
            Ok(there) => {
                self.ours.extend(there.iter().copied());
                self.stale.extend(there);
            }
            Err(err) => tracing::warn!(err = %chain(&err), "routes of before stay in the kernel"),
        }
    }

    /// A route changes.
    pub(super) fn set(&mut self, net: IpNet, hops: Option<Hops>) {
        self.stale.remove(&net);
        self.refused.remove(&net);
        if hops.is_none() && !self.ours.contains(&net) {
            self.pending.remove(&net);
            return;
        }
        self.pending.insert(net, hops);
    }

    /// What was there before and was not learned again is to go.
    pub(super) fn sift(&mut self) {
        self.pending.extend(self.stale.drain().map(|net| (net, None)));
    }

    /// All of it is to go, now.
    pub(super) fn clear(&mut self) {
        self.refused.clear();
        self.pending = self.ours.iter().map(|net| (*net, None)).collect();
        while !self.pending.is_empty() {
            let before = self.pending.len();
            self.flush();
            if self.pending.len() >= before {
                return;
            }
        }
    }

    /// When [`Kernel::flush`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.pending.is_empty() { self.again } else { Some(Instant::now()) }
    }

    /// Writes a turn's worth of what is pending.
    pub(super) fn flush(&mut self) {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            self.pending.extend(self.refused.drain().map(|(net, hops)| (net, Some(hops))));
        }
        if self.pending.is_empty() {
            return;
        }
        if let Err(err) = self.write() {
            tracing::error!(err = %chain(&err), "write learned routes to the kernel");
        }
    }

    fn write(&mut self) -> Result<(), NetlinkError> {
        let mut nl = Netlink::open()?;
        let turn: Vec<IpNet> = self.pending.keys().take(TURN).copied().collect();
        let mut ways: HashMap<IpAddr, Option<(IpAddr, u32)>> = HashMap::new();
        let mut routes = Vec::with_capacity(turn.len());
        for net in turn {
            let Some(hops) = self.pending.remove(&net) else { continue };
            let way = |hop: &IpAddr| *ways.entry(*hop).or_insert_with(|| way(&mut nl, *hop));
            match hops {
                None => {
                    self.ours.remove(&net);
                    routes.push((LearnedRoute { dst: net, hops: Vec::new() }, None));
                }
                Some(hops) => {
                    let mut known: Vec<(IpAddr, u32)> = hops.iter().filter_map(way).collect();
                    known.sort_unstable();
                    known.dedup();
                    if known.is_empty() {
                        if self.ours.remove(&net) {
                            routes.push((LearnedRoute { dst: net, hops: Vec::new() }, None));
                        }
                        self.refuse(net, hops);
                    } else {
                        self.ours.insert(net);
                        routes.push((LearnedRoute { dst: net, hops: known }, Some(hops)));
                    }
                }
            }
        }
        let plain: Vec<LearnedRoute> = routes.iter().map(|(route, _)| route.clone()).collect();
        for (at, err) in nl.set_learned(&plain)? {
            let Some((route, hops)) = routes.get_mut(at) else { continue };
            tracing::debug!(net = %route.dst, %err, "the kernel refuses a learned route");
            if let Some(hops) = hops.take() {
                self.refuse(route.dst, hops);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, net: IpNet, hops: Hops) {
        self.refused.insert(net, hops);
        self.again.get_or_insert_with(|| Instant::now() + RETRY);
    }
}

/// How the kernel reaches a next hop: itself on a link, or the gateway before it.
fn way(nl: &mut Netlink, hop: IpAddr) -> Option<(IpAddr, u32)> {
    let route = nl.route_to(hop).ok()?;
    Some((route.via.unwrap_or(hop), route.oif?))
}
