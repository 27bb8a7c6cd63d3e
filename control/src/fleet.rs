//! The cluster's nodes as a store tells of them: what the network is, which part of it is ours, who has the rest.
//!
//! Plain data, the same for every store. The static store reads it from the configuration once; a store that can change
//! tells a whole new [`Fleet`] each time something did, and the daemon finds out what is different. So whatever a store
//! missed meanwhile, the next telling puts right.

use ipnet::IpNet;

use crate::config::{Config, Peer, Tunnel};

/// Everything a store says about nodes and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Ranges of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// How this node's packets travel, unless a peer wants them otherwise ([`Peer::backend`]).
    pub tunnel: Tunnel,
    /// The other nodes, in order of their names. A node that has one tunnel end for each family is two peers.
    pub peers: Vec<Peer>,
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
    /// IP in IP (RFC 2003; protocol 4 over IPv4).
    Ipip,
    /// Routed as it is: flannel's `host-gw`.
    Direct,
}

impl Fleet {
    /// What the configuration file says: the static store.
    #[must_use]
    pub fn of(config: &Config) -> Fleet {
        Fleet {
            cluster_cidrs: config.network.cluster_cidrs.clone(),
            pod_cidrs: config.network.pod_cidrs.clone(),
            tunnel: config.tunnel.clone(),
            peers: config.peers.clone(),
        }
    }
}
