//! The whole data path of a node, packet by packet, while it has few flows and while it has a million.
//!
//! Ports in memory, one worker, 64-byte datagrams between pods of the node, in an order that no cache can guess. What the
//! harness itself costs (copying a frame in and out) is in both figures, and is the first line.

use std::time::Instant;

use encap::{Tunnel, VnetHdr};
use vswitch::datapath::DatapathOptions;
use vswitch::port::mem::MemEnd;
use vswitch_benches::stats::quantile;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::node::Node;

const PODS: usize = 16;
/// Packets of one turn of the worker, all from one pod.
const BATCH: usize = 64;
/// Turns of one measurement, and measurements of each size.
const TURNS: usize = 4096;
const ROUNDS: usize = 9;
/// Where an Ethernet frame with IPv4 has the UDP ports.
const PORTS_AT: usize = 34;

struct Bed {
    node: Node,
    pods: Vec<(Identity, MemEnd)>,
    /// From each pod to the next, and back.
    there: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
}

impl Bed {
    fn new() -> Bed {
        let mut node = Node::sized(0, Tunnel::Vxlan { vni: 1 }, 7, 1 << 20, DatapathOptions::default());
        let pods: Vec<(Identity, MemEnd)> = (0..PODS).map(|_| node.attach(0, true)).collect();
        node.publish(0, 1);
        let next = |i: usize| &pods[(i + 1) % PODS].0;
        let way = |from: &Identity, to: &Identity| Way::routed(from, to.addr(false)).udp((1, 2), 22);
        let there = (0..PODS).map(|i| way(&pods[i].0, next(i))).collect();
        let back = (0..PODS).map(|i| way(next(i), &pods[i].0)).collect();
        Bed { node, pods, there, back }
    }

    /// The frame of flow `n`, one way or the other.
    fn send(&mut self, n: usize, reply: bool) {
        let (pod, number) = (n % PODS, n / PODS);
        let client = (1024 + number % 32_768) as u16;
        let server = (53 + number / 32_768) as u16;
        let (from, frame, ports) = match reply {
            false => (pod, &mut self.there[pod], [client, server]),
            true => ((pod + 1) % PODS, &mut self.back[pod], [server, client]),
        };
        frame[PORTS_AT..PORTS_AT + 2].copy_from_slice(&ports[0].to_be_bytes());
        frame[PORTS_AT + 2..PORTS_AT + 4].copy_from_slice(&ports[1].to_be_bytes());
        assert!(self.pods[from].1.send(VnetHdr::default(), frame), "the port has room");
    }

    /// Lets the worker work; gives the number of frames delivered.
    fn turn(&mut self, now_us: u64) -> usize {
        while self.node.turn(now_us) {}
        let mut delivered = 0;
        for (_, end) in &self.pods {
            while let Some(frame) = end.recv() {
                end.recycle(frame);
                delivered += 1;
            }
        }
        delivered
    }

    /// Opens the flows, each answered once.
    fn open(&mut self, flows: usize) {
        for first in (0..flows).step_by(BATCH) {
            for reply in [false, true] {
                (first..first + BATCH).for_each(|n| self.send(n, reply));
                assert_eq!(self.turn(1_000_000), BATCH, "every packet of flows from {first} on arrives");
            }
        }
        assert_eq!(self.node.conntrack().len(), flows as u64);
    }

    /// Nanoseconds a packet over `flows` flows, the worker's part and the harness's.
    fn measure(&mut self, flows: usize, seed: &mut u64) -> f64 {
        let began = Instant::now();
        for _ in 0..TURNS {
            let pod = random(seed) % PODS;
            for _ in 0..BATCH {
                let n = random(seed) % (flows / PODS) * PODS + pod;
                self.send(n, false);
            }
            assert_eq!(self.turn(2_000_000), BATCH);
        }
        began.elapsed().as_nanos() as f64 / (TURNS * BATCH) as f64
    }

    /// Nanoseconds a frame for the harness alone: in, and out again at the same port.
    fn harness(&mut self, seed: &mut u64) -> f64 {
        let began = Instant::now();
        for _ in 0..TURNS {
            for _ in 0..BATCH {
                let n = random(seed) % 1024;
                self.there[n % PODS][PORTS_AT] = n as u8;
                assert!(self.pods[0].1.send(VnetHdr::default(), &[0; 13]));
            }
            self.turn(2_000_000);
        }
        began.elapsed().as_nanos() as f64 / (TURNS * BATCH) as f64
    }
}

/// xorshift64: the same order in every run.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

#[allow(clippy::print_stdout)] // the body of a program
fn main() {
    let sizes = [1 << 10, 1 << 14, 1 << 17, 1_000_000 / BATCH / PODS * BATCH * PODS];
    let mut beds: Vec<(usize, Bed, Vec<f64>)> = sizes
        .into_iter()
        .map(|flows| {
            let mut bed = Bed::new();
            bed.open(flows);
            (flows, bed, Vec::new())
        })
        .collect();
    let (mut seed, mut harness) = (0x9e37_79b9_7f4a_7c15, Vec::new());
    // In turn, so that a slow moment of the machine is in all of them.
    for _ in 0..ROUNDS {
        harness.push(beds[0].1.harness(&mut seed));
        for (flows, bed, times) in &mut beds {
            times.push(bed.measure(*flows, &mut seed));
        }
    }
    let own = quantile(&harness, 0.5);
    println!("frames refused at once (the harness)  {own:7.0} ns");
    let few = quantile(&beds[0].2, 0.5);
    for (flows, _, times) in &beds {
        let time = quantile(times, 0.5);
        println!("{flows:>9} flows  {time:7.0} ns a packet, {:.2} of the rate with {}", few / time, sizes[0]);
    }
}
