//! The forwarding path allocates nothing, whatever the packet and wherever it goes.

use std::net::IpAddr;

use encap::{Tunnel, VnetHdr};
use serde_json::{Value, json};
use vswitch::counters::DropReason;
use vswitch::port::mem::MemEnd;
use vswitch::snapshot::{GATEWAY_V4, GATEWAY_V6};
use vswitch::sys::alloc::{Counting, allocations};
use vswitch_tests::sim::craft::{Way, solicit_gateway, who_has_gateway};
use vswitch_tests::sim::fragment::cut;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::node::Node;
use vswitch_tests::sim::objects;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Pod {
    identity: Identity,
    end: MemEnd,
}

/// Two nodes with a plain pod and one with offloads each.
struct Bed {
    nodes: [Node; 2],
    pods: [[Pod; 2]; 2],
}

impl Bed {
    fn new(tunnel: Tunnel) -> Self {
        let mut nodes = [0, 1].map(|index| Node::new(index, tunnel, 7));
        let pods = [0, 1].map(|index| {
            [false, true].map(|offload| {
                let (identity, end) = nodes[index].attach(index, offload);
                Pod { identity, end }
            })
        });
        nodes.iter_mut().enumerate().for_each(|(index, node)| node.publish(index, 2));
        Self { nodes, pods }
    }

    /// Sends the frames from their pods on the first node, lets both nodes work until all is done, and returns how
    /// often the nodes allocated.
    fn round(&mut self, frames: &[(usize, VnetHdr, Vec<u8>)], now_us: u64) -> u64 {
        for (pod, vnet, frame) in frames {
            assert!(self.pods[0][*pod].end.send(*vnet, frame));
        }
        let mut allocated = 0;
        loop {
            let before = allocations();
            let moved = self.nodes.iter_mut().fold(false, |moved, node| node.turn(now_us) | moved);
            allocated += allocations() - before;
            for (from, to) in [(0, 1), (1, 0)] {
                while let Some(train) = self.nodes[from].wire.recv() {
                    assert!(self.nodes[to].wire.send(self.nodes[from].endpoint, &train.bytes, train.stride));
                    self.nodes[from].wire.recycle(train);
                }
            }
            for end in
                self.pods.iter().flatten().map(|pod| &pod.end).chain(self.nodes.iter().map(|node| &node.host))
            {
                while let Some(frame) = end.recv() {
                    end.recycle(frame);
                }
            }
            if !moved {
                return allocated;
            }
        }
    }
}

fn expect_none(tunnel: Tunnel, families: &[bool]) {
    let mut bed = Bed::new(tunnel);
    let mtu = usize::from(bed.nodes[0].mtu());
    let mut frames: Vec<(usize, VnetHdr, Vec<u8>)> = Vec::new();
    let plain = VnetHdr::default();
    for &v6 in families {
        let me = [0, 1].map(|pod| bed.pods[0][pod].identity);
        let near = me.map(|pod| pod.addr(v6));
        let far = [0, 1].map(|pod| bed.pods[1][pod].identity.addr(v6));
        let gateway: IpAddr = if v6 { GATEWAY_V6.into() } else { GATEWAY_V4.into() };
        let nobody: IpAddr = if v6 { "fd00:244:1::ff" } else { "10.244.1.250" }.parse().unwrap();
        let mss = mtu - if v6 { 60 } else { 40 };
        for (pod, to) in [(0, near[1]), (1, near[0]), (0, far[0]), (0, far[1]), (1, far[0]), (1, far[1])] {
            let way = Way::routed(&me[pod], to);
            for n in 0..20 {
                // A flow of its own each, and a train that can be merged.
                frames.push((pod, plain, way.udp((1000 + n, 53), 100)));
                frames.push((pod, plain, way.tcp((4000, 80), u32::from(n) * 1000, 1000)));
            }
            if pod == 1 {
                let (vnet, frame) = way.super_tcp((5000, 80), 9, 40_000, mss as u16);
                frames.push((pod, vnet, frame));
            }
            frames.push((pod, plain, way.ping(56)));
            frames.push((pod, plain, Way { ttl: 1, ..way }.udp((1, 2), 10)));
            frames.push((pod, plain, way.udp((1, 2), mtu)));
        }
        frames.push((0, plain, Way::routed(&me[0], gateway).ping(1000)));
        frames.push((0, plain, Way::routed(&me[0], nobody).udp((1, 2), 500)));
        frames.push((0, plain, Way { from: nobody, ..Way::routed(&me[0], far[0]) }.udp((1, 2), 500)));
        frames.push((0, plain, vec![0; 13]));
    }
    frames.push((0, plain, who_has_gateway(&bed.pods[0][0].identity)));
    frames.push((1, plain, solicit_gateway(&bed.pods[0][1].identity)));

    for round in 0..20 {
        bed.round(&frames, round * 1_000_000);
    }
    let warm = bed.nodes.iter().map(|node| node.totals().received).sum::<u64>();
    let allocated: u64 = (20..50).map(|round| bed.round(&frames, round * 1_000_000)).sum();
    let received = bed.nodes.iter().map(|node| node.totals().received).sum::<u64>() - warm;
    assert_eq!(allocated, 0, "allocations while {received} packets were carried");
    assert!(received > 30 * frames.len() as u64, "packets reached the second node too");
    for node in &bed.nodes {
        assert!(node.conserves(), "{:?}", node.totals());
        assert!(node.totals().to_pods > 0, "{:?}", node.totals());
    }
    let first = bed.nodes[0].totals();
    assert!(first.answered > 0 && first.dropped() > 0 && first.generated > first.answered, "{first:?}");
}

#[test]
fn over_vxlan() {
    expect_none(Tunnel::Vxlan { vni: 1 }, &[false, true]);
}

#[test]
fn over_the_udp_tunnel() {
    expect_none(Tunnel::Udp, &[false]);
}

#[test]
fn over_ip_in_ip() {
    expect_none(Tunnel::Ipip, &[false, true]);
}

/// Policy on every pod: who may talk is told by label, port and address, and what is new is logged.
fn policies(bed: &Bed) -> Vec<Value> {
    let mut objects = Vec::new();
    for (node, pods) in (1..).zip(&bed.pods) {
        for (n, pod) in (1..).zip(pods) {
            let labels = json!({"app": format!("n{node}p{n}")});
            objects.push(objects::pod(
                "default",
                &format!("n{node}-p{n}"),
                &format!("n{node}"),
                &pod.identity,
                labels,
            ));
        }
    }
    let rules = json!([
        {"ports": [{"protocol": "UDP", "port": 1000, "endPort": 2000}, {"protocol": "TCP", "port": 80}, {"protocol": "SCTP", "port": 80}]},
        {"from": objects::app("n1p1"), "ports": [{"protocol": "UDP", "port": 53}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.0.0/16"]}}]},
    ]);
    let everybody = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
    objects.push(objects::policy("some", everybody));
    objects.push(json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "log"},
        "spec": {"order": 1, "types": ["Ingress", "Egress"], "ingress": [{"action": "Log"}, {"action": "Pass"}], "egress": [{"action": "Allow"}]},
    }));
    objects
}

/// Everything that policy and connection tracking do with packets, new flows in every round.
fn round_under_policy(bed: &Bed, round: u16, families: &[bool]) -> Vec<(usize, VnetHdr, Vec<u8>)> {
    let mut frames = Vec::new();
    let plain = VnetHdr::default();
    for &v6 in families {
        let me = [0, 1].map(|pod| bed.pods[0][pod].identity);
        for (pod, to) in [(0, me[1]), (1, me[0]), (0, bed.pods[1][0].identity), (1, bed.pods[1][1].identity)]
        {
            let way = Way::routed(&me[pod], to.addr(v6));
            for n in 0..10 {
                let port = 10_000 + round * 20 + n;
                // A flow that goes on, one that is new, and others that are denied.
                frames.push((pod, plain, way.udp((500 + n, 1500), 100)));
                frames.push((pod, plain, way.udp((port, 1500), 100)));
                frames.push((pod, plain, way.udp((500, port), 100)));
                frames.push((pod, plain, way.tcp_flags((port, 80), 2)));
                frames.push((pod, plain, way.tcp_flags((port, 81), 2)));
                frames.push((pod, plain, way.tcp_flags((port, 80), 1)));
                frames.push((pod, plain, way.sctp((port, 80), 1)));
                frames.push((pod, plain, way.proto(50, &[0; 32])));
                // Datagrams in pieces: whole, never finished, overlapping, without a first, and denied.
                let id = u32::from(port);
                let whole = way.udp((port, 1600), 792);
                frames.push((pod, plain, cut(&whole, id, (0, 400), true)));
                frames.push((pod, plain, cut(&whole, id, (400, 800), n % 2 == 0)));
                frames.push((pod, plain, cut(&whole, id, (392, 800), false)));
                frames.push((pod, plain, cut(&whole, id + 20_000, (400, 800), true)));
                frames.push((pod, plain, cut(&way.udp((port, 9), 792), id + 40_000, (0, 400), true)));
                // Errors about what the receiver sent, and about what it did not.
                let back = Way::routed(&to, way.from);
                let kind = if v6 { 1 } else { 3 };
                frames.push((pod, plain, way.icmp(kind, 1, [0; 4], &back.udp((500 + n, 1500), 20)[14..])));
                frames.push((pod, plain, way.icmp(kind, 1, [0; 4], &back.udp((port, 7), 20)[14..])));
            }
            frames.push((pod, plain, way.ping(56)));
        }
    }
    frames
}

#[test]
fn under_policy() {
    let mut bed = Bed::new(Tunnel::Vxlan { vni: 1 });
    let objects = policies(&bed);
    bed.nodes.iter_mut().for_each(|node| node.set_objects(&objects));
    let families = [false, true];
    let mut allocated = 0;
    for round in 0..40 {
        if round == 20 {
            // A change, after which every flow is judged once more.
            let mut fewer = objects.clone();
            fewer.pop();
            bed.nodes.iter_mut().for_each(|node| node.set_objects(&fewer));
        }
        let frames = round_under_policy(&bed, round, &families);
        let counted = bed.round(&frames, 1_000_000 + u64::from(round) * 3_000_000);
        // Pools and cables fill in the first rounds.
        allocated += if round < 10 { 0 } else { counted };
        let now = 1_000_000 + u64::from(round) * 3_000_000;
        bed.nodes.iter().for_each(|node| node.sweep(now));
    }
    assert_eq!(allocated, 0);
    let mut seen = std::collections::BTreeSet::new();
    for node in &bed.nodes {
        assert!(node.conserves(), "{:?}", node.totals());
        assert!(node.totals().to_pods > 1000 && node.conntrack().len() > 100, "{:?}", node.totals());
        seen.extend(node.totals().drops.iter().map(|(reason, _)| *reason));
    }
    use DropReason::*;
    for reason in [PolicyIngress, OutOfState, FragmentUnmatched, FragmentOverlap, IcmpUnrelated] {
        assert!(seen.contains(&reason), "{reason:?} in {seen:?}");
    }
}

/// The counter itself works: a test that cannot fail proves nothing.
#[test]
fn the_allocator_counts() {
    let before = allocations();
    let mut bytes = Vec::<u8>::with_capacity(10);
    bytes.reserve(1000);
    drop(std::hint::black_box(bytes));
    assert_eq!(allocations() - before, 2);
}
