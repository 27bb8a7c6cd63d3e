//! The bed: node namespaces joined by an underlay, out of plain kernel parts. No daemon yet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::cmd;
use super::error::LabError;
use super::netns::Netns;
use super::plan::NodePlan;

/// What underlay to build.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many nodes, 1 to 200.
    pub nodes: usize,
    /// One more namespace on the underlay, at 192.168.77.254 and fd77::fe, that has no route to any pod.
    pub outside: bool,
    /// The underlay's MTU in bytes.
    pub mtu: u16,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { nodes: 2, outside: false, mtu: 1500 }
    }
}

/// Node namespaces and what joins them. Two nodes alone share one veth pair; more, or an outside, meet in a bridge in
/// a namespace of its own. Every node's end is its `eth0`.
#[derive(Debug)]
pub struct Bed {
    /// The nodes, number 1 first.
    pub nodes: Vec<Netns>,
    /// The namespace without a route to pods, when asked for.
    pub outside: Option<Netns>,
    wire: Option<Netns>,
    prefix: Box<str>,
    dir: PathBuf,
    keep: bool,
}

static RUN: AtomicU32 = AtomicU32::new(0);

impl Bed {
    /// Where the outside namespace is found over IPv4.
    pub const OUTSIDE: &'static str = "192.168.77.254";
    /// Where the outside namespace is found over IPv6.
    pub const OUTSIDE6: &'static str = "fd77::fe";

    /// Builds it. On failure everything made so far is taken down again.
    ///
    /// # Errors
    /// When a namespace or a link cannot be made, or the shape asks for more than the address plan holds.
    pub fn build(shape: Shape) -> Result<Bed, LabError> {
        if !(1..=200).contains(&shape.nodes) {
            return Err(LabError::Range { option: "nodes", value: shape.nodes, min: 1, max: 200 });
        }
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("vsl{}-{run}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        let mut bed =
            Bed { nodes: Vec::new(), outside: None, wire: None, prefix: prefix.into(), dir, keep: false };
        for plan in plans(shape.nodes) {
            let node = Netns::new(&bed.name(&format!("n{}", plan.n)))?;
            node.without_dad()?;
            node.sysctl("ipv4.ip_forward", "1")?;
            node.sysctl("ipv6.conf.all.forwarding", "1")?;
            bed.nodes.push(node);
        }
        if shape.outside {
            let outside = Netns::new(&bed.name("out"))?;
            outside.without_dad()?;
            bed.outside = Some(outside);
        }
        bed.join(shape)?;
        Ok(bed)
    }

    /// A name for one more namespace of this run.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    /// The prefix of every namespace of this run.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The directory of this run's files; deleted with the bed.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The address plan of node `i`, counted from 0 as in [`Bed::nodes`].
    pub fn plan(&self, i: usize) -> NodePlan {
        NodePlan { n: u8::try_from(i + 1).unwrap_or(u8::MAX) }
    }

    /// The address plans of all nodes.
    pub fn plans(&self) -> Vec<NodePlan> {
        plans(self.nodes.len()).collect()
    }

    /// Leaves everything in place when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        self.nodes.iter_mut().chain(&mut self.outside).chain(&mut self.wire).for_each(Netns::keep);
    }

    /// Lays the underlay: addresses are usable when this returns.
    fn join(&mut self, shape: Shape) -> Result<(), LabError> {
        let direct = shape.nodes == 2 && self.outside.is_none();
        if direct {
            let (a, b) = (self.nodes[0].name(), self.nodes[1].name());
            cmd::run(&format!("ip link add eth0 netns {a} type veth peer name eth0 netns {b}"))?;
        } else {
            let wire = Netns::new(&self.name("wire"))?;
            wire.ip("link add br0 type bridge")?;
            wire.ip(&format!("link set br0 mtu {} up", shape.mtu))?;
            for (i, node) in self.nodes.iter().chain(&self.outside).enumerate() {
                let (node, hub) = (node.name(), wire.name());
                cmd::run(&format!("ip link add eth0 netns {node} type veth peer name p{i} netns {hub}"))?;
                wire.ip(&format!("link set p{i} mtu {} master br0 up", shape.mtu))?;
            }
            self.wire = Some(wire);
        }
        for (node, plan) in self.nodes.iter().zip(plans(shape.nodes)) {
            settle(node, shape.mtu, &plan.address().to_string(), &plan.address6().to_string())?;
        }
        if let Some(outside) = &self.outside {
            settle(outside, shape.mtu, Self::OUTSIDE, Self::OUTSIDE6)?;
        }
        Ok(())
    }
}

fn plans(nodes: usize) -> impl Iterator<Item = NodePlan> {
    (1..=nodes).map(|n| NodePlan { n: u8::try_from(n).unwrap_or(u8::MAX) })
}

/// Gives a namespace's `eth0` its MTU and addresses and sets it up.
fn settle(netns: &Netns, mtu: u16, v4: &str, v6: &str) -> Result<(), LabError> {
    netns.ip(&format!("link set eth0 mtu {mtu} up"))?;
    netns.ip(&format!("addr add {v4}/24 dev eth0"))?;
    netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
    Ok(())
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !self.keep {
            // The directory is ours alone; when it cannot be removed there is nobody left to tell.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
