//! Ten minutes at 80 % of the highest rate of small datagrams that nearly all arrive: no ring and no buffer on the way may be
//! full.
//!
//! Counted by the kernel: at the rings of the pods' TAPs and at the tunnel's sockets. What the switches drop, and what the
//! receiving program's own socket has no room for, is told apart.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use vswitch::lab::{Netns, Programs, Stop, TunnelKind};

use crate::datagrams;
use crate::network::{Network, Ours};

/// Payload bytes.
const SIZE: usize = 64;
/// Of the highest rate.
const SHARE: f64 = 0.8;
/// The looks that find it.
const LOOK: Duration = Duration::from_secs(2);

/// What was counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Soak {
    /// How long, seconds.
    pub seconds: u64,
    /// The highest rate found before, thousands of datagrams a second.
    pub highest: f64,
    /// What was sent; less than 80 % of that where the sender had to wait for a processor.
    pub rate: f64,
    /// Datagrams sent.
    pub sent: u64,
    /// Of these, not received.
    pub lost: u64,
    /// Where.
    pub drops: Drops,
}

/// Packets dropped on the way so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// At the pods' TAPs: their rings were full.
    pub taps: u64,
    /// At sockets of the nodes: their buffers were full.
    pub tunnel: u64,
    /// By the switches, for whatever reason: what pods' stacks say unasked (router solicitations) is among it.
    pub switches: u64,
    /// At the receiving program's socket, which is nobody's on the way.
    pub program: u64,
}

impl Drops {
    fn of(network: &Ours) -> Result<Drops> {
        let pair = network.pair();
        let mut drops = Drops { program: full(pair.far)?, ..Drops::default() };
        for pod in [pair.from, pair.far] {
            let links: Value = serde_json::from_str(&pod.ip("-j -s link show dev eth0")?)?;
            for direction in ["rx", "tx"] {
                let dropped = &links[0]["stats64"][direction]["dropped"];
                drops.taps += dropped.as_u64().with_context(|| format!("what eth0 dropped, {direction}"))?;
            }
        }
        for node in &network.lab().bed.nodes {
            drops.tunnel += full(node)?;
        }
        for node in 0..network.lab().bed.nodes.len() {
            drops.switches += network.lab().drops(node, "")?;
        }
        Ok(drops)
    }

    fn since(self, earlier: Drops) -> Drops {
        Drops {
            taps: self.taps - earlier.taps,
            tunnel: self.tunnel - earlier.tunnel,
            switches: self.switches - earlier.switches,
            program: self.program - earlier.program,
        }
    }
}

/// Datagrams that sockets of a namespace had no room for.
fn full(netns: &Netns) -> Result<u64> {
    let text = netns.run("cat /proc/net/snmp")?;
    let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().context("UDP's counters")?, udp.next().context("UDP's counters")?);
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "RcvbufErrors").context("RcvbufErrors")?;
    Ok(value.parse()?)
}

/// Sends for `length`.
///
/// # Errors
/// When the network cannot be built, or a counter cannot be read.
pub fn run(programs: &Programs, stop: &Stop, length: Duration) -> Result<Soak> {
    let network = Ours::nodes(programs, stop, TunnelKind::Vxlan, false)?;
    let highest = datagrams::lossless(network.pair(), SIZE, LOOK)?;
    let before = Drops::of(&network)?;
    let counted = datagrams::send(network.pair(), SIZE, Some(highest * SHARE), length)?;
    let drops = Drops::of(&network)?.since(before);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts they were
    let count = |a_second: f64| (a_second * length.as_secs_f64()).round() as u64;
    let (sent, received) = (count(counted.sent), count(counted.received));
    let (highest, rate) = (highest / 1e3, counted.sent / 1e3);
    Ok(Soak { seconds: length.as_secs(), highest, rate, sent, lost: sent.saturating_sub(received), drops })
}

impl Soak {
    /// No ring and no buffer on the way was full, and nothing was lost where nobody counts.
    #[must_use]
    pub fn met(&self) -> bool {
        self.drops.taps + self.drops.tunnel == 0 && self.lost <= self.drops.program
    }

    /// The table's lines.
    #[must_use]
    pub fn table(&self) -> String {
        let Drops { taps, tunnel, switches, program } = self.drops;
        format!(
            "\n{} s of UDP 64 B at {:.1} kpps, {:.0} % of the highest rate ({:.1}): {} sent, {} lost; dropped at TAPs {taps}, at \
             tunnel sockets {tunnel} (must be 0: {}); by switches {switches}, at the receiving program's socket {program}\n",
            self.seconds,
            self.rate,
            self.rate / self.highest * 100.0,
            self.highest,
            self.sent,
            self.lost,
            if self.met() { "reached" } else { "MISSED" }
        )
    }
}
