//! Ours: real daemons, pods attached by the real plugin.

use anyhow::Result;
use vswitch::lab::{Attached, Lab, Netns, Options, Programs, Shape, Stop, TunnelKind};

use super::{Network, Pair};

/// Fields drop in order: pods, then the nodes with their daemons.
#[derive(Debug)]
pub struct Ours {
    pods: [Attached; 4],
    lab: Lab,
}

impl Ours {
    /// Two nodes. `segmented` = their underlay is one that takes no super-frames.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn nodes(programs: &Programs, stop: &Stop, tunnel: TunnelKind, segmented: bool) -> Result<Ours> {
        // The switch looks at its uplink when it starts, so the offloads are set before.
        let options = Options { tunnel, ..Options::default() };
        let mut lab = Lab::bed_only(programs, options, stop)?;
        super::segment(&lab.bed, segmented)?;
        lab.start_node(0)?;
        lab.start_node(1)?;
        Ours::with_pods(lab, 1)
    }

    /// One node.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn one_node(programs: &Programs, stop: &Stop) -> Result<Ours> {
        let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
        Ours::with_pods(Lab::start(programs, options, stop)?, 0)
    }

    fn with_pods(lab: Lab, far: usize) -> Result<Ours> {
        let pods = [lab.pod(0, "a")?, lab.pod(far, "b")?, lab.pod(0, "c")?, lab.pod(far, "d")?];
        Ok(Ours { pods, lab })
    }

    /// The nodes and their daemons.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

impl Network for Ours {
    fn two(&self, from: usize) -> Pair<'_> {
        let [near, far] = [&self.pods[from], &self.pods[from + 1]];
        Pair { from: &near.netns, far: &far.netns, to: far.v4 }
    }

    fn underlay(&self) -> Option<&Netns> {
        super::one_of_many(&self.lab.bed)
    }
}
