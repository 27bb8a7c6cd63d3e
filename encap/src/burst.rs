//! A burst: the frames one receive call brought, at most [`BURST`] of them.
//!
//! The storage is allocated once and never grows; whoever owns the burst owns its frames.

use std::ops::RangeBounds;
use std::vec::Drain;

use crate::frame::Frame;

/// Most frames handled in one go.
pub const BURST: usize = 64;

/// Up to [`BURST`] frames, in order of arrival.
#[derive(Debug)]
pub struct Burst {
    frames: Vec<Frame>,
    /// Where its frames come from, as the receiver marks them ([`Frame::hold`]).
    pub source: u64,
}

impl Burst {
    /// An empty burst with all its room.
    pub fn new() -> Self {
        Self { frames: Vec::with_capacity(BURST), source: 0 }
    }

    /// Appends a frame, or hands it back when the burst is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.is_full() {
            return Err(frame);
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Frames held.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Frames that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        BURST - self.frames.len()
    }

    /// True when no frame is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True when no frame fits any more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.frames.len() >= BURST
    }

    /// The frames.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The frames, to rewrite them.
    #[inline]
    pub fn frames_mut(&mut self) -> &mut [Frame] {
        &mut self.frames
    }

    /// Takes the frames of `range` out, in order.
    ///
    /// # Panics
    /// When the range reaches past [`len`](Self::len).
    #[inline]
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> Drain<'_, Frame> {
        self.frames.drain(range)
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_burst_hands_the_frame_back() {
        let mut burst = Burst::new();
        for _ in 0..BURST {
            assert!(burst.push(Frame::with_capacity(1)).is_ok());
        }
        let mut extra = Frame::with_capacity(1);
        assert!(extra.copy_from(b"x"));
        assert_eq!(burst.push(extra).map_err(|f| f.data().to_vec()), Err(b"x".to_vec()));
        assert_eq!((burst.len(), burst.room(), burst.is_full()), (BURST, 0, true));
        assert_eq!(burst.drain(..).count(), BURST);
        assert!(burst.is_empty());
    }
}
