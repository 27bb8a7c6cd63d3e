//! Counters: one writer each, in the worker's own padded block; readers add them up when asked.
//!
//! Every packet that enters the data path leaves it as exactly one of: delivered (to a pod, to the host, into the
//! tunnel), answered by the gateway, or dropped for one named reason. `received = delivered + answered + Σ drops` is
//! asserted in tests and shown by `vsctl drops`. Packets the switch makes itself (replies, ICMP errors) are counted
//! apart, as `generated`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

/// A monotonic count with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls this, so a plain load and store are enough.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one; see [`Counter::add`].
    #[inline]
    pub fn incr(&self) {
        self.add(1);
    }

    /// The count so far; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $help:literal;)*) => {
        /// Why a packet was not delivered. The names are stable: tools and dashboards may rely on them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* #[doc = $help] $name,)* }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The stable name, as shown by `vsctl drops`.
            pub fn code(self) -> &'static str {
                match self { $(DropReason::$name => $code,)* }
            }

            /// One sentence for the operator.
            pub fn help(self) -> &'static str {
                match self { $(DropReason::$name => $help,)* }
            }
        }
    };
}

drop_reasons! {
    Truncated = "truncated", "The frame ends before its headers do.";
    BadIpHeader = "bad-ip-header", "IP version or header length is wrong.";
    BadLength = "bad-length", "A length field disagrees with the frame.";
    BadExtension = "bad-extension", "An IPv6 extension header chain that is not carried (routing type 0, jumbo, too long).";
    SourceRoute = "source-route", "IPv4 source routing option.";
    BadL4Header = "bad-l4-header", "TCP or UDP header with an impossible length.";
    TinyFragment = "tiny-fragment", "A first fragment without the whole transport header (RFC 1858).";
    BadChecksum = "bad-checksum", "A checksum is wrong.";
    BadOffload = "bad-offload", "The virtio-net header tells something impossible about the frame.";
    Vlan = "vlan", "A VLAN tag from a pod; pods have none.";
    LinkControl = "link-control", "A link-layer control frame (STP, LLDP, LACP, EAPOL).";
    UnknownEtherType = "unknown-ethertype", "Neither IPv4, IPv6 nor ARP.";
    NotForGateway = "not-for-gateway", "The destination MAC is not the gateway's; pods share no broadcast domain.";
    Multicast = "multicast", "Multicast or broadcast, which is not carried.";
    SpoofedMac = "spoofed-mac", "The source MAC is not the port's.";
    SpoofedAddress = "spoofed-address", "The source address is not the port's.";
    Martian = "martian", "A source or destination address that must not be on a wire.";
    NoIpv6 = "no-ipv6", "IPv6 from a pod that has no IPv6 address.";
    NoIpv4 = "no-ipv4", "IPv4 from a pod that has no IPv4 address.";
    ArpIgnored = "arp-ignored", "An ARP packet that is not a request for the gateway.";
    NdIgnored = "nd-ignored", "A neighbour discovery message other than a solicitation of the gateway.";
    RouterDiscovery = "router-discovery", "Router advertisement, solicitation or redirect from a pod.";
    PodTunnel = "pod-tunnel", "Tunnel traffic made by a pod and addressed to a node.";
    PolicyEgress = "policy-egress", "Policy does not let the sender send it.";
    PolicyIngress = "policy-ingress", "Policy does not let the receiver get it.";
    PolicyRevoked = "policy-revoked", "It belongs to a flow that policy allowed once and allows no longer.";
    OutOfState = "out-of-state", "It neither belongs to a flow nor may open one, under policy.";
    FlowQuota = "flow-quota", "Its sender has too many unanswered or too many flows, under policy.";
    FlowTableFull = "flow-table-full", "The connection table has no room for its flow, under policy.";
    IcmpUnrelated = "icmp-unrelated", "An ICMP error that quotes no live flow of its receiver, or an MTU no path has.";
    FragmentOverlap = "fragment-overlap", "Fragments of its datagram overlap or contradict each other (RFC 5722).";
    FragmentUnmatched = "fragment-unmatched", "A fragment whose first fragment did not come before it, under policy.";
    FragmentLimit = "fragment-limit", "Too many senders of fragments at the same time, under policy.";
    TtlExceeded = "ttl-exceeded", "TTL or hop limit ran out.";
    NoRoute = "no-route", "No route, or an address of the cluster that nobody has.";
    TooBig = "too-big", "Larger than the next link takes.";
    GatewayRefused = "gateway-refused", "Addressed to the gateway itself, which answers pings only.";
    UnknownPeer = "unknown-peer", "Tunnel traffic whose outer source is not a peer.";
    BadTunnelHeader = "bad-tunnel-header", "The tunnel header is malformed or has bits we did not ask for.";
    Headless = "headless", "A slice of a super-frame whose first slice did not come.";
    Congestion = "congestion", "The network marked congestion on a tunnel packet whose inner packet cannot carry the mark (RFC 6040).";
    WrongVni = "wrong-vni", "VXLAN network identifier other than ours.";
    ForeignMac = "foreign-mac", "Inner destination MAC is not our VTEP's.";
    PeerSpoof = "peer-spoof", "Inner source address does not belong to the peer that sent it.";
    TunnelLoop = "tunnel-loop", "Came from a peer and would leave into a tunnel again.";
    NotLocal = "not-local", "Came from a peer and is for nobody on this node.";
    HostLoop = "host-loop", "Came from the host and would go back to it.";
    PortDown = "port-down", "The receiving interface is gone or down.";
    PortFull = "port-full", "The receiving interface took no more.";
    PortRejected = "port-rejected", "The kernel refused the frame at the receiving interface.";
    UplinkFull = "uplink-full", "The uplink socket took no more.";
    UplinkError = "uplink-error", "The kernel refused the datagram at the uplink.";
}

/// How many drop reasons there are.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// What one worker counts. Units are packets as the wire would have them where several arrive merged by the
/// uplink socket, else frames as read from a port (a super-frame is one).
#[derive(Debug)]
pub struct WorkerCounters {
    /// Packets taken in from ports and uplinks.
    pub received: Counter,
    /// Packets written to a pod's interface.
    pub to_pods: Counter,
    /// Packets written to the host's interface.
    pub to_host: Counter,
    /// Packets sent to peers.
    pub to_peers: Counter,
    /// Packets for the switch itself: ARP, neighbour solicitation, ping, and what peers ask and answer.
    pub answered: Counter,
    /// Packets the switch made: replies and ICMP errors.
    pub generated: Counter,
    /// ICMP errors not sent because of the rate limit.
    pub errors_limited: Counter,
    /// Drops by reason.
    pub drops: [Counter; DROP_REASONS],
    /// Flow cache hits.
    pub flow_hits: Counter,
    /// Flow cache misses (a decision was made).
    pub flow_misses: Counter,
    /// Turns of the worker's loop.
    pub turns: Counter,
    /// Times the worker woke from sleep.
    pub wakeups: Counter,
    /// Nanoseconds it looked for more before it slept, or did not need to.
    pub polled_ns: Counter,
    /// Nanoseconds of a processor it used, without those; brought up to date while there is anything to do.
    pub used_ns: Counter,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters {
            received: Counter::default(),
            to_pods: Counter::default(),
            to_host: Counter::default(),
            to_peers: Counter::default(),
            answered: Counter::default(),
            generated: Counter::default(),
            errors_limited: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            flow_hits: Counter::default(),
            flow_misses: Counter::default(),
            turns: Counter::default(),
            wakeups: Counter::default(),
            polled_ns: Counter::default(),
            used_ns: Counter::default(),
        }
    }
}

impl WorkerCounters {
    /// Counts `n` packets dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].add(n);
    }
}

/// A sum over workers, as plain numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// See [`WorkerCounters::received`].
    pub received: u64,
    /// See [`WorkerCounters::to_pods`].
    pub to_pods: u64,
    /// See [`WorkerCounters::to_host`].
    pub to_host: u64,
    /// See [`WorkerCounters::to_peers`].
    pub to_peers: u64,
    /// See [`WorkerCounters::answered`].
    pub answered: u64,
    /// See [`WorkerCounters::generated`].
    pub generated: u64,
    /// See [`WorkerCounters::flow_hits`].
    pub flow_hits: u64,
    /// See [`WorkerCounters::flow_misses`].
    pub flow_misses: u64,
    /// See [`WorkerCounters::wakeups`].
    pub wakeups: u64,
    /// See [`WorkerCounters::polled_ns`].
    pub polled_ns: u64,
    /// Drops by reason, those that happened.
    pub drops: Vec<(DropReason, u64)>,
}

impl Totals {
    /// Adds up the blocks of all workers.
    pub fn of<'a>(blocks: impl IntoIterator<Item = &'a WorkerCounters>) -> Totals {
        let mut t = Totals::default();
        let mut drops = [0u64; DROP_REASONS];
        for b in blocks {
            t.received += b.received.get();
            t.to_pods += b.to_pods.get();
            t.to_host += b.to_host.get();
            t.to_peers += b.to_peers.get();
            t.answered += b.answered.get();
            t.generated += b.generated.get();
            t.flow_hits += b.flow_hits.get();
            t.flow_misses += b.flow_misses.get();
            t.wakeups += b.wakeups.get();
            t.polled_ns += b.polled_ns.get();
            for (sum, c) in drops.iter_mut().zip(&b.drops) {
                *sum += c.get();
            }
        }
        t.drops = DropReason::ALL.iter().copied().zip(drops).filter(|(_, n)| *n > 0).collect();
        t
    }

    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, n)| n).sum()
    }

    /// Packets that left in some way; equals `received` when nothing is in flight.
    pub fn accounted(&self) -> u64 {
        self.to_pods + self.to_host + self.to_peers + self.answered + self.dropped()
    }
}

/// What one worker counts about one port.
#[derive(Debug, Default)]
pub struct PortStats {
    /// Frames read from the port (only by the worker that reads it).
    pub rx_packets: Counter,
    /// Bytes of those, Ethernet header included.
    pub rx_bytes: Counter,
    /// Frames of this port that were dropped.
    pub rx_dropped: Counter,
    /// Frames written to the port by this worker.
    pub tx_packets: Counter,
    /// Bytes of those.
    pub tx_bytes: Counter,
    /// Frames the port did not take.
    pub tx_dropped: Counter,
}

/// A port's statistics: one padded block for each worker; they live on when the tables change.
pub type PortStatsBlocks = Arc<[CachePadded<PortStats>]>;

/// Makes the blocks for `workers` workers.
pub fn port_stats(workers: usize) -> PortStatsBlocks {
    (0..workers).map(|_| CachePadded::new(PortStats::default())).collect()
}

/// What a worker has read from its ports in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that may be routed.
    pub packets: u64,
    /// TCP segments among them that only acknowledge.
    pub acks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_kebab() {
        let mut seen = std::collections::BTreeSet::new();
        for r in DropReason::ALL {
            assert!(seen.insert(r.code()), "{} twice", r.code());
            assert!(r.code().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert_eq!(DropReason::ALL[*r as usize], *r);
        }
    }

    #[test]
    fn the_manual_has_every_reason_in_its_words_and_no_other() {
        let manual = include_str!("../../docs/drops.md");
        for r in DropReason::ALL {
            let row = format!("| `{}` | {} | ", r.code(), r.help());
            assert_eq!(
                manual.matches(&row).count(),
                1,
                "docs/drops.md must have one row that starts {row:?}"
            );
        }
        assert_eq!(manual.lines().filter(|line| line.starts_with("| `")).count(), DROP_REASONS);
    }

    #[test]
    fn totals_add_up() {
        let (a, b) = (WorkerCounters::default(), WorkerCounters::default());
        a.received.add(5);
        b.received.add(2);
        a.to_pods.add(4);
        b.dropped(DropReason::NoRoute, 2);
        a.dropped(DropReason::NoRoute, 1);
        let t = Totals::of([&a, &b]);
        assert_eq!((t.received, t.accounted(), t.dropped()), (7, 7, 3));
        assert_eq!(t.drops, vec![(DropReason::NoRoute, 3)]);
    }
}
