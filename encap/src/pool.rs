//! The free lists of frames: last in, first out, so the slab used next is the one still in the cache.
//!
//! A pool belongs to one thread; there is no lock. A frame that ends on another thread goes to that thread's pool.
//! An empty list allocates and counts a miss; a full list frees the slab.

use crate::frame::{Frame, HEADROOM, LARGE, SMALL};

/// Free small and large frames of one worker.
#[derive(Debug)]
pub struct Pool {
    small: Vec<Frame>,
    large: Vec<Frame>,
    cap: (usize, usize),
    /// Its frames lie in memory that outlives the process, and only those are kept.
    lent: bool,
    misses: u64,
}

impl Pool {
    /// A pool holding `small` and `large` frames; it never keeps more than that many of each.
    pub fn new(small: usize, large: usize) -> Self {
        Self::of(
            (0..small).map(|_| Frame::with_capacity(SMALL)).collect(),
            (0..large).map(|_| Frame::with_capacity(LARGE)).collect(),
        )
    }

    /// A pool of these small and large frames; it never keeps more than as many of each.
    pub fn of(small: Vec<Frame>, large: Vec<Frame>) -> Self {
        let cap = (small.len(), large.len());
        let lent = small.iter().chain(&large).any(Frame::is_lent);
        Self { small, large, cap, lent, misses: 0 }
    }

    /// An empty frame for one MTU-size packet.
    #[inline]
    pub fn small(&mut self) -> Frame {
        self.small.pop().unwrap_or_else(|| {
            self.misses += 1;
            Frame::with_capacity(SMALL)
        })
    }

    /// An empty frame for a super-frame or a receive buffer.
    #[inline]
    pub fn large(&mut self) -> Frame {
        self.large.pop().unwrap_or_else(|| {
            self.misses += 1;
            Frame::with_capacity(LARGE)
        })
    }

    /// Takes a frame back; slabs of any other size are freed.
    #[inline]
    pub fn give(&mut self, mut frame: Frame) {
        frame.reset();
        frame.release();
        let (list, cap) = match frame.capacity() + HEADROOM {
            n if n == HEADROOM + SMALL => (&mut self.small, self.cap.0),
            n if n == HEADROOM + LARGE => (&mut self.large, self.cap.1),
            _ => return,
        };
        if list.len() < cap && (frame.is_lent() || !self.lent) {
            list.push(frame);
        }
    }

    /// How often a list was empty and a slab had to be allocated.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_given_is_the_next_taken() {
        let mut pool = Pool::new(2, 2);
        let mut f = pool.large();
        assert!(f.copy_from(b"mark"));
        let at = f.data().as_ptr();
        pool.give(f);
        let mut again = pool.large();
        assert!(again.is_empty());
        assert_eq!(again.spare_mut().as_ptr(), at);
        assert_eq!(pool.misses(), 0);
    }

    #[test]
    fn a_pool_of_lent_frames_keeps_no_others() {
        let lent = |size| Frame::lent(vec![0; HEADROOM + size].leak());
        let mut pool = Pool::of(vec![lent(SMALL)], vec![lent(LARGE)]);
        let (a, b) = (pool.small(), pool.small());
        assert!(a.is_lent() && !b.is_lent());
        pool.give(b);
        pool.give(a);
        assert!(pool.small().is_lent());
        assert_eq!(pool.misses(), 1);
    }

    #[test]
    fn an_empty_list_counts_and_a_full_one_frees() {
        let mut pool = Pool::new(1, 0);
        let (a, b) = (pool.small(), pool.small());
        assert_eq!(pool.misses(), 1);
        pool.give(a);
        pool.give(b);
        pool.give(Frame::with_capacity(77));
        let _c = pool.small();
        assert_eq!(pool.misses(), 1);
        let _d = pool.small();
        let _e = pool.large();
        assert_eq!(pool.misses(), 3);
    }
}
