//! What the switch says in its own name: as a pod's gateway, and as a router on a packet's way.
//!
//! Pure builders: the request's bytes and what the parser found in them go in, a finished Ethernet frame comes out in
//! a buffer of the caller's. Called by a worker on its own frames. Never done here: sending, counting, rate limiting
//! ([`crate::icmp_limit`]), reading a clock, allocating, and learning anything from what a pod says: a pod cannot
//! change what another one is told.
//!
//! * `neighbor.rs`: ARP (RFC 826) and neighbour discovery (RFC 4861).
//! * `echo.rs`: ping.
//! * `error.rs`: ICMP errors (RFC 792, 1122, 1191, 1812, 4443).

mod echo;
mod error;
mod neighbor;
#[cfg(test)]
mod tests;

pub use echo::echo;
pub use error::{IcmpError, Origin, icmp_error};
pub use neighbor::{arp, neighbor};

use std::net::{Ipv4Addr, Ipv6Addr};

use encap::Mac;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv6Packet};

const ETH: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// TTL and hop limit of what we send, neighbour discovery apart.
const HOPS: u8 = 64;
/// Hop limit of neighbour discovery, which proves that no router was passed (RFC 4861 section 7.1).
const ND_HOPS: u8 = 255;

/// Why there is no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoReply {
    /// Well-formed, and not a question to us.
    #[error("not a question to the gateway")]
    NotOurs,
    /// Breaks the rules of its protocol.
    #[error("malformed request")]
    Malformed,
    /// A router solicitation: well-formed, and never answered, since pods are configured and not advertised to.
    #[error("router solicitation")]
    RouterSolicitation,
    /// An ICMP error about this packet is forbidden (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
    #[error("no ICMP error may be sent about this packet")]
    Forbidden,
    /// The reply does not fit the buffer.
    #[error("the reply does not fit the buffer")]
    NoRoom,
}

fn hardware(mac: Mac) -> EthernetAddress {
    EthernetAddress(mac.0)
}

/// The IPv4 address in an IPv4-mapped one.
fn v4(addr: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(addr as u32)
}

fn v6(addr: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(addr)
}

/// Zeroes `len` bytes of `room`, writes the Ethernet header, and returns the rest.
fn ethernet(
    room: &mut [u8],
    len: usize,
    dst: Mac,
    src: Mac,
    ethertype: EthernetProtocol,
) -> Result<&mut [u8], NoReply> {
    let frame = room.get_mut(..len).ok_or(NoReply::NoRoom)?;
    frame.fill(0);
    let mut eth = EthernetFrame::new_unchecked(&mut *frame);
    eth.set_dst_addr(hardware(dst));
    eth.set_src_addr(hardware(src));
    eth.set_ethertype(ethertype);
    Ok(&mut frame[ETH..])
}

/// Writes the IPv6 header of an ICMPv6 message that fills `packet`, and returns the message.
fn ipv6(packet: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, hops: u8) -> &mut [u8] {
    let payload = packet.len() - IPV6;
    let mut ip = Ipv6Packet::new_unchecked(&mut *packet);
    ip.set_version(6);
    ip.set_payload_len(payload as u16);
    ip.set_next_header(smoltcp::wire::IpProtocol::Icmpv6);
    ip.set_hop_limit(hops);
    ip.set_src_addr(src);
    ip.set_dst_addr(dst);
    &mut packet[IPV6..]
}

/// Writes the IPv4 header of an ICMP message that fills `packet`, and returns the message. Never fragmented, so the
/// identification is free (RFC 6864 section 4.1).
fn ipv4(packet: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, dscp: u8) -> &mut [u8] {
    let len = packet.len();
    let mut ip = smoltcp::wire::Ipv4Packet::new_unchecked(&mut *packet);
    ip.set_version(4);
    ip.set_header_len(IPV4 as u8);
    ip.set_dscp(dscp);
    ip.set_total_len(len as u16);
    ip.set_dont_frag(true);
    ip.set_hop_limit(HOPS);
    ip.set_next_header(smoltcp::wire::IpProtocol::Icmp);
    ip.set_src_addr(src);
    ip.set_dst_addr(dst);
    ip.fill_checksum();
    &mut packet[IPV4..]
}
