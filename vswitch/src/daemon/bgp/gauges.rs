//! The speaker in numbers. Written by its thread, read by whoever scrapes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Numbers for whoever scrapes them.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) neighbours: AtomicU64,
    pub(super) established: AtomicU64,
    pub(super) learned: AtomicU64,
}

impl Gauges {
    /// Neighbours, sessions that are up, and prefixes learned.
    pub(super) fn read(&self) -> [u64; 3] {
        [&self.neighbours, &self.established, &self.learned].map(|gauge| gauge.load(Relaxed))
    }
}
