//! The UDP header (RFC 768).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ```text
/// ├ source port (2) ┼ destination port (2) ┼ length (2) ┼ checksum (2) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Header and payload, in bytes.
    pub len: U16,
    /// Checksum; zero means none, over IPv4 only.
    pub checksum: U16,
}

impl UdpHeader {
    /// Bytes.
    pub const LEN: usize = 8;

    /// A header for `payload` bytes, its checksum zero.
    pub const fn new(sport: u16, dport: u16, payload: u16) -> Self {
        Self {
            sport: U16::new(sport),
            dport: U16::new(dport),
            len: U16::new(payload.saturating_add(Self::LEN as u16)),
            checksum: U16::new(0),
        }
    }
}

const _: () = assert!(size_of::<UdpHeader>() == UdpHeader::LEN);
