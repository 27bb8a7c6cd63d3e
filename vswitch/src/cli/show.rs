//! How answers look to people.

use std::fmt::{Display, Write as _};

use control::api::{
    DropInfo, EventInfo, EventKind, FlowInfo, PeerInfo, PolicyReport, PortInfo, RouteInfo, RouteKind,
    StatusReport, StoreInfo,
};

use super::table::Column::{Left, Right};
use super::table::{Table, bytes, duration};

/// Wrong keys of the store that are shown; `--json` has all.
const MOST_PROBLEMS: usize = 20;
/// Peers of one MTU that the status names.
const MOST_NAMES: usize = 5;

fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn plural(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// One screen; the first line says whether all is well.
pub(super) fn status(s: &StatusReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "node {}: {}", s.node, if s.ok { "ok" } else { "NOT OK" });
    for problem in &s.problems {
        let _ = writeln!(out, "  ! {problem}");
    }
    let mut addresses = String::new();
    for address in s.address.map(|a| a.to_string()).into_iter().chain(s.address6.map(|a| a.to_string())) {
        let _ = write!(addresses, "{}{address}", if addresses.is_empty() { "" } else { ", " });
    }
    let mut line = |key: &str, text: String| {
        let _ = writeln!(out, "  {key:<10}{text}");
    };
    line(
        "version",
        format!("{}, up {}, {}", s.version, duration(s.uptime_s * 1000), plural(s.restarts, "restart")),
    );
    line("uplink", format!("{} ({addresses})", s.uplink));
    line("tunnel", format!("{}, pods' MTU {}", s.tunnel, s.mtu));
    line("pods", format!("{} in {}", s.ports, joined(&s.pod_cidrs)));
    line("addresses", format!("{} of {} in use", s.addresses_used, total(s.addresses_total)));
    line("peers", peers_line(s));
    line("workers", format!("{}, {}, tables number {}", s.workers, plural(s.flows, "flow"), s.epoch));
    if let Some(store) = &s.store {
        line("store", store_line(store, &s.store_problems));
    }
    line("policy", policy_line(s));
    line("frames", format!("{} received, {} delivered, {} dropped", s.received, s.delivered, s.dropped));
    out
}

/// How many, and which packets their ways take: `3, MTU 1450 (n2, n4), 1430 (n3)`.
fn peers_line(s: &StatusReport) -> String {
    let mut text = s.peers.to_string();
    for (i, (mtu, names)) in s.peer_mtus.iter().rev().enumerate() {
        let _ = write!(text, "{}{mtu} (", if i == 0 { ", MTU " } else { ", " });
        let shown: Vec<&str> = names.iter().map(String::as_str).take(MOST_NAMES).collect();
        text.push_str(&shown.join(", "));
        if names.len() > MOST_NAMES {
            let _ = write!(text, " and {} more", names.len() - MOST_NAMES);
        }
        text.push(')');
    }
    text
}

fn store_line(store: &StoreInfo, problems: &[String]) -> String {
    let mut text = match (store.connected, store.age_s) {
        (true, _) => format!("{} at {}, revision {}", store.kind, store.endpoint, store.revision),
        (false, Some(age)) => format!("{} NOT REACHED, as it was {} ago", store.kind, duration(age * 1000)),
        (false, None) => format!("{} NOT REACHED yet", store.kind),
    };
    if let (false, Some(err)) = (store.connected, &store.error) {
        let _ = write!(text, ": {err}");
    }
    if let Some(lease) = &store.lease {
        let _ = write!(text, ", lease {lease}");
        match store.lease_ends_s {
            Some(left) => {
                let _ = write!(text, " for {}", duration(left * 1000));
            }
            None => text.push_str(" (reserved)"),
        }
    }
    for problem in problems.iter().take(MOST_PROBLEMS) {
        let _ = write!(text, "\n            ! {problem}");
    }
    if problems.len() > MOST_PROBLEMS {
        let _ = write!(text, "\n            ! and {} more keys", problems.len() - MOST_PROBLEMS);
    }
    text
}

fn policy_line(s: &StatusReport) -> String {
    let mut text = format!(
        "{}, {} tracked",
        if s.policies == 1 { "1 policy".to_owned() } else { format!("{} policies", s.policies) },
        plural(s.connections, "connection")
    );
    for problem in &s.policy_problems {
        let _ = write!(text, "\n            ! {problem}");
    }
    text
}

/// Rules in order of evaluation, pod by pod.
pub(super) fn policy(report: &PolicyReport) -> String {
    let mut out = format!("{} policies and {} endpoints are known here\n", report.policies, report.endpoints);
    for problem in &report.problems {
        let _ = writeln!(out, "! {problem}");
    }
    if report.rules.is_empty() {
        out.push_str("no rule applies: everything is allowed\n");
        return out;
    }
    let mut table = Table::new([
        Left("POD"),
        Left("DIRECTION"),
        Left("TIER"),
        Left("POLICY"),
        Right("RULE"),
        Right("FLOWS"),
        Left("MEANING"),
    ]);
    for r in &report.rules {
        table.row([
            r.pod.clone(),
            r.direction.clone(),
            r.tier.clone(),
            r.policy.clone().unwrap_or_default(),
            r.rule.map_or_else(String::new, |n| n.to_string()),
            r.hits.to_string(),
            if r.staged { format!("(not enforced) {}", r.text) } else { r.text.clone() },
        ]);
    }
    out.push_str(&table.render());
    out
}

/// One line for one event.
pub(super) fn event(e: &EventInfo) -> String {
    let with = |addr, pod: &Option<String>, port| {
        let end = end(addr, e.proto, port);
        pod.as_ref().map_or(end.clone(), |pod| format!("{end} ({pod})"))
    };
    let what = match e.kind {
        EventKind::Drop => format!("drop {}", e.reason),
        EventKind::Log => format!("log {}", e.reason),
    };
    let seconds = e.time_ms / 1000 % 86_400;
    let mut line = format!(
        "{:02}:{:02}:{:02}.{:03}  {what}  at {}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        e.time_ms % 1000,
        e.at
    );
    if e.src.is_some() {
        let (src, dst) = (with(e.src, &e.src_pod, e.sport), with(e.dst, &e.dst_pod, e.dport));
        let _ = write!(line, "  {} {src} to {dst}", proto(e.proto));
    }
    if let Some(policy) = &e.policy {
        let _ = write!(line, "  by {policy}");
    }
    line.push('\n');
    line
}

/// Ranges of IPv6 hold more addresses than a number of use.
fn total(n: u64) -> String {
    if n > 1_000_000_000 { "very many".to_owned() } else { n.to_string() }
}

pub(super) fn ports(ports: &[PortInfo]) -> String {
    if ports.is_empty() {
        return "no pod is attached\n".to_owned();
    }
    let mut table = Table::new([
        Left("POD"),
        Left("ADDRESSES"),
        Left("MAC"),
        Right("MTU"),
        Right("SENT"),
        Right("BYTES"),
        Right("RECEIVED"),
        Right("BYTES"),
        Right("DROPPED"),
        Left("CONTAINER"),
    ]);
    for p in ports {
        table.row([
            p.pod.clone(),
            joined(&p.addresses),
            p.mac.clone(),
            p.mtu.to_string(),
            p.tx_packets.to_string(),
            bytes(p.tx_bytes),
            p.rx_packets.to_string(),
            bytes(p.rx_bytes),
            p.dropped.to_string(),
            // Twelve characters tell containers apart, as in other tools; --json has the whole id.
            format!("{} {}", p.container_id.chars().take(12).collect::<String>(), p.ifname),
        ]);
    }
    table.render()
}

pub(super) fn routes(routes: &[RouteInfo]) -> String {
    let mut table = Table::new([Left("DESTINATION"), Left("LEADS TO"), Left("NAME")]);
    for r in routes {
        let kind = match r.kind {
            RouteKind::Pod => "pod",
            RouteKind::Peer => "peer",
            RouteKind::Host => "host",
            RouteKind::Gateway => "gateway",
            RouteKind::Blackhole => "blackhole",
        };
        table.row([r.dst.to_string(), kind.to_owned(), r.via.clone()]);
    }
    table.render()
}

pub(super) fn peers(peers: &[PeerInfo]) -> String {
    if peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let mut table = Table::new([
        Left("NAME"),
        Left("ADDRESS"),
        Left("VIA"),
        Left("POD RANGES"),
        Right("SENT"),
        Right("BYTES"),
        Right("RECEIVED"),
        Right("BYTES"),
        Right("LAST HEARD"),
        Right("MTU"),
        Right("RTT"),
        Right("LOST"),
    ]);
    for p in peers {
        table.row([
            p.name.clone(),
            p.address.map(|a| a.to_string()).unwrap_or_default(),
            p.via.clone(),
            joined(&p.pod_cidrs),
            p.tx_packets.to_string(),
            bytes(p.tx_bytes),
            p.rx_packets.to_string(),
            bytes(p.rx_bytes),
            p.last_heard_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", duration(ms))),
            p.mtu.to_string(),
            p.rtt_us.map_or_else(|| "-".to_owned(), |us| format!("{}.{:03} ms", us / 1000, us % 1000)),
            if p.echoes == 0 { "-".to_owned() } else { format!("{}/{}", p.echoes_lost, p.echoes) },
        ]);
    }
    table.render()
}

/// Most frequent first; reasons that never occurred only on request.
pub(super) fn drops(drops: &[DropInfo], all: bool) -> String {
    let mut shown: Vec<&DropInfo> = drops.iter().filter(|d| all || d.count > 0).collect();
    if shown.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    shown.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    let mut table = Table::new([Right("COUNT"), Left("REASON"), Left("MEANING")]);
    for d in shown {
        table.row([d.count.to_string(), d.reason.clone(), d.help.clone()]);
    }
    table.render()
}

pub(super) fn flows(flows: &[FlowInfo]) -> String {
    if flows.is_empty() {
        return "no flow is cached\n".to_owned();
    }
    let mut table = Table::new([
        Left("FROM"),
        Left("PROTO"),
        Left("SOURCE"),
        Left("DESTINATION"),
        Left("ACTION"),
        Right("PACKETS"),
        Right("BYTES"),
        Right("IDLE"),
        Left("BY"),
    ]);
    for f in flows {
        table.row([
            f.ingress.clone(),
            proto(f.proto),
            end(f.src, f.proto, f.sport),
            end(f.dst, f.proto, f.dport),
            f.action.clone(),
            f.packets.to_string(),
            bytes(f.bytes),
            duration(f.idle_ms),
            f.egress.iter().chain(&f.ingress_rule).cloned().collect::<Vec<_>>().join(", "),
        ]);
    }
    table.render()
}

fn proto(n: u8) -> String {
    match n {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        n => n.to_string(),
    }
}

/// An end of a flow, with its port where the protocol has ports.
fn end(address: Option<std::net::IpAddr>, proto: u8, port: u16) -> String {
    match address {
        None => String::new(),
        Some(address) if matches!(proto, 6 | 17 | 132 | 136) => {
            std::net::SocketAddr::new(address, port).to_string()
        }
        Some(address) => address.to_string(),
    }
}
