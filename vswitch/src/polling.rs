//! Whether a worker looks for more before it goes to sleep.
//!
//! Waking a thread on an idle processor takes several microseconds, tens of them in a virtual machine; a packet that
//! crosses two nodes and back pays for it up to six times. So a worker that keeps being woken soon after it fell asleep
//! stays awake for a moment, as KVM does before it halts a virtual processor (`halt_poll_ns`): it goes on asking epoll
//! and offers the processor to others (`sched_yield`) between two questions. As soon as somebody takes it, the worker
//! sleeps like everybody; when others are at work for long, it does not try again for a while. A node with little or no
//! traffic never polls.
//!
//! Only a worker with little to do polls ([`Share`](crate::share::Share)): a busy one is seldom without work, and asking for
//! more between its batches takes the processor from those it waits for.
//!
//! Owned by a worker; decides only, time is an argument.

use std::time::{Duration, Instant};

/// An idle time that is shorter might have been worth staying awake for: twice what sleeping itself adds to it on a slow
/// virtual machine.
const SHORT: Duration = Duration::from_micros(150);
/// Short idle times in a row after which polling begins.
const STREAK: u32 = 8;
/// Looks for more at most this long.
const WINDOW: Duration = Duration::from_micros(60);
/// Looks in vain in a row after which polling is left alone for [`PAUSE`].
const TRIES: u32 = 4;
/// Between two looks: longer, and somebody else had the processor, for which polling ends at once.
const TAKEN: Duration = Duration::from_micros(10);
/// Somebody had it for so long that he is no part of a short exchange but at work. Who polls beside him spends the
/// share of the processor that he needs to be first when a packet comes: polling is left alone, each time for twice as
/// long, up to [`LONGEST`].
const BUSY: Duration = Duration::from_micros(100);
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(640);
/// Looks with success in a row after which a worker's next pause is short again.
const CALM: u32 = 1_000;

/// What has been seen so far.
#[derive(Debug)]
pub struct Polling {
    on: bool,
    /// Short idle times in a row.
    streak: u32,
    /// Looks in vain in a row.
    vain: u32,
    /// Looks with success since somebody was at work.
    calm: u32,
    /// How long to leave it alone when somebody is.
    pause: Duration,
    /// Left alone until then.
    until: Option<Instant>,
}

impl Polling {
    /// For a worker that polls, or one that always sleeps.
    #[must_use]
    pub fn new(on: bool) -> Polling {
        Polling { on, streak: 0, vain: 0, calm: 0, pause: PAUSE, until: None }
    }

    /// How long to look for more, from now on, before sleeping.
    pub fn window(&mut self, now: Instant) -> Duration {
        if !self.on || self.streak < STREAK || self.until.is_some_and(|until| now < until) {
            return Duration::ZERO;
        }
        self.until = None;
        WINDOW
    }

    /// The processor was offered to others and came back after `away`; true when somebody had it, and polling has to
    /// end.
    pub fn taken(&mut self, now: Instant, away: Duration) -> bool {
        if away > BUSY {
            self.until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
            self.calm = 0;
        }
        away > TAKEN
    }

    /// The window has passed, and nothing came.
    pub fn in_vain(&mut self, now: Instant) {
        self.vain += 1;
        if self.vain == TRIES {
            self.vain = 0;
            self.until = Some(now + PAUSE);
        }
    }

    /// Something came, `idle` after there was nothing left to do.
    pub fn found(&mut self, idle: Duration) {
        if idle <= WINDOW && self.until.is_none() {
            self.vain = 0;
            self.calm += 1;
            if self.calm == CALM {
                self.calm = 0;
                self.pause = PAUSE;
            }
        }
        self.streak = if idle <= SHORT { self.streak.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);

    fn after_many_short_idle_times() -> Polling {
        let mut polling = Polling::new(true);
        (0..STREAK).for_each(|_| polling.found(SOON));
        polling
    }

    #[test]
    fn polls_only_after_many_short_idle_times_and_until_a_long_one() {
        let now = Instant::now();
        let mut polling = Polling::new(true);
        for _ in 0..STREAK {
            assert_eq!(polling.window(now), Duration::ZERO);
            polling.found(SOON);
        }
        assert_eq!(polling.window(now), WINDOW);
        polling.found(SHORT * 2);
        assert_eq!(polling.window(now), Duration::ZERO);
    }

    #[test]
    fn ends_when_somebody_takes_the_processor_and_pauses_when_he_keeps_it() {
        let (now, mut polling) = (Instant::now(), after_many_short_idle_times());
        assert!(!polling.taken(now, Duration::from_nanos(600)));
        assert!(polling.taken(now, TAKEN * 2));
        assert_eq!(polling.window(now), WINDOW, "a short exchange is no reason to stop for long");
        assert!(polling.taken(now, BUSY * 2));
        assert_eq!(polling.window(now), Duration::ZERO);
        assert_eq!(polling.window(now + PAUSE), WINDOW);
        assert!(polling.taken(now, BUSY * 2));
        assert_eq!(polling.window(now + PAUSE), Duration::ZERO, "longer the second time");
        assert_eq!(polling.window(now + PAUSE * 2), WINDOW);
        (0..CALM).for_each(|_| polling.found(SOON));
        assert!(polling.taken(now, BUSY * 2));
        assert_eq!(polling.window(now + PAUSE), WINDOW, "all was calm for long");
    }

    #[test]
    fn looking_in_vain_again_and_again_is_given_up_for_a_while() {
        let (now, mut polling) = (Instant::now(), after_many_short_idle_times());
        for _ in 1..TRIES {
            polling.in_vain(now);
            polling.found(WINDOW * 2);
        }
        assert_eq!(polling.window(now), WINDOW);
        polling.in_vain(now);
        assert_eq!(polling.window(now), Duration::ZERO);
        assert_eq!(polling.window(now + PAUSE), WINDOW);
    }

    #[test]
    fn can_be_switched_off() {
        let mut polling = Polling::new(false);
        (0..100).for_each(|_| polling.found(SOON));
        assert_eq!(polling.window(Instant::now()), Duration::ZERO);
    }
}
