//! ICMP (RFC 792), the eight bytes all its messages start with.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable; code [`NET_UNREACHABLE`] and on.
pub const UNREACHABLE: u8 = 3;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// No route.
pub const NET_UNREACHABLE: u8 = 0;
/// The host does not answer.
pub const HOST_UNREACHABLE: u8 = 1;
/// Too big and DF set; the second field of `rest` is the next hop's MTU (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Administratively prohibited (RFC 1812 section 5.2.7.1).
pub const PROHIBITED: u8 = 13;

/// ```text
/// ├ type ┼ code ┼ checksum (2) ┼ identifier, unused, … (2) ┼ sequence number, MTU, … (2) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type; ICMPv6 has its own numbers, see [`icmpv6`](super::icmpv6).
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum over the whole message; for ICMPv6 with a pseudo-header.
    pub checksum: U16,
    /// What the type makes of it: identifier and sequence number, or unused and MTU.
    pub rest: [U16; 2],
}

impl IcmpHeader {
    /// Bytes.
    pub const LEN: usize = 8;

    /// A header with its checksum still to be filled.
    pub const fn new(kind: u8, code: u8, rest: [u16; 2]) -> Self {
        let [a, b] = rest;
        Self { kind, code, checksum: U16::new(0), rest: [U16::new(a), U16::new(b)] }
    }

    /// True for the ICMPv4 messages that report an error: they must not be answered by another (RFC 1122 section
    /// 3.2.2).
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | 4 | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// Writes the checksum of an ICMPv4 message, header and body; fewer than four bytes stay as they are.
pub fn fill_checksum(message: &mut [u8]) {
    if message.len() >= 4 {
        message[2..4].fill(0);
        let check = checksum::sum(message).finish();
        message[2..4].copy_from_slice(&check.to_be_bytes());
    }
}

const _: () = assert!(size_of::<IcmpHeader>() == IcmpHeader::LEN);
