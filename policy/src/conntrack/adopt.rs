//! Taking the table over from an earlier process: every entry is verified, counts are made anew.
//!
//! Runs once, before any worker, with the memory to itself. What a process that died half-way left behind (a claimed or
//! pending entry, a tag without an entry) is dropped; so is anything that could not have been written by this code.

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::entry::{Control, Epoch, Identity};
use super::index::WAYS;
use super::layout::{Layout, TableError};
use super::quota::{self, Opener};
use super::state::State;
use super::table::{Config, Table};
use super::timeouts::Tick;
use super::tuple::Tuple;

/// Every way of a bucket, a bit each.
const ALL_WAYS: u32 = (1 << WAYS) - 1;

/// What became of the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// The memory held no table of this layout and geometry, and holds an empty one now.
    pub formatted: bool,
    /// Flows taken over.
    pub kept: u64,
    /// Entries dropped: unfinished, expired, revoked, implausible, or of an opener that is gone.
    pub dropped: u64,
}

impl<M: Deref<Target = [AtomicU64]>> Table<M> {
    /// The table in `memory`: the one that is there, verified, or a new one keyed with `seeds` (random numbers). Nobody
    /// else may use the memory during the call.
    ///
    /// `whose` says which opener an entry belongs to now, given the one it had and the tuple of its first packet; `None`
    /// drops it. All verdicts are [`Epoch::UNJUDGED`] afterwards.
    ///
    /// # Errors
    /// [`TableError`] for a geometry out of range, or memory too small for it.
    pub fn open(
        memory: M,
        config: Config,
        seeds: [u64; 2],
        now: Tick,
        whose: impl FnMut(Opener, &Tuple) -> Option<Opener>,
    ) -> Result<(Self, Adopted), TableError> {
        let layout = Layout::new(&config.geometry)?;
        layout.check(&memory)?;
        match layout.read(&memory) {
            Some(secret) => {
                let table = Self { memory, layout, secret, config };
                let adopted = table.adopt(now, whose);
                Ok((table, adopted))
            }
            None => {
                let secret = layout.format(&memory, seeds);
                Ok((
                    Self { memory, layout, secret, config },
                    Adopted { formatted: true, ..Adopted::default() },
                ))
            }
        }
    }

    fn adopt(&self, now: Tick, mut whose: impl FnMut(Opener, &Tuple) -> Option<Opener>) -> Adopted {
        for row in &self.memory[self.layout.rows()] {
            row.store(0, Relaxed);
        }
        let mut adopted = Adopted::default();
        // A bucket without a tag holds no flow. It is not even read: reading memory that was never written would take a
        // page for it. (An entry claimed there by a process that died at that moment stays out of use; there are others.)
        let used = |bucket: &u32| self.tags(*bucket).matches(0) != ALL_WAYS;
        for index in
            (0..self.layout.buckets).filter(used).flat_map(|b| b * WAYS as u32..(b + 1) * WAYS as u32)
        {
            let Some(entry) = self.entry(index) else { continue };
            let (tags, way) = (self.tags(index / WAYS as u32), index as usize % WAYS);
            let kept = self.plausible(index, tags.get(way), now).and_then(|(control, state, identity)| {
                let opener = whose(identity.opener, &identity.key.tuple(control.opened_by_b()))?;
                Some((control, state, Identity { opener, ..identity }, self.row(opener)?))
            });
            match kept {
                Some((control, state, identity, row)) => {
                    entry.write_identity(&identity);
                    entry.restore(control.with_epoch(Epoch::UNJUDGED));
                    quota::count(row, state.half_open());
                    adopted.kept += 1;
                }
                None => {
                    // A free entry without a tag is left as it is: writing would take a page of memory for it.
                    if !entry.control().is_free() {
                        adopted.dropped += 1;
                        entry.wipe();
                    }
                    if tags.get(way) != 0 {
                        tags.clear(way);
                    }
                }
            }
        }
        adopted
    }

    /// The entry at `index`, when it is what a running table could hold and no earlier one is the same flow's.
    fn plausible(&self, index: u32, tag: u16, now: Tick) -> Option<(Control, State, Identity)> {
        if tag == 0 {
            return None;
        }
        let entry = self.entry(index)?;
        let (control, identity) = entry.identity()?;
        let state = self.alive(entry, control, now)?;
        let (created, last) = entry.times();
        let key = &identity.key;
        let from_b = control.opened_by_b();
        let home = self.home(key);
        let sound = control.is_sound_at_rest()
            && state != State::Revoked
            && state.belongs_to(key.proto)
            && key.tuple(from_b).key() == (*key, from_b)
            && home.tag == tag
            && home.buckets.contains(&(index / WAYS as u32))
            && last.since(now) == 0
            && created.since(now) == 0
            && created.since(last) == 0;
        let twice = || {
            home.buckets
                .into_iter()
                .flat_map(|bucket| (0..WAYS as u32).map(move |way| bucket * WAYS as u32 + way))
                .any(|other| {
                    other < index
                        && self
                            .entry(other)
                            .and_then(|entry| entry.identity())
                            .is_some_and(|(_, i)| i.key == *key)
                })
        };
        (sound && !twice()).then_some((control, state, identity))
    }
}
