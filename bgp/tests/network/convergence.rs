//! Whatever happened on the way, in the end everybody knows what a naive model says.

use std::collections::VecDeque;

use super::sim::{Random, Sim, addr, config, net, peer};

/// A random connected graph of ASes, one node each: a ring, and some chords.
fn graph(nodes: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut of = vec![Vec::new(); nodes];
    let mut edge = |a: usize, b: usize| {
        if a != b && !of[a].contains(&b) {
            of[a].push(b);
            of[b].push(a);
        }
    };
    (0..nodes).for_each(|n| edge(n, (n + 1) % nodes));
    for _ in 0..nodes / 2 {
        let (a, b) = (random.below(nodes as u64) as usize, random.below(nodes as u64) as usize);
        edge(a, b);
    }
    of
}

fn asn(node: usize) -> u32 {
    65_001 + u32::try_from(node).unwrap()
}

fn ebgp(nodes: usize, seed: u64) -> (Sim, Vec<Vec<usize>>) {
    let mut sim = Sim::new(seed);
    let graph = graph(nodes, &mut sim.random);
    for (node, neighbors) in graph.iter().enumerate() {
        let mut config = config(node, asn(node));
        config.peers = neighbors.iter().map(|n| peer(*n, asn(*n))).collect();
        sim.add(config);
    }
    (sim, graph)
}

/// Hops from each node to the nearest of `homes`.
fn distances(graph: &[Vec<usize>], homes: &[usize]) -> Vec<usize> {
    let mut distance = vec![usize::MAX; graph.len()];
    let mut queue: VecDeque<usize> = homes.iter().copied().collect();
    homes.iter().for_each(|home| distance[*home] = 0);
    while let Some(node) = queue.pop_front() {
        for next in &graph[node] {
            if distance[*next] == usize::MAX {
                distance[*next] = distance[node] + 1;
                queue.push_back(*next);
            }
        }
    }
    distance
}

#[test]
fn ases_find_the_shortest_paths() {
    for seed in 0..8 {
        let (mut sim, graph) = ebgp(9, seed);
        for node in 0..9 {
            sim.announce(node, &format!("10.1.{node}.0/24"));
            sim.announce(node, &format!("fd00:{node}::/32"));
        }
        // One that two announce.
        sim.announce(2, "172.16.0.0/12");
        sim.announce(6, "172.16.0.0/12");
        sim.seconds(60);
        sim.assert_reachable();
        let mut checks: Vec<(String, Vec<usize>)> =
            (0..9).map(|n| (format!("10.1.{n}.0/24"), vec![n])).collect();
        checks.push(("172.16.0.0/12".into(), vec![2, 6]));
        for (prefix, homes) in checks {
            for (node, distance) in distances(&graph, &homes).into_iter().enumerate() {
                let route = sim.speaker(node).route(net(&prefix)).unwrap();
                let best = route.paths[0].accepted.as_ref().unwrap();
                assert_eq!(best.as_path.length(), distance, "seed {seed} node {node} {prefix}");
            }
        }
    }
}

#[test]
fn broken_connections_and_flapping_routes_leave_nothing_behind() {
    for seed in 0..12 {
        let (mut sim, graph) = ebgp(8, 100 + seed);
        (0..8).for_each(|node| sim.announce(node, &format!("10.1.{node}.0/24")));
        sim.seconds(30);
        for round in 0..60 {
            let node = sim.random.below(8) as usize;
            match sim.random.below(3) {
                0 => {
                    let other = graph[node][sim.random.below(graph[node].len() as u64) as usize];
                    sim.break_between(node, other);
                }
                1 => {
                    let prefix = format!("10.2.{node}.0/24");
                    if sim.speaker(node).route(net(&prefix)).is_some_and(|r| r.paths[0].peer.is_none()) {
                        sim.withdraw(node, &prefix);
                    } else {
                        sim.announce(node, &prefix);
                    }
                }
                _ => {
                    let who = addr(graph[node][0]);
                    sim.with(node, |s, now| s.reset(who, "flap", now));
                }
            }
            sim.run(std::time::Duration::from_millis(20 * (round % 7)));
        }
        sim.seconds(180);
        sim.assert_reachable();
        for (node, neighbors) in graph.iter().enumerate() {
            assert_eq!(sim.established(node), neighbors.len(), "seed {seed} node {node}");
        }
    }
}

#[test]
fn one_network_with_one_seed_runs_one_way() {
    let run = || {
        let (mut sim, _) = ebgp(6, 7);
        (0..6).for_each(|node| sim.announce(node, &format!("10.1.{node}.0/24")));
        sim.seconds(20);
        sim.break_between(0, 1);
        sim.seconds(100);
        let peers: Vec<_> = (0..6).map(|n| sim.events(n).to_vec()).collect();
        (peers, (0..6).map(|n| sim.fib(n).clone()).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}
