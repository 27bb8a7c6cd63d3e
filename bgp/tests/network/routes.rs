//! Policies, next hops, communities, refresh: what becomes of routes.

use std::sync::Arc;

use bgp::config::{NextHopMode, PeerConfig};
use bgp::decision::Step;
use bgp::policy::{Match, Policy, PrefixList, Rule, Set};
use bgp::{Attributes, Community, Config, Family, LocalRoute, Rejected};

use super::sim::{Sim, addr, config, net, peer};

fn pair(asns: [u32; 2], change: impl Fn(usize, &mut Config)) -> Sim {
    let mut sim = Sim::new(1);
    for node in 0..2_usize {
        let mut config = config(node, asns[node]);
        config.peers = vec![peer(1 - node, asns[1 - node])];
        change(node, &mut config);
        sim.add(config);
    }
    sim.seconds(10);
    sim
}

fn announce(sim: &mut Sim, prefix: &str, change: impl Fn(&mut Attributes)) {
    let mut attributes = Attributes::new(addr(0));
    change(&mut attributes);
    sim.with(0, |s, _| s.announce(net(prefix), LocalRoute { attributes }));
    sim.seconds(1);
}

fn has(sim: &Sim, node: usize, prefix: &str) -> bool {
    sim.fib(node).contains_key(&net(prefix))
}

fn only(prefix: &str) -> Arc<Policy> {
    let prefixes = Some(PrefixList::default().or_longer(net(prefix)));
    let when = Match { prefixes, ..Match::default() };
    Arc::new(Policy {
        rules: vec![Rule { when, then: Some(Set::default()) }],
        otherwise: false,
        ..Policy::default()
    })
}

#[test]
fn without_a_policy_other_ases_exchange_nothing() {
    let mut sim = pair([65_001, 65_002], |_, c| c.peers[0].import = None);
    announce(&mut sim, "10.1.0.0/16", |_| ());
    assert!(!has(&sim, 1, "10.1.0.0/16"));
    let route = sim.speaker(1).route(net("10.1.0.0/16")).unwrap();
    assert_eq!(route.paths[0].accepted, Err(Rejected::NoPolicy));
    let mut sim = pair([65_001, 65_002], |_, c| c.peers[0].export = None);
    announce(&mut sim, "10.1.0.0/16", |_| ());
    assert!(sim.speaker(1).route(net("10.1.0.0/16")).is_none());
    let mut sim = pair([65_001, 65_002], |_, c| {
        (c.peers[0].import, c.peers[0].export, c.ebgp_requires_policy) = (None, None, false);
    });
    announce(&mut sim, "10.1.0.0/16", |_| ());
    assert!(has(&sim, 1, "10.1.0.0/16"));
}

#[test]
fn another_as_sees_our_as_our_address_and_neither_preference_nor_foreign_med() {
    let mut sim = pair([65_001, 65_002], |_, _| ());
    announce(&mut sim, "10.1.0.0/16", |a| {
        a.next_hop = addr(7).into();
        (a.local_pref, a.med) = (Some(300), Some(7));
    });
    let route = sim.speaker(1).route(net("10.1.0.0/16")).unwrap();
    let got = &route.paths[0].received;
    assert_eq!(got.as_path.to_string(), "65001");
    assert_eq!(got.next_hop.addr, addr(0));
    assert_eq!((got.local_pref, got.med), (None, Some(7)), "our own MED does go out");
    assert_eq!(route.step, Some(Step::OnlyPath));
}

#[test]
fn next_hops_are_kept_or_ours_as_told() {
    for (asns, mode, subnet, expected) in [
        ([65_001, 65_001], NextHopMode::Auto, None, 7),
        ([65_001, 65_001], NextHopMode::Own, None, 0),
        ([65_001, 65_002], NextHopMode::Auto, None, 0),
        ([65_001, 65_002], NextHopMode::Auto, Some(net("10.0.0.0/24")), 7),
        ([65_001, 65_002], NextHopMode::Keep, None, 7),
    ] {
        let mut sim = pair(asns, |_, c| {
            c.peers[0] = PeerConfig { next_hop: mode, subnet, ..c.peers[0].clone() };
        });
        announce(&mut sim, "10.1.0.0/16", |a| a.next_hop = addr(7).into());
        assert_eq!(sim.fib(1)[&net("10.1.0.0/16")].hops[0].addr, addr(expected), "{mode:?}");
    }
}

#[test]
fn well_known_communities_are_obeyed() {
    for (community, internal, external) in [
        (Community::NO_ADVERTISE, false, false),
        (Community::NO_EXPORT, true, false),
        (Community(5), true, true),
    ] {
        for (asn, expected) in [(65_001, internal), (65_002, external)] {
            let mut sim = pair([65_001, asn], |_, _| ());
            announce(&mut sim, "10.1.0.0/16", |a| a.communities = [community].into());
            assert_eq!(has(&sim, 1, "10.1.0.0/16"), expected, "{community} to AS {asn}");
        }
    }
}

#[test]
fn policies_change_without_a_new_session() {
    let mut sim = pair([65_001, 65_002], |_, _| ());
    for prefix in ["10.1.0.0/16", "10.2.0.0/16", "fd00::/16"] {
        announce(&mut sim, prefix, |a| {
            if prefix.contains(':') {
                a.next_hop = std::net::IpAddr::from([0; 16]).into();
            }
        });
    }
    assert_eq!(sim.fib(1).len(), 3);
    sim.forget_events();
    let with = |sim: &mut Sim, node: usize, change: &dyn Fn(&mut PeerConfig)| {
        let mut config = sim.speaker(node).config().clone();
        change(&mut config.peers[0]);
        sim.with(node, |s, now| s.configure(config, now).unwrap());
        sim.seconds(1);
    };
    // Export: what is no longer allowed is withdrawn.
    with(&mut sim, 0, &|p| p.export = Some(only("10.1.0.0/16")));
    assert_eq!(sim.fib(1).keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/16"]);
    assert_eq!(sim.speaker(0).advertised(addr(1), Family::Ipv4).len(), 1);
    with(&mut sim, 0, &|p| p.export = Some(Arc::new(Policy::accept_all())));
    assert_eq!(sim.fib(1).len(), 3);
    // Import: judged again without asking the peer.
    with(&mut sim, 1, &|p| p.import = Some(only("10.2.0.0/16")));
    assert_eq!(sim.fib(1).len(), 1);
    let counts = |sim: &mut Sim| {
        let now = sim.now;
        let peer = sim.speaker(1).peers(now).remove(0);
        [peer.received, peer.accepted, peer.chosen].map(|n| n[Family::Ipv4] + n[Family::Ipv6])
    };
    assert_eq!(counts(&mut sim), [3, 1, 1]);
    assert_eq!(sim.speaker(1).route(net("10.1.0.0/16")).unwrap().paths[0].accepted, Err(Rejected::Policy));
    with(&mut sim, 1, &|p| p.import = Some(Arc::new(Policy::accept_all())));
    assert_eq!(sim.fib(1).len(), 3);
    assert_eq!(counts(&mut sim), [3, 3, 3]);
    assert!(sim.events(0).is_empty() && sim.events(1).is_empty(), "no session went down");
}

#[test]
fn import_may_prefer_and_the_reason_is_told() {
    let mut sim = Sim::new(1);
    for node in 0..3_usize {
        let mut config = config(node, 65_001 + u32::try_from(node).unwrap());
        config.peers =
            (0..3).filter(|n| *n != node).map(|n| peer(n, 65_001 + u32::try_from(n).unwrap())).collect();
        if node == 2 {
            let set = Set { local_pref: Some(200), ..Set::default() };
            let rules = vec![Rule { when: Match::default(), then: Some(set) }];
            config.peers[1].import = Some(Arc::new(Policy { rules, otherwise: false, ..Policy::default() }));
        }
        sim.add(config);
    }
    sim.announce(0, "10.1.0.0/16");
    sim.seconds(10);
    // The longer way through node 1 is preferred.
    let route = sim.speaker(2).route(net("10.1.0.0/16")).unwrap();
    assert_eq!((route.paths[0].peer, route.step), (Some(addr(1)), Some(Step::LocalPref)));
    assert_eq!(route.paths.len(), 2);
    assert_eq!(sim.fib(2)[&net("10.1.0.0/16")].local_pref, 200);
}

#[test]
fn equal_paths_share_the_load() {
    let mut sim = Sim::new(1);
    // 0 and 1 announce the same to 2.
    for node in 0..3_usize {
        let mut config = config(node, 64_512);
        config.peers = if node == 2 { vec![peer(0, 64_512), peer(1, 64_512)] } else { vec![peer(2, 64_512)] };
        sim.add(config);
    }
    sim.announce(0, "10.1.0.0/16");
    sim.announce(1, "10.1.0.0/16");
    sim.seconds(10);
    let hops = |sim: &Sim| sim.fib(2)[&net("10.1.0.0/16")].hops.iter().map(|h| h.addr).collect::<Vec<_>>();
    assert_eq!(hops(&sim), [addr(0), addr(1)]);
    // One of the next hops is farther, then gone, then as near again.
    sim.with(2, |s, _| s.next_hop(addr(0), Some(5)));
    assert_eq!(hops(&sim), [addr(1)]);
    assert_eq!(sim.speaker(2).route(net("10.1.0.0/16")).unwrap().step, Some(Step::IgpMetric));
    sim.with(2, |s, _| s.next_hop(addr(1), None));
    assert_eq!(hops(&sim), [addr(0)]);
    sim.with(2, |s, _| s.next_hop(addr(0), None));
    assert!(!has(&sim, 2, "10.1.0.0/16"));
    sim.with(2, |s, _| [0, 1].into_iter().for_each(|n| s.next_hop(addr(n), Some(1))));
    assert_eq!(hops(&sim), [addr(0), addr(1)]);
    sim.withdraw(0, "10.1.0.0/16");
    sim.seconds(1);
    assert_eq!(hops(&sim), [addr(1)]);
}

#[test]
fn unresolved_next_hops_are_not_used_where_they_must_be_resolved() {
    let mut sim = pair([64_512, 64_512], |_, c| c.require_resolution = true);
    announce(&mut sim, "10.1.0.0/16", |_| ());
    assert!(!has(&sim, 1, "10.1.0.0/16"));
    sim.with(1, |s, _| s.next_hop(addr(0), Some(10)));
    assert!(has(&sim, 1, "10.1.0.0/16"));
}

#[test]
fn a_refresh_brings_everything_again_and_only_that() {
    let mut sim = pair([64_512, 64_512], |_, _| ());
    (0..20).for_each(|i| sim.announce(0, &format!("10.1.{i}.0/24")));
    sim.seconds(1);
    let updates = |sim: &mut Sim| {
        let now = sim.now;
        sim.speaker(1).peers(now)[0].counters.updates_received
    };
    let before = updates(&mut sim);
    assert!(sim.with(1, |s, _| s.refresh_in(addr(0))));
    sim.seconds(1);
    assert_eq!(updates(&mut sim), before + 1, "all of them in one message");
    assert_eq!(sim.fib(1).len(), 20);
    assert!(!sim.speaker(1).routes(Family::Ipv4).any(|r| r.paths[0].stale));
    sim.assert_reachable();
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let mut sim = pair([64_512, 65_002], |_, c| {
        c.next_hop_self = Default::default();
        c.peers[0].extended_messages = false;
    });
    let unsendable = |sim: &mut Sim| {
        let now = sim.now;
        sim.speaker(0).peers(now)[0].unsendable
    };
    // No address of ours of that family; then more attributes than a message of 4,096 bytes has room for.
    announce(&mut sim, "fd00::/16", |a| a.next_hop = std::net::IpAddr::from([0; 16]).into());
    assert_eq!(unsendable(&mut sim), 1);
    announce(&mut sim, "10.1.0.0/16", |a| a.communities = (0..1100).map(Community).collect());
    assert_eq!(unsendable(&mut sim), 2);
    announce(&mut sim, "10.2.0.0/16", |a| a.communities = (0..900).map(Community).collect());
    assert_eq!(sim.fib(1).keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.2.0.0/16"]);
}

#[test]
fn a_route_of_our_own_is_never_beaten() {
    let mut sim = pair([64_512, 64_512], |_, _| ());
    announce(&mut sim, "10.1.0.0/16", |a| a.local_pref = Some(u32::MAX));
    assert!(has(&sim, 1, "10.1.0.0/16"));
    sim.announce(1, "10.1.0.0/16");
    sim.seconds(1);
    assert!(!has(&sim, 1, "10.1.0.0/16"), "not through BGP any more");
    let route = sim.speaker(1).route(net("10.1.0.0/16")).unwrap();
    assert_eq!((route.paths[0].peer, route.step), (None, Some(Step::LocalRoute)));
    sim.withdraw(1, "10.1.0.0/16");
    assert!(has(&sim, 1, "10.1.0.0/16"));
}

#[test]
fn a_graceful_shutdown_is_the_last_choice() {
    let mut sim = Sim::new(1);
    for node in 0..3_usize {
        let mut config = config(node, 65_001 + u32::try_from(node).unwrap());
        config.peers = if node == 2 { vec![peer(0, 65_001), peer(1, 65_002)] } else { vec![peer(2, 65_003)] };
        sim.add(config);
    }
    sim.announce(1, "10.1.0.0/16");
    let mut attributes = Attributes::new(addr(0));
    attributes.communities = [Community::GRACEFUL_SHUTDOWN].into();
    sim.with(0, |s, _| s.announce(net("10.1.0.0/16"), LocalRoute { attributes }));
    sim.seconds(10);
    let route = sim.speaker(2).route(net("10.1.0.0/16")).unwrap();
    assert_eq!((route.paths[0].peer, route.step), (Some(addr(1)), Some(Step::LocalPref)));
}
