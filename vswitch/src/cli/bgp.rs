//! How `vsctl bgp` looks.

use std::fmt::Write as _;

use control::api::{BgpPathInfo, BgpReport};

use super::table::Column::{Left, Right};
use super::table::{Table, duration};

/// The speaker, and its neighbours one a line.
pub(super) fn peers(report: &BgpReport) -> String {
    let mut out = format!("AS {}, router id {}", report.asn, report.router_id);
    if let Some(id) = report.cluster_id {
        let _ = write!(out, ", reflector of cluster {id}");
    }
    out.push('\n');
    if report.waiting > 0 {
        let _ = writeln!(out, "{} changes wait for the host's kernel", report.waiting);
    }
    if report.peers.is_empty() {
        out.push_str("no neighbours\n");
        return out;
    }
    let mut table = Table::new([
        Left("NEIGHBOUR"),
        Right("AS"),
        Left("STATE"),
        Right("FOR"),
        Right("RECEIVED"),
        Right("ACCEPTED"),
        Right("SENT"),
        Left("LAST ERROR"),
    ]);
    let sum = |n: [u32; 2]| n.iter().map(|n| u64::from(*n)).sum::<u64>().to_string();
    for p in &report.peers {
        let mut state = p.state.clone();
        if p.held {
            state.push_str(" (too many prefixes)");
        }
        if let Some(left) = p.restarting_s {
            let _ = write!(state, " (restarts, {left} s left)");
        }
        let error = match (&p.last_error, p.last_error_s) {
            (Some(why), Some(ago)) => format!("{why}, {} ago", duration(ago * 1000)),
            _ => String::new(),
        };
        table.row([
            p.address.to_string(),
            p.asn.to_string(),
            state,
            duration(p.since_s * 1000),
            sum(p.received),
            sum(p.accepted),
            sum(p.announced),
            error,
        ]);
    }
    out + &table.render()
}

/// Routes, each way to a prefix on a line of its own: `>` is used, `x` takes no part.
pub(super) fn routes(report: &BgpReport) -> String {
    if report.routes.is_empty() {
        return "no routes\n".to_owned();
    }
    let mut table = Table::new([
        Left(" "),
        Left("PREFIX"),
        Left("NEXT HOP"),
        Left("FROM"),
        Left("AS PATH"),
        Right("PREFERENCE"),
        Right("MED"),
        Left("WHY"),
    ]);
    let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
    for route in &report.routes {
        for (i, path) in route.paths.iter().enumerate() {
            table.row([
                mark(path).to_owned(),
                if i == 0 { route.net.to_string() } else { String::new() },
                path.next_hop.map_or_else(|| "this node".to_owned(), |hop| hop.to_string()),
                path.peer.map(|peer| peer.to_string()).unwrap_or_default(),
                path.as_path.clone(),
                number(path.local_pref),
                number(path.med),
                match (&path.rejected, i) {
                    (Some(why), _) => why.clone(),
                    (None, 0) => route.why.clone().unwrap_or_default(),
                    _ => String::new(),
                },
            ]);
        }
    }
    let mut out = table.render();
    if report.left_out > 0 {
        let _ = writeln!(
            out,
            "and {} more: ask for a part, as in `vsctl bgp routes 10.0.0.0/16`",
            report.left_out
        );
    }
    out
}

fn mark(path: &BgpPathInfo) -> &'static str {
    match (path.used, &path.rejected) {
        (true, _) if path.stale => ">s",
        (true, _) => ">",
        (false, Some(_)) => "x",
        (false, None) => "*",
    }
}
