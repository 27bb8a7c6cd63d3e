//! A cluster in one thread: real data paths, smoltcp's stacks as pods, a network between the nodes with seeded loss and
//! delay, and a clock that jumps to the next thing that happens.
//!
//! Nothing sleeps and nothing is left to chance: the same seed is the same run to the last byte, so that a failing
//! seed is a bug report. Everything is owned by [`Sim`] and runs on the caller's thread.
//!
//! ```text
//! Host (smoltcp) ── Nic ══ MemPort ── Datapath ── MemUplink ══ Underlay ══ MemUplink ── Datapath ── …
//! ```

pub mod craft;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod host;
pub mod hostile;
pub mod naive;
pub mod nic;
pub mod node;
pub mod objects;
pub mod random;
pub mod range;
pub mod underlay;
pub mod worlds;

use std::fmt::Write as _;

use encap::{Form, Tunnel};

use flow::{Datagrams, Flow, Transfer};
use host::Host;
use nic::Nic;
use node::Node;
use random::Random;
use underlay::{Underlay, Weather};

/// The cluster.
pub struct Sim {
    now_us: u64,
    random: Random,
    underlay: Underlay,
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    flows: Vec<Flow>,
    next_port: u16,
}

impl Sim {
    /// `nodes` nodes without pods, joined by `tunnel` over a network with `weather`.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, tunnel: Tunnel, weather: Weather) -> Self {
        let mut random = Random::new(seed);
        let mut sim = Self {
            now_us: 0,
            underlay: Underlay::new(weather, random.bits()),
            nodes: (0..nodes).map(|index| Node::new(index, tunnel, random.bits())).collect(),
            hosts: Vec::new(),
            flows: Vec::new(),
            next_port: 10_000,
            random,
        };
        sim.publish();
        sim
    }

    /// Has two nodes speak to each other in this form instead of the fleet's. For nodes without pods yet: it may lower
    /// the MTU of theirs.
    pub fn speak(&mut self, a: usize, b: usize, tunnel: Tunnel) {
        self.nodes[a].speak(b, Some(tunnel));
        self.nodes[b].speak(a, Some(tunnel));
        self.publish();
    }

    fn publish(&mut self) {
        let count = self.nodes.len();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.publish(index, count);
        }
    }

    /// Starts a pod on a node, with or without offloads at its interface; returns its number.
    pub fn pod(&mut self, node: usize, offload: bool) -> usize {
        let mtu = self.nodes[node].mtu();
        let (identity, end) = self.nodes[node].attach(node, offload);
        self.hosts.push(Host::new(identity, Nic::new(end, offload, mtu), self.random.bits()));
        self.publish();
        self.hosts.len() - 1
    }

    /// The nodes.
    pub fn nodes(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The pods.
    pub fn hosts(&mut self) -> &mut [Host] {
        &mut self.hosts
    }

    /// Virtual time since the start, microseconds.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Has one pod send `bytes` bytes to another over TCP.
    pub fn tcp(&mut self, from: usize, to: usize, v6: bool, bytes: usize) {
        let port = self.port();
        let addr = self.hosts[to].identity.addr(v6);
        let listening = self.hosts[to].listen(port);
        let connecting = self.hosts[from].connect(port, (addr, port));
        self.flows.push(Flow::Tcp(Transfer {
            pods: (from, to),
            sockets: (connecting, listening),
            bytes,
            sent: 0,
            received: 0,
            corrupt: false,
            done_us: None,
        }));
    }

    /// Has one pod send `count` datagrams of `size` bytes to another over UDP, one every `gap_us` microseconds.
    pub fn udp(&mut self, from: usize, to: usize, v6: bool, (count, size, gap_us): (usize, usize, u64)) {
        let port = self.port();
        let addr = self.hosts[to].identity.addr(v6);
        let sockets = (self.hosts[from].bind(port), self.hosts[to].bind(port));
        let to_addr = (addr, port);
        self.flows.push(Flow::Udp(Datagrams {
            pods: (from, to),
            sockets,
            to: to_addr,
            count,
            size,
            gap_us,
            sent: 0,
            received: 0,
            corrupt: false,
        }));
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Runs until everything has arrived, or until nothing can happen any more, or for `limit_us` of virtual time.
    pub fn run(&mut self, limit_us: u64) {
        let end = self.now_us + limit_us;
        while self.now_us < end {
            while self.step() {}
            if self.is_done() {
                return;
            }
            let Some(next) = self.next_event() else { return };
            self.now_us = next.max(self.now_us + 1).min(end);
        }
    }

    fn is_done(&self) -> bool {
        let idle = self.underlay.next().is_none();
        idle && self.flows.iter().all(|flow| match flow {
            Flow::Tcp(t) => t.received >= t.bytes,
            Flow::Udp(d) => d.received == d.count,
        })
    }

    /// Everything that happens at this instant, once around. True when something did.
    fn step(&mut self) -> bool {
        let mut moved = false;
        for flow in &mut self.flows {
            match flow {
                Flow::Tcp(transfer) => transfer.drive(&mut self.hosts, self.now_us),
                Flow::Udp(datagrams) => datagrams.drive(&mut self.hosts, self.now_us),
            }
        }
        for host in &mut self.hosts {
            moved |= host.poll(self.now_us);
        }
        for arrival in self.underlay.arrivals(self.now_us) {
            moved = true;
            // A full socket buffer loses them.
            let wire = &self.nodes[arrival.to].wires[arrival.form as usize];
            wire.send(arrival.from, &arrival.bytes, arrival.stride);
        }
        for index in 0..self.nodes.len() {
            moved |= self.nodes[index].turn(self.now_us);
            self.carry(index);
        }
        moved
    }

    /// Hands what a node sent to the underlay.
    fn carry(&mut self, index: usize) {
        let from = self.nodes[index].endpoint;
        for form in Form::ALL {
            while let Some(train) = self.nodes[index].wires[form as usize].recv() {
                let there = |node: &Node| node.endpoint.ip() == train.addr.ip();
                if let Some(to) = self.nodes.iter().position(there) {
                    for datagram in train.iter() {
                        self.underlay.send(self.now_us, form, from, to, datagram);
                    }
                }
            }
        }
    }

    fn next_event(&mut self) -> Option<u64> {
        let now = self.now_us;
        let flows = self.flows.iter().filter_map(|flow| match flow {
            Flow::Tcp(_) => None,
            Flow::Udp(datagrams) => datagrams.next(),
        });
        let hosts = self.hosts.iter_mut().filter_map(|host| host.poll_at(now));
        flows.chain(hosts).chain(self.underlay.next()).min()
    }

    /// Streams and datagrams, in the order they were asked for.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// What must hold at any time of any run; an empty list when it does.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            // No pod here sends giants between the nodes, so that the count of packets is exact.
            if !node.conserves() || node.totals().received != node.taken {
                wrong.push(format!(
                    "n{}: took {} packets, counted {:?}",
                    index + 1,
                    node.taken,
                    node.totals()
                ));
            }
        }
        for (index, host) in self.hosts.iter().enumerate() {
            if host.nic.stats.rx_broken > 0 {
                wrong.push(format!("pod {index}: {} frames no kernel would take", host.nic.stats.rx_broken));
            }
        }
        if self.underlay.oversize > 0 {
            wrong.push(format!("{} datagrams too large for the underlay", self.underlay.oversize));
        }
        let corrupt = |flow: &Flow| match flow {
            Flow::Tcp(t) => t.corrupt,
            Flow::Udp(d) => d.corrupt,
        };
        if self.flows.iter().any(corrupt) {
            wrong.push("a flow carried bytes that were never sent".to_owned());
        }
        wrong
    }

    /// TCP payload a pod sent more than once, bytes.
    #[must_use]
    pub fn resent(&self, pod: usize) -> u64 {
        let given = self.flows.iter().map(|flow| match flow {
            Flow::Tcp(t) if t.pods.0 == pod => t.sent as u64,
            _ => 0,
        });
        self.hosts[pod].nic.stats.tx_tcp_payload.saturating_sub(given.sum())
    }

    /// The run as text: the same for the same seed.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = String::new();
        for flow in &self.flows {
            let line = match flow {
                Flow::Tcp(t) => {
                    let done = t.done_us.map_or("never".to_owned(), |us| format!("{us} us"));
                    format!("tcp {:?}: {} of {} bytes, done {done}", t.pods, t.received, t.bytes)
                }
                Flow::Udp(d) => format!("udp {:?}: {} of {} datagrams", d.pods, d.received, d.sent),
            };
            let _ = writeln!(out, "{line}");
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let _ = writeln!(out, "pod {index}: {:?}, resent {} bytes", host.nic.stats, self.resent(index));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(out, "n{}: {:?}", index + 1, node.totals());
        }
        let u = &self.underlay;
        let _ = writeln!(out, "underlay: sent {}, lost {}, overtakes {}", u.sent, u.lost, u.overtakes);
        out
    }
}
