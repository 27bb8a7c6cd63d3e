//! The lab's yardstick works by itself: two nodes run by the kernel, in the shapes the other tests compare with.

use std::time::Duration;

use vswitch::lab::{
    Bed, Echo, KernelNode, KernelPod, LabError, Shape, Wire, blast, offloads_off, ping, tcp_echo, transfer,
    udp_echo,
};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::serial::turn;

fn pods(bed: &Bed, wire: Wire) -> Result<(KernelPod, KernelPod), LabError> {
    let mut pods = Vec::new();
    for (i, node) in bed.nodes.iter().enumerate() {
        pods.push(KernelNode::new(node, bed.plan(i), wire, 1500, &bed.plans())?.pod(node)?);
    }
    let second = pods.remove(1);
    Ok((pods.remove(0), second))
}

fn reach(a: &KernelPod, b: &KernelPod) {
    let _echo = Echo::start(b.netns.path()).unwrap();
    for to in [b.v4, b.v6] {
        let pinged = ping(&a.netns, to, 3, 10).unwrap();
        assert!(pinged.all(), "{to}: {pinged:?}");
        tcp_echo(a.netns.path(), to).unwrap();
        udp_echo(a.netns.path(), to, 1200).unwrap();
        let moved = transfer(a.netns.path(), b.netns.path(), to, 1 << 20).unwrap();
        assert_eq!(moved.bytes, 1 << 20);
    }
}

#[test]
fn two_kernel_nodes_reach_each_other_over_vxlan() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let bed = Bed::build(Shape::default()).unwrap();
        let (a, b) = pods(&bed, Wire::Vxlan { checksum: false }).unwrap();
        reach(&a, &b);
        bed.nodes.iter().for_each(|node| offloads_off(node, "eth0").unwrap());
        reach(&b, &a);
        let moved = blast(a.netns.path(), b.netns.path(), b.v4, Duration::from_millis(300)).unwrap();
        assert!(moved.gbit_s() > 0.1, "{moved:?}");
    }
    before.assert_same();
}

#[test]
fn two_kernel_nodes_reach_each_other_by_routes() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let bed = Bed::build(Shape { nodes: 3, outside: true, ..Shape::default() }).unwrap();
        let (a, b) = pods(&bed, Wire::HostGw).unwrap();
        reach(&a, &b);
        let outside = bed.outside.as_ref().unwrap();
        assert_eq!(ping(outside, a.v4, 1, 10).unwrap().received, 0, "outside has no route to pods");
    }
    before.assert_same();
}

#[test]
fn pods_of_one_kernel_node_reach_each_other() {
    let _turn = turn();
    let bed = Bed::build(Shape { nodes: 1, ..Shape::default() }).unwrap();
    let mut node = KernelNode::new(&bed.nodes[0], bed.plan(0), Wire::HostGw, 1500, &[]).unwrap();
    let (a, b) = (node.pod(&bed.nodes[0]).unwrap(), node.pod(&bed.nodes[0]).unwrap());
    reach(&a, &b);
}

#[test]
fn a_bed_that_cannot_be_built_leaves_nothing() {
    let _turn = turn();
    let before = Leftovers::now();
    let error = Bed::build(Shape { nodes: 201, ..Shape::default() }).unwrap_err();
    assert_eq!(error.to_string(), "--nodes 201: must lie between 1 and 200");
    // An MTU below IPv6's minimum takes fd77:: away, so settling the addresses fails half way.
    Bed::build(Shape { mtu: 1000, ..Shape::default() }).unwrap_err();
    before.assert_same();
}
