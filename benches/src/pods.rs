//! Pods on a node: what 250 of them cost the two that are busy, the memory and the idle processor.
//!
//! One node of ours is filled in steps. On the way up nothing is sent: at each step its memory and its idle cost are
//! looked at. On the way down a pair of pods is measured at each step, in turns with a second node that has two pods and
//! no others. What the node holds at the end, when all but two pods are gone again, tells whether it gave back what it took.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use vswitch::lab::{Attached, Daemon, Lab, Options, Programs, Shape, Stop};

use crate::chart::{self, Chart, Series};
use crate::cubic::Allowed;
use crate::iperf::{self, Load, Run};
use crate::levels::Levels;
use crate::network::Pair;
use crate::offloads::Offloads;
use crate::process::{Busy, Memory};
use crate::rows::Goal;
use crate::stats::{Ratio, mean, ratio};

/// Pods on the node. The first two are the pair.
const PODS: [usize; 5] = [2, 10, 50, 100, 250];
/// After attaching, until pods' kernels have said what they say when a link comes up; after detaching, until the machine's
/// kernel has cleared their namespaces away.
const QUIET: Duration = Duration::from_secs(8);
/// How long the idle cost is looked at.
const IDLE: Duration = Duration::from_secs(5);

const THROUGHPUT: Levels = Levels::of(Goal::AtLeast(0.95, 0.99));
const CPU_PERCENT: Levels = Levels::with_record(Goal::AtMost(1.0, 0.3), 0.1);
/// Wakeups a second that go with the record of [`CPU_PERCENT`].
const WAKEUPS: f64 = 20.0;
const BASE_MIB: Levels = Levels::with_record(Goal::AtMost(64.0, 32.0), 16.0);
const POD_KIB: Levels = Levels::with_record(Goal::AtMost(64.0, 24.0), 8.0);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What the devices under it do for the kernel.
    pub offloads: Offloads,
    /// Memory of keeper and switch before the first pod.
    pub empty: Memory,
    /// By number of pods.
    pub points: Vec<Point>,
    /// Memory at the end, with two pods left.
    pub after: Memory,
}

/// A node with so many pods.
#[derive(Debug, Serialize)]
pub struct Point {
    /// How many.
    pub pods: usize,
    /// Memory of keeper and switch, before anything was sent.
    pub memory: Memory,
    /// What they did while nothing was sent.
    pub idle: Busy,
    /// Runs between two pods, in pairs: on the node that has two, and on this one.
    pub runs: Vec<[Run; 2]>,
}

/// Measures everything: `pairs` pairs of `seconds` seconds at each number of pods.
///
/// # Errors
/// When a node cannot be built, a pod is refused or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Figures> {
    let mut many = Node::start(programs, stop)?;
    let empty = Memory::of(many.daemon()?)?;
    let mut points = Vec::new();
    for pods in PODS {
        many.fill(pods).with_context(|| format!("{pods} pods"))?;
        std::thread::sleep(QUIET);
        stop.check()?;
        let (memory, idle) = (Memory::of(many.daemon()?)?, Busy::over(many.daemon()?, IDLE)?);
        points.push(Point { pods, memory, idle, runs: Vec::new() });
    }
    let mut two = Node::start(programs, stop)?;
    two.fill(PODS[0])?;
    two.pair()?.pin(cubic)?;
    many.pair()?.pin(cubic)?;
    for point in points.iter_mut().rev() {
        many.pods.truncate(point.pods);
        std::thread::sleep(QUIET);
        for pair in 0..pairs {
            let measure = |node: &Node| {
                stop.check()?;
                iperf::run(node.pair()?, Load::default(), seconds)
                    .with_context(|| format!("{} pods", point.pods))
            };
            let runs = if pair % 2 == 0 {
                let alone = measure(&two)?;
                [alone, measure(&many)?]
            } else {
                let crowded = measure(&many)?;
                [measure(&two)?, crowded]
            };
            point.runs.push(runs);
        }
    }
    let offloads = Offloads::of(None, many.pair()?.from)?;
    Ok(Figures { offloads, empty, points, after: Memory::of(many.daemon()?)? })
}

impl Point {
    /// Throughput, this node / the one with two pods.
    #[must_use]
    pub fn throughput(&self) -> Option<Ratio> {
        ratio(&self.runs.iter().map(|[alone, crowded]| crowded.gbit_s / alone.gbit_s).collect::<Vec<_>>())
    }

    fn rss_mib(&self) -> f64 {
        mib(self.memory.rss_kib)
    }
}

impl Figures {
    /// Resident memory of a pod, KiB: the difference from the fewest pods to the most.
    #[must_use]
    pub fn kib_per_pod(&self) -> Option<f64> {
        let (few, most) = (self.points.first()?, self.points.last()?);
        let pods = most.pods.checked_sub(few.pods).filter(|pods| *pods > 0)?;
        Some((most.memory.rss_kib as f64 - few.memory.rss_kib as f64) / pods as f64)
    }

    /// Whether throughput, memory and idle cost at the most pods are acceptable.
    #[must_use]
    pub fn met(&self) -> bool {
        let throughput = self.points.last().and_then(Point::throughput).map_or(f64::NAN, |r| r.mean);
        let idle = self.points.last().map_or(f64::NAN, |point| point.idle.cpu_percent);
        THROUGHPUT.met(throughput)
            && CPU_PERCENT.met(idle)
            && BASE_MIB.met(mib(self.empty.rss_kib))
            && POD_KIB.met(self.kib_per_pod().unwrap_or(f64::NAN))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "\npods on a node; memory and idle cost are of keeper and switch together\n{:>8} {:>8} {:>24} {:>9} {:>9} {:>7} {:>10}\n",
            "pods", "Gbit/s", "Gbit/s / 2 pods", "RSS MiB", "PSS MiB", "CPU %", "wakeups/s"
        );
        for point in &self.points {
            let gbit_s: Vec<f64> = point.runs.iter().map(|[_, crowded]| crowded.gbit_s).collect();
            let _ = writeln!(
                text,
                "{:>8} {:>8.2} {:>24} {:>9.1} {:>9.1} {:>7.3} {:>10.1}",
                point.pods,
                mean(&gbit_s),
                shown(point.throughput()),
                point.rss_mib(),
                mib(point.memory.pss_kib),
                point.idle.cpu_percent,
                point.idle.wakeups_s
            );
        }
        if let Some(most) = self.points.last() {
            let pods = most.pods;
            let throughput = most.throughput().map_or(f64::NAN, |r| r.mean);
            let _ = writeln!(
                text,
                "  throughput with {pods} pods / 2: {throughput:.3} ({})",
                THROUGHPUT.verdict(throughput)
            );
            let idle = most.idle;
            let _ = writeln!(
                text,
                "  idle with {pods} pods: {:.3} % of a processor ({}), {:.1} wakeups/s (record {WAKEUPS})",
                idle.cpu_percent,
                CPU_PERCENT.verdict(idle.cpu_percent),
                idle.wakeups_s
            );
        }
        let (base, pod) = (mib(self.empty.rss_kib), self.kib_per_pod().unwrap_or(f64::NAN));
        let _ = writeln!(text, "  without a pod: {base:.1} MiB resident ({})", BASE_MIB.verdict(base));
        let _ = writeln!(text, "  a pod: {pod:.1} KiB resident ({})", POD_KIB.verdict(pod));
        let _ = writeln!(
            text,
            "  after traffic, with two pods left: {:.1} MiB resident",
            mib(self.after.rss_kib)
        );
        text
    }

    /// The charts, each with the stem of its file's name. The subtitle says what devices there are; the rest is the caller's.
    #[must_use]
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let series = |name: &str, of: &dyn Fn(&Point) -> Option<f64>| {
            let points = self.points.iter().filter_map(|p| Some(chart::Point::exact(p.pods as f64, of(p)?)));
            Series { name: name.to_owned(), points: points.collect() }
        };
        let ratios = self.points.iter().filter_map(|point| {
            let Ratio { mean, low, high } = point.throughput()?;
            Some(chart::Point { x: point.pods as f64, y: mean, low, high })
        });
        let chart = |title: &str, y_label: &str, x_log: bool, series: Vec<Series>| Chart {
            title: title.to_owned(),
            subtitle: self.offloads.to_string(),
            x_label: "pods on the node, all but two idle".to_owned(),
            y_label: y_label.to_owned(),
            x_log,
            series,
        };
        let throughput =
            Series { name: "one TCP stream, 95 % interval".to_owned(), points: ratios.collect() };
        vec![
            (
                "pods-throughput",
                chart(
                    "Throughput between two pods of a node that fills",
                    "relative to a node with two pods",
                    true,
                    vec![throughput],
                ),
            ),
            (
                "pods-memory",
                chart(
                    "Memory of keeper and switch",
                    "MiB",
                    false,
                    vec![
                        series("resident", &|p| Some(p.rss_mib())),
                        series("proportional share", &|p| Some(mib(p.memory.pss_kib))),
                    ],
                ),
            ),
            (
                "pods-idle",
                chart(
                    "Processor time while nothing is sent",
                    "% of one processor",
                    false,
                    vec![series("keeper and switch", &|p| Some(p.idle.cpu_percent))],
                ),
            ),
        ]
    }
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.3} ({:.3} - {:.3})", r.mean, r.low, r.high))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A node and its pods, the pair first. Fields drop in order: pods, then the node.
struct Node {
    pods: Vec<Attached>,
    lab: Lab,
}

impl Node {
    fn start(programs: &Programs, stop: &Stop) -> Result<Node> {
        let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
        Ok(Node { pods: Vec::new(), lab: Lab::start(programs, options, stop)? })
    }

    /// Attaches pods until there are so many.
    fn fill(&mut self, pods: usize) -> Result<()> {
        while self.pods.len() < pods {
            self.pods.push(self.lab.pod(0, &format!("p{}", self.pods.len()))?);
        }
        Ok(())
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.lab.daemon(0).context("the node has a daemon")
    }

    fn pair(&self) -> Result<Pair<'_>> {
        let [from, far] = self.pods.first_chunk().context("two pods are attached")?;
        Ok(Pair { from: &from.netns, far: &far.netns, to: far.v4 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(throughput: f64, kib: [u64; 3], cpu_percent: f64) -> Figures {
        let run = |gbit_s| Run { gbit_s, retransmits: 0, cpu_s_per_gb: 1.0, steal: 0.0 };
        let memory = |rss_kib| Memory { rss_kib, pss_kib: rss_kib };
        let point = |pods, kib| Point {
            pods,
            memory: memory(kib),
            idle: Busy { cpu_percent, wakeups_s: 4.0 },
            runs: vec![[run(10.0), run(10.0 * throughput)]; 2],
        };
        let points = vec![point(2, kib[1]), point(250, kib[2])];
        let offloads = Offloads { underlay: None, pods: Vec::new() };
        Figures { offloads, empty: memory(kib[0]), points, after: memory(kib[1]) }
    }

    #[test]
    fn a_pod_is_the_difference_by_the_pods_between() {
        let figures = figures(1.0, [10_240, 10_256, 10_256 + 248 * 8], 0.05);
        assert!((figures.kib_per_pod().unwrap() - 8.0).abs() < 1e-9);
        assert!(figures.met());
        let table = figures.table();
        assert!(
            table.contains("a pod: 8.0 KiB resident (must 64, target 24, record 8: record reached)"),
            "{table}"
        );
        assert!(table.contains("without a pod: 10.0 MiB resident"), "{table}");
    }

    #[test]
    fn each_goal_can_be_missed() {
        let fine = [10_240, 10_256, 10_256 + 248 * 8];
        assert!(!figures(0.94, fine, 0.05).met());
        assert!(!figures(1.0, fine, 1.1).met());
        assert!(!figures(1.0, [70_000, 70_000, 70_000], 0.05).met());
        assert!(!figures(1.0, [10_240, 10_240, 10_240 + 248 * 65], 0.05).met());
    }

    #[test]
    fn the_charts_have_every_point() {
        for (stem, chart) in figures(0.9, [1, 2, 3], 0.1).charts() {
            assert!(chart.series.iter().all(|series| series.points.len() == 2), "{stem}");
        }
    }
}
