//! Route reflectors (RFC 4456) against a full mesh.

use std::net::Ipv4Addr;

use bgp::Family;

use super::sim::{Sim, addr, config, net, peer};

const ASN: u32 = 64_512;

fn announce_all(sim: &mut Sim, nodes: usize) {
    for node in 0..nodes {
        sim.announce(node, &format!("10.1.{node}.0/24"));
        sim.announce(node, &format!("fd00:{node:x}::/32"));
    }
}

/// Next hops by prefix of every node.
fn forwarding(sim: &Sim, nodes: usize) -> Vec<Vec<(String, Vec<String>)>> {
    let route = |r: &bgp::FibRoute| r.hops.iter().map(|h| h.addr.to_string()).collect();
    (0..nodes).map(|n| sim.fib(n).iter().map(|(net, r)| (net.to_string(), route(r))).collect()).collect()
}

fn mesh(nodes: usize) -> Sim {
    let mut sim = Sim::new(1);
    for node in 0..nodes {
        let mut config = config(node, ASN);
        config.peers = (0..nodes).filter(|n| *n != node).map(|n| peer(n, ASN)).collect();
        sim.add(config);
    }
    sim
}

/// Two reflectors in clusters of their own or in one, all others clients of both.
fn reflected(nodes: usize, one_cluster: bool, seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    for node in 0..nodes {
        let mut config = config(node, ASN);
        let others = (0..nodes).filter(|n| *n != node);
        if node < 2 {
            let last = if one_cluster { 1 } else { u8::try_from(node).unwrap() + 1 };
            config.cluster_id = Some(Ipv4Addr::new(1, 0, 0, last));
            config.peers = others.map(|n| bgp::PeerConfig { client: n >= 2, ..peer(n, ASN) }).collect();
        } else {
            config.peers = others.filter(|n| *n < 2).map(|n| peer(n, ASN)).collect();
        }
        sim.add(config);
    }
    sim
}

#[test]
fn reflectors_make_a_full_mesh() {
    let nodes = 8;
    let mut full = mesh(nodes);
    announce_all(&mut full, nodes);
    full.seconds(30);
    full.assert_reachable();
    for (one_cluster, seed) in [(false, 1), (true, 2), (false, 3)] {
        let mut sim = reflected(nodes, one_cluster, seed);
        announce_all(&mut sim, nodes);
        sim.seconds(30);
        sim.assert_reachable();
        assert_eq!(forwarding(&sim, nodes), forwarding(&full, nodes));
        // One of the reflectors goes, and nobody misses it.
        sim.kill(0);
        sim.seconds(200);
        let without: Vec<_> = forwarding(&full, nodes).into_iter().skip(1).collect();
        let known = |of: &[(String, Vec<String>)]| {
            of.iter()
                .filter(|(net, _)| net != "10.1.0.0/24" && net != "fd00::/32")
                .cloned()
                .collect::<Vec<_>>()
        };
        for (now, before) in forwarding(&sim, nodes).into_iter().skip(1).zip(without) {
            assert_eq!(known(&now), known(&before));
        }
    }
}

#[test]
fn a_reflected_route_names_its_originator_and_the_clusters() {
    let mut sim = reflected(4, false, 5);
    sim.announce(2, "10.9.0.0/16");
    sim.seconds(20);
    let route = sim.speaker(3).route(net("10.9.0.0/16")).unwrap();
    assert_eq!(route.paths.len(), 2, "from each reflector");
    for path in &route.paths {
        assert_eq!(path.received.originator_id, Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(path.received.cluster_list.len(), 1, "{:?}", path.received);
        assert_eq!(path.received.next_hop.addr, addr(2));
    }
    // Its own route does not come back to the one who announced it.
    let own = sim.speaker(2).route(net("10.9.0.0/16")).unwrap();
    assert_eq!(own.paths.len(), 1);
    assert!(sim.speaker(0).advertised(addr(2), Family::Ipv4).is_empty());
}

#[test]
fn without_reflection_internal_routes_go_one_hop() {
    let mut sim = Sim::new(1);
    for node in 0..3_usize {
        let mut config = config(node, ASN);
        config.peers = (0..3).filter(|n| node.abs_diff(*n) == 1).map(|n| peer(n, ASN)).collect();
        sim.add(config);
    }
    sim.announce(0, "10.9.0.0/16");
    sim.seconds(20);
    assert!(sim.fib(1).contains_key(&net("10.9.0.0/16")));
    assert!(sim.fib(2).is_empty());
}
