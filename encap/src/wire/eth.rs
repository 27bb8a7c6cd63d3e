//! Ethernet II (RFC 894) and the 802.1Q tag (IEEE 802.1Q-2018 section 9.6).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::mac::Mac;

/// ```text
/// ├ destination (6) ┼ source (6) ┼ ethertype (2) ┤
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct EthHeader {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// What follows, see [`ethertype`](crate::parse::ethertype).
    pub ethertype: U16,
}

impl EthHeader {
    /// Bytes.
    pub const LEN: usize = crate::ETH_LEN;

    /// A header.
    pub const fn new(dst: Mac, src: Mac, ethertype: u16) -> Self {
        Self { dst, src, ethertype: U16::new(ethertype) }
    }
}

/// What an ethertype of 0x8100 or 0x88a8 is followed by.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN (12).
    pub tci: U16,
    /// What follows.
    pub ethertype: U16,
}

impl VlanTag {
    /// Bytes.
    pub const LEN: usize = 4;

    /// The VLAN, 0 for a priority tag.
    pub const fn vlan(&self) -> u16 {
        self.tci.get() & 0x0fff
    }

    /// The priority, 0-7.
    pub const fn priority(&self) -> u8 {
        (self.tci.get() >> 13) as u8
    }
}

const _: () = assert!(size_of::<EthHeader>() == EthHeader::LEN);
const _: () = assert!(size_of::<VlanTag>() == VlanTag::LEN);
