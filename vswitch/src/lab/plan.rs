//! The lab's address plan and the configuration file of each node.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

/// Which tunnel the nodes use between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN as flannel speaks it: UDP 8472, VNI 1.
    Vxlan,
    /// flannel's UDP backend: one bare IPv4 packet per datagram, port 8285.
    Udp,
    /// IP in IPv4, protocols 4 and 41.
    Ipip,
    /// No tunnel: plain routes between the nodes.
    Direct,
}

impl TunnelKind {
    /// The name as configuration and command line spell it.
    pub fn name(self) -> &'static str {
        match self {
            TunnelKind::Vxlan => "vxlan",
            TunnelKind::Udp => "udp",
            TunnelKind::Ipip => "ipip",
            TunnelKind::Direct => "direct",
        }
    }

    /// Whether pods of different nodes reach each other over IPv6. flannel's UDP backend carries IPv4 only.
    pub fn carries_v6(self) -> bool {
        self != TunnelKind::Udp
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The word is no tunnel's name.
#[derive(Debug, thiserror::Error)]
#[error("must be vxlan, udp, ipip or direct")]
pub struct UnknownTunnel;

impl FromStr for TunnelKind {
    type Err = UnknownTunnel;

    fn from_str(word: &str) -> Result<Self, UnknownTunnel> {
        [TunnelKind::Vxlan, TunnelKind::Udp, TunnelKind::Ipip, TunnelKind::Direct]
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or(UnknownTunnel)
    }
}

/// Node number `n` (from 1) of the plan: 192.168.77.n and fd77::n on the underlay, 10.244.n.0/24 and
/// fd00:10:244:n::/64 for its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The node's number, 1 to 200.
    pub n: u8,
}

impl NodePlan {
    /// All pods' addresses lie in here.
    pub const CLUSTER_V4: &'static str = "10.244.0.0/16";
    /// All pods' IPv6 addresses lie in here.
    pub const CLUSTER_V6: &'static str = "fd00:10:244::/48";

    /// Its address on the underlay (/24).
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, self.n)
    }

    /// Its IPv6 address on the underlay (/64).
    pub fn address6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.n))
    }

    /// Pod number `i` of its IPv4 subnet, counted from the subnet's own address.
    pub fn pod(self, i: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.n, i)
    }

    /// Pod number `i` of its IPv6 subnet.
    pub fn pod6(self, i: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(self.n), 0, 0, 0, u16::from(i))
    }

    /// Its IPv4 pod subnet.
    pub fn pod_cidr(self) -> String {
        format!("{}/24", self.pod(0))
    }

    /// Its IPv6 pod subnet.
    pub fn pod_cidr6(self) -> String {
        format!("{}/64", self.pod6(0))
    }

    /// The MAC of its VXLAN endpoint.
    pub fn vtep_mac(self) -> String {
        format!("0e:00:00:00:00:{:02x}", self.n)
    }

    /// The configuration file of this node, with every node of `peers` but itself as a peer, and policy from `manifests`.
    pub fn config(
        self,
        tunnel: TunnelKind,
        dir: &Path,
        uplink: &str,
        peers: &[NodePlan],
        manifests: Option<&Path>,
    ) -> String {
        let n = self.n;
        let mut toml = format!(
            "[node]\nname = \"n{n}\"\nuplink = \"{uplink}\"\naddress = \"{}\"\naddress6 = \"{}\"\n\
             state-dir = \"{dir}/n{n}/state\"\nrun-dir = \"{dir}/n{n}/run\"\n\n\
             [network]\ncluster-cidrs = [\"{}\", \"{}\"]\npod-cidrs = [\"{}\", \"{}\"]\nmasquerade = true\n\n\
             [tunnel]\ntype = \"{tunnel}\"\n",
            self.address(),
            self.address6(),
            Self::CLUSTER_V4,
            Self::CLUSTER_V6,
            self.pod_cidr(),
            self.pod_cidr6(),
            dir = dir.display(),
        );
        if tunnel == TunnelKind::Vxlan {
            let _ = writeln!(toml, "vtep-mac = \"{}\"", self.vtep_mac());
        }
        toml.push_str("\n[store]\ntype = \"static\"\n");
        if let Some(manifests) = manifests {
            let _ = writeln!(toml, "manifests = \"{}\"", manifests.display());
        }
        for peer in peers.iter().filter(|peer| peer.n != n) {
            let _ = write!(
                toml,
                "\n[[peer]]\nname = \"n{}\"\naddress = \"{}\"\naddress6 = \"{}\"\npod-cidrs = [\"{}\", \"{}\"]\n",
                peer.n,
                peer.address(),
                peer.address6(),
                peer.pod_cidr(),
                peer.pod_cidr6(),
            );
            if tunnel == TunnelKind::Vxlan {
                let _ = writeln!(toml, "vtep-mac = \"{}\"", peer.vtep_mac());
            }
        }
        toml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_accepts_the_configuration() {
        let nodes = [NodePlan { n: 1 }, NodePlan { n: 2 }, NodePlan { n: 3 }];
        for kind in [TunnelKind::Vxlan, TunnelKind::Udp, TunnelKind::Ipip, TunnelKind::Direct] {
            let text = nodes[1].config(kind, Path::new("/tmp/x"), "eth0", &nodes, Some(Path::new("/tmp/m")));
            let config = control::config::Config::load(&text, &control::config::Machine::unknown()).unwrap();
            assert_eq!(config.node.address, Some(nodes[1].address()));
            assert_eq!(config.tunnel.kind(), kind.name());
            assert_eq!(config.manifests(), Some(Path::new("/tmp/m")));
            let peers: Vec<_> = config.peers.iter().map(|peer| (peer.name.as_str(), peer.address)).collect();
            assert_eq!(peers, [("n1", Some(nodes[0].address())), ("n3", Some(nodes[2].address()))]);
        }
    }

    #[test]
    fn only_vxlan_has_endpoint_macs() {
        let nodes = [NodePlan { n: 1 }, NodePlan { n: 2 }];
        assert!(
            !nodes[0].config(TunnelKind::Udp, Path::new("/tmp"), "eth0", &nodes, None).contains("vtep-mac")
        );
        assert!(
            nodes[0].config(TunnelKind::Vxlan, Path::new("/tmp"), "eth0", &nodes, None).contains("vtep-mac")
        );
    }

    #[test]
    fn tunnel_names_read_back() {
        for kind in [TunnelKind::Vxlan, TunnelKind::Udp, TunnelKind::Ipip, TunnelKind::Direct] {
            assert_eq!(kind.name().parse::<TunnelKind>().unwrap(), kind);
        }
        assert!("gre".parse::<TunnelKind>().is_err());
    }
}
