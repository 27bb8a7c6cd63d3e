//! The decision about a packet: from parsed headers to an [`Action`], by the tables of one snapshot.
//!
//! Pure: no I/O, no clock, no state. What is decided here depends only on the flow key and the snapshot, so the
//! result may be cached for the epoch; what must be looked at in every packet (MAC addresses, TTL, size) is checked by
//! [`admit`] and by the data path. `vsctl trace` calls the same functions with an [`Explain`] that writes down each
//! step, so an explanation cannot differ from what happens.

#[cfg(test)]
mod tests;

use encap::{Frag, ParseError, Parsed, mapped};
use policy::FlowKey;

use crate::counters::DropReason;
use crate::fib::NextHop;
use crate::snapshot::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, Port, PortKind, Snapshot};

/// IP protocol numbers the decision looks at (IANA).
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 4213).
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// EtherTypes (IANA).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write it to this port.
    Port(u32),
    /// Send it to this peer through the tunnel.
    Peer(u32),
    /// It is for the gateway itself.
    Gateway,
    /// Drop it.
    Drop(DropReason),
}

/// Where a packet came from.
#[derive(Clone, Copy)]
pub enum Ingress<'a> {
    /// A port of this node.
    Port(&'a Port),
    /// The peer with this index.
    Peer(u32),
}

pub use policy::PEER_BIT;

impl Ingress<'_> {
    /// The number that stands for this ingress in a flow key.
    #[inline]
    pub fn id(&self) -> u32 {
        match self {
            Ingress::Port(p) => p.id,
            Ingress::Peer(i) => PEER_BIT | i,
        }
    }
}

/// The key of a packet's flow. A first fragment is not of the flow of whole packets: it has their ports, but must go
/// where the rest of it goes, which has none.
pub fn flow_key(from: Ingress<'_>, p: &Parsed) -> FlowKey {
    FlowKey {
        src: p.src,
        dst: p.dst,
        sport: p.sport,
        dport: p.dport,
        proto: p.proto,
        frag: match p.frag {
            Frag::None => 0,
            Frag::Later => 1,
            Frag::First => 2,
        },
        ingress: from.id(),
    }
}

/// The next hop of a flow: of several equally good ones, its own. A group without members stays one.
#[inline]
pub fn next_hop(snap: &Snapshot, flow: &FlowKey) -> Option<NextHop> {
    match snap.fib.lookup(flow.dst) {
        Some(NextHop::Group(g)) => Some(snap.groups.pick(g, flow).map_or(NextHop::Group(g), NextHop::Peer)),
        hop => hop,
    }
}

/// Takes the steps of a decision, for people. The data path uses [`Silent`], which compiles to nothing.
pub trait Explain {
    /// One step; `text` is evaluated only when somebody listens.
    fn step(&mut self, stage: &'static str, text: impl FnOnce() -> String);
}

/// Listens to nothing.
pub struct Silent;

impl Explain for Silent {
    #[inline(always)]
    fn step(&mut self, _: &'static str, _: impl FnOnce() -> String) {}
}

/// The reason that goes with a parse error.
pub fn parse_drop(e: ParseError) -> DropReason {
    match e {
        ParseError::Truncated => DropReason::Truncated,
        ParseError::BadVersion | ParseError::BadIhl => DropReason::BadIpHeader,
        ParseError::BadLength => DropReason::BadLength,
        ParseError::BadExtension => DropReason::BadExtension,
        ParseError::SourceRoute => DropReason::SourceRoute,
        ParseError::BadUdpLength | ParseError::BadTcpOffset => DropReason::BadL4Header,
        ParseError::TinyFragment => DropReason::TinyFragment,
        ParseError::BadChecksum => DropReason::BadChecksum,
        ParseError::L2Control => DropReason::LinkControl,
    }
}

/// What [`admit`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// An IP packet to be routed.
    Route,
    /// An ARP packet.
    Arp,
    /// A neighbour or router discovery message.
    Nd,
    /// Not admitted.
    Drop(DropReason),
}

/// The checks of the link layer that every frame from a port passes, before any table is asked.
#[inline]
pub fn admit(port: &Port, p: &Parsed) -> Admit {
    if p.vlan {
        return Admit::Drop(DropReason::Vlan);
    }
    if port.kind == PortKind::Pod && p.src_mac != port.mac {
        return Admit::Drop(DropReason::SpoofedMac);
    }
    let discovery = p.proto == proto::ICMPV6 && p.frag == Frag::None && (133..=137).contains(&(p.sport >> 8));
    match p.ethertype {
        ethertype::IPV4 | ethertype::IPV6 if p.dst_mac == GATEWAY_MAC && !discovery => Admit::Route,
        ethertype::IPV6 if discovery => Admit::Nd,
        ethertype::ARP => Admit::Arp,
        _ if is_link_control(p) => Admit::Drop(DropReason::LinkControl),
        ethertype::IPV4 | ethertype::IPV6 if p.dst_mac.is_multicast() => Admit::Drop(DropReason::Multicast),
        ethertype::IPV4 | ethertype::IPV6 => Admit::Drop(DropReason::NotForGateway),
        _ => Admit::Drop(DropReason::UnknownEtherType),
    }
}

/// 01:80:c2:00:00:xx (bridge group addresses), or a length field instead of an EtherType (LLC: spanning tree).
fn is_link_control(p: &Parsed) -> bool {
    p.dst_mac.0[..5] == [0x01, 0x80, 0xc2, 0, 0] || p.ethertype < 0x600
}

/// Decides what happens to an IP packet.
pub fn resolve<X: Explain>(snap: &Snapshot, from: Ingress<'_>, p: &Parsed, x: &mut X) -> Action {
    if let Err(reason) = source(snap, from, p, x) {
        return Action::Drop(reason);
    }
    if let Err(reason) = destination(snap, from, p) {
        x.step("destination", || format!("refused: {}", reason.help()));
        return Action::Drop(reason);
    }
    route(snap, from, p, x)
}

/// May this source address come from there?
fn source<X: Explain>(snap: &Snapshot, from: Ingress<'_>, p: &Parsed, x: &mut X) -> Result<(), DropReason> {
    let verdict = match from {
        Ingress::Port(port) if port.kind == PortKind::Pod => pod_source(port, p),
        Ingress::Port(_) => match snap.fib.lookup(p.src) {
            Some(NextHop::Port(_) | NextHop::Gateway) => Err(DropReason::SpoofedAddress),
            _ if is_martian_source(p.src) => Err(DropReason::Martian),
            _ => Ok(()),
        },
        Ingress::Peer(i) => match snap.fib.lookup(p.src) {
            Some(NextHop::Peer(owner)) if is_from(snap, owner, i) => Ok(()),
            Some(NextHop::Group(g)) if snap.groups.members(g).any(|member| is_from(snap, member, i)) => {
                Ok(())
            }
            _ => Err(DropReason::PeerSpoof),
        },
    };
    x.step("source", || {
        let src = encap::to_ip(p.src);
        match verdict {
            Ok(()) => format!("{src} may come from here"),
            Err(r) => format!("{src} refused: {}", r.help()),
        }
    });
    verdict
}

/// Is peer `owner` the node that `from` is?
fn is_from(snap: &Snapshot, owner: u32, from: u32) -> bool {
    owner == from || snap.peers.get(owner as usize).is_some_and(|peer| peer.sender == from)
}

fn pod_source(port: &Port, p: &Parsed) -> Result<(), DropReason> {
    let own = if p.v6 { port.v6 } else { port.v4 };
    match own {
        Some(addr) if addr == p.src => Ok(()),
        None if p.v6 => Err(DropReason::NoIpv6),
        None => Err(DropReason::NoIpv4),
        // A link-local source is the pod's own affair as long as it talks to the gateway only.
        Some(_) if p.v6 && is_link_local(p.src) && p.dst == u128::from(GATEWAY_V6) => Ok(()),
        Some(_) if is_martian_source(p.src) => Err(DropReason::Martian),
        Some(_) => Err(DropReason::SpoofedAddress),
    }
}

/// Is this a destination that may be routed at all?
fn destination(snap: &Snapshot, from: Ingress<'_>, p: &Parsed) -> Result<(), DropReason> {
    if is_multicast(p.dst) {
        return Err(DropReason::Multicast);
    }
    if p.src == p.dst || is_martian_destination(p.dst) {
        return Err(DropReason::Martian);
    }
    let redirect = match p.proto {
        proto::ICMP if !p.v6 => p.sport >> 8 == 5,
        proto::ICMPV6 => (133..=137).contains(&(p.sport >> 8)),
        _ => false,
    };
    if redirect && p.frag != Frag::Later {
        return Err(DropReason::RouterDiscovery);
    }
    // What a pod sends to a node's tunnel port would leave with the node's own address after masquerade and be taken
    // for the node's own tunnel traffic by the peer.
    let pod = matches!(from, Ingress::Port(port) if port.kind == PortKind::Pod);
    let tunnel = matches!(p.proto, proto::IPIP | proto::IPV6 | proto::GRE)
        || (p.proto == proto::UDP && p.frag != Frag::Later && snap.node.tunnel_ports.contains(&p.dport));
    if pod && tunnel && (snap.node.underlay.contains(&p.dst) || snap.peer_of.contains_key(&p.dst)) {
        return Err(DropReason::PodTunnel);
    }
    Ok(())
}

/// Where it goes.
fn route<X: Explain>(snap: &Snapshot, from: Ingress<'_>, p: &Parsed, x: &mut X) -> Action {
    let hop = next_hop(snap, &flow_key(from, p));
    let action = match (hop, from) {
        (Some(NextHop::Port(id)), _) => Action::Port(id),
        (Some(NextHop::Gateway), Ingress::Port(_)) => Action::Gateway,
        (Some(NextHop::Gateway), Ingress::Peer(_)) => Action::Drop(DropReason::NotLocal),
        (Some(NextHop::Peer(_)), Ingress::Peer(_)) => Action::Drop(DropReason::TunnelLoop),
        (Some(NextHop::Peer(i)), Ingress::Port(port)) => match snap.peers.get(i as usize) {
            Some(peer) => match peer.tunnel {
                None => to_host(snap, port.kind),
                Some(tunnel) if !p.v6 || tunnel.carries_v6() => Action::Peer(i),
                Some(_) => Action::Drop(DropReason::NoRoute),
            },
            None => Action::Drop(DropReason::NoRoute),
        },
        (Some(NextHop::Host), Ingress::Port(port)) => to_host(snap, port.kind),
        (Some(NextHop::Host), Ingress::Peer(_)) if snap.node.addrs.contains(&p.dst) => {
            snap.host.map_or(Action::Drop(DropReason::NoRoute), Action::Port)
        }
        (Some(NextHop::Host), Ingress::Peer(_)) => Action::Drop(DropReason::NotLocal),
        (None | Some(NextHop::Blackhole | NextHop::Group(_)), Ingress::Port(_)) => {
            Action::Drop(DropReason::NoRoute)
        }
        (None | Some(NextHop::Blackhole | NextHop::Group(_)), Ingress::Peer(_)) => {
            Action::Drop(DropReason::NotLocal)
        }
    };
    x.step("route", || describe(snap, p, hop, action));
    action
}

fn to_host(snap: &Snapshot, from: PortKind) -> Action {
    match (from, snap.host) {
        (PortKind::Host, _) => Action::Drop(DropReason::HostLoop),
        (PortKind::Pod, Some(id)) => Action::Port(id),
        (PortKind::Pod, None) => Action::Drop(DropReason::NoRoute),
    }
}

fn describe(snap: &Snapshot, p: &Parsed, hop: Option<NextHop>, action: Action) -> String {
    let dst = encap::to_ip(p.dst);
    let to = match action {
        Action::Port(id) => match snap.port(id) {
            Some(port) if port.kind == PortKind::Host => format!("the host through {}", port.name),
            Some(port) => format!("pod {} on this node (mtu {})", port.name, port.mtu),
            None => format!("port {id}, which is gone"),
        },
        Action::Peer(i) => match snap.peers.get(i as usize) {
            Some(peer) => format!("node {} at {} (mtu {})", peer.name, peer.endpoint, peer.mtu),
            None => format!("peer {i}, which is gone"),
        },
        Action::Gateway => "the gateway itself".to_owned(),
        Action::Drop(r) => return format!("{dst} is not delivered: {}", r.help()),
    };
    let name = |i: u32| snap.peers.get(i as usize).map_or("?", |p| &*p.name);
    let equal: Vec<&str> = match snap.fib.lookup(p.dst) {
        Some(NextHop::Group(g)) => snap.groups.members(g).map(name).collect(),
        _ => Vec::new(),
    };
    match (hop, equal.is_empty()) {
        (Some(NextHop::Peer(_)), false) if matches!(action, Action::Port(_)) => {
            let all = equal.join(", ");
            format!(
                "{dst} is behind nodes {all}, equally good; of those without encapsulation {to} chooses one"
            )
        }
        (Some(NextHop::Peer(_)), false) => {
            format!("{dst} is behind nodes {}, equally good; this flow goes to {to}", equal.join(", "))
        }
        (Some(NextHop::Peer(i)), true) if matches!(action, Action::Port(_)) => {
            format!("{dst} belongs to node {}, reached without encapsulation by {to}", name(i))
        }
        _ => format!("{dst} goes to {to}"),
    }
}

const fn v4(addr: u128) -> Option<u32> {
    if addr >> 32 == 0xffff { Some(addr as u32) } else { None }
}

/// Loopback, unspecified, multicast, limited broadcast (RFC 1122 3.2.1.3, RFC 4291 2.5).
fn is_martian_source(addr: u128) -> bool {
    match v4(addr) {
        Some(a) => a >> 24 == 0 || a >> 24 == 127 || a >> 28 >= 14,
        None => addr <= 1 || addr >> 120 == 0xff,
    }
}

fn is_martian_destination(addr: u128) -> bool {
    match v4(addr) {
        Some(a) => a >> 24 == 0 || a >> 24 == 127 || a >> 28 == 15,
        None => addr <= 1,
    }
}

fn is_multicast(addr: u128) -> bool {
    match v4(addr) {
        Some(a) => a >> 28 == 14 || a == u32::MAX,
        None => addr >> 120 == 0xff,
    }
}

fn is_link_local(addr: u128) -> bool {
    addr >> 118 == 0xfe80 >> 6
}

/// The gateway's addresses as the tables hold them.
pub fn gateway_addrs() -> [u128; 2] {
    [mapped(GATEWAY_V4), u128::from(GATEWAY_V6)]
}
