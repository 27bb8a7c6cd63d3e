//! All rows, as data.

use vswitch::lab::TunnelKind;

use super::{Bench, Goal, Kind, Line};
use crate::scenario::Scenario;

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

/// The same on an underlay that takes no super-frames. Not part of a quick run.
const fn segmented(
    id: &'static str,
    (a, b): (Kind, Kind),
    scenario: Scenario,
    lines: &'static [Line],
) -> Bench {
    Bench { id, a, b, segmented: true, scenario, lines, quick: false }
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
            Line {
                id: "G10",
                title: "the same, of one processor's time",
                unit: "Gbit/s",
                value: 2,
                goal: Goal::AtLeast(0.45, 0.60),
            },
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
    segmented(
        "s4seg",
        VXLANS,
        Scenario::Tcp { streams: 4, reverse: false },
        &[gbit("", "the same, 4 streams", Goal::None)],
    ),
    segmented(
        "udp64seg",
        VXLANS,
        Scenario::Flood { size: 64 },
        &[
            kpps("", "the same, UDP 64 B, flood, delivered", Goal::None),
            Line { id: "", title: "the same", unit: "CPU us", value: 1, goal: Goal::None },
        ],
    ),
    segmented(
        "rrseg",
        VXLANS,
        Scenario::RoundTrip { beside: false },
        &[
            micros("", "the same, round trip, idle, p50", 0, Goal::None),
            micros("", "the same, p99", 1, Goal::None),
        ],
    ),
    segmented(
        "crrseg",
        VXLANS,
        Scenario::Connects,
        &[Line {
            id: "",
            title: "the same, connect, a byte, reset",
            unit: "1000/s",
            value: 0,
            goal: Goal::None,
        }],
    ),
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
    segmented(
        "g5seg",
        (Kind::KernelRoutes, Kind::Ours(TunnelKind::Direct)),
        TCP,
        &[gbit("", "the same, underlay without offloads", Goal::None), cpu("", "the same", Goal::None)],
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
    bench(
        "g9",
        (Kind::Slirp, Kind::OursToNode),
        TCP,
        &[gbit("G9", "pod to its node, MTU 1500 / slirp4netns", Goal::AtLeast(4.0, 8.0))],
        true,
    ),
];
