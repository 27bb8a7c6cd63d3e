//! Ways around policy that lie in what a packet is called: its labels, its protocol, its headers, its destination.

use encap::Mac;
use serde_json::{Value, json};
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::craft::{Way, patched, with_options};
use vswitch_tests::sim::objects::{app, egress, ingress, namespace, pod, port};
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Far, Host, Victim};

const SYN: u8 = 2;

fn tcp80() -> Vec<Value> {
    vec![ingress("web", "victim", json!([{"ports": port("TCP", 80)}]))]
}

#[test]
fn link_local_metadata_under_denied_egress() {
    let mut range = Range::guarded(&[egress("none", "attacker", json!([]))]);
    let way = Way::routed(&range.attacker, "169.254.169.254".parse().unwrap());
    range.denied("a request for metadata", Attacker, &way.tcp_flags((4000, 80), SYN), PolicyEgress);
    range.denied("by UDP", Attacker, &way.udp((4000, 80), 10), PolicyEgress);
    // The node itself is exempt only by Kubernetes' rule for probes, at its own addresses.
    let node = Way::routed(&range.attacker, "192.168.77.1".parse().unwrap());
    range.arrives("its node", Attacker, &node.udp((4000, 80), 10), Host);
    let other = Way::routed(&range.attacker, "192.168.77.2".parse().unwrap());
    range.denied("another node", Attacker, &other.udp((4000, 80), 10), PolicyEgress);
}

/// Denied means denied by every header chain that leads to the port.
#[test]
fn extension_headers_hide_no_port() {
    let mut range = Range::guarded(&tcp80());
    let way = range.to_victim(true);
    let padding = [1, 4, 0, 0, 0, 0];
    let chain = |kinds: &[u8], port: u16| {
        let tcp = way.tcp_flags((4000, port), SYN);
        let mut payload = Vec::new();
        for (n, _) in kinds.iter().enumerate() {
            payload.extend([kinds.get(n + 1).copied().unwrap_or(6), 0]);
            payload.extend(padding);
        }
        payload.extend(&tcp[54..]);
        way.proto(kinds[0], &payload)
    };
    let seven = [0, 60, 60, 60, 60, 60, 60];
    range.arrives("an open port behind seven headers", Attacker, &chain(&seven, 80), Victim);
    for kinds in [&[60][..], &[0, 60], &seven] {
        range.denied("a closed port", Attacker, &chain(kinds, 22), PolicyIngress);
    }
    range.denied("twenty headers", Attacker, &chain(&[60; 20], 22), BadExtension);
    range.denied("hop-by-hop in the middle", Attacker, &chain(&[60, 0], 22), BadExtension);
    range.denied("no next header", Attacker, &way.proto(59, &[0; 40]), BadExtension);
    // What AH protects is not read: a rule for ports does not match through it.
    let authenticated = [&[6, 4][..], &[0; 22], &way.tcp_flags((4000, 80), SYN)[54..]].concat();
    range.denied("AH", Attacker, &way.proto(51, &authenticated), PolicyIngress);
}

#[test]
fn options_hide_no_port() {
    let mut range = Range::guarded(&tcp80());
    let open = range.to_victim(false).tcp_flags((4000, 80), SYN);
    let closed = range.to_victim(false).tcp_flags((4000, 22), SYN);
    // 40 bytes of options that read as a TCP header to port 80 for who takes the header to be 20 bytes long.
    let mut fake = open[34..54].to_vec();
    fake.resize(40, 1);
    fake[0] = 0x94;
    fake[1] = 40;
    range.denied("IHL 15", Attacker, &with_options(&closed, &fake), PolicyIngress);
    range.arrives("padding before an open port", Attacker, &with_options(&open, &[1; 40]), Victim);
    // Bytes behind the packet are no part of it.
    let trailing = [&closed[..], &open[14..]].concat();
    range.denied("a second packet behind the first", Attacker, &trailing, PolicyIngress);
    let short = patched(&open, |f| f[16..18].copy_from_slice(&30_u16.to_be_bytes()));
    range.denied("a total length within the TCP header", Attacker, &short, Truncated);
}

/// A pod's own labels say nothing about its namespace.
#[test]
fn labels_that_claim_a_namespace() {
    let trusted = json!([{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "trusted"}}}]}]);
    let team = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}]}]);
    let empty = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": ""}}}]}]);
    let long = "x".repeat(63);
    let long_rule = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": long}}}]}]);
    for (rule, spoof) in [(&trusted, "trusted"), (&team, "red"), (&empty, ""), (&long_rule, &long)] {
        let mut range = Range::new();
        let labels = json!({
            "io.kubernetes.pod.namespace": "trusted",
            "kubernetes.io/metadata.name": spoof,
            "projectcalico.org/namespace": "trusted",
            "pcns.team": spoof,
            "pcns.kubernetes.io_metadata.name": spoof,
            "team": spoof,
        });
        let mut objects = range.pods();
        objects[0] = pod("default", "n1-p1", "n1", &range.attacker, labels);
        objects.push(namespace("default", json!({"team": "blue"})));
        objects.push(ingress("web", "victim", rule.clone()));
        range.node.set_objects(&objects);
        let frame = range.to_victim(false).udp((1, 2), 10);
        range.denied(&format!("a pod that claims {spoof:?}"), Attacker, &frame, PolicyIngress);
        // The same labels on a namespace do what the claim could not.
        let name = if std::ptr::eq(rule, &trusted) { "trusted" } else { "other" };
        objects[3] = pod(name, "n2-p1", "n2", &range.far, json!({}));
        objects.push(namespace(name, json!({ "team": spoof })));
        range.node.set_objects(&objects);
        let far = range.way(Far, Victim, false).udp((1, 2), 10);
        range.arrives("from a namespace that is it", Far, &far, Victim);
    }
}

/// A selector that selects nobody lets nobody in, also once it is compiled, changed and read again.
#[test]
fn a_peer_that_is_nobody() {
    let nobody = [
        json!([{"from": app("ghost")}]),
        json!([{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["ghost"]}]}}]}]),
        json!([{"from": [{"namespaceSelector": {"matchLabels": {"no": "such"}}}]}]),
        json!([{"from": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.0.0/17", "10.244.128.0/17"]}}]}]),
        json!([]),
    ];
    for rules in nobody {
        let mut range = Range::guarded(&[ingress("web", "victim", rules.clone())]);
        let frames = |range: &Range| {
            [Attacker, Bystander, Far].map(|who| (who, range.way(who, Victim, false).udp((1, 2), 10)))
        };
        for _ in 0..2 {
            for (who, frame) in frames(&range) {
                range.denied(&rules.to_string(), who, &frame, PolicyIngress);
            }
            // Open for a moment, and read again.
            range.set_policies(&[]);
            range.set_policies(&[ingress("web", "victim", rules.clone())]);
        }
    }
    // Everybody is written otherwise.
    let mut range = Range::guarded(&[ingress("web", "victim", json!([{"from": []}]))]);
    let frame = range.to_victim(false).udp((1, 2), 10);
    range.arrives("an empty list of peers is no condition", Attacker, &frame, Victim);
}

#[test]
fn sctp_is_not_tcp() {
    for v6 in [false, true] {
        let mut range = Range::guarded(&tcp80());
        let way = range.to_victim(v6);
        range.denied("INIT to a port open for TCP", Attacker, &way.sctp((4000, 80), 1), PolicyIngress);
        range.set_policies(&[ingress("sctp", "victim", json!([{"ports": port("SCTP", 80)}]))]);
        range.arrives("INIT to a port open for SCTP", Attacker, &way.sctp((4000, 80), 1), Victim);
        range.denied("SYN to a port open for SCTP", Attacker, &way.tcp_flags((4000, 80), SYN), PolicyIngress);
        range.denied("INIT to another", Attacker, &way.sctp((4000, 81), 1), PolicyIngress);
    }
}

/// A rule for ports lets in what has such ports and nothing else: ICMP needs a rule without ports.
#[test]
fn other_protocols_under_a_rule_for_tcp() {
    let mut range = Range::guarded(&tcp80());
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        let as_tcp = way.tcp_flags((4000, 80), SYN);
        let body = &as_tcp[as_tcp.len() - 20..];
        for proto in [2, 4, 17, 33, 41, 47, 50, 51, 89, 103, 112, 115, 132, 136, 137, 253, 255] {
            let frame = way.proto(
                proto,
                &if proto == 17 {
                    way.udp((4000, 80), 12)[if v6 { 54 } else { 34 }..].to_vec()
                } else {
                    body.to_vec()
                },
            );
            let outcome = range.outcome(Attacker, &frame);
            assert!(matches!(outcome, Dropped(PolicyIngress | OutOfState)), "protocol {proto}: {outcome:?}");
        }
        range.denied("ping", Attacker, &way.ping(8), PolicyIngress);
        range.arrives("TCP", Attacker, &as_tcp, Victim);
    }
    range.set_policies(&[ingress("all", "victim", json!([{"from": app("attacker")}]))]);
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        range.arrives("ping, by a rule without ports", Attacker, &way.ping(8), Victim);
        range.arrives("ESP, by a rule without ports", Attacker, &way.proto(50, &[0; 16]), Victim);
    }
}

/// No remembered decision is wider than what it was made from.
#[test]
fn protocol_zero_poisons_no_decision() {
    let mut range = Range::guarded(&tcp80());
    let way = range.to_victim(false);
    for _ in 0..2 {
        let zero = [&[0x0f, 0xa0, 0, 80][..], &[0; 16]].concat();
        range.denied("protocol 0", Attacker, &way.proto(0, &zero), PolicyIngress);
        range.denied("TCP to a closed port", Attacker, &way.tcp_flags((4000, 22), SYN), PolicyIngress);
        range.arrives("TCP to an open port", Attacker, &way.tcp_flags((4000, 80), SYN), Victim);
        range.denied("UDP to it", Attacker, &way.udp((4000, 80), 10), PolicyIngress);
    }
    // An allowed one first, then what differs from it in one thing each.
    range.set_policies(&[ingress(
        "all",
        "victim",
        json!([{"from": app("attacker"), "ports": port("UDP", 80)}]),
    )]);
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        range.arrives("allowed", Attacker, &way.udp((4000, 80), 10), Victim);
        range.denied("another port", Attacker, &way.udp((4000, 81), 10), PolicyIngress);
        range.denied("another protocol", Attacker, &way.tcp_flags((4000, 80), SYN), PolicyIngress);
        let stranger = range.way(Bystander, Victim, v6);
        range.denied("another sender", Bystander, &stranger.udp((4000, 80), 10), PolicyIngress);
        let far = range.way(Far, Victim, v6);
        range.denied("another node", Far, &far.udp((4000, 80), 10), PolicyIngress);
        let elsewhere = range.way(Attacker, Bystander, v6);
        range.arrives("another receiver", Attacker, &elsewhere.udp((4000, 81), 10), Bystander);
    }
}

/// Two neighbour messages that differ only in the target.
#[test]
fn neighbour_messages_are_judged_one_by_one() {
    let mut range = Range::guarded(&tcp80());
    let me = range.attacker;
    let ask = |target: std::net::Ipv6Addr| {
        let way = Way {
            src: me.mac,
            dst: Mac([0x33, 0x33, 0xff, 0, 0, 1]),
            from: me.v6.into(),
            to: "ff02::1:ff00:1".parse().unwrap(),
            ttl: 255,
        };
        way.icmp(135, 0, [0; 4], &[&target.octets()[..], &[1, 1], &me.mac.0].concat())
    };
    let gateway = ask(vswitch::snapshot::GATEWAY_V6);
    let victim = ask(range.victim.v6);
    for _ in 0..2 {
        assert_eq!(range.outcome(Attacker, &victim), Dropped(NdIgnored));
        let before = range.node.totals().answered;
        assert!(range.attacker_end.send(encap::VnetHdr::default(), &gateway));
        assert_eq!(range.settle(), (1, 0, 0, 0));
        assert_eq!(range.node.totals().answered, before + 1);
    }
}

#[test]
fn multicast_under_deny() {
    let mut range = Range::guarded(&[ingress("closed", "victim", json!([]))]);
    for to in ["224.0.0.251", "224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        for dst in [Mac::BROADCAST, vswitch::snapshot::GATEWAY_MAC, Mac([1, 0, 0x5e, 0, 0, 0xfb])] {
            let way = Way { dst, to: to.parse().unwrap(), ..range.to_victim(false) };
            range.denied(to, Attacker, &way.udp((5353, 5353), 20), Multicast);
        }
    }
    for to in ["ff02::1", "ff02::fb", "ff05::2", "ff0e::1"] {
        for dst in [Mac([0x33, 0x33, 0, 0, 0, 1]), vswitch::snapshot::GATEWAY_MAC] {
            let way = Way { dst, to: to.parse().unwrap(), ..range.to_victim(true) };
            range.denied(to, Attacker, &way.udp((5353, 5353), 20), Multicast);
        }
    }
    // The range's own broadcast address is nobody's.
    let way = Way { to: "10.244.1.255".parse().unwrap(), ..range.to_victim(false) };
    assert_eq!(range.outcome(Attacker, &way.udp((1, 2), 10)), Dropped(NoRoute));
    let node = Way { from: "192.168.77.1".parse().unwrap(), ..range.to_victim(false) };
    assert_eq!(range.outcome(Host, &node.udp((1, 2), 10)), At(Victim), "its own node's probe");
}
