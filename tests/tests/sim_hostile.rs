//! Random and broken frames through every entrance: nothing panics, every one is accounted for, and nothing comes out
//! that the receiver would not take.
//!
//! `VSWITCH_FRAMES` sets how many (300,000 without it), `VSWITCH_SEED` another run than the usual.

use encap::parse::parse;
use encap::{Form, Mac, Tunnel, VnetHdr, slice};
use vswitch::port::mem::MemEnd;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::hostile::{corpus, header, mutate, slices};
use vswitch_tests::sim::node::Node;
use vswitch_tests::sim::random::Random;

struct Pod {
    identity: Identity,
    end: MemEnd,
    offload: bool,
}

struct Field {
    nodes: Vec<Node>,
    pods: Vec<Vec<Pod>>,
    tunnel: Tunnel,
    /// Frames that came out at pods and passed the checks.
    delivered: u64,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

impl Field {
    fn new(tunnel: Tunnel) -> Self {
        let mut nodes: Vec<Node> = (0..3).map(|index| Node::new(index, tunnel, 3)).collect();
        let mut pods = Vec::new();
        for (index, node) in nodes.iter_mut().enumerate() {
            let attached = [false, true, true].map(|offload| {
                let (identity, end) = node.attach(index, offload);
                Pod { identity, end, offload }
            });
            pods.push(Vec::from(attached));
        }
        nodes.iter_mut().enumerate().for_each(|(index, node)| node.publish(index, 3));
        Self { nodes, pods, tunnel, delivered: 0 }
    }

    /// Reads and checks everything that came out.
    fn drain(&mut self) {
        for (index, pods) in self.pods.iter().enumerate() {
            for pod in pods {
                while let Some(frame) = pod.end.recv() {
                    let (bytes, vnet) = (&frame.bytes, frame.vnet);
                    assert!(pod.offload || vnet == VnetHdr::default(), "{vnet:?} to a plain pod");
                    assert_eq!(vnet.check(bytes.len()), Ok(()), "{vnet:?}");
                    let parsed = parse(bytes, bytes.len(), vnet.is_gso());
                    let p = parsed.unwrap_or_else(|e| panic!("{e:?}: {vnet:?} {bytes:02x?}"));
                    let own = encap::from_ip(pod.identity.addr(p.v6));
                    // A neighbour advertisement goes to whom it answers: all nodes, or a link-local address.
                    let local = p.v6 && (p.dst >> 112 == 0xff02 || p.dst >> 118 == 0xfe80 >> 6);
                    assert!(p.ethertype == 0x0806 || p.dst == own || local, "{p:?} to {:?}", pod.identity);
                    assert!(p.dst_mac == pod.identity.mac || p.dst_mac.is_multicast(), "{p:?}");
                    self.delivered += 1;
                    pod.end.recycle(frame);
                }
            }
            let node = &self.nodes[index];
            while let Some(frame) = node.host.recv() {
                assert_eq!(frame.vnet.check(frame.bytes.len()), Ok(()));
                node.host.recycle(frame);
            }
        }
        for index in 0..self.nodes.len() {
            while let Some(train) = self.nodes[index].wire.recv() {
                let from = self.nodes[index].endpoint;
                for datagram in train.iter() {
                    let outer = if self.tunnel == Tunnel::Ipip { 0 } else { 28 };
                    assert!(
                        datagram.len() <= 1500 - outer,
                        "{} bytes do not fit the underlay",
                        datagram.len()
                    );
                    if self.tunnel.form() == Form::Vxlan && slice::is_slice(datagram) {
                        let slice = slice::parse(datagram);
                        assert!(slice.is_ok(), "{slice:?}");
                    } else {
                        let inner = self.tunnel.pull(datagram);
                        assert!(inner.is_ok(), "{inner:?}");
                    }
                }
                if let Some(to) = self.nodes.iter().find(|node| node.endpoint == train.addr) {
                    to.wire.send(from, &train.bytes, train.stride);
                }
                self.nodes[index].wire.recycle(train);
            }
        }
    }

    fn settle(&mut self, now_us: u64) {
        while self.nodes.iter_mut().fold(false, |moved, node| node.turn(now_us) | moved) {
            self.drain();
        }
        for node in &self.nodes {
            assert!(node.conserves(), "took {} packets, counted {:?}", node.taken, node.totals());
        }
    }
}

fn storm(tunnel: Tunnel, frames: u64, seed: u64) {
    let mut field = Field::new(tunnel);
    let corpus = corpus(&field.pods.iter().flatten().map(|pod| pod.identity).collect::<Vec<_>>());
    let mut random = Random::new(seed);
    let mut now_us = 0;
    for n in 0..frames {
        let (vnet, mut frame) = random.pick(&corpus).clone();
        let other = &random.pick(&corpus).1;
        mutate(&mut random, &mut frame, other);
        let node = random.below(field.nodes.len() as u64) as usize;
        if random.below(2) == 0 {
            let vnet = header(&mut random, vnet);
            let ends: Vec<&MemEnd> =
                field.pods[node].iter().map(|p| &p.end).chain([&field.nodes[node].host]).collect();
            random.pick(&ends).send(vnet, &frame);
        } else if matches!(tunnel, Tunnel::Vxlan { .. }) && random.below(6) == 0 {
            let made = random.pick(&corpus).clone();
            train(&mut random, &field, node, &made);
        } else {
            datagrams(&mut random, &field, node, &frame);
        }
        if n % 32 == 31 {
            now_us += random.below(2000);
            field.settle(now_us);
        }
    }
    field.settle(now_us);
    let totals: Vec<_> = field.nodes.iter().map(Node::totals).collect();
    assert!(field.delivered > frames / 100, "too little got through to prove anything: {totals:?}");
    let reasons = totals.iter().flat_map(|t| t.drops.iter().map(|(reason, _)| reason));
    let reasons: std::collections::BTreeSet<_> = reasons.collect();
    assert!(reasons.len() > 20, "too few drop reasons to prove anything: {reasons:?}");
}

/// One receive buffer: the frame in the tunnel's header, whole or broken, alone or as a train, from a peer or not.
fn datagrams(random: &mut Random, field: &Field, node: usize, frame: &[u8]) {
    let peer = random.below(field.nodes.len() as u64) as usize;
    let mut from = field.nodes[peer].endpoint;
    if random.below(20) == 0 {
        from.set_ip("192.168.77.99".parse().unwrap());
    }
    let mut one = match field.tunnel {
        Tunnel::Vxlan { vni } => {
            let mut bytes = [&encap::vxlan::header(vni)[..], frame].concat();
            let mac = [0x0e, 0, 0, 0, 0, node as u8 + 1];
            if let Some(dst) = bytes.get_mut(8..14).filter(|_| random.below(8) > 0) {
                dst.copy_from_slice(&mac);
            }
            bytes
        }
        Tunnel::Udp => frame.get(14..).unwrap_or_default().to_vec(),
        Tunnel::Ipip => outer(random, frame.get(14..).unwrap_or_default()),
    };
    if random.below(10) == 0 && !one.is_empty() {
        let at = random.below(one.len().min(16) as u64) as usize;
        one[at] ^= 1 << random.below(8);
    }
    // A raw socket has one packet in a buffer.
    let copies = if field.tunnel == Tunnel::Ipip { 1 } else { 1 + random.below(4) as usize };
    let stride = match random.below(6) {
        _ if field.tunnel == Tunnel::Ipip => 0,
        0 => random.below(200) as usize,
        _ if copies > 1 => one.len(),
        _ => 0,
    };
    let mut bytes = one.repeat(copies);
    bytes.truncate(encap::LARGE - random.below(100) as usize);
    field.nodes[node].wire.send(from, &bytes, stride);
}

/// A super-frame in slices: each in a buffer of its own, or all in one.
fn train(random: &mut Random, field: &Field, node: usize, made: &(VnetHdr, Vec<u8>)) {
    let peer = random.below(field.nodes.len() as u64) as usize;
    let (from, wire) = (field.nodes[peer].endpoint, &field.nodes[node].wire);
    let all = slices(random, made, Mac([0x0e, 0, 0, 0, 0, node as u8 + 1]));
    if random.below(2) == 0 {
        let stride = all.first().map_or(0, Vec::len);
        wire.send(from, &all.concat(), stride);
    } else {
        for datagram in &all {
            wire.send(from, datagram, 0);
        }
    }
}

/// An outer header that mostly fits, sometimes with options.
fn outer(random: &mut Random, inner: &[u8]) -> Vec<u8> {
    let made = encap::ipip::header(inner, inner.len(), [192, 168, 77, 1].into(), [192, 168, 77, 2].into());
    let mut header = made.unwrap_or([0x45; 20]).to_vec();
    if random.below(8) == 0 {
        header[0] += 1 + random.below(10) as u8;
        header.resize(usize::from(header[0] & 15) * 4, 1);
    }
    if random.below(8) == 0 {
        header[1] = random.bits() as u8;
    }
    header.extend_from_slice(inner);
    header
}

#[test]
fn storm_over_ip_in_ip() {
    storm(Tunnel::Ipip, number("VSWITCH_FRAMES", 300_000) / 3, number("VSWITCH_SEED", 1));
}

#[test]
fn storm_over_vxlan() {
    storm(Tunnel::Vxlan { vni: 1 }, number("VSWITCH_FRAMES", 300_000) * 2 / 3, number("VSWITCH_SEED", 1));
}

#[test]
fn storm_over_the_udp_tunnel() {
    storm(Tunnel::Udp, number("VSWITCH_FRAMES", 300_000) / 3, number("VSWITCH_SEED", 1));
}
