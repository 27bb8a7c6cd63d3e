//! The tables a packet meets, as one immutable value.
//!
//! Control builds a complete new [`Snapshot`] and publishes it through [`Published`]; workers load it once a batch and
//! acknowledge its epoch. Nobody changes what a worker can see. Old snapshots are kept by control until every worker
//! has acknowledged a newer one, so a worker never frees one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use crossbeam::utils::CachePadded;
use encap::{Mac, Tunnel};
use policy::{Compiled, EndpointPolicy};

use crate::counters::{Counter, PortStatsBlocks};
use crate::fib::Fib;
use crate::group::Groups;
use crate::port::PortTx;
use crate::slices::Asked;

/// The one MAC address every pod and the host see as their gateway.
pub const GATEWAY_MAC: Mac = Mac([0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
/// The gateway's IPv4 address, link-local and the same for every pod (design of Calico's pods).
pub const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's IPv6 address.
pub const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What stands at the other end of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A pod's `eth0`.
    Pod,
    /// The node itself (`vsw0`).
    Host,
}

/// A port as the data path sees it. Its reading half belongs to one worker; this half is shared by all.
#[derive(Clone)]
pub struct Port {
    /// Index in [`Snapshot::ports`]; reused after a port is gone.
    pub id: u32,
    /// `namespace/pod`, or the interface's name for the host.
    pub name: String,
    /// Pod or host.
    pub kind: PortKind,
    /// MAC address of the interface at the other end.
    pub mac: Mac,
    /// Its IPv4 address, as `::ffff:a.b.c.d`.
    pub v4: Option<u128>,
    /// Its IPv6 address.
    pub v6: Option<u128>,
    /// Largest IP packet it takes, bytes.
    pub mtu: u16,
    /// Where frames for it are written; safe from every worker.
    pub tx: Arc<dyn PortTx>,
    /// Counters, one block for each worker.
    pub stats: PortStatsBlocks,
}

/// What one worker counts about one peer.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Packets sent to it (a super-frame is one).
    pub tx_packets: Counter,
    /// Bytes of those, without the tunnel's headers.
    pub tx_bytes: Counter,
    /// Super-frames among them that left in slices.
    pub tx_slices: Counter,
    /// Packets of it that were carried (datagrams of the wire).
    pub rx_packets: Counter,
    /// Bytes of those.
    pub rx_bytes: Counter,
    /// When the worker last heard from it: milliseconds of the switch's clock, plus one; 0 = never.
    pub heard: AtomicU64,
    /// Whether it takes slices.
    pub slices: Asked,
}

/// A peer's statistics, one padded block for each worker; they live on when the tables change.
pub type PeerStatsBlocks = Arc<[CachePadded<PeerStats>]>;

/// Makes the blocks for `workers` workers.
pub fn peer_stats(workers: usize) -> PeerStatsBlocks {
    (0..workers).map(|_| CachePadded::new(PeerStats::default())).collect()
}

/// A number that is no VXLAN segment: it has more than 24 bits.
pub const NO_VNI: u32 = u32::MAX;

/// Another node.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub name: Arc<str>,
    /// The peer, by its index, that what this node sends is taken for: itself, unless a node is reached in several ways.
    pub sender: u32,
    /// Where its tunnel endpoint listens; port 0 where the tunnel has no ports.
    pub endpoint: SocketAddr,
    /// How packets for it travel; none = through the host's routes, without encapsulation.
    pub tunnel: Option<Tunnel>,
    /// VXLAN segments taken from it, [`NO_VNI`] where there is none: this node's, and its own.
    pub vnis: [u32; 2],
    /// MAC address of its VTEP: destination of inner frames (VXLAN only).
    pub vtep_mac: Mac,
    /// Largest inner IP packet toward it, bytes.
    pub mtu: u16,
    /// A ready-made way for whole super-frames (uplink TAP) may be used for it.
    pub whole: bool,
    /// Counters.
    pub stats: PeerStatsBlocks,
}

/// What this node is.
#[derive(Clone, Debug)]
pub struct Node {
    /// Addresses that are delivered to the host when a peer asks for them (IPv4 mapped).
    pub addrs: Vec<u128>,
    /// Source of ICMP errors toward other nodes: first address of our pod range.
    pub router4: Option<u128>,
    /// The same for IPv6.
    pub router6: Option<u128>,
    /// The node's own underlay addresses: no pod may send tunnel traffic to them, nor to a peer's.
    pub underlay: Vec<u128>,
    /// This node's own encapsulation, which a peer may use even where we do not; `None` = `direct`.
    pub tunnel: Option<Tunnel>,
    /// UDP ports of the tunnels in use.
    pub tunnel_ports: Vec<u16>,
    /// Our VTEP's MAC address.
    pub vtep_mac: Mac,
    /// Largest packet of a pod, bytes.
    pub mtu: u16,
}

/// Everything a packet meets.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows by one with each publication; stamps flow cache entries.
    pub epoch: u64,
    /// Routes.
    pub fib: Fib,
    /// Ports by index.
    pub ports: Vec<Option<Arc<Port>>>,
    /// The port toward the host.
    pub host: Option<u32>,
    /// Peers by index.
    pub peers: Vec<Peer>,
    /// Peers that are equally good ways to a range.
    pub groups: Groups,
    /// Outer source address (IPv4 mapped) to peer.
    pub peer_of: HashMap<u128, u32>,
    /// This node.
    pub node: Node,
    /// What policy knows about addresses; [`Snapshot::guards`] mean something only together with it.
    pub policy: Arc<Compiled>,
    /// The policy of each port, by the port's index; none = nobody restricts it.
    pub guards: Vec<Option<Arc<EndpointPolicy>>>,
}

impl Snapshot {
    /// A snapshot in which nothing is known and everything is dropped.
    pub fn empty() -> Snapshot {
        Snapshot {
            epoch: 0,
            fib: Fib::build(&[]),
            ports: Vec::new(),
            host: None,
            peers: Vec::new(),
            groups: Groups::default(),
            peer_of: HashMap::new(),
            node: Node {
                addrs: Vec::new(),
                router4: None,
                router6: None,
                underlay: Vec::new(),
                tunnel: None,
                tunnel_ports: Vec::new(),
                vtep_mac: Mac::default(),
                mtu: 0,
            },
            policy: Arc::new(Compiled::empty()),
            guards: Vec::new(),
        }
    }

    /// The policy of the port with this index, if there is any.
    #[inline]
    pub fn guard(&self, id: u32) -> Option<&EndpointPolicy> {
        self.guards.get(id as usize)?.as_deref()
    }

    /// The port with this index, if there is one.
    #[inline]
    pub fn port(&self, id: u32) -> Option<&Arc<Port>> {
        self.ports.get(id as usize).and_then(Option::as_ref)
    }
}

/// Where the snapshot in force is found.
pub type Published = Arc<ArcSwap<Snapshot>>;

/// A place for snapshots that holds the empty one.
pub fn published() -> Published {
    Arc::new(ArcSwap::from_pointee(Snapshot::empty()))
}
