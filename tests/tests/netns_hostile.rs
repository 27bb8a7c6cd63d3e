//! Random and mutated frames at real interfaces: a pod's TAP through a raw socket, a node's tunnel port through UDP.
//!
//! `VSWITCH_FRAMES` says how many (default 200,000). What the kernel itself refuses or has no room for never reaches
//! the switch; of what does, every packet must be accounted for, the switch must live on, and its neighbours' pings
//! must come through.

#![allow(clippy::print_stdout)] // figures for whoever runs with --nocapture

use std::io::IoSlice;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use encap::{Mac, VnetHdr};
use vswitch::lab::{Attached, Lab, Options, Stop, TunnelKind, ping, within};
use vswitch::snapshot::GATEWAY_MAC;
use vswitch::sys::netlink::Netlink;
use vswitch::sys::packet::PacketSocket;
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::hostile::{header, mutate, slices};
use vswitch_tests::sim::random::Random;

fn frames() -> u64 {
    std::env::var("VSWITCH_FRAMES").map_or(200_000, |n| n.parse().expect("VSWITCH_FRAMES is a number"))
}

/// Well-formed frames from one pod to another, to be damaged.
fn corpus(from: &Attached, to: &Attached, mac: Mac) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        for (len, port) in [(0, 53), (40, 8472), (1200, 80)] {
            let eth = || etherparse::PacketBuilder::ethernet2(mac.0, GATEWAY_MAC.0);
            let ip = |eth: etherparse::PacketBuilderStep<etherparse::Ethernet2Header>| match (v6, from, to) {
                (false, a, b) => match (a.v4, b.v4) {
                    (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
                        eth.ipv4(a.octets(), b.octets(), 64)
                    }
                    _ => unreachable!("pods have addresses of both families"),
                },
                (true, a, b) => match (a.v6, b.v6) {
                    (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
                        eth.ipv6(a.octets(), b.octets(), 64)
                    }
                    _ => unreachable!("pods have addresses of both families"),
                },
            };
            let payload = vec![7; len];
            let mut udp = Vec::new();
            ip(eth()).udp(1000, port).write(&mut udp, &payload).unwrap();
            let mut tcp = Vec::new();
            ip(eth()).tcp(1000, port, 1, 100).write(&mut tcp, &payload).unwrap();
            all.extend([udp, tcp]);
        }
    }
    all
}

/// The switch process and its counters once nothing moves any more.
fn settled(lab: &Lab, node: usize) -> (Vec<u32>, control::api::StatusReport) {
    let daemon = lab.daemon(node).unwrap();
    let (mut last, end) = (0, Instant::now() + Duration::from_secs(30));
    loop {
        let status = daemon.status().unwrap();
        if status.received == last && status.received == status.delivered + status.dropped {
            return (daemon.children(), status);
        }
        assert!(Instant::now() < end, "never settles, or packets vanish: {status:?}");
        last = status.received;
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn hostile_frames_at_real_interfaces() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Udp] {
        let lab = Lab::start(programs(), Options { tunnel, ..Options::default() }, &Stop::default()).unwrap();
        let (a, b, c) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap(), lab.pod(0, "c").unwrap());
        let before = settled(&lab, 0);
        let (socket, mac) = within(a.netns.path(), || {
            let link = Netlink::open().unwrap().link("eth0").unwrap();
            (PacketSocket::sender(link.index).unwrap(), Mac(link.mac))
        })
        .unwrap();
        let local = corpus(&a, &c, mac);
        let remote = corpus(&a, &b, mac);
        let mut random = Random::new(1);
        let started = Instant::now();
        let mut sent = 0u64;
        for _ in 0..frames() {
            let set = if random.below(2) == 0 { &local } else { &remote };
            let mut frame = random.pick(set).clone();
            let other = random.pick(&local).clone();
            mutate(&mut random, &mut frame, &other);
            let vnet = header(&mut random, VnetHdr::default());
            // The kernel refuses some itself, for example frames shorter than their link header.
            sent += u64::from(socket.send(&[IoSlice::new(&vnet.bytes()), IoSlice::new(&frame)]).is_ok());
        }
        let pod_side = settled(&lab, 0);
        assert_eq!(before.0, pod_side.0, "{tunnel}: the switch process was replaced");
        println!(
            "{tunnel}: {sent} frames into a pod's interface in {:?}: {} received, {} dropped by name",
            started.elapsed(),
            pod_side.1.received - before.1.received,
            pod_side.1.dropped - before.1.dropped,
        );
        assert!(pod_side.1.received - before.1.received > sent / 4, "{tunnel}: hardly anything arrived");

        let port = if tunnel == TunnelKind::Vxlan { 8472 } else { 8285 };
        let [to, _] = lab.node_addresses(0);
        let uplink =
            within(lab.bed.nodes[1].path(), || UdpSocket::bind(("192.168.77.2", 0)).unwrap()).unwrap();
        let inner = corpus(&b, &a, Mac([0x0e, 0, 0, 0, 0, 2]));
        let supers = [a.v4, a.v6].map(|to| {
            let from = if to.is_ipv6() { b.v6 } else { b.v4 };
            let (src, dst) = (Mac([0x0e, 0, 0, 0, 0, 2]), Mac([0x0e, 0, 0, 0, 0, 1]));
            Way { src, dst, from, to, ttl: 64 }.super_tcp((5000, 80), 9, 9000, 1300)
        });
        let mut sent = 0u64;
        for _ in 0..frames() {
            let mut frame = random.pick(&inner).clone();
            let other = random.pick(&inner).clone();
            mutate(&mut random, &mut frame, &other);
            let mut datagram = encap::vxlan::header(1).to_vec();
            if tunnel == TunnelKind::Udp {
                datagram.clear();
                frame.drain(..14.min(frame.len()));
            } else if frame.len() > 6 && random.below(4) > 0 {
                frame[..6].copy_from_slice(&[0x0e, 0, 0, 0, 0, 1]);
            }
            datagram.extend_from_slice(&frame);
            if random.below(8) == 0 && !datagram.is_empty() {
                let at = random.below(datagram.len().min(8) as u64) as usize;
                datagram[at] ^= 1 << random.below(8);
            }
            sent += u64::from(uplink.send_to(&datagram, (to, port)).is_ok());
            if tunnel == TunnelKind::Vxlan && random.below(16) == 0 {
                let made = random.pick(&supers).clone();
                for slice in slices(&mut random, &made, Mac([0x0e, 0, 0, 0, 0, 1])) {
                    sent += u64::from(uplink.send_to(&slice, (to, port)).is_ok());
                }
            }
        }
        let uplink_side = settled(&lab, 0);
        assert_eq!(before.0, uplink_side.0, "{tunnel}: the switch process was replaced");
        println!(
            "{tunnel}: {sent} datagrams into the tunnel port: {} received",
            uplink_side.1.received - pod_side.1.received
        );
        assert!(uplink_side.1.received - pod_side.1.received > sent / 4, "{tunnel}: hardly anything arrived");
        for to in [b.v4, c.v4, c.v6] {
            assert!(ping(&a.netns, to, 3, 100).unwrap().all(), "{tunnel}: {to} after the storm");
        }
    }
}
