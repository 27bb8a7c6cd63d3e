//! Time as the table counts it, and how long flows last without a packet.
//!
//! Time is an argument everywhere: sixteenths of a second of the boot clock in 32 bits. Comparisons are by wrapping
//! difference, right as long as two times lie less than four years apart. Never done here: reading a clock.

use std::time::Duration;

use super::state::State;

/// A point of time: sixteenths of a second since boot, wrapping after 8.5 years.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tick(pub u32);

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 16;

impl Tick {
    /// The tick at `since_boot`.
    #[must_use]
    pub fn at(since_boot: Duration) -> Self {
        Self(((since_boot.as_millis() * u128::from(TICKS_PER_SECOND)) / 1000) as u32)
    }

    /// Ticks that passed from `earlier` to `self`; 0 when `earlier` is later, as another worker's clock reading can be.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        let passed = self.0.wrapping_sub(earlier.0);
        if passed > u32::MAX / 2 { 0 } else { passed }
    }
}

/// How long a flow lasts without a packet, in ticks (at most 2^31 - 1 of them).
///
/// The defaults are those of Calico's eBPF data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Handshakes of TCP and SCTP: 20 s.
    pub handshake: u32,
    /// Established TCP, half-closed included: 1 h.
    pub established: u32,
    /// TCP and SCTP after both ends closed, or after a reset: 40 s.
    pub closing: u32,
    /// UDP: 60 s.
    pub udp: u32,
    /// ICMP: 5 s.
    pub icmp: u32,
    /// Established SCTP and all other protocols: 600 s.
    pub other: u32,
    /// The tombstone of a revoked flow: 10 s.
    pub revoked: u32,
    /// No entry expires within this time after it was made: 10 s.
    pub grace: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |s: u32| s * TICKS_PER_SECOND;
        Self {
            handshake: seconds(20),
            established: seconds(3600),
            closing: seconds(40),
            udp: seconds(60),
            icmp: seconds(5),
            other: seconds(600),
            revoked: seconds(10),
            grace: seconds(10),
        }
    }
}

impl Timeouts {
    /// Whether a flow in `state`, made at `created` and last seen at `last`, is over at `now`.
    #[inline]
    pub(super) fn expired(&self, state: State, created: Tick, last: Tick, now: Tick) -> bool {
        now.since(last) > state.timeout(self) && now.since(created) > self.grace
    }
}
