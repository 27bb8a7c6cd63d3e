//! Bytes arrive as they were sent: a lot of them, with losses underneath, in datagrams of every size.

#![allow(clippy::print_stdout)] // figures for whoever runs with --nocapture

use std::time::{Duration, Instant};

use vswitch::lab::{Attached, Echo, Lab, Options, Stop, TunnelKind, offloads_off, transfer, udp_echo};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn pods(tunnel: TunnelKind) -> (Attached, Attached, Attached, Lab) {
    pods_over(tunnel, false)
}

/// The same; the underlay cuts what leaves a node, or carries it whole.
fn pods_over(tunnel: TunnelKind, cuts: bool) -> (Attached, Attached, Attached, Lab) {
    let options = Options { tunnel, ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    if cuts {
        lab.bed.nodes.iter().for_each(|node| offloads_off(node, "eth0").unwrap());
    }
    (0..2).for_each(|node| lab.start_node(node).unwrap());
    (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap(), lab.pod(0, "c").unwrap(), lab)
}

#[test]
fn a_gibibyte_between_nodes() {
    let _turn = turn();
    let (a, b, _c, _lab) = pods(TunnelKind::Vxlan);
    let moved = transfer(a.netns.path(), b.netns.path(), b.v4, 1 << 30).unwrap();
    println!("1 GiB, VXLAN, IPv4: {:.2} Gbit/s", moved.gbit_s());
    let moved = transfer(b.netns.path(), a.netns.path(), a.v6, 256 << 20).unwrap();
    println!("256 MiB, VXLAN, IPv6: {:.2} Gbit/s", moved.gbit_s());
}

#[test]
fn a_gibibyte_on_one_node() {
    let _turn = turn();
    let (a, _b, c, _lab) = pods(TunnelKind::Vxlan);
    let moved = transfer(a.netns.path(), c.netns.path(), c.v4, 1 << 30).unwrap();
    println!("1 GiB, same node: {:.2} Gbit/s", moved.gbit_s());
}

#[test]
fn one_packet_in_a_hundred_is_lost_underneath() {
    let _turn = turn();
    // On an underlay that cuts, VXLAN goes in slices.
    for (tunnel, cuts) in [(TunnelKind::Vxlan, false), (TunnelKind::Vxlan, true), (TunnelKind::Udp, false)] {
        let (a, b, _c, lab) = pods_over(tunnel, cuts);
        let port = if tunnel == TunnelKind::Vxlan { 8472 } else { 8285 };
        for node in &lab.bed.nodes {
            node.run("nft add table inet loss").unwrap();
            node.run_args(&["nft", "add chain inet loss in { type filter hook input priority 0; }"]).unwrap();
            let rule =
                format!("add rule inet loss in udp dport {port} numgen random mod 100 < 1 counter drop");
            node.run_args(&["nft", &rule]).unwrap();
        }
        // VSWITCH_BYTES moves more, when there is time.
        let bytes =
            std::env::var("VSWITCH_BYTES").map_or(24 << 20, |n| n.parse().expect("a number of bytes"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let moved = transfer(a.netns.path(), b.netns.path(), b.v4, bytes).unwrap();
            println!("{bytes} bytes with 1 % loss, {tunnel}: {:.2} Gbit/s", moved.gbit_s());
            if !cuts || lab.daemon(0).unwrap().peers().unwrap()[0].tx_slices > 0 {
                break;
            }
            // The question whether slices are taken, or its answer, was among those lost. It is asked again.
            assert!(Instant::now() < deadline, "nothing went in slices");
            std::thread::sleep(Duration::from_millis(500));
        }
        let shown = lab.bed.nodes[1].run("nft list table inet loss").unwrap();
        assert!(!shown.contains("packets 0 "), "nothing was dropped, so nothing was tested: {shown}");
    }
}

#[test]
fn datagrams_of_every_size() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Udp, TunnelKind::Direct] {
        let (a, b, c, _lab) = pods(tunnel);
        let _echoes = [Echo::start(b.netns.path()).unwrap(), Echo::start(c.netns.path()).unwrap()];
        let mtu = usize::try_from(a.mtu()).unwrap();
        let mut targets = vec![(c.v4, 28), (c.v6, 48), (b.v4, 28)];
        if tunnel.carries_v6() {
            targets.push((b.v6, 48));
        }
        for (to, headers) in targets {
            // Around the MTU, and the largest a datagram can be: 65,535 less UDP header and, for IPv4, its header.
            let largest = if to.is_ipv4() { 65_507 } else { 65_527 };
            for size in
                [0, 1, 2, 17, 1200, mtu - headers - 1, mtu - headers, mtu - headers + 1, 9000, largest]
            {
                udp_echo(a.netns.path(), to, size)
                    .unwrap_or_else(|e| panic!("{tunnel}: {to}, {size} bytes: {e}"));
            }
        }
    }
}
