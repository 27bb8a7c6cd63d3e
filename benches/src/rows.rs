//! The rows of the comparison: what is held against what, over which traffic, and what the ratio should be.
//!
//! A [`Bench`] is two networks and one kind of traffic; each of its [`Line`]s reads one of the values of its runs.
//! Goals are ratios B / A, those of docs/benchmarks/README.md.

mod all;

use anyhow::Result;
use vswitch::lab::{Programs, Stop, TunnelKind, Wire};

use crate::cubic::Allowed;
use crate::network::{FlannelUdp, Kernel, Network, Ours, Ovs, Slirp, ToNode, WireGuard};
use crate::scenario::Scenario;

pub use all::ALL;

/// A network that can stand on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's VXLAN as flannel sets it up, bridge and veth pods.
    KernelVxlan,
    /// The kernel's routes without a tunnel, bridge and veth pods.
    KernelRoutes,
    /// One bridge, both pods on it.
    KernelBridge,
    /// flannel's udp mode: a datagram for each packet of a TUN device.
    FlannelUdp,
    /// Open vSwitch's userspace datapath, without and with TSO.
    Ovs {
        /// `userspace-tso-enable`.
        tso: bool,
    },
    /// wireguard-go, which encrypts.
    WireGuard,
    /// slirp4netns, from a pod to its node.
    Slirp,
    /// Ours, between two nodes.
    Ours(TunnelKind),
    /// Ours, both pods on one node.
    OursOneNode,
    /// Ours, from a pod to its node.
    OursToNode,
}

/// Two networks and what is sent over them.
#[derive(Debug)]
pub struct Bench {
    /// Short name, for `--rows`.
    pub id: &'static str,
    /// What a user would pick instead.
    pub a: Kind,
    /// Ours, but for the noise row.
    pub b: Kind,
    /// On an underlay that takes no super-frames.
    pub segmented: bool,
    /// What is sent.
    pub scenario: Scenario,
    /// What is read off.
    pub lines: &'static [Line],
    /// Part of a quick run.
    pub quick: bool,
}

/// One line of the table.
#[derive(Debug)]
pub struct Line {
    /// Its name, as in docs/benchmarks/README.md where it has a goal there.
    pub id: &'static str,
    /// What it says.
    pub title: &'static str,
    /// The values' unit.
    pub unit: &'static str,
    /// Which of the run's values.
    pub value: usize,
    /// What the ratio must be, and what is aimed at.
    pub goal: Goal,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Nothing is asked.
    None,
    /// At least this; better this.
    AtLeast(f64, f64),
    /// At most this; better this.
    AtMost(f64, f64),
}

impl Goal {
    /// Whether a ratio reaches the first of the two.
    #[must_use]
    pub fn met(self, ratio: f64) -> bool {
        match self {
            Goal::None => true,
            Goal::AtLeast(must, _) => ratio >= must,
            Goal::AtMost(must, _) => ratio <= must,
        }
    }

    /// The two.
    #[must_use]
    pub fn bounds(self) -> Option<(f64, f64)> {
        match self {
            Goal::None => None,
            Goal::AtLeast(must, target) | Goal::AtMost(must, target) => Some((must, target)),
        }
    }
}

impl Bench {
    /// Whether the other runs over the same two networks.
    #[must_use]
    pub fn shares(&self, other: &Bench) -> bool {
        (self.a, self.b, self.segmented) == (other.a, other.b, other.segmented)
    }

    /// Builds both networks, A first.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn networks(
        &self,
        programs: &Programs,
        stop: &Stop,
        cubic: &Allowed,
    ) -> Result<[Box<dyn Network>; 2]> {
        let build = |kind| -> Result<Box<dyn Network>> {
            let network = self.build(kind, programs, stop)?;
            network.pair().pin(cubic)?;
            network.beside().pin(cubic)?;
            Ok(network)
        };
        Ok([build(self.a)?, build(self.b)?])
    }

    fn build(&self, kind: Kind, programs: &Programs, stop: &Stop) -> Result<Box<dyn Network>> {
        Ok(match kind {
            Kind::KernelVxlan => Box::new(Kernel::nodes(Wire::Vxlan { checksum: false }, self.segmented)?),
            Kind::KernelRoutes => Box::new(Kernel::nodes(Wire::HostGw, self.segmented)?),
            Kind::KernelBridge => Box::new(Kernel::one_node()?),
            Kind::FlannelUdp => Box::new(FlannelUdp::nodes()?),
            Kind::Ovs { tso } => Box::new(Ovs::nodes(tso)?),
            Kind::WireGuard => Box::new(WireGuard::nodes()?),
            Kind::Slirp => Box::new(Slirp::node()?),
            Kind::Ours(tunnel) => Box::new(Ours::nodes(programs, stop, tunnel, self.segmented)?),
            Kind::OursOneNode => Box::new(Ours::one_node(programs, stop)?),
            Kind::OursToNode => Box::new(ToNode::build(programs, stop)?),
        })
    }
}
