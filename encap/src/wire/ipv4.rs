//! The fixed IPv4 header (RFC 791 section 3.1).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum;

/// ```text
/// ├ version/IHL ┼ TOS ┼ total length (2) ┼ identification (2) ┼ flags/offset (2) ┤
/// ├ TTL ┼ protocol ┼ checksum (2) ┼ source (4) ┼ destination (4) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    /// DSCP (6 bits) and ECN (2).
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_len: U16,
    /// Names the datagram a fragment belongs to.
    pub id: U16,
    /// Reserved, DF, MF, and the offset in units of eight bytes.
    pub fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

impl Ipv4Header {
    /// Bytes, without options.
    pub const LEN: usize = 20;
    /// Don't Fragment.
    pub const DF: u16 = 0x4000;
    /// More Fragments.
    pub const MF: u16 = 0x2000;

    /// A header without options for `payload` bytes, its checksum right; not to be fragmented.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(payload.saturating_add(Self::LEN as u16)),
            id: U16::new(0),
            fragment: U16::new(Self::DF),
            ttl,
            protocol,
            checksum: U16::new(0),
            src: src.octets(),
            dst: dst.octets(),
        };
        header.fill_checksum();
        header
    }

    /// The version nibble; 4 in an IPv4 packet.
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of the header, options included: 0 to 60.
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        self.src.into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        self.dst.into()
    }

    /// Byte offset of a fragment.
    pub const fn offset(&self) -> u16 {
        (self.fragment.get() & 0x1fff) * 8
    }

    /// Makes the checksum of a header without options right.
    pub fn fill_checksum(&mut self) {
        self.checksum.set(0);
        self.checksum.set(checksum::sum(self.as_bytes()).finish());
    }
}

const _: () = assert!(size_of::<Ipv4Header>() == Ipv4Header::LEN);
