//! The fixed TCP header (RFC 9293 section 3.1).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// FIN flag.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// PSH flag.
pub const PSH: u8 = 0x08;
/// ACK flag.
pub const ACK: u8 = 0x10;
/// URG flag.
pub const URG: u8 = 0x20;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// ```text
/// ├ source port (2) ┼ destination port (2) ┼ sequence number (4) ┼ acknowledgment number (4) ┤
/// ├ data offset (4 bits), reserved (4) ┼ flags ┼ window (2) ┼ checksum (2) ┼ urgent pointer (2) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub sport: U16,
    /// Destination port.
    pub dport: U16,
    /// Number of the first payload byte.
    pub seq: U32,
    /// Next byte expected.
    pub ack: U32,
    offset: u8,
    /// [`FIN`] to [`CWR`].
    pub flags: u8,
    /// Bytes the sender takes.
    pub window: U16,
    /// Checksum.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

impl TcpHeader {
    /// Bytes, without options.
    pub const LEN: usize = 20;

    /// A header without options, its checksum still to be filled.
    pub const fn new(sport: u16, dport: u16, seq: u32, ack: u32, flags: u8, window: u16) -> Self {
        Self {
            sport: U16::new(sport),
            dport: U16::new(dport),
            seq: U32::new(seq),
            ack: U32::new(ack),
            offset: 5 << 4,
            flags,
            window: U16::new(window),
            checksum: U16::new(0),
            urgent: U16::new(0),
        }
    }

    /// Bytes of the header, options included: 0 to 60.
    pub const fn header_len(&self) -> usize {
        (self.offset >> 4) as usize * 4
    }
}

const _: () = assert!(size_of::<TcpHeader>() == TcpHeader::LEN);
