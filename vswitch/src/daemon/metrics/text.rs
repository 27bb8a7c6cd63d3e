//! A scrape as Prometheus reads it: text format 0.0.4.
//!
//! Names follow the Prometheus conventions (base units, `_total` on counters). Every drop reason is there from the
//! start with 0, so that a rate over it is right from the first drop on.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::SystemTime;

use super::{NeighbourSample, PortSample, RuleSample, Scrape};
use crate::counters::DropReason;

/// The whole answer.
pub(super) fn render(s: &Scrape, started: SystemTime) -> String {
    let mut out = Text::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.family("vswitch_build_info", GAUGE, "Version of the switch; always 1.");
    out.sample(&version, 1);
    out.family(
        "vswitch_start_time_seconds",
        GAUGE,
        "When this switch process started, in seconds since 1970.",
    );
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    out.sample(&[], format_args!("{}.{:03}", since.as_secs(), since.subsec_millis()));
    out.family("vswitch_ready", GAUGE, "1 when the node is ready for pods, else 0.");
    out.sample(&[], u8::from(s.problems.is_empty()));
    out.single("vswitch_tables_epoch", GAUGE, "Number of the forwarding tables in force.", s.epoch);
    out.single("vswitch_workers", GAUGE, "Worker threads.", s.workers);
    out.single("vswitch_pods", GAUGE, "Attached pods.", s.pods);
    out.single("vswitch_pod_mtu_bytes", GAUGE, "Largest IP packet of a pod.", s.mtu);
    out.single("vswitch_addresses", GAUGE, "Pod addresses this node can give out.", s.addresses_total);
    out.single("vswitch_addresses_in_use", GAUGE, "Pod addresses given out.", s.addresses_used);

    let t = &s.totals;
    out.single(
        "vswitch_received_packets_total",
        COUNTER,
        "Packets taken in from pods, host and peers.",
        t.received,
    );
    out.family("vswitch_delivered_packets_total", COUNTER, "Packets delivered, by where to.");
    for (to, n) in [("pod", t.to_pods), ("host", t.to_host), ("peer", t.to_peers)] {
        out.sample(&[("to", to)], n);
    }
    out.single("vswitch_answered_packets_total", COUNTER, "Packets the gateway answered itself.", t.answered);
    out.single(
        "vswitch_generated_packets_total",
        COUNTER,
        "Replies and ICMP errors the switch made.",
        t.generated,
    );
    out.family("vswitch_drops_total", COUNTER, "Packets dropped, by reason (docs/drops.md).");
    for reason in DropReason::ALL {
        let n = t.drops.iter().find(|(r, _)| r == reason).map_or(0, |(_, n)| *n);
        out.sample(&[("reason", reason.code())], n);
    }
    out.single("vswitch_flow_cache_hits_total", COUNTER, "Packets whose decision was cached.", t.flow_hits);
    out.single("vswitch_flow_cache_misses_total", COUNTER, "Packets decided anew.", t.flow_misses);
    out.single("vswitch_worker_wakeups_total", COUNTER, "Times a worker woke from sleep.", t.wakeups);
    out.single(
        "vswitch_worker_polled_nanoseconds_total",
        COUNTER,
        "Time that workers looked for more packets before they slept.",
        t.polled_ns,
    );
    out.single("vswitch_connections", GAUGE, "Connections tracked.", s.connections);
    if let Some(bgp) = &s.bgp {
        out.single("vswitch_bgp_neighbours", GAUGE, "BGP neighbours configured.", bgp.neighbours);
        out.single("vswitch_bgp_sessions_established", GAUGE, "BGP sessions that are up.", bgp.established);
        out.single("vswitch_bgp_learned_prefixes", GAUGE, "Prefixes learned by BGP and in use.", bgp.learned);
        neighbours(&mut out, &bgp.each);
    }
    if let Some((connected, problems)) = s.store {
        out.single("vswitch_store_connected", GAUGE, "1 while the store is reached.", u64::from(connected));
        out.single(
            "vswitch_store_problem_keys",
            GAUGE,
            "Keys of the store that are wrong and ignored.",
            problems as u64,
        );
    }
    out.single(
        "vswitch_policy_problems",
        GAUGE,
        "Objects that are not in force as they are written.",
        s.policy_problems,
    );
    rules(&mut out, &s.rules);
    ports(&mut out, &s.ports);
    peers(&mut out, s);
    paths(&mut out, s);
    out.out
}

/// Names and meanings of [`PortSample::counts`], from where the pod stands.
const PORT: [(&str, &str); 6] = [
    ("vswitch_port_transmit_packets_total", "Frames the pod (or the host, namespace empty) sent."),
    ("vswitch_port_transmit_bytes_total", "Bytes of those, Ethernet header included."),
    ("vswitch_port_transmit_drops_total", "Frames it sent that were dropped."),
    ("vswitch_port_receive_packets_total", "Frames delivered to it."),
    ("vswitch_port_receive_bytes_total", "Bytes of those."),
    ("vswitch_port_receive_drops_total", "Frames for it that its interface did not take."),
];

fn ports(out: &mut Text, ports: &[PortSample]) {
    // A pod that is replaced by one of its own name is attached twice for a moment; a series must not be there twice.
    let mut sums: BTreeMap<[&str; 3], [u64; 6]> = BTreeMap::new();
    for p in ports {
        let sum = sums.entry([&p.namespace, &p.pod, &p.interface]).or_default();
        sum.iter_mut().zip(p.counts).for_each(|(total, n)| *total += n);
    }
    for (i, (name, help)) in PORT.iter().enumerate() {
        out.family(name, COUNTER, help);
        for ([namespace, pod, interface], counts) in &sums {
            let labels = [("namespace", *namespace), ("pod", *pod), ("interface", *interface)];
            out.sample(&labels, counts[i]);
        }
    }
}

fn neighbours(out: &mut Text, all: &[NeighbourSample]) {
    let label: Vec<String> = all.iter().map(|n| n.address.to_string()).collect();
    out.family(
        "vswitch_bgp_neighbour_state",
        GAUGE,
        "State of the session (RFC 4273): 1 idle, 2 connect, 3 active, 4 open sent, 5 open confirm, 6 established.",
    );
    for (n, label) in all.iter().zip(&label) {
        out.sample(&[("neighbour", label)], n.state);
    }
    type Of = fn(&NeighbourSample) -> [u32; 2];
    let families: [(&str, &str, Of); 4] = [
        ("vswitch_bgp_neighbour_received_prefixes", "Prefixes it sent.", |n| n.received),
        ("vswitch_bgp_neighbour_accepted_prefixes", "Of these, taken by import.", |n| n.accepted),
        ("vswitch_bgp_neighbour_chosen_prefixes", "Prefixes whose best path is its.", |n| n.chosen),
        ("vswitch_bgp_neighbour_announced_prefixes", "Prefixes sent to it.", |n| n.announced),
    ];
    for (name, help, of) in families {
        out.family(name, GAUGE, help);
        for (n, label) in all.iter().zip(&label) {
            for (family, count) in ["ipv4", "ipv6"].into_iter().zip(of(n)) {
                out.sample(&[("neighbour", label), ("family", family)], count);
            }
        }
    }
    out.family("vswitch_bgp_neighbour_flaps_total", COUNTER, "Times an established session ended.");
    for (n, label) in all.iter().zip(&label) {
        out.sample(&[("neighbour", label)], n.flaps);
    }
}

fn rules(out: &mut Text, rules: &[RuleSample]) {
    out.family(
        "vswitch_policy_rule_flows_total",
        COUNTER,
        "New flows decided (staged: that would be) by the rule.",
    );
    for r in rules {
        let staged = if r.staged { "true" } else { "false" };
        let labels = [
            ("tier", r.tier.as_str()),
            ("policy", &r.policy),
            ("direction", r.direction),
            ("rule", &r.rule),
            ("staged", staged),
        ];
        out.sample(&labels, r.flows);
    }
}

fn peers(out: &mut Text, s: &Scrape) {
    type Of = fn(&control::api::PeerInfo) -> u64;
    let families: [(&str, &str, Of); 4] = [
        ("vswitch_peer_transmit_packets_total", "Packets sent to the node.", |p| p.tx_packets),
        ("vswitch_peer_transmit_bytes_total", "Bytes of those, without the tunnel's headers.", |p| {
            p.tx_bytes
        }),
        ("vswitch_peer_receive_packets_total", "Packets received from the node.", |p| p.rx_packets),
        ("vswitch_peer_receive_bytes_total", "Bytes of those, without the tunnel's headers.", |p| p.rx_bytes),
    ];
    for (name, help, of) in families {
        out.family(name, COUNTER, help);
        for p in &s.peers {
            out.sample(&[("peer", &p.name)], of(p));
        }
    }
    out.family(
        "vswitch_peer_silence_seconds",
        GAUGE,
        "Time since the last packet from the node; absent = never.",
    );
    for p in &s.peers {
        if let Some(ms) = p.last_heard_ms {
            out.sample(&[("peer", &p.name)], format_args!("{}.{:03}", ms / 1000, ms % 1000));
        }
    }
}

/// What echoes between the nodes tell.
fn paths(out: &mut Text, s: &Scrape) {
    out.family("vswitch_peer_mtu_bytes", GAUGE, "Largest packet of a pod toward the node.");
    for p in &s.peers {
        out.sample(&[("peer", &p.name)], p.mtu);
    }
    out.family(
        "vswitch_peer_round_trip_seconds",
        GAUGE,
        "Round trip of an echo to the node, smoothed; absent = it never answered.",
    );
    for p in &s.peers {
        if let Some(us) = p.rtt_us {
            out.sample(&[("peer", &p.name)], format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
        }
    }
    out.family(
        "vswitch_peer_echo_loss_ratio",
        GAUGE,
        "Part of the last 64 echoes to the node that was lost.",
    );
    for p in s.peers.iter().filter(|p| p.echoes > 0) {
        out.sample(&[("peer", &p.name)], f64::from(p.echoes_lost) / f64::from(p.echoes));
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// The text so far; samples belong to the family begun last.
#[derive(Default)]
struct Text {
    out: String,
    name: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(&self.name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if i == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }
}
