//! Timers as data: a deadline each. Whoever has the clock asks which have passed.

use std::time::{Duration, Instant};

/// The timers of a session (RFC 4271 section 10, RFC 9687) .
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    ConnectRetry,
    Hold,
    Keepalive,
    DelayOpen,
    IdleHold,
    SendHold,
}

impl Timer {
    const ALL: [Timer; 6] = [
        Timer::ConnectRetry,
        Timer::Hold,
        Timer::Keepalive,
        Timer::DelayOpen,
        Timer::IdleHold,
        Timer::SendHold,
    ];
}

/// When each of them expires, if it runs.
#[derive(Clone, Default, Debug)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn start(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Stops a timer that has expired and says which; call it until there is none.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|t| self.0[*t as usize].is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }
}

/// Random numbers for jitter, from a seed (SplitMix64). Nothing secret hangs on them.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Three quarters of the time up to all of it (RFC 4271 section 10).
    pub(crate) fn apply(&mut self, time: Duration) -> Duration {
        let quarter = time / 4;
        time - quarter.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_once() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.start(Timer::Hold, start + Duration::from_secs(3));
        timers.start(Timer::Keepalive, start + Duration::from_secs(1));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(timers.expired(start), None);
        let later = start + Duration::from_secs(5);
        assert_eq!(
            [timers.expired(later), timers.expired(later)],
            [Some(Timer::Hold), Some(Timer::Keepalive)]
        );
        assert_eq!((timers.expired(later), timers.next()), (None, None));
    }

    #[test]
    fn jitter_stays_within_a_quarter_and_spreads() {
        let mut jitter = Jitter::new(7);
        let time = Duration::from_secs(4);
        let some: Vec<Duration> = (0..1000).map(|_| jitter.apply(time)).collect();
        assert!(some.iter().all(|t| (Duration::from_secs(3)..=time).contains(t)));
        assert!(some.iter().min().unwrap() < &Duration::from_millis(3100));
        assert!(some.iter().max().unwrap() > &Duration::from_millis(3900));
    }
}
