//! What loss on the underlay costs a TCP stream: ours and the kernel's VXLAN, each against itself without loss.
//!
//! Both nodes drop one received tunnel packet of 1,000 at random (nftables). On the underlay that segments, that is a packet of
//! the wire; on the other one, where super-frames cross whole, it is often one of those, and its 45 segments are lost
//! together.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde::Serialize;
use vswitch::lab::{Netns, Programs, Stop, TunnelKind, Wire};

use crate::cubic::Allowed;
use crate::iperf::{self, Load, Run};
use crate::levels::Levels;
use crate::network::{Kernel, Network, Ours};
use crate::rows::Goal;
use crate::stats::{Ratio, mean, ratio};

/// Of what ours keeps under loss, to what the kernel keeps.
const GOAL: Levels = Levels::with_record(Goal::AtLeast(0.80, 0.90), 1.0);
/// The nodes' rules.
const TABLE: &str = "table ip lossy { chain in { type filter hook input priority 0; \
                     meta l4proto udp numgen random mod 1000 < 1 counter drop; }; }";

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// On the underlay with offloads, and on the one that segments.
    pub beds: [Vec<Pair>; 2],
}

/// The kernel's VXLAN and ours, each without loss and with it.
pub type Pair = [[Run; 2]; 2];

/// Measures `pairs` pairs on both beds, each run of `seconds` seconds.
///
/// # Errors
/// When a network cannot be built or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Figures> {
    let bed = |segmented| -> Result<Vec<Pair>> {
        let kernel = Kernel::nodes(Wire::Vxlan { checksum: false }, segmented)?;
        let ours = Ours::nodes(programs, stop, TunnelKind::Vxlan, segmented)?;
        kernel.pair().pin(cubic)?;
        ours.pair().pin(cubic)?;
        let kernel_nodes = &kernel.bed().nodes[..];
        let sides: [(&dyn Network, &[Netns]); 2] = [(&kernel, kernel_nodes), (&ours, &ours.lab().bed.nodes)];
        (0..pairs).map(|pair| one(sides, pair % 2 == 1, seconds, stop)).collect()
    };
    Ok(Figures { beds: [bed(false)?, bed(true)?] })
}

/// One pair, in one order or the other.
fn one(sides: [(&dyn Network, &[Netns]); 2], turned: bool, seconds: u32, stop: &Stop) -> Result<Pair> {
    let mut pair = [[None; 2]; 2];
    for step in 0..4 {
        let (side, lossy) = if turned { (1 - step / 2, 1 - step % 2) } else { (step / 2, step % 2) };
        stop.check()?;
        let (network, nodes) = sides[side];
        let rules = (lossy == 1).then(|| Lossy::make(nodes)).transpose()?;
        pair[side][lossy] = Some(iperf::run(network.pair(), Load::default(), seconds)?);
        rules.map_or(Ok(()), |rules| rules.worked())?;
    }
    Ok(pair.map(|side| side.map(|run| run.expect("all four have run"))))
}

/// Nodes that lose packets until this is dropped.
struct Lossy<'a>(&'a [Netns]);

impl<'a> Lossy<'a> {
    fn make(nodes: &'a [Netns]) -> Result<Lossy<'a>> {
        for node in nodes {
            node.run_args(&["nft", TABLE])?;
        }
        Ok(Lossy(nodes))
    }

    /// Every node has lost something: otherwise the run was one without loss.
    fn worked(&self) -> Result<()> {
        for node in self.0 {
            let shown = node.run("nft list table ip lossy")?;
            ensure!(!shown.contains("packets 0 "), "{} lost nothing: {shown}", node.name());
        }
        Ok(())
    }
}

impl Drop for Lossy<'_> {
    fn drop(&mut self) {
        for node in self.0 {
            // It goes with the namespace at the latest.
            let _ = node.run("nft delete table ip lossy");
        }
    }
}

impl Figures {
    /// What ours keeps of its throughput, divided by what the kernel keeps of its own.
    #[must_use]
    pub fn ratio(pairs: &[Pair]) -> Option<Ratio> {
        let kept = |[clean, lossy]: &[Run; 2]| lossy.gbit_s / clean.gbit_s;
        ratio(&pairs.iter().map(|[kernel, ours]| kept(ours) / kept(kernel)).collect::<Vec<_>>())
    }

    /// Whether both figures are what they must be.
    #[must_use]
    pub fn met(&self) -> bool {
        self.beds.iter().all(|pairs| Self::ratio(pairs).is_some_and(|r| GOAL.met(r.mean)))
    }

    /// The table's lines.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = "\none packet of 1,000 lost on the underlay, one TCP stream, Gbit/s\n".to_owned();
        let _ = writeln!(
            text,
            "  {:28} {:>16} {:>16}   what is kept, ours / kernel's",
            "", "kernel VXLAN", "ours"
        );
        for (name, pairs) in ["underlay with offloads", "underlay without offloads"].iter().zip(&self.beds) {
            let side = |side: usize| {
                let of =
                    |lossy: usize| mean(&pairs.iter().map(|p| p[side][lossy].gbit_s).collect::<Vec<_>>());
                format!("{:.2} -> {:.2}", of(0), of(1))
            };
            let again = |side: usize| pairs.iter().map(|p| p[side][1].retransmits).sum::<u64>();
            let Some(r) = Self::ratio(pairs) else { continue };
            let _ = writeln!(
                text,
                "  {name:28} {:>16} {:>16}   {:.2} ({:.2} - {:.2}), {}; segments sent again: {}, {}",
                side(0),
                side(1),
                r.mean,
                r.low,
                r.high,
                GOAL.verdict(r.mean),
                again(0),
                again(1)
            );
        }
        text
    }
}
