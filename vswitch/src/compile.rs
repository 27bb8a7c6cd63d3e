//! From what is known about the node to the tables a packet meets: pure and infallible.
//!
//! The full compile is the only way tables come into being. 250 pods and as many peers take well under a millisecond;
//! with 100,000 routes it is tens of them, so what it was made from is remembered ([`Origin`]), and a change of policy
//! alone makes no routes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use encap::{Mac, Tunnel, from_ip};
use ipnet::IpNet;
use policy::Compiled;

use crate::fib::{Fib, NextHop};
use crate::group::Groups;
use crate::snapshot::{
    GATEWAY_V4, GATEWAY_V6, NO_VNI, Node, Peer, PeerStatsBlocks, Port, PortKind, Snapshot,
};

/// What is known about this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// Addresses of the whole cluster's pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Those of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's underlay addresses.
    pub addresses: Vec<IpAddr>,
    /// This node's own encapsulation; `None` = direct.
    pub tunnel: Option<Tunnel>,
    /// UDP ports of the tunnels in use, its own and its peers'.
    pub tunnel_ports: Vec<u16>,
    /// Our VTEP's MAC.
    pub vtep_mac: Mac,
    /// Largest packet of a pod, bytes.
    pub mtu: u16,
}

impl NodeFacts {
    /// The host's own address inside its pod range, by which it reaches pods of other nodes: the range's first.
    pub fn router(&self, v6: bool) -> Option<IpAddr> {
        self.pod_cidrs.iter().find(|n| matches!(n, IpNet::V6(_)) == v6).map(IpNet::network)
    }
}

/// What is known about another node.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// Name.
    pub name: Arc<str>,
    /// Underlay addresses it may send from; tunnels go to the first. Without any it is left out.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Its VTEP's MAC.
    pub vtep_mac: Mac,
    /// How packets for it travel; none = through the host's routes, without encapsulation.
    pub tunnel: Option<Tunnel>,
    /// UDP port of its tunnel endpoint; 0 for one without ports.
    pub port: u16,
    /// The VXLAN segment it sends in, where that is known.
    pub vni: Option<u32>,
    /// Largest inner packet that its path takes, bytes; at most the pods' MTU counts.
    pub path_mtu: u16,
    /// The uplink TAP may carry super-frames to it.
    pub whole: bool,
    /// Its counters.
    pub stats: PeerStatsBlocks,
}

/// What tables were made from.
pub struct Origin {
    node: NodeFacts,
    peers: Vec<Arc<PeerFacts>>,
    ports: Vec<Option<Arc<Port>>>,
}

impl Origin {
    /// Of the tables that [`compile`] makes from these.
    #[must_use]
    pub fn new(node: &NodeFacts, peers: &[Arc<PeerFacts>], ports: &[Option<Arc<Port>>]) -> Origin {
        Origin { node: node.clone(), peers: peers.to_vec(), ports: ports.to_vec() }
    }

    /// Would the same tables come of these? Peers and ports are compared by pointer.
    #[must_use]
    pub fn is(&self, node: &NodeFacts, peers: &[Arc<PeerFacts>], ports: &[Option<Arc<Port>>]) -> bool {
        let same_port = |(a, b): (&Option<Arc<Port>>, &Option<Arc<Port>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        self.node == *node
            && (self.peers.len(), self.ports.len()) == (peers.len(), ports.len())
            && self.peers.iter().zip(peers).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.ports.iter().zip(ports).all(same_port)
    }
}

/// The tables.
pub fn compile(node: &NodeFacts, peers: &[Arc<PeerFacts>], ports: &[Option<Arc<Port>>]) -> Snapshot {
    let mut routes: Vec<(IpNet, NextHop)> = vec![
        (default_of(false), NextHop::Host),
        (default_of(true), NextHop::Host),
        (host_route(GATEWAY_V4.into()), NextHop::Gateway),
        (host_route(GATEWAY_V6.into()), NextHop::Gateway),
    ];
    routes.extend(node.cluster_cidrs.iter().chain(&node.pod_cidrs).map(|n| (n.trunc(), NextHop::Blackhole)));
    let routers: Vec<IpAddr> = [node.router(false), node.router(true)].into_iter().flatten().collect();
    routes.extend(routers.iter().chain(&node.addresses).map(|a| (host_route(*a), NextHop::Host)));

    let own_vni = match node.tunnel {
        Some(Tunnel::Vxlan { vni }) => vni,
        _ => NO_VNI,
    };
    let mut peer_of = HashMap::with_capacity(peers.len());
    let mut table: Vec<Peer> = Vec::with_capacity(peers.len());
    let mut claims: Vec<(IpNet, u32)> = Vec::new();
    let reachable = peers.iter().filter_map(|p| Some((p, *p.addresses.first()?)));
    for (i, (p, addr)) in (0u32..).zip(reachable) {
        claims.extend(p.pod_cidrs.iter().map(|n| (n.trunc(), i)));
        // A node that is reached in several ways is several peers; what it sends is the first one's.
        for a in &p.addresses {
            peer_of.entry(from_ip(*a)).or_insert(i);
        }
        table.push(Peer {
            name: Arc::clone(&p.name),
            sender: peer_of.get(&from_ip(addr)).copied().unwrap_or(i),
            endpoint: SocketAddr::new(addr, p.port),
            tunnel: p.tunnel,
            vnis: [own_vni, p.vni.unwrap_or(NO_VNI)],
            vtep_mac: p.vtep_mac,
            mtu: node.mtu.min(p.path_mtu),
            whole: p.whole,
            stats: Arc::clone(&p.stats),
        });
    }
    let mut groups = Groups::default();
    routes.extend(to_peers(claims, &table, &mut groups));
    let mut host = None;
    for port in ports.iter().flatten() {
        match port.kind {
            PortKind::Host => host = Some(port.id),
            PortKind::Pod => {
                let own = [port.v4, port.v6].into_iter().flatten();
                routes.extend(own.map(|a| (host_route(encap::to_ip(a)), NextHop::Port(port.id))));
            }
        }
    }
    let addrs = routers.iter().chain(&node.addresses).map(|a| from_ip(*a)).collect();
    Snapshot {
        epoch: 0,
        fib: Fib::build(&routes),
        ports: ports.to_vec(),
        host,
        peers: table,
        groups,
        peer_of,
        node: Node {
            addrs,
            router4: node.router(false).map(from_ip),
            router6: node.router(true).map(from_ip),
            underlay: node.addresses.iter().map(|a| from_ip(*a)).collect(),
            tunnel: node.tunnel,
            tunnel_ports: node.tunnel_ports.clone(),
            vtep_mac: node.vtep_mac,
            mtu: node.mtu,
        },
        policy: Arc::new(Compiled::empty()),
        guards: Vec::new(),
    }
}

/// Routes to the peers' ranges. A range that several have is reached by a group of those whose tunnel carries its family.
fn to_peers(mut claims: Vec<(IpNet, u32)>, table: &[Peer], groups: &mut Groups) -> Vec<(IpNet, NextHop)> {
    claims.sort_unstable();
    claims.dedup();
    let carries = |(net, i): &&(IpNet, u32)| {
        let tunnel = table.get(*i as usize).and_then(|peer| peer.tunnel);
        matches!(net, IpNet::V4(_)) || tunnel.is_none_or(|tunnel| tunnel.carries_v6())
    };
    let of = |same: &[(IpNet, u32)], groups: &mut Groups| {
        let able: Vec<u32> = same.iter().filter(carries).map(|(_, i)| *i).collect();
        match (&*able, same) {
            ([one], _) | ([], [(_, one), ..]) => NextHop::Peer(*one),
            _ => {
                let addr = |i: &u32| Some((*i, from_ip(table.get(*i as usize)?.endpoint.ip())));
                NextHop::Group(groups.add(able.iter().filter_map(addr)))
            }
        }
    };
    let ranges = claims.chunk_by(|a, b| a.0 == b.0);
    ranges.filter_map(|same| Some((same.first()?.0, of(same, groups)))).collect()
}

fn default_of(v6: bool) -> IpNet {
    if v6 { IpNet::V6(ipnet::Ipv6Net::default()) } else { IpNet::V4(ipnet::Ipv4Net::default()) }
}

fn host_route(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::port_stats;
    use crate::port::Offloads;
    use crate::port::mem::pair;

    fn facts(mtu: u16) -> NodeFacts {
        NodeFacts {
            cluster_cidrs: Vec::new(),
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            tunnel: None,
            tunnel_ports: Vec::new(),
            vtep_mac: Mac::default(),
            mtu,
        }
    }

    fn port() -> Option<Arc<Port>> {
        let (_, tx, _) = pair(Offloads::default(), 1);
        Some(Arc::new(Port {
            id: 1,
            name: "x/a".to_owned(),
            kind: PortKind::Pod,
            mac: Mac::default(),
            v4: None,
            v6: None,
            mtu: 1450,
            tx: Arc::new(tx),
            stats: port_stats(1),
        }))
    }

    #[test]
    fn the_same_tables_come_of_the_same_facts_and_ports_only() {
        let ports = [None, port()];
        let origin = Origin::new(&facts(1450), &[], &ports);
        assert!(origin.is(&facts(1450), &[], &ports));
        assert!(!origin.is(&facts(1400), &[], &ports));
        assert!(!origin.is(&facts(1450), &[], &[None, port()]), "another port, though it looks the same");
        assert!(!origin.is(&facts(1450), &[], &[None, None]));
        assert!(!origin.is(&facts(1450), &[], &ports[..1]));
    }
}
