//! Walking the table: sweeping expired entries, forgetting a detached pod, listing flows.
//!
//! For the control thread and a background thread, beside workers that go on. Reads the tags and only then the entries
//! in use.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use super::entry::{Control, Epoch, Identity, Rules};
use super::index::WAYS;
use super::quota::Opener;
use super::state::State;
use super::table::{Slot, Table};
use super::timeouts::Tick;
use super::tuple::Tuple;

/// A flow as operators see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Its entry.
    pub slot: Slot,
    /// The tuple of its first packet.
    pub tuple: Tuple,
    /// Where it stands.
    pub state: State,
    /// Who opened it.
    pub opener: Opener,
    /// When it was judged last.
    pub epoch: Epoch,
    /// By which rules.
    pub rules: Rules,
    /// When it was opened.
    pub created: Tick,
    /// When its last packet was seen.
    pub last: Tick,
}

/// What one piece of sweeping did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Where to go on: 0 after the last entry.
    pub next: u32,
    /// Entries freed.
    pub freed: u32,
    /// Entries that stay.
    pub live: u32,
}

impl<M: Deref<Target = [AtomicU64]>> Table<M> {
    /// Frees expired entries among `budget` entries (rounded up to whole buckets) from index `from` on.
    pub fn sweep(&self, from: u32, budget: u32, now: Tick) -> Swept {
        let buckets = self.layout.buckets;
        let first = (from / WAYS as u32).min(buckets);
        let last = first.saturating_add(budget.div_ceil(WAYS as u32).max(1)).min(buckets);
        let mut swept =
            Swept { next: if last == buckets { 0 } else { last * WAYS as u32 }, freed: 0, live: 0 };
        for index in (first..last).flat_map(|bucket| self.used(bucket)) {
            let Some(entry) = self.entry(index) else { continue };
            let control = entry.control();
            if control.state().is_none() {
                continue;
            }
            if !control.is_pending()
                && self.alive(entry, control, now).is_none()
                && self.remove(index, control)
            {
                swept.freed += 1;
            } else {
                swept.live += 1;
            }
        }
        swept
    }

    /// Removes every flow with `addr` at either end: the address is about to be another pod's. Call it when no worker
    /// can open one any more. Gives the number of flows removed.
    pub fn forget_addr(&self, addr: u128) -> u64 {
        self.forget(|identity| identity.key.a == addr || identity.key.b == addr)
    }

    /// Removes every flow that `opener` opened: the port or peer is gone. Call it when no worker can open one any more.
    /// Gives the number of flows removed.
    pub fn forget_opener(&self, opener: Opener) -> u64 {
        if self.held(opener).is_some_and(|held| held.total == 0) {
            return 0;
        }
        self.forget(|identity| identity.opener == opener)
    }

    /// Every live flow that is not expired, each a consistent copy; flows that come or go meanwhile may be missed.
    pub fn iter(&self, now: Tick) -> impl Iterator<Item = Flow> {
        self.occupied().filter_map(move |(index, control, identity)| {
            let entry = self.entry(index)?;
            let state = self.alive(entry, control, now)?;
            let (created, last) = entry.times();
            let flow = Flow {
                slot: Slot { index, generation: control.generation() },
                tuple: identity.key.tuple(control.opened_by_b()),
                state,
                opener: identity.opener,
                epoch: control.epoch(),
                rules: entry.rules(),
                created,
                last,
            };
            // Rules and times were read after the identity: the entry must still be the flow's.
            let (after, _) = entry.identity()?;
            (after.generation() == control.generation()).then_some(flow)
        })
    }

    fn forget(&self, which: impl Fn(&Identity) -> bool) -> u64 {
        let mut removed = 0;
        for (index, mut control, identity) in self.occupied() {
            if !which(&identity) {
                continue;
            }
            // A packet may move the state meanwhile; the flow goes all the same.
            while !self.remove(index, control) {
                match self.entry(index).map(|entry| entry.control()) {
                    Some(now) if now.generation() == control.generation() && now.state().is_some() => {
                        control = now
                    }
                    _ => break,
                }
            }
            removed += 1;
        }
        removed
    }

    /// Live entries, expired ones included.
    fn occupied(&self) -> impl Iterator<Item = (u32, Control, Identity)> {
        (0..self.layout.buckets).flat_map(|bucket| self.used(bucket)).filter_map(|index| {
            let (control, identity) = self.entry(index)?.identity()?;
            (!control.is_pending()).then_some((index, control, identity))
        })
    }

    /// Indices of a bucket's entries that carry a tag.
    fn used(&self, bucket: u32) -> impl Iterator<Item = u32> + use<M> {
        let mut taken = self.tags(bucket).taken();
        std::iter::from_fn(move || {
            let way = (taken != 0).then(|| taken.trailing_zeros())?;
            taken &= taken - 1;
            Some(bucket * WAYS as u32 + way)
        })
    }
}
