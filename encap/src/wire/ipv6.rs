//! The fixed IPv6 header (RFC 8200 section 3) and the fragment header (section 4.5).

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ```text
/// ├ version (4 bits), traffic class (8), flow label (20) ┼ payload length (2) ┼ next header ┼ hop limit ┤
/// ├ source (16) ┼ destination (16) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Ipv6Header {
    version_class_label: U32,
    /// Bytes behind this header, extension headers included.
    pub payload_len: U16,
    /// What follows: an extension header or the upper layer.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

impl Ipv6Header {
    /// Bytes.
    pub const LEN: usize = 40;

    /// A header for `payload` bytes; traffic class and flow label are zero.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8, payload: u16) -> Self {
        Self {
            version_class_label: U32::new(6 << 28),
            payload_len: U16::new(payload),
            next_header,
            hop_limit,
            src: src.octets(),
            dst: dst.octets(),
        }
    }

    /// The version nibble; 6 in an IPv6 packet.
    pub const fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    /// DSCP (6 bits) and ECN (2).
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// The flow label (RFC 6437), 20 bits.
    pub const fn flow_label(&self) -> u32 {
        self.version_class_label.get() & 0x000f_ffff
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        self.src.into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        self.dst.into()
    }
}

/// The fragment header, next header 44.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentHeader {
    /// What the first fragment holds behind this header.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in bytes (upper 13 bits) and More Fragments (lowest bit).
    pub offset_more: U16,
    /// Names the datagram.
    pub id: U32,
}

impl FragmentHeader {
    /// Bytes.
    pub const LEN: usize = 8;

    /// Byte offset of the fragment.
    pub const fn offset(&self) -> u16 {
        self.offset_more.get() & 0xfff8
    }

    /// True for all fragments but the last.
    pub const fn more(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }
}

const _: () = assert!(size_of::<Ipv6Header>() == Ipv6Header::LEN);
const _: () = assert!(size_of::<FragmentHeader>() == FragmentHeader::LEN);
