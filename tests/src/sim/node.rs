//! A node of the simulated cluster: the real data path over ports and an uplink in memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use encap::{Burst, Frame, Mac, Tunnel, from_ip};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vswitch::compile::{NodeFacts, PeerFacts, compile};
use vswitch::conntrack;
use vswitch::counters::{Totals, port_stats};
use vswitch::datapath::{Datapath, Shared, Sizes};
use vswitch::port::mem::{MemEnd, MemPort, pair};
use vswitch::port::{Offloads, PortIo};
use vswitch::snapshot::{Port, PortKind, Snapshot, peer_stats};
use vswitch::uplink::mem::{MemUplink, MemUplinkTx, MemWire, uplink};
use vswitch::uplink::{RecvMeta, UplinkIo};

use super::host::Identity;

/// Frames a cable and trains an uplink hold in each direction.
const QUEUE: usize = 4096;
/// Bytes the worker takes from a port in one batch.
const PORT_BUDGET: usize = 64 * 1024;
/// Buffers the worker takes from the uplink in one batch.
const UPLINK_BUFS: usize = 8;
/// What the kernel's UDP socket segments: datagrams and bytes of a train.
const MAX_TRAIN: (usize, usize) = (64, 65_493);

/// What a port of a pod with offloads takes.
const ALL: Offloads = Offloads { csum: true, tso4: true, tso6: true, uso: true, tunnel: false };

/// A node.
pub struct Node {
    /// Its tunnel endpoint.
    pub endpoint: SocketAddr,
    /// The underlay's end of its uplink.
    pub wire: MemWire,
    /// The host's end of its host port.
    pub host: MemEnd,
    /// Packets given to the data path: frames read from ports, datagrams from the uplink.
    pub taken: u64,
    /// Receive buffers given to it that held several datagrams, and how many those were: the data path may find such
    /// a buffer to be one giant packet.
    trains: (u64, u64),
    facts: NodeFacts,
    snapshot: Snapshot,
    datapath: Datapath,
    readers: Vec<MemPort>,
    ports: Vec<Option<Arc<Port>>>,
    uplink: MemUplink,
    uplink_tx: MemUplinkTx,
    burst: Burst,
    bufs: Vec<Frame>,
    meta: Vec<RecvMeta>,
}

/// What is in the table of every node about node `index`.
fn networks(index: usize) -> [IpNet; 2] {
    let number = index as u8 + 1;
    let v4 = Ipv4Net::new(Ipv4Addr::new(10, 244, number, 0), 24).expect("24 is a prefix length");
    let v6 = Ipv6Net::new(Ipv6Addr::new(0xfd00, 0x244, u16::from(number), 0, 0, 0, 0, 0), 64);
    [v4.into(), v6.expect("64 is a prefix length").into()]
}

/// A connection table of the node's own; simulated time is time since boot.
fn shared(seed: u64) -> Shared {
    let table = conntrack::private(1 << 16, [seed, !seed]).expect("memory for a small table");
    Shared { conntrack: Arc::new(table), events: Arc::default(), boot: std::time::Duration::ZERO }
}

fn vtep_mac(index: usize) -> Mac {
    Mac([0x0e, 0, 0, 0, 0, index as u8 + 1])
}

impl Node {
    /// A node without pods and peers.
    ///
    /// # Panics
    /// For more than 200 nodes.
    #[must_use]
    pub fn new(index: usize, tunnel: Tunnel, seed: u64) -> Self {
        assert!(index < 200, "node numbers are one byte");
        let tunnel_port = match tunnel {
            Tunnel::Vxlan { .. } => 8472,
            Tunnel::Udp => 8285,
        };
        let addr = Ipv4Addr::new(192, 168, 77, index as u8 + 1);
        let facts = NodeFacts {
            cluster_cidrs: ["10.244.0.0/16", "fd00:244::/32"].map(|n| n.parse().expect("a prefix")).to_vec(),
            pod_cidrs: networks(index).to_vec(),
            addresses: vec![addr.into()],
            tunnel: Some(tunnel),
            tunnel_port,
            vtep_mac: vtep_mac(index),
            mtu: 1500 - tunnel.overhead(false),
        };
        let (uplink, uplink_tx, wire) = uplink(QUEUE, MAX_TRAIN);
        let sizes = Sizes { flows: 4096, ..Sizes::default() };
        let mut datapath = Datapath::new(0, sizes, [seed, !seed], Arc::default(), shared(seed));
        let bufs = (0..UPLINK_BUFS).map(|_| datapath.pool().large()).collect();
        let (reader, tx, host) = pair(ALL, QUEUE);
        let port = Port {
            id: 0,
            name: "vsw0".to_owned(),
            kind: PortKind::Host,
            mac: Mac([2, 0, 0, 0, 0xff, index as u8]),
            v4: None,
            v6: None,
            mtu: facts.mtu,
            tx: Arc::new(tx),
            stats: port_stats(1),
        };
        Self {
            endpoint: (addr, tunnel_port).into(),
            wire,
            host,
            taken: 0,
            trains: (0, 0),
            snapshot: Snapshot::empty(),
            datapath,
            readers: vec![reader],
            ports: vec![Some(Arc::new(port))],
            uplink,
            uplink_tx,
            burst: Burst::new(),
            bufs,
            meta: vec![RecvMeta::default(); UPLINK_BUFS],
            facts,
        }
    }

    /// MTU of its pods.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.facts.mtu
    }

    /// Its snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Attaches a pod; it is known with the next [`publish`](Self::publish).
    pub fn attach(&mut self, index: usize, offload: bool) -> (Identity, MemEnd) {
        let id = self.ports.len() as u8;
        let identity = Identity {
            mac: Mac([2, 0, 0, 0, index as u8, id]),
            v4: Ipv4Addr::new(10, 244, index as u8 + 1, id + 1),
            v6: Ipv6Addr::new(0xfd00, 0x244, index as u16 + 1, 0, 0, 0, 0, u16::from(id) + 1),
        };
        let (reader, tx, end) = pair(if offload { ALL } else { Offloads::default() }, QUEUE);
        self.readers.push(reader);
        self.ports.push(Some(Arc::new(Port {
            id: u32::from(id),
            name: format!("default/n{}-p{id}", index + 1),
            kind: PortKind::Pod,
            mac: identity.mac,
            v4: Some(from_ip(IpAddr::V4(identity.v4))),
            v6: Some(from_ip(IpAddr::V6(identity.v6))),
            mtu: self.facts.mtu,
            tx: Arc::new(tx),
            stats: port_stats(1),
        })));
        (identity, end)
    }

    /// Compiles new tables with all of its ports and `nodes` nodes, itself (number `index`) left out.
    pub fn publish(&mut self, index: usize, nodes: usize) {
        let peers: Vec<PeerFacts> = (0..nodes)
            .filter(|&peer| peer != index)
            .map(|peer| PeerFacts {
                name: format!("n{}", peer + 1),
                addresses: vec![Ipv4Addr::new(192, 168, 77, peer as u8 + 1).into()],
                pod_cidrs: networks(peer).to_vec(),
                vtep_mac: vtep_mac(peer),
                direct: false,
                whole: false,
                stats: peer_stats(1),
            })
            .collect();
        let epoch = self.snapshot.epoch + 1;
        self.snapshot = compile(&self.facts, &peers, &self.ports);
        self.snapshot.epoch = epoch;
    }

    /// One turn of the worker: a batch of every port and of the uplink. True when there was something.
    ///
    /// # Panics
    /// Never with ports in memory.
    pub fn turn(&mut self, now_us: u64) -> bool {
        let (before, now_ms) = (self.taken, now_us / 1000);
        for (reader, port) in self.readers.iter_mut().zip(&self.ports) {
            let Some(port) = port else { continue };
            reader.rx(&mut self.burst, self.datapath.pool(), PORT_BUDGET).expect("memory does not fail");
            self.taken += self.burst.len() as u64;
            self.datapath.from_port(&self.snapshot, port, &mut self.burst, &mut self.uplink_tx, now_ms);
        }
        let n = self.uplink.rx(&mut self.bufs, &mut self.meta).expect("memory does not fail");
        let (bufs, meta) = (&mut self.bufs[..n], &self.meta[..n]);
        for count in meta.iter().map(datagrams) {
            self.taken += count;
            if count > 1 {
                self.trains = (self.trains.0 + 1, self.trains.1 + count);
            }
        }
        self.datapath.from_uplink(&self.snapshot, bufs, meta, &mut self.uplink_tx, now_ms);
        self.taken > before
    }

    /// Flows it remembers.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.datapath.flows().iter().count()
    }

    /// What it counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::of([&***self.datapath.counters()])
    }

    /// Is every packet that was given to the data path accounted for, once?
    #[must_use]
    pub fn conserves(&self) -> bool {
        let totals = self.totals();
        let least = self.taken - self.trains.1 + self.trains.0;
        (least..=self.taken).contains(&totals.received) && totals.received == totals.accounted()
    }
}

fn datagrams(meta: &RecvMeta) -> u64 {
    if meta.stride == 0 { 1 } else { meta.len.div_ceil(meta.stride).max(1) as u64 }
}
