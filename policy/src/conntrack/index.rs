//! The index: a 16-bit tag per entry, sixteen entries a bucket, half a cache line.
//!
//! A flow may stand in either of two buckets, both told by its hash, and goes into the emptier one: with buckets of
//! sixteen that fills 85 % of the entries before one flow finds no room. A tag of 0 means that the lane's entry is free or on
//! its way; any other is a hint which entry to compare. Lanes are set and cleared by atomic or/and of the one thread
//! that has claimed the entry, so lanes do not disturb each other.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

/// Entries of a bucket.
pub(super) const WAYS: usize = 16;
/// Words of a bucket's tags.
pub(super) const TAG_WORDS: usize = WAYS / LANES;
/// Tags in a word.
const LANES: usize = 4;
/// The low 15 bits of each lane.
const LOW: u64 = 0x7fff_7fff_7fff_7fff;
/// A one in each lane.
const ONES: u64 = 0x0001_0001_0001_0001;

/// Where a flow may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Home {
    /// The two buckets; different when the table has two.
    pub(super) buckets: [u32; 2],
    /// Its tag, not 0.
    pub(super) tag: u16,
}

impl Home {
    /// Of a flow with that hash, in a table of `buckets` buckets (at least two).
    #[inline]
    pub(super) fn new(hash: u64, buckets: u32) -> Self {
        let scale = |half: u32| ((u64::from(half) * u64::from(buckets)) >> 32) as u32;
        let (first, mut second) = (scale(hash as u32), scale((hash >> 32) as u32));
        if first == second {
            second = if first + 1 == buckets { 0 } else { first + 1 };
        }
        // Independent of the bits that pick the buckets: the product's top bits depend on all of them.
        let tag = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
        Self { buckets: [first, second], tag: tag.max(1) }
    }
}

/// The tags of one bucket.
#[derive(Clone, Copy)]
pub(super) struct Tags<'a>(pub(super) &'a [AtomicU64; TAG_WORDS]);

impl Tags<'_> {
    /// The ways that carry any tag, a bit each. Most buckets that are walked over have none.
    #[inline]
    pub(super) fn taken(self) -> u32 {
        match self.0.iter().all(|word| word.load(Acquire) == 0) {
            true => 0,
            false => !self.matches(0) & ((1 << WAYS) - 1),
        }
    }

    /// The ways that carry `tag`, a bit each; with 0, those that may be free.
    #[inline]
    pub(super) fn matches(self, tag: u16) -> u32 {
        let splat = u64::from(tag) * ONES;
        let mut found = 0;
        for (i, word) in self.0.iter().enumerate() {
            let diff = word.load(Acquire) ^ splat;
            // A lane's top bit is set exactly where the lane of `diff` is zero.
            let mut zero = !(((diff & LOW) + LOW) | diff | LOW);
            while zero != 0 {
                found |= 1 << (i * LANES + zero.trailing_zeros() as usize / 16);
                zero &= zero - 1;
            }
        }
        found
    }

    /// The tag of one way.
    pub(super) fn get(self, way: usize) -> u16 {
        let (word, shift) = place(way);
        (self.0[word].load(Acquire) >> shift) as u16
    }

    /// Sets the tag of a way that has none. Only the thread that has claimed the entry.
    pub(super) fn set(self, way: usize, tag: u16) {
        let (word, shift) = place(way);
        self.0[word].fetch_or(u64::from(tag) << shift, SeqCst);
    }

    /// Clears the tag of a way. Only the thread that has seized the entry.
    pub(super) fn clear(self, way: usize) {
        let (word, shift) = place(way);
        self.0[word].fetch_and(!(0xffff << shift), SeqCst);
    }
}

fn place(way: usize) -> (usize, usize) {
    (way / LANES % TAG_WORDS, way % LANES * 16)
}
