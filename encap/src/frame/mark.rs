//! What a slab says about the frame in it, for whoever finds the memory after its owner has died.
//!
//! The mark lies in the first bytes of the slab, which no tunnel header reaches. A frame is marked before the system call
//! that fills it returns, and the mark goes when the frame is given back to its pool: so whatever a process had read and
//! not yet handed on is found by the next one, if the slab lies in memory that outlives it. A frame that is read tells of
//! itself: its virtio header, which the kernel writes, replaces a byte that no such header begins with.

use super::{Frame, HEADROOM, Slab};
use crate::ETH_LEN;
use crate::vnet::VnetHdr;

const STATE: usize = 0;
const LEN: std::ops::Range<usize> = 4..8;
const SOURCE: std::ops::Range<usize> = 8..16;
const VNET: std::ops::Range<usize> = 16..16 + VnetHdr::LEN;
const _: () = assert!(VNET.end <= HEADROOM - DEEPEST);
/// Bytes of the deepest header stack that is put before a frame.
const DEEPEST: usize = 24 + 14 + 40 + 8 + 8;

const FREE: u8 = 0;
const EXPECTED: u8 = 1;
const HELD: u8 = 2;
const BUFFER: u8 = 3;
/// Where the virtio header will be, before one is there: flags that no kernel sets.
const UNREAD: u8 = 0xee;

/// What a slab's mark says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A frame that was read and not given back.
    Frame {
        /// From where, as [`Frame::expect`] or [`Frame::hold`] was told.
        source: u64,
        /// Its bytes.
        len: usize,
        /// Its virtio header.
        vnet: VnetHdr,
    },
    /// A receive buffer with this number; what is in it is said elsewhere.
    Buffer(usize),
}

impl Frame {
    /// An empty frame in memory that outlives the process. What its mark says of the last owner's frame stays until it is
    /// marked anew or released: ask [`found`](Self::found) first.
    pub fn lent(slab: &'static mut [u8]) -> Frame {
        let start = HEADROOM.min(slab.len());
        Frame { slab: Slab::Lent(slab), start, end: start, vnet: VnetHdr::default() }
    }

    /// Does its memory outlive the process?
    #[inline]
    pub fn is_lent(&self) -> bool {
        matches!(self.slab, Slab::Lent(_))
    }

    /// Makes room for a frame of `source` to be read from a device with a virtio header, which comes first.
    #[inline]
    pub fn expect(&mut self, source: u64) {
        self.reset();
        self.mark(EXPECTED, source, 0);
        if let Some(first) = self.push(VnetHdr::LEN).first_mut() {
            *first = UNREAD;
        }
    }

    /// The frame was read from `source` and is not handed on yet.
    #[inline]
    pub fn hold(&mut self, source: u64) {
        let len = u32::try_from(self.len()).unwrap_or(0);
        let vnet = self.vnet;
        if let Some(place) = self.slab.get_mut(VNET) {
            vnet.emit(place);
        }
        self.mark(HELD, source, len);
    }

    /// The frame is a receive buffer with this number.
    pub fn buffer(&mut self, number: usize) {
        self.mark(BUFFER, number as u64, 0);
    }

    /// The frame takes the place of that receive buffer.
    pub fn take_number(&mut self, of: &Frame) {
        if let Some(Found::Buffer(number)) = of.found() {
            self.buffer(number);
        }
    }

    /// The frame is nobody's.
    #[inline]
    pub fn release(&mut self) {
        if let Some(state) = self.slab.get_mut(STATE) {
            *state = FREE;
        }
    }

    /// What the mark says. The frame itself begins at [`HEADROOM`], whatever was done to it since.
    pub fn found(&self) -> Option<Found> {
        let mark = self.slab.get(..VNET.end)?;
        let source = u64::from_le_bytes(mark[SOURCE].try_into().ok()?);
        let (len, vnet) = match mark[STATE] {
            HELD => {
                let len = u32::from_le_bytes(mark[LEN].try_into().ok()?);
                (len as usize, VnetHdr::parse(&mark[VNET])?)
            }
            EXPECTED => {
                let header = self.slab.get(HEADROOM - VnetHdr::LEN..HEADROOM)?;
                if header[0] == UNREAD {
                    return None;
                }
                (own_length(self.slab.get(HEADROOM..)?)?, VnetHdr::parse(header)?)
            }
            BUFFER => return Some(Found::Buffer(usize::try_from(source).ok()?)),
            _ => return None,
        };
        (len <= self.capacity()).then_some(Found::Frame { source, len, vnet })
    }

    /// Everything behind the headroom, where a frame that was found begins.
    pub fn behind_headroom(&self) -> &[u8] {
        self.slab.get(HEADROOM..).unwrap_or(&[])
    }

    #[inline]
    fn mark(&mut self, state: u8, source: u64, len: u32) {
        let Some(mark) = self.slab.get_mut(..VNET.end) else { return };
        mark[LEN].copy_from_slice(&len.to_le_bytes());
        mark[SOURCE].copy_from_slice(&source.to_le_bytes());
        mark[STATE] = state;
    }
}

/// How long the Ethernet frame at the start of `bytes` is by its own words; what is not IP is as long as the shortest frame.
fn own_length(bytes: &[u8]) -> Option<usize> {
    let half = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    Some(match half(ETH_LEN - 2)? {
        0x0800 => ETH_LEN + half(ETH_LEN + 2)?,
        0x86dd => ETH_LEN + 40 + half(ETH_LEN + 4)?,
        _ => 60,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SMALL;

    fn lent() -> Frame {
        Frame::lent(vec![0; HEADROOM + SMALL].leak())
    }

    #[test]
    fn a_frame_is_found_from_its_reading_until_it_is_released() {
        let mut frame = lent();
        assert_eq!(frame.found(), None);
        assert!(frame.copy_from(b"payload"));
        frame.vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 34, ..VnetHdr::default() };
        frame.hold(7);
        let found = Some(Found::Frame { source: 7, len: 7, vnet: frame.vnet });
        frame.push(DEEPEST).fill(0xff);
        frame.vnet = VnetHdr::default();
        assert_eq!(frame.found(), found, "headers before it change nothing");
        frame.release();
        assert_eq!(frame.found(), None);
    }

    #[test]
    fn a_frame_that_only_the_kernel_has_touched_tells_of_itself() {
        let mut frame = lent();
        frame.expect(9);
        assert_eq!(frame.found(), None, "nothing was read");
        let mut read = vec![0; VnetHdr::LEN + 14 + 28];
        read[VnetHdr::LEN + 12..VnetHdr::LEN + 18].copy_from_slice(&[8, 0, 0x45, 0, 0, 28]);
        frame.spare_mut()[..read.len()].copy_from_slice(&read);
        assert_eq!(frame.found(), Some(Found::Frame { source: 9, len: 42, vnet: VnetHdr::default() }));
        // An ARP request, and IPv6.
        frame.spare_mut()[VnetHdr::LEN + 12..][..2].copy_from_slice(&[8, 6]);
        assert!(matches!(frame.found(), Some(Found::Frame { len: 60, .. })));
        frame.spare_mut()[VnetHdr::LEN + 12..][..8].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 9]);
        assert!(matches!(frame.found(), Some(Found::Frame { len: 63, .. })));
        // One that claims more than there is.
        frame.spare_mut()[VnetHdr::LEN + 18..][..2].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(frame.found(), None);
    }

    #[test]
    fn a_receive_buffer_keeps_its_number() {
        let mut frame = lent();
        frame.buffer(5);
        frame.reset();
        frame.set_len(1000);
        assert_eq!(frame.found(), Some(Found::Buffer(5)));
    }

    #[test]
    fn whatever_the_memory_holds_is_no_frame_outside_it() {
        for state in 0..=u8::MAX {
            let frame = Frame::lent(vec![state; HEADROOM + SMALL].leak());
            if let Some(Found::Frame { len, .. }) = frame.found() {
                assert!(len <= frame.capacity());
            }
            assert_eq!(Frame::lent(vec![state; 3].leak()).found(), None);
        }
    }
}
