//! TCP and UDP between pods of simulated nodes, over good and bad networks.
//!
//! `VSWITCH_SEED` makes other runs of the same kind: it is added to every seed.

use encap::Tunnel;
use vswitch_tests::sim::Sim;
use vswitch_tests::sim::flow::Flow;
use vswitch_tests::sim::underlay::Weather;

const VXLAN: Tunnel = Tunnel::Vxlan { vni: 1 };
const MIB: usize = 1 << 20;
const MINUTE: u64 = 60_000_000;

const FAIR: Weather = Weather { loss_ppm: 0, delay_us: 100, held_ppm: 0, hold_us: 0 };
const LOSSY: Weather = Weather { loss_ppm: 20_000, ..FAIR };
const REORDERING: Weather = Weather { held_ppm: 50_000, hold_us: 300, ..FAIR };
const STORM: Weather = Weather { loss_ppm: 20_000, ..REORDERING };

/// Two nodes, a plain pod and one with offloads on each, and 1 MiB from and to every kind of pod across the nodes.
fn cross(seed: u64, tunnel: Tunnel, weather: Weather, families: &[bool]) -> Sim {
    let more: u64 = std::env::var("VSWITCH_SEED").map_or(0, |n| n.parse().expect("a number"));
    let mut sim = Sim::new(seed.wrapping_add(more), 2, tunnel, weather);
    let near = [sim.pod(0, false), sim.pod(0, true)];
    let far = [sim.pod(1, false), sim.pod(1, true)];
    for &v6 in families {
        for a in near {
            for b in far {
                sim.tcp(a, b, v6, MIB);
                sim.tcp(b, a, v6, MIB);
            }
        }
    }
    sim.run(10 * MINUTE);
    sim
}

fn expect_all(sim: &Sim) {
    assert!(sim.complaints().is_empty(), "{:#?}\n{}", sim.complaints(), sim.report());
    for flow in sim.flows() {
        let Flow::Tcp(transfer) = flow else { continue };
        assert_eq!(transfer.received, transfer.bytes, "{}", sim.report());
    }
}

#[test]
fn vxlan_over_a_good_network() {
    let mut sim = cross(1, VXLAN, FAIR, &[false, true]);
    expect_all(&sim);
    // Not quite nothing: smoltcp itself overruns its peer's window by a few bytes now and then.
    assert!((0..4).all(|pod| sim.resent(pod) < 16 * 1024), "nothing was lost\n{}", sim.report());
    let supers: Vec<(u64, u64)> =
        sim.hosts().iter().map(|h| (h.nic.stats.tx_super, h.nic.stats.rx_super)).collect();
    assert_eq!((supers[0], supers[2]), ((0, 0), (0, 0)), "pods without offloads see none");
    assert!(supers[1].0 > 20 && supers[1].1 > 20, "pods with offloads send and get super-frames: {supers:?}");
}

#[test]
fn vxlan_over_a_lossy_network() {
    let sim = cross(2, VXLAN, LOSSY, &[false, true]);
    expect_all(&sim);
    assert!((0..4).all(|pod| sim.resent(pod) > 16 * 1024), "what was lost was sent again\n{}", sim.report());
}

#[test]
fn vxlan_over_a_reordering_network() {
    expect_all(&cross(3, VXLAN, REORDERING, &[false, true]));
}

#[test]
fn vxlan_in_a_storm() {
    expect_all(&cross(4, VXLAN, STORM, &[false, true]));
}

#[test]
fn udp_tunnel_over_a_good_network() {
    expect_all(&cross(5, Tunnel::Udp, FAIR, &[false]));
}

#[test]
fn ip_in_ip_over_a_good_network() {
    let mut sim = cross(8, Tunnel::Ipip, FAIR, &[false, true]);
    expect_all(&sim);
    let supers: Vec<(u64, u64)> =
        sim.hosts().iter().map(|h| (h.nic.stats.tx_super, h.nic.stats.rx_super)).collect();
    assert!(supers[1].0 > 20 && supers[1].1 > 20, "super-frames are cut and made again: {supers:?}");
}

#[test]
fn ip_in_ip_in_a_storm() {
    expect_all(&cross(9, Tunnel::Ipip, STORM, &[false, true]));
}

/// Three nodes, of which every two have another form between them.
#[test]
fn a_fleet_of_many_forms() {
    let mut sim = Sim::new(10, 3, VXLAN, REORDERING);
    sim.speak(0, 2, Tunnel::Ipip);
    sim.speak(1, 2, Tunnel::Udp);
    let pods: Vec<usize> = (0..3).map(|node| sim.pod(node, true)).collect();
    for &a in &pods {
        for &b in pods.iter().filter(|&&b| b != a) {
            sim.tcp(a, b, false, MIB);
            sim.udp(a, b, false, (50, 900, 200));
        }
    }
    sim.tcp(pods[0], pods[1], true, MIB);
    sim.tcp(pods[2], pods[0], true, MIB);
    sim.run(10 * MINUTE);
    expect_all(&sim);
}

#[test]
fn udp_tunnel_over_a_lossy_network() {
    expect_all(&cross(6, Tunnel::Udp, LOSSY, &[false]));
}

#[test]
fn udp_tunnel_over_a_reordering_network() {
    expect_all(&cross(7, Tunnel::Udp, REORDERING, &[false]));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| cross(seed, VXLAN, STORM, &[false]).report();
    let first = run(42);
    assert_eq!(first, run(42));
    assert_ne!(first, run(43));
}

#[test]
fn pods_of_one_node_talk_without_the_underlay() {
    let mut sim = Sim::new(8, 1, VXLAN, FAIR);
    let pods = [sim.pod(0, false), sim.pod(0, false), sim.pod(0, true), sim.pod(0, true)];
    for v6 in [false, true] {
        for a in pods {
            for b in pods.into_iter().filter(|&b| b != a) {
                sim.tcp(a, b, v6, MIB / 4);
            }
        }
    }
    sim.run(10 * MINUTE);
    expect_all(&sim);
    assert!(sim.report().contains("underlay: sent 0,"), "{}", sim.report());
}

/// On a network that loses nothing, every datagram arrives, of every size that fits.
#[test]
fn datagrams_arrive() {
    for (seed, tunnel, families) in [(9, VXLAN, &[false, true][..]), (10, Tunnel::Udp, &[false][..])] {
        let mut sim = Sim::new(seed, 3, tunnel, FAIR);
        let pods = [sim.pod(0, false), sim.pod(1, true), sim.pod(2, false)];
        for &v6 in families {
            for (a, b) in [(0, 1), (1, 2), (2, 0)] {
                for size in [4, 5, 512, 1400] {
                    sim.udp(pods[a], pods[b], v6, (200, size, 50));
                }
            }
        }
        sim.run(MINUTE);
        // The first of each flow may be lost while smoltcp asks for the gateway's MAC address.
        assert!(sim.complaints().is_empty(), "{:#?}", sim.complaints());
        for flow in sim.flows() {
            let Flow::Udp(datagrams) = flow else { continue };
            assert_eq!((datagrams.sent, datagrams.received), (200, 200), "{}", sim.report());
        }
    }
}

/// Flannel's UDP form carries IPv4 only: IPv6 is refused and counted, and nothing else suffers.
#[test]
fn ipv6_does_not_enter_the_udp_tunnel() {
    let mut sim = Sim::new(11, 2, Tunnel::Udp, FAIR);
    let (a, b) = (sim.pod(0, true), sim.pod(1, true));
    sim.tcp(a, b, true, 1000);
    sim.tcp(a, b, false, MIB);
    sim.run(MINUTE);
    assert!(sim.complaints().is_empty(), "{:#?}", sim.complaints());
    let received: Vec<usize> =
        sim.flows().iter().map(|f| if let Flow::Tcp(t) = f { t.received } else { 0 }).collect();
    assert_eq!(received, [0, MIB], "{}", sim.report());
}
