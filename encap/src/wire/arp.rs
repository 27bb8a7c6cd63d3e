//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::mac::Mac;
use crate::parse::ethertype;

/// The 28 bytes behind the Ethernet header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Arp {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    /// [`REQUEST`](Self::REQUEST) or [`REPLY`](Self::REPLY).
    pub op: U16,
    /// Ethernet address of the sender.
    pub sender_mac: Mac,
    sender_ip: [u8; 4],
    /// Ethernet address of the target; of no meaning in a request.
    pub target_mac: Mac,
    target_ip: [u8; 4],
}

impl Arp {
    /// Bytes.
    pub const LEN: usize = 28;
    /// Who has the target address?
    pub const REQUEST: u16 = 1;
    /// The sender has.
    pub const REPLY: u16 = 2;

    /// A packet of operation `op`.
    pub fn new(op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: U16::new(ethertype::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            op: U16::new(op),
            sender_mac: sender.0,
            sender_ip: sender.1.octets(),
            target_mac: target.0,
            target_ip: target.1.octets(),
        }
    }

    /// The packet behind an Ethernet header; `None` when it is cut off or not IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<&Self> {
        let (arp, _) = super::view::<Self>(bytes)?;
        let ours = (arp.hardware.get(), arp.protocol.get(), arp.hardware_len, arp.protocol_len)
            == (1, ethertype::IPV4, 6, 4);
        ours.then_some(arp)
    }

    /// IPv4 address of the sender.
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.sender_ip.into()
    }

    /// IPv4 address asked for, or answered to.
    pub fn target_ip(&self) -> Ipv4Addr {
        self.target_ip.into()
    }

    /// The answer to this request: `mac` has the address asked for.
    pub fn reply(&self, mac: Mac) -> Self {
        Self::new(Self::REPLY, (mac, self.target_ip()), (self.sender_mac, self.sender_ip()))
    }
}

const _: () = assert!(size_of::<Arp>() == Arp::LEN);
