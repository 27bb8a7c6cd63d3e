//! Ranges behind several peers, from what is known about the node to the decision.

use std::net::IpAddr;
use std::sync::Arc;

use encap::{Mac, Tunnel, from_ip};

use super::*;
use crate::compile::{NodeFacts, PeerFacts, compile};
use crate::counters::port_stats;
use crate::port::{Offloads, mem};
use crate::snapshot::peer_stats;

const HOST: u32 = 0;
const POD: u32 = 1;
const VXLAN: Option<Tunnel> = Some(Tunnel::Vxlan { vni: 1 });

fn mapped(text: &str) -> u128 {
    from_ip(text.parse().unwrap())
}

fn port(id: u32, kind: PortKind) -> Option<Arc<Port>> {
    let (_, tx, _) = mem::pair(Offloads::default(), 1);
    let pod = |text| (kind == PortKind::Pod).then(|| mapped(text));
    Some(Arc::new(Port {
        id,
        name: format!("p{id}"),
        kind,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        v4: pod("10.244.1.7"),
        v6: pod("fd00:1::7"),
        mtu: 1400,
        tx: Arc::new(tx),
        stats: port_stats(1),
    }))
}

/// Peer `n` at 192.168.77.n and fd77::n.
fn peer(n: u8, tunnel: Option<Tunnel>, ranges: &[&str]) -> Arc<PeerFacts> {
    Arc::new(PeerFacts {
        name: format!("n{n}").into(),
        addresses: vec![IpAddr::from([192, 168, 77, n]), format!("fd77::{n}").parse().unwrap()],
        pod_cidrs: ranges.iter().map(|net| net.parse().unwrap()).collect(),
        vtep_mac: Mac::default(),
        tunnel,
        port: 4789,
        vni: None,
        path_mtu: 1400,
        whole: false,
        stats: peer_stats(1),
    })
}

fn tables(peers: &[Arc<PeerFacts>]) -> Snapshot {
    let node = NodeFacts {
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        addresses: vec![[192, 168, 77, 1].into()],
        tunnel: VXLAN,
        tunnel_ports: vec![4789],
        vtep_mac: Mac::default(),
        mtu: 1400,
    };
    compile(&node, peers, &[port(HOST, PortKind::Host), port(POD, PortKind::Pod)])
}

/// A UDP packet of the pod.
fn packet(to: &str, sport: u16) -> Parsed {
    let v6 = to.contains(':');
    let src = mapped(if v6 { "fd00:1::7" } else { "10.244.1.7" });
    Parsed { v6, src, dst: mapped(to), proto: proto::UDP, sport, dport: 80, ..Parsed::default() }
}

/// The name of the peer that a packet of the pod is sent to.
fn way(snap: &Snapshot, p: &Parsed) -> String {
    match resolve(snap, Ingress::Port(snap.port(POD).unwrap()), p, &mut Silent) {
        Action::Peer(i) => snap.peers[i as usize].name.to_string(),
        Action::Port(HOST) => "host".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Where each of a thousand flows goes.
fn ways(snap: &Snapshot, to: &str) -> Vec<String> {
    (0..1000).map(|i| way(snap, &packet(to, 40_000 + i))).collect()
}

fn share(ways: &[String], of: &str) -> usize {
    ways.iter().filter(|way| *way == of).count()
}

#[test]
fn a_range_of_several_peers_spreads_its_flows() {
    let shared = "10.244.9.0/24";
    let three = tables(&[peer(2, VXLAN, &[shared]), peer(3, VXLAN, &[shared]), peer(4, VXLAN, &[shared])]);
    let before = ways(&three, "10.244.9.1");
    for n in ["n2", "n3", "n4"] {
        assert!((270..400).contains(&share(&before, n)), "{n} {}", share(&before, n));
    }
    // One goes; the others' indices and whatever else is routed change nothing for their flows.
    let two = tables(&[
        peer(1, VXLAN, &["10.244.8.0/24"]),
        peer(2, VXLAN, &["10.244.9.0/25", shared]),
        peer(4, VXLAN, &[shared, "10.244.4.0/24"]),
    ]);
    let after = ways(&two, "10.244.9.200");
    let again = ways(&three, "10.244.9.200");
    for (before, after) in again.iter().zip(&after).filter(|(before, _)| *before != "n3") {
        assert_eq!(before, after);
    }
    assert!((420..580).contains(&share(&after, "n2")));
    assert_eq!(share(&ways(&two, "10.244.9.1"), "n2"), 1000, "a longer prefix is its peer's alone");
}

#[test]
fn fragments_of_a_packet_go_together() {
    let shared = &["10.244.9.0/24"];
    let snap = tables(&[peer(2, VXLAN, shared), peer(3, VXLAN, shared)]);
    let later = Parsed { sport: 0, dport: 0, frag: Frag::Later, ..packet("10.244.9.1", 0) };
    let first = |i| Parsed { frag: Frag::First, ..packet("10.244.9.1", i) };
    assert!((0..1000).all(|i| way(&snap, &first(i)) == way(&snap, &later)));
    let from = Ingress::Port(snap.port(POD).unwrap());
    let keys = [packet("10.244.9.1", 7), first(7), later].map(|p| flow_key(from, &p));
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "or a whole packet's decision would be a fragment's");
}

#[test]
fn a_source_may_come_from_each_of_its_peers_and_nobody_else() {
    let shared = &["10.244.9.0/24"];
    let own = &["10.244.5.0/24"];
    let snap = tables(&[peer(2, VXLAN, shared), peer(3, VXLAN, shared), peer(5, VXLAN, own)]);
    let p = Parsed { src: mapped("10.244.9.1"), dst: mapped("10.244.1.7"), ..packet("10.244.1.7", 1) };
    let from = |i| resolve(&snap, Ingress::Peer(i), &p, &mut Silent);
    assert_eq!([from(0), from(1)], [Action::Port(POD); 2]);
    assert_eq!(from(2), Action::Drop(DropReason::PeerSpoof));
    let back = Parsed { dst: mapped("10.244.9.2"), ..p };
    assert_eq!(resolve(&snap, Ingress::Peer(0), &back, &mut Silent), Action::Drop(DropReason::TunnelLoop));
}

#[test]
fn direct_members_are_the_hosts_and_a_tunnel_without_ipv6_is_no_way_for_it() {
    let ranges = &["10.244.9.0/24", "fd00:9::/64"];
    let snap = tables(&[peer(2, VXLAN, ranges), peer(3, None, ranges), peer(4, Some(Tunnel::Udp), ranges)]);
    let (v4, v6) = (ways(&snap, "10.244.9.1"), ways(&snap, "fd00:9::1"));
    for (of, share4, share6) in [("n2", 330, 500), ("host", 330, 500), ("n4", 330, 0)] {
        assert!(share(&v4, of).abs_diff(share4) < 70, "{of} {}", share(&v4, of));
        assert!(share(&v6, of).abs_diff(share6) < 80, "{of} {}", share(&v6, of));
    }
    // What comes in from the host goes by the tunnels only: direct members are the host's own affair.
    let host = snap.port(HOST).unwrap();
    let forwarded = Parsed { src: mapped("172.16.0.1"), ..packet("10.244.9.1", 1) };
    let decisions = (0..100)
        .map(|sport| resolve(&snap, Ingress::Port(host), &Parsed { sport, ..forwarded }, &mut Silent));
    let expected = |action| matches!(action, Action::Peer(_) | Action::Drop(DropReason::HostLoop));
    assert!(decisions.into_iter().all(expected));
}

/// Remembers the last step.
#[derive(Default)]
struct Last(String);

impl Explain for Last {
    fn step(&mut self, _: &'static str, text: impl FnOnce() -> String) {
        self.0 = text();
    }
}

#[test]
fn an_explanation_names_all_and_the_one_chosen() {
    let explain = |snap: &Snapshot, sport| {
        let mut last = Last::default();
        resolve(snap, Ingress::Port(snap.port(POD).unwrap()), &packet("10.244.9.1", sport), &mut last);
        last.0
    };
    let range = &["10.244.9.0/24"];
    let snap = tables(&[peer(2, VXLAN, range), peer(3, VXLAN, range)]);
    for sport in 0..20 {
        let chosen = way(&snap, &packet("10.244.9.1", sport));
        let text = explain(&snap, sport);
        assert!(text.contains("behind nodes n2, n3, equally good"), "{text}");
        assert!(text.contains(&format!("this flow goes to node {chosen} at")), "{text}");
    }
    let snap = tables(&[peer(2, None, range), peer(3, None, range)]);
    let text = explain(&snap, 1);
    assert!(text.contains("n2, n3, equally good") && text.contains("the host through p0 chooses"), "{text}");
}
