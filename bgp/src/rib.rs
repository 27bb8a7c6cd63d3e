//! The routing information bases (RFC 4271 section 3.2), laid out for a reflector with hundreds of clients.
//!
//! ```text
//!   UPDATE ─ import ─► Table: slot per prefix, a path per peer ─ decide ─► FIB changes
//!                                   │ dirty slots
//!                                   ▼ flush
//!                      Group: peers with one export policy ─ export once, encode once ─► all its members
//! ```
//!
//! - Adj-RIB-In and Loc-RIB are one table: a prefix has a slot, a slot the paths of all peers, the best ones in front.
//! - Attributes are shared ([`Interner`]); a path costs 32 bytes.
//! - Adj-RIB-Out is kept per group, not per peer: what was sent for each slot, and which peer it came from, for that one
//!   was not sent it. A peer that falls behind has a position in the group's table instead of a queue.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::attr::{Attributes, Interner};
use crate::decision::{self, Candidate, Decision, Multipath, PathOrigin};
use crate::family::{Family, PerFamily};
use crate::nlri::Nlri;
use crate::policy::Verdict;

mod export;
mod fib;
mod group;
mod import;
mod next_hops;
mod out;
mod staged;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use export::{GroupKey, Target};
pub use fib::{FibChange, FibHop, FibRoute};
pub(crate) use group::Group;
pub(crate) use import::Import;
pub use import::Rejected;
use next_hops::Moved;
pub(crate) use next_hops::NextHops;
pub(crate) use table::{Path, Slot, Table};

use crate::msg::update_out::Bytes;

/// A peer, or ourselves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PeerId(pub(crate) u32);

impl PeerId {
    /// Whose routes are announced here.
    pub(crate) const LOCAL: PeerId = PeerId(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the tables know of a peer. It outlives the session while the peer's routes do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Source {
    pub(crate) origin: PathOrigin,
    /// A client of ours as a route reflector.
    pub(crate) client: bool,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) addr: IpAddr,
}

/// Where messages for peers go.
pub(crate) trait Sink {
    /// May it be given more, or is too much of it still unsent?
    fn room(&self, peer: PeerId) -> bool;
    fn send(&mut self, peer: PeerId, message: Bytes);
}

/// Who we are, as far as routes depend on it.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) multipath: Multipath,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(crate) own: Own,
    pub(crate) tables: PerFamily<Table>,
    pub(crate) attributes: Interner<Attributes>,
    pub(crate) next_hops: NextHops,
    pub(crate) groups: Vec<Group>,
    sources: Vec<Option<Source>>,
    fib: Interner<FibRoute>,
    /// How many prefixes' best path each peer has.
    chosen: PerFamily<Chosen>,
    /// Routes are collected and not yet chosen: we have restarted (RFC 4724 section 4.1).
    pub(crate) deferring: bool,
    /// A member of a group has something to be sent that no dirty slot leads to.
    pub(crate) pumping: bool,
}

impl Rib {
    pub(crate) fn new(own: Own, require_resolution: bool) -> Rib {
        let local = Source {
            origin: PathOrigin::Local,
            client: false,
            router_id: own.router_id,
            addr: IpAddr::V4(own.router_id),
        };
        Rib {
            own,
            tables: PerFamily::from_fn(Table::new),
            attributes: Interner::default(),
            next_hops: NextHops::new(require_resolution),
            groups: Vec::new(),
            sources: vec![Some(local)],
            fib: Interner::default(),
            chosen: PerFamily::default(),
            deferring: false,
            pumping: false,
        }
    }

    /// Tells who a peer is; before its first route.
    pub(crate) fn set_source(&mut self, peer: PeerId, source: Source) {
        if self.sources.len() <= peer.index() {
            self.sources.resize(peer.index() + 1, None);
        }
        let changed = self.sources[peer.index()].is_some_and(|old| old != source);
        self.sources[peer.index()] = Some(source);
        if changed {
            // Stale routes of the last session are compared anew.
            for family in Family::ALL {
                self.tables[family].touch_source(peer);
            }
        }
    }

    pub(crate) fn source(&self, peer: PeerId) -> Option<&Source> {
        self.sources.get(peer.index())?.as_ref()
    }

    /// Takes a route in, in place of the one the peer announced before. False: the peer has too many paths to it.
    pub(crate) fn insert(
        &mut self,
        peer: PeerId,
        nlri: Nlri,
        received: &Arc<Attributes>,
        outcome: Result<Arc<Attributes>, Rejected>,
    ) -> bool {
        if self.tables[Family::of(&nlri.net)].is_full(peer, &nlri) {
            return false;
        }
        if let Ok(accepted) = &outcome {
            self.next_hops.retain(accepted.next_hop.addr);
        }
        let path = Path::new(peer, nlri.path_id, Arc::clone(received), outcome);
        let old = self.tables[Family::of(&nlri.net)].insert(nlri.net, path);
        self.release(old);
        true
    }

    /// Takes a route out; false when there was none.
    pub(crate) fn withdraw(&mut self, peer: PeerId, nlri: Nlri) -> bool {
        let old = self.tables[Family::of(&nlri.net)].remove(peer, nlri);
        let found = old.is_some();
        self.release(old);
        found
    }

    fn release(&mut self, path: Option<Path>) {
        if let Some(accepted) = path.and_then(|p| p.accepted) {
            self.next_hops.release(accepted.next_hop.addr);
        }
    }

    /// Takes out all routes of a peer, or the stale ones.
    pub(crate) fn drop_routes(&mut self, peer: PeerId, family: Family, stale_only: bool) {
        let mut gone = Vec::new();
        self.tables[family].drop_source(peer, stale_only, &mut gone);
        gone.into_iter().for_each(|path| self.release(Some(path)));
    }

    /// The peer's routes stay until it has sent them again (RFC 4724 section 4.2, RFC 7313 section 4).
    pub(crate) fn mark_stale(&mut self, peer: PeerId, family: Family) {
        self.tables[family].mark_stale(peer);
    }

    /// Import policy changed: judges every route of the peer again.
    pub(crate) fn reimport(&mut self, peer: PeerId, import: &mut Import) {
        for family in Family::ALL {
            let mut accepted = 0;
            for slot in self.tables[family].slots_of(peer) {
                let Some(slot) = self.tables[family].touch(slot) else { continue };
                let net = slot.net;
                for path in slot.paths.iter_mut().filter(|p| p.source == peer) {
                    let outcome = import.judge(&net, &path.received, &self.own, &mut self.attributes);
                    if let Ok(accepted) = &outcome {
                        self.next_hops.retain(accepted.next_hop.addr);
                    }
                    accepted += u32::from(outcome.is_ok());
                    if let Some(old) = path.set_outcome(outcome) {
                        self.next_hops.release(old.next_hop.addr);
                    }
                }
            }
            self.tables[family].set_accepted(peer, accepted);
        }
    }

    /// How many prefixes' best path is this peer's.
    pub(crate) fn chosen(&self, peer: PeerId, family: Family) -> u32 {
        self.chosen[family].0.get(peer.index()).copied().unwrap_or(0)
    }

    /// What forwarding was told last: every prefix that it forwards by a learned route, in no order.
    pub(crate) fn fib(&self) -> impl Iterator<Item = (IpNet, &Arc<FibRoute>)> {
        let slots = self.tables.iter().flat_map(|(_, table)| table.slots());
        slots.filter_map(|slot| Some((slot.net, slot.fib.as_ref()?)))
    }

    /// Anything to do for [`flush`](Self::flush)?
    pub(crate) fn is_dirty(&self) -> bool {
        !self.deferring
            && (self.pumping || self.tables.iter().any(|(_, t)| t.is_dirty()) || self.next_hops.changed())
    }

    /// Chooses again where something changed, tells the FIB, and sends what peers should know. The result: peers that
    /// are so far behind that they hold up memory.
    pub(crate) fn flush(&mut self, sink: &mut impl Sink, fib: &mut Vec<FibChange>) -> Vec<PeerId> {
        if self.deferring {
            return Vec::new();
        }
        match self.next_hops.take_changed() {
            Moved::Nothing => {}
            Moved::These(hops) => {
                Family::ALL.into_iter().for_each(|family| self.tables[family].touch_hops(&hops));
            }
            Moved::Everything => Family::ALL.into_iter().for_each(|family| self.tables[family].touch_all()),
        }
        for family in Family::ALL {
            let dirty = self.tables[family].take_dirty();
            let mut memo = fib::Memo::default();
            for slot in &dirty {
                self.decide(family, *slot, &mut memo, fib);
            }
            let table = &self.tables[family];
            for group in self.groups.iter_mut().filter(|g| g.key.families[family]) {
                group.update(table, &dirty, &self.sources, &self.own, &mut self.attributes, sink);
            }
            self.tables[family].bury(&dirty);
        }
        self.pumping = false;
        self.pump(sink);
        self.recycle()
    }

    /// Gives back the memory of encoded tables; they are encoded again when somebody needs them.
    pub(crate) fn forget_chunks(&mut self) {
        for group in &mut self.groups {
            Family::ALL.into_iter().for_each(|family| group.out[family].forget_chunks());
        }
    }

    /// Sends to those who are behind as much as they take.
    fn pump(&mut self, sink: &mut impl Sink) {
        for group in &mut self.groups {
            for family in group.key.families.set() {
                group.pump(&self.tables[family], sink);
            }
        }
    }

    /// Gives slots of vanished prefixes back once nobody has to be told of them any more.
    fn recycle(&mut self) -> Vec<PeerId> {
        let mut laggards = Vec::new();
        for family in Family::ALL {
            let behind = self.groups.iter().flat_map(|g| g.behind(family));
            match self.tables[family].buried() {
                0 => {}
                count if count > table::MOST_BURIED => laggards.extend(behind),
                _ => {
                    if behind.count() == 0 {
                        self.tables[family].recycle();
                    }
                }
            }
        }
        laggards
    }

    fn decide(&mut self, family: Family, slot: u32, memo: &mut fib::Memo, changes: &mut Vec<FibChange>) {
        let Some(slot) = self.tables[family].slot_mut(slot) else { return };
        let equal = match slot.paths.as_slice() {
            [] => 0,
            [only] => u16::from(self.next_hops.usable(only).is_some()),
            paths => {
                let (at, candidates) = candidates(paths, &self.sources, &self.next_hops);
                match decision::decide(&candidates, self.own.multipath) {
                    None => 0,
                    Some(Decision { equal, .. }) => {
                        let order: Vec<usize> = equal.iter().filter_map(|i| at.get(*i).copied()).collect();
                        slot.put_first(&order);
                        u16::try_from(order.len()).unwrap_or(u16::MAX)
                    }
                }
            }
        };
        slot.equal = equal;
        let chosen = slot.best().map_or(PeerId::LOCAL, |(path, _)| path.source);
        if chosen != slot.chosen() {
            self.chosen[family].count(slot.chosen(), chosen);
            slot.choose(chosen);
        }
        let route = memo.route(slot, &self.sources, &mut self.fib);
        if !same(&route, &slot.fib) {
            let before = std::mem::replace(&mut slot.fib, route.clone());
            changes.push(FibChange { net: slot.net, before, route });
        }
    }

    /// The decision about a prefix once more, for those who ask why.
    pub(crate) fn explain(&self, slot: &Slot) -> Option<decision::Step> {
        let (_, candidates) = candidates(&slot.paths, &self.sources, &self.next_hops);
        decision::decide(&candidates, self.own.multipath).map(|d| d.step)
    }

    /// Makes a peer a member of the group with this key. It is sent the whole table, then End-of-RIB where `end` says
    /// so.
    pub(crate) fn join(&mut self, peer: PeerId, key: GroupKey, end: bool) {
        let at = self.groups.iter().position(|g| g.key == key).unwrap_or_else(|| {
            let mut group = Group::new(key);
            for family in group.key.families.set() {
                group.fill(&self.tables[family], &self.sources, &self.own, &mut self.attributes);
            }
            self.groups.push(group);
            self.groups.len() - 1
        });
        self.groups[at].join(peer, end);
        self.pumping = true;
    }

    /// Takes a peer out of its group.
    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.groups.iter_mut().for_each(|group| group.leave(peer));
        self.groups.retain(|group| !group.members.is_empty());
    }

    /// Export policy changed: the peer moves to another group and is told what differs.
    pub(crate) fn regroup(&mut self, peer: PeerId, key: GroupKey) {
        let Some(old) = self.groups.iter().position(|g| g.has(peer)) else { return };
        if self.groups[old].key == key {
            return;
        }
        let told: PerFamily<Vec<u32>> = PerFamily::from_fn(|family| self.groups[old].told(peer, family));
        self.leave(peer);
        self.join(peer, key, false);
        if let Some(group) = self.groups.iter_mut().find(|g| g.has(peer)) {
            for family in Family::ALL {
                group.missed(peer, family, &told[family]);
            }
        }
    }

    /// A peer asks for a family again (RFC 2918); `borders`: it knows where the answer begins and ends (RFC 7313).
    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family, borders: bool) {
        for group in self.groups.iter_mut().filter(|g| g.key.families[family]) {
            self.pumping |= group.refresh(peer, family, borders);
        }
    }
}

/// Is it the same route? They are shared, so a look at the pointers mostly tells.
fn same(a: &Option<Arc<FibRoute>>, b: &Option<Arc<FibRoute>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

/// Best paths, counted by whose they are.
#[derive(Default, Debug)]
struct Chosen(Vec<u32>);

impl Chosen {
    fn count(&mut self, before: PeerId, now: PeerId) {
        if self.0.len() <= now.index() {
            self.0.resize(now.index() + 1, 0);
        }
        self.0[now.index()] += 1;
        if let Some(count) = self.0.get_mut(before.index()) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The paths that may be chosen, and their places.
fn candidates<'a>(
    paths: &'a [Path],
    sources: &[Option<Source>],
    next_hops: &NextHops,
) -> (Vec<usize>, Vec<Candidate<'a>>) {
    let candidate = |path: &'a Path| {
        let (attributes, metric) = next_hops.usable(path)?;
        let source = sources.get(path.source.index())?.as_ref()?;
        let (origin, router_id, peer) = (source.origin, source.router_id, source.addr);
        Some(Candidate { attributes, origin, router_id, peer, path_id: path.path_id, metric })
    };
    paths.iter().enumerate().filter_map(|(at, path)| Some((at, candidate(path)?))).unzip()
}

/// What became of attributes on the way out, by what they were, whose, and what policy says.
#[derive(Default, Debug)]
pub(crate) struct Exports {
    known: HashMap<(usize, PeerId, Verdict), Exported>,
    /// Routes that should have been sent and cannot be.
    unsendable: u64,
}

/// What is sent of a route.
#[derive(Clone, Debug)]
enum Exported {
    As(Arc<Attributes>),
    /// Nothing, as the rules have it.
    Nothing,
    /// Nothing: its attributes leave no room in a message, or it has no next hop the peer could use.
    Unsendable,
}

/// A route as a peer was sent it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sent {
    pub(crate) attributes: Arc<Attributes>,
    /// Where it came from; that one was not sent it.
    pub(crate) source: PeerId,
}

/// A prefix with what is sent for it.
pub(crate) type Announcement<'a> = (IpNet, &'a Sent);
