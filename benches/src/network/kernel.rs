//! The kernel's own pod network.

use std::net::IpAddr;

use anyhow::Result;
use vswitch::lab::{Bed, KernelNode, KernelPod, Netns, Shape, Wire};

use super::{Network, Pair};

/// Bridge and veth pods; fields drop in order: pods, then what they hang on.
#[derive(Debug)]
pub struct Kernel {
    pods: Vec<KernelPod>,
    bed: Bed,
}

impl Kernel {
    /// Two nodes. `segmented` = their underlay is one that takes no super-frames.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn nodes(wire: Wire, segmented: bool) -> Result<Kernel> {
        let bed = Bed::build(Shape::default())?;
        let node = |i: usize| KernelNode::new(&bed.nodes[i], bed.plan(i), wire, 1500, &bed.plans());
        let (mut near, mut far) = (node(0)?, node(1)?);
        let mut pods = Vec::new();
        for _ in 0..2 {
            pods.push(near.pod(&bed.nodes[0])?);
            pods.push(far.pod(&bed.nodes[1])?);
        }
        super::segment(&bed, segmented)?;
        Ok(Kernel { pods, bed })
    }

    /// One node, its pods on one bridge.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn one_node() -> Result<Kernel> {
        let bed = Bed::build(Shape { nodes: 1, ..Shape::default() })?;
        let mut node = KernelNode::new(&bed.nodes[0], bed.plan(0), Wire::HostGw, 1500, &[])?;
        let pods = (0..4).map(|_| node.pod(&bed.nodes[0])).collect::<Result<_, _>>()?;
        Ok(Kernel { pods, bed })
    }

    /// The nodes.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The address of the measured sender.
    #[must_use]
    pub fn sender(&self) -> IpAddr {
        self.pods[0].v4
    }
}

impl Network for Kernel {
    fn two(&self, from: usize) -> Pair<'_> {
        Pair::of(&self.pods, from)
    }

    fn underlay(&self) -> Option<&Netns> {
        super::one_of_many(&self.bed)
    }
}
