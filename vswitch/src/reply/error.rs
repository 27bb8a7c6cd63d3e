//! ICMP errors toward a packet's sender, and the rules about when to be silent.

use encap::{Frag, Frame, Mac, Parsed, VnetHdr};
use smoltcp::wire::{
    EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4TimeExceeded,
    Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, Icmpv6TimeExceeded, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

use super::{ETH, HOPS, IPV4, IPV6, NoReply, ethernet, ipv4, ipv6, v4, v6};

/// The whole IPv4 error is at most 576 bytes (RFC 1812 section 4.3.2.3).
const LIMIT4: usize = 576;
/// The whole IPv6 error is at most the least MTU (RFC 4443 section 2.4 (c)).
const LIMIT6: usize = 1280;
/// ICMP and ICMPv6 error header.
const ICMP: usize = 8;
/// Internetwork control, as a router marks its errors (RFC 1812 section 4.3.2.5).
const CONTROL: u8 = 48;

/// What went wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// No route to the destination's network.
    NetUnreachable,
    /// The network is known and the host is not there.
    HostUnreachable,
    /// Nobody listens at the port.
    PortUnreachable,
    /// Policy forbids it.
    AdminProhibited,
    /// Larger than the next link takes: fragmentation needed (RFC 1191), packet too big (RFC 8201).
    TooBig {
        /// Largest IP packet of the next link, bytes. Told as at least 68 (IPv4) or 1,280 (IPv6).
        mtu: u16,
    },
    /// TTL or hop limit ran out.
    TimeExceeded,
}

/// Who reports an error: the router's MAC address and its address of the packet's family.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Source MAC address of the error.
    pub mac: Mac,
    /// Source address of the error, IPv4-mapped for IPv4.
    pub addr: u128,
}

/// Writes the ICMP error about the packet in `offending` (its TTL not yet changed), addressed to its sender and to the
/// MAC address it came from. A super-frame is quoted as its first segment. `offending` may end before the packet
/// does; the quote then is as much as there is.
///
/// # Errors
/// [`NoReply::Forbidden`] when the packet is itself an ICMP error or unknown ICMP, a later fragment, not IP, was sent
/// to or from a multicast, broadcast, unspecified or loopback address; [`NoReply::Malformed`] when `p` does not
/// describe `offending`; [`NoReply::NoRoom`].
pub fn icmp_error(
    from: Origin,
    offending: &[u8],
    p: &Parsed,
    vnet: &VnetHdr,
    what: IcmpError,
    out: &mut Frame,
) -> Result<(), NoReply> {
    if !deserves_error(p) {
        return Err(NoReply::Forbidden);
    }
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let packet = offending.get(l3..).ok_or(NoReply::Malformed)?;
    let header = l4.checked_sub(l3).filter(|&n| n <= packet.len()).ok_or(NoReply::Malformed)?;
    let size = first_size(packet, header, p, vnet).min(p.ip_len as usize);
    let (own, limit) = if p.v6 { (IPV6, LIMIT6) } else { (IPV4, LIMIT4) };
    if header < own {
        return Err(NoReply::Malformed);
    }
    let quote = &packet[..size.min(packet.len()).min(limit - own - ICMP)];
    if quote.len() < own {
        return Err(NoReply::Malformed);
    }
    let len = ETH + own + ICMP + quote.len();
    let ethertype = if p.v6 { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 };
    out.reset();
    let room = ethernet(out.spare_mut(), len, p.src_mac, from.mac, ethertype)?;
    if p.v6 {
        let (src, dst) = (v6(from.addr), v6(p.src));
        let message = ipv6(room, src, dst, HOPS);
        put_quote(&mut message[ICMP..], quote, header, size, p, vnet);
        let mut icmp = Icmpv6Packet::new_unchecked(message);
        emit6(&mut icmp, what);
        icmp.fill_checksum(&src, &dst);
    } else {
        let message = ipv4(room, v4(from.addr), v4(p.src), CONTROL);
        put_quote(&mut message[ICMP..], quote, header, size, p, vnet);
        let mut icmp = Icmpv4Packet::new_unchecked(message);
        emit4(&mut icmp, what);
        icmp.fill_checksum();
    }
    out.set_len(len);
    Ok(())
}

/// May an ICMP error be sent about this packet?
fn deserves_error(p: &Parsed) -> bool {
    let addresses =
        may_be_told(p) && !is_group(p, p.dst) && !p.dst_mac.is_multicast() && !p.src_mac.is_multicast();
    let kind = p.sport >> 8;
    let message = match p.proto {
        // Only about the queries: echo, timestamp.
        1 if !p.v6 => p.frag == Frag::Later || matches!(kind, 0 | 8 | 13 | 14),
        // Types below 128 are errors; 137 is a redirect.
        58 if p.v6 => p.frag == Frag::Later || kind >= 128 && kind != 137,
        _ => true,
    };
    let ip =
        p.ethertype == u16::from(EthernetProtocol::Ipv4) || p.ethertype == u16::from(EthernetProtocol::Ipv6);
    ip && addresses && message && p.frag != Frag::Later
}

/// Is the source an address that one host has and can be reached at?
pub(super) fn may_be_told(p: &Parsed) -> bool {
    if p.v6 {
        let src = v6(p.src);
        !src.is_unspecified() && !src.is_loopback() && !src.is_multicast()
    } else {
        let first = v4(p.src).octets()[0];
        first != 0 && first != 127 && first < 224
    }
}

fn is_group(p: &Parsed, addr: u128) -> bool {
    if p.v6 { v6(addr).is_multicast() } else { v4(addr).is_multicast() || v4(addr).is_broadcast() }
}

/// Length of the IP packet that the first segment of a super-frame will be; of any other packet, its own.
fn first_size(packet: &[u8], header: usize, p: &Parsed, vnet: &VnetHdr) -> usize {
    let transport = match packet.get(header..) {
        Some(tcp) if p.proto == u8::from(IpProtocol::Tcp) && tcp.len() >= 20 => {
            usize::from(TcpPacket::new_unchecked(tcp).header_len())
        }
        Some(_) if p.proto == u8::from(IpProtocol::Udp) => 8,
        _ => return p.ip_len as usize,
    };
    if vnet.is_gso() { header + transport + usize::from(vnet.gso_size) } else { p.ip_len as usize }
}

/// Copies the quoted packet, with the lengths of the first segment where it is a super-frame.
fn put_quote(room: &mut [u8], quote: &[u8], header: usize, size: usize, p: &Parsed, vnet: &VnetHdr) {
    room.copy_from_slice(quote);
    if !vnet.is_gso() {
        return;
    }
    if p.v6 {
        Ipv6Packet::new_unchecked(&mut *room).set_payload_len((size - IPV6) as u16);
    } else if room.len() >= header {
        let mut ip = Ipv4Packet::new_unchecked(&mut *room);
        ip.set_total_len(size as u16);
        ip.fill_checksum();
    }
    if p.proto == u8::from(IpProtocol::Udp)
        && let Some(udp) = room.get_mut(header..header + 8)
    {
        UdpPacket::new_unchecked(udp).set_len((size - header) as u16);
    }
}

fn emit4(icmp: &mut Icmpv4Packet<&mut [u8]>, what: IcmpError) {
    use Icmpv4DstUnreachable as Code;
    let unreachable = |code: Code| (Icmpv4Message::DstUnreachable, u8::from(code));
    let (message, code) = match what {
        IcmpError::NetUnreachable => unreachable(Code::NetUnreachable),
        IcmpError::HostUnreachable => unreachable(Code::HostUnreachable),
        IcmpError::PortUnreachable => unreachable(Code::PortUnreachable),
        IcmpError::AdminProhibited => unreachable(Code::CommProhibited),
        IcmpError::TooBig { .. } => unreachable(Code::FragRequired),
        IcmpError::TimeExceeded => (Icmpv4Message::TimeExceeded, u8::from(Icmpv4TimeExceeded::TtlExpired)),
    };
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    if let IcmpError::TooBig { mtu } = what {
        // The next hop's MTU lies where an echo has its sequence number (RFC 1191 section 4).
        icmp.set_echo_seq_no(mtu.max(68));
    }
}

fn emit6(icmp: &mut Icmpv6Packet<&mut [u8]>, what: IcmpError) {
    use Icmpv6DstUnreachable as Code;
    let unreachable = |code: Code| (Icmpv6Message::DstUnreachable, u8::from(code));
    let (message, code) = match what {
        IcmpError::NetUnreachable => unreachable(Code::NoRoute),
        IcmpError::HostUnreachable => unreachable(Code::AddrUnreachable),
        IcmpError::PortUnreachable => unreachable(Code::PortUnreachable),
        IcmpError::AdminProhibited => unreachable(Code::AdminProhibit),
        IcmpError::TooBig { .. } => (Icmpv6Message::PktTooBig, 0),
        IcmpError::TimeExceeded => {
            (Icmpv6Message::TimeExceeded, u8::from(Icmpv6TimeExceeded::HopLimitExceeded))
        }
    };
    icmp.set_msg_type(message);
    icmp.set_msg_code(code);
    if let IcmpError::TooBig { mtu } = what {
        icmp.set_pkt_too_big_mtu(u32::from(mtu).max(1280));
    }
}
