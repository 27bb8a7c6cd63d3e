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

    /// The entry of a way of both buckets: those of the second follow those of the first.
    #[inline]
    pub(super) fn entry(&self, way: u32) -> u32 {
        // Without a branch: one in two would be guessed wrong.
        self.buckets[(way as usize / WAYS) % 2] * WAYS as u32 + way % WAYS as u32
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
    #[inline(always)]
    pub(super) fn matches(self, tag: u16) -> u32 {
        let splat = u64::from(tag) * ONES;
        let mut found = 0;
        // Without a branch: which way it is, no processor can guess.
        for (i, word) in self.0.iter().enumerate() {
            let diff = word.load(Acquire) ^ splat;
            // A lane's top bit is set exactly where the lane of `diff` is zero.
            let zero = !(((diff & LOW) + LOW) | diff | LOW);
            found |= gather(zero >> 15) << (i * LANES);
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

/// The lowest bit of each lane, side by side; no other bit is set. Each product of a lane's bit with one of the factor's has
/// a place of its own, and those of lane `i` with the `i`th from the top are the four lowest of the last 16.
fn gather(lanes: u64) -> u32 {
    (lanes.wrapping_mul(1 << 48 | 1 << 33 | 1 << 18 | 1 << 3) >> 48) as u32 & 0xf
}

fn place(way: usize) -> (usize, usize) {
    (way / LANES % TAG_WORDS, way % LANES * 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a look at each lane; few different tags, so that many lanes match.
        #[test]
        fn matches_names_the_lanes_with_the_tag(
            lanes in prop::array::uniform16(prop_oneof![0u16..4, 0x7ffe..0x8002u16, any::<u16>()]),
            tag in prop_oneof![0u16..4, 0x7ffe..0x8002u16, any::<u16>()],
        ) {
            let words: [AtomicU64; TAG_WORDS] = Default::default();
            let tags = Tags(&words);
            for (way, &lane) in lanes.iter().enumerate() {
                tags.set(way, lane);
            }
            let naive = |tag: u16| (0..WAYS).filter(|&way| tags.get(way) == tag).map(|way| 1 << way).sum::<u32>();
            prop_assert_eq!(tags.matches(tag), naive(tag));
            prop_assert_eq!(tags.taken(), 0xffff & !naive(0));
        }
    }

    #[test]
    fn the_ways_of_both_buckets_are_told_apart() {
        let home = Home { buckets: [7, 3], tag: 1 };
        assert_eq!([0, 15, 16, 31].map(|way| home.entry(way)), [112, 127, 48, 63]);
    }
}
