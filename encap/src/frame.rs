//! A frame: one slab of bytes with headroom, and the virtio metadata that came with it.
//!
//! A frame has one owner and moves by value; it is never shared between threads and never copied on the forwarding
//! path. Encapsulation moves an index, not the payload. The slab is zeroed once, when it is allocated, and recycled by
//! [`Pool`](crate::pool::Pool) afterwards: bytes outside `data()` are leftovers of earlier frames.

mod mark;

use std::ops::{Deref, DerefMut};

use crate::vnet::VnetHdr;

pub use mark::Found;

/// Bytes kept free in front of every received frame, for the deepest header stack we push.
pub const HEADROOM: usize = 192;
/// Payload bytes a small slab holds behind the headroom: one MTU-size frame.
pub const SMALL: usize = 2048;
/// Payload bytes a large slab holds behind the headroom: a 64 KiB super-frame and its headers.
pub const LARGE: usize = 66_560;

// virtio (tunnel form) + Ethernet + IPv6 + UDP + VXLAN must fit in front of a frame, and a super-frame in a large slab.
const _: () = assert!(HEADROOM >= 24 + 14 + 40 + 8 + 8);
const _: () = assert!(LARGE >= 65_535 + 14 + 4);

/// A frame's memory: its own, or a part of memory that outlives the process.
enum Slab {
    Own(Box<[u8]>),
    Lent(&'static mut [u8]),
}

impl Deref for Slab {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Slab::Own(bytes) => bytes,
            Slab::Lent(bytes) => bytes,
        }
    }
}

impl DerefMut for Slab {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Slab::Own(bytes) => bytes,
            Slab::Lent(bytes) => bytes,
        }
    }
}

/// One Ethernet frame and its offload metadata.
pub struct Frame {
    slab: Slab,
    start: usize,
    end: usize,
    /// What the virtio header of the device said about this frame; the default says "plain frame".
    pub vnet: VnetHdr,
}

impl Frame {
    /// An empty frame that can take `n` bytes behind the headroom. Allocates: for set-up and tests.
    pub fn with_capacity(n: usize) -> Self {
        let slab = vec![0; HEADROOM + n].into_boxed_slice();
        Self { slab: Slab::Own(slab), start: HEADROOM, end: HEADROOM, vnet: VnetHdr::default() }
    }

    /// The bytes of the frame.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.slab[self.start..self.end]
    }

    /// The bytes of the frame, to rewrite them.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.slab[self.start..self.end]
    }

    /// Bytes in the frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True when the frame holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// True when the slab holds more than [`SMALL`] bytes.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.slab.len() > HEADROOM + SMALL
    }

    /// Bytes [`push`](Self::push) can still prepend.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Bytes from [`HEADROOM`] to the end of the slab: the longest frame that can be received into it.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.slab.len().saturating_sub(HEADROOM)
    }

    /// Prepends `n` bytes and returns them; their content is undefined. The payload does not move.
    ///
    /// # Panics
    /// When `n` exceeds [`headroom`](Self::headroom). `n` is the size of a header of ours, never a number from a wire.
    #[inline]
    pub fn push(&mut self, n: usize) -> &mut [u8] {
        self.start -= n;
        &mut self.slab[self.start..self.start + n]
    }

    /// Removes `n` bytes in front. False, and nothing done, when the frame is shorter.
    #[inline]
    pub fn pull(&mut self, n: usize) -> bool {
        let fits = n <= self.len();
        if fits {
            self.start += n;
        }
        fits
    }

    /// Cuts the frame to `len` bytes; longer than it is does nothing.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }

    /// Appends zeros until the frame has `len` bytes; shorter than it is, or longer than the slab, does nothing.
    #[inline]
    pub fn pad(&mut self, len: usize) {
        let (from, to) = (self.end, self.start.saturating_add(len));
        if let Some(room) = self.slab.get_mut(from..to) {
            room.fill(0);
            self.end = to;
        }
    }

    /// Makes the frame empty again: full headroom, default metadata.
    #[inline]
    pub fn reset(&mut self) {
        self.start = HEADROOM.min(self.slab.len());
        self.end = self.start;
        self.vnet = VnetHdr::default();
    }

    /// The bytes a receive may fill: from the start of the frame to the end of the slab. Call
    /// [`set_len`](Self::set_len) afterwards.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.slab[self.start..]
    }

    /// Declares the first `n` bytes behind the headroom to be the frame; clamped to the slab.
    #[inline]
    pub fn set_len(&mut self, n: usize) {
        self.end = self.start.saturating_add(n).min(self.slab.len());
    }

    /// Resets the frame and fills it with `bytes`. False, and the frame empty, when they do not fit.
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        self.reset();
        let Some(room) = self.spare_mut().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.set_len(bytes.len());
        true
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("headroom", &self.headroom())
            .field("large", &self.is_large())
            .field("vnet", &self.vnet)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_and_pull_move_the_start_only() {
        let mut f = Frame::with_capacity(SMALL);
        assert!(f.copy_from(b"payload"));
        f.push(3).copy_from_slice(b"hdr");
        assert_eq!(f.data(), b"hdrpayload");
        assert_eq!(f.headroom(), HEADROOM - 3);
        assert!(f.pull(3));
        assert_eq!(f.data(), b"payload");
        assert!(!f.pull(8));
        assert_eq!(f.data(), b"payload");
    }

    #[test]
    fn lengths_are_clamped_to_the_slab() {
        let mut f = Frame::with_capacity(100);
        f.set_len(usize::MAX);
        assert_eq!(f.len(), 100);
        f.truncate(usize::MAX);
        assert_eq!(f.len(), 100);
        f.truncate(10);
        assert_eq!(f.len(), 10);
        assert!(!f.copy_from(&[0; 101]));
        assert!(f.is_empty());
        assert_eq!(f.capacity(), 100);
    }

    #[test]
    fn padding_is_zero_and_stays_in_the_slab() {
        let mut f = Frame::with_capacity(8);
        f.spare_mut().fill(0xaa);
        f.set_len(3);
        f.pad(5);
        assert_eq!(f.data(), [0xaa, 0xaa, 0xaa, 0, 0]);
        f.pad(4);
        f.pad(9);
        assert_eq!(f.len(), 5);
    }

    #[test]
    fn reset_forgets_the_metadata() {
        let mut f = Frame::with_capacity(LARGE);
        f.vnet.flags = VnetHdr::NEEDS_CSUM;
        f.push(8);
        f.reset();
        assert_eq!(f.vnet, VnetHdr::default());
        assert_eq!((f.len(), f.headroom(), f.spare_mut().len()), (0, HEADROOM, LARGE));
        assert!(f.is_large());
    }
}
