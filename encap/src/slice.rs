//! A TCP super-frame in slices: between our own nodes, after one has asked and the other has answered.
//!
//! In VXLAN every datagram repeats the inner headers and needs an inner checksum of its own. Slices carry the super-frame
//! as the pod made it: its headers once, in the first slice, its payload in all of them; what the outer UDP checksum
//! covers needs no other one on the way. What is lost costs no more than itself, but for a first slice, without which
//! the others of its train cannot be placed. A slice is as large as the segments it stands for would have been.
//!
//! ```text
//!  0        1       2       3
//!  ├ 0x48 ──┼ index ┼─── train ────┤   0x08: the VNI is valid (RFC 7348); 0x40: not VXLAN's, this
//!  ├────────── VNI ─────────┼ count ┤   slices of the train; 0: a question (index 0), its answer (index 1)
//!  ├ last word of the destination ──┤   which worker of the receiver it is for
//!  ├── segment size ──┼────── 0 ────┤   in the first slice alone
//! ```
//!
//! Receivers that do not know the bit drop such a datagram (Linux does), so asking one costs nothing.

use crate::vxlan::{self, VXLAN_LEN};

/// Bytes before the payload of a slice.
pub const SLICE_LEN: usize = 12;
/// Bytes that the first slice has behind those.
pub const SIZE_LEN: usize = 4;
/// Most slices of a train.
pub const MAX_SLICES: usize = 64;

/// The first byte of every slice.
pub const FLAGS: u8 = 0x48;

/// Why a datagram is no slice that can be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SliceError {
    /// Shorter than its headers.
    #[error("slice is cut off")]
    Truncated,
    /// Index, count or reserved bits that no sender writes.
    #[error("malformed slice header")]
    Header,
    /// Longer or shorter than its place in the train.
    #[error("slice of another length than its train's")]
    Length,
    /// The headers in a first slice are not those of a TCP super-frame.
    #[error("first slice of something that is no TCP super-frame")]
    Inner,
    /// The first slice of its train has not come.
    #[error("slice of a train whose first slice is missing")]
    Headless,
}

/// What a datagram with the slice bit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slice {
    /// A part of a super-frame.
    Part(Part),
    /// Does the receiver take slices? It answers with the same number.
    Ask(u64),
    /// It does.
    Answer(u64),
}

/// A slice's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The segment, 24 bits.
    pub vni: u32,
    /// Which super-frame of its outer flow.
    pub train: u16,
    /// Which slice of it, from 0.
    pub index: u8,
    /// How many there are, 2 to [`MAX_SLICES`].
    pub count: u8,
    /// Last four bytes of the inner destination.
    pub to: u32,
}

/// Bits of the number in a question and its answer.
pub const NUMBER_BITS: u32 = 48;

impl Part {
    /// The header.
    #[inline]
    #[must_use]
    pub fn header(&self) -> [u8; SLICE_LEN] {
        emit(self.index, self.train, self.vni, self.count, self.to)
    }
}

/// Does this datagram have the slice bit?
#[inline]
#[must_use]
pub fn is_slice(datagram: &[u8]) -> bool {
    datagram.first() == Some(&FLAGS)
}

/// A question, with the low [`NUMBER_BITS`] of `number`, in segment `vni`.
#[must_use]
pub fn ask(vni: u32, number: u64) -> [u8; SLICE_LEN] {
    emit(0, (number >> 32) as u16, vni, 0, number as u32)
}

/// The answer to it.
#[must_use]
pub fn answer(vni: u32, number: u64) -> [u8; SLICE_LEN] {
    emit(1, (number >> 32) as u16, vni, 0, number as u32)
}

fn emit(index: u8, train: u16, vni: u32, count: u8, to: u32) -> [u8; SLICE_LEN] {
    let mut out = [0; SLICE_LEN];
    out[..VXLAN_LEN].copy_from_slice(&vxlan::header(vni));
    out[0] = FLAGS;
    out[1] = index;
    out[2..4].copy_from_slice(&train.to_be_bytes());
    out[7] = count;
    out[8..].copy_from_slice(&to.to_be_bytes());
    out
}

/// Reads a datagram that [is one](is_slice); its VNI, and what it is.
///
/// # Errors
/// [`SliceError::Truncated`], [`SliceError::Header`].
#[inline]
pub fn parse(datagram: &[u8]) -> Result<(u32, Slice), SliceError> {
    let [flags, index, t0, t1, v0, v1, v2, count, to @ ..] =
        *datagram.first_chunk::<SLICE_LEN>().ok_or(SliceError::Truncated)?;
    let (train, to) = (u16::from_be_bytes([t0, t1]), u32::from_be_bytes(to));
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let number = u64::from(train) << 32 | u64::from(to);
    if flags != FLAGS {
        return Err(SliceError::Header);
    }
    let slice = match (count, index) {
        (0, 0) => Slice::Ask(number),
        (0, 1) => Slice::Answer(number),
        (2.., _) if index < count && usize::from(count) <= MAX_SLICES => {
            Slice::Part(Part { vni, train, index, count, to })
        }
        _ => return Err(SliceError::Header),
    };
    Ok((vni, slice))
}

/// How a super-frame of `total` bytes lies in slices of `size` bytes, headers of the slices included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    size: usize,
    total: usize,
}

impl Layout {
    /// None when it does not take 2 to [`MAX_SLICES`] of them.
    pub(crate) fn new(size: usize, total: usize) -> Option<Layout> {
        let layout = Layout { size, total };
        (size > 2 * (SLICE_LEN + SIZE_LEN) && (2..=MAX_SLICES).contains(&layout.count())).then_some(layout)
    }

    /// Slices.
    pub(crate) fn count(&self) -> usize {
        1 + self.total.saturating_sub(self.first()).div_ceil(self.size - SLICE_LEN)
    }

    /// Bytes of the frame in the first slice.
    pub(crate) fn first(&self) -> usize {
        self.size - SLICE_LEN - SIZE_LEN
    }

    /// The bytes of the frame, from and to, that slice `index` has.
    pub(crate) fn range(&self, index: usize) -> (usize, usize) {
        let end = self.first() + index * (self.size - SLICE_LEN);
        let start = if index == 0 { 0 } else { end - (self.size - SLICE_LEN) };
        (start, end.min(self.total))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_says_what_it_was_made_of() {
        let part = Part { vni: 0xab_cdef, train: 0x1234, index: 3, count: 45, to: 0x0af4_0105 };
        let bytes = part.header();
        assert_eq!(bytes, [0x48, 3, 0x12, 0x34, 0xab, 0xcd, 0xef, 45, 0x0a, 0xf4, 1, 5]);
        assert_eq!(parse(&bytes), Ok((0xab_cdef, Slice::Part(part))));
        assert!(is_slice(&bytes));
        // A receiver that does not know them takes them for no VXLAN.
        assert_eq!(vxlan::parse(&bytes), Err(vxlan::VxlanError::Reserved));
        let number = 0x1122_3344_5566;
        assert_eq!(parse(&ask(7, number)), Ok((7, Slice::Ask(number))));
        assert_eq!(parse(&answer(7, number)), Ok((7, Slice::Answer(number))));
    }

    #[test]
    fn what_no_sender_writes_is_an_error() {
        let part = |index, count| Part { vni: 1, train: 1, index, count, to: 1 }.header();
        for (index, count) in [(0, 1), (1, 1), (2, 2), (64, 65), (9, 65), (2, 0), (255, 0)] {
            assert_eq!(parse(&part(index, count)), Err(SliceError::Header), "{index} of {count}");
        }
        assert_eq!(parse(&part(0, 2)[..11]), Err(SliceError::Truncated));
        assert_eq!(parse(&vxlan::header(1)), Err(SliceError::Truncated));
    }

    proptest! {
        #[test]
        fn slices_lie_side_by_side(size in 33usize..9000, total in 1usize..65_550) {
            if let Some(layout) = Layout::new(size, total) {
                let mut at = 0;
                for index in 0..layout.count() {
                    let (from, to) = layout.range(index);
                    prop_assert_eq!(from, at);
                    prop_assert!(to > from);
                    let header = SLICE_LEN + if index == 0 { SIZE_LEN } else { 0 };
                    prop_assert!(to - from + header == size || index + 1 == layout.count());
                    prop_assert!(to - from + header <= size);
                    at = to;
                }
                prop_assert_eq!(at, total);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse(&bytes);
        }
    }
}
