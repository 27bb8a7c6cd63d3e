//! Policy at scale: the same rules as iptables rules on a kernel node and as policies on ours; and ours against itself.
//!
//! Two nodes over VXLAN; the rules stand before the receivers. What is measured is how many connections a second they admit
//! ([`rates`]), and how the time of a round trip, of a byte and of a connection depends on their number.

mod beds;
mod curve;
pub mod rates;
mod ruleset;

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use vswitch::lab::{Programs, Stop};

use crate::chart::{self, Chart, Series};
use crate::cubic::Allowed;
use crate::levels::Levels;
use crate::offloads::Offloads;
use crate::rows::Goal;
use crate::stats::Ratio;
use curve::{Point, many_to_one};
pub use rates::Rates;

/// Rules the connection rates are compared at.
const RULES: usize = 10_000;
/// For throughput with [`RULES`] rules, and for the inverse of a round trip, which should be short.
const GOAL: Levels = Levels::of(Goal::AtLeast(0.97, 0.99));

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What the devices under it do for the kernel.
    pub offloads: Offloads,
    /// Ours against itself, by number of rules.
    pub curve: Vec<Point>,
}

/// Measures the curve.
///
/// # Errors
/// When a network cannot be built or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed) -> Result<Figures> {
    let (offloads, curve) = curve::run(programs, stop, cubic)?;
    Ok(Figures { offloads, curve })
}

impl Figures {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from("\n");
        let _ = writeln!(
            text,
            "{:>8} {:>22} {:>22} {:>22} {:>22}",
            "rules", "Gbit/s / 1 rule", "switch CPU/GB / 1 rule", "rtt / 1 rule", "connects / 1 rule"
        );
        for point in &self.curve {
            let of = |looks: &[curve::Mirrored]| shown(many_to_one(looks));
            let _ = writeln!(
                text,
                "{:>8} {:>22} {:>22} {:>22} {:>22}{}",
                point.rules,
                of(&point.gbit_s),
                of(&point.cpu_s_per_gb),
                of(&point.rtt_us),
                of(&point.connects),
                if point.rules == 1 { "  noise" } else { "" }
            );
        }
        let stalls =
            self.curve.iter().map(|point| point.stalls).fold([0; 2], |[a, b], [c, d]| [a + c, b + d]);
        if stalls != [0; 2] {
            let [one, many] = stalls;
            let _ = writeln!(
                text,
                "  streams that stood still when looked at: {one} times with 1 rule, {many} with more"
            );
        }
        let [throughput, rtt] = self.kept();
        let _ = writeln!(
            text,
            "  with {RULES} rules / 1: throughput {throughput:.3} ({}), 1 / round trip {rtt:.3} ({})",
            GOAL.verdict(throughput),
            GOAL.verdict(rtt)
        );
        text
    }

    /// Throughput, and the inverse of the round trip, with [`RULES`] rules.
    fn kept(&self) -> [f64; 2] {
        let of = |looks: &[curve::Mirrored]| many_to_one(looks).map_or(f64::NAN, |r| r.mean);
        let point = self.curve.iter().find(|point| point.rules == RULES);
        point.map_or([f64::NAN; 2], |point| [of(&point.gbit_s), 1.0 / of(&point.rtt_us)])
    }

    /// Whether throughput and round trip under many rules are acceptable.
    #[must_use]
    pub fn met(&self) -> bool {
        self.kept().iter().all(|value| GOAL.met(*value))
    }

    /// The curve as a chart, with the name of its file.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // thousands of rules
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let series = |name: &str, of: fn(&Point) -> &Vec<curve::Mirrored>| {
            let points = self.curve.iter().filter_map(|point| {
                let Ratio { mean, low, high } = many_to_one(of(point))?;
                Some(chart::Point { x: point.rules as f64, y: mean, low, high })
            });
            Series { name: name.to_owned(), points: points.collect() }
        };
        let chart = Chart {
            title: "Rules before a pod".to_owned(),
            subtitle: self.offloads.to_string(),
            x_label: "rules".to_owned(),
            y_label: "relative to one rule".to_owned(),
            x_log: true,
            series: vec![
                series("TCP throughput", |point| &point.gbit_s),
                series("switches' processor time for a byte (less is better)", |point| &point.cpu_s_per_gb),
                series("round trip (less is better)", |point| &point.rtt_us),
                series("connections a second", |point| &point.connects),
            ],
        };
        vec![("rules", chart)]
    }
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.3} ({:.3} - {:.3})", r.mean, r.low, r.high))
}
