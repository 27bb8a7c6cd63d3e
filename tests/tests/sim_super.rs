//! Super-frames of every size, to every kind of receiver, near and far: the payload arrives whole and in order, in
//! packets that fit, with right checksums.

use encap::parse::parse;
use encap::{Tunnel, VnetHdr};
use vswitch::datapath::DatapathOptions;
use vswitch::port::mem::MemEnd;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::nic::Nic;
use vswitch_tests::sim::node::Node;

struct Bed {
    nodes: [Node; 2],
    sender: (Identity, MemEnd),
    /// Plain and with offloads on the sender's node, then on the other.
    receivers: Vec<(Identity, Nic)>,
}

fn bed(tunnel: Tunnel, slices: bool) -> Bed {
    let options = DatapathOptions { slices, ..DatapathOptions::default() };
    let mut nodes = [0, 1].map(|index| Node::sized(index, tunnel, 1, 1 << 16, options));
    let sender = nodes[0].attach(0, true);
    let mut receivers = Vec::new();
    for (index, node) in nodes.iter_mut().enumerate() {
        for offload in [false, true] {
            let (identity, end) = node.attach(index, offload);
            receivers.push((identity, Nic::new(end, offload, node.mtu())));
        }
    }
    nodes.iter_mut().enumerate().for_each(|(index, node)| node.publish(index, 2));
    Bed { nodes, sender, receivers }
}

fn settle(nodes: &mut [Node; 2]) {
    while nodes.iter_mut().fold(false, |moved, node| node.turn(0) | moved) {
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(train) = nodes[from].wire.recv() {
                assert!(
                    train.iter().all(|datagram| datagram.len() <= 1500 - 28),
                    "too large for the underlay"
                );
                assert!(nodes[to].wire.send(nodes[from].endpoint, &train.bytes, train.stride));
            }
        }
    }
}

/// Sequence number and payload of a TCP packet.
fn segment(packet: &[u8]) -> (usize, &[u8]) {
    let p = parse(packet, packet.len(), false).unwrap();
    let tcp = &packet[usize::from(p.l4)..usize::from(p.l3) + p.ip_len as usize];
    let view = smoltcp::wire::TcpPacket::new_checked(tcp).unwrap();
    (view.seq_number().0 as usize, &tcp[usize::from(view.header_len())..])
}

fn carry(tunnel: Tunnel, families: &[bool], slices: bool) {
    let mut bed = bed(tunnel, slices);
    let mtu = usize::from(bed.nodes[0].mtu());
    for &v6 in families {
        let mss = mtu - if v6 { 60 } else { 40 };
        for gso_size in [mss, mss - 1, 536, 50] {
            for len in [1, gso_size, gso_size + 1, 3 * gso_size, 3 * gso_size + 7, 40 * gso_size, 60_000] {
                for receiver in 0..bed.receivers.len() {
                    if len > 60_000 || len.div_ceil(gso_size) > 1500 {
                        continue;
                    }
                    let (identity, nic) = &mut bed.receivers[receiver];
                    let way = Way::routed(&bed.sender.0, identity.addr(v6));
                    let (mut vnet, mut frame) = way.super_tcp((1, 2), 0, len, gso_size as u16);
                    let payload: Vec<u8> = (0..len).map(|i| ((i * 7919) >> 4) as u8).collect();
                    let at = frame.len() - len;
                    frame[at..].copy_from_slice(&payload);
                    if len <= gso_size {
                        vnet = VnetHdr { gso_type: VnetHdr::GSO_NONE, gso_size: 0, ..vnet };
                    }
                    assert!(bed.sender.1.send(vnet, &frame));
                    settle(&mut bed.nodes);
                    let what = format!("{len} bytes by {gso_size}, v6 {v6}, to receiver {receiver}");
                    let mut got = Vec::new();
                    for packet in nic.take() {
                        let (seq, data) = segment(&packet);
                        assert_eq!(seq, got.len(), "{what}: in order, nothing twice");
                        assert!(data.len() <= gso_size, "{what}");
                        got.extend_from_slice(data);
                    }
                    assert!(got == payload, "{what}: {} of {len} bytes arrived", got.len());
                    assert_eq!(nic.stats.rx_broken, 0, "{what}");
                }
            }
        }
    }
    for node in &bed.nodes {
        assert!(node.conserves(), "{:?}", node.totals());
        assert_eq!(node.totals().dropped(), 0, "{:?}", node.totals());
    }
    let to_far = &bed.nodes[0].snapshot().peers[0].stats[0];
    assert_eq!(to_far.tx_slices.get() > 30, slices, "{}", to_far.tx_slices.get());
    for (n, (_, nic)) in bed.receivers.iter().enumerate() {
        let offload = n % 2 == 1;
        assert_eq!(nic.stats.rx_super > 0, offload, "receiver {n}: {:?}", nic.stats);
    }
}

#[test]
fn over_vxlan() {
    carry(Tunnel::Vxlan { vni: 1 }, &[false, true], false);
}

#[test]
fn over_vxlan_in_slices() {
    carry(Tunnel::Vxlan { vni: 1 }, &[false, true], true);
}

#[test]
fn over_the_udp_tunnel() {
    carry(Tunnel::Udp, &[false], false);
}
