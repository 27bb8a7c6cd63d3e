//! The cluster's nodes as a store tells of them: what the network is, which part of it is ours, who has the rest.
//!
//! Plain data, the same for every store. The static store reads it from the configuration once; a store that can change
//! tells a whole new [`Fleet`] each time something did, and the daemon finds out what is different. So whatever a store
//! missed meanwhile, the next telling puts right.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, Node, Peer, Tunnel};

/// Everything a store says about nodes and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Ranges of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Parts of `cluster_cidrs` for which something else holds: address pools.
    pub pools: Vec<Pool>,
    /// How this node's packets travel, unless a peer wants them otherwise ([`Peer::backend`]).
    pub tunnel: Tunnel,
    /// The other nodes, in order of their names. A node that has one tunnel end for each family is two peers. Of two
    /// tellings those that did not change are shared.
    pub peers: Vec<Arc<Peer>>,
}

/// An address pool, as far as it says how its pods' packets are treated. A pool inside another range counts for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its addresses.
    pub cidr: IpNet,
    /// What packets for it may arrive in, on whichever node; none = as the peers have it.
    pub backend: Option<Backend>,
    /// What its pods send to addresses outside the cluster leaves under the node's own address.
    pub masquerade: bool,
    /// BGP announces it.
    pub announce: bool,
}

/// How packets for one peer travel, as the peer itself publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// VXLAN in this segment, to [`Peer::vtep_mac`].
    Vxlan {
        /// Segment, 1 to 2^24 - 1.
        vni: u32,
    },
    /// The bare IP packet in UDP, as flannel's `udp`.
    Udp,
    /// IP in IPv4 (RFC 2003; IPv6 packets as RFC 4213 has it).
    Ipip,
    /// Routed as it is: flannel's `host-gw`.
    Direct,
}

impl Backend {
    /// As the file and reports write it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Backend::Vxlan { .. } => "vxlan",
            Backend::Udp => "udp",
            Backend::Ipip => "ipip",
            Backend::Direct => "direct",
        }
    }

    /// Bytes that it adds to an IP packet, outer IP header included.
    #[must_use]
    pub fn overhead(self, v6_outer: bool) -> u32 {
        let ip = if v6_outer { 40 } else { 20 };
        match self {
            // UDP 8, VXLAN 8, inner Ethernet 14.
            Backend::Vxlan { .. } => ip + 30,
            Backend::Udp => ip + 8,
            // There is no form of it over IPv6.
            Backend::Ipip => 20,
            Backend::Direct => 0,
        }
    }
}

impl Fleet {
    /// What the configuration file says: the static store.
    #[must_use]
    pub fn of(config: &Config) -> Fleet {
        let mut peers: Vec<_> = config.peers.iter().cloned().map(Arc::new).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Fleet {
            cluster_cidrs: config.network.cluster_cidrs.clone(),
            pod_cidrs: config.network.pod_cidrs.clone(),
            pools: Vec::new(),
            tunnel: config.tunnel.clone(),
            peers,
        }
    }

    /// Shares the peers that are the same in another telling.
    pub fn share(&mut self, other: &Fleet) {
        let mut others = other.peers.iter().peekable();
        for peer in &mut self.peers {
            while others.next_if(|other| other.name < peer.name).is_some() {}
            if let Some(other) = others.next_if(|other| *other == peer) {
                *peer = Arc::clone(other);
            }
        }
    }

    /// How packets for a peer travel where they are encapsulated: as it says itself, else as this node's do.
    #[must_use]
    pub fn backend(&self, peer: &Peer) -> Backend {
        peer.backend.unwrap_or_else(|| self.tunnel.backend())
    }

    /// Where this node sends what is for a peer's pods; none where the two have no family in common that the peer's
    /// form can use.
    #[must_use]
    pub fn reach(&self, node: &Node, peer: &Peer) -> Option<IpAddr> {
        match self.backend(peer) {
            Backend::Ipip => node.address.and(peer.address).map(IpAddr::V4),
            _ => node.reach(peer),
        }
    }

    /// Some peer is reached over IPv6, or this node has no IPv4 address.
    #[must_use]
    pub fn outer_v6(&self, node: &Node) -> bool {
        let over_v6 = |p: &Arc<Peer>| self.reach(node, p).is_some_and(|a| a.is_ipv6());
        node.address.is_none() || self.peers.iter().any(over_v6)
    }

    /// Is it on this node's subnet, and reached without encapsulation for that?
    #[must_use]
    pub fn is_near(&self, node: &Node, peer: &Peer) -> bool {
        let direct = peer.cross_subnet.unwrap_or_else(|| self.tunnel.cross_subnet());
        direct && self.reach(node, peer).is_some_and(|addr| node.is_near(addr))
    }

    /// Every form in use: this node's own, and those that peers and pools ask for; sorted.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let mut all: Vec<Backend> = self.peers.iter().filter_map(|p| p.backend).collect();
        all.extend(self.pools.iter().filter_map(|pool| pool.backend));
        all.push(self.tunnel.backend());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Bytes that leave pods less than the uplink's MTU: those of the longest outer headers in use, so that a pod's
    /// packets fit to every peer.
    #[must_use]
    pub fn overhead(&self, node: &Node) -> u32 {
        let v6 = self.outer_v6(node);
        self.backends().iter().map(|b| b.overhead(v6)).max().unwrap_or(0)
    }

    /// MTU of pods in bytes, for this MTU of the uplink.
    #[must_use]
    pub fn pod_mtu(&self, config: &Config, uplink_mtu: u32) -> u32 {
        config.network.mtu.unwrap_or_else(|| uplink_mtu.saturating_sub(self.overhead(&config.node)))
    }

    /// The least MTU that pods may have: 1280 where they have IPv6 addresses (RFC 8200, section 5), else 576.
    #[must_use]
    pub fn least_mtu(&self) -> u32 {
        if self.pod_cidrs.iter().any(|net| matches!(net, IpNet::V6(_))) { 1280 } else { 576 }
    }
}
