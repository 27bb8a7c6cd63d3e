//! The rows of the comparison: for each, the two networks and what the ratio should be.

use std::net::IpAddr;

use anyhow::Result;
use vswitch::lab::{
    Attached, Bed, KernelNode, KernelPod, Lab, Netns, Options, Programs, Shape, Stop, TunnelKind, Wire,
    link_bridge, offloads_off,
};

use crate::cubic::Allowed;
use crate::iperf::{self, Run};

/// What a row compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The kernel's VXLAN against itself: how far two equals differ on this machine, now.
    Noise,
    /// Between nodes over VXLAN, on a veth underlay that carries super-frames whole.
    Vxlan,
    /// The same on an underlay that segments, as NICs without tunnel offload do.
    VxlanSegmented,
    /// Two pods of one node.
    SameNode,
    /// Between nodes without a tunnel.
    Direct,
}

impl Row {
    /// All, in the order they run.
    pub const ALL: [Row; 5] = [Row::Noise, Row::Vxlan, Row::VxlanSegmented, Row::SameNode, Row::Direct];

    /// The short name for `--rows`.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Row::Noise => "aa",
            Row::Vxlan => "g1",
            Row::VxlanSegmented => "g2",
            Row::SameNode => "g4",
            Row::Direct => "g5",
        }
    }

    /// What the table calls it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Row::Noise => "noise: kernel VXLAN against itself",
            Row::Vxlan => "between nodes, VXLAN / kernel VXLAN + bridge + veth",
            Row::VxlanSegmented => "the same, underlay without offloads",
            Row::SameNode => "same node / bridge + veth",
            Row::Direct => "between nodes, direct / kernel routes + bridge + veth",
        }
    }

    /// The least throughput ratio, and the one aimed at; none for noise.
    #[must_use]
    pub fn goal(self) -> Option<(f64, f64)> {
        match self {
            Row::Noise => None,
            Row::Vxlan | Row::Direct => Some((0.45, 0.60)),
            Row::VxlanSegmented => Some((0.80, 0.95)),
            Row::SameNode => Some((0.60, 0.75)),
        }
    }

    /// Builds both networks, the kernel's first.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn networks(self, programs: &Programs, stop: &Stop, cubic: &Allowed) -> Result<[Network; 2]> {
        let vxlan = Wire::Vxlan { checksum: false };
        let networks = match self {
            Row::Noise => [Network::kernel(vxlan, false)?, Network::kernel(vxlan, false)?],
            Row::Vxlan => {
                [Network::kernel(vxlan, false)?, Network::ours(programs, stop, TunnelKind::Vxlan, false)?]
            }
            Row::VxlanSegmented => {
                [Network::kernel(vxlan, true)?, Network::ours(programs, stop, TunnelKind::Vxlan, true)?]
            }
            Row::SameNode => [Network::kernel_one_node()?, Network::ours_one_node(programs, stop)?],
            Row::Direct => [
                Network::kernel(Wire::HostGw, false)?,
                Network::ours(programs, stop, TunnelKind::Direct, false)?,
            ],
        };
        for (from, far, _) in networks.iter().map(Network::ends) {
            cubic.pin(from)?;
            cubic.pin(far)?;
        }
        Ok(networks)
    }
}

/// A network with two pods. Fields drop in order: pods, then what they hang on.
#[derive(Debug)]
pub enum Network {
    /// The kernel's.
    Kernel {
        /// Sender and receiver.
        pods: Box<[KernelPod; 2]>,
        /// The nodes.
        bed: Bed,
    },
    /// Ours.
    Ours {
        /// Sender and receiver.
        pods: Box<[Attached; 2]>,
        /// The nodes with their daemons.
        lab: Box<Lab>,
    },
}

impl Network {
    fn kernel(wire: Wire, segmented: bool) -> Result<Network> {
        let bed = Bed::build(Shape::default())?;
        let pod = |i: usize| {
            KernelNode::new(&bed.nodes[i], bed.plan(i), wire, 1500, &bed.plans())?.pod(&bed.nodes[i])
        };
        let pods = Box::new([pod(0)?, pod(1)?]);
        segment(&bed, segmented)?;
        Ok(Network::Kernel { pods, bed })
    }

    fn kernel_one_node() -> Result<Network> {
        let bed = Bed::build(Shape { nodes: 1, ..Shape::default() })?;
        let (a, b) = link_bridge(&bed.nodes[0], bed.plan(0), 1500)?;
        Ok(Network::Kernel { pods: Box::new([a, b]), bed })
    }

    fn ours(programs: &Programs, stop: &Stop, tunnel: TunnelKind, segmented: bool) -> Result<Network> {
        // The switch looks at its uplink when it starts, so the offloads are set before.
        let options = Options { tunnel, ..Options::default() };
        let mut lab = Lab::bed_only(programs, options, stop)?;
        segment(&lab.bed, segmented)?;
        lab.start_node(0)?;
        lab.start_node(1)?;
        let pods = Box::new([lab.pod(0, "a")?, lab.pod(1, "b")?]);
        Ok(Network::Ours { pods, lab: Box::new(lab) })
    }

    fn ours_one_node(programs: &Programs, stop: &Stop) -> Result<Network> {
        let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
        let lab = Lab::start(programs, options, stop)?;
        let pods = Box::new([lab.pod(0, "a")?, lab.pod(0, "b")?]);
        Ok(Network::Ours { pods, lab: Box::new(lab) })
    }

    /// One TCP stream from the first pod to the second.
    ///
    /// # Errors
    /// When iperf3 fails.
    pub fn measure(&self, seconds: u32) -> Result<Run> {
        let (from, far, to) = self.ends();
        iperf::run(from, far, to, seconds)
    }

    /// The sender's namespace, the receiver's, and its address.
    fn ends(&self) -> (&Netns, &Netns, IpAddr) {
        match self {
            Network::Kernel { pods, .. } => (&pods[0].netns, &pods[1].netns, pods[1].v4),
            Network::Ours { pods, .. } => (&pods[0].netns, &pods[1].netns, pods[1].v4),
        }
    }
}

fn segment(bed: &Bed, segmented: bool) -> Result<()> {
    if segmented {
        for node in &bed.nodes {
            offloads_off(node, "eth0")?;
        }
    }
    Ok(())
}
