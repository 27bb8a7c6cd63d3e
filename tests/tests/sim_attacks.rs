//! What a hostile pod or a stranger on the underlay tries: each packet is dropped under its own reason, nothing comes
//! out anywhere, and only where the rules ask for it the sender is told.

use std::net::{IpAddr, Ipv4Addr};

use encap::{Mac, VnetHdr};
use etherparse::{ArpOperation, EtherType};
use vswitch::counters::DropReason::*;
use vswitch::snapshot::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use vswitch_tests::sim::craft::{Way, arp, arp_request, patched, tagged, with_options};
use vswitch_tests::sim::range::{PEER, PEER_VTEP, Range, VTEP, Who, vxlan};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_range_itself_works() {
    let mut range = Range::new();
    for v6 in [false, true] {
        let frame = range.to_victim(v6).udp((1, 2), 10);
        assert!(range.attacker_end.send(VnetHdr::default(), &frame));
        assert_eq!(range.settle(), (0, 1, 0, 0));
        let way = Way { src: PEER_VTEP, dst: VTEP, ..Way::routed(&range.far, range.victim.addr(v6)) };
        assert!(range.node.wire.send((Ipv4Addr::from(PEER), 40_000).into(), &vxlan(&way.udp((1, 2), 10)), 0));
        assert_eq!(range.settle(), (0, 1, 0, 0));
    }
    assert_eq!(range.node.totals().dropped(), 0);
}

#[test]
fn spoofed_sources() {
    let mut range = Range::new();
    let way = range.to_victim(false);
    let other = range.far.addr(false);
    range.silent("another pod's address", &Way { from: other, ..way }.udp((1, 2), 10), SpoofedAddress);
    for from in ["169.254.1.1", "192.168.77.1", "192.168.77.2", "10.96.0.1", "10.244.1.0", "8.8.8.8"] {
        range.silent(from, &Way { from: addr(from), ..way }.udp((1, 2), 10), SpoofedAddress);
    }
    for from in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        range.silent(from, &Way { from: addr(from), ..way }.udp((1, 2), 10), Martian);
    }
    let mac = Mac([2, 0, 0, 0, 9, 9]);
    range.silent("another MAC", &Way { src: mac, ..way }.udp((1, 2), 10), SpoofedMac);
    let six = range.to_victim(true);
    let other = range.far.addr(true);
    range.silent("another pod's IPv6 address", &Way { from: other, ..six }.udp((1, 2), 10), SpoofedAddress);
    for from in ["fe80::1", "fe80::7", "2001:db8::1"] {
        range.silent(from, &Way { from: addr(from), ..six }.udp((1, 2), 10), SpoofedAddress);
    }
    for from in ["::", "::1", "ff02::1"] {
        range.silent(from, &Way { from: addr(from), ..six }.udp((1, 2), 10), Martian);
    }
}

#[test]
fn destinations_that_must_not_be() {
    let mut range = Range::new();
    let way = range.to_victim(false);
    for to in ["127.0.0.1", "0.0.0.0", "240.0.0.1"] {
        range.silent(to, &Way { to: addr(to), ..way }.udp((1, 2), 10), Martian);
    }
    range.silent("itself", &Way { to: way.from, ..way }.udp((1, 2), 10), Martian);
    range.silent("::1", &Way { to: addr("::1"), ..range.to_victim(true) }.udp((1, 2), 10), Martian);
    for to in ["224.0.0.251", "255.255.255.255"] {
        range.silent(to, &Way { to: addr(to), ..way }.udp((1, 2), 10), Multicast);
        range.silent(to, &Way { to: addr(to), dst: Mac::BROADCAST, ..way }.udp((1, 2), 10), Multicast);
    }
    let group = Mac([0x33, 0x33, 0, 0, 0, 0xfb]);
    range.silent(
        "mDNS",
        &Way { to: addr("ff02::fb"), dst: group, ..range.to_victim(true) }.udp((1, 2), 10),
        Multicast,
    );
    range.silent("DHCP offer", &Way { dst: Mac::BROADCAST, ..way }.udp((67, 68), 300), Multicast);
    range.silent("unknown unicast", &Way { dst: range.victim.mac, ..way }.udp((1, 2), 10), NotForGateway);
    range.told("nobody's address", &Way { to: addr("10.244.1.250"), ..way }.udp((1, 2), 10), NoRoute);
    range.silent(
        "the gateway, not by ping",
        &Way { to: GATEWAY_V4.into(), ..way }.udp((1, 53), 10),
        GatewayRefused,
    );
}

#[test]
fn link_layer() {
    let mut range = Range::new();
    let frame = range.to_victim(false).udp((1, 2), 10);
    range.silent("802.1Q", &tagged(&frame, EtherType::VLAN_TAGGED_FRAME), Vlan);
    range.silent("802.1ad", &tagged(&frame, EtherType::PROVIDER_BRIDGING), Vlan);
    let double = tagged(&tagged(&frame, EtherType::VLAN_TAGGED_FRAME), EtherType::PROVIDER_BRIDGING);
    range.silent("QinQ", &double, Vlan);
    for (last, ethertype) in [(0, 0x0026_u16), (0x0e, 0x88cc), (3, 0x888e), (2, 0x8809)] {
        let mut control = vec![0; 60];
        control[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, last]);
        control[6..12].copy_from_slice(&range.attacker.mac.0);
        control[12..14].copy_from_slice(&ethertype.to_be_bytes());
        range.silent("link control", &control, LinkControl);
    }
    for len in [0, 1, 13] {
        range.silent("too short", &frame[..len], Truncated);
    }
}

#[test]
fn arp_and_discovery() {
    let mut range = Range::new();
    let me = range.attacker;
    let victim = range.victim;
    range.silent("gateway is-at", &arp(&me, ArpOperation::REPLY, GATEWAY_V4, me.v4), ArpIgnored);
    range.silent("gratuitous", &arp(&me, ArpOperation::REQUEST, victim.v4, victim.v4), ArpIgnored);
    range.silent("who-has victim", &arp_request(&me, victim.v4), ArpIgnored);
    let all = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let way = Way { dst: all, to: addr("ff02::1"), ttl: 255, ..range.to_victim(true) };
    let override_flag = [0x20, 0, 0, 0];
    let advert = [&victim.v6.octets()[..], &[2, 1], &me.mac.0].concat();
    range.silent("NA for the victim", &way.icmp(136, 0, override_flag, &advert), NdIgnored);
    let spoofed = [&GATEWAY_V6.octets()[..], &[1, 1], &me.mac.0].concat();
    let asks = Way { from: victim.addr(true), ..way }.icmp(135, 0, [0; 4], &spoofed);
    range.silent("NS in the victim's name", &asks, NdIgnored);
    range.silent("RA", &way.icmp(134, 0, [64, 0, 0xff, 0xff], &[0; 8]), RouterDiscovery);
    range.silent("RS", &way.icmp(133, 0, [0; 4], &[]), RouterDiscovery);
    let quote = range.to_victim(false).udp((1, 2), 8)[14..].to_vec();
    range.silent("redirect", &range.to_victim(false).icmp(5, 1, [10, 0, 0, 1], &quote), RouterDiscovery);
    range.silent("redirect", &range.to_victim(true).icmp(137, 0, [0; 4], &[0; 32]), RouterDiscovery);
}

#[test]
fn headers_that_lie() {
    let mut range = Range::new();
    let udp = range.to_victim(false).udp((1, 2), 40);
    let tcp = range.to_victim(false).tcp((1, 2), 3, 40);
    range.silent("IHL 4", &patched(&udp, |f| f[14] = 0x44), BadIpHeader);
    range.silent("version 5", &patched(&udp, |f| f[14] = 0x55), BadIpHeader);
    range.silent("total length beyond the frame", &patched(&udp, |f| f[16] = 0xff), BadLength);
    range.silent(
        "total length below the header",
        &patched(&udp, |f| f[16..18].copy_from_slice(&[0, 19])),
        BadLength,
    );
    for length in [0_u16, 7, 65_535] {
        let lie = patched(&udp, |f| f[38..40].copy_from_slice(&length.to_be_bytes()));
        range.silent("UDP length", &lie, BadL4Header);
    }
    range.silent("TCP offset", &patched(&tcp, |f| f[46] = 0x40), BadL4Header);
    range.silent("header checksum", &{ [&udp[..24], &[0, 0], &udp[26..]].concat() }, BadChecksum);
    for kind in [131, 137] {
        range.silent("source route", &with_options(&udp, &[kind, 7, 4, 10, 0, 0, 1, 0]), SourceRoute);
    }
    let tiny = patched(&tcp[..42], |f| {
        f[16..18].copy_from_slice(&28_u16.to_be_bytes());
        f[20] = 0x20;
    });
    range.silent("8 bytes of TCP in the first fragment", &tiny, TinyFragment);
    let overwrite = patched(&tcp, |f| f[20..22].copy_from_slice(&1_u16.to_be_bytes()));
    range.silent("a fragment that rewrites TCP's header", &overwrite, TinyFragment);
    let six = range.to_victim(true);
    let mut routing = [0; 24];
    routing[..4].copy_from_slice(&[17, 2, 0, 1]);
    range.silent("RH0", &six.proto(43, &routing), BadExtension);
    range.silent("no next header", &six.proto(59, &[0; 8]), BadExtension);
    range.silent("jumbo", &six.proto(0, &[17, 0, 0xc2, 4, 0, 1, 0, 0]), BadExtension);
}

#[test]
fn expired_hops_are_told() {
    let mut range = Range::new();
    for v6 in [false, true] {
        for ttl in [0, 1] {
            range.told("TTL", &Way { ttl, ..range.to_victim(v6) }.udp((1, 2), 10), TtlExceeded);
        }
    }
    let big = range.to_victim(true).udp((1, 2), 1500);
    range.told("too big", &big, TooBig);
    let asked = range.way(Who::Victim, Who::Attacker, false).udp((1, 2), 10);
    range.arrives("a packet to complain about", Who::Victim, &asked, Who::Attacker);
    let answer = range.to_victim(false).icmp(3, 1, [0; 4], &asked[14..]);
    range.silent("an error about an error", &patched(&answer, |f| f[22] = 1), TtlExceeded);
}

#[test]
fn tunnels_made_by_pods() {
    let mut range = Range::new();
    let inner = range.to_victim(false).udp((1, 2), 10);
    for node in ["192.168.77.1", "192.168.77.2"] {
        let way = Way { to: addr(node), ..range.to_victim(false) };
        for proto in [4, 41, 47] {
            range.silent("IP in IP, 6in4, GRE", &way.proto(proto, &inner[14..]), PodTunnel);
        }
        range.silent("VXLAN", &way.udp((9, 8472), 60), PodTunnel);
    }
}

#[test]
fn the_underlay_lies() {
    let mut range = Range::new();
    let victim = range.victim.addr(false);
    let good = Way { src: PEER_VTEP, dst: VTEP, ..Way::routed(&range.far, victim) };
    let inner = good.udp((1, 2), 10);
    range.from("a stranger", [192, 168, 77, 99], &vxlan(&inner), UnknownPeer);
    range.from("itself", [192, 168, 77, 1], &vxlan(&inner), UnknownPeer);
    range.from("another peer's pod", [192, 168, 77, 3], &vxlan(&inner), PeerSpoof);
    for from in [range.third.addr(false), range.attacker.addr(false), addr("8.8.8.8"), addr("192.168.77.2")] {
        range.from("inner source", PEER, &vxlan(&Way { from, ..good }.udp((1, 2), 10)), PeerSpoof);
    }
    for (at, bit, reason) in [(0, 0x08, BadTunnelHeader), (0, 0x80, BadTunnelHeader), (6, 0x01, WrongVni)] {
        let mut datagram = vxlan(&inner);
        datagram[at] ^= bit;
        range.from("VXLAN header", PEER, &datagram, reason);
    }
    for len in [0, 1, 7] {
        let reason = if len == 0 { Truncated } else { BadTunnelHeader };
        range.from("cut off in VXLAN's header", PEER, &vxlan(&inner)[..len], reason);
    }
    range.from("cut off in the inner frame", PEER, &vxlan(&inner)[..8 + 13], Truncated);
    for dst in [Mac::BROADCAST, GATEWAY_MAC, range.victim.mac] {
        range.from("inner MAC", PEER, &vxlan(&Way { dst, ..good }.udp((1, 2), 10)), ForeignMac);
    }
    range.from("inner VLAN", PEER, &vxlan(&tagged(&inner, EtherType::VLAN_TAGGED_FRAME)), Vlan);
    // Never back into a tunnel, to nobody, to the gateway, or out to the world.
    for to in [range.third.addr(false), addr("10.244.2.77")] {
        range.from("on to a node", PEER, &vxlan(&Way { to, ..good }.udp((1, 2), 10)), TunnelLoop);
    }
    for to in [GATEWAY_V4.into(), addr("8.8.8.8")] {
        let datagram = vxlan(&Way { to, ..good }.udp((1, 2), 10));
        let sender = (Ipv4Addr::from(PEER), 40_000).into();
        let before = range.dropped(NotLocal);
        assert!(range.node.wire.send(sender, &datagram, 0));
        let (attacker, victim, host, _told_to_the_peer) = range.settle();
        assert_eq!((attacker, victim, host), (0, 0, 0), "{to}");
        assert_eq!(range.dropped(NotLocal), before + 1, "{to}");
    }
}

/// A receiver that is down or does not read is a named drop too.
#[test]
fn receivers_that_fail() {
    let mut range = Range::new();
    let frame = range.to_victim(false).udp((1, 2), 10);
    range.victim_end.set_down(true);
    range.silent("interface down", &frame, PortDown);
    range.victim_end.set_down(false);
    for _ in 0..5000 {
        assert!(range.attacker_end.send(VnetHdr::default(), &frame));
        range.node.turn(0);
    }
    let queued = std::iter::from_fn(|| range.victim_end.recv()).count() as u64;
    assert_eq!((queued + range.dropped(PortFull), range.dropped(PortFull) > 0), (5000, true));
}

/// One level of decapsulation: what lies inside an inner packet is payload, and arrives unchanged.
#[test]
fn nested_tunnels_are_payload() {
    let mut range = Range::new();
    let good = Way { src: PEER_VTEP, dst: VTEP, ..Way::routed(&range.far, range.victim.addr(false)) };
    let innermost = Way::routed(&range.attacker, range.third.addr(false)).udp((1, 2), 10);
    let nested = [vxlan(&innermost), innermost[14..].to_vec()];
    let mut frame = good.udp((9, 8472), nested[0].len());
    let at = frame.len() - nested[0].len();
    frame[at..].copy_from_slice(&nested[0]);
    frame[40..42].fill(0);
    for frame in [frame, good.proto(4, &nested[1])] {
        assert!(range.node.wire.send((Ipv4Addr::from(PEER), 40_000).into(), &vxlan(&frame), 0));
        while range.node.turn(1000) {}
        let got = range.victim_end.recv().expect("delivered to the victim as it is");
        assert_eq!(got.bytes[34..], frame[34..]);
        assert_eq!(range.settle(), (0, 0, 0, 0));
    }
}

/// A million source addresses, MAC addresses and ports leave nothing behind but counts.
#[test]
fn floods_use_no_memory() {
    let mut range = Range::new();
    let way = range.to_victim(false);
    for n in 0..100_000_u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let frame = match n % 3 {
            0 => Way { src: Mac([2, 9, a, b, c, d]), ..way }.udp((1, 2), 0),
            1 => Way { from: Ipv4Addr::from(n + (10 << 24)).into(), ..way }.udp((1, 2), 0),
            _ => way.udp((c.into(), d.into()), 0),
        };
        assert!(range.attacker_end.send(VnetHdr::default(), &frame));
        if n % 1000 == 999 {
            range.settle();
        }
    }
    let held = range.node.flows();
    assert!(held <= 4096, "{held} flows are remembered");
}
