//! A node of the simulated cluster: the real data path over ports and an uplink in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use encap::{Burst, Form, Frame, Mac, Tunnel, from_ip};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::conntrack::{Opener, Tick};
use policy::model::World;
use serde_json::Value;
use vswitch::compile::{NodeFacts, PeerFacts, compile};
use vswitch::conntrack::{self, Conntrack};
use vswitch::counters::{Totals, WorkerCounters, port_stats};
use vswitch::datapath::{Datapath, DatapathOptions, Shared};
use vswitch::hand::{Hand, Sizes};
use vswitch::port::mem::{MemEnd, MemPort, pair};
use vswitch::port::{Offloads, PortIo};
use vswitch::snapshot::{Port, PortKind, Snapshot, peer_stats};
use vswitch::sys::mmsg::RecvBatch;
use vswitch::uplink::mem::{MemUplink, MemUplinkTx, MemWire, uplink};
use vswitch::uplink::{RecvMeta, SendReport, Train, UplinkIo, UplinkTx};

use super::guard::Guard;
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
    /// The underlay's end of its uplink, for its own form of tunnel.
    pub wire: MemWire,
    /// The same for every form, in their order.
    pub wires: [MemWire; 3],
    /// The host's end of its host port.
    pub host: MemEnd,
    /// Packets given to the data path: frames read from ports, datagrams from the uplink.
    pub taken: u64,
    /// Receive buffers given to it that held several datagrams, and how many those were: the data path may find such
    /// a buffer to be one giant packet.
    trains: (u64, u64),
    facts: NodeFacts,
    guard: Guard,
    conntrack: Arc<Conntrack>,
    /// Its number, and how many nodes it knows.
    place: (usize, usize),
    snapshot: Arc<Snapshot>,
    datapath: Datapath,
    readers: Vec<MemPort>,
    ports: Vec<Option<Arc<Port>>>,
    uplinks: [MemUplink; 3],
    uplink_tx: Out,
    /// How it speaks to peers that are not spoken to in its own form.
    spoken: BTreeMap<usize, Option<Tunnel>>,
    burst: Burst,
    bufs: Vec<Frame>,
    batch: RecvBatch,
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
fn shared(seed: u64, connections: u32) -> Shared {
    let table = conntrack::private(connections, [seed, !seed]).expect("memory for the table");
    Shared { conntrack: Arc::new(table), events: Arc::default(), boot: std::time::Duration::ZERO }
}

/// A way out for each form.
struct Out([MemUplinkTx; 3]);

impl UplinkTx for Out {
    fn send(&mut self, form: Form, trains: &[Train<'_>]) -> SendReport {
        self.0[form as usize].send(form, trains)
    }

    fn max_train(&self, form: Form) -> (usize, usize) {
        self.0[form as usize].max_train(form)
    }
}

/// Where a form's tunnels end.
fn port_of(tunnel: Option<Tunnel>) -> u16 {
    match tunnel {
        Some(Tunnel::Vxlan { .. }) => 8472,
        Some(Tunnel::Udp) => 8285,
        Some(Tunnel::Ipip) | None => 0,
    }
}

fn own_addresses(facts: &NodeFacts) -> Vec<IpAddr> {
    let routers = [facts.router(false), facts.router(true)].into_iter().flatten();
    facts.addresses.iter().copied().chain(routers).collect()
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
        let options = DatapathOptions { flows: 4096, ..DatapathOptions::default() };
        Self::sized(index, tunnel, seed, 1 << 16, options)
    }

    /// The same with room for so many connections, and with these options of its data path.
    ///
    /// # Panics
    /// For more than 200 nodes, and when there is no memory.
    #[must_use]
    pub fn sized(
        index: usize,
        tunnel: Tunnel,
        seed: u64,
        connections: u32,
        options: DatapathOptions,
    ) -> Self {
        assert!(index < 200, "node numbers are one byte");
        let addr = Ipv4Addr::new(192, 168, 77, index as u8 + 1);
        let facts = NodeFacts {
            cluster_cidrs: ["10.244.0.0/16", "fd00:244::/32"].map(|n| n.parse().expect("a prefix")).to_vec(),
            pod_cidrs: networks(index).to_vec(),
            addresses: vec![addr.into()],
            tunnel: Some(tunnel),
            tunnel_ports: vec![8472, 8285],
            vtep_mac: vtep_mac(index),
            mtu: 1500 - tunnel.overhead(false),
        };
        let made = Form::ALL.map(|_| uplink(QUEUE, MAX_TRAIN));
        let [(u0, t0, w0), (u1, t1, w1), (u2, t2, w2)] = made;
        let wires = [w0, w1, w2];
        let shared = shared(seed, connections);
        let conntrack = Arc::clone(&shared.conntrack);
        let hand = Hand::private(Sizes::default());
        let mut datapath = Datapath::new(0, options, [seed, !seed], Arc::default(), shared, hand.pool);
        let batch = hand.batch;
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
            endpoint: (addr, port_of(Some(tunnel))).into(),
            wire: wires[tunnel.form() as usize].clone(),
            wires,
            host,
            taken: 0,
            trains: (0, 0),
            guard: Guard::new(&format!("n{}", index + 1), own_addresses(&facts)),
            conntrack,
            place: (index, index + 1),
            snapshot: Arc::new(Snapshot::empty()),
            datapath,
            readers: vec![reader],
            ports: vec![Some(Arc::new(port))],
            uplinks: [u0, u1, u2],
            uplink_tx: Out([t0, t1, t2]),
            spoken: BTreeMap::new(),
            burst: Burst::new(),
            bufs,
            batch,
            meta: vec![RecvMeta::default(); UPLINK_BUFS],
            facts,
        }
    }

    /// MTU of its pods.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.facts.mtu
    }

    /// Speaks to the peer with this number in another form than its own, or directly, after the next
    /// [`publish`](Self::publish).
    pub fn speak(&mut self, peer: usize, tunnel: Option<Tunnel>) {
        self.spoken.insert(peer, tunnel);
        self.facts.mtu = self.facts.mtu.min(1500 - tunnel.map_or(0, |t| t.overhead(false)));
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
        self.ports.push(None);
        let offloads = if offload { ALL } else { Offloads::default() };
        let (reader, end) =
            self.plug(usize::from(id), format!("default/n{}-p{id}", index + 1), &identity, offloads);
        self.readers.push(reader);
        (identity, end)
    }

    /// Compiles new tables with all of its ports and `nodes` nodes, itself (number `index`) left out.
    pub fn publish(&mut self, index: usize, nodes: usize) {
        let peers: Vec<Arc<PeerFacts>> = (0..nodes)
            .filter(|&peer| peer != index)
            .map(|peer| (peer, self.spoken.get(&peer).copied().unwrap_or(self.facts.tunnel)))
            .map(|(peer, tunnel)| PeerFacts {
                name: format!("n{}", peer + 1).into(),
                addresses: vec![Ipv4Addr::new(192, 168, 77, peer as u8 + 1).into()],
                pod_cidrs: networks(peer).to_vec(),
                vtep_mac: vtep_mac(peer),
                tunnel,
                port: port_of(tunnel.or(self.facts.tunnel)),
                vni: match tunnel {
                    Some(Tunnel::Vxlan { vni }) => Some(vni),
                    _ => None,
                },
                path_mtu: u16::MAX,
                whole: false,
                stats: peer_stats(1),
            })
            .map(Arc::new)
            .collect();
        let epoch = self.snapshot.epoch + 1;
        self.place = (index, nodes);
        self.guard.compile(&self.ports);
        let mut snapshot = compile(&self.facts, &peers, &self.ports);
        (snapshot.policy, snapshot.guards) = self.guard.tables(&self.ports);
        snapshot.epoch = epoch;
        self.snapshot = Arc::new(snapshot);
    }

    /// What its tables are compiled from, but for its peers, for somebody who does that on another thread.
    #[must_use]
    pub fn facts(&self) -> (NodeFacts, Vec<Option<Arc<Port>>>) {
        (self.facts.clone(), self.ports.clone())
    }

    /// Has these tables in force from the next packet on.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    fn publish_again(&mut self) {
        self.publish(self.place.0, self.place.1);
    }

    /// Has these objects, and no others, in force from the next packet on.
    ///
    /// # Panics
    /// When one is not valid.
    pub fn set_objects(&mut self, objects: &[Value]) {
        self.guard.set_objects(objects);
        self.publish_again();
    }

    /// Has this world in force from the next packet on.
    pub fn set_world(&mut self, world: World) {
        self.guard.set_world(world);
        self.publish_again();
    }

    /// What policy is decided from.
    #[must_use]
    pub fn world(&self) -> &World {
        self.guard.world()
    }

    /// Its connections.
    #[must_use]
    pub fn conntrack(&self) -> &Conntrack {
        &self.conntrack
    }

    /// Frees what has expired in the connection table, as the control thread does all the time.
    pub fn sweep(&self, now_us: u64) {
        let now = Tick::at(std::time::Duration::from_micros(now_us));
        self.conntrack.sweep(0, self.conntrack.slots(), now);
    }

    /// Detaches a pod: its port is free, and its flows are forgotten once nobody can open another.
    ///
    /// # Panics
    /// When there is no such pod.
    pub fn detach(&mut self, identity: &Identity) {
        let own = |port: &Arc<Port>| port.kind == PortKind::Pod && port.mac == identity.mac;
        let at = self.ports.iter().position(|p| p.as_ref().is_some_and(own)).expect("the pod is attached");
        self.ports[at] = None;
        self.publish_again();
        self.conntrack.forget_opener(Opener::Port(at as u32));
        for v6 in [false, true] {
            self.conntrack.forget_addr(from_ip(identity.addr(v6)));
        }
    }

    /// Attaches another pod at a detached pod's port, with its addresses and another name.
    ///
    /// # Panics
    /// When the port is not free.
    pub fn attach_again(&mut self, identity: &Identity, name: &str) -> MemEnd {
        let free = |at: &usize| self.ports[*at].is_none();
        let at = (0..self.ports.len()).find(free).expect("a port is free");
        let (reader, end) = self.plug(at, name.to_owned(), identity, ALL);
        self.readers[at] = reader;
        self.publish_again();
        end
    }

    /// Takes a pod's IPv6 address away.
    pub fn take_ipv6(&mut self, identity: &Identity) {
        for port in self.ports.iter_mut().flatten().filter(|port| port.mac == identity.mac) {
            *port = Arc::new(Port { v6: None, ..(**port).clone() });
        }
        self.publish_again();
    }

    /// Puts a pod at the port with this index.
    fn plug(
        &mut self,
        at: usize,
        name: String,
        identity: &Identity,
        offloads: Offloads,
    ) -> (MemPort, MemEnd) {
        let (reader, tx, end) = pair(offloads, QUEUE);
        self.ports[at] = Some(Arc::new(Port {
            id: at as u32,
            name,
            kind: PortKind::Pod,
            mac: identity.mac,
            v4: Some(from_ip(IpAddr::V4(identity.v4))),
            v6: Some(from_ip(IpAddr::V6(identity.v6))),
            mtu: self.facts.mtu,
            tx: Arc::new(tx),
            stats: port_stats(1),
        }));
        (reader, end)
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
        for (form, uplink) in Form::ALL.into_iter().zip(&mut self.uplinks) {
            let n = uplink.rx(&mut self.batch, &mut self.bufs, &mut self.meta).expect("memory does not fail");
            let (bufs, meta) = (&mut self.bufs[..n], &self.meta[..n]);
            for count in meta.iter().map(|m| datagrams(form, m)) {
                self.taken += count;
                if count > 1 {
                    self.trains = (self.trains.0 + 1, self.trains.1 + count);
                }
            }
            self.datapath.from_uplink(&self.snapshot, form, bufs, meta, &mut self.uplink_tx, now_ms);
        }
        self.taken > before
    }

    /// Flows it remembers.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.datapath.flows().iter().count()
    }

    /// Forgets every remembered decision.
    pub fn forget(&mut self) {
        self.datapath.forget();
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> &WorkerCounters {
        self.datapath.counters()
    }

    /// Datagrams whose fragments it follows.
    #[must_use]
    pub fn fragments(&self) -> usize {
        self.datapath.fragments()
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

fn datagrams(form: Form, meta: &RecvMeta) -> u64 {
    if form == Form::Ipip || meta.stride == 0 { 1 } else { meta.len.div_ceil(meta.stride).max(1) as u64 }
}
