//! How sessions come up, and what they agree on.

use std::time::Duration;

use bgp::config::{DynamicConfig, MaxPrefixes};
use bgp::{DownReason, Event, Family, State};

use super::sim::{Sim, addr, config, net, peer};

#[test]
fn both_dial_at_once_and_one_connection_stays() {
    for seed in 0..40 {
        let mut sim = Sim::new(seed);
        sim.delay = 1 + seed * 3;
        for node in 0..2_usize {
            let mut config = config(node, 64_512);
            config.peers = vec![peer(1 - node, 64_512)];
            sim.add(config);
        }
        sim.seconds(20);
        for node in 0..2 {
            assert_eq!(sim.established(node), 1, "seed {seed}");
            let ups = sim.events(node).iter().filter(|e| matches!(e, Event::Up { .. })).count();
            assert_eq!(ups, 1, "seed {seed}: {:?}", sim.events(node));
        }
        // And it stays up.
        sim.seconds(400);
        assert!(!sim.events(0).iter().any(|e| matches!(e, Event::Down { .. })), "seed {seed}");
    }
}

#[test]
fn a_passive_peer_waits_and_two_wait_for_ever() {
    for (passive, expected) in [([true, false], 1), ([false, true], 1), ([true, true], 0)] {
        let mut sim = Sim::new(1);
        for node in 0..2_usize {
            let mut config = config(node, 64_512);
            let passive = passive[node];
            config.peers = vec![bgp::PeerConfig { passive, ..peer(1 - node, 64_512) }];
            sim.add(config);
        }
        sim.seconds(30);
        assert_eq!(sim.established(0), expected);
    }
}

#[test]
fn a_delayed_open_still_opens() {
    for delays in [[5, 0], [5, 5], [0, 3]] {
        let mut sim = Sim::new(1);
        for (node, delay) in delays.into_iter().enumerate() {
            let mut config = config(node, 64_512);
            let delay_open = Duration::from_secs(delay);
            config.peers = vec![bgp::PeerConfig { delay_open, ..peer(1 - node, 64_512) }];
            sim.add(config);
        }
        sim.seconds(60);
        assert_eq!((sim.established(0), sim.established(1)), (1, 1), "{delays:?}");
    }
}

#[test]
fn a_hold_time_of_zero_never_expires() {
    let mut sim = Sim::new(1);
    for node in 0..2_usize {
        let mut config = config(node, 64_512);
        config.graceful = None;
        config.peers =
            vec![bgp::PeerConfig { hold_time: 90 * u16::try_from(node).unwrap(), ..peer(1 - node, 64_512) }];
        sim.add(config);
    }
    sim.seconds(10);
    assert_eq!(sim.established(0), 1);
    sim.cut(1, true);
    sim.seconds(3600);
    assert_eq!(sim.established(0), 1);
}

#[test]
fn neighbours_come_from_a_range_and_go_without_a_trace() {
    let mut sim = Sim::new(1);
    let mut hub = config(0, 64_512);
    hub.graceful = None;
    let template = peer(0, 64_512);
    hub.dynamic = vec![DynamicConfig { range: net("10.0.0.0/24"), template, limit: 2 }];
    sim.add(hub);
    for node in 1..4 {
        let mut config = config(node, 64_512);
        config.peers = vec![peer(0, 64_512)];
        sim.add(config);
        sim.announce(node, &format!("10.1.{node}.0/24"));
    }
    sim.seconds(20);
    assert_eq!((sim.established(0), sim.fib(0).len()), (2, 2), "its limit");
    let refused =
        Event::Refused { remote: std::net::SocketAddr::new(addr(3), 40_000), why: bgp::Refused::Limit };
    assert!(sim.events(0).contains(&refused));
    sim.kill(1);
    sim.seconds(60);
    assert_eq!((sim.established(0), sim.fib(0).len()), (2, 2), "the third has taken the place");
    let now = sim.now;
    assert_eq!(sim.speaker(0).peers(now).len(), 2);
    assert!(sim.fib(0).contains_key(&net("10.1.3.0/24")));
}

#[test]
fn a_dynamic_neighbour_keeps_its_routes_over_a_restart() {
    let mut sim = Sim::new(1);
    let mut hub = config(0, 64_512);
    let template = peer(0, 64_512);
    hub.dynamic = vec![DynamicConfig { range: net("10.0.0.0/24"), template, limit: 2 }];
    sim.add(hub);
    let mut leaf = config(1, 64_512);
    leaf.peers = vec![peer(0, 64_512)];
    sim.add(leaf.clone());
    sim.announce(1, "10.1.1.0/24");
    sim.seconds(20);
    sim.kill(1);
    sim.seconds(20);
    assert_eq!(sim.fib(0).len(), 1);
    let graceful =
        leaf.graceful.map(|g| bgp::config::GracefulConfig { restarting: Some(Duration::from_secs(9)), ..g });
    sim.revive(1, bgp::Config { graceful, ..leaf });
    sim.announce(1, "10.1.1.0/24");
    sim.seconds(20);
    assert_eq!((sim.established(0), sim.fib(0).len()), (1, 1));
    sim.kill(1);
    sim.seconds(130);
    let now = sim.now;
    assert_eq!((sim.fib(0).len(), sim.speaker(0).peers(now).len()), (0, 0));
}

#[test]
fn too_many_prefixes_end_the_session_until_somebody_says_so() {
    for (restart, back) in [(None, false), (Some(Duration::from_secs(30)), true)] {
        let mut sim = Sim::new(1);
        let bound = MaxPrefixes { limit: 10, warn_percent: 80, warn_only: false, restart };
        let mut bounded = config(0, 64_512);
        bounded.peers = vec![bgp::PeerConfig { max_prefixes: Some(bound), ..peer(1, 64_512) }];
        sim.add(bounded);
        let mut other = config(1, 64_512);
        other.peers = vec![peer(0, 64_512)];
        sim.add(other);
        sim.seconds(10);
        (0..10).for_each(|i| sim.announce(1, &format!("10.1.{i}.0/24")));
        sim.seconds(5);
        assert_eq!(sim.fib(0).len(), 10);
        let near = sim.events(0).iter().any(|e| matches!(e, Event::MaxPrefixesNear { count: 8..=10, .. }));
        assert!(near, "{:?}", sim.events(0));
        sim.announce(1, "10.1.10.0/24");
        sim.seconds(5);
        assert!(sim.fib(0).is_empty());
        let told = sim.events(1).iter().any(|e| {
            matches!(e, Event::Down { reason: DownReason::Received(n), .. }
                if n.to_string() == "Hard Reset: Maximum Number of Prefixes Reached")
        });
        assert!(told, "{:?}", sim.events(1));
        sim.withdraw(1, "10.1.10.0/24");
        sim.seconds(120);
        assert_eq!(sim.established(0) == 1, back);
        if !back {
            let now = sim.now;
            assert!(sim.speaker(0).peers(now)[0].held);
            sim.with(0, |s, now| s.reset(addr(1), "", now));
            sim.seconds(60);
            assert_eq!(sim.fib(0).len(), 10);
        }
    }
}

#[test]
fn the_wrong_as_never_comes_up_and_says_why() {
    let mut sim = Sim::new(1);
    for node in 0..2_usize {
        let mut config = config(node, 64_512 + u32::try_from(node).unwrap());
        config.peers = vec![peer(1 - node, 64_512)];
        sim.add(config);
    }
    sim.seconds(60);
    let now = sim.now;
    let status = &sim.speaker(0).peers(now)[0];
    assert_ne!(status.state, State::Established);
    let (_, reason) = status.last_error.clone().unwrap();
    assert!(reason.to_string().contains("Bad Peer AS"), "{reason}");
    // Tried again and again, but ever more slowly.
    let tries = status.counters.messages_received;
    assert!((2..40).contains(&tries), "{tries} in {:?}", sim.elapsed());
}

#[test]
fn families_are_what_both_have() {
    let mut sim = Sim::new(1);
    for node in 0..2_usize {
        let mut config = config(node, 64_512);
        let mut peer = peer(1 - node, 64_512);
        peer.families[Family::Ipv6] = node == 0;
        config.peers = vec![peer];
        sim.add(config);
        sim.announce(node, &format!("10.1.{node}.0/24"));
        sim.announce(node, &format!("fd00:{node}::/32"));
    }
    sim.seconds(10);
    assert_eq!((sim.fib(0).len(), sim.fib(1).len()), (1, 1));
}

#[test]
fn four_octet_and_large_tables_survive_small_windows() {
    let mut sim = Sim::new(1);
    let asns = [4_200_000_001, 4_200_000_002];
    for node in 0..2_usize {
        let mut config = config(node, asns[node]);
        config.peers = vec![peer(1 - node, asns[1 - node])];
        sim.add(config);
    }
    // More than a queue's high-water mark and several windows: half of it is there before the session is.
    for i in 0..60_000_u32 {
        let prefix = std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8));
        let mut attributes = bgp::Attributes::new(addr(0));
        attributes.med = Some(i / 3);
        let route = bgp::LocalRoute { attributes };
        sim.speaker(0).announce(ipnet::IpNet::new(prefix.into(), 24).unwrap(), route);
        if i == 30_000 {
            sim.run(Duration::from_millis(60));
        }
    }
    sim.seconds(60);
    assert_eq!(sim.fib(1).len(), 60_000);
    for i in 0..60_000_u32 {
        let prefix = std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8));
        assert!(sim.speaker(0).withdraw(ipnet::IpNet::new(prefix.into(), 24).unwrap()));
    }
    sim.with(0, |_, _| ());
    sim.seconds(60);
    assert!(sim.fib(1).is_empty());
}
