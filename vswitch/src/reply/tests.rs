use super::*;
use encap::parse::parse;
use encap::{Frame, ParseError, Parsed, VnetHdr};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress, UdpPacket,
};

const GW: Mac = Mac([0xee; 6]);
const POD: Mac = Mac([2, 0, 0, 0, 0, 7]);
const GW4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
const FAR4: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
const GW6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9);

fn caps() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

fn out() -> Frame {
    Frame::with_capacity(encap::SMALL)
}

fn parsed(frame: &[u8]) -> Parsed {
    parse(frame, frame.len(), false).unwrap()
}

fn eth(dst: Mac, src: Mac, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETH + payload.len()];
    let mut view = EthernetFrame::new_unchecked(&mut frame[..]);
    view.set_dst_addr(hardware(dst));
    view.set_src_addr(hardware(src));
    view.set_ethertype(ethertype);
    frame[ETH..].copy_from_slice(payload);
    frame
}

fn ip4(src: Ipv4Addr, dst: Ipv4Addr, proto: IpProtocol, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: proto,
        payload_len: payload.len(),
        hop_limit: ttl,
    };
    let mut packet = vec![0; 20 + payload.len()];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &caps());
    packet[20..].copy_from_slice(payload);
    eth(GW, POD, EthernetProtocol::Ipv4, &packet)
}

fn ip6(src: Ipv6Addr, dst: Ipv6Addr, proto: IpProtocol, hops: u8, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: proto,
        payload_len: payload.len(),
        hop_limit: hops,
    };
    let mut packet = vec![0; 40 + payload.len()];
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    packet[40..].copy_from_slice(payload);
    eth(GW, POD, EthernetProtocol::Ipv6, &packet)
}

fn icmp4(repr: Icmpv4Repr<'_>) -> Vec<u8> {
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message[..]), &caps());
    message
}

fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, repr: Icmpv6Repr<'_>) -> Vec<u8> {
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(&mut message[..]), &caps());
    message
}

fn udp4(dst: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut udp = vec![0xaa; 8 + len];
    let mut view = UdpPacket::new_unchecked(&mut udp[..]);
    view.set_src_port(1000);
    view.set_dst_port(53);
    view.set_len(8 + len as u16);
    view.set_checksum(0);
    ip4(POD4, dst, IpProtocol::Udp, 64, &udp)
}

fn udp6(dst: Ipv6Addr, len: usize) -> Vec<u8> {
    let mut udp = vec![0xaa; 8 + len];
    let mut view = UdpPacket::new_unchecked(&mut udp[..]);
    view.set_src_port(1000);
    view.set_dst_port(53);
    view.set_len(8 + len as u16);
    view.fill_checksum(&POD6.into(), &dst.into());
    ip6(POD6, dst, IpProtocol::Udp, 64, &udp)
}

fn arp_frame(operation: ArpOperation, sender: Mac, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: hardware(sender),
        source_protocol_addr: from,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut packet[..]));
    eth(Mac::BROADCAST, POD, EthernetProtocol::Arp, &packet)
}

fn ask_arp(frame: &[u8]) -> Result<Frame, NoReply> {
    let mut out = out();
    arp(GW, frame, &parsed(frame), |a| a == GW4, &mut out).map(|()| out)
}

#[test]
fn arp_for_the_gateway_is_answered() {
    for from in [POD4, Ipv4Addr::UNSPECIFIED] {
        let reply = ask_arp(&arp_frame(ArpOperation::Request, POD, from, GW4)).unwrap();
        let view = EthernetFrame::new_checked(reply.data()).unwrap();
        assert_eq!((view.dst_addr(), view.src_addr()), (hardware(POD), hardware(GW)));
        assert_eq!(
            ArpRepr::parse(&ArpPacket::new_checked(view.payload()).unwrap()).unwrap(),
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: hardware(GW),
                source_protocol_addr: GW4,
                target_hardware_addr: hardware(POD),
                target_protocol_addr: from,
            }
        );
    }
}

#[test]
fn other_arp_is_not() {
    for (frame, why) in [
        (arp_frame(ArpOperation::Request, POD, POD4, FAR4), NoReply::NotOurs),
        (arp_frame(ArpOperation::Reply, POD, GW4, GW4), NoReply::NotOurs),
        (arp_frame(ArpOperation::Request, POD, GW4, GW4), NoReply::NotOurs),
        (arp_frame(ArpOperation::Request, Mac([2, 0, 0, 0, 0, 8]), POD4, GW4), NoReply::Malformed),
    ] {
        assert_eq!(ask_arp(&frame).err(), Some(why));
    }
    let whole = arp_frame(ArpOperation::Request, POD, POD4, GW4);
    for len in ETH..whole.len() {
        let mut reply = out();
        let p = parse(&whole[..len], len, false);
        match p {
            Ok(p) => assert!(arp(GW, &whole[..len], &p, |_| true, &mut reply).is_err(), "length {len}"),
            Err(e) => assert_eq!(e, ParseError::Truncated),
        }
    }
}

fn solicit(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, lladdr: Option<Mac>, hops: u8) -> Vec<u8> {
    let lladdr = lladdr.map(|m| RawHardwareAddress::from_bytes(&m.0));
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr });
    ip6(src, dst, IpProtocol::Icmpv6, hops, &icmp6(src, dst, repr))
}

fn ask_nd(frame: &[u8]) -> Result<Frame, NoReply> {
    let mut out = out();
    neighbor(GW, frame, &parsed(frame), |a| a == GW6, &mut out).map(|()| out)
}

fn advert(reply: &Frame) -> (EthernetAddress, Ipv6Addr, Ipv6Addr, NdiscRepr<'_>) {
    let view = EthernetFrame::new_checked(reply.data()).unwrap();
    assert_eq!(view.src_addr(), hardware(GW));
    let ip = Ipv6Packet::new_checked(view.payload()).unwrap();
    assert_eq!(ip.hop_limit(), 255);
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    match Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps()).unwrap() {
        Icmpv6Repr::Ndisc(nd) => (view.dst_addr(), ip.src_addr(), ip.dst_addr(), nd),
        other => panic!("{other:?}"),
    }
}

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

#[test]
fn a_solicitation_of_the_gateway_is_answered() {
    for (dst, lladdr) in [(GROUP, Some(POD)), (GW6, Some(POD)), (GW6, None)] {
        let reply = ask_nd(&solicit(POD6, dst, GW6, lladdr, 255)).unwrap();
        let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
        let lladdr = Some(RawHardwareAddress::from_bytes(&GW.0));
        let expected = NdiscRepr::NeighborAdvert { flags, target_addr: GW6, lladdr };
        assert_eq!(advert(&reply), (hardware(POD), GW6, POD6, expected));
    }
}

#[test]
fn address_detection_is_answered_to_all_nodes() {
    let reply = ask_nd(&solicit(Ipv6Addr::UNSPECIFIED, GROUP, GW6, None, 255)).unwrap();
    let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    let lladdr = Some(RawHardwareAddress::from_bytes(&GW.0));
    let all = "ff02::1".parse().unwrap();
    let expected = NdiscRepr::NeighborAdvert { flags, target_addr: GW6, lladdr };
    assert_eq!(advert(&reply), (EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), GW6, all, expected));
}

#[test]
fn other_discovery_is_not() {
    let router = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let all_routers = "ff02::2".parse().unwrap();
    let na = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: GW6,
        lladdr: None,
    });
    let mut bad_sum = solicit(POD6, GROUP, GW6, None, 255);
    *bad_sum.last_mut().unwrap() ^= 1;
    let mut bad_option = solicit(POD6, GROUP, GW6, Some(POD), 255);
    let at = bad_option.len() - 7;
    bad_option[at] = 0;
    for (frame, why) in [
        (solicit(POD6, GROUP, FAR6, None, 255), NoReply::NotOurs),
        (solicit(POD6, GROUP, GW6, None, 64), NoReply::Malformed),
        (solicit(Ipv6Addr::UNSPECIFIED, GW6, GW6, None, 255), NoReply::Malformed),
        (solicit(Ipv6Addr::UNSPECIFIED, GROUP, GW6, Some(POD), 255), NoReply::Malformed),
        (solicit(POD6, GROUP, GROUP, None, 255), NoReply::Malformed),
        (bad_sum, NoReply::Malformed),
        (bad_option, NoReply::Malformed),
        (
            ip6(POD6, all_routers, IpProtocol::Icmpv6, 255, &icmp6(POD6, all_routers, router)),
            NoReply::RouterSolicitation,
        ),
        (ip6(POD6, GW6, IpProtocol::Icmpv6, 255, &icmp6(POD6, GW6, na)), NoReply::NotOurs),
    ] {
        assert_eq!(ask_nd(&frame).err(), Some(why));
    }
}

fn ask_echo(frame: &[u8]) -> Result<Frame, NoReply> {
    let mut out = out();
    echo(GW, frame, &parsed(frame), &mut out).map(|()| out)
}

fn ping4(data: &[u8]) -> Vec<u8> {
    let message = icmp4(Icmpv4Repr::EchoRequest { ident: 7, seq_no: 9, data });
    ip4(POD4, GW4, IpProtocol::Icmp, 64, &message)
}

fn ping6(data: &[u8]) -> Vec<u8> {
    let message = icmp6(POD6, GW6, Icmpv6Repr::EchoRequest { ident: 7, seq_no: 9, data });
    ip6(POD6, GW6, IpProtocol::Icmpv6, 64, &message)
}

#[test]
fn ping_is_answered() {
    for data in [&b""[..], b"odd", &[0x5a; 1400]] {
        let reply = ask_echo(&ping4(data)).unwrap();
        let view = EthernetFrame::new_checked(reply.data()).unwrap();
        assert_eq!((view.dst_addr(), view.src_addr()), (hardware(POD), hardware(GW)));
        let ip = Ipv4Packet::new_checked(view.payload()).unwrap();
        assert_eq!((ip.src_addr(), ip.dst_addr(), ip.verify_checksum()), (GW4, POD4, true));
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert_eq!(
            Icmpv4Repr::parse(&icmp, &caps()).unwrap(),
            Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data }
        );

        let reply = ask_echo(&ping6(data)).unwrap();
        let view = EthernetFrame::new_checked(reply.data()).unwrap();
        let ip = Ipv6Packet::new_checked(view.payload()).unwrap();
        assert_eq!((ip.src_addr(), ip.dst_addr()), (GW6, POD6));
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert_eq!(
            Icmpv6Repr::parse(&GW6, &POD6, &icmp, &caps()).unwrap(),
            Icmpv6Repr::EchoReply { ident: 7, seq_no: 9, data }
        );
    }
}

#[test]
fn ping_is_not_answered_when_wrong_or_too_long() {
    let mut bad = ping4(b"x");
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(ask_echo(&bad).err(), Some(NoReply::Malformed));
    let mut bad = ping6(b"x");
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(ask_echo(&bad).err(), Some(NoReply::Malformed));
    assert_eq!(ask_echo(&udp4(GW4, 10)).err(), Some(NoReply::NotOurs));
    let answer = icmp4(Icmpv4Repr::EchoReply { ident: 1, seq_no: 1, data: b"" });
    assert_eq!(ask_echo(&ip4(POD4, GW4, IpProtocol::Icmp, 64, &answer)).err(), Some(NoReply::NotOurs));
    let request = icmp4(Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: b"" });
    let nowhere = ip4(Ipv4Addr::BROADCAST, GW4, IpProtocol::Icmp, 64, &request);
    assert_eq!(ask_echo(&nowhere).err(), Some(NoReply::Malformed));
    assert_eq!(ask_echo(&ping4(&[0; 4000])).err(), Some(NoReply::NoRoom));
    let mut large = Frame::with_capacity(encap::LARGE);
    let ping = ping4(&[0; 4000]);
    assert_eq!(echo(GW, &ping, &parsed(&ping), &mut large), Ok(()));
}

fn tell(frame: &[u8], what: IcmpError) -> Result<Frame, NoReply> {
    let p = parsed(frame);
    let addr = if p.v6 { GW6.to_bits() } else { GW4.to_ipv6_mapped().to_bits() };
    let mut out = out();
    icmp_error(Origin { mac: GW, addr }, frame, &p, &VnetHdr::default(), what, &mut out).map(|()| out)
}

/// Type, code, the 16 bits where IPv4 has the MTU, and the quote of an ICMP error, after checking all around it.
fn error4(reply: &Frame) -> (u8, u8, u16, Vec<u8>) {
    let view = EthernetFrame::new_checked(reply.data()).unwrap();
    assert_eq!((view.dst_addr(), view.src_addr()), (hardware(POD), hardware(GW)));
    let ip = Ipv4Packet::new_checked(view.payload()).unwrap();
    assert_eq!((ip.src_addr(), ip.dst_addr(), ip.verify_checksum()), (GW4, POD4, true));
    assert!(ip.total_len() <= 576);
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    (icmp.msg_type().into(), icmp.msg_code(), icmp.echo_seq_no(), icmp.data().to_vec())
}

fn error6(reply: &Frame) -> (u8, u8, u32, Vec<u8>) {
    let view = EthernetFrame::new_checked(reply.data()).unwrap();
    let ip = Ipv6Packet::new_checked(view.payload()).unwrap();
    assert_eq!((ip.src_addr(), ip.dst_addr()), (GW6, POD6));
    assert!(ip.total_len() <= 1280);
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum(&GW6, &POD6));
    (icmp.msg_type().into(), icmp.msg_code(), icmp.pkt_too_big_mtu(), icmp.payload().to_vec())
}

#[test]
fn errors_have_the_types_and_codes_of_their_rfcs() {
    let (four, six) = (udp4(FAR4, 30), udp6(FAR6, 30));
    for (what, v4, v6) in [
        (IcmpError::NetUnreachable, (3, 0, 0), (1, 0, 0)),
        (IcmpError::HostUnreachable, (3, 1, 0), (1, 3, 0)),
        (IcmpError::PortUnreachable, (3, 3, 0), (1, 4, 0)),
        (IcmpError::AdminProhibited, (3, 13, 0), (1, 1, 0)),
        (IcmpError::TooBig { mtu: 1450 }, (3, 4, 1450), (2, 0, 1450)),
        (IcmpError::TooBig { mtu: 9 }, (3, 4, 68), (2, 0, 1280)),
        (IcmpError::TimeExceeded, (11, 0, 0), (3, 0, 0)),
    ] {
        let (kind, code, mtu, quote) = error4(&tell(&four, what).unwrap());
        assert_eq!((kind, code, mtu), v4, "{what:?}");
        assert_eq!(quote, four[ETH..]);
        let (kind, code, mtu, quote) = error6(&tell(&six, what).unwrap());
        assert_eq!((kind, code, mtu), v6, "{what:?}");
        assert_eq!(quote, six[ETH..]);
    }
}

#[test]
fn the_quote_is_as_long_as_allowed_and_without_padding() {
    let (_, _, _, quote) = error4(&tell(&udp4(FAR4, 1400), IcmpError::HostUnreachable).unwrap());
    assert_eq!(quote.len(), 548);
    let (_, _, _, quote) = error6(&tell(&udp6(FAR6, 1400), IcmpError::HostUnreachable).unwrap());
    assert_eq!(quote.len(), 1232);
    let mut padded = udp4(FAR4, 2);
    let len = padded.len();
    padded.resize(60, 0);
    let (_, _, _, quote) = error4(&tell(&padded, IcmpError::HostUnreachable).unwrap());
    assert_eq!(quote.len(), len - ETH);
}

#[test]
fn a_super_frame_is_quoted_as_its_first_segment() {
    let mut tcp = vec![0x11; 20 + 5000];
    tcp[12] = 5 << 4;
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    let frame = ip4(POD4, FAR4, IpProtocol::Tcp, 64, &tcp);
    let p = parse(&frame, frame.len(), true).unwrap();
    let mut reply = out();
    let from = Origin { mac: GW, addr: GW4.to_ipv6_mapped().to_bits() };
    icmp_error(from, &frame, &p, &vnet, IcmpError::TooBig { mtu: 1400 }, &mut reply).unwrap();
    let (_, _, _, quote) = error4(&reply);
    let quoted = Ipv4Packet::new_unchecked(&quote[..]);
    assert_eq!((quoted.total_len(), quoted.verify_checksum()), (20 + 20 + 1448, true));
    assert_eq!(quote[20..], frame[ETH + 20..][..528]);

    let mut udp = vec![0x11; 8 + 3000];
    udp[4..6].copy_from_slice(&3008u16.to_be_bytes());
    let vnet = VnetHdr {
        gso_type: VnetHdr::GSO_UDP_L4,
        hdr_len: 62,
        gso_size: 1000,
        csum_start: 54,
        csum_offset: 6,
        ..vnet
    };
    let frame = ip6(POD6, FAR6, IpProtocol::Udp, 64, &udp);
    let p = parse(&frame, frame.len(), true).unwrap();
    let from = Origin { mac: GW, addr: GW6.to_bits() };
    icmp_error(from, &frame, &p, &vnet, IcmpError::TimeExceeded, &mut reply).unwrap();
    let (_, _, _, quote) = error6(&reply);
    assert_eq!(quote.len(), 40 + 8 + 1000);
    assert_eq!(Ipv6Packet::new_unchecked(&quote[..]).payload_len(), 1008);
    assert_eq!(UdpPacket::new_unchecked(&quote[40..]).len(), 1008);
}

/// RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e).
#[test]
fn silence_where_the_rules_ask_for_it() {
    let what = IcmpError::HostUnreachable;
    let error = icmp4(Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::HostUnreachable,
        header: Ipv4Repr {
            src_addr: FAR4,
            dst_addr: POD4,
            next_header: IpProtocol::Udp,
            payload_len: 8,
            hop_limit: 1,
        },
        data: &[0; 8],
    });
    let error6 = icmp6(
        POD6,
        FAR6,
        Icmpv6Repr::PktTooBig {
            mtu: 1280,
            header: Ipv6Repr {
                src_addr: FAR6,
                dst_addr: POD6,
                next_header: IpProtocol::Udp,
                payload_len: 8,
                hop_limit: 1,
            },
            data: &[0; 8],
        },
    );
    let mut group_mac = udp4(FAR4, 4);
    group_mac[0] = 0xff;
    let mut later = udp4(FAR4, 64);
    later[ETH + 6..ETH + 8].copy_from_slice(&9u16.to_be_bytes());
    Ipv4Packet::new_unchecked(&mut later[ETH..]).fill_checksum();
    let mut redirect = icmp4(Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: &[0; 30] });
    redirect[0] = 5;
    for frame in [
        ip4(POD4, FAR4, IpProtocol::Icmp, 64, &error),
        ip4(POD4, FAR4, IpProtocol::Icmp, 64, &redirect),
        ip6(POD6, FAR6, IpProtocol::Icmpv6, 64, &error6),
        udp4(Ipv4Addr::new(224, 0, 0, 251), 4),
        udp4(Ipv4Addr::BROADCAST, 4),
        udp6("ff02::fb".parse().unwrap(), 4),
        ip4(Ipv4Addr::UNSPECIFIED, FAR4, IpProtocol::Udp, 64, &udp4(FAR4, 4)[ETH + 20..]),
        ip4(Ipv4Addr::LOCALHOST, FAR4, IpProtocol::Udp, 64, &udp4(FAR4, 4)[ETH + 20..]),
        ip4(Ipv4Addr::new(224, 1, 1, 1), FAR4, IpProtocol::Udp, 64, &udp4(FAR4, 4)[ETH + 20..]),
        ip4(Ipv4Addr::BROADCAST, FAR4, IpProtocol::Udp, 64, &udp4(FAR4, 4)[ETH + 20..]),
        group_mac,
        later,
        arp_frame(ArpOperation::Request, POD, POD4, GW4),
    ] {
        assert_eq!(tell(&frame, what).err(), Some(NoReply::Forbidden), "{frame:02x?}");
    }
    assert!(tell(&ping4(b""), what).is_ok(), "an echo request may be told");
}

fn arb_frame() -> impl Strategy<Value = Vec<u8>> {
    let seeds = vec![
        arp_frame(ArpOperation::Request, POD, POD4, GW4),
        solicit(POD6, GROUP, GW6, Some(POD), 255),
        ping4(b"0123456789"),
        ping6(b"0123456789"),
        udp4(FAR4, 40),
        udp6(FAR6, 40),
    ];
    (
        prop::sample::select(seeds),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        0usize..90,
    )
        .prop_map(|(mut frame, edits, cut)| {
            for (at, byte) in edits {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            let ip = frame.len() >= ETH + 20 && frame[12..14] == [8, 0] && frame[ETH] == 0x45;
            if ip {
                Ipv4Packet::new_unchecked(&mut frame[ETH..]).fill_checksum();
            }
            frame.truncate(frame.len().max(cut) - cut / 3);
            frame
        })
}

proptest! {
    /// Whatever the parser lets through, a builder answers with a frame the parser accepts, or says why not.
    #[test]
    fn total_on_hostile_frames(frame in arb_frame(), gso_size: u16, gso: bool, short in 0usize..200) {
        let Ok(p) = parse(&frame, frame.len(), gso) else { return Ok(()) };
        let vnet = VnetHdr { gso_type: if gso { VnetHdr::GSO_TCPV4 } else { 0 }, gso_size, ..VnetHdr::default() };
        for capacity in [encap::SMALL, short] {
            let mut reply = Frame::with_capacity(capacity);
            let origin = Origin { mac: GW, addr: if p.v6 { GW6.to_bits() } else { GW4.to_ipv6_mapped().to_bits() } };
            let what = IcmpError::TooBig { mtu: 1400 };
            for build in 0..4 {
                let made = match build {
                    0 => arp(GW, &frame, &p, |_| true, &mut reply),
                    1 => neighbor(GW, &frame, &p, |_| true, &mut reply),
                    2 => echo(GW, &frame, &p, &mut reply),
                    _ => icmp_error(origin, &frame, &p, &vnet, what, &mut reply),
                };
                if made.is_ok() {
                    let again = parse(reply.data(), reply.len(), false);
                    prop_assert!(again.is_ok(), "{:?}", again);
                }
            }
        }
    }
}
