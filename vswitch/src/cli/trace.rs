//! `vsctl trace`: a packet's way as numbered steps.

use std::fmt::Write as _;

use control::api::TraceReport;

pub(super) fn render(report: &TraceReport) -> String {
    let width = report.steps.iter().map(|step| step.stage.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (i, step) in report.steps.iter().enumerate() {
        let _ = writeln!(out, "{:>2}. {:<width$}  {}", i + 1, step.stage, step.text);
    }
    let _ =
        writeln!(out, "{}: {}", if report.delivered { "arrives" } else { "DOES NOT ARRIVE" }, report.verdict);
    out
}
