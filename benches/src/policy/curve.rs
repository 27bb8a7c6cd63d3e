//! Ours against itself: so many rules against one.
//!
//! Two labs stand side by side, one with one rule and one with many, and short looks at their open connections alternate.
//! Two labs of one kind differ too, by which worker and which processor got what, and more than is to be shown here; so half
//! of the looks are taken with the rules exchanged, over the same connections. A look and the one that mirrors it make
//! one figure, from which what the labs differ by is gone. One rule against one rule says what noise is left.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use vswitch::lab::{Programs, Stop};

use super::beds::Ours;
use crate::cubic::Allowed;
use crate::exchange::connects;
use crate::network::Network;
use crate::offloads::Offloads;
use crate::slices::{Exchange, Stream, alternate};
use crate::stats::{Ratio, ratio};

/// Rule counts; the first is what the others are held against.
pub(super) const RULES: [usize; 4] = [1, 100, 10_000, 100_000];
/// Pairs of looks with the rules one way, and as many the other way.
const LOOKS: usize = 120;
const STREAM: Duration = Duration::from_millis(50);
const ROUND_TRIPS: Duration = Duration::from_millis(30);
/// The same of connections, each of which is its own.
const RUNS: usize = 12;
const CONNECTS: Duration = Duration::from_millis(250);
/// After the rules have changed, until the daemons have nothing more to do.
const QUIET: Duration = Duration::from_secs(2);

/// A pair of looks, one rule and many, and the pair that mirrors it.
pub(super) type Mirrored = [[f64; 2]; 2];

/// One number of rules against one rule.
#[derive(Debug, Default, Serialize)]
pub struct Point {
    /// How many rules.
    pub rules: usize,
    /// TCP throughput, Gbit/s.
    pub gbit_s: Vec<Mirrored>,
    /// Seconds of both switches' processor time for each GB of it: what others run on the machine hardly shows here.
    pub cpu_s_per_gb: Vec<Mirrored>,
    /// Median round trip of one byte over TCP, microseconds.
    pub rtt_us: Vec<Mirrored>,
    /// Connections a second.
    pub connects: Vec<Mirrored>,
    /// Looks at streams in which nothing arrived: with one rule, and with this many.
    pub stalls: [usize; 2],
}

/// Measures all points.
pub(super) fn run(programs: &Programs, stop: &Stop, cubic: &Allowed) -> Result<(Offloads, Vec<Point>)> {
    let build = || Ours::build(programs, stop, cubic, RULES[0]);
    let mut labs = [build()?, build()?];
    let mut streams = [Stream::open(labs[0].pair())?, Stream::open(labs[1].pair())?];
    let mut exchanges = [Exchange::open(labs[0].pair())?, Exchange::open(labs[1].pair())?];
    let points = RULES
        .iter()
        .map(|&rules| {
            let (mut halves, mut stalls) = (Vec::new(), [0; 2]);
            for many in [1, 0] {
                labs[many].rules(rules)?;
                labs[1 - many].rules(RULES[0])?;
                std::thread::sleep(QUIET);
                // Which lab has one rule, and which has many.
                let lab = |side: usize| if side == 0 { 1 - many } else { many };
                let before = streams.each_ref().map(Stream::stalls);
                let stream = alternate(LOOKS, |side| {
                    stop.check()?;
                    streams[lab(side)].slice(STREAM, || labs[lab(side)].ran())
                })?;
                for side in [0, 1] {
                    stalls[side] += streams[lab(side)].stalls() - before[lab(side)];
                }
                let part = |of: usize| stream.iter().map(|[a, b]| [a[of], b[of]]).collect::<Vec<_>>();
                let rtt_us = alternate(LOOKS, |side| {
                    stop.check()?;
                    exchanges[lab(side)].slice(ROUND_TRIPS)
                })?;
                let connects = alternate(RUNS, |side| {
                    stop.check()?;
                    connects(labs[lab(side)].pair(), CONNECTS)
                })?;
                halves.push([part(0), part(1), rtt_us, connects]);
            }
            let mirrored = |of: usize| {
                let [first, second] = [&halves[0][of], &halves[1][of]];
                first.iter().zip(second).map(|(a, b)| [*a, *b]).collect()
            };
            Ok(Point {
                rules,
                gbit_s: mirrored(0),
                cpu_s_per_gb: mirrored(1),
                rtt_us: mirrored(2),
                connects: mirrored(3),
                stalls,
            })
        })
        .collect::<Result<_>>()?;
    Ok((labs[0].offloads()?, points))
}

/// Many / one, what the two labs differ by cancelled.
#[must_use]
pub(super) fn many_to_one(looks: &[Mirrored]) -> Option<Ratio> {
    let figure = |[first, second]: &Mirrored| (first[1] / first[0] * (second[1] / second[0])).sqrt();
    ratio(&looks.iter().map(figure).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_labs_differ_by_cancels() {
        // The second lab is a quarter faster, many rules cost a tenth.
        let first = [10.0, 12.5 * 0.9];
        let second = [12.5, 10.0 * 0.9];
        let got = many_to_one(&[[first, second]; 4]).unwrap();
        assert!((got.mean - 0.9).abs() < 1e-9 && (got.high - 0.9).abs() < 1e-9, "{got:?}");
    }
}
