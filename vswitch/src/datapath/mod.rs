//! One worker's data path: a batch in, everything in it delivered, answered or dropped before the next.
//!
//! Owned by one thread; knows the seams ([`PortTx`](crate::port::PortTx), [`UplinkTx`]) and no socket. Takes no lock,
//! reads no clock (time is an argument), and allocates nothing after start: frames come from its own pool, the rest
//! lies in arrays made once. The decision itself is [`crate::pipeline`]'s.
//!
//! * `mod.rs`: from a port: admit, decide, forward.
//! * `ahead.rs`: fetching the memory that decisions need.
//! * `track.rs`: the decision: flow cache, connection table, policy.
//! * `fragment.rs`: what becomes of fragments after it.
//! * `deliver.rs`: writing to ports, with the offloads the port has.
//! * `tunnel.rs`, `lanes.rs`: toward peers: trains for the uplink, and what may share one.
//! * `uplink.rs`: from peers: decapsulate, merge, deliver.
//! * `slices.rs`: super-frames in slices: who takes them, and what came of them.
//! * `answer.rs`: what the gateway says itself: ARP, neighbour discovery, ping, ICMP errors.

mod ahead;
mod answer;
mod deliver;
mod fragment;
mod lanes;
mod slices;
mod track;
mod tunnel;
mod uplink;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use encap::slice::SLICE_LEN;
use encap::{Burst, Frame, Gro, Parsed, Pool, Segmenter, Tunnel, VnetHdr};
use policy::conntrack::Near;
use policy::frag::FragTable;
use policy::{FlowKey, HashKey};

use crate::conntrack::Conntrack;
use crate::counters::{Carried, DropReason, PortStats, WorkerCounters};
use crate::events::Events;
use crate::flow::FlowCache;
use crate::icmp_limit::IcmpLimit;
use crate::pipeline::{self, Action, Admit, Ingress};
use crate::snapshot::{GATEWAY_MAC, Peer, Port, PortKind, Snapshot};
use crate::uplink::UplinkTx;

pub use track::Remembered;
pub(crate) use track::{asked, asked_of, opened_by};

/// How a worker's data path is made: how large its tables are, and by which fast ways it goes.
#[derive(Clone, Copy, Debug)]
pub struct DatapathOptions {
    /// Flows remembered.
    pub flows: usize,
    /// Packets of a flow that come from a peer together are joined.
    pub merge: bool,
    /// Small packets that go to a peer one after the other leave together.
    pub trains: bool,
    /// Super-frames travel in slices to peers that take them.
    pub slices: bool,
}

impl Default for DatapathOptions {
    fn default() -> Self {
        DatapathOptions { flows: 16_384, merge: true, trains: true, slices: true }
    }
}

/// Places whose fragments are followed at the same time, and datagrams in fragments of each.
const FRAGMENT_LANES: (usize, usize) = (256, 64);

/// What a worker's data path shares with the others.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The node's connections.
    pub conntrack: Arc<Conntrack>,
    /// What is told about single packets.
    pub events: Arc<Events>,
    /// Time since boot at the caller's time 0.
    pub boot: Duration,
}

/// Bytes of a TCP header with as many options as it can have.
const TCP_HEADER_MAX: usize = 60;

/// Packets one receive batch of the uplink can hold: 16 buffers of up to 64 datagrams.
const MERGE: usize = 16 * 64;

/// A worker's data path.
pub struct Datapath {
    merge: Gro,
    /// Peers that asked whether slices are taken, and what is answered at the end of the batch.
    answers: Vec<(u32, [u8; SLICE_LEN])>,
    core: Core,
}

/// All but the merging stage, apart so that a merged packet can be delivered while the merger lends it out.
struct Core {
    index: usize,
    counters: Arc<CachePadded<WorkerCounters>>,
    pool: Pool,
    flows: FlowCache<Remembered>,
    conntrack: Arc<Conntrack>,
    frags: FragTable<fragment::First>,
    events: Arc<Events>,
    /// Time since boot at the caller's time 0.
    boot: Duration,
    hash: HashKey,
    split: Segmenter,
    /// A burst's packets between being looked at and being decided about: their frames, which a batch from a peer has
    /// itself, and what their headers say.
    looked: Vec<Frame>,
    seen: Vec<Sight>,
    staged: Vec<Staged>,
    /// Small packets leave together.
    trains: bool,
    slices: bool,
    /// Number of the last super-frame that left in slices.
    train: u16,
    limit: IcmpLimit,
    carried: Carried,
}

/// A frame on its way to a peer, MAC addresses and TTL done.
struct Staged {
    frame: Frame,
    peer: u32,
    /// How it travels.
    tunnel: Tunnel,
    /// Chooses its outer source port.
    hash: u64,
    /// Its receiver.
    dst: u128,
    /// The switch made it itself: it is in `generated`, not in `received`.
    made: bool,
}

/// What a frame of a port is.
enum Seen {
    Route(Parsed),
    Arp,
    Nd(Parsed),
    Drop(DropReason),
}

/// What the headers of a packet say that may be routed.
struct Sight {
    /// Which packet of its batch it is.
    at: usize,
    p: Parsed,
    key: FlowKey,
    hash: u64,
    /// Where the connection table has it, where the worker does not remember it.
    near: Option<Near>,
}

/// A packet as the data path handles it: contiguous headers, and what they say.
struct Packet<'a> {
    p: &'a Parsed,
    vnet: VnetHdr,
    /// Length of the whole frame, Ethernet header included.
    len: usize,
    /// Packets of the wire it stands for.
    count: u64,
    hash: u64,
}

impl Packet<'_> {
    /// Largest IP packet it will be on a wire: a super-frame counts as one of its segments, with the headers it really
    /// has (`hdr_len` is only a claim of the sender's).
    fn ip_size(&self, head: &[u8]) -> usize {
        let whole = self.p.ip_len as usize;
        if !self.vnet.is_gso() {
            return whole;
        }
        let l4 = usize::from(self.p.l4);
        let header = match self.p.proto {
            6 => head.get(l4 + 12).map_or(60, |b| usize::from(b >> 4) * 4),
            _ => 8,
        };
        whole.min(l4 - usize::from(self.p.l3) + header + usize::from(self.vnet.gso_size))
    }
}

impl Datapath {
    /// A data path for the worker with this index. `seed` keys its hash; `counters` is its block, `pool` its frames.
    pub fn new(
        index: usize,
        options: DatapathOptions,
        seed: [u64; 2],
        counters: Arc<CachePadded<WorkerCounters>>,
        shared: Shared,
        pool: Pool,
    ) -> Datapath {
        let mut merge = Gro::new(MERGE);
        // A kernel peer on the same host leaves inner checksums open (only the pseudo-header's sum is there), and its
        // lone datagrams do not tell whether an outer checksum covered them. They are taken: the alternative is to
        // lose every connection's SYN, the risk is one corrupt packet in 65,536 whose checksum field happens to fit.
        merge.accept_open(true);
        merge.join(options.merge);
        Datapath {
            merge,
            answers: Vec::with_capacity(slices::ANSWERS),
            core: Core {
                index,
                counters,
                pool,
                flows: FlowCache::new(options.flows),
                conntrack: shared.conntrack,
                frags: FragTable::new(FRAGMENT_LANES.0, FRAGMENT_LANES.1),
                events: shared.events,
                boot: shared.boot,
                hash: HashKey::new(seed[0], seed[1]),
                split: Segmenter::new(),
                looked: Vec::with_capacity(encap::BURST),
                seen: Vec::with_capacity(encap::BURST),
                staged: Vec::with_capacity(encap::BURST * 2),
                trains: options.trains,
                slices: options.slices,
                train: seed[0] as u16,
                limit: IcmpLimit::default(),
                carried: Carried::default(),
            },
        }
    }

    /// The worker's frames.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.core.pool
    }

    /// Keeps what it has to remember of super-frames that come in slices in this memory too, and takes up what is there.
    pub fn keep_heads(&mut self, memory: &'static mut [u8]) {
        self.merge.keep_heads(memory);
    }

    /// The worker's flow cache, for those who show it.
    pub fn flows(&self) -> &FlowCache<Remembered> {
        &self.core.flows
    }

    /// Forgets every remembered decision: the next packet of each flow is decided anew.
    pub fn forget(&mut self) {
        self.core.flows.clear();
    }

    /// Datagrams whose fragments the worker follows.
    pub fn fragments(&self) -> usize {
        self.core.frags.len()
    }

    /// What it has read from ports so far.
    pub fn carried(&self) -> Carried {
        self.core.carried
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Arc<CachePadded<WorkerCounters>> {
        &self.core.counters
    }

    /// Takes every frame of `burst`, read from `port`, to its end. `now_ms` is the time of this turn.
    pub fn from_port(
        &mut self,
        snap: &Snapshot,
        port: &Port,
        burst: &mut Burst,
        up: &mut dyn UplinkTx,
        now_ms: u64,
    ) {
        let (mut looked, mut seen) =
            (std::mem::take(&mut self.core.looked), std::mem::take(&mut self.core.seen));
        for frame in burst.drain(..) {
            if let Some((frame, sight)) = self.core.look(port, frame, looked.len()) {
                looked.push(frame);
                seen.push(sight);
            }
        }
        self.core.fetch_ahead(&mut seen);
        for (frame, sight) in looked.drain(..).zip(seen.drain(..)) {
            self.core.port_packet(snap, port, frame, &sight, now_ms);
        }
        (self.core.looked, self.core.seen) = (looked, seen);
        self.core.flush(snap, up, now_ms);
    }
}

impl Core {
    fn stats<'a>(&self, port: &'a Port) -> &'a PortStats {
        &port.stats[self.index]
    }

    /// Takes a frame in. None = it was answered or dropped.
    #[inline]
    fn look(&mut self, port: &Port, mut frame: Frame, at: usize) -> Option<(Frame, Sight)> {
        let stats = self.stats(port);
        self.counters.received.incr();
        stats.rx_packets.incr();
        stats.rx_bytes.add(frame.len() as u64);
        let p = match examine(port, &mut frame) {
            Seen::Route(p) => p,
            other => {
                match other {
                    Seen::Nd(p) => self.nd(port, frame, &p),
                    Seen::Drop(reason) => self.drop_frame(port, frame, reason),
                    _ => self.arp(port, frame),
                }
                return None;
            }
        };
        self.carried.packets += 1;
        self.carried.acks += u64::from(is_bare_ack(&p));
        let sight = self.sight(Ingress::Port(port), p, at);
        Some((frame, sight))
    }

    /// What these headers say about the packet at this place of its batch.
    #[inline]
    fn sight(&self, from: Ingress<'_>, p: Parsed, at: usize) -> Sight {
        let key = pipeline::flow_key(from, &p);
        let hash = key.hash(&self.hash);
        Sight { at, p, key, hash, near: None }
    }

    fn port_packet(&mut self, snap: &Snapshot, port: &Port, mut frame: Frame, sight: &Sight, now_ms: u64) {
        let (len, vnet, p) = (frame.len(), frame.vnet, &sight.p);
        let action = self.decide(snap, Ingress::Port(port), sight, frame.data(), (len, 1), now_ms);
        let pkt = Packet { p, vnet, len, count: 1, hash: sight.hash };
        match action {
            Action::Port(id) => match snap.port(id) {
                Some(to) => match self.forwardable(&pkt, frame.data(), to.mtu) {
                    Ok(()) => {
                        rewrite(frame.data_mut(), to, p);
                        self.deliver(to, &pkt, frame.data(), &[], &[]);
                        self.pool.give(frame);
                    }
                    Err(reason) => self.refuse(port, frame, &pkt, reason, to.mtu, now_ms),
                },
                None => self.drop_frame(port, frame, DropReason::PortDown),
            },
            Action::Peer(i) => match snap.peers.get(i as usize).and_then(|p| Some((p, p.tunnel?))) {
                Some((peer, tunnel)) => match self.forwardable(&pkt, frame.data(), path_mtu(snap, peer, p)) {
                    Ok(()) => {
                        encap::rewrite::set_macs(frame.data_mut(), peer.vtep_mac, snap.node.vtep_mac);
                        encap::rewrite::dec_ttl(frame.data_mut(), p);
                        let hash = self.between(p);
                        self.stage(Staged { frame, peer: i, tunnel, hash, dst: p.dst, made: false });
                    }
                    Err(reason) => self.refuse(port, frame, &pkt, reason, peer.mtu, now_ms),
                },
                None => self.drop_frame(port, frame, DropReason::NoRoute),
            },
            Action::Gateway => self.gateway(port, frame, &pkt),
            Action::Drop(reason) => self.refuse(port, frame, &pkt, reason, 0, now_ms),
        }
    }

    /// A hash of the packet's two addresses, by which its outer source port is chosen: what two pods say to each other
    /// stays in order, and the small packets of all their flows may share trains. (RFC 7348 section 5 asks for entropy
    /// from the inner headers; a pod's packets are all sent by one worker, so that its flows gain nothing from ports of
    /// their own.)
    fn between(&self, p: &Parsed) -> u64 {
        FlowKey { src: p.src, dst: p.dst, ..FlowKey::default() }.hash(&self.hash)
    }

    /// What depends on the packet and not on its flow: TTL and size.
    fn forwardable(&self, pkt: &Packet<'_>, head: &[u8], mtu: u16) -> Result<(), DropReason> {
        if pkt.p.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        if pkt.ip_size(head) > usize::from(mtu) {
            return Err(DropReason::TooBig);
        }
        Ok(())
    }

    /// Drops a frame read from `port`, silently but for the counter.
    fn drop_frame(&mut self, port: &Port, frame: Frame, reason: DropReason) {
        self.counters.dropped(reason, 1);
        self.events.dropped(reason, || track::key_of(port, &frame));
        self.stats(port).rx_dropped.incr();
        self.pool.give(frame);
    }
}

/// The largest of these packets that is sent to a peer. One that may be fragmented is not held up by a narrow path: its
/// outer packet may be fragmented too.
fn path_mtu(snap: &Snapshot, peer: &Peer, p: &Parsed) -> u16 {
    if p.df { peer.mtu } else { snap.node.mtu }
}

/// What every frame of a port must satisfy, and who answers those that are not routed.
#[inline]
fn examine(port: &Port, frame: &mut Frame) -> Seen {
    let (len, vnet) = (frame.len(), frame.vnet);
    if vnet != VnetHdr::default() && vnet.check(len).is_err() {
        return Seen::Drop(DropReason::BadOffload);
    }
    let p = match encap::parse::parse(frame.data(), len, vnet.is_gso()) {
        Ok(p) => p,
        Err(e) => return Seen::Drop(pipeline::parse_drop(e)),
    };
    match pipeline::admit(port, &p) {
        Admit::Route => {}
        Admit::Arp => return Seen::Arp,
        Admit::Nd => return Seen::Nd(p),
        Admit::Drop(reason) => return Seen::Drop(reason),
    }
    // What follows the packet is padding: it is not sent on, and no checksum may claim to lie there.
    frame.truncate(usize::from(p.l3) + p.ip_len as usize);
    if vnet != VnetHdr::default() && (vnet.check(frame.len()).is_err() || vnet.agrees(&p).is_err()) {
        return Seen::Drop(DropReason::BadOffload);
    }
    if !vnet.needs_csum() && !vnet.is_gso() {
        // Nothing is left to do for it; what else its header says would only confuse the receiver.
        frame.vnet = VnetHdr::default();
    }
    Seen::Route(p)
}

/// Is this a TCP segment that acknowledges and nothing else? One with a few bytes of data that its sender does not push
/// is taken for one too, where its header is short.
fn is_bare_ack(p: &Parsed) -> bool {
    p.tcp_flags == encap::wire::tcp::ACK && p.ip_len as usize <= usize::from(p.l4 - p.l3) + TCP_HEADER_MAX
}

/// What a router changes before it hands a packet to `to`.
fn rewrite(head: &mut [u8], to: &Port, p: &Parsed) {
    encap::rewrite::set_macs(head, to.mac, GATEWAY_MAC);
    encap::rewrite::dec_ttl(head, p);
}

/// Is this the host's port?
fn is_host(port: &Port) -> bool {
    port.kind == PortKind::Host
}
