//! Floods: the work and the memory that one pod can make others pay for, in counts and not in time.

use std::net::Ipv4Addr;

use encap::VnetHdr;
use serde_json::{Value, json};
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::craft::{Way, arp_request};
use vswitch_tests::sim::objects::{ingress, port};
use vswitch_tests::sim::random::Random;
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Victim};

/// "Allow some, drop the rest": a few rules that differ in which fields they look at.
fn some() -> Vec<Value> {
    let rules = json!([
        {"ports": port("TCP", 80)},
        {"from": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/25"]}}]},
        {"from": [{"podSelector": {"matchLabels": {"app": "bystander"}}}], "ports": [{"protocol": "UDP", "port": 1000, "endPort": 2000}]},
    ]);
    vec![ingress("some", "victim", rules)]
}

/// Packets between a flood and a look at it.
const ROUND: usize = 100;

/// The bystander talks to the victim over eight flows while the attacker sends `flood`, ten packets for one; returns how
/// many of the bystander's packets arrived, how many needed a decision, and how many there were.
fn beside(range: &mut Range, rounds: usize, mut flood: impl FnMut(&Range) -> Vec<u8>) -> (u64, u64, u64) {
    let flows: Vec<Vec<u8>> =
        (0..8).map(|n| range.way(Bystander, Victim, false).udp((3000 + n, 1500), 100)).collect();
    for frame in flows.iter().chain(&flows) {
        range.arrives("before the flood", Bystander, frame, Victim);
    }
    let (mut arrived, mut missed, mut sent) = (0, 0, 0);
    for round in 0..rounds {
        for _ in 0..ROUND {
            range.send(Attacker, VnetHdr::default(), &flood(range));
        }
        range.settle();
        let before = range.node.totals();
        for n in 0..ROUND / 10 {
            range.send(Bystander, VnetHdr::default(), &flows[(round + n) % flows.len()]);
            sent += 1;
        }
        range.settle();
        let after = range.node.totals();
        arrived += after.to_pods - before.to_pods;
        missed += after.flow_misses - before.flow_misses;
    }
    (arrived, missed, sent)
}

/// Tuple space explosion: random packets against many kinds of rules. Every packet costs one decision at most, and the
/// others' decisions stay remembered.
#[test]
fn random_tuples() {
    for v6 in [false, true] {
        let mut range = Range::guarded(&some());
        let mut random = Random::new(7);
        let (arrived, missed, sent) = beside(&mut range, 1000, |range| {
            let ports = (random.bits() as u16, random.bits() as u16);
            let way = range.to_victim(v6);
            match random.below(3) {
                0 => way.tcp_flags(ports, 2),
                1 => way.udp(ports, 0),
                _ => way.proto(random.bits() as u8, &[0; 24]),
            }
        });
        assert_eq!(arrived, sent, "every packet of the bystander arrived");
        assert!(missed * 10 <= sent, "{missed} of {sent} packets needed a decision");
        assert!(range.node.flows() <= 4096, "{} decisions are remembered", range.node.flows());
    }
}

/// Collisions without the key: ports that an unkeyed sum, exclusive-or or truncation would put in one place.
#[test]
fn tuples_chosen_to_collide() {
    for kind in 0..3 {
        let mut range = Range::guarded(&some());
        let mut n = 0_u16;
        let (arrived, missed, sent) = beside(&mut range, 600, |range| {
            n = n.wrapping_add(1);
            let ports = match kind {
                0 => (n, 0_u16.wrapping_sub(n)),
                1 => (n, n ^ 0x5555),
                _ => (n << 8, (n >> 8) << 8),
            };
            range.to_victim(false).udp(ports, 0)
        });
        assert_eq!(arrived, sent, "every packet of the bystander arrived");
        assert!(missed * 10 <= sent, "{missed} of {sent} packets needed a decision");
    }
}

/// Questions for random addresses are the gateway's to ignore: none reaches another pod.
#[test]
fn address_resolution() {
    let mut range = Range::guarded(&some());
    let mut random = Random::new(9);
    let (arrived, missed, sent) = beside(&mut range, 1000, |range| {
        arp_request(&range.attacker, Ipv4Addr::from(random.bits() as u32 | 1))
    });
    assert_eq!((arrived, missed), (sent, 0));
    assert_eq!(range.dropped(ArpIgnored), 1000 * ROUND as u64);
    assert_eq!(range.strays, 0);
}

/// The attacker's denied packets leave nothing in the connection table, and its errors are told at a limited rate.
#[test]
fn packets_that_cannot_be_delivered() {
    let mut range = Range::guarded(&some());
    let nobody = Way { to: "10.244.1.250".parse().unwrap(), ..range.to_victim(false) };
    let mut told = 0;
    for n in 0..20_000_u32 {
        let frame = if n % 2 == 0 {
            nobody.udp((n as u16, 1), 0)
        } else {
            Way { ttl: 1, ..nobody }.udp((n as u16, 1), 0)
        };
        range.send(Attacker, VnetHdr::default(), &frame);
        if n % 1000 == 999 {
            told += range.settle().0;
            range.now_us += 1000;
        }
    }
    assert!((1..=50 + 20).contains(&told), "{told} errors in 20 ms");
    assert!(range.node.conntrack().is_empty());
}
