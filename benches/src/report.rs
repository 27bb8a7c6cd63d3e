//! The table and the JSON of a comparison.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cni::Timings;
use crate::iperf::Run;
use crate::rows::Row;
use crate::stats::{mean, quantile, ratio};

/// The runs of one row, in pairs.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The row's short name.
    pub id: &'static str,
    /// What was compared.
    pub title: &'static str,
    /// A (the kernel), one run of each pair.
    pub a: Vec<Run>,
    /// B (ours), in the same order.
    pub b: Vec<Run>,
    /// Throughput B / A: geometric mean of the pairs, and its 95 % interval.
    pub ratio: Option<[f64; 3]>,
    /// The same of processor seconds for each GB: lower is better.
    pub cpu_ratio: Option<[f64; 3]>,
    /// The least ratio wanted.
    pub must: Option<f64>,
    /// The ratio aimed at.
    pub target: Option<f64>,
}

impl Measured {
    /// Sums up the pairs of `row`.
    #[must_use]
    pub fn new(row: Row, a: Vec<Run>, b: Vec<Run>) -> Measured {
        let of = |value: fn(&Run) -> f64| {
            let pairs: Vec<f64> = a.iter().zip(&b).map(|(a, b)| value(b) / value(a)).collect();
            ratio(&pairs).map(|r| [r.mean, r.low, r.high])
        };
        let (throughput, cpu) = (of(|run| run.gbit_s), of(|run| run.cpu_s_per_gb));
        let (must, target) = row.goal().map_or((None, None), |(must, target)| (Some(must), Some(target)));
        Measured { id: row.id(), title: row.title(), a, b, ratio: throughput, cpu_ratio: cpu, must, target }
    }

    /// Whether the least ratio is reached; true where there is none.
    #[must_use]
    pub fn met(&self) -> bool {
        match (self.must, self.ratio) {
            (Some(must), Some([mean, ..])) => mean >= must,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }
}

/// Everything of one comparison.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Kernel release.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// Seconds of each run, without warm-up.
    pub seconds: u32,
    /// The rows.
    pub rows: Vec<Measured>,
    /// Attaching and detaching.
    pub cni: Option<Timings>,
    /// Policy at scale.
    pub policy: Option<crate::policy::Figures>,
    /// Milliseconds from a label's change to the first packet it admits.
    pub label: Option<Vec<f64>>,
    /// A router's large table.
    pub bgp: Option<crate::bgp::Loaded>,
    /// A route that changes.
    pub reroute: Option<crate::reroute::Changes>,
}

impl Comparison {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "Linux {}, {} processors; one TCP stream, cubic, {} s after 1 s of warm-up; order A B B A\n\n",
            self.kernel, self.cpus, self.seconds
        );
        let _ = writeln!(
            text,
            "{:3} {:54} {:>7} {:>7} {:>6} {:>13} {:>5} {:>6}  {:>9} {:>9} {:>6}  {:>9} {:>6}",
            "",
            "TCP throughput",
            "A Gb/s",
            "B Gb/s",
            "B/A",
            "95 %",
            "must",
            "target",
            "A CPU s/GB",
            "B",
            "B/A",
            "retrans.",
            "steal"
        );
        for row in &self.rows {
            text.push_str(&line(row));
        }
        if let Some(cni) = &self.cni {
            text.push_str(&cni_lines(cni));
        }
        if let Some(policy) = &self.policy {
            text.push_str(&policy.table());
        }
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
    let of = |runs: &[Run], value: fn(&Run) -> f64| mean(&runs.iter().map(value).collect::<Vec<_>>());
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let interval = row.ratio.map_or("-".to_owned(), |[_, low, high]| format!("{low:.2} - {high:.2}"));
    let again = |runs: &[Run]| runs.iter().map(|run| run.retransmits).sum::<u64>();
    let steal = of(&row.a, |run| run.steal).max(of(&row.b, |run| run.steal));
    format!(
        "{:3} {:54} {:>7.2} {:>7.2} {:>6} {:>13} {:>5} {:>6}  {:>10.2} {:>9.2} {:>6}  {:>9} {:>5.1}%{}\n",
        row.id,
        row.title,
        of(&row.a, |run| run.gbit_s),
        of(&row.b, |run| run.gbit_s),
        number(row.ratio.map(|r| r[0])),
        interval,
        number(row.must),
        number(row.target),
        of(&row.a, |run| run.cpu_s_per_gb),
        of(&row.b, |run| run.cpu_s_per_gb),
        number(row.cpu_ratio.map(|r| r[0])),
        format!("{}/{}", again(&row.a), again(&row.b)),
        steal * 100.0,
        if row.met() { "" } else { "  BELOW MUST" },
    )
}

fn cni_lines(cni: &Timings) -> String {
    let both = |add: &[f64], del: &[f64]| add.iter().zip(del).map(|(a, d)| a + d).collect::<Vec<f64>>();
    let theirs = both(&cni.reference_add, &cni.reference_del);
    let ours = both(&cni.ours_add, &cni.ours_del);
    let mut text = format!(
        "\n{:22} {:>16} {:>12} {:>6}\n",
        "attach a pod, ms", "bridge+host-local", "vswitch-cni", "B/A"
    );
    for (name, a, b) in [
        ("ADD p50", quantile(&cni.reference_add, 0.5), quantile(&cni.ours_add, 0.5)),
        ("ADD p99", quantile(&cni.reference_add, 0.99), quantile(&cni.ours_add, 0.99)),
        ("DEL p50", quantile(&cni.reference_del, 0.5), quantile(&cni.ours_del, 0.5)),
        ("ADD + DEL p50", quantile(&theirs, 0.5), quantile(&ours, 0.5)),
    ] {
        let _ = writeln!(text, "{name:22} {a:>16.1} {b:>12.1} {:>6.2}", b / a);
    }
    text
}
