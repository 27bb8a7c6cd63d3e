//! The table: finding a flow, what a packet does to it, and its verdict.
//!
//! Shared by all workers. Nothing here claims an entry (that is `open.rs`) or waits.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use super::entry::{Control, ENTRY_WORDS, Entry, Epoch, Rules};
use super::index::{Home, TAG_WORDS, Tags, WAYS};
use super::layout::{Geometry, Layout};
use super::near::Near;
use super::quota::{self, Held, Limits, Opener};
use super::state::State;
use super::timeouts::{Tick, Timeouts};
use super::transport::{self, Next, Transport};
use super::tuple::{Direction, Key, Tuple};
use crate::flow::HashKey;

/// What a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its size.
    pub geometry: Geometry,
    /// When flows expire.
    pub timeouts: Timeouts,
    /// What one port may hold.
    pub port_limits: Limits,
    /// What one peer may hold: all pods of a node together.
    pub peer_limits: Limits,
    /// Lets the middle of a TCP or SCTP connection open a flow. For the time after all state was lost.
    pub pickup: bool,
}

impl Config {
    /// Defaults for a table of that size: 4,096 half-open flows a port, four times that a peer, and a quarter of the
    /// capacity in all for each.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let total = (geometry.capacity / 4).max(1);
        Self {
            geometry,
            timeouts: Timeouts::default(),
            port_limits: Limits { half_open: 4096, total },
            peer_limits: Limits { half_open: 4 * 4096, total },
            pickup: false,
        }
    }
}

/// An entry as a worker remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    /// Which entry.
    pub index: u32,
    /// Which use of it.
    pub generation: u32,
}

/// A flow that is in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its entry.
    pub slot: Slot,
    /// Which way the packet goes in it.
    pub direction: Direction,
    /// When it was judged last.
    pub epoch: Epoch,
}

/// What a packet of a remembered flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It belongs to the flow.
    Pass,
    /// It does not fit the flow's state.
    Invalid,
    /// It starts a new flow in place of this finished one: judge it, then open it.
    Reopen,
    /// The flow was revoked.
    Revoked,
    /// The entry is no longer this flow's.
    Gone,
}

/// What a packet is to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// It belongs to a flow. When that was judged in another epoch, it must be judged again before the packet passes.
    Known(Found),
    /// It may open a flow: judge it, then open it.
    New,
    /// It belongs to no flow and cannot open one, or does not fit its flow's state.
    Invalid,
    /// Its flow was revoked in this epoch.
    Revoked,
}

/// The table of flows. See the module's header.
pub struct Table<M> {
    pub(super) memory: M,
    pub(super) layout: Layout,
    pub(super) secret: HashKey,
    pub(super) config: Config,
}

impl<M> std::fmt::Debug for Table<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<M: Deref<Target = [AtomicU64]>> Table<M> {
    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a packet is to the table, and the step it makes when it belongs to a flow. `epoch` is the caller's.
    #[inline]
    pub fn track(&self, tuple: &Tuple, transport: Transport, epoch: Epoch, now: Tick) -> Tracked {
        self.track_near(self.near(tuple), tuple, transport, epoch, now)
    }

    /// [`track`](Self::track) for a caller that has asked where the tuple's flow would stand, and perhaps looked.
    #[inline]
    pub fn track_near(
        &self,
        near: Near,
        tuple: &Tuple,
        transport: Transport,
        epoch: Epoch,
        now: Tick,
    ) -> Tracked {
        let new = || match transport::first(tuple, transport, self.config.pickup) {
            Some(_) => Tracked::New,
            None => Tracked::Invalid,
        };
        let (key, from_b) = tuple.key();
        let pointed = self.live_at(near.first, &key, now);
        let Some((slot, control)) = pointed.or_else(|| self.find(&key, near.home, now)) else { return new() };
        let found = found(slot, control, from_b);
        match self.packet(slot, found.direction, transport, now) {
            Step::Pass => Tracked::Known(found),
            Step::Invalid => Tracked::Invalid,
            Step::Revoked if !epoch.newer(found.epoch) => Tracked::Revoked,
            Step::Reopen | Step::Revoked | Step::Gone => new(),
        }
    }

    /// The flow of `tuple`, if there is one; changes nothing.
    #[inline]
    pub fn lookup(&self, tuple: &Tuple, now: Tick) -> Option<Found> {
        let (key, from_b) = tuple.key();
        let (slot, control) = self.find(&key, self.home(&key), now)?;
        Some(found(slot, control, from_b))
    }

    /// The step a packet of a remembered flow makes.
    #[inline]
    pub fn packet(&self, slot: Slot, direction: Direction, transport: Transport, now: Tick) -> Step {
        let Some(entry) = self.entry(slot.index) else { return Step::Gone };
        loop {
            let control = entry.control();
            let Some(state) = self.alive(entry, control, now) else { return Step::Gone };
            if control.generation() != slot.generation {
                return Step::Gone;
            }
            if control.is_pending() {
                // Another worker is about to make it live; it carries that worker's verdict already.
                return Step::Pass;
            }
            match transport::next(state, direction, transport) {
                Next::Stay => {
                    entry.touch(now);
                    return Step::Pass;
                }
                Next::Go(next) => {
                    if self.turn(entry, control, state, control.with_state(next), next) {
                        entry.touch(now);
                        return Step::Pass;
                    }
                }
                Next::Reopen => return Step::Reopen,
                Next::Invalid if state == State::Revoked => return Step::Revoked,
                Next::Invalid => return Step::Invalid,
            }
        }
    }

    /// The flow was judged again, in `epoch`, and may go on. False when the entry is no longer that flow's or was
    /// revoked. A verdict of an older snapshot than the entry's changes nothing.
    pub fn judged(&self, slot: Slot, epoch: Epoch, rules: Rules) -> bool {
        self.update(slot, |control, state| match state {
            State::Revoked => None,
            _ if epoch.newer(control.epoch()) => Some((control.with_epoch(epoch), state)),
            _ => Some((control, state)),
        })
        .inspect(|entry| {
            if entry.control().epoch() == epoch {
                entry.set_rules(rules);
            }
        })
        .is_some()
    }

    /// The flow was judged again, in `epoch`, and must end: both directions are refused from now on. False when the
    /// entry is no longer that flow's.
    ///
    /// The entry stays as a tombstone, so that late packets are told from packets that never had a flow, and so that
    /// the other direction cannot go on as a flow of its own. It ends after [`Timeouts::revoked`], with a packet that
    /// opens a connection (which is judged), or for a worker that has a newer epoch.
    pub fn revoke(&self, slot: Slot, epoch: Epoch, now: Tick) -> bool {
        self.update(slot, |control, _| {
            let epoch = if epoch.newer(control.epoch()) { epoch } else { control.epoch() };
            Some((control.with_epoch(epoch).with_state(State::Revoked), State::Revoked))
        })
        .inspect(|entry| entry.touch(now))
        .is_some()
    }

    /// The flow that an ICMP error for `receiver` is about, `quoted` being the packet it quotes: only a live flow in
    /// which the receiver could have sent that packet. Whether a reported MTU is sound is the caller's to judge
    /// ([`MTU_FLOOR_V4`](super::MTU_FLOOR_V4), [`MTU_FLOOR_V6`](super::MTU_FLOOR_V6)).
    pub fn related(&self, quoted: &Tuple, receiver: u128, now: Tick) -> Option<Found> {
        if quoted.src != receiver {
            return None;
        }
        let (key, from_b) = quoted.key();
        let (slot, control) = self.find(&key, self.home(&key), now)?;
        let found = found(slot, control, from_b);
        let state = control.state()?;
        let spoke = found.direction == Direction::Original || state.two_way();
        (spoke && state != State::Revoked).then_some(found)
    }

    /// What `opener` holds; `None` for a port the table has no row for.
    pub fn held(&self, opener: Opener) -> Option<Held> {
        self.row(opener).map(quota::held)
    }

    /// Entries in use, expired ones that were not swept yet included.
    pub fn len(&self) -> u64 {
        self.memory[self.layout.rows()].iter().map(|row| u64::from(quota::held(row).total)).sum()
    }

    /// No entry is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries there are. More than the rated capacity, which leaves room for uneven buckets.
    pub fn slots(&self) -> u32 {
        self.layout.slots()
    }

    pub(super) fn limits(&self, opener: Opener) -> Limits {
        match opener {
            Opener::Port(_) => self.config.port_limits,
            Opener::Peer(_) => self.config.peer_limits,
        }
    }

    pub(super) fn row(&self, opener: Opener) -> Option<&AtomicU64> {
        let geometry = &self.layout.geometry;
        let row = match opener {
            Opener::Port(port) if port < geometry.ports => port,
            Opener::Port(_) => return None,
            Opener::Peer(peer) => geometry.ports + peer % geometry.peers,
        };
        self.memory.get(self.layout.row(row))
    }

    #[inline]
    pub(super) fn home(&self, key: &Key) -> Home {
        Home::new(key.hash(&self.secret), self.layout.buckets)
    }

    #[inline]
    pub(super) fn tags(&self, bucket: u32) -> Tags<'_> {
        let at = self.layout.tags_of(bucket);
        Tags(self.memory[at..].first_chunk::<TAG_WORDS>().expect("the memory holds every bucket"))
    }

    /// The entry at `index`, which may come from outside.
    #[inline]
    pub(super) fn entry(&self, index: u32) -> Option<Entry<'_>> {
        let at = (index < self.layout.slots()).then(|| self.layout.entry(index))?;
        self.memory.get(at..)?.first_chunk::<ENTRY_WORDS>().map(Entry)
    }

    /// The state of a flow that is pending or live and not expired.
    #[inline]
    pub(super) fn alive(&self, entry: Entry<'_>, control: Control, now: Tick) -> Option<State> {
        let state = control.state()?;
        let (created, last) = entry.times();
        (!self.config.timeouts.expired(state, created, last, now)).then_some(state)
    }

    /// The ways of both buckets that carry the flow's tag, a bit each.
    #[inline]
    pub(super) fn likely(&self, home: Home) -> u32 {
        let [first, second] = home.buckets;
        self.tags(first).matches(home.tag) | self.tags(second).matches(home.tag) << WAYS
    }

    /// The live flow of `key`, whose home is `home`.
    #[inline]
    fn find(&self, key: &Key, home: Home, now: Tick) -> Option<(Slot, Control)> {
        let mut ways = self.likely(home);
        while ways != 0 {
            let index = home.entry(ways.trailing_zeros());
            ways &= ways - 1;
            let found = self.live_at(index, key, now);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The live flow in the entry at `index`, if it is that of `key`.
    #[inline]
    fn live_at(&self, index: u32, key: &Key, now: Tick) -> Option<(Slot, Control)> {
        let entry = self.entry(index)?;
        let (control, identity) = entry.identity()?;
        let live = identity.key == *key && !control.is_pending() && self.alive(entry, control, now).is_some();
        live.then(|| (Slot { index, generation: control.generation() }, control))
    }

    /// Changes the control word of a slot's entry to what `to` makes of it and of the state.
    fn update(
        &self,
        slot: Slot,
        to: impl Fn(Control, State) -> Option<(Control, State)>,
    ) -> Option<Entry<'_>> {
        let entry = self.entry(slot.index)?;
        loop {
            let control = entry.control();
            let state = control.state()?;
            if control.generation() != slot.generation || control.is_pending() {
                return None;
            }
            let (new, next) = to(control, state)?;
            if new == control || self.turn(entry, control, state, new, next) {
                return Some(entry);
            }
        }
    }

    /// Changes the control word and gives back the quota of a flow that is half-open no longer; false when another
    /// thread was first.
    fn turn(&self, entry: Entry<'_>, old: Control, state: State, new: Control, next: State) -> bool {
        // Read before the exchange: success means that the entry was this flow's all the time.
        let opener = entry.opener();
        if !entry.change(old, new) {
            return false;
        }
        if state.half_open()
            && !next.half_open()
            && let Some(row) = self.row(opener)
        {
            quota::answered(row);
        }
        true
    }
}

/// A slot as the packet sees it that was sent by end b, or a.
pub(super) fn found(slot: Slot, control: Control, from_b: bool) -> Found {
    let direction = if control.opened_by_b() == from_b { Direction::Original } else { Direction::Reply };
    Found { slot, direction, epoch: control.epoch() }
}
