//! The node's configuration: what a person may write ([`ConfigFile`]), what is true from then on ([`Config`]).
//!
//! Pure: the caller reads the file's text and the machine's facts ([`Machine`]); nothing here does I/O. Conversion
//! happens once, collects every error instead of the first, and each error names key and value.
//!
//! ```text
//! text --parse--> ConfigFile --check(+ Machine)--> Config --to_toml--> text with every default
//! ```

mod check;
mod error;
mod file;
mod machine;
pub(crate) mod nets;
mod peers;
mod render;
mod store;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::fleet::Backend;
use crate::mac::Mac;

pub use error::{ConfigError, ConfigErrors, LoadError, Problem};
pub use file::{
    BgpPeerSection, BgpSection, ConfigFile, MetricsSection, NetworkSection, NodeSection, PeerSection,
    StoreSection, TunnelSection,
};
pub use machine::{Link, Machine};
pub use store::{EtcdSettings, Store};

/// Where `vswitchd` looks when it is not told.
pub const DEFAULT_PATH: &str = "/etc/vswitch/vswitch.toml";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[network]`; without ranges where the store has them.
    pub network: Network,
    /// `[tunnel]`; where the store has it, only the MAC counts.
    pub tunnel: Tunnel,
    /// `[store]`
    pub store: Store,
    /// `[[peer]]`, in the order of the file.
    pub peers: Vec<Peer>,
    /// `[metrics] listen`; none = no listener.
    pub metrics: Option<SocketAddr>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name: a DNS label or several joined by dots, lower case.
    pub name: String,
    /// Interface towards the other nodes.
    pub uplink: String,
    /// Our IPv4 address; at least one of the two is there.
    pub address: Option<Ipv4Addr>,
    /// Our IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// The subnet that `address` is on, where the machine has it; `cross-subnet` compares with it.
    pub subnet: Option<Ipv4Net>,
    /// The subnet that `address6` is on.
    pub subnet6: Option<Ipv6Net>,
    /// Where state lives that must survive a restart; absolute.
    pub state_dir: PathBuf,
    /// Where the control socket lives; absolute.
    pub run_dir: PathBuf,
    /// Worker threads, 1 to 64; the default is resolved.
    pub workers: usize,
    /// Offloads (virtio header, TSO, checksum) on pods' TAPs. False = plain TAPs.
    pub offload: bool,
}

impl Node {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(crate::api::SOCKET_NAME)
    }
}

/// Addresses and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Ranges of all pods of the cluster; disjoint. Empty with a store that has them.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of this node's pods; disjoint, each inside a cluster range, each with room for a pod.
    pub pod_cidrs: Vec<IpNet>,
    /// MTU of pods in bytes; none = follows the uplink, see [`Config::pod_mtu`].
    pub mtu: Option<u32>,
    /// What leaves the cluster ranges gets the node's address.
    pub masquerade: bool,
}

/// How packets travel between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// Segment, 1 to 2^24 - 1.
        vni: u32,
        /// UDP port, not 0.
        port: u16,
        /// MAC of our end; none = made once and kept ([`crate::attachments::StateDir::vtep_mac`]).
        vtep_mac: Option<Mac>,
        /// Only peers off our subnet are reached through the tunnel.
        cross_subnet: bool,
    },
    /// The bare IP packet in UDP, as flannel's `udp`.
    Udp {
        /// UDP port, not 0.
        port: u16,
        /// Only peers off our subnet are reached through the tunnel.
        cross_subnet: bool,
    },
    /// None: the underlay routes pod addresses.
    Direct,
}

impl Tunnel {
    /// As the file and reports write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Tunnel::Vxlan { .. } => "vxlan",
            Tunnel::Udp { .. } => "udp",
            Tunnel::Direct => "direct",
        }
    }

    /// Bytes that the tunnel adds to an IP packet, outer IP header included.
    pub fn overhead(&self, v6_outer: bool) -> u32 {
        let ip = if v6_outer { 40 } else { 20 };
        match self {
            // UDP 8, VXLAN 8, inner Ethernet 14.
            Tunnel::Vxlan { .. } => ip + 30,
            Tunnel::Udp { .. } => ip + 8,
            Tunnel::Direct => 0,
        }
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, as ours.
    pub name: String,
    /// Its IPv4 address; at least one of the two is of a family we have.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Its pod ranges; each inside a cluster range, none overlapping ours or another peer's.
    pub pod_cidrs: Vec<IpNet>,
    /// MAC of its tunnel end; always there for VXLAN.
    pub vtep_mac: Option<Mac>,
    /// How packets for it travel, where it says so itself; none = as this node's do ([`Config::tunnel`]).
    pub backend: Option<Backend>,
}

impl Config {
    /// Parses and checks a file's text.
    ///
    /// # Errors
    /// [`LoadError::Syntax`] with line and column, or [`LoadError::Invalid`] with every error found.
    pub fn load(text: &str, machine: &Machine) -> Result<Config, LoadError> {
        let file = ConfigFile::parse(text)?;
        Ok(Config::check(&file, machine)?)
    }

    /// Checks what a person wrote, and fills in what was left out.
    ///
    /// # Errors
    /// Every error found, not only the first.
    pub fn check(file: &ConfigFile, machine: &Machine) -> Result<Config, ConfigErrors> {
        check::check(file, machine)
    }

    /// The address under which we reach a peer: IPv4 where both have one.
    pub fn reach(&self, peer: &Peer) -> Option<IpAddr> {
        match (self.node.address, peer.address) {
            (Some(_), Some(v4)) => Some(v4.into()),
            _ => self.node.address6.and(peer.address6).map(IpAddr::V6),
        }
    }

    /// Some peer is reached over IPv6, or we have no IPv4 address.
    pub fn outer_v6(&self) -> bool {
        self.node.address.is_none() || self.peers.iter().any(|p| self.reach(p).is_some_and(|a| a.is_ipv6()))
    }

    /// MTU of pods in bytes, for this MTU of the uplink.
    pub fn pod_mtu(&self, uplink_mtu: u32) -> u32 {
        self.network.mtu.unwrap_or_else(|| uplink_mtu.saturating_sub(self.tunnel.overhead(self.outer_v6())))
    }

    /// The least MTU that pods may have: 1280 where they have IPv6 addresses (RFC 8200, section 5), else 576.
    pub fn least_mtu(&self) -> u32 {
        if self.network.pod_cidrs.iter().any(|net| matches!(net, IpNet::V6(_))) { 1280 } else { 576 }
    }

    /// The configuration as a file, every default written out.
    pub fn to_toml(&self) -> String {
        render::render(self)
    }

    /// The watched directory of objects, if there is one.
    pub fn manifests(&self) -> Option<&Path> {
        match &self.store {
            Store::Static { manifests } => manifests.as_deref(),
            Store::Etcd(_) => None,
        }
    }

    /// Directory of the attachments' files, for messages.
    pub fn state_dir(&self) -> &Path {
        &self.node.state_dir
    }
}

#[cfg(test)]
mod tests;
