//! The speaker in numbers. Written by its thread, read by whoever scrapes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use bgp::State;
use bgp::family::{Family, PerFamily};
use bgp::speaker::PeerStatus;

use crate::daemon::metrics::{BgpSample, NeighbourSample};

/// Neighbours told one by one, at most: ranges may bring any number.
pub(super) const MOST_NEIGHBOURS: usize = 1000;

/// Numbers for whoever scrapes them.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) neighbours: AtomicU64,
    pub(super) established: AtomicU64,
    pub(super) learned: AtomicU64,
    each: Mutex<Arc<[NeighbourSample]>>,
}

impl From<&PeerStatus> for NeighbourSample {
    fn from(p: &PeerStatus) -> NeighbourSample {
        let both = |n: PerFamily<u32>| [n[Family::Ipv4], n[Family::Ipv6]];
        NeighbourSample {
            address: p.address,
            state: match p.state {
                State::Idle => 1,
                State::Connect => 2,
                State::Active => 3,
                State::OpenSent => 4,
                State::OpenConfirm => 5,
                State::Established => 6,
            },
            received: both(p.received),
            accepted: both(p.accepted),
            chosen: both(p.chosen),
            announced: both(p.advertised),
            flaps: p.counters.lost,
        }
    }
}

impl Gauges {
    /// What there is to tell.
    pub(super) fn read(&self) -> BgpSample {
        let [neighbours, established, learned] =
            [&self.neighbours, &self.established, &self.learned].map(|gauge| gauge.load(Relaxed));
        let each = Arc::clone(&self.each.lock().unwrap_or_else(PoisonError::into_inner));
        BgpSample { neighbours, established, learned, each }
    }

    /// Neighbours as they are now.
    pub(super) fn tell(&self, each: Arc<[NeighbourSample]>) {
        *self.each.lock().unwrap_or_else(PoisonError::into_inner) = each;
    }
}
