//! How the table lies in its memory: header, counts of openers, tags, entries. All offsets in words of eight bytes.
//!
//! The header names the layout, the geometry and the hash secret, and is checked by a sum over itself: a table whose
//! header is another version's, another geometry's or damaged is formatted anew. Never done here: looking into entries.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::ENTRY_WORDS;
use super::index::{TAG_WORDS, WAYS};
use super::quota::OPENERS_MAX;
use crate::flow::HashKey;

/// "vsw ct" and a mark that the rest is in order.
const MAGIC: u64 = 0x7673_7720_6374_0001;
/// Formatting has begun and not ended.
const UNDER_WAY: u64 = 0x7673_7720_6374_0000;
/// Counts up with every change of layout or of the meaning of a field.
const VERSION: u64 = 1;
const HEADER_WORDS: usize = 16;
const SUMMED: usize = 8;

/// Flows a table may be made for.
pub const CAPACITY_MAX: u32 = 1 << 26;

/// What the size of a table depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Flows it is rated for, 1 … [`CAPACITY_MAX`].
    pub capacity: u32,
    /// Ports that may open flows, indices 0 … `ports - 1`; at most [`OPENERS_MAX`].
    pub ports: u32,
    /// Rows for peers, 1 … [`OPENERS_MAX`]; peer `i` counts in row `i % peers`.
    pub peers: u32,
}

/// A table that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The memory is smaller than the geometry needs.
    Short {
        /// Words needed.
        need: usize,
        /// Words there are.
        have: usize,
    },
    /// The capacity is out of range.
    Capacity(u32),
    /// The number of ports or of peers is out of range.
    Openers(u32),
}

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short { need, have } => {
                write!(f, "the connection table needs {need} words of memory and got {have}")
            }
            Self::Capacity(n) => {
                write!(f, "a connection table for {n} flows (1 to {CAPACITY_MAX} are possible)")
            }
            Self::Openers(n) => {
                write!(f, "a connection table for {n} ports or peers (at most {OPENERS_MAX})")
            }
        }
    }
}

impl std::error::Error for TableError {}

/// Where the parts lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) geometry: Geometry,
    pub(super) buckets: u32,
    tags: usize,
    entries: usize,
    words: usize,
}

impl Geometry {
    /// Words of memory that a table of this geometry needs.
    ///
    /// # Errors
    /// [`TableError::Capacity`] or [`TableError::Openers`] for numbers out of range.
    pub fn words(&self) -> Result<usize, TableError> {
        Ok(Layout::new(self)?.words)
    }
}

impl Layout {
    pub(super) fn new(geometry: &Geometry) -> Result<Self, TableError> {
        if !(1..=CAPACITY_MAX).contains(&geometry.capacity) {
            return Err(TableError::Capacity(geometry.capacity));
        }
        if geometry.ports > OPENERS_MAX {
            return Err(TableError::Openers(geometry.ports));
        }
        if !(1..=OPENERS_MAX).contains(&geometry.peers) {
            return Err(TableError::Openers(geometry.peers));
        }
        // 85 % of the entries full: 13.6 of 16.
        let buckets = (u64::from(geometry.capacity) * 5).div_ceil(68).max(2) as u32;
        let rows = geometry.ports as usize + geometry.peers as usize;
        // Whole cache lines, so that entries do not straddle two when the memory starts with one.
        let tags = HEADER_WORDS + rows.next_multiple_of(8);
        let entries = tags + (buckets as usize * TAG_WORDS).next_multiple_of(8);
        let words = entries + buckets as usize * WAYS * ENTRY_WORDS;
        Ok(Self { geometry: *geometry, buckets, tags, entries, words })
    }

    /// The memory must hold the table.
    pub(super) fn check(&self, memory: &[AtomicU64]) -> Result<(), TableError> {
        if memory.len() < self.words {
            return Err(TableError::Short { need: self.words, have: memory.len() });
        }
        Ok(())
    }

    pub(super) fn slots(&self) -> u32 {
        self.buckets * WAYS as u32
    }

    /// Word of the count of row `row`.
    pub(super) fn row(&self, row: u32) -> usize {
        HEADER_WORDS + row as usize
    }

    pub(super) fn rows(&self) -> std::ops::Range<usize> {
        HEADER_WORDS..self.tags
    }

    #[inline]
    pub(super) fn tags_of(&self, bucket: u32) -> usize {
        self.tags + bucket as usize * TAG_WORDS
    }

    #[inline]
    pub(super) fn entry(&self, slot: u32) -> usize {
        self.entries + slot as usize * ENTRY_WORDS
    }

    /// The secret of a table of exactly this geometry, when its header is in order.
    pub(super) fn read(&self, memory: &[AtomicU64]) -> Option<HashKey> {
        let words = header(memory);
        let (geometry, seeds) = (self.header_words([0, 0]), [words[6], words[7]]);
        (words[..6] == geometry[..6] && words[8] == sum(&words)).then(|| HashKey::new(seeds[0], seeds[1]))
    }

    /// Makes the memory an empty table.
    ///
    /// Memory whose header is all zero is taken for new and zero throughout, as a memfd is: touching each page of it
    /// would take real memory for flows that may never come.
    pub(super) fn format(&self, memory: &[AtomicU64], seeds: [u64; 2]) -> HashKey {
        if header(memory) != [0; HEADER_WORDS] {
            // Should this be cut short, the half-wiped rest must not pass for new memory.
            memory[0].store(UNDER_WAY, Release);
            for word in &memory[1..self.words] {
                word.store(0, Relaxed);
            }
        }
        let mut words = self.header_words(seeds);
        words[8] = sum(&words);
        for (at, word) in words.iter().enumerate().skip(1) {
            memory[at].store(*word, Relaxed);
        }
        memory[0].store(words[0], Release);
        HashKey::new(seeds[0], seeds[1])
    }

    fn header_words(&self, seeds: [u64; 2]) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        let geometry = &self.geometry;
        let fields = [
            MAGIC,
            VERSION,
            self.words as u64,
            u64::from(geometry.capacity),
            u64::from(geometry.ports),
            u64::from(geometry.peers),
            seeds[0],
            seeds[1],
        ];
        words[..SUMMED].copy_from_slice(&fields);
        words
    }
}

fn header(memory: &[AtomicU64]) -> [u64; HEADER_WORDS] {
    std::array::from_fn(|i| memory[i].load(Acquire))
}

/// A sum over the header's fields in which each bit counts. Against damage, not against malice.
fn sum(words: &[u64; HEADER_WORDS]) -> u64 {
    words[..SUMMED].iter().fold(!0, |acc, word| {
        let mixed = (acc ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    })
}
