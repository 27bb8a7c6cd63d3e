//! New connections at `RULES` rules: iptables in the shortest form and in the one that Calico writes, iptables with one
//! rule, ours.
//!
//! They are counted twice: as programs make them, where most of the time is the end hosts' own, and without sockets, where
//! what is left is the network and its policy.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use vswitch::lab::{Programs, Stop};

use super::beds::{self, Ours};
use super::ruleset::Form;
use super::{RULES, shown};
use crate::cubic::Allowed;
use crate::exchange::{CLIENTS, connects};
use crate::handshakes::{self, Handshakes};
use crate::network::Network;
use crate::stats::{mean, ratio};

/// What one network did, run by run.
#[derive(Debug, Default, Serialize)]
pub struct Runs {
    /// Connections a second between sockets.
    pub connects: Vec<f64>,
    /// Handshakes without sockets.
    pub handshakes: Vec<Handshakes>,
}

/// What was measured, one run of each in turn.
#[derive(Debug, Default, Serialize)]
pub struct Rates {
    /// A kernel node with one iptables rule.
    pub bare: Runs,
    /// With 10,000 of them, each as short as can be.
    pub iptables: Runs,
    /// With the same policy in the form that Calico and Canal give it.
    pub felix: Runs,
    /// Ours with as many policy rules.
    pub ours: Runs,
}

/// Measures `pairs` times, each run of `seconds` seconds.
///
/// # Errors
/// When a network cannot be built or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Rates> {
    let length = Duration::from_secs(seconds.into());
    let kernel = |rules, form| beds::iptables(cubic, rules, form);
    let bare = kernel(1, Form::Shortest)?;
    let iptables = kernel(RULES, Form::Shortest)?;
    let felix = kernel(RULES, Form::Felix)?;
    let ours = Ours::build(programs, stop, cubic, RULES)?;
    let mut rates = Rates::default();
    for pair in 0..pairs {
        let mut sides: [(&dyn Network, &mut Runs); 4] = [
            (&bare, &mut rates.bare),
            (&iptables, &mut rates.iptables),
            (&felix, &mut rates.felix),
            (&ours, &mut rates.ours),
        ];
        if pair % 2 == 1 {
            sides.reverse();
        }
        for (network, runs) in sides {
            stop.check()?;
            runs.connects.push(connects(network.pair(), length)?);
            runs.handshakes.push(handshakes::run(&[network.pair(), network.beside()], length)?);
        }
    }
    Ok(rates)
}

impl Rates {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let text = format!(
            "\n{RULES} rules: vswitch, iptables with the shortest rules, iptables as Calico writes them; with 1 rule\n"
        );
        let connects = |runs: &Runs| runs.connects.clone();
        let done = |runs: &Runs| runs.handshakes.iter().map(|run| run.done).collect();
        let lost = [&self.ours, &self.iptables, &self.felix, &self.bare]
            .map(|runs| mean(&runs.handshakes.iter().map(|run| run.lost).collect::<Vec<_>>()) * 100.0);
        text + &self.line(&format!("connections/s, {CLIENTS} clients"), connects)
            + &self.line("handshakes/s without sockets", done)
            + &format!("  lost: {}\n", lost.map(|percent| format!("{percent:.2} %")).join(", "))
    }

    fn line(&self, name: &str, of: impl Fn(&Runs) -> Vec<f64>) -> String {
        let (ours, bare) = (of(&self.ours), of(&self.bare));
        let against = |runs: &Runs| {
            let theirs = of(runs);
            let pairs: Vec<f64> = theirs.iter().zip(&ours).map(|(a, b)| b / a).collect();
            format!("{:.0} ({} times)", mean(&theirs), shown(ratio(&pairs)))
        };
        format!(
            "  {name}: {:.0}, {}, {}; {:.0}\n",
            mean(&ours),
            against(&self.iptables),
            against(&self.felix),
            mean(&bare)
        )
    }
}
