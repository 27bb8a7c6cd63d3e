//! The Internet checksum: RFC 1071 sums, RFC 1624 updates, pseudo-headers of RFC 9293 and RFC 8200 section 8.1.
//!
//! One's-complement addition does not care about byte order (RFC 1071 section 2B), so bytes are added as native 64-bit
//! words and only the folded result is turned around. Sums of pieces are combined with [`Sum::plus`]; a piece that
//! starts at an odd offset is turned with [`Sum::odd`] first.

use crate::parse::Parsed;
use std::net::{Ipv4Addr, Ipv6Addr};

/// IP protocol numbers with a checksum this module can place.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// A running one's-complement sum, not yet folded to 16 bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds another sum.
    #[inline]
    pub const fn plus(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + carry as u64)
    }

    /// Adds one 16-bit field, given by value.
    #[inline]
    pub const fn word(self, value: u16) -> Self {
        self.plus(Self(value.to_be() as u64))
    }

    /// Adds one 32-bit field that starts at an even offset, given by value.
    #[inline]
    pub const fn long(self, value: u32) -> Self {
        self.plus(Self(value.to_be() as u64))
    }

    /// This sum as seen from a place one byte further on: for pieces that start at an odd offset.
    #[inline]
    pub const fn odd(self) -> Self {
        Self(self.0.rotate_left(8))
    }

    /// The sum in 16 bits, as the value a header field would hold.
    #[inline]
    pub const fn fold(self) -> u16 {
        let v = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let v = (v >> 32) + (v & 0xffff_ffff);
        let v = (v >> 16) + (v & 0xffff);
        let v = (v >> 16) + (v & 0xffff);
        (v as u16).to_be()
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The sum of `bytes`, the first of which is at an even offset.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    let (blocks, tail) = bytes.as_chunks::<64>();
    // Four independent add-with-carry chains: the low half carries into the high half, which is folded at the end.
    let mut acc = [0u128; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            acc[i & 3] += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let mut total = acc.iter().fold(Sum::ZERO, |s, a| s.plus(Sum(*a as u64)).plus(Sum((*a >> 64) as u64)));
    let (words, mut rest) = tail.as_chunks::<8>();
    for word in words {
        total = total.plus(Sum(u64::from_ne_bytes(*word)));
    }
    if let Some((word, more)) = rest.split_first_chunk::<4>() {
        total = total.plus(Sum(u64::from(u32::from_ne_bytes(*word))));
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<2>() {
        total = total.plus(Sum(u64::from(u16::from_ne_bytes(*word))));
        rest = more;
    }
    if let [last] = rest {
        total = total.plus(Sum(u64::from(u16::from_ne_bytes([*last, 0]))));
    }
    total
}

/// The sum of an IPv4 header without options.
#[inline]
pub fn sum20(header: &[u8; 20]) -> Sum {
    let [a, b, c, d, e] = header.as_chunks::<4>().0 else { return Sum::ZERO };
    let add = |w: &[u8; 4]| u64::from(u32::from_ne_bytes(*w));
    Sum(add(a) + add(b) + add(c) + add(d) + add(e))
}

/// The pseudo-header of an IPv4 upper-layer checksum; `len` is header and payload of the upper layer, in bytes.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: u16) -> Sum {
    Sum::ZERO.long(src.to_bits()).long(dst.to_bits()).word(u16::from(proto)).word(len)
}

/// The pseudo-header of an IPv6 upper-layer checksum (RFC 8200 section 8.1); `len` in bytes.
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, len: u32) -> Sum {
    sum(&src.octets()).plus(sum(&dst.octets())).long(len).word(u16::from(proto))
}

/// The pseudo-header of a parsed packet whose upper layer is `len` bytes long.
#[inline]
pub fn pseudo(p: &Parsed, len: u32) -> Sum {
    if p.v6 {
        pseudo_v6(Ipv6Addr::from_bits(p.src), Ipv6Addr::from_bits(p.dst), p.proto, len)
    } else {
        Sum::ZERO.long(p.src as u32).long(p.dst as u32).long(len).word(u16::from(p.proto))
    }
}

/// The checksum of a header in which one 16-bit field changed from `old` to `new` (RFC 1624 equation 3).
#[inline]
pub const fn update16(check: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!check).word(!old).word(new).finish()
}

/// Where the checksum field is, from the start of the upper-layer header.
#[inline]
pub const fn l4_field(proto: u8) -> Option<usize> {
    match proto {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// The right value of the upper-layer checksum of a whole, unfragmented frame. `None` when the protocol has no checksum
/// we know, or the frame ends before its IP length.
///
/// A UDP checksum that comes out as zero is given as `0xffff` (RFC 768).
pub fn l4_checksum(frame: &[u8], p: &Parsed) -> Option<u16> {
    let field = l4_field(p.proto)?;
    let upper = frame.get(usize::from(p.l4)..usize::from(p.l3) + p.ip_len as usize)?;
    let (front, back) = (upper.get(..field)?, upper.get(field + 2..)?);
    let head = if p.proto == ICMP { Sum::ZERO } else { pseudo(p, upper.len() as u32) };
    let check = head.plus(sum(front)).plus(sum(back)).finish();
    Some(if check == 0 && p.proto == UDP { 0xffff } else { check })
}

/// Writes the right upper-layer checksum into a whole, unfragmented frame. False when [`l4_checksum`] knows none.
pub fn fill_l4(frame: &mut [u8], p: &Parsed) -> bool {
    let Some(check) = l4_checksum(frame, p) else { return false };
    let Some(field) = l4_field(p.proto) else { return false };
    let at = usize::from(p.l4) + field;
    match frame.get_mut(at..at + 2) {
        Some(bytes) => {
            bytes.copy_from_slice(&check.to_be_bytes());
            true
        }
        None => false,
    }
}

/// True when the upper-layer checksum of a whole, unfragmented frame is right, or absent as UDP over IPv4 may have it.
pub fn verify_l4(frame: &[u8], p: &Parsed) -> bool {
    let Some(field) = l4_field(p.proto) else { return true };
    let Some(upper) = frame.get(usize::from(p.l4)..usize::from(p.l3) + p.ip_len as usize) else {
        return false;
    };
    let Some(check) = upper.get(field..field + 2) else { return false };
    if p.proto == UDP && check == [0, 0] {
        return !p.v6;
    }
    let head = if p.proto == ICMP { Sum::ZERO } else { pseudo(p, upper.len() as u32) };
    head.plus(sum(upper)).fold() == 0xffff
}

#[cfg(test)]
mod tests;
