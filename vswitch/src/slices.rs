//! Whether a peer takes slices ([`encap::slice`]): asked beside the traffic, believed for a while.
//!
//! A worker that has a super-frame for a peer asks it now and then, and goes on with segments until there is an answer. A
//! peer that does not know the question, a kernel's VXLAN device, drops it; it is asked ever more seldom. A peer that was
//! believed and is replaced by one that takes no slices loses what is sent for [`BELIEVED_MS`] at most.
//!
//! One [`Asked`] a worker and peer, in the peer's statistics: its worker asks, the one that the answer comes to tells all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use encap::slice::NUMBER_BITS;

/// An answer counts for so long, milliseconds.
pub const BELIEVED_MS: u64 = 3_500;
/// A peer that answers is asked so often, milliseconds.
const EVERY_MS: u64 = 1_000;
/// One that does not is asked after twice the time each, this many times at most.
const DOUBLED: u32 = 6;

/// What one worker has asked a peer, and heard.
#[derive(Debug, Default)]
pub struct Asked {
    /// The question under way; 0 = none.
    number: AtomicU64,
    /// The next one is asked then, milliseconds of the switch's clock.
    next: AtomicU64,
    /// Unanswered in a row.
    missed: AtomicU32,
    /// The last answer counts until then.
    until: AtomicU64,
}

impl Asked {
    /// Does the peer take slices?
    #[inline]
    pub fn believed(&self, now_ms: u64) -> bool {
        now_ms < self.until.load(Relaxed)
    }

    /// The number to ask with, when it is time; `random` makes one that nobody can guess.
    #[inline]
    pub fn due(&self, now_ms: u64, random: impl FnOnce() -> u64) -> Option<u64> {
        if now_ms < self.next.load(Relaxed) {
            return None;
        }
        let missed = match self.number.load(Relaxed) {
            0 => 0,
            _ => (self.missed.load(Relaxed) + 1).min(DOUBLED),
        };
        self.missed.store(missed, Relaxed);
        self.next.store(now_ms + (EVERY_MS << missed), Relaxed);
        let number = random() & ((1 << NUMBER_BITS) - 1) | 1;
        self.number.store(number, Relaxed);
        Some(number)
    }

    /// Takes an answer with this number, which a worker got, for all of them. An answer that nobody waits for is nothing.
    pub fn answered<'a>(all: impl Iterator<Item = &'a Asked> + Clone, number: u64, now_ms: u64) {
        let Some(asker) = all.clone().find(|asked| number != 0 && asked.number.load(Relaxed) == number)
        else {
            return;
        };
        asker.number.store(0, Relaxed);
        all.for_each(|asked| asked.until.store(now_ms + BELIEVED_MS, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_believed_for_a_while_by_every_worker() {
        let all = [Asked::default(), Asked::default()];
        let number = all[0].due(100, || 77).unwrap();
        assert_eq!(all[0].due(100 + EVERY_MS - 1, || 78), None, "not before its time");
        Asked::answered(all.iter(), number ^ 2, 110);
        Asked::answered(all.iter(), 0, 110);
        assert!(!all[0].believed(111), "an answer to something else");
        Asked::answered(all.iter(), number, 110);
        for asked in &all {
            assert!(asked.believed(110 + BELIEVED_MS - 1) && !asked.believed(110 + BELIEVED_MS));
        }
        Asked::answered(all.iter(), number, 5_000);
        assert!(!all[0].believed(5_000), "the same answer once more");
        assert!(all[0].due(100 + EVERY_MS, || 79).is_some(), "asked again while it answers");
    }

    #[test]
    fn who_never_answers_is_asked_ever_more_seldom() {
        let (asked, mut now, mut gaps) = (Asked::default(), 0, Vec::new());
        let mut last = 0;
        while gaps.len() < 9 {
            if asked.due(now, || now).is_some() {
                gaps.push((now - last) / EVERY_MS);
                last = now;
            }
            now += EVERY_MS;
        }
        assert_eq!(gaps, [0, 1, 2, 4, 8, 16, 32, 64, 64]);
    }
}
