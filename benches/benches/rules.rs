//! What the number of a policy's rules costs a packet in the data path itself: of a flow that is remembered, and of one that
//! is decided about anew.
//!
//! On real packets everything else on the machine moves more than is to be seen here. So: two nodes in this process, one
//! under one rule and one under many, in short looks that alternate; then with the rules exchanged, so that what the two nodes
//! differ by cancels. Ports in memory, one worker, TCP between pods of the node; every rule but the last names somebody else.
//! The first line holds one rule against one rule. What the harness costs (copying a frame in and out, some 80 ns) is in all.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use encap::{Tunnel, VnetHdr};
use serde_json::{Value, json};
use vswitch::datapath::DatapathOptions;
use vswitch::port::mem::MemEnd;
use vswitch_benches::stats::{quantile, ratio};
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::node::Node;
use vswitch_tests::sim::objects::pod;

const RULES: [usize; 4] = [1, 100, 10_000, 100_000];
/// Rules of one policy.
const OF_POLICY: usize = 1000;
const PODS: usize = 8;
/// Flows between the pods, and packets of one turn of the worker.
const FLOWS: usize = 1024;
const BATCH: usize = 64;
/// Pairs of looks with the rules one way, and as many the other way.
const LOOKS: usize = 1600;

struct Bed {
    node: Node,
    pods: Vec<(Identity, MemEnd)>,
    /// One packet of each flow, with the number of its sender.
    frames: Vec<(usize, Vec<u8>)>,
}

impl Bed {
    fn new() -> Bed {
        let mut node = Node::sized(0, Tunnel::Vxlan { vni: 1 }, 7, 1 << 14, DatapathOptions::default());
        let pods: Vec<(Identity, MemEnd)> = (0..PODS).map(|_| node.attach(0, true)).collect();
        node.publish(0, 1);
        let frames = (0..FLOWS).map(|n| {
            let (from, to) = (n / BATCH % PODS, (n / BATCH + 1 + n % (PODS - 1)) % PODS);
            let way = Way::routed(&pods[from].0, pods[to].0.addr(false));
            (from, way.tcp((1024 + n as u16, 80), 1, 22))
        });
        let frames = frames.collect();
        Bed { node, pods, frames }
    }

    /// Has this many rules before each pod.
    fn rules(&mut self, rules: usize) {
        let pods = self.pods.iter().enumerate();
        let mut objects: Vec<Value> = pods
            .map(|(n, (identity, _))| {
                pod("default", &format!("n1-p{}", n + 1), "n1", identity, json!({"app": "x"}))
            })
            .collect();
        objects.extend((0..rules).step_by(OF_POLICY).map(|first| policy(first, rules)));
        self.node.set_objects(&objects);
        let guarded = self.node.snapshot().guards.iter().flatten().count();
        assert!(guarded >= PODS, "the rules are before {guarded} ports");
    }

    /// Every packet is decided about anew, once.
    fn forget(&mut self) {
        let mut tables = self.node.snapshot().clone();
        tables.epoch += 1;
        self.node.adopt(Arc::new(tables));
    }

    /// Nanoseconds a packet, over one packet of each flow.
    fn look(&mut self) -> f64 {
        let began = Instant::now();
        for batch in self.frames.chunks(BATCH) {
            for (from, frame) in batch {
                assert!(self.pods[*from].1.send(VnetHdr::default(), frame), "the port has room");
            }
            while self.node.turn(1_000_000) {}
            let mut delivered = 0;
            for (_, end) in &self.pods {
                while let Some(frame) = end.recv() {
                    end.recycle(frame);
                    delivered += 1;
                }
            }
            assert_eq!(delivered, BATCH, "every packet is let in");
        }
        began.elapsed().as_nanos() as f64 / FLOWS as f64
    }
}

/// A Calico policy with the rules from `first` on, of `rules`; the very last lets everybody in.
fn policy(first: usize, rules: usize) -> Value {
    let last = (first + OF_POLICY).min(rules);
    let stranger = |n: usize| {
        let source = format!("{}/32", Ipv4Addr::from_bits(0x0b00_0001 + n as u32));
        let destination = json!({"ports": [1024 + n % 60_000]});
        json!({"action": "Allow", "protocol": "TCP", "source": {"nets": [source]}, "destination": destination})
    };
    let mut ingress: Vec<Value> = (first + 1..last).map(stranger).collect();
    ingress.push(if last == rules {
        json!({"action": "Allow", "source": {"nets": ["10.244.0.0/16"]}})
    } else {
        stranger(last)
    });
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": format!("rules-{:03}", first / OF_POLICY)},
        "spec": {"order": first, "selector": "app == 'x'", "types": ["Ingress"], "ingress": ingress}
    })
}

/// Looks of both kinds with the rules one way: remembered and anew, one rule and many each.
fn half(beds: &mut [Bed; 2], many: usize, rules: usize) -> [Vec<[f64; 2]>; 2] {
    beds[many].rules(rules);
    beds[1 - many].rules(RULES[0]);
    beds.iter_mut().for_each(|bed| _ = bed.look());
    [false, true].map(|anew| {
        (0..LOOKS)
            .map(|n| {
                let mut times = [0.0; 2];
                for turn in 0..2 {
                    let side = (turn + n) % 2;
                    let bed = &mut beds[if side == 0 { 1 - many } else { many }];
                    if anew {
                        bed.forget();
                    }
                    times[side] = bed.look();
                }
                times
            })
            .collect()
    })
}

#[allow(clippy::print_stdout)] // the body of a program
fn main() {
    let mut beds = [Bed::new(), Bed::new()];
    println!("   rules  remembered ns  / 1 rule                 anew ns  / 1 rule");
    for rules in RULES {
        let halves = [1, 0].map(|many| half(&mut beds, many, rules));
        let column = |kind: usize| {
            let [first, second] = [&halves[0][kind], &halves[1][kind]];
            let figure = |(a, b): (&[f64; 2], &[f64; 2])| (a[1] / a[0] * (b[1] / b[0])).sqrt();
            let ratios: Vec<f64> = first.iter().zip(second).map(figure).collect();
            let many: Vec<f64> = first.iter().chain(second).map(|times| times[1]).collect();
            let r = ratio(&ratios).expect("there are looks");
            format!("{:13.1}  {:.4} ({:.4} - {:.4})", quantile(&many, 0.5), r.mean, r.low, r.high)
        };
        let note = if rules == RULES[0] { "  noise" } else { "" };
        println!("{rules:>8}  {}  {}{note}", column(0), column(1));
    }
}
