//! Graceful restart, both sides; and what is not graceful.

use std::time::Duration;

use bgp::config::GracefulConfig;
use bgp::{Config, DownReason, Event};

use super::sim::{Sim, addr, config, net, peer};

const ASN: u32 = 64_512;

fn pair(graceful: Option<GracefulConfig>) -> (Sim, [Config; 2]) {
    let mut sim = Sim::new(3);
    let configs = [0, 1].map(|node| {
        let mut config = config(node, ASN);
        config.graceful = graceful;
        config.peers = vec![peer(1 - node, ASN)];
        config
    });
    for config in &configs {
        sim.add(config.clone());
    }
    sim.announce(0, "10.1.0.0/24");
    sim.announce(0, "10.2.0.0/24");
    sim.announce(1, "10.3.0.0/24");
    sim.seconds(10);
    assert_eq!(sim.fib(1).len(), 2);
    (sim, configs)
}

fn restarting(config: &Config, seconds: u64) -> Config {
    let restarting = Some(Duration::from_secs(seconds));
    Config { graceful: config.graceful.map(|g| GracefulConfig { restarting, ..g }), ..config.clone() }
}

#[test]
fn routes_stay_over_a_restart_on_both_sides() {
    let (mut sim, configs) = pair(Some(GracefulConfig::default()));
    sim.forget_events();
    sim.kill(0);
    sim.seconds(3);
    assert_eq!(sim.fib(1).len(), 2, "the peer keeps them");
    assert!(matches!(sim.events(1), [Event::Down { graceful: true, .. }]), "{:?}", sim.events(1));
    let route = sim.speaker(1).route(net("10.1.0.0/24")).unwrap();
    assert!(route.paths[0].stale && route.paths[0].used);
    let before = sim.fib(0).clone();
    sim.revive(0, restarting(&configs[0], 60));
    // One of its two routes is not there any more.
    sim.announce(0, "10.1.0.0/24");
    sim.seconds(20);
    assert!(sim.events(0).contains(&Event::RestartOver));
    assert_eq!(sim.fib(0), &before, "what it forwarded before is confirmed");
    assert_eq!(sim.fib(1).keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24"]);
    assert!(!sim.speaker(1).route(net("10.1.0.0/24")).unwrap().paths[0].stale);
    sim.assert_reachable();
}

#[test]
fn a_peer_that_is_back_before_it_was_missed_is_let_in() {
    let (mut sim, configs) = pair(Some(GracefulConfig::default()));
    sim.forget_events();
    // Its host lost power: no connection was closed.
    sim.cut(0, true);
    sim.kill(0);
    sim.seconds(5);
    sim.cut(0, false);
    assert!(sim.events(1).is_empty(), "nobody has noticed");
    sim.revive(0, restarting(&configs[0], 60));
    sim.announce(0, "10.1.0.0/24");
    sim.seconds(5);
    assert!(
        matches!(sim.events(1), [Event::Down { graceful: true, .. }, Event::Up { .. }]),
        "{:?}",
        sim.events(1)
    );
    assert_eq!(sim.fib(1).len(), 1);
    sim.assert_reachable();
}

#[test]
fn who_does_not_come_back_in_time_is_forgotten() {
    let (mut sim, _) =
        pair(Some(GracefulConfig { restart_time: Duration::from_secs(20), ..Default::default() }));
    sim.kill(0);
    sim.seconds(15);
    assert_eq!(sim.fib(1).len(), 2);
    sim.seconds(10);
    assert!(sim.fib(1).is_empty());
}

#[test]
fn who_comes_back_without_its_forwarding_is_forgotten_at_once() {
    let (mut sim, configs) = pair(Some(GracefulConfig::default()));
    sim.kill(0);
    sim.seconds(3);
    // A fresh start: nothing was kept.
    sim.revive(0, configs[0].clone());
    sim.seconds(20);
    assert!(sim.fib(1).is_empty());
}

#[test]
fn without_graceful_restart_routes_go_with_the_session() {
    let (mut sim, _) = pair(None);
    sim.kill(0);
    sim.seconds(1);
    assert!(sim.fib(1).is_empty());
}

#[test]
fn a_silent_peer_is_noticed_by_the_hold_timer() {
    let (mut sim, _) = pair(None);
    sim.forget_events();
    sim.cut(0, true);
    sim.seconds(55);
    assert_eq!(sim.fib(1).len(), 2);
    sim.seconds(40);
    assert!(sim.fib(1).is_empty());
    let Some(Event::Down { reason: DownReason::Sent(notification), .. }) = sim.events(1).first() else {
        panic!("{:?}", sim.events(1));
    };
    assert_eq!(notification.to_string(), "Hold Timer Expired");
    sim.cut(0, false);
    sim.seconds(120);
    sim.assert_reachable();
}

#[test]
fn a_hold_timer_does_not_cost_graceful_peers_their_routes() {
    let (mut sim, _) = pair(Some(GracefulConfig::default()));
    sim.cut(0, true);
    sim.seconds(100);
    assert_eq!(sim.fib(1).len(), 2, "RFC 8538");
    sim.cut(0, false);
    sim.seconds(120);
    sim.assert_reachable();
}

#[test]
fn a_shutdown_is_never_graceful() {
    let (mut sim, configs) = pair(Some(GracefulConfig::default()));
    sim.forget_events();
    let mut off = configs[0].clone();
    off.peers[0].enabled = false;
    sim.with(0, |s, now| s.configure(off, now).unwrap());
    sim.seconds(5);
    assert!(sim.fib(1).is_empty());
    let Some(Event::Down { reason: DownReason::Received(notification), graceful: false, .. }) =
        sim.events(1).first()
    else {
        panic!("{:?}", sim.events(1));
    };
    assert_eq!(notification.to_string(), "Hard Reset: Administrative Shutdown");
    sim.with(0, |s, now| s.configure(configs[0].clone(), now).unwrap());
    sim.seconds(60);
    sim.assert_reachable();
}

#[test]
fn a_restarted_speaker_chooses_only_when_it_has_heard_everybody() {
    let mut sim = Sim::new(9);
    let mut configs = Vec::new();
    for node in 0..3 {
        let mut config = config(node, ASN);
        config.peers = (0..3).filter(|n| *n != node).map(|n| peer(n, ASN)).collect();
        configs.push(config.clone());
        sim.add(config);
        sim.announce(node, &format!("10.1.{node}.0/24"));
    }
    sim.seconds(10);
    sim.kill(0);
    sim.cut(2, true);
    sim.seconds(1);
    sim.forget_events();
    sim.revive(0, restarting(&configs[0], 40));
    sim.announce(0, "10.1.0.0/24");
    sim.seconds(20);
    // Node 2 cannot be heard: nothing is decided yet, and nothing taken from forwarding.
    assert!(!sim.events(0).contains(&Event::RestartOver));
    assert_eq!(sim.speaker(0).advertised(addr(1), bgp::Family::Ipv4).len(), 0);
    sim.seconds(25);
    assert!(sim.events(0).contains(&Event::RestartOver), "it waits no longer than it was told");
    sim.cut(2, false);
    sim.seconds(200);
    sim.assert_reachable();
}
