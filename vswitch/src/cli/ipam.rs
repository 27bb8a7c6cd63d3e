//! How `vsctl ipam` looks, and what it asks for.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use control::api::{AddressInfo, IpamQuery, IpamReport};
use serde_json::Value;

use super::args::IpamWhat;
use super::table::Column::{Left, Right};
use super::table::Table;

/// What to ask.
///
/// # Errors
/// A report that cannot be read.
pub(super) fn query(what: Option<&IpamWhat>) -> Result<IpamQuery, String> {
    Ok(match what {
        None | Some(IpamWhat::Show { ip: None, .. }) => IpamQuery::Show,
        Some(IpamWhat::Show { ip: Some(ip), .. }) => IpamQuery::Ip(*ip),
        Some(IpamWhat::Check) => IpamQuery::Check,
        Some(IpamWhat::Release { ip: Some(ip), .. }) => IpamQuery::Release(vec![*ip]),
        Some(IpamWhat::Release { from_report, .. }) => {
            IpamQuery::Repair(findings(from_report.as_deref().unwrap_or(Path::new("-")))?)
        }
    })
}

fn findings(path: &Path) -> Result<Vec<Value>, String> {
    let named = |err: &dyn std::fmt::Display| format!("{}: {err}", path.display());
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|err| named(&err))?;
        text
    } else {
        std::fs::read_to_string(path).map_err(|err| named(&err))?
    };
    let report: Value = serde_json::from_str(&text).map_err(|err| named(&err))?;
    match report.get("findings") {
        Some(Value::Array(findings)) => Ok(findings.clone()),
        _ => Err(named(&"this is no report of vsctl --json ipam check")),
    }
}

/// Pools, and blocks if they are wanted.
pub(super) fn show(report: &IpamReport, blocks: bool) -> String {
    if let Some(info) = &report.address {
        return address(info);
    }
    if report.pools.is_empty() {
        return "no pools: write an IPPool with vsctl apply\n".to_owned();
    }
    let mut table = Table::new([
        Left("POOL"),
        Left("RANGE"),
        Right("BLOCKS"),
        Right("ADDRESSES"),
        Right("USED"),
        Right("%"),
    ]);
    for pool in &report.pools {
        let size = pool.block_size.map_or(String::new(), |size| format!(" of /{size}"));
        table.row([
            pool.name.clone(),
            pool.cidr.to_string(),
            format!("{}{size}", pool.blocks),
            pool.addresses.to_string(),
            pool.used.to_string(),
            format!("{:.1}", pool.used as f64 * 100.0 / pool.addresses.max(1) as f64),
        ]);
    }
    let mut out = table.render();
    if blocks {
        let mut table = Table::new([
            Left("BLOCK"),
            Left("NODE"),
            Left("AFFINITY"),
            Right("USED"),
            Right("BORROWED"),
            Right("COOLING"),
            Right("FREE"),
        ]);
        for block in &report.blocks {
            table.row([
                block.cidr.to_string(),
                block.node.clone().unwrap_or_default(),
                block.affinity.clone(),
                block.used.to_string(),
                block.borrowed.to_string(),
                block.cooling.to_string(),
                block.free.to_string(),
            ]);
        }
        out.push('\n');
        out += &table.render();
    }
    out
}

fn address(info: &AddressInfo) -> String {
    let mut out = format!("{}  {}\n", info.address, info.state);
    let block = info.block.map(|block| block.to_string());
    for (name, value) in [
        ("pod", &info.pod),
        ("node", &info.node),
        ("handle", &info.handle),
        ("since", &info.since),
        ("block", &block),
    ] {
        if let Some(value) = value {
            let value: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            let _ = writeln!(out, "  {name:<7} {value}");
        }
    }
    out
}

/// What a check found.
pub(super) fn check(report: &IpamReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let detail = finding.get("detail").and_then(Value::as_str).unwrap_or_default();
        let clean: String = detail.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(out, "{clean}");
    }
    let used: u64 = report.pools.iter().map(|pool| pool.used).sum();
    let (n, blocks) = (report.findings.len(), report.blocks.len());
    let _ = writeln!(out, "{used} addresses in {blocks} blocks looked at, {n} findings");
    out
}

/// What was released, and what was not.
pub(super) fn released(report: &IpamReport) -> String {
    let lines = report.done.iter().map(|line| format!("released: {line}"));
    let left = report.left.iter().map(|line| format!("left: {line}"));
    let mut out: String = lines.chain(left).map(|line| line + "\n").collect();
    if out.is_empty() {
        out.push_str("nothing to release\n");
    }
    out
}
