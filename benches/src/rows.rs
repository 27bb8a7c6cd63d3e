//! The rows of the comparison: what is held against what, over which traffic, and what the ratio should be.
//!
//! A [`Bench`] is two networks and one kind of traffic; each of its [`Line`]s reads one of the values of its runs.
//! Goals are ratios B / A, those of docs/benchmarks/README.md.

use anyhow::Result;
use vswitch::lab::{Programs, Stop, TunnelKind, Wire};

use crate::cubic::Allowed;
use crate::network::{FlannelUdp, Kernel, Network, Ours, Ovs, WireGuard};
use crate::scenario::Scenario;

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
    /// Ours, between two nodes.
    Ours(TunnelKind),
    /// Ours, both pods on one node.
    OursOneNode,
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

const TCP: Scenario = Scenario::Tcp { streams: 1, reverse: false };
const VXLAN: Kind = Kind::Ours(TunnelKind::Vxlan);

const fn gbit(id: &'static str, title: &'static str, goal: Goal) -> Line {
    Line { id, title, unit: "Gbit/s", value: 0, goal }
}

const fn cpu(id: &'static str, title: &'static str, goal: Goal) -> Line {
    Line { id, title, unit: "CPU s/GB", value: 1, goal }
}

const fn kpps(id: &'static str, title: &'static str, goal: Goal) -> Line {
    Line { id, title, unit: "kpps", value: 0, goal }
}

const fn micros(id: &'static str, title: &'static str, value: usize, goal: Goal) -> Line {
    Line { id, title, unit: "us", value, goal }
}

const fn bench(
    id: &'static str,
    (a, b): (Kind, Kind),
    scenario: Scenario,
    lines: &'static [Line],
    quick: bool,
) -> Bench {
    Bench { id, a, b, segmented: false, scenario, lines, quick }
}

const VXLANS: (Kind, Kind) = (Kind::KernelVxlan, VXLAN);
const FLANNEL_UDP: (Kind, Kind) = (Kind::FlannelUdp, Kind::Ours(TunnelKind::Udp));

/// All, in the order they run. Neighbours over the same two networks share them.
pub const ALL: &[Bench] = &[
    bench(
        "aa",
        (Kind::KernelVxlan, Kind::KernelVxlan),
        TCP,
        &[gbit("aa", "noise: kernel VXLAN against itself", Goal::None)],
        true,
    ),
    bench(
        "g1",
        VXLANS,
        TCP,
        &[
            gbit("G1", "between nodes, VXLAN / kernel VXLAN", Goal::AtLeast(0.45, 0.60)),
            cpu("G3", "the same", Goal::AtMost(2.2, 1.7)),
        ],
        true,
    ),
    bench(
        "back",
        VXLANS,
        Scenario::Tcp { streams: 1, reverse: true },
        &[gbit("", "the same, the other way", Goal::None)],
        false,
    ),
    bench(
        "s4",
        VXLANS,
        Scenario::Tcp { streams: 4, reverse: false },
        &[gbit("", "the same, 4 streams", Goal::None)],
        false,
    ),
    bench(
        "s16",
        VXLANS,
        Scenario::Tcp { streams: 16, reverse: false },
        &[gbit("", "the same, 16 streams", Goal::None)],
        false,
    ),
    bench(
        "udp64",
        VXLANS,
        Scenario::Flood { size: 64 },
        &[
            kpps("G11", "UDP 64 B, flood, delivered", Goal::AtLeast(1.5, 2.0)),
            Line { id: "", title: "the same", unit: "CPU us", value: 1, goal: Goal::None },
        ],
        true,
    ),
    bench(
        "udp256",
        VXLANS,
        Scenario::Flood { size: 256 },
        &[kpps("", "UDP 256 B, flood, delivered", Goal::None)],
        false,
    ),
    bench(
        "udp1400",
        VXLANS,
        Scenario::Flood { size: 1400 },
        &[kpps("", "UDP 1400 B, flood, delivered", Goal::None)],
        false,
    ),
    bench(
        "pdr64",
        VXLANS,
        Scenario::Lossless { size: 64 },
        &[kpps("G11", "UDP 64 B, at most 0.5 % lost", Goal::AtLeast(0.9, 1.2))],
        false,
    ),
    bench(
        "rr",
        VXLANS,
        Scenario::RoundTrip { beside: false },
        &[
            micros("G13", "round trip, idle, p50", 0, Goal::AtMost(2.2, 1.6)),
            micros("G14", "the same, p99", 1, Goal::AtMost(2.2, 1.5)),
            micros("", "the same, p99.9", 2, Goal::None),
        ],
        true,
    ),
    bench(
        "rrbulk",
        VXLANS,
        Scenario::RoundTrip { beside: true },
        &[
            micros("", "round trip beside another pod's stream, p50", 0, Goal::None),
            micros("G15", "the same, p99", 1, Goal::AtMost(1.2, 0.7)),
            micros("", "the same, p99.9", 2, Goal::None),
        ],
        true,
    ),
    bench(
        "crr",
        VXLANS,
        Scenario::Connects,
        &[Line {
            id: "G16",
            title: "connect, a byte, reset",
            unit: "1000/s",
            value: 0,
            goal: Goal::AtLeast(0.55, 0.75),
        }],
        true,
    ),
    Bench {
        id: "g2",
        a: Kind::KernelVxlan,
        b: VXLAN,
        segmented: true,
        scenario: TCP,
        lines: &[
            gbit("G2", "between nodes, underlay without offloads", Goal::AtLeast(0.80, 0.95)),
            cpu("", "the same", Goal::None),
        ],
        quick: true,
    },
    bench(
        "g4",
        (Kind::KernelBridge, Kind::OursOneNode),
        TCP,
        &[
            gbit("G4", "same node / bridge + veth", Goal::AtLeast(0.60, 0.75)),
            cpu("", "the same", Goal::None),
        ],
        true,
    ),
    bench(
        "g5",
        (Kind::KernelRoutes, Kind::Ours(TunnelKind::Direct)),
        TCP,
        &[
            gbit("G5", "between nodes, direct / kernel routes", Goal::AtLeast(0.45, 0.60)),
            cpu("", "the same", Goal::None),
        ],
        true,
    ),
    bench(
        "g6",
        FLANNEL_UDP,
        TCP,
        &[gbit("G6", "between nodes, udp / flannel's udp mode", Goal::AtLeast(5.0, 8.0))],
        true,
    ),
    bench(
        "g6pdr",
        FLANNEL_UDP,
        Scenario::Lossless { size: 64 },
        &[kpps("G12", "UDP 64 B, at most 0.5 % lost", Goal::AtLeast(2.0, 3.0))],
        false,
    ),
    bench(
        "g7",
        (Kind::Ovs { tso: false }, VXLAN),
        TCP,
        &[gbit("G7", "between nodes, VXLAN / Open vSwitch in userspace", Goal::AtLeast(6.0, 10.0))],
        true,
    ),
    bench(
        "g7pdr",
        (Kind::Ovs { tso: false }, VXLAN),
        Scenario::Lossless { size: 64 },
        &[kpps("G12", "UDP 64 B, at most 0.5 % lost", Goal::AtLeast(1.2, 1.5))],
        false,
    ),
    bench(
        "g7tso",
        (Kind::Ovs { tso: true }, VXLAN),
        TCP,
        &[gbit("G7", "the same, with its TSO", Goal::AtLeast(1.5, 2.0))],
        false,
    ),
    bench(
        "g8",
        (Kind::WireGuard, VXLAN),
        TCP,
        &[gbit("G8", "between nodes, VXLAN / wireguard-go (encrypts)", Goal::AtLeast(1.5, 2.5))],
        true,
    ),
];

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
            Kind::Ours(tunnel) => Box::new(Ours::nodes(programs, stop, tunnel, self.segmented)?),
            Kind::OursOneNode => Box::new(Ours::one_node(programs, stop)?),
        })
    }
}
