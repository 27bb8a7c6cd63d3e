//! How many ICMP errors a worker may send: a token bucket.
//!
//! One per worker, touched by that worker's thread only. RFC 1812 section 4.3.2.8 and RFC 4443 section 2.4 (f) ask
//! for a limit, so that a stream of undeliverable packets is not answered by a stream of the same size. Errors that
//! carry an MTU are worth more than others to the receiver; the caller may ask with a larger reserve for the others.
//!
//! Never done here: clock reads, allocation.

/// The bucket. Holds whole tokens and the milliseconds that did not make one yet.
#[derive(Clone, Debug)]
pub struct IcmpLimit {
    per_second: u32,
    burst: u32,
    tokens: u32,
    /// Thousandths of a token.
    part: u32,
    last_ms: u64,
}

impl Default for IcmpLimit {
    /// 1,000 a second, 50 at once: what Linux allows a whole host.
    fn default() -> Self {
        Self::new(1000, 50)
    }
}

impl IcmpLimit {
    /// A full bucket of `burst` tokens that gains `per_second` of them each second.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, tokens: burst, part: 0, last_ms: 0 }
    }

    /// Takes a token, if there is one. `now` in milliseconds; a time that runs backwards adds nothing.
    pub fn allow(&mut self, now: u64) -> bool {
        self.allow_above(0, now)
    }

    /// Takes a token, if more than `reserve` of them are there.
    pub fn allow_above(&mut self, reserve: u32, now: u64) -> bool {
        self.refill(now);
        if self.tokens <= reserve {
            return false;
        }
        self.tokens -= 1;
        true
    }

    fn refill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.last_ms);
        self.last_ms = self.last_ms.max(now);
        let gained = passed.saturating_mul(u64::from(self.per_second)).saturating_add(u64::from(self.part));
        let room = u64::from(self.burst - self.tokens);
        if gained / 1000 >= room {
            self.tokens = self.burst;
            self.part = 0;
        } else {
            self.tokens += (gained / 1000) as u32;
            self.part = (gained % 1000) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn burst_then_rate() {
        let mut limit = IcmpLimit::new(100, 10);
        assert_eq!((0..50).filter(|_| limit.allow(5000)).count(), 10);
        assert!(!limit.allow(5009));
        assert!(limit.allow(5010));
        assert!(!limit.allow(5010));
        assert_eq!((0..50).filter(|_| limit.allow(3_600_000)).count(), 10, "never more than the burst");
    }

    #[test]
    fn a_reserve_is_left_for_others() {
        let mut limit = IcmpLimit::new(1, 10);
        assert_eq!((0..50).filter(|_| limit.allow_above(4, 1)).count(), 6);
        assert_eq!((0..50).filter(|_| limit.allow(1)).count(), 4);
    }

    #[test]
    fn no_time_no_rate_no_overflow() {
        let mut limit = IcmpLimit::new(0, 0);
        assert!(!limit.allow(u64::MAX));
        let mut limit = IcmpLimit::new(u32::MAX, u32::MAX);
        assert!(limit.allow(u64::MAX));
        assert!(limit.allow(0), "time ran backwards");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(
            rate in 0u32..2000,
            burst in 0u32..100,
            steps in prop::collection::vec(0u64..50, 0..300),
        ) {
            let mut limit = IcmpLimit::new(rate, burst);
            let (mut now, mut sent) = (0, 0u64);
            for step in steps {
                now += step;
                sent += u64::from(limit.allow(now));
                prop_assert!(sent * 1000 <= u64::from(burst) * 1000 + u64::from(rate) * now);
            }
        }
    }
}
