//! Nodes whose pod network is the kernel's: what flannel builds. The yardstick of the comparison and the far end of the
//! interoperation tests.

use std::net::IpAddr;

use super::cmd;
use super::error::LabError;
use super::netns::Netns;
use super::plan::NodePlan;

/// How kernel nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// flannel's vxlan backend: device `flannel.1`, VNI 1, UDP port 8472, no learning.
    Vxlan {
        /// Whether the outer UDP checksum is written (`udpcsum`); flannel of old leaves it zero.
        checksum: bool,
    },
    /// flannel's host-gw backend: plain routes.
    HostGw,
}

/// A node run by the kernel: `cni0` bridge, veth pods, and routes to its peers.
#[derive(Debug)]
pub struct KernelNode {
    plan: NodePlan,
    prefix: Box<str>,
    pods: u8,
}

/// A pod on a kernel node: a namespace with a veth `eth0`.
#[derive(Debug)]
pub struct KernelPod {
    /// Its namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
}

/// Overhead of VXLAN over an IPv4 underlay: outer Ethernet is not counted, inner is.
const VXLAN_OVERHEAD: u16 = 50;

impl KernelNode {
    /// Makes `node` such a node, with the given peers (its own entry among them is passed over).
    ///
    /// # Errors
    /// When a link, address or route cannot be made.
    pub fn new(
        node: &Netns,
        plan: NodePlan,
        wire: Wire,
        mtu: u16,
        peers: &[NodePlan],
    ) -> Result<KernelNode, LabError> {
        node.ip("link add cni0 type bridge")?;
        // Where br_netfilter is loaded, bridged frames would take a way through the firewall that ours do not take.
        for key in ["bridge.bridge-nf-call-iptables", "bridge.bridge-nf-call-ip6tables"] {
            let _ = node.sysctl(key, "0");
        }
        let mtu = if wire == Wire::HostGw { mtu } else { mtu - VXLAN_OVERHEAD };
        node.ip(&format!("link set cni0 mtu {mtu} up"))?;
        node.ip(&format!("addr add {}/24 dev cni0", plan.pod(1)))?;
        node.ip(&format!("addr add {}/64 dev cni0 nodad", plan.pod6(1)))?;
        let others = || peers.iter().filter(|peer| peer.n != plan.n);
        match wire {
            Wire::HostGw => {
                for peer in others() {
                    node.ip(&format!("route add {} via {} dev eth0", peer.pod_cidr(), peer.address()))?;
                    node.ip(&format!("-6 route add {} via {} dev eth0", peer.pod_cidr6(), peer.address6()))?;
                }
            }
            Wire::Vxlan { checksum } => {
                let csum = if checksum { "udpcsum" } else { "noudpcsum" };
                node.ip(&format!(
                    "link add flannel.1 mtu {mtu} address {} type vxlan id 1 dev eth0 local {} dstport 8472 \
                     nolearning {csum}",
                    plan.vtep_mac(),
                    plan.address()
                ))?;
                node.ip("link set flannel.1 up")?;
                node.ip(&format!("addr add {}/32 dev flannel.1", plan.pod(0)))?;
                node.ip(&format!("addr add {}/128 dev flannel.1 nodad", plan.pod6(0)))?;
                for peer in others() {
                    tunnel_to(node, *peer)?;
                }
            }
        }
        Ok(KernelNode { plan, prefix: node.name().into(), pods: 0 })
    }

    /// Attaches one more pod in the way the `bridge` plugin does.
    ///
    /// # Errors
    /// When a link, address or route cannot be made.
    pub fn pod(&mut self, node: &Netns) -> Result<KernelPod, LabError> {
        self.pods += 1;
        let (i, host) = (self.pods + 1, 1);
        let netns = Netns::new(&format!("{}p{}", self.prefix, self.pods))?;
        netns.without_dad()?;
        let (v4, v6) = (self.plan.pod(i), self.plan.pod6(i));
        cmd::run(&format!(
            "ip link add veth{i} netns {} type veth peer name eth0 netns {}",
            node.name(),
            netns.name()
        ))?;
        let mtu = link_mtu(node, "cni0")?;
        node.ip(&format!("link set veth{i} mtu {mtu} master cni0 up"))?;
        netns.ip(&format!("link set eth0 mtu {mtu} up"))?;
        netns.ip(&format!("addr add {v4}/24 dev eth0"))?;
        netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
        netns.ip(&format!("route add default via {}", self.plan.pod(host)))?;
        netns.ip(&format!("-6 route add default via {}", self.plan.pod6(host)))?;
        Ok(KernelPod { netns, v4: v4.into(), v6: v6.into() })
    }
}

/// What flannel installs for one peer, in its order: neighbour, forwarding entry, route. One device carries both
/// families here, as a userspace peer has one VTEP MAC.
fn tunnel_to(node: &Netns, peer: NodePlan) -> Result<(), LabError> {
    let mac = peer.vtep_mac();
    node.ip(&format!("neigh replace {} lladdr {mac} dev flannel.1 nud permanent", peer.pod(0)))?;
    node.ip(&format!("neigh replace {} lladdr {mac} dev flannel.1 nud permanent", peer.pod6(0)))?;
    node.run(&format!("bridge fdb replace {mac} dev flannel.1 dst {} self permanent", peer.address()))?;
    node.ip(&format!("route add {} via {} dev flannel.1 onlink", peer.pod_cidr(), peer.pod(0)))?;
    node.ip(&format!("-6 route add {} via {} dev flannel.1 onlink", peer.pod_cidr6(), peer.pod6(0)))?;
    Ok(())
}

fn link_mtu(node: &Netns, link: &str) -> Result<u16, LabError> {
    let text = node.ip(&format!("-o link show {link}"))?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()).unwrap_or(1500))
}

/// Makes `link` of `node` behave like a cloud NIC without tunnel offload: packets leave it segmented.
///
/// # Errors
/// When `ethtool` refuses.
pub fn offloads_off(node: &Netns, link: &str) -> Result<(), LabError> {
    node.run(&format!(
        "ethtool -K {link} tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off gro on"
    ))?;
    Ok(())
}
