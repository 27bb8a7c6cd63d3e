//! How much of a processor a worker uses, and whether it goes before other threads.
//!
//! A worker with little to do goes before programs that compute: a packet that waits for a processor waits for them, not
//! they for it, and the little it takes they hardly miss. A worker that is busy is one among equals: however much a pod
//! sends, the node's other work keeps its share. So a worker is a light one until it uses most of a processor, and again
//! when it uses little. A light worker has the nice value [`LIGHT`] but while it polls, when others have to be able to
//! take the processor.
//!
//! A worker whose pods do nothing but acknowledge what they receive is in no hurry, however little it has to do: these
//! packets keep somebody's stream going, and each one that takes the processor from those who read the stream or carry it
//! makes that stream slower. They lose nothing by waiting for the next one.
//!
//! Nice values count among the threads of one control group, as its administrator has weighted it.
//!
//! Owned by a worker; decides only, times are arguments.

use std::time::{Duration, Instant};

use crate::counters::Carried;

/// The nice value of a worker with little to do: twelve times the weight of an ordinary thread.
pub const LIGHT: i32 = -11;
/// That of a busy one.
pub const BUSY: i32 = 0;
/// Looked at so often, while there is anything to do.
const PERIOD: Duration = Duration::from_millis(20);
/// Of a hundred: below, a worker is light; above the other, busy; between, what it was.
const LITTLE: u128 = 35;
const MUCH: u128 = 60;

/// What a worker has used and carried since it was last looked at.
#[derive(Debug)]
pub struct Share {
    since: Instant,
    used: Duration,
    carried: Carried,
    light: bool,
    acknowledges: bool,
}

impl Share {
    /// Nothing is known at `now`, when the thread has used `used` of a processor in its life.
    #[must_use]
    pub fn new(now: Instant, used: Duration) -> Share {
        Share { since: now, used, carried: Carried::default(), light: false, acknowledges: false }
    }

    /// Whether to look at it.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PERIOD
    }

    /// Whether it has little to do and that is worth hurrying for, as of the last look.
    #[must_use]
    pub fn in_hurry(&self) -> bool {
        self.light && !self.acknowledges
    }

    /// Looks at it: `used` is what the thread has used of a processor in its life, without what it would not have used
    /// had anybody else wanted it; `carried` what it has carried.
    pub fn look(&mut self, now: Instant, used: Duration, carried: Carried) {
        let [packets, acks] = [carried.packets - self.carried.packets, carried.acks - self.carried.acks];
        self.acknowledges = acks * 2 > packets;
        self.carried = carried;
        let (wall, work) = (now.saturating_duration_since(self.since), used.saturating_sub(self.used));
        (self.since, self.used) = (now, used);
        let percent = work.as_nanos() * 100 / wall.as_nanos().max(1);
        self.light = match percent {
            ..LITTLE => true,
            MUCH.. => false,
            _ => self.light,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_work_goes_first_and_much_does_not() {
        let mut now = Instant::now();
        let mut used = Duration::ZERO;
        let mut share = Share::new(now, used);
        assert!(!share.is_due(now + PERIOD / 2));
        for (percent, light) in [(50, false), (10, true), (50, true), (90, false), (50, false), (5, true)] {
            now += PERIOD;
            used += PERIOD * percent / 100;
            assert!(share.is_due(now));
            share.look(now, used, Carried::default());
            assert_eq!(share.in_hurry(), light, "{percent} %");
            assert!(!share.is_due(now));
        }
    }

    #[test]
    fn time_that_does_not_pass_is_no_division_by_zero() {
        let now = Instant::now();
        let mut share = Share::new(now, Duration::ZERO);
        share.look(now, Duration::from_secs(1), Carried::default());
        assert!(!share.in_hurry());
    }

    #[test]
    fn who_only_acknowledges_is_in_no_hurry() {
        let (mut now, mut carried) = (Instant::now(), Carried::default());
        let mut share = Share::new(now, Duration::ZERO);
        for ([packets, acks], hurries) in
            [([100, 0], true), ([100, 90], false), ([0, 0], true), ([10, 10], false), ([1000, 40], true)]
        {
            now += PERIOD;
            carried = Carried { packets: carried.packets + packets, acks: carried.acks + acks };
            share.look(now, Duration::ZERO, carried);
            assert_eq!(share.in_hurry(), hurries, "{acks} of {packets}");
        }
    }
}
