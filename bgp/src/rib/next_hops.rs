//! Which next hops are reachable, and at what cost. The caller knows; we say which ones we ask about.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::Path;
use crate::attr::Attributes;

/// Next hops in use.
#[derive(Debug)]
pub(crate) struct NextHops {
    known: HashMap<IpAddr, Entry>,
    require: bool,
    /// Whose answer is another one.
    moved: Moved,
    /// Next hops that came into use or went out of it.
    asked: Vec<(IpAddr, bool)>,
}

/// Next hops about which something else is known than at the last look.
#[derive(Default, PartialEq, Debug)]
pub(crate) enum Moved {
    #[default]
    Nothing,
    These(HashSet<IpAddr>),
    Everything,
}

#[derive(Default, Debug)]
struct Entry {
    routes: usize,
    /// What the caller said last.
    answer: Option<Option<u32>>,
}

impl NextHops {
    pub(crate) fn new(require: bool) -> NextHops {
        NextHops { known: HashMap::new(), require, moved: Moved::Nothing, asked: Vec::new() }
    }

    /// One more route has this next hop.
    pub(crate) fn retain(&mut self, addr: IpAddr) {
        let entry = self.known.entry(addr).or_default();
        entry.routes += 1;
        if entry.routes == 1 {
            self.asked.push((addr, true));
        }
    }

    /// One less.
    pub(crate) fn release(&mut self, addr: IpAddr) {
        if let Some(entry) = self.known.get_mut(&addr) {
            entry.routes = entry.routes.saturating_sub(1);
            if entry.routes == 0 {
                self.known.remove(&addr);
                self.asked.push((addr, false));
            }
        }
    }

    /// The caller's answer: the metric, or unreachable. About one that is not in use it is forgotten.
    pub(crate) fn answer(&mut self, addr: IpAddr, metric: Option<u32>) {
        let before = self.metric(addr);
        if let Some(entry) = self.known.get_mut(&addr) {
            entry.answer = Some(metric);
            if before != metric {
                match &mut self.moved {
                    Moved::These(hops) => drop(hops.insert(addr)),
                    Moved::Nothing => self.moved = Moved::These(HashSet::from([addr])),
                    Moved::Everything => {}
                }
            }
        }
    }

    /// Metric to it; `None`: unreachable.
    pub(crate) fn metric(&self, addr: IpAddr) -> Option<u32> {
        let unknown = if self.require { None } else { Some(0) };
        // An unspecified one is our own: of a route announced here.
        if addr.is_unspecified() {
            return Some(0);
        }
        self.known.get(&addr).and_then(|e| e.answer).unwrap_or(unknown)
    }

    /// The attributes of a path that may be chosen, and its metric.
    pub(crate) fn usable<'a>(&self, path: &'a Path) -> Option<(&'a Attributes, u32)> {
        let attributes = path.accepted.as_deref()?;
        if path.source == super::PeerId::LOCAL {
            return Some((attributes, 0));
        }
        Some((attributes, self.metric(attributes.next_hop.addr)?))
    }

    pub(crate) fn set_require(&mut self, require: bool) {
        if require != self.require {
            self.moved = Moved::Everything;
        }
        self.require = require;
    }

    pub(crate) fn changed(&self) -> bool {
        self.moved != Moved::Nothing
    }

    pub(crate) fn take_changed(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }

    /// Next hops to be resolved (true), or no longer (false), since the last call.
    pub(crate) fn take_asked(&mut self) -> Vec<(IpAddr, bool)> {
        std::mem::take(&mut self.asked)
    }
}
