//! A node of ours beside a node of flannel's: bridge, veth and `flannel.1` as its vxlan backend lays them out.

use vswitch::lab::{
    Attached, Echo, KernelNode, KernelPod, Lab, Options, Stop, Wire, offloads_off, ping, tcp_echo, transfer,
    udp_echo,
};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// Bytes of each bulk transfer.
const BULK: u64 = 64 << 20;

struct Mixed {
    ours: Attached,
    flannel: KernelPod,
    _lab: Lab,
}

/// Node 1 runs `vswitchd`, node 2 is the kernel's.
fn mixed(checksum: bool, offloads: bool) -> Mixed {
    let mut lab = Lab::bed_only(programs(), Options::default(), &Stop::default()).unwrap();
    if !offloads {
        lab.bed.nodes.iter().for_each(|node| offloads_off(node, "eth0").unwrap());
    }
    lab.start_node(0).unwrap();
    let (node, plan) = (&lab.bed.nodes[1], lab.bed.plan(1));
    let mut kernel = KernelNode::new(node, plan, Wire::Vxlan { checksum }, 1500, &lab.bed.plans()).unwrap();
    let flannel = kernel.pod(node).unwrap();
    let ours = lab.pod(0, "ours").unwrap();
    Mixed { ours, flannel, _lab: lab }
}

fn both_ways(checksum: bool, offloads: bool) {
    let _turn = turn();
    let Mixed { ours, flannel, _lab } = &mixed(checksum, offloads);
    let (near, far) = (&ours.netns, &flannel.netns);
    let _echoes = [Echo::start(near.path()).unwrap(), Echo::start(far.path()).unwrap()];
    for (from, to) in [(near, [flannel.v4, flannel.v6]), (far, ours.addresses())] {
        for address in to {
            let pinged = ping(from, address, 5, 10).unwrap();
            assert!(pinged.all(), "{} to {address}: {pinged:?}", from.name());
            tcp_echo(from.path(), address).unwrap();
            for size in [0, 1, 1200, 1422, 8000, 60_000] {
                udp_echo(from.path(), address, size)
                    .unwrap_or_else(|e| panic!("{} to {address}, {size} bytes: {e}", from.name()));
            }
        }
    }
    for (from, into, to) in
        [(near, far, flannel.v4), (far, near, ours.v4), (near, far, flannel.v6), (far, near, ours.v6)]
    {
        let moved = transfer(from.path(), into.path(), to, BULK)
            .unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name()));
        // A connection that lives on retransmissions stays far below this.
        assert!(moved.gbit_s() > 0.3, "{} to {to}: {:.3} Gbit/s", from.name(), moved.gbit_s());
    }
}

#[test]
fn with_outer_checksums_and_offloads() {
    both_ways(true, true);
}

#[test]
fn with_outer_checksums_on_a_segmenting_underlay() {
    both_ways(true, false);
}

#[test]
fn without_outer_checksums_with_offloads() {
    both_ways(false, true);
}

#[test]
fn without_outer_checksums_on_a_segmenting_underlay() {
    both_ways(false, false);
}
