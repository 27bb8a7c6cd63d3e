//! Opening a flow: claiming an entry so that at most one lives for a flow, whoever else tries.
//!
//! A worker claims a free entry, fills it, marks it pending and sets its tag; then, and only then, it looks for other
//! entries of the same flow. Of two workers that do so at once, at least one sees the other (each wrote before it
//! read, with a full fence between). A live entry wins over a pending one; of two pending ones, that at the lower index
//! wins: its worker kills the other by compare-and-swap, or withdraws if the other became live first. Pending becomes
//! live by compare-and-swap too, so a killed worker notices, and tries again. Nobody waits for anybody.
//!
//! A full pair of buckets gives up an expired entry; else the oldest finished one; else the oldest half-open or
//! unreplied one; never an established one.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, fence};

use super::entry::{Control, Epoch, Identity, Rules};
use super::index::{Home, WAYS};
use super::quota::{self, Opener, Over};
use super::table::{Found, Slot, Step, Table, found};
use super::timeouts::Tick;
use super::transport::{self, Transport};
use super::tuple::Tuple;

/// How often a worker may lose against others before it gives up: once for each of them in the worst case.
const ATTEMPTS: u32 = 64;

/// The verdict that lets a flow be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Where its first packet came in.
    pub opener: Opener,
    /// The epoch of the verdict.
    pub epoch: Epoch,
    /// The rules that made it.
    pub rules: Rules,
}

/// A flow that was opened, by this packet or by another at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its entry, the packet's direction, and the epoch of the verdict that counts.
    pub found: Found,
    /// This packet opened it.
    pub fresh: bool,
}

/// Why a flow was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenError {
    /// The packet opens nothing, or does not fit the flow that is there.
    Invalid,
    /// The flow was revoked in this epoch.
    Revoked,
    /// The opener has too many half-open or unreplied flows.
    HalfOpen,
    /// The opener has too many flows.
    Total,
    /// Every entry the flow could have is taken by an established one.
    Full,
    /// The opener is a port that the table has no row for.
    UnknownPort,
    /// Others opened and closed the same flow all the while.
    Contended,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Invalid => "the packet opens no flow",
            Self::Revoked => "the flow was revoked",
            Self::HalfOpen => "too many half-open flows of one opener",
            Self::Total => "too many flows of one opener",
            Self::Full => "no entry is free for the flow",
            Self::UnknownPort => "a port beyond the table's",
            Self::Contended => "the flow is opened and closed by others",
        })
    }
}

impl std::error::Error for OpenError {}

/// What another entry of the same flow means to who wants to open it.
enum Rival {
    /// It is the flow; nothing to open.
    Is(Opened),
    /// The packet has no place in it.
    Refuses(OpenError),
}

impl<M: Deref<Target = [AtomicU64]>> Table<M> {
    /// Opens the flow of a packet that was judged and may pass. A finished, expired or outdated entry of the same
    /// flow makes room for it; when a live one is there after all, the packet has made its step in that.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_flow(
        &self,
        tuple: &Tuple,
        transport: Transport,
        opening: &Opening,
        now: Tick,
    ) -> Result<Opened, OpenError> {
        let state = transport::first(tuple, transport, self.config.pickup).ok_or(OpenError::Invalid)?;
        let row = self.row(opening.opener).ok_or(OpenError::UnknownPort)?;
        let (key, from_b) = tuple.key();
        let home = self.home(&key);
        let identity = Identity { key, opener: opening.opener };
        let attempt = Attempt { identity, from_b, transport, epoch: opening.epoch, now };
        for _ in 0..ATTEMPTS {
            match self.rival(&attempt, home, None) {
                Some(Rival::Is(opened)) => return Ok(opened),
                Some(Rival::Refuses(error)) => return Err(error),
                None => {}
            }
            quota::take(row, state.half_open(), self.limits(opening.opener)).map_err(|over| match over {
                Over::HalfOpen => OpenError::HalfOpen,
                Over::Total => OpenError::Total,
            })?;
            let Some((index, claimed)) = self.claim(home, now) else {
                quota::give(row, state.half_open());
                return Err(OpenError::Full);
            };
            let pending = claimed.pending(state, from_b, opening.epoch);
            let Some(entry) = self.entry(index) else { return Err(OpenError::Full) };
            entry.publish(&identity, opening.rules, now, pending);
            self.tags(index / WAYS as u32).set(index as usize % WAYS, home.tag);
            // The announcement above must be out before the look below: see the header.
            fence(SeqCst);
            match self.rival(&attempt, home, Some(index)) {
                None => {
                    if entry.change(pending, pending.live()) {
                        let slot = Slot { index, generation: pending.generation() };
                        return Ok(Opened { found: found(slot, pending.live(), from_b), fresh: true });
                    }
                }
                // A failed removal means that a rival has killed the entry, and given its quota back.
                Some(Rival::Is(opened)) => {
                    self.remove(index, pending);
                    return Ok(opened);
                }
                Some(Rival::Refuses(error)) => {
                    self.remove(index, pending);
                    return Err(error);
                }
            }
        }
        Err(OpenError::Contended)
    }

    /// Ends the entry at `index` if its control word still is `control` (pending or live), and gives its quota back.
    pub(super) fn remove(&self, index: u32, control: Control) -> bool {
        let (Some(entry), Some(state)) = (self.entry(index), control.state()) else { return false };
        if !entry.seize(control) {
            return false;
        }
        let opener = entry.opener();
        self.tags(index / WAYS as u32).clear(index as usize % WAYS);
        if let Some(row) = self.row(opener) {
            quota::give(row, state.half_open());
        }
        entry.release(control);
        true
    }

    /// Looks for another entry of the flow and settles with it: removes what is over, and with `mine` kills pending
    /// ones at higher indices.
    fn rival(&self, attempt: &Attempt, home: Home, mine: Option<u32>) -> Option<Rival> {
        for bucket in home.buckets {
            let mut ways = self.tags(bucket).matches(home.tag);
            while ways != 0 {
                let index = bucket * WAYS as u32 + ways.trailing_zeros();
                if Some(index) == mine {
                    ways &= ways - 1;
                    continue;
                }
                match self.settle(attempt, index, mine) {
                    Settled::Rival(rival) => return Some(rival),
                    Settled::Nothing => ways &= ways - 1,
                    // It changed while it was looked at: once more.
                    Settled::Changed => {}
                }
            }
        }
        None
    }

    fn settle(&self, attempt: &Attempt, index: u32, mine: Option<u32>) -> Settled {
        let Some((control, identity)) = self.entry(index).and_then(|entry| entry.identity()) else {
            return Settled::Nothing;
        };
        if identity.key != attempt.identity.key {
            return Settled::Nothing;
        }
        let slot = Slot { index, generation: control.generation() };
        let found = found(slot, control, attempt.from_b);
        let is = Settled::Rival(Rival::Is(Opened { found, fresh: false }));
        if control.is_pending() {
            return match mine {
                // Before the announcement: whoever sees the other decides.
                None => Settled::Nothing,
                Some(mine) if index < mine => is,
                Some(_) => self.end(index, control),
            };
        }
        match self.packet(slot, found.direction, attempt.transport, attempt.now) {
            Step::Pass => is,
            Step::Invalid => Settled::Rival(Rival::Refuses(OpenError::Invalid)),
            Step::Revoked if !attempt.epoch.newer(found.epoch) => {
                Settled::Rival(Rival::Refuses(OpenError::Revoked))
            }
            Step::Reopen | Step::Revoked | Step::Gone => self.end(index, control),
        }
    }

    fn end(&self, index: u32, control: Control) -> Settled {
        if self.remove(index, control) { Settled::Nothing } else { Settled::Changed }
    }

    /// A claimed entry in the emptier of the two buckets, evicting if need be; `None` when all are taken for good.
    fn claim(&self, home: Home, now: Tick) -> Option<(u32, Control)> {
        for _ in 0..ATTEMPTS {
            for index in self.vacant(home) {
                let entry = self.entry(index)?;
                let control = entry.control();
                if control.is_free()
                    && let Some(claimed) = entry.claim(control)
                {
                    return Some((index, claimed));
                }
            }
            let (index, control) = self.victim(home, now)?;
            self.remove(index, control);
        }
        None
    }

    /// The entries that may be free, those of the emptier bucket first.
    #[inline]
    pub(super) fn vacant(&self, home: Home) -> impl Iterator<Item = u32> + use<M> {
        let mut free = home.buckets.map(|bucket| (bucket, self.tags(bucket).matches(0)));
        if free[1].1.count_ones() > free[0].1.count_ones() {
            free.swap(0, 1);
        }
        free.into_iter().flat_map(|(bucket, ways)| {
            (0..WAYS as u32)
                .filter(move |way| ways & 1 << way != 0)
                .map(move |way| bucket * WAYS as u32 + way)
        })
    }

    /// The entry to give up in a full pair of buckets.
    fn victim(&self, home: Home, now: Tick) -> Option<(u32, Control)> {
        let mut best: Option<((u8, u32), u32, Control)> = None;
        for bucket in home.buckets {
            for way in 0..WAYS as u32 {
                let index = bucket * WAYS as u32 + way;
                let entry = self.entry(index)?;
                let control = entry.control();
                // A pending entry belongs to a worker that is busy with it.
                let Some(state) = control.state().filter(|_| !control.is_pending()) else { continue };
                if self.alive(entry, control, now).is_none() {
                    return Some((index, control));
                }
                let age = now.since(entry.times().1);
                let rank = match state {
                    _ if state.finished() => (1, age),
                    _ if state.half_open() => (0, age),
                    _ => continue,
                };
                if best.is_none_or(|(other, ..)| rank > other) {
                    best = Some((rank, index, control));
                }
            }
        }
        best.map(|(_, index, control)| (index, control))
    }
}

/// A packet that wants to open a flow.
struct Attempt {
    identity: Identity,
    from_b: bool,
    transport: Transport,
    epoch: Epoch,
    now: Tick,
}

enum Settled {
    Rival(Rival),
    Nothing,
    Changed,
}
