//! What the lab found, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was checked, between whom.
    pub name: String,
    /// Whether it was as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// The table row it belongs to.
    #[serde(skip)]
    pub group: &'static str,
    /// Round trip in milliseconds, where there is one.
    #[serde(skip)]
    pub rtt_ms: Option<f64>,
    /// Gigabits per second, where measured.
    #[serde(skip)]
    pub gbit_s: Option<f64>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// `ms` or `Gbit/s`.
    pub unit: &'static str,
}

/// Everything a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order they were made.
    pub checks: Vec<Check>,
    /// What each node dropped, one line each; shown when a check failed.
    pub drops: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    ok: bool,
    checks: &'a [Check],
    measurements: Vec<Measurement>,
}

/// One row of the table: the checks of a group taken together.
struct Row {
    group: &'static str,
    passed: usize,
    total: usize,
    rtt_ms: Option<f64>,
    gbit_s: Option<f64>,
}

impl Report {
    /// Whether every check passed, and there was one.
    pub fn ok(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// The JSON that `vsctl lab --json` prints.
    pub fn json(&self) -> String {
        let json = Json { ok: self.ok(), checks: &self.checks, measurements: self.measurements() };
        serde_json::to_string_pretty(&json).unwrap_or_default()
    }

    /// Means by group.
    pub fn measurements(&self) -> Vec<Measurement> {
        let mut all = Vec::new();
        for row in self.rows() {
            let figures = [("round trip", row.rtt_ms, "ms"), ("throughput", row.gbit_s, "Gbit/s")];
            for (what, value, unit) in figures {
                if let Some(value) = value {
                    all.push(Measurement { name: format!("{}: {what}", row.group), value, unit });
                }
            }
        }
        all
    }

    fn rows(&self) -> Vec<Row> {
        let mut groups: Vec<&'static str> = Vec::new();
        for check in &self.checks {
            if !groups.contains(&check.group) {
                groups.push(check.group);
            }
        }
        groups
            .into_iter()
            .map(|group| {
                let of_group = || self.checks.iter().filter(|check| check.group == group);
                Row {
                    group,
                    passed: of_group().filter(|check| check.ok).count(),
                    total: of_group().count(),
                    rtt_ms: mean(of_group().filter_map(|check| check.rtt_ms)),
                    gbit_s: mean(of_group().filter_map(|check| check.gbit_s)),
                }
            })
            .collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let rows = self.rows();
        let wide = rows.iter().map(|row| row.group.len()).max().unwrap_or(0).max(5);
        let _ = writeln!(
            text,
            "  {:wide$}  {:>7}  {:>11}  {:>13}",
            "check", "passed", "round trip", "throughput"
        );
        for row in rows {
            let figure = |value: Option<f64>, digits: usize, unit: &str| {
                value.map_or(String::new(), |value| format!("{value:.digits$} {unit}"))
            };
            let line = format!(
                "  {:wide$}  {:>7}  {:>11}  {:>13}",
                row.group,
                format!("{}/{}", row.passed, row.total),
                figure(row.rtt_ms, 3, "ms"),
                figure(row.gbit_s, 2, "Gbit/s"),
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for check in self.checks.iter().filter(|check| !check.ok) {
            let _ = writeln!(text, "  FAILED {}: {}", check.name, check.detail);
        }
        if !self.ok() {
            for line in &self.drops {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

#[allow(clippy::cast_precision_loss)] // a handful of values
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(group: &'static str, ok: bool, rtt_ms: Option<f64>) -> Check {
        Check { name: format!("{group} a b"), ok, detail: "seen".into(), group, rtt_ms, gbit_s: None }
    }

    #[test]
    fn groups_are_rows_and_failures_are_named() {
        let report = Report {
            checks: vec![check("x", true, Some(1.0)), check("x", false, Some(3.0))],
            drops: vec!["n1 dropped: 2 no-route".into()],
        };
        let table = report.table();
        assert!(table.contains("1/2"), "{table}");
        assert!(table.contains("2.000 ms"), "{table}");
        assert!(table.contains("FAILED x a b: seen"), "{table}");
        assert!(table.contains("n1 dropped: 2 no-route"), "{table}");
        assert!(!report.ok());
    }

    #[test]
    fn json_has_exactly_the_documented_keys() {
        let report = Report { checks: vec![check("x", true, Some(1.0))], drops: Vec::new() };
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["ok"], true);
        let keys: Vec<_> = value["checks"][0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["detail", "name", "ok"]);
        let keys: Vec<_> = value["measurements"][0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "unit", "value"]);
    }

    #[test]
    fn nothing_checked_is_not_success() {
        assert!(!Report::default().ok());
    }
}
