//! The table and the JSON of a comparison.

use std::fmt::Write as _;

use serde::Serialize;

use crate::chart::Chart;
use crate::cni::Timings;
use crate::offloads::{self, Offloads};
use crate::rows::{Bench, Goal, Line};
use crate::scenario::Run;
use crate::stats::{mean, quantile, ratio};

/// One line of the table: the values of one row's runs, in pairs.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The row's short name.
    pub row: &'static str,
    /// The goal's name, where it has one.
    pub id: &'static str,
    /// What was compared.
    pub title: &'static str,
    /// The values' unit.
    pub unit: &'static str,
    /// A, one run of each pair.
    pub a: Vec<f64>,
    /// B, in the same order.
    pub b: Vec<f64>,
    /// B / A: geometric mean of the pairs, and its 95 % interval.
    pub ratio: Option<[f64; 3]>,
    /// What the ratio must be.
    pub must: Option<f64>,
    /// What is aimed at.
    pub target: Option<f64>,
    /// The ratio is to be small.
    pub lower_is_better: bool,
    /// Whether it is what it must be; true where nothing is asked.
    pub met: bool,
    /// What the devices under A and under B do for the kernel.
    pub offloads: [Offloads; 2],
    /// TCP segments sent again by A and by B.
    pub retransmits: [u64; 2],
    /// Share of all processors that the hypervisor took, the worse of both sides' means.
    pub steal: f64,
}

impl Measured {
    /// Reads one line off the runs of its row.
    #[must_use]
    pub fn new(bench: &Bench, line: &Line, [a, b]: &[Vec<Run>; 2], offloads: &[Offloads; 2]) -> Measured {
        let values = |runs: &[Run]| -> Vec<f64> {
            runs.iter().map(|run| run.values.get(line.value).copied().unwrap_or(f64::NAN)).collect()
        };
        let steal = |runs: &[Run]| mean(&runs.iter().map(|run| run.steal).collect::<Vec<_>>());
        let again = |runs: &[Run]| runs.iter().map(|run| run.retransmits).sum();
        let (left, right) = (values(a), values(b));
        let pairs: Vec<f64> = left.iter().zip(&right).map(|(a, b)| b / a).collect();
        let ratio = ratio(&pairs).map(|r| [r.mean, r.low, r.high]);
        let met = match ratio {
            Some([mean, ..]) => line.goal.met(mean),
            None => line.goal == Goal::None,
        };
        Measured {
            row: bench.id,
            id: line.id,
            title: line.title,
            unit: line.unit,
            a: left,
            b: right,
            ratio,
            must: line.goal.bounds().map(|(must, _)| must),
            target: line.goal.bounds().map(|(_, target)| target),
            lower_is_better: matches!(line.goal, Goal::AtMost(..)),
            met,
            offloads: offloads.clone(),
            retransmits: [again(a), again(b)],
            steal: steal(a).max(steal(b)),
        }
    }
}

/// Everything of one comparison.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Kernel release.
    pub kernel: String,
    /// The commit that was built, where git knows it.
    pub commit: String,
    /// Processors.
    pub cpus: usize,
    /// Seconds of each run, without warm-up.
    pub seconds: u32,
    /// The rows.
    pub rows: Vec<Measured>,
    /// Attaching and detaching.
    pub cni: Option<Timings>,
    /// New connections under policy.
    pub rates: Option<crate::policy::Rates>,
    /// Policy at scale.
    pub policy: Option<crate::policy::Figures>,
    /// Pods on a node.
    pub pods: Option<crate::pods::Figures>,
    /// Routes on a node.
    pub routes: Option<crate::routes::Figures>,
    /// Concurrent flows.
    pub flows: Option<crate::flows::Figures>,
    /// Milliseconds from a label's change to the first packet it admits.
    pub label: Option<Vec<f64>>,
    /// A stream on an underlay that loses packets.
    pub loss: Option<crate::loss::Figures>,
    /// Small datagrams for long.
    pub soak: Option<crate::soak::Soak>,
    /// A router's large table.
    pub bgp: Option<crate::bgp::Loaded>,
    /// A route that changes.
    pub reroute: Option<crate::reroute::Changes>,
}

impl Comparison {
    /// Whether everything that was measured is what it must be.
    #[must_use]
    pub fn met(&self) -> bool {
        self.rows.iter().all(|row| row.met)
            && self.cni.as_ref().is_none_or(Timings::met)
            && self.policy.as_ref().is_none_or(crate::policy::Figures::met)
            && self.pods.as_ref().is_none_or(crate::pods::Figures::met)
            && self.routes.as_ref().is_none_or(crate::routes::Figures::met)
            && self.flows.as_ref().is_none_or(crate::flows::Figures::met)
            && self.loss.as_ref().is_none_or(crate::loss::Figures::met)
            && self.soak.as_ref().is_none_or(crate::soak::Soak::met)
    }

    /// A chart of each curve, with the name of its file.
    #[must_use]
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let mut charts = Vec::new();
        charts.extend(self.policy.iter().flat_map(crate::policy::Figures::charts));
        charts.extend(self.pods.iter().flat_map(crate::pods::Figures::charts));
        charts.extend(self.routes.iter().flat_map(crate::routes::Figures::charts));
        charts.extend(self.flows.iter().flat_map(crate::flows::Figures::charts));
        for (_, chart) in &mut charts {
            // What is there by now is the state of its devices' offloads.
            chart.subtitle = format!(
                "Linux {}, {} processors, {}, commit {}",
                self.kernel, self.cpus, chart.subtitle, self.commit
            );
        }
        charts
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "Linux {}, {} processors, commit {}; TCP with cubic, {} s after warm-up; pairs in order A B B A\n\n",
            self.kernel, self.cpus, self.commit, self.seconds
        );
        let _ = writeln!(
            text,
            "{:4} {:46} {:>9} {:>9} {:8} {:>6} {:>13} {:>7} {:>7} {:>9} {:>6}",
            "", "", "A", "B", "", "B/A", "95 %", "must", "target", "retrans.", "steal"
        );
        for row in &self.rows {
            text.push_str(&line(row));
        }
        if !self.rows.is_empty() {
            text.push_str("\noffloads that are on\n");
            text.push_str(&offloads::summary(self.rows.iter().map(|row| (row.row, &row.offloads))));
        }
        text.extend(self.cni.as_ref().map(Timings::table));
        text.extend(self.rates.as_ref().map(crate::policy::Rates::table));
        text.extend(self.policy.as_ref().map(crate::policy::Figures::table));
        text.extend(self.pods.as_ref().map(crate::pods::Figures::table));
        text.extend(self.routes.as_ref().map(crate::routes::Figures::table));
        text.extend(self.flows.as_ref().map(crate::flows::Figures::table));
        text.extend(self.loss.as_ref().map(crate::loss::Figures::table));
        text.extend(self.soak.as_ref().map(crate::soak::Soak::table));
        if let Some(times) = &self.label {
            let _ = writeln!(
                text,
                "\na label changed among 10,000 pods and 2,000 policies, felt by packets after {:.1} ms at the median, {:.1} ms p99 of {}",
                quantile(times, 0.5),
                quantile(times, 0.99),
                times.len()
            );
        }
        text.extend(self.bgp.as_ref().map(crate::bgp::Loaded::table));
        text.extend(self.reroute.as_ref().map(crate::reroute::Changes::table));
        text
    }
}

fn line(row: &Measured) -> String {
    let sign = if row.lower_is_better { "<=" } else { ">=" };
    let bound = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{sign}{value:.2}"));
    let (middle, interval) = row.ratio.map_or(("-".to_owned(), "-".to_owned()), |[mean, low, high]| {
        (format!("{mean:.2}"), format!("{low:.2} - {high:.2}"))
    });
    let [a, b] = row.retransmits;
    format!(
        "{:4} {:46} {:>9.2} {:>9.2} {:8} {middle:>6} {interval:>13} {:>7} {:>7} {:>9} {:>5.1}%{}\n",
        row.id,
        row.title,
        mean(&row.a),
        mean(&row.b),
        row.unit,
        bound(row.must),
        bound(row.target),
        format!("{a}/{b}"),
        row.steal * 100.0,
        if row.met { "" } else { "  MISSED" },
    )
}
