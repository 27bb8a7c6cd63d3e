use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use smoltcp::wire as smol;

use super::arp::Arp;
use super::eth::{EthHeader, VlanTag};
use super::icmp::IcmpHeader;
use super::icmpv6::Neighbor;
use super::ipv4::Ipv4Header;
use super::ipv6::{FragmentHeader, Ipv6Header};
use super::tcp::TcpHeader;
use super::udp::UdpHeader;
use super::{icmp, icmpv6, put, tcp, view, view_mut};
use crate::checksum;
use crate::mac::Mac;
use crate::parse::{ethertype, parse};

const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

#[test]
fn a_view_needs_all_its_bytes() {
    let mut bytes = [0u8; 60];
    assert!(view::<TcpHeader>(&bytes[..19]).is_none());
    assert!(view::<Neighbor>(&bytes[..31]).is_none());
    let (header, rest) = view_mut::<EthHeader>(&mut bytes).unwrap();
    header.dst = B;
    assert_eq!(rest.len(), 46);
    assert_eq!(bytes[..6], B.0);
    assert!(put(&UdpHeader::new(1, 2, 3), &mut bytes[..7]).is_none());
}

#[test]
fn tags() {
    let (tag, rest) = view::<VlanTag>(&[0xa0, 0x05, 0x08, 0, 1]).unwrap();
    assert_eq!((tag.vlan(), tag.priority(), tag.ethertype.get(), rest), (5, 5, ethertype::IPV4, &[1][..]));
}

#[test]
fn smoltcp_reads_our_arp_reply() {
    let (ip_a, ip_b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let request = Arp::new(Arp::REQUEST, (A, ip_a), (Mac::default(), ip_b));
    let mut bytes = [0; Arp::LEN];
    assert!(put(&request.reply(B), &mut bytes).is_some_and(|rest| rest.is_empty()));
    let packet = smol::ArpPacket::new_checked(&bytes[..]).unwrap();
    let expect = smol::ArpRepr::EthernetIpv4 {
        operation: smol::ArpOperation::Reply,
        source_hardware_addr: smol::EthernetAddress(B.0),
        source_protocol_addr: ip_b,
        target_hardware_addr: smol::EthernetAddress(A.0),
        target_protocol_addr: ip_a,
    };
    assert_eq!(smol::ArpRepr::parse(&packet), Ok(expect));
    assert_eq!(Arp::parse(&bytes).map(|a| (a.op.get(), a.target_ip())), Some((Arp::REPLY, ip_a)));
    for at in [0, 2, 4, 5] {
        let mut other = bytes;
        other[at] ^= 9;
        assert_eq!(Arp::parse(&other), None, "byte {at}");
    }
    assert_eq!(Arp::parse(&bytes[..27]), None);
}

#[test]
fn smoltcp_reads_our_neighbor_advertisement() {
    let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let mut bytes = [0; Neighbor::LEN];
    put(&Neighbor::advert(src, B, Neighbor::SOLICITED | Neighbor::ROUTER), &mut bytes);
    icmpv6::fill_checksum(&mut bytes, src, dst);
    let packet = smol::Icmpv6Packet::new_checked(&bytes[..]).unwrap();
    let repr = smol::Icmpv6Repr::parse(&src, &dst, &packet, &Default::default()).unwrap();
    let smol::Icmpv6Repr::Ndisc(smol::NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = repr else {
        panic!("{repr:?}")
    };
    assert_eq!(target_addr, src);
    assert_eq!(flags, smol::NdiscNeighborFlags::SOLICITED | smol::NdiscNeighborFlags::ROUTER);
    assert_eq!(lladdr.unwrap().as_bytes(), B.0);
    assert_eq!(icmpv6::target(&bytes), Some(src));
    assert_eq!(icmpv6::link_option(&bytes[Neighbor::FIXED..], 2), Some(B));
    assert_eq!(icmpv6::link_option(&bytes[Neighbor::FIXED..], 1), None);
}

#[test]
fn neighbor_lies() {
    let mut bytes = [0; Neighbor::LEN];
    put(&Neighbor::solicit("fd00::9".parse().unwrap(), A), &mut bytes);
    assert_eq!(icmpv6::target(&bytes[..24]), Some("fd00::9".parse().unwrap()));
    assert_eq!(icmpv6::target(&bytes[..23]), None);
    let change = |at: usize, value: u8| {
        let mut out = bytes;
        out[at] = value;
        icmpv6::target(&out)
    };
    assert_eq!((change(0, icmpv6::ROUTER_ADVERT), change(1, 1), change(8, 0xff)), (None, None, None));
    assert_eq!(icmpv6::link_option(&[1, 0, 0, 0], 1), None);
    assert_eq!(icmpv6::link_option(&[5, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3], 1), None);
    let group = icmpv6::solicited_node("fd00::12:3456".parse().unwrap());
    assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn icmp_errors_are_told_from_questions() {
    let errors: Vec<u8> = (0..=255).filter(|k| IcmpHeader::is_error(*k)).collect();
    assert_eq!(errors, [3, 4, 5, 11, 12]);
    let mut short = [1, 2, 3];
    icmp::fill_checksum(&mut short);
    icmpv6::fill_checksum(&mut short, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    assert_eq!(short, [1, 2, 3]);
}

#[test]
fn fragment_header_fields() {
    let (f, _) = view::<FragmentHeader>(&[17, 0, 0x05, 0xa9, 0, 0, 0, 7]).unwrap();
    assert_eq!((f.next_header, f.offset(), f.more(), f.id.get()), (17, 1448, true, 7));
}

proptest! {
    #[test]
    fn what_we_build_is_what_etherparse_builds(src: [u8; 4], dst: [u8; 4], ttl in 1u8.., sport: u16, dport: u16, seq: u32, ack: u32,
                                               window: u16, payload in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut theirs = Vec::new();
        etherparse::PacketBuilder::ethernet2(A.0, B.0).ipv4(src, dst, ttl).tcp(sport, dport, seq, window).ack(ack)
            .write(&mut theirs, &payload).unwrap();
        let len = TcpHeader::LEN + payload.len();
        let mut ours = vec![0; 34 + len];
        let rest = put(&EthHeader::new(B, A, ethertype::IPV4), &mut ours).unwrap();
        let mut ip = Ipv4Header::new(src.into(), dst.into(), 6, ttl, len as u16);
        let (theirs_ip, _) = view::<Ipv4Header>(&theirs[14..]).unwrap();
        ip.fragment = theirs_ip.fragment;
        ip.fill_checksum();
        let rest = put(&ip, rest).unwrap();
        let rest = put(&TcpHeader::new(sport, dport, seq, ack, tcp::ACK, window), rest).unwrap();
        rest.copy_from_slice(&payload);
        let p = parse(&ours, ours.len(), false).unwrap();
        prop_assert!(checksum::fill_l4(&mut ours, &p));
        prop_assert_eq!(&ours, &theirs);
        let (ip, _) = view::<Ipv4Header>(&ours[14..]).unwrap();
        prop_assert_eq!((ip.src().octets(), ip.dst().octets(), ip.version(), ip.header_len(), ip.offset()), (src, dst, 4, 20, 0));
        let (t, _) = view::<TcpHeader>(&ours[34..]).unwrap();
        prop_assert_eq!(t.header_len(), 20);
    }

    #[test]
    fn ipv6_udp_and_icmp_likewise(src: [u8; 16], dst: [u8; 16], limit: u8, sport: u16, dport: u16, id: u16, n: u16,
                                  payload in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut theirs = Vec::new();
        etherparse::PacketBuilder::ethernet2(A.0, B.0).ipv6(src, dst, limit).udp(sport, dport).write(&mut theirs, &payload).unwrap();
        let mut ours = vec![0; 62 + payload.len()];
        let rest = put(&EthHeader::new(B, A, ethertype::IPV6), &mut ours).unwrap();
        let header = Ipv6Header::new(src.into(), dst.into(), 17, limit, 8 + payload.len() as u16);
        let rest = put(&UdpHeader::new(sport, dport, payload.len() as u16), put(&header, rest).unwrap()).unwrap();
        rest.copy_from_slice(&payload);
        if let Ok(p) = parse(&ours, ours.len(), false) {
            prop_assert!(checksum::fill_l4(&mut ours, &p));
            prop_assert_eq!(&ours, &theirs);
        }
        prop_assert_eq!((header.src().octets(), header.version(), header.traffic_class(), header.flow_label()), (src, 6, 0, 0));

        let mut message = vec![0; 8 + payload.len()];
        put(&IcmpHeader::new(icmp::ECHO, 0, [id, n]), &mut message).unwrap().copy_from_slice(&payload);
        icmp::fill_checksum(&mut message);
        let packet = smol::Icmpv4Packet::new_checked(&message[..]).unwrap();
        prop_assert!(packet.verify_checksum());
        prop_assert_eq!((packet.echo_ident(), packet.echo_seq_no()), (id, n));
        put(&IcmpHeader::new(icmpv6::ECHO, 0, [id, n]), &mut message);
        icmpv6::fill_checksum(&mut message, src.into(), dst.into());
        let packet = smol::Icmpv6Packet::new_checked(&message[..]).unwrap();
        prop_assert!(packet.verify_checksum(&src.into(), &dst.into()));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind: u8) {
        let _ = (Arp::parse(&bytes), icmpv6::target(&bytes), icmpv6::link_option(&bytes, kind));
        let mut bytes = bytes;
        icmp::fill_checksum(&mut bytes);
        icmpv6::fill_checksum(&mut bytes, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    }
}
