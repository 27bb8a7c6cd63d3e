//! Who-has and neighbour solicitations: every question about an address of ours gets the gateway's MAC.

use std::net::{Ipv4Addr, Ipv6Addr};

use encap::{Frame, Mac, Parsed};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetProtocol, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    NdiscNeighborFlags, NdiscOption, NdiscOptionType, NdiscRepr, RawHardwareAddress,
};

use super::{ETH, IPV6, ND_HOPS, NoReply, ethernet, hardware, ipv6, v6};

const ARP: usize = 28;
/// A neighbour advertisement with a target link-layer address option.
const ADVERT: usize = 24 + 8;
/// Shortest neighbour solicitation, shortest router solicitation (RFC 4861 sections 4.3 and 4.1).
const SOLICIT: usize = 24;
const ROUTER_SOLICIT: usize = 8;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// Answers an ARP request for an address of `ours` with `gateway`.
///
/// # Errors
/// [`NoReply::NotOurs`] for anything but a request for an address of ours, and for announcements (a sender that asks
/// for its own address); [`NoReply::Malformed`] when the packet is not ARP for IPv4 over Ethernet or its sender is not
/// the frame's.
pub fn arp(
    gateway: Mac,
    request: &[u8],
    p: &Parsed,
    ours: impl Fn(Ipv4Addr) -> bool,
    out: &mut Frame,
) -> Result<(), NoReply> {
    let body = request.get(usize::from(p.l3)..).ok_or(NoReply::Malformed)?;
    let packet = ArpPacket::new_checked(body).map_err(|_| NoReply::Malformed)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr: _,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).map_err(|_| NoReply::Malformed)?
    else {
        return Err(NoReply::Malformed);
    };
    if source_hardware_addr != hardware(p.src_mac) || p.src_mac.is_multicast() {
        return Err(NoReply::Malformed);
    }
    if operation != ArpOperation::Request
        || source_protocol_addr == target_protocol_addr
        || !ours(target_protocol_addr)
    {
        return Err(NoReply::NotOurs);
    }
    out.reset();
    let body = ethernet(out.spare_mut(), ETH + ARP, p.src_mac, gateway, EthernetProtocol::Arp)?;
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: hardware(gateway),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    }
    .emit(&mut ArpPacket::new_unchecked(body));
    out.set_len(ETH + ARP);
    Ok(())
}

/// Answers a neighbour solicitation for an address of `ours` with `gateway`: router, override, and solicited unless
/// the question is duplicate address detection (RFC 4861 section 7.2.4), which is answered to all nodes.
///
/// # Errors
/// [`NoReply::RouterSolicitation`]; [`NoReply::NotOurs`] for other messages and targets; [`NoReply::Malformed`] when
/// it fails the validation of RFC 4861 section 7.1.1 or has a bad checksum.
pub fn neighbor(
    gateway: Mac,
    request: &[u8],
    p: &Parsed,
    ours: impl Fn(Ipv6Addr) -> bool,
    out: &mut Frame,
) -> Result<(), NoReply> {
    let end = usize::from(p.l3) + p.ip_len as usize;
    let message = request.get(usize::from(p.l4)..end).ok_or(NoReply::Malformed)?;
    let packet = Icmpv6Packet::new_checked(message).map_err(|_| NoReply::Malformed)?;
    let least = match packet.msg_type() {
        Icmpv6Message::NeighborSolicit => SOLICIT,
        Icmpv6Message::RouterSolicit => ROUTER_SOLICIT,
        _ => return Err(NoReply::NotOurs),
    };
    let (src, dst) = (v6(p.src), v6(p.dst));
    if message.len() < least
        || p.ttl != ND_HOPS
        || packet.msg_code() != 0
        || p.src_mac.is_multicast()
        || src.is_multicast()
        || !packet.verify_checksum(&src, &dst)
    {
        return Err(NoReply::Malformed);
    }
    let probe = src.is_unspecified();
    options(&message[least..], probe)?;
    if least == ROUTER_SOLICIT {
        return Err(NoReply::RouterSolicitation);
    }
    let target = packet.target_addr();
    // A probe comes to the target's solicited-node group, ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
    let group = 0xff02_u128 << 112 | 0x0001_ff00_0000 | target.to_bits() & 0xff_ffff;
    if target.is_multicast() || probe && p.dst != group {
        return Err(NoReply::Malformed);
    }
    if !ours(target) {
        return Err(NoReply::NotOurs);
    }
    let (to, to_mac) = if probe { (ALL_NODES, ALL_NODES_MAC) } else { (src, p.src_mac) };
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, !probe);
    out.reset();
    let len = ETH + IPV6 + ADVERT;
    let packet = ethernet(out.spare_mut(), len, to_mac, gateway, EthernetProtocol::Ipv6)?;
    let advert = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&gateway.0)),
    };
    Icmpv6Repr::Ndisc(advert).emit(
        &target,
        &to,
        &mut Icmpv6Packet::new_unchecked(ipv6(packet, target, to, ND_HOPS)),
        &ChecksumCapabilities::default(),
    );
    out.set_len(len);
    Ok(())
}

/// Every option has a length, all of it is there, and a probe names no source link-layer address.
fn options(mut rest: &[u8], probe: bool) -> Result<(), NoReply> {
    while !rest.is_empty() {
        let option = NdiscOption::new_checked(rest).map_err(|_| NoReply::Malformed)?;
        let len = usize::from(option.data_len()) * 8;
        if len == 0 || probe && option.option_type() == NdiscOptionType::SourceLinkLayerAddr {
            return Err(NoReply::Malformed);
        }
        rest = rest.get(len..).ok_or(NoReply::Malformed)?;
    }
    Ok(())
}
