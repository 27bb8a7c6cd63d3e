//! ICMPv6 (RFC 4443) and neighbor discovery (RFC 4861 sections 4.3, 4.4 and 4.6.1).
//!
//! The first eight bytes are [`IcmpHeader`](super::icmp::IcmpHeader)'s.

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, ICMPV6};
use crate::mac::Mac;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big; the last four header bytes are the MTU.
pub const TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Router solicitation.
pub const ROUTER_SOLICIT: u8 = 133;
/// Router advertisement.
pub const ROUTER_ADVERT: u8 = 134;
/// Neighbor solicitation.
pub const NEIGHBOR_SOLICIT: u8 = 135;
/// Neighbor advertisement.
pub const NEIGHBOR_ADVERT: u8 = 136;
/// Redirect.
pub const REDIRECT: u8 = 137;

/// A neighbor solicitation or advertisement and one link-layer address option: 32 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Neighbor {
    /// [`NEIGHBOR_SOLICIT`] or [`NEIGHBOR_ADVERT`].
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// [`ROUTER`](Self::ROUTER), [`SOLICITED`](Self::SOLICITED), [`OVERRIDE`](Self::OVERRIDE); zero in a solicitation.
    pub flags: U32,
    target: [u8; 16],
    option: u8,
    option_len: u8,
    /// The sender's address in a solicitation, the target's in an advertisement.
    pub mac: Mac,
}

impl Neighbor {
    /// Bytes, option included.
    pub const LEN: usize = 32;
    /// Bytes without the option.
    pub const FIXED: usize = 24;
    /// The sender is a router.
    pub const ROUTER: u32 = 1 << 31;
    /// Answers a solicitation.
    pub const SOLICITED: u32 = 1 << 30;
    /// Replaces what is known.
    pub const OVERRIDE: u32 = 1 << 29;

    /// A solicitation for `target` from the owner of `mac`, its checksum still to be filled.
    pub fn solicit(target: Ipv6Addr, mac: Mac) -> Self {
        Self::new(NEIGHBOR_SOLICIT, 0, target, 1, mac)
    }

    /// An advertisement: `target` is at `mac`; its checksum still to be filled.
    pub fn advert(target: Ipv6Addr, mac: Mac, flags: u32) -> Self {
        Self::new(NEIGHBOR_ADVERT, flags, target, 2, mac)
    }

    fn new(kind: u8, flags: u32, target: Ipv6Addr, option: u8, mac: Mac) -> Self {
        Self {
            kind,
            code: 0,
            checksum: U16::new(0),
            flags: U32::new(flags),
            target: target.octets(),
            option,
            option_len: 1,
            mac,
        }
    }
}

/// The target of a neighbor solicitation or advertisement, whatever its options; `None` for any other message, one that
/// is cut off, has another code, or asks for a multicast address (RFC 4861 section 7.1).
pub fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let fixed = message.first_chunk::<{ Neighbor::FIXED }>()?;
    let target = Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?);
    let ours = matches!(fixed[0], NEIGHBOR_SOLICIT | NEIGHBOR_ADVERT) && fixed[1] == 0;
    (ours && !target.is_multicast()).then_some(target)
}

/// Walks the options of a neighbor discovery message, from `options` on, for a link-layer address of `kind` (1 source,
/// 2 target). `None` when there is none or the options are malformed.
pub fn link_option(mut options: &[u8], kind: u8) -> Option<Mac> {
    loop {
        let (&found, rest) = options.split_first()?;
        let len = usize::from(*rest.first()?) * 8;
        if len == 0 {
            return None;
        }
        let option = options.get(..len)?;
        if found == kind {
            return Mac::read(&option[2..]);
        }
        options = &options[len..];
    }
}

/// Writes the checksum of an ICMPv6 message, header and body; fewer than four bytes stay as they are.
pub fn fill_checksum(message: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) {
    if message.len() >= 4 {
        message[2..4].fill(0);
        let sum = checksum::pseudo_v6(src, dst, ICMPV6, message.len() as u32).plus(checksum::sum(message));
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    }
}

/// The multicast group the owner of `addr` listens on (RFC 4291 section 2.7.1).
pub const fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | (addr.to_bits() & 0x00ff_ffff))
}

const _: () = assert!(size_of::<Neighbor>() == Neighbor::LEN);
