//! Policies that change under traffic: no packet meets half a change, and nothing that every version allows is lost.
//!
//! `VSWITCH_PROBES` sets how many packets the search for a gap sends (40,000 without it).

use std::net::IpAddr;

use encap::Tunnel;
use serde_json::{Value, json};
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::naive::{NaiveNode, Verdict};
use vswitch_tests::sim::node::Node;
use vswitch_tests::sim::objects::{app, ingress, pod, port};
use vswitch_tests::sim::random::Random;
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Far, Victim};
use vswitch_tests::sim::worlds;

const SYN: u8 = 2;
const ACK: u8 = 16;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

/// The victim takes everything from the pods labelled so, nothing else.
fn only(who: &str) -> Value {
    ingress("only", "victim", json!([{ "from": app(who) }]))
}

/// Connections that every version allows, through a thousand changes of policies that have nothing to do with them, or
/// that allow them in other words.
#[test]
fn allowed_connections_survive_updates() {
    let base = ingress(
        "web",
        "victim",
        json!([{"from": app("attacker"), "ports": port("TCP", 80)}, {"from": app("attacker"), "ports": port("UDP", 80)}]),
    );
    let mut range = Range::guarded(std::slice::from_ref(&base));
    let mut flows = Vec::new();
    for v6 in [false, true] {
        let (there, back) = (range.to_victim(v6), range.way(Victim, Attacker, v6));
        range.arrives("SYN", Attacker, &there.tcp_flags((4000, 80), SYN), Victim);
        range.arrives("SYN ACK", Victim, &back.tcp_flags((80, 4000), SYN | ACK), Attacker);
        flows.push((Attacker, there.tcp((4000, 80), 1, 50), Victim));
        flows.push((Victim, back.tcp((80, 4000), 1, 50), Attacker));
        flows.push((Attacker, there.udp((4000, 80), 50), Victim));
        flows.push((Victim, back.udp((80, 4000), 50), Attacker));
    }
    for n in 0..1000_u16 {
        let unrelated = ingress("unrelated", "bystander", json!([{"ports": port("TCP", 1000 + n)}]));
        let overlapping = ingress(
            "overlapping",
            "victim",
            json!([{"from": app("far"), "ports": port("UDP", 1 + n % 100)}]),
        );
        let wider = ingress("web", "victim", json!([{"from": app("attacker")}]));
        let other = ingress(
            "other-words",
            "victim",
            json!([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]}]),
        );
        let policies = match n % 5 {
            0 => vec![base.clone(), unrelated],
            1 => vec![base.clone(), overlapping],
            2 => vec![wider],
            3 => vec![other],
            _ => vec![],
        };
        range.set_policies(&policies);
        for (from, frame, to) in &flows {
            assert_eq!(range.outcome(*from, frame), At(*to), "change {n}");
        }
    }
    assert_eq!(range.node.totals().dropped(), 0);
}

/// Who may send is replaced over and over, between packets and within bursts: a third pod never may, and of the two that
/// take turns never the one whose turn it is not.
#[test]
fn a_replaced_policy_leaves_no_gap() {
    let mut range = Range::guarded(&[only("bystander")]);
    let mut random = Random::new(3);
    let mut turn = Bystander;
    let probes = number("VSWITCH_PROBES", 40_000);
    let mut passed = 0;
    for n in 0..probes {
        if random.below(16) == 0 {
            turn = if turn == Bystander { Far } else { Bystander };
            range.set_policies(&[only(if turn == Far { "far" } else { "bystander" })]);
        }
        let who = *random.pick(&[Attacker, Attacker, Bystander, Far]);
        let way = range.way(who, Victim, n % 2 == 0);
        let ports = (1000 + random.below(8) as u16, 1000 + random.below(8) as u16);
        let frame = if random.below(2) == 0 { way.udp(ports, 10) } else { way.tcp_flags(ports, SYN) };
        let outcome = range.outcome(who, &frame);
        if who == turn {
            assert_eq!(outcome, At(Victim), "probe {n}: {who:?}'s turn");
            passed += 1;
        } else {
            assert!(
                matches!(outcome, Dropped(PolicyIngress | PolicyRevoked)),
                "probe {n} of {who:?}: {outcome:?}"
            );
        }
    }
    assert!(passed > probes / 8, "{passed} of {probes} probes passed");
    assert_eq!(range.dropped(OutOfState), 0);
}

/// A new pod's isolation is there before its first packet: it is compiled before the port is read by anybody.
#[test]
fn a_new_pod_is_isolated_from_its_first_packet() {
    let mut node = Node::new(0, Tunnel::Vxlan { vni: 1 }, 5);
    let everybody = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let closed = vswitch_tests::sim::objects::policy("default-deny", everybody);
    node.set_objects(std::slice::from_ref(&closed));
    let (first, first_end) = node.attach(0, true);
    let (second, second_end) = node.attach(0, true);
    // They send before anybody has published that they are there, and no object of theirs has come.
    let frames = |from: &Identity, to: &Identity| {
        [false, true].map(|v6| vswitch_tests::sim::craft::Way::routed(from, to.addr(v6)).udp((1, 2), 10))
    };
    for frame in frames(&first, &second) {
        assert!(first_end.send(encap::VnetHdr::default(), &frame));
    }
    node.publish(0, 1);
    while node.turn(1_000_000) {}
    assert_eq!((second_end.recv(), node.totals().to_pods), (None, 0));
    node.set_objects(&[
        closed,
        pod("default", "n1-p1", "n1", &first, json!({})),
        pod("default", "n1-p2", "n1", &second, json!({})),
    ]);
    for frame in frames(&second, &first) {
        assert!(second_end.send(encap::VnetHdr::default(), &frame));
    }
    while node.turn(1_000_000) {}
    assert_eq!((first_end.recv(), node.totals().to_pods, node.totals().dropped()), (None, 0, 4));
}

/// Policies replaced between any two packets: what both the old and the new version deny is not delivered, and what both
/// allow is not lost. Each packet opens a flow of its own or belongs to one that both judge alike.
#[test]
fn old_and_new_bound_what_happens() {
    let mut random = Random::new(11);
    let (mut both_allow, mut both_deny, mut changed) = (0, 0, 0);
    for _ in 0..60 {
        let mut node = Node::new(0, Tunnel::Vxlan { vni: 1 }, random.bits());
        let (pods, ends): (Vec<Identity>, Vec<_>) = (0..4).map(|_| node.attach(0, true)).unzip();
        node.publish(0, 1);
        let named: Vec<_> = (1..).map(|n| format!("default/n1-p{n}")).zip(pods.iter().copied()).collect();
        let own: [IpAddr; 2] = ["192.168.77.1", "10.244.1.0"].map(|a| a.parse().unwrap());
        let mut world = worlds::world(&mut random, &named, &own);
        node.set_world(world.clone());
        let mut now_us = 1_000_000;
        for _ in 0..400 {
            let old = world.clone();
            if random.below(2) == 0 {
                worlds::change(&mut random, &mut world);
                node.set_world(world.clone());
                changed += 1;
            }
            let (from, to) = (random.below(4) as usize, random.below(4) as usize);
            let way =
                vswitch_tests::sim::craft::Way::routed(&pods[from], pods[to].addr(random.below(2) == 0));
            let ports = (*random.pick(&worlds::PORTS), *random.pick(&worlds::PORTS));
            let frame = match random.below(4) {
                0 => way.tcp_flags(ports, SYN),
                1 => way.ping(8),
                2 => way.proto(50, &[0; 16]),
                _ => way.udp(ports, 10),
            };
            if from == to {
                continue;
            }
            // A flow of its own: whatever was there has expired.
            now_us += 700_000_000;
            let port = node.snapshot().port(from as u32 + 1).cloned().expect("it is attached");
            let allows = |node: &Node, world| {
                let ingress = vswitch::pipeline::Ingress::Port(&port);
                let verdict =
                    NaiveNode::default().verdict(node.snapshot(), world, ingress, &frame, now_us / 1000);
                matches!(verdict, Verdict::Port(_))
            };
            let (before, after) = (allows(&node, &old), allows(&node, &world));
            assert!(ends[from].send(encap::VnetHdr::default(), &frame));
            node.turn(now_us);
            let delivered = ends[to].recv().is_some();
            match (before, after) {
                (true, true) => both_allow += 1,
                (false, false) => both_deny += 1,
                _ => {}
            }
            assert!(delivered || !(before && after), "both versions allow it");
            assert!(!delivered || before || after, "both versions deny it");
            assert_eq!(delivered, after, "the newer version counts");
        }
    }
    assert!(both_allow > 1000 && both_deny > 1000 && changed > 5000, "{both_allow}, {both_deny}, {changed}");
}
