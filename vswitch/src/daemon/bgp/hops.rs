//! Next hops of learned routes: whether the kernel reaches each, and how (RFC 4271 sections 5.1.3 and 9.1.2.1).
//!
//! The kernel is asked which of its routes leads to a next hop. Where that is one learned here, its own next hops lead
//! there; a route is never the way to its own next hop, however many routes lie between: then the next shorter prefix is
//! looked for. A link without carrier leads nowhere.
//!
//! Whatever changes in the kernel's routes, addresses and links makes all next hops be looked at again, changes of
//! learned routes those inside them. Belongs to the speaker's thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::daemon::chain;
use crate::sys::netlink::{
    Groups, LEARNED, MAIN_TABLE, Monitor, Netlink, NetlinkError, Route, RouteFilter, RouteKind,
};

/// After a change in the kernel, how long others are waited for before next hops are looked at again.
const SETTLE: Duration = Duration::from_millis(2);
/// Asked again after this time when the kernel did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// How the kernel reaches a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    /// Where packets are sent on the link: the next hop itself, or the gateway before it.
    pub(super) via: IpAddr,
    /// Index of the link.
    pub(super) oif: u32,
    /// Priority of the route that leads there; the lower the better.
    pub(super) metric: u32,
}

/// A route that leads to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    net: IpNet,
    /// It was learned here.
    learned: bool,
    way: Way,
}

/// What is known of routes.
trait Routes {
    /// The one the kernel follows.
    fn followed(&mut self, to: IpAddr) -> Option<Entry>;
    /// The longest one that was not learned here.
    fn unlearned(&mut self, to: IpAddr) -> Option<Entry>;
    /// Next hops of a learned one in the kernel; none = there is no such route.
    fn learned(&self, net: &IpNet) -> Option<Vec<IpAddr>>;
}

/// The way to a next hop. `asked`: those looked at already on the way to the first. If any chain of routes leads there,
/// one that visits no next hop twice does, so none is looked at again and the work is bounded by their number.
fn way(routes: &mut impl Routes, to: IpAddr, asked: &mut HashSet<IpAddr>) -> Option<Way> {
    if !asked.insert(to) {
        return None;
    }
    let found = routes.followed(to)?;
    if !found.learned {
        return Some(found.way);
    }
    // One from before a restart is believed until it is learned again, or gone.
    let Some(hops) = routes.learned(&found.net) else { return Some(found.way) };
    if let Some(way) = hops.into_iter().find_map(|hop| way(routes, hop, asked)) {
        return Some(way);
    }
    let plain = routes.unlearned(to);
    let shortest = plain.map_or(0, |entry| entry.net.prefix_len());
    let shorter = (shortest..found.net.prefix_len()).rev();
    for net in shorter.filter_map(|length| IpNet::new(to, length).ok()) {
        let hops = routes.learned(&net.trunc()).unwrap_or_default();
        if let Some(way) = hops.into_iter().find_map(|hop| way(routes, hop, asked)) {
            return Some(way);
        }
    }
    plain.map(|entry| entry.way)
}

/// A next hop that is reached otherwise than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    pub(super) hop: IpAddr,
    pub(super) before: Option<Way>,
    pub(super) now: Option<Way>,
}

/// The next hops in use.
pub(super) struct NextHops {
    known: BTreeMap<IpAddr, Option<Way>>,
    dirty: BTreeSet<IpAddr>,
    /// The kernel's routes that were not learned here, as they are; listed only when they are needed.
    plain: Option<Vec<Route>>,
    monitor: Option<Monitor>,
    /// All of them are looked at then.
    due: Option<Instant>,
}

impl NextHops {
    /// None yet.
    pub(super) fn new() -> NextHops {
        let open = || {
            let monitor = Monitor::open(Groups::LINK.and(Groups::ADDRESS).and(Groups::ROUTE))?;
            // Old kernels take no filter: then learned routes only cost more.
            let _ = monitor.without_routes_of(LEARNED);
            Ok::<_, NetlinkError>(monitor)
        };
        let monitor = open().inspect_err(|err| {
            tracing::error!(err = %chain(err), "next hops of BGP are not looked at again when links change");
        });
        NextHops {
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            plain: None,
            monitor: monitor.ok(),
            due: None,
        }
    }

    /// What to poll for reading.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.monitor.as_ref().map(Monitor::as_raw_fd)
    }

    /// The monitor has something.
    pub(super) fn heard(&mut self, now: Instant) {
        let Some(monitor) = &mut self.monitor else { return };
        match monitor.drain(|_| ()) {
            Ok(0) => {}
            Ok(_) => {
                self.due.get_or_insert(now + SETTLE);
                self.plain = None;
            }
            Err(err) => {
                tracing::error!(%err, "changes of links and routes are not heard of any more");
                self.monitor = None;
            }
        }
    }

    /// When [`look`](Self::look) is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// A next hop came into use.
    pub(super) fn add(&mut self, hop: IpAddr) {
        self.known.insert(hop, None);
        self.dirty.insert(hop);
    }

    /// A next hop is no longer in use.
    pub(super) fn remove(&mut self, hop: IpAddr) {
        self.known.remove(&hop);
        self.dirty.remove(&hop);
    }

    /// A learned route was written to the kernel, or removed.
    pub(super) fn written(&mut self, net: &IpNet) {
        let (first, last) = (net.network(), net.broadcast());
        let inside = self.known.range((Bound::Included(first), Bound::Included(last)));
        self.dirty.extend(inside.map(|(hop, _)| *hop));
    }

    /// How a next hop is reached.
    pub(super) fn way(&self, hop: IpAddr) -> Option<Way> {
        self.known.get(&hop).copied().flatten()
    }

    /// Looks at those that may be reached otherwise; gives those that are, and those that are new. `learned`: next hops
    /// of learned routes that the kernel has.
    pub(super) fn look(
        &mut self,
        now: Instant,
        learned: impl Fn(&IpNet) -> Option<Vec<IpAddr>>,
    ) -> Vec<Moved> {
        let everything = self.due.take_if(|at| *at <= now).is_some();
        if !everything && self.dirty.is_empty() {
            return Vec::new();
        }
        let fresh = std::mem::take(&mut self.dirty);
        let asked: Vec<IpAddr> =
            if everything { self.known.keys().copied().collect() } else { fresh.iter().copied().collect() };
        // Without a monitor it may have changed unheard.
        self.plain.take_if(|_| self.monitor.is_none());
        let mut kernel = match Kernel::open(learned, &mut self.plain) {
            Ok(kernel) => kernel,
            Err(err) => {
                tracing::error!(err = %chain(&err), "ask the kernel about next hops");
                self.dirty = fresh;
                self.due = Some(now + AGAIN);
                return Vec::new();
            }
        };
        let mut moved = Vec::new();
        for hop in asked {
            let Some(known) = self.known.get_mut(&hop) else { continue };
            let found = way(&mut kernel, hop, &mut HashSet::new());
            if *known != found || fresh.contains(&hop) {
                moved.push(Moved { hop, before: *known, now: found });
                *known = found;
            }
        }
        moved
    }
}

/// The kernel's routes, asked for one look at next hops.
struct Kernel<'a, F> {
    nl: Netlink,
    learned: F,
    /// Links that lead somewhere, by index.
    links: HashMap<u32, bool>,
    plain: &'a mut Option<Vec<Route>>,
}

impl<'a, F> Kernel<'a, F> {
    fn open(learned: F, plain: &'a mut Option<Vec<Route>>) -> Result<Self, NetlinkError> {
        Ok(Kernel { nl: Netlink::open()?, learned, links: HashMap::new(), plain })
    }

    fn entry(&mut self, net: IpNet, learned: bool, (to, route): (IpAddr, &Route)) -> Option<Entry> {
        let oif = route.oif.filter(|_| route.kind == RouteKind::Unicast)?;
        let nl = &mut self.nl;
        let link = |link: crate::sys::netlink::Link| link.up && link.carrier;
        if !*self.links.entry(oif).or_insert_with(|| nl.link_by_index(oif).is_ok_and(link)) {
            return None;
        }
        let way = Way { via: route.via.unwrap_or(to), oif, metric: route.metric.unwrap_or(0) };
        Some(Entry { net, learned, way })
    }
}

impl<F: Fn(&IpNet) -> Option<Vec<IpAddr>>> Routes for Kernel<'_, F> {
    fn followed(&mut self, to: IpAddr) -> Option<Entry> {
        let route = self.nl.route_to(to).ok()?;
        let by = self.nl.entry_for(to).ok()?;
        let route = Route { metric: by.metric, ..route };
        self.entry(by.dst, by.protocol == LEARNED, (to, &route))
    }

    fn unlearned(&mut self, to: IpAddr) -> Option<Entry> {
        if self.plain.is_none() {
            let mut all = self.nl.routes(RouteFilter::MAIN).unwrap_or_default();
            all.retain(|route| route.protocol != LEARNED && route.table == MAIN_TABLE);
            *self.plain = Some(all);
        }
        let plain = self.plain.take()?;
        let leads = |route: &&Route| route.dst.contains(&to);
        let best = plain
            .iter()
            .filter(leads)
            .max_by_key(|route| (route.dst.prefix_len(), std::cmp::Reverse(route.metric.unwrap_or(0))));
        let found = best.and_then(|route| self.entry(route.dst, false, (to, route)));
        *self.plain = Some(plain);
        found
    }

    fn learned(&self, net: &IpNet) -> Option<Vec<IpAddr>> {
        (self.learned)(net)
    }
}

#[cfg(test)]
mod tests;
