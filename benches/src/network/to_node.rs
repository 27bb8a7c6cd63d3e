//! Ours, from a pod to a program on its node: through the switch and the host's TAP.

use anyhow::Result;
use vswitch::lab::{Attached, Lab, Netns, Options, Programs, Shape, Stop, TunnelKind};

use super::{Network, Pair};

/// Fields drop in order: pods, then the node with its daemon.
#[derive(Debug)]
pub struct ToNode {
    pods: [Attached; 2],
    lab: Lab,
}

impl ToNode {
    /// One node without a tunnel, so that pods have the underlay's MTU.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn build(programs: &Programs, stop: &Stop) -> Result<ToNode> {
        let shape = Shape { nodes: 1, ..Shape::default() };
        let lab =
            Lab::start(programs, Options { shape, tunnel: TunnelKind::Direct, ..Options::default() }, stop)?;
        let pods = [lab.pod(0, "a")?, lab.pod(0, "b")?];
        Ok(ToNode { pods, lab })
    }
}

impl Network for ToNode {
    fn two(&self, from: usize) -> Pair<'_> {
        let pod = &self.pods[usize::from(from > 1)];
        Pair { from: &pod.netns, far: &self.lab.bed.nodes[0], to: self.lab.bed.plan(0).address().into() }
    }

    fn underlay(&self) -> Option<&Netns> {
        None
    }
}
