//! wireguard-go between the nodes: a tunnel in userspace that also encrypts.
//!
//! Each node has the pods of the kernel's network on a bridge, and a `wg0` of its own wireguard-go behind it. What a peer
//! may send is its pods' subnet.

use std::path::Path;

use anyhow::{Context, Result};
use vswitch::lab::{Bed, KernelNode, KernelPod, Netns, NodePlan, Shape, Wire, run_args};

use super::process::{Process, answers};
use super::{Network, Pair};

/// What `wg-quick` takes on an underlay of 1500 bytes: 80 bytes cover IPv6, UDP, WireGuard's header and its tag.
const MTU: u16 = 1420;
/// The UDP port; any would do, this is the usual one.
const PORT: &str = "51820";

/// Bridge and veth pods routed into wireguard-go; fields drop in order: pods, tunnels, then what they hang on.
#[derive(Debug)]
pub struct WireGuard {
    pods: Vec<KernelPod>,
    tunnels: [Tunnel; 2],
    bed: Bed,
}

impl WireGuard {
    /// Two nodes; returns when the pods answer each other.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn nodes() -> Result<WireGuard> {
        let bed = Bed::build(Shape::default())?;
        let plans = [bed.plan(0), bed.plan(1)];
        let start = |i: usize| Tunnel::start(&bed.nodes[i], plans[i], bed.dir());
        let tunnels = [start(0)?, start(1)?];
        let keys = [tunnels[0].public_key()?, tunnels[1].public_key()?];
        let mut pods = Vec::new();
        let node = |i: usize| KernelNode::new(&bed.nodes[i], plans[i], Wire::HostGw, MTU, &[]);
        let (mut near, mut far) = (node(0)?, node(1)?);
        for _ in 0..2 {
            pods.push(near.pod(&bed.nodes[0])?);
            pods.push(far.pod(&bed.nodes[1])?);
        }
        tunnels[0].peer(&bed.nodes[0], &keys[1], plans[1])?;
        tunnels[1].peer(&bed.nodes[1], &keys[0], plans[0])?;
        let network = WireGuard { pods, tunnels, bed };
        answers(&network, &network.tunnels.each_ref().map(|tunnel| &tunnel.process))?;
        Ok(network)
    }

    /// The nodes.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }
}

impl Network for WireGuard {
    fn two(&self, from: usize) -> Pair<'_> {
        Pair::of(&self.pods, from)
    }

    fn underlay(&self) -> Option<&Netns> {
        super::one_of_many(&self.bed)
    }
}

/// A node's wireguard-go; `wg0` goes with it.
#[derive(Debug)]
struct Tunnel {
    process: Process,
}

impl Tunnel {
    /// Starts it with a fresh key.
    fn start(node: &Netns, plan: NodePlan, dir: &Path) -> Result<Tunnel> {
        // Its control socket is /run/wireguard/wg0.sock, whatever the network namespace. With a /run of its own, nodes
        // do not meet there, and nothing stays on this machine.
        let line = "mount -t tmpfs tmpfs /run && exec wireguard-go --foreground wg0";
        let log = dir.join(format!("wireguard{}.log", plan.n));
        let mut process =
            Process::start(node, "wireguard-go", &["unshare", "--mount", "sh", "-c", line], &[], log)?;
        let run = format!("/proc/{}/root/run", process.pid());
        process.wait_for(&Path::new(&run).join("wireguard/wg0.sock"))?;
        let key = format!("{run}/key");
        std::fs::write(&key, run_args(&["wg", "genkey"])?).context(key)?;
        let tunnel = Tunnel { process };
        tunnel.wg(&["set", "wg0", "listen-port", PORT, "private-key", "/run/key"])?;
        node.ip(&format!("addr add {}/32 dev wg0", plan.pod(0)))?;
        node.ip(&format!("link set wg0 mtu {MTU} up"))?;
        Ok(tunnel)
    }

    fn public_key(&self) -> Result<String> {
        Ok(self.wg(&["show", "wg0", "public-key"])?.trim().to_owned())
    }

    /// Tells it the other node, and the node's kernel that its pods are found through the tunnel.
    fn peer(&self, node: &Netns, key: &str, peer: NodePlan) -> Result<()> {
        let (pods, endpoint) = (peer.pod_cidr(), format!("{}:{PORT}", peer.address()));
        self.wg(&["set", "wg0", "peer", key, "allowed-ips", &pods, "endpoint", &endpoint])?;
        node.ip(&format!("route add {pods} dev wg0"))?;
        Ok(())
    }

    /// Runs `wg` where the daemon's socket is seen.
    fn wg(&self, words: &[&str]) -> Result<String> {
        let target = format!("--target={}", self.process.pid());
        let all = [&["nsenter", &target, "--mount", "--net", "wg"], words].concat();
        run_args(&all).with_context(|| self.process.last_words())
    }
}
