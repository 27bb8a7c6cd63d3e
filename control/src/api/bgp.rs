//! What `vsctl bgp` asks and is told.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Most routes in one answer.
pub const MAX_BGP_ROUTES: usize = 10_000;

/// What is asked of the BGP speaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BgpQuery {
    /// The neighbours.
    #[default]
    Peers,
    /// Routes received, the best first, and why it is the best.
    Routes {
        /// Only prefixes inside this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<IpNet>,
    },
    /// Routes sent to a neighbour.
    Announced {
        /// Its address.
        peer: IpAddr,
    },
}

/// The speaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpReport {
    /// Our AS.
    pub asn: u32,
    /// Our identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster, where we reflect routes.
    #[serde(default)]
    pub cluster_id: Option<Ipv4Addr>,
    /// Neighbours, by address; asked for or not.
    #[serde(default)]
    pub peers: Vec<BgpPeerInfo>,
    /// Routes, by prefix, where they were asked for.
    #[serde(default)]
    pub routes: Vec<BgpRouteInfo>,
    /// Routes beyond [`MAX_BGP_ROUTES`].
    #[serde(default)]
    pub left_out: u64,
    /// Changes of learned routes that the host's kernel does not have yet.
    #[serde(default)]
    pub waiting: u64,
}

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeerInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// It came from a range.
    pub dynamic: bool,
    /// State of the session (RFC 4271 section 8.2.2).
    pub state: String,
    /// Seconds in this state.
    pub since_s: u64,
    /// Its identifier, once it is known.
    pub router_id: Option<Ipv4Addr>,
    /// Hold time agreed, seconds; 0 = none.
    pub hold_s: Option<u64>,
    /// Address families agreed.
    pub families: Vec<String>,
    /// IPv4 and IPv6 prefixes received, before import policy.
    pub received: [u32; 2],
    /// Of these, accepted.
    pub accepted: [u32; 2],
    /// Prefixes whose best path is its.
    #[serde(default)]
    pub chosen: [u32; 2],
    /// Prefixes sent to it.
    pub announced: [u32; 2],
    /// It restarts; its routes stay so many seconds.
    pub restarting_s: Option<u64>,
    /// It sent too many prefixes and is left alone for a while.
    pub held: bool,
    /// Why the last session ended.
    pub last_error: Option<String>,
    /// Seconds since then.
    pub last_error_s: Option<u64>,
    /// The last wrong attribute that did not end the session (RFC 7606).
    pub last_attribute_error: Option<String>,
    /// Times the session came up.
    pub established: u64,
    /// UPDATEs received and sent.
    pub updates: [u64; 2],
    /// Routes taken for withdrawn because of a wrong attribute.
    pub treated_as_withdrawn: u64,
    /// Connections refused.
    pub refused: u64,
}

/// A prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpRouteInfo {
    /// The prefix.
    pub net: IpNet,
    /// Ways to it, the best first.
    pub paths: Vec<BgpPathInfo>,
    /// What made the first one the best.
    pub why: Option<String>,
}

/// A way to a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpPathInfo {
    /// Who announced it; none = this node.
    pub peer: Option<IpAddr>,
    /// Where packets go; none = this node.
    pub next_hop: Option<IpAddr>,
    /// ASes it came through, the nearest first.
    pub as_path: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities, large ones too.
    pub communities: Vec<String>,
    /// The router that brought it into the AS, where a reflector says so.
    pub originator_id: Option<Ipv4Addr>,
    /// Reflectors it came through.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Packets use it.
    pub used: bool,
    /// From before its neighbour's restart.
    pub stale: bool,
    /// Why it takes no part.
    pub rejected: Option<String>,
}
