//! What a pod may try against the network itself: to serve addresses, to speak a family it does not have, to make two
//! nodes throw a packet at each other.

use std::net::IpAddr;

use encap::{Mac, Tunnel, VnetHdr};
use vswitch::counters::DropReason::*;
use vswitch::snapshot::GATEWAY_MAC;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::node::Node;
use vswitch_tests::sim::range::Outcome::Dropped;
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Host};

/// A DHCP server's words reach no pod: they are broadcast, or come from an address that the pod does not have.
#[test]
fn rogue_address_servers() {
    let mut range = Range::new();
    let server = range.to_victim(false);
    for dst in [Mac::BROADCAST, GATEWAY_MAC] {
        let offer = Way { dst, to: "255.255.255.255".parse().unwrap(), ..server };
        range.silent("an offer to everybody", &offer.udp((67, 68), 300), Multicast);
    }
    let gateway = Way { from: "169.254.1.1".parse().unwrap(), ..server };
    range.silent("in the gateway's name", &gateway.udp((67, 68), 300), SpoofedAddress);
    let direct = Way { dst: range.victim.mac, ..server };
    range.silent("to the victim's MAC", &direct.udp((67, 68), 300), NotForGateway);
    let six = range.to_victim(true);
    let link_local = Way { from: "fe80::7".parse().unwrap(), ..six };
    range.silent("an IPv6 advertisement", &link_local.udp((547, 546), 100), SpoofedAddress);
    let agents = Way { dst: Mac([0x33, 0x33, 0, 1, 0, 2]), to: "ff02::1:2".parse().unwrap(), ..six };
    range.silent("to all servers", &agents.udp((546, 547), 100), Multicast);
}

#[test]
fn ipv6_from_a_pod_that_has_none() {
    let mut range = Range::new();
    let me = range.attacker;
    range.node.take_ipv6(&me);
    let way = range.to_victim(true);
    let automatic: IpAddr = "fd00:244:1::ff:fe00:1".parse().unwrap();
    for from in [way.from, "fe80::1234".parse().unwrap(), automatic] {
        range.silent("to the victim", &Way { from, ..way }.udp((1, 2), 10), NoIpv6);
        let gateway = Way { from, to: vswitch::snapshot::GATEWAY_V6.into(), ..way };
        range.silent("to the gateway", &gateway.ping(8), NoIpv6);
        let group =
            Way { from, dst: Mac([0x33, 0x33, 0, 0, 0, 0xfb]), to: "ff02::fb".parse().unwrap(), ..way };
        range.silent("mDNS", &group.udp((5353, 5353), 10), Multicast);
    }
    let all = Way { dst: Mac([0x33, 0x33, 0, 0, 0, 1]), to: "ff02::1".parse().unwrap(), ttl: 255, ..way };
    range.silent("an advertisement of itself", &all.icmp(136, 0, [0x20, 0, 0, 0], &[0; 24]), NdIgnored);
    range.silent("a solicitation", &all.icmp(135, 0, [0; 4], &[0; 24]), NdIgnored);
    // Nobody can reach it by the address it had.
    let back = Way::routed(&range.victim, way.from);
    assert_eq!(
        range.outcome(vswitch_tests::sim::range::Who::Victim, &back.udp((1, 2), 10)),
        Dropped(NoRoute)
    );
}

/// A packet for an address that two nodes believe the other has crosses the tunnel once: what came out of a tunnel never
/// goes back into one. Through the host it would die by its TTL.
#[test]
fn a_packet_between_two_nodes_that_point_at_each_other() {
    let tunnel = Tunnel::Vxlan { vni: 1 };
    let mut nodes = [0, 1].map(|index| Node::new(index, tunnel, 5));
    let (me, end) = nodes[0].attach(0, true);
    // To each of the two, the third node's pods are behind the other: they hear each other as the third.
    let to: IpAddr = "10.244.3.9".parse().unwrap();
    nodes.iter_mut().enumerate().for_each(|(index, node)| node.publish(index, 3));
    assert!(end.send(VnetHdr::default(), &Way::routed(&me, to).udp((1, 2), 10)));
    nodes[0].turn(1_000_000);
    let mut crossings = 0;
    let mut at = 0;
    while let Some(train) = nodes[at].wire.recv() {
        crossings += 1;
        let mut bytes = train.bytes.clone();
        // The other node's VTEP takes it for its own.
        bytes[8..14].copy_from_slice(&[0x0e, 0, 0, 0, 0, 2 - at as u8]);
        let from = nodes[at].endpoint;
        at = 1 - at;
        assert!(nodes[at].wire.send(from, &bytes, 0));
        nodes[at].turn(1_000_000);
    }
    assert_eq!(crossings, 1);
    assert_eq!(nodes[1].totals().drops, [(TunnelLoop, 1)]);
}

/// What the host sends to the switch though it is not the switch's goes nowhere, and not in circles.
#[test]
fn a_packet_that_the_host_and_the_switch_point_at_each_other() {
    let mut range = Range::new();
    let mac = range.node.snapshot().port(0).unwrap().mac;
    let way = Way {
        src: mac,
        dst: GATEWAY_MAC,
        from: "192.168.77.1".parse().unwrap(),
        to: "203.0.113.9".parse().unwrap(),
        ttl: 64,
    };
    assert_eq!(range.outcome(Host, &way.udp((1, 2), 10)), Dropped(HostLoop));
    for ttl in [0, 1] {
        let outside = Way { ttl, ..Way::routed(&range.attacker, way.to) };
        assert_eq!(range.outcome(Attacker, &outside.udp((1, 2), 10)), Dropped(TtlExceeded));
    }
    let outside = Way { ttl: 2, ..Way::routed(&range.attacker, way.to) };
    range.arrives("the last hop", Attacker, &outside.udp((1, 2), 10), Host);
}
