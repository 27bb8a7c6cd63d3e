//! How many entries each opener has: two counts in one word, part of the table's memory.
//!
//! A count is taken before an entry is claimed and given back by the one thread whose compare-and-swap ended the entry
//! (or its being half-open), so counts are exact whenever no operation is under way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Who opened a flow: where its first packet came in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Opener {
    /// The port with this index, less than [`OPENERS_MAX`].
    Port(u32),
    /// The peer node with this index, less than [`OPENERS_MAX`].
    Peer(u32),
}

/// Bound of the indices of ports, and of those of peers.
pub const OPENERS_MAX: u32 = 1 << 22;

impl Opener {
    /// As 23 bits of an entry.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Port(index) => index,
            Self::Peer(index) => index | OPENERS_MAX,
        }
    }

    /// From the low 23 bits.
    pub(super) fn from_bits(bits: u32) -> Self {
        let index = bits & (OPENERS_MAX - 1);
        if bits & OPENERS_MAX == 0 { Self::Port(index) } else { Self::Peer(index) }
    }
}

/// What one opener may hold at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries that are half-open or unreplied.
    pub half_open: u32,
    /// Entries in all.
    pub total: u32,
}

/// Why an opener may not have one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    HalfOpen,
    Total,
}

/// What one opener holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Entries that are half-open or unreplied.
    pub half_open: u32,
    /// Entries in all.
    pub total: u32,
}

const ONE_TOTAL: u64 = 1 << 32;

fn one(half_open: bool) -> u64 {
    ONE_TOTAL | u64::from(half_open)
}

/// What `row` counts.
pub(super) fn held(row: &AtomicU64) -> Held {
    let count = row.load(Relaxed);
    Held { half_open: count as u32, total: (count >> 32) as u32 }
}

/// Counts one more, unless that were too many.
pub(super) fn take(row: &AtomicU64, half_open: bool, limits: Limits) -> Result<(), Over> {
    let mut count = row.load(Relaxed);
    loop {
        if half_open && count as u32 >= limits.half_open {
            return Err(Over::HalfOpen);
        }
        if (count >> 32) as u32 >= limits.total {
            return Err(Over::Total);
        }
        match row.compare_exchange_weak(count, count + one(half_open), Relaxed, Relaxed) {
            Ok(_) => return Ok(()),
            Err(current) => count = current,
        }
    }
}

/// Counts one more whatever the limits say: an entry that is there already.
pub(super) fn count(row: &AtomicU64, half_open: bool) {
    row.fetch_add(one(half_open), Relaxed);
}

/// Gives one back.
pub(super) fn give(row: &AtomicU64, half_open: bool) {
    row.fetch_sub(one(half_open), Relaxed);
}

/// One is no longer half-open.
pub(super) fn answered(row: &AtomicU64) {
    row.fetch_sub(1, Relaxed);
}
