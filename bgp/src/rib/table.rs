//! One family's prefixes with all their paths: Adj-RIB-In of every peer, and Loc-RIB.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{FibRoute, PeerId, Rejected};
use crate::attr::Attributes;
use crate::family::Family;
use crate::nlri::Nlri;

/// Slots of vanished prefixes that may wait for peers that are behind.
pub(crate) const MOST_BURIED: usize = 1 << 20;

/// Paths a peer may have to one prefix (ADD-PATH). More say nothing new, and would make each change of the prefix cost
/// as much as a table.
const MOST_PATHS: usize = 64;

/// A route of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) source: PeerId,
    pub(crate) path_id: u32,
    /// As received, for another import policy.
    pub(crate) received: Arc<Attributes>,
    /// As it takes part in the decision.
    pub(crate) accepted: Option<Arc<Attributes>>,
    pub(crate) rejected: Option<Rejected>,
    /// From before the peer's restart.
    pub(crate) stale: bool,
}

impl Path {
    pub(crate) fn new(
        source: PeerId,
        path_id: u32,
        received: Arc<Attributes>,
        outcome: Result<Arc<Attributes>, Rejected>,
    ) -> Path {
        let mut path = Path { source, path_id, received, accepted: None, rejected: None, stale: false };
        path.set_outcome(outcome);
        path
    }

    /// Sets what import made of it; gives back what it made before.
    pub(crate) fn set_outcome(
        &mut self,
        outcome: Result<Arc<Attributes>, Rejected>,
    ) -> Option<Arc<Attributes>> {
        let before = self.accepted.take();
        match outcome {
            Ok(accepted) => (self.accepted, self.rejected) = (Some(accepted), None),
            Err(reason) => self.rejected = Some(reason),
        }
        before
    }
}

/// A prefix.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) net: IpNet,
    /// The first `equal` ones are used, the best in front.
    pub(crate) paths: Vec<Path>,
    pub(crate) equal: u16,
    /// Number of the peer whose path was the best in the last flush; 0 = none, or our own.
    chosen: u16,
    /// Waits for the next flush.
    dirty: bool,
    /// The prefix is gone and the slot nobody's.
    free: bool,
    /// What the FIB was told.
    pub(crate) fib: Option<Arc<FibRoute>>,
}

impl Slot {
    /// The best path with its attributes.
    pub(crate) fn best(&self) -> Option<(&Path, &Arc<Attributes>)> {
        let best = self.paths.first().filter(|_| self.equal > 0)?;
        best.accepted.as_ref().map(|attributes| (best, attributes))
    }

    /// Whose path was the best in the last flush; ours stands for none as well.
    pub(crate) fn chosen(&self) -> PeerId {
        PeerId(u32::from(self.chosen))
    }

    /// Notes it. Peers beyond the 65,535th are not told apart: they share a count.
    pub(crate) fn choose(&mut self, peer: PeerId) {
        self.chosen = u16::try_from(peer.0).unwrap_or(u16::MAX);
    }

    /// Puts the paths at these places in front.
    pub(crate) fn put_first(&mut self, order: &[usize]) {
        let rank = |at: usize| order.iter().position(|o| *o == at).unwrap_or(usize::MAX);
        let mut ranked: Vec<(usize, Path)> = self.paths.drain(..).enumerate().collect();
        ranked.sort_by_key(|(at, _)| rank(*at));
        self.paths.extend(ranked.into_iter().map(|(_, path)| path));
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) family: Family,
    slots: Vec<Slot>,
    index: HashMap<IpNet, u32>,
    dirty: Vec<u32>,
    free: Vec<u32>,
    buried: Vec<u32>,
    /// What each peer has here, by its number.
    by_source: Vec<Share>,
}

/// What is one peer's.
#[derive(Default, Debug)]
struct Share {
    /// Slots with a path of it.
    slots: HashSet<u32>,
    /// How many paths those are.
    paths: u32,
    /// How many of them import took.
    accepted: u32,
}

impl Table {
    pub(crate) fn new(family: Family) -> Table {
        Table {
            family,
            slots: Vec::new(),
            index: HashMap::new(),
            dirty: Vec::new(),
            free: Vec::new(),
            buried: Vec::new(),
            by_source: Vec::new(),
        }
    }

    /// How many slots there are, free ones included.
    pub(crate) fn len(&self) -> u32 {
        // A slot has more bytes than 2^32 of them would leave room for.
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize)
    }

    pub(crate) fn slot_mut(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)
    }

    /// The slot of this prefix.
    pub(crate) fn find(&self, net: &IpNet) -> Option<&Slot> {
        self.index.get(net).and_then(|at| self.slot(*at))
    }

    /// Every slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Every prefix that has a path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.paths.is_empty())
    }

    /// The slot, which will be looked at in the next flush.
    pub(crate) fn touch(&mut self, at: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(at as usize)?;
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(at);
        }
        Some(slot)
    }

    pub(crate) fn touch_all(&mut self) {
        for at in 0..self.len() {
            if self.slot(at).is_some_and(|slot| !slot.free) {
                self.touch(at);
            }
        }
    }

    pub(crate) fn touch_source(&mut self, peer: PeerId) {
        for at in self.slots_of(peer) {
            self.touch(at);
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What is to be looked at, each once.
    pub(crate) fn take_dirty(&mut self) -> Vec<u32> {
        let dirty = std::mem::take(&mut self.dirty);
        for at in &dirty {
            if let Some(slot) = self.slots.get_mut(*at as usize) {
                slot.dirty = false;
            }
        }
        dirty
    }

    fn allocate(&mut self, net: IpNet) -> u32 {
        let paths = Vec::with_capacity(1);
        let slot = Slot { net, paths, equal: 0, chosen: 0, dirty: false, free: false, fib: None };
        match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.len() - 1
            }
        }
    }

    /// Has a peer as many paths to a prefix as it may, so that another one has no place?
    pub(crate) fn is_full(&self, peer: PeerId, nlri: &Nlri) -> bool {
        // Only with ADD-PATH are there several.
        nlri.path_id != 0
            && self.find(&nlri.net).is_some_and(|slot| {
                let mut own = slot.paths.iter().filter(|p| p.source == peer);
                own.clone().count() >= MOST_PATHS && own.all(|p| p.path_id != nlri.path_id)
            })
    }

    /// Slots whose paths have one of these next hops are looked at.
    pub(crate) fn touch_hops(&mut self, hops: &HashSet<IpAddr>) {
        // Neighbouring slots mostly share their attributes.
        let mut known: Option<(*const Attributes, bool)> = None;
        let mut is = |attributes: &Arc<Attributes>| match known {
            Some((at, is)) if std::ptr::eq(at, Arc::as_ptr(attributes)) => is,
            _ => {
                let is = hops.contains(&attributes.next_hop.addr);
                known = Some((Arc::as_ptr(attributes), is));
                is
            }
        };
        for at in 0..self.len() {
            if self.slot(at).is_some_and(|slot| slot.paths.iter().flat_map(|p| &p.accepted).any(&mut is)) {
                self.touch(at);
            }
        }
    }

    /// Puts a path in; gives back the one in whose place it is.
    pub(crate) fn insert(&mut self, net: IpNet, path: Path) -> Option<Path> {
        let (peer, path_id, taken) = (path.source, path.path_id, path.accepted.is_some());
        let at = match self.index.get(&net) {
            Some(at) => *at,
            None => {
                let at = self.allocate(net);
                self.index.insert(net, at);
                at
            }
        };
        let paths = &mut self.touch(at)?.paths;
        let old = match paths.iter_mut().find(|p| p.source == peer && p.path_id == path_id) {
            Some(place) => Some(std::mem::replace(place, path)),
            None => {
                paths.push(path);
                None
            }
        };
        if self.by_source.len() <= peer.index() {
            self.by_source.resize_with(peer.index() + 1, Default::default);
        }
        let share = &mut self.by_source[peer.index()];
        share.accepted += u32::from(taken);
        match &old {
            None => {
                share.slots.insert(at);
                share.paths += 1;
            }
            Some(old) => share.accepted = share.accepted.saturating_sub(u32::from(old.accepted.is_some())),
        }
        old
    }

    /// Takes a path out.
    pub(crate) fn remove(&mut self, peer: PeerId, nlri: Nlri) -> Option<Path> {
        let at = *self.index.get(&nlri.net)?;
        let paths = &self.slot(at)?.paths;
        let place = paths.iter().position(|p| p.source == peer && p.path_id == nlri.path_id)?;
        let slot = self.touch(at)?;
        let old = slot.paths.swap_remove(place);
        // Whatever stands in front now has not been chosen.
        slot.equal = 0;
        let last = !slot.paths.iter().any(|p| p.source == peer);
        if let Some(share) = self.by_source.get_mut(peer.index()) {
            share.paths = share.paths.saturating_sub(1);
            share.accepted = share.accepted.saturating_sub(u32::from(old.accepted.is_some()));
            if last {
                share.slots.remove(&at);
            }
        }
        Some(old)
    }

    /// Takes out all paths of a peer, or the stale ones.
    pub(crate) fn drop_source(&mut self, peer: PeerId, stale_only: bool, gone: &mut Vec<Path>) {
        for at in self.slots_of(peer) {
            let Some(slot) = self.slot(at) else { continue };
            let mine = |p: &&Path| p.source == peer && (p.stale || !stale_only);
            let doomed: Vec<Nlri> =
                slot.paths.iter().filter(mine).map(|p| Nlri { net: slot.net, path_id: p.path_id }).collect();
            gone.extend(doomed.into_iter().filter_map(|nlri| self.remove(peer, nlri)));
        }
        if !stale_only && let Some(share) = self.by_source.get_mut(peer.index()) {
            // A set that was large once gives its memory back.
            share.slots = HashSet::new();
        }
    }

    pub(crate) fn mark_stale(&mut self, peer: PeerId) {
        for at in self.slots_of(peer) {
            let paths = self.slot_mut(at).map(|slot| &mut slot.paths);
            paths.into_iter().flatten().filter(|p| p.source == peer).for_each(|p| p.stale = true);
        }
    }

    /// Slots with a path of this peer, in order.
    pub(crate) fn slots_of(&self, peer: PeerId) -> Vec<u32> {
        let slots = self.by_source.get(peer.index()).map(|share| &share.slots);
        let mut slots: Vec<u32> = slots.into_iter().flatten().copied().collect();
        slots.sort_unstable();
        slots
    }

    /// How many paths a peer has here.
    pub(crate) fn count(&self, peer: PeerId) -> u32 {
        self.by_source.get(peer.index()).map_or(0, |share| share.paths)
    }

    /// How many of them import took.
    pub(crate) fn accepted(&self, peer: PeerId) -> u32 {
        self.by_source.get(peer.index()).map_or(0, |share| share.accepted)
    }

    /// Import was done again for all of a peer's paths.
    pub(crate) fn set_accepted(&mut self, peer: PeerId, count: u32) {
        if let Some(share) = self.by_source.get_mut(peer.index()) {
            share.accepted = count;
        }
    }

    /// Prefixes without a path give up their place in the index. Their slots stay until nobody is behind, for the
    /// withdrawal may still have to be sent.
    pub(crate) fn bury(&mut self, slots: &[u32]) {
        for at in slots {
            let Some(slot) = self.slots.get_mut(*at as usize) else { continue };
            if slot.paths.is_empty() && !slot.free && !slot.dirty {
                slot.free = true;
                self.index.remove(&slot.net);
                self.buried.push(*at);
            }
        }
    }

    pub(crate) fn buried(&self) -> usize {
        self.buried.len()
    }

    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.buried);
    }
}
