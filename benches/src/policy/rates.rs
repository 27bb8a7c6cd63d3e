//! New connections at `RULES` rules: iptables, iptables with one rule, ours.
//!
//! They are counted twice: as programs make them, where most of the time is the end hosts' own, and without sockets, where
//! what is left is the network and its policy.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use vswitch::lab::{Programs, Stop};

use super::beds::{self, Ours};
use super::{RULES, shown};
use crate::cubic::Allowed;
use crate::exchange::{CLIENTS, connects};
use crate::handshakes::{self, Handshakes};
use crate::network::Network;
use crate::stats::{mean, ratio};

/// What was measured, one run of each pair.
#[derive(Debug, Serialize)]
pub struct Rates {
    /// Connections a second on a kernel node with one iptables rule.
    pub bare: Vec<f64>,
    /// The same with 10,000 of them.
    pub iptables: Vec<f64>,
    /// The same with as many policy rules of ours.
    pub ours: Vec<f64>,
    /// Handshakes without sockets of the same three.
    pub handshakes: [Vec<Handshakes>; 3],
}

/// Measures `pairs` pairs of `seconds` seconds.
///
/// # Errors
/// When a network cannot be built or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Rates> {
    let length = Duration::from_secs(seconds.into());
    let mut connected = [const { Vec::new() }; 3];
    let mut handshakes = [const { Vec::new() }; 3];
    let (one, many) = (beds::iptables(cubic, 1)?, beds::iptables(cubic, RULES)?);
    let switch = Ours::build(programs, stop, cubic, RULES)?;
    let networks: [&dyn Network; 3] = [&one, &many, &switch];
    for pair in 0..pairs {
        for side in if pair % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] } {
            stop.check()?;
            connected[side].push(connects(networks[side].pair(), length)?);
            let both = [networks[side].pair(), networks[side].beside()];
            handshakes[side].push(handshakes::run(&both, length)?);
        }
    }
    let [bare, iptables, ours] = connected;
    Ok(Rates { bare, iptables, ours, handshakes })
}

impl Rates {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let pairs: Vec<f64> = self.iptables.iter().zip(&self.ours).map(|(a, b)| b / a).collect();
        let mut text = format!(
            "\n{RULES} rules, {CLIENTS} clients: {:.0} connections/s with iptables ({:.0} with 1 rule), {:.0} with vswitch: {}\n",
            mean(&self.iptables),
            mean(&self.bare),
            mean(&self.ours),
            shown(ratio(&pairs))
        );
        text.push_str(&self.without_sockets());
        text
    }

    fn without_sockets(&self) -> String {
        let [bare, iptables, ours] = &self.handshakes;
        let done = |runs: &[Handshakes]| mean(&runs.iter().map(|run| run.done).collect::<Vec<_>>());
        let lost = |runs: &[Handshakes]| mean(&runs.iter().map(|run| run.lost).collect::<Vec<_>>()) * 100.0;
        let pairs: Vec<f64> = iptables.iter().zip(ours).map(|(a, b)| b.done / a.done).collect();
        format!(
            "{RULES} rules, handshakes without sockets: {:.0}/s with iptables ({:.0} with 1 rule), {:.0} with vswitch: {}; \
             lost {:.2} % ({:.2} %), {:.2} %\n",
            done(iptables),
            done(bare),
            done(ours),
            shown(ratio(&pairs)),
            lost(iptables),
            lost(bare),
            lost(ours)
        )
    }
}
