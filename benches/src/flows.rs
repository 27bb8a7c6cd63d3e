//! Concurrent flows: what a million of them cost each packet, and what each of them costs in memory.
//!
//! Datagrams of 64 bytes between pods of two nodes. A pod may have a quarter of the connection table's flows, so they are
//! spread over five pairs of pods, always all five; the table is rated for little more than a million. A second such
//! network keeps the fewest flows, and runs alternate between the two.

mod sender;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vswitch::lab::{Attached, Lab, Options, Programs, Stop};

use crate::chart::{self, Chart, Series};
use crate::levels::Levels;
use crate::network::Pair;
use crate::offloads::Offloads;
use crate::process::Memory;
use crate::rows::Goal;
use crate::stats::{Ratio, mean, ratio};
use sender::Sender;

/// Numbers of flows; the first is what the others are held against.
const FLOWS: [u32; 4] = [1000, 10_000, 100_000, 1_000_000];
/// Pairs of pods that share them.
const PAIRS: u32 = 5;
/// Before packets are counted.
const WARM: Duration = Duration::from_millis(200);

const GOAL: Levels = Levels::with_record(Goal::AtLeast(0.60, 0.80), 0.90);
const BYTES: Levels = Levels::with_record(Goal::AtMost(128.0, 96.0), 72.0);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What the devices under it do for the kernel.
    pub offloads: Offloads,
    /// By number of flows.
    pub points: Vec<Point>,
}

/// So many flows against the fewest.
#[derive(Debug, Serialize)]
pub struct Point {
    /// How many.
    pub flows: u32,
    /// How many the sending node says it has.
    pub connections: u64,
    /// Memory of its keeper and switch.
    pub memory: Memory,
    /// Seconds until all were open, each answered once.
    pub opened_s: f64,
    /// Datagrams delivered a second, in pairs: with the fewest flows, and with this many.
    pub delivered: Vec<[f64; 2]>,
}

/// Measures everything: `pairs` pairs of `seconds` seconds at each number of flows.
///
/// # Errors
/// When a network cannot be built, or a flow is not opened.
pub fn run(programs: &Programs, stop: &Stop, pairs: usize, seconds: u32) -> Result<Figures> {
    let length = Duration::from_secs(seconds.into());
    let labs = [Bed::build(programs, stop)?, Bed::build(programs, stop)?];
    let [mut few, mut many] = [labs[0].senders()?, labs[1].senders()?];
    open(&mut few, 0, FLOWS[0])?;
    let mut points: Vec<Point> = Vec::new();
    for flows in FLOWS {
        stop.check()?;
        let began = Instant::now();
        open(&mut many, points.last().map_or(0, |point| point.flows), flows)?;
        let opened_s = began.elapsed().as_secs_f64();
        let mut delivered = Vec::new();
        for pair in 0..pairs {
            stop.check()?;
            let pair = if pair % 2 == 0 {
                let first = flood(&mut few, FLOWS[0], length)?;
                [first, flood(&mut many, flows, length)?]
            } else {
                let first = flood(&mut many, flows, length)?;
                [flood(&mut few, FLOWS[0], length)?, first]
            };
            delivered.push(pair);
        }
        let connections = labs[1].connections()?;
        ensure!(connections >= u64::from(flows), "of {flows} flows {connections} are left");
        points.push(Point { flows, connections, memory: labs[1].memory()?, opened_s, delivered });
    }
    let offloads = Offloads::of(labs[0].lab.bed.nodes.first(), &labs[0].pods[0].netns)?;
    Ok(Figures { offloads, points })
}

/// Opens flows between all pairs of pods until there are so many.
fn open(senders: &mut [Sender<'_>], before: u32, flows: u32) -> Result<()> {
    let opened = senders.iter_mut().map(|sender| sender.flows(before / PAIRS..flows / PAIRS));
    opened.collect::<Result<_>>().with_context(|| format!("open {flows} flows"))
}

/// Packets of all flows, as many as one thread can send; how many arrived a second.
fn flood(senders: &mut [Sender<'_>], flows: u32, length: Duration) -> Result<f64> {
    let arrived = |senders: &[Sender<'_>]| senders.iter().map(Sender::arrived).sum::<Result<u64>>();
    let send = |senders: &mut [Sender<'_>], length: Duration| -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < length {
            for sender in &mut *senders {
                sender.burst(flows / PAIRS)?;
            }
        }
        Ok(())
    };
    send(senders, WARM)?;
    let (before, began) = (arrived(senders)?, Instant::now());
    send(senders, length)?;
    let (after, took) = (arrived(senders)?, began.elapsed());
    ensure!(after > before, "nothing arrives");
    Ok((after - before) as f64 / took.as_secs_f64())
}

impl Point {
    /// Packets delivered, with this many flows / with the fewest.
    #[must_use]
    pub fn ratio(&self) -> Option<Ratio> {
        ratio(&self.delivered.iter().map(|[few, many]| many / few).collect::<Vec<_>>())
    }
}

impl Figures {
    /// The share of packets that is left with the most flows, and bytes of memory for each.
    fn last(&self) -> [f64; 2] {
        let (Some(few), Some(most)) = (self.points.first(), self.points.last()) else { return [f64::NAN; 2] };
        let kept = most.ratio().map_or(f64::NAN, |r| r.mean);
        let more = most.memory.pss_kib as f64 - few.memory.pss_kib as f64;
        [kept, more * 1024.0 / (f64::from(most.flows) - f64::from(few.flows))]
    }

    /// Whether both are acceptable.
    #[must_use]
    pub fn met(&self) -> bool {
        let [kept, bytes] = self.last();
        GOAL.met(kept) && BYTES.met(bytes)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "\nconcurrent flows, UDP 64 B, {PAIRS} pods to {PAIRS} pods of another node; memory of the sending node's keeper and switch\n\
             {:>8} {:>9} {:>9} {:>22} {:>9}\n",
            "flows", "opened s", "kpps", "kpps / 1000 flows", "PSS MiB"
        );
        for point in &self.points {
            let kpps = mean(&point.delivered.iter().map(|[_, many]| many / 1e3).collect::<Vec<_>>());
            let shown = point
                .ratio()
                .map_or("-".to_owned(), |r| format!("{:.3} ({:.3} - {:.3})", r.mean, r.low, r.high));
            let _ = writeln!(
                text,
                "{:>8} {:>9.2} {kpps:>9.1} {shown:>22} {:>9.1}{}",
                point.flows,
                point.opened_s,
                point.memory.pss_kib as f64 / 1024.0,
                if point.flows == FLOWS[0] { "  noise" } else { "" }
            );
        }
        let [kept, bytes] = self.last();
        let _ =
            writeln!(text, "  packets with the most flows / the fewest: {kept:.3} ({})", GOAL.verdict(kept));
        let _ = writeln!(text, "  a flow: {bytes:.0} bytes ({})", BYTES.verdict(bytes));
        text
    }

    /// The charts, each with the stem of its file's name. The subtitle says what devices there are; the rest is the caller's.
    #[must_use]
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let ratios = self.points.iter().filter_map(|point| {
            let Ratio { mean, low, high } = point.ratio()?;
            Some(chart::Point { x: point.flows.into(), y: mean, low, high })
        });
        let memory =
            self.points.iter().map(|p| chart::Point::exact(p.flows.into(), p.memory.pss_kib as f64 / 1024.0));
        let chart = |title: &str, y_label: &str, name: &str, points: Vec<chart::Point>| Chart {
            title: title.to_owned(),
            subtitle: self.offloads.to_string(),
            x_label: "flows at the same time".to_owned(),
            y_label: y_label.to_owned(),
            x_log: true,
            series: vec![Series { name: name.to_owned(), points }],
        };
        vec![
            (
                "flows",
                chart(
                    "Packets of many flows",
                    "delivered, relative to 1,000 flows",
                    "UDP 64 B, 95 % interval",
                    ratios.collect(),
                ),
            ),
            (
                "flows-memory",
                chart("Memory of keeper and switch", "MiB", "proportional share", memory.collect()),
            ),
        ]
    }
}

/// Two nodes and the pairs of pods. Fields drop in order.
struct Bed {
    pods: Vec<Attached>,
    lab: Lab,
}

impl Bed {
    fn build(programs: &Programs, stop: &Stop) -> Result<Bed> {
        let lab = Lab::start(programs, Options::default(), stop)?;
        let names = (0..PAIRS).flat_map(|i| [(0, format!("a{i}")), (1, format!("b{i}"))]);
        let pods = names.map(|(node, name)| Ok(lab.pod(node, &name)?)).collect::<Result<_>>()?;
        Ok(Bed { pods, lab })
    }

    fn senders(&self) -> Result<Vec<Sender<'_>>> {
        let pairs = self.pods.chunks_exact(2);
        pairs
            .map(|two| Sender::open(Pair { from: &two[0].netns, far: &two[1].netns, to: two[1].v4 }))
            .collect()
    }

    fn connections(&self) -> Result<u64> {
        Ok(self.lab.daemon(0).context("it runs")?.status()?.connections)
    }

    fn memory(&self) -> Result<Memory> {
        Memory::of(self.lab.daemon(0).context("it runs")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(kept: f64, kib: u64) -> Figures {
        let point = |flows, delivered, kib| Point {
            flows,
            connections: flows.into(),
            memory: Memory { rss_kib: kib, pss_kib: kib },
            opened_s: 1.0,
            delivered: vec![[300_000.0, 300_000.0 * delivered]; 3],
        };
        let offloads = Offloads { underlay: None, pods: Vec::new() };
        Figures { offloads, points: vec![point(1000, 1.0, 20_000), point(1_000_000, kept, 20_000 + kib)] }
    }

    #[test]
    fn packets_and_memory_both_count() {
        assert!(figures(0.9, 90_000).met());
        assert!(!figures(0.5, 90_000).met());
        assert!(!figures(0.9, 130_000).met());
        let table = figures(0.85, 78_000).table();
        assert!(
            table.contains("the fewest: 0.850 (must 0.6, target 0.8, record 0.9: target reached)"),
            "{table}"
        );
        assert!(
            table.contains("a flow: 80 bytes (must 128, target 96, record 72: target reached)"),
            "{table}"
        );
    }

    #[test]
    fn each_pair_of_pods_has_its_share() {
        assert!(FLOWS.iter().all(|flows| flows % PAIRS == 0 && flows / PAIRS <= sender::MOST));
    }
}
