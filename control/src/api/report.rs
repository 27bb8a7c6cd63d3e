//! What the daemon tells: the reply values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The interface that ADD made, for the CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachResult {
    /// The pod's interface.
    pub interface: Interface,
    /// Its addresses, /32 and /128.
    pub ips: Vec<Ip>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// MTU of the interface, in bytes.
    pub mtu: u32,
}

/// An interface of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name inside the sandbox.
    pub name: String,
    /// MAC.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Path of the network namespace.
    pub sandbox: String,
}

/// An address of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Address, /32 or /128.
    pub address: IpNet,
    /// Gateway.
    pub gateway: IpAddr,
}

/// A route of a CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Gateway; none for an on-link route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// The node at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// Everything is as it should be: no entry in `problems`.
    pub ok: bool,
    /// What is not, one line each.
    pub problems: Vec<String>,
    /// Name of the node.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since the switch process started.
    pub uptime_s: u64,
    /// How often the keeper had to start the switch anew.
    pub restarts: u64,
    /// Number of the tables in force.
    pub epoch: u64,
    /// Worker threads.
    pub workers: u32,
    /// Uplink interface.
    pub uplink: String,
    /// The node's IPv4 address on it.
    pub address: Option<Ipv4Addr>,
    /// The node's IPv6 address on it.
    pub address6: Option<Ipv6Addr>,
    /// Tunnel type, for example `vxlan`.
    pub tunnel: String,
    /// MTU of pods, in bytes.
    pub mtu: u32,
    /// The node's own pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses in use.
    pub addresses_used: u64,
    /// Addresses there are (saturating for large IPv6 ranges).
    pub addresses_total: u64,
    /// Attached pods.
    pub ports: u32,
    /// Other nodes.
    pub peers: u32,
    /// By the largest packet that their ways take, in bytes: the names of those.
    pub peer_mtus: BTreeMap<u16, Vec<String>>,
    /// Cached flows.
    pub flows: u64,
    /// Frames received from pods, host and peers.
    pub received: u64,
    /// Frames delivered.
    pub delivered: u64,
    /// Frames dropped, all reasons.
    pub dropped: u64,
    /// Policies in force, staged ones included.
    pub policies: u64,
    /// Objects of the store that are not in force as they are written, one line each. The node is ready all the same.
    pub policy_problems: Vec<String>,
    /// Connections tracked.
    pub connections: u64,
    /// The store that nodes and objects come from, where it is none of files.
    pub store: Option<StoreInfo>,
    /// What is wrong in it, by key. It is ignored, and the node is ready all the same.
    pub store_problems: Vec<String>,
}

/// A store, and how this node gets on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreInfo {
    /// `etcd`.
    pub kind: String,
    /// Changes are heard of.
    pub connected: bool,
    /// While they are not: seconds since all was known; none = never.
    pub age_s: Option<u64>,
    /// The member in use, or tried last.
    pub endpoint: String,
    /// Its revision.
    pub revision: i64,
    /// The node's lease.
    pub lease: Option<String>,
    /// Seconds until it ends, unless it is renewed; none = never.
    pub lease_ends_s: Option<u64>,
    /// Why it is not reached.
    pub error: Option<String>,
}

/// What came of a request to the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReply {
    /// Of a write.
    pub revision: i64,
    /// Of a removal: it was there.
    pub existed: bool,
    /// The manifests asked for.
    pub objects: Vec<serde_json::Value>,
}

/// An attached pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortInfo {
    /// Index of the port in the tables.
    pub index: u32,
    /// Pod, `namespace/name`.
    pub pod: String,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// MAC.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Path of the network namespace.
    pub netns: String,
    /// The worker that reads it, from 0.
    pub worker: u32,
    /// Frames the pod sent.
    pub tx_packets: u64,
    /// Bytes the pod sent.
    pub tx_bytes: u64,
    /// Frames delivered to the pod.
    pub rx_packets: u64,
    /// Bytes delivered to the pod.
    pub rx_bytes: u64,
    /// Frames from or to the pod that were dropped.
    pub dropped: u64,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// A pod of this node.
    Pod,
    /// Another node.
    Peer,
    /// The host's stack.
    Host,
    /// The switch itself.
    Gateway,
    /// Nowhere: refused with an ICMP error.
    Blackhole,
}

/// A route of the forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteInfo {
    /// Destination.
    pub dst: IpNet,
    /// What it leads to.
    pub kind: RouteKind,
    /// Name of the pod or peer, of peers that are equally good all, else empty.
    #[serde(default)]
    pub via: String,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerInfo {
    /// Name.
    pub name: String,
    /// Address packets are sent to.
    pub address: Option<IpAddr>,
    /// Its pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// How packets travel to it, for example `vxlan` or `direct`.
    pub via: String,
    /// MAC of its tunnel end (VXLAN).
    pub vtep_mac: Option<String>,
    /// Packets sent to it.
    pub tx_packets: u64,
    /// Bytes sent to it, inner.
    pub tx_bytes: u64,
    /// TCP super-frames among them that left in slices, with their headers once.
    pub tx_slices: u64,
    /// Packets received from it.
    pub rx_packets: u64,
    /// Bytes received from it, inner.
    pub rx_bytes: u64,
    /// Milliseconds since the last packet from it; none = never.
    pub last_heard_ms: Option<u64>,
    /// Largest packet of a pod toward it, bytes.
    pub mtu: u32,
    /// Round trip of an echo between the nodes, microseconds, smoothed; none = it never answered, or is not asked.
    pub rtt_us: Option<u64>,
    /// Of the last 64 echoes or fewer, so many were lost.
    pub echoes_lost: u32,
    /// So many.
    pub echoes: u32,
}

/// One drop reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DropInfo {
    /// Stable name of the reason.
    pub reason: String,
    /// Frames dropped for it since the switch started.
    pub count: u64,
    /// What it means and what to look at.
    pub help: String,
}

/// A cached flow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowInfo {
    /// Worker that caches it.
    pub worker: u32,
    /// Where it comes in: a pod, a peer or `host`.
    pub ingress: String,
    /// Source address.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// IP protocol number.
    pub proto: u8,
    /// Source port, or ICMP type and code.
    pub sport: u16,
    /// Destination port, or ICMP echo id.
    pub dport: u16,
    /// What is done with it, in words.
    pub action: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// The rule of the sender's egress policy that decided, if one did on this node.
    pub egress: Option<String>,
    /// The rule of the receiver's ingress policy, likewise.
    pub ingress_rule: Option<String>,
}

/// What policy applies on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyReport {
    /// Policies known, staged ones included.
    pub policies: u64,
    /// Pods and host endpoints known, those of other nodes included.
    pub endpoints: u64,
    /// What is not in force as it is written, one line each.
    pub problems: Vec<String>,
    /// Rules in order of evaluation, by pod and direction.
    pub rules: Vec<PolicyRule>,
}

/// One rule as it applies to one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyRule {
    /// The pod (`namespace/name`) or host endpoint.
    pub pod: String,
    /// `ingress` or `egress`, as the pod sees it.
    pub direction: String,
    /// Its tier.
    pub tier: String,
    /// Its policy, kind and name; none for the end of a tier.
    pub policy: Option<String>,
    /// Its index in the policy's list, from 0; none for the end of a tier.
    pub rule: Option<u32>,
    /// The rule in words.
    pub text: String,
    /// It is not enforced, only counted.
    pub staged: bool,
    /// Flows it decided.
    pub hits: u64,
}

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A packet was dropped.
    #[default]
    Drop,
    /// A flow matched a Log rule.
    Log,
}

/// Something that happened to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventInfo {
    /// Numbers grow by one.
    pub number: u64,
    /// Milliseconds since 1970, when the control thread took it over (at most half a second late).
    pub time_ms: u64,
    /// What kind.
    pub kind: EventKind,
    /// Drops: the reason's stable name; logs: `allowed` or `denied`.
    pub reason: String,
    /// Where it came in (drops), or whose policy it is (logs).
    pub at: String,
    /// Source address; none when the packet could not be parsed.
    pub src: Option<IpAddr>,
    /// Destination address, likewise.
    pub dst: Option<IpAddr>,
    /// The pod with the source address, if it is known.
    pub src_pod: Option<String>,
    /// The pod with the destination address, if it is known.
    pub dst_pod: Option<String>,
    /// IP protocol number.
    pub proto: u8,
    /// Source port, or ICMP type and code.
    pub sport: u16,
    /// Destination port, or ICMP echo id.
    pub dport: u16,
    /// The policy and rule that decided.
    pub policy: Option<String>,
}

/// Events from a number on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventReport {
    /// The number to ask for next.
    pub next: u64,
    /// Events that were lost since the switch started, because too much happened at once.
    pub lost: u64,
    /// The events.
    pub events: Vec<EventInfo>,
}

/// What would happen to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceReport {
    /// The packet's way, in order.
    pub steps: Vec<TraceStep>,
    /// It would be delivered (or handed to the host or a peer).
    pub delivered: bool,
    /// The outcome in one line.
    pub verdict: String,
}

/// A step of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceStep {
    /// Stage of the pipeline, for example `spoof`, `policy`, `route`.
    pub stage: String,
    /// What was found there.
    pub text: String,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigReport {
    /// As TOML, every default written out.
    pub toml: String,
}
