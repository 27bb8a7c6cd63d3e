//! The node's configuration: what a person may write ([`ConfigFile`]), what is true from then on ([`Config`]).
//!
//! Pure: the caller reads the file's text and the machine's facts ([`Machine`]); nothing here does I/O. Conversion
//! happens once, collects every error instead of the first, and each error names key and value.
//!
//! ```text
//! text --parse--> ConfigFile --check(+ Machine)--> Config --to_toml--> text with every default
//! ```

mod bgp;
mod check;
mod error;
mod fast;
mod file;
mod ipam;
mod machine;
pub(crate) mod nets;
mod peers;
mod render;
mod store;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::fleet::{Backend, Fleet};
use crate::mac::Mac;

pub use bgp::{Bgp, BgpPeer, BgpRule, Neighbour, Password, PrefixRange, RouteChange, RouteTag};
pub use error::{ConfigError, ConfigErrors, LoadError, Problem};
pub use fast::FastPath;
pub use file::{
    BgpPeerSection, BgpRuleSection, BgpSection, ConfigFile, IpamSection, MetricsSection, NetworkSection,
    NodeSection, PeerSection, StoreSection, TunnelSection,
};
pub use ipam::Ipam;
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
    /// `[ipam]`
    pub ipam: Ipam,
    /// `[bgp]`; none = we speak with no router.
    pub bgp: Option<Bgp>,
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
    /// Peers are asked by ICMP echo for round trip, loss and path MTU.
    pub probe_peers: bool,
    /// Offloads (virtio header, TSO, checksum) on pods' TAPs. False = plain TAPs.
    pub offload: bool,
    /// Fast paths that are not taken.
    pub without: BTreeSet<FastPath>,
}

impl Node {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(crate::api::SOCKET_NAME)
    }

    /// The address under which we reach a peer: IPv4 where both have one.
    pub fn reach(&self, peer: &Peer) -> Option<IpAddr> {
        match (self.address, peer.address) {
            (Some(_), Some(v4)) => Some(v4.into()),
            _ => self.address6.and(peer.address6).map(IpAddr::V6),
        }
    }

    /// Is this address on a subnet of our own?
    pub fn is_near(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.subnet.is_some_and(|n| n.contains(&a)),
            IpAddr::V6(a) => self.subnet6.is_some_and(|n| n.contains(&a)),
        }
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
    /// IP in IPv4 (RFC 2003; IPv6 packets as RFC 4213 has it).
    Ipip {
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
            Tunnel::Ipip { .. } => "ipip",
            Tunnel::Direct => "direct",
        }
    }

    /// Only peers off our subnet are reached through the tunnel.
    pub fn cross_subnet(&self) -> bool {
        match *self {
            Tunnel::Vxlan { cross_subnet, .. }
            | Tunnel::Udp { cross_subnet, .. }
            | Tunnel::Ipip { cross_subnet } => cross_subnet,
            Tunnel::Direct => false,
        }
    }

    /// The same as a peer would publish it.
    pub fn backend(&self) -> Backend {
        match *self {
            Tunnel::Vxlan { vni, .. } => Backend::Vxlan { vni },
            Tunnel::Udp { .. } => Backend::Udp,
            Tunnel::Ipip { .. } => Backend::Ipip,
            Tunnel::Direct => Backend::Direct,
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
    /// Without encapsulation where it is on our own subnet; none = as this node's tunnel has it.
    pub cross_subnet: Option<bool>,
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

    /// MTU of pods in bytes, for this MTU of the uplink and the peers of the file.
    pub fn pod_mtu(&self, uplink_mtu: u32) -> u32 {
        Fleet::of(self).pod_mtu(self, uplink_mtu)
    }

    /// The least MTU that pods may have: see [`Fleet::least_mtu`].
    pub fn least_mtu(&self) -> u32 {
        Fleet::of(self).least_mtu()
    }

    /// Bytes that leave pods less than the uplink's MTU: see [`Fleet::overhead`].
    pub fn overhead(&self) -> u32 {
        Fleet::of(self).overhead(&self.node)
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
