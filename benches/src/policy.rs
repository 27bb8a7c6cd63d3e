//! Policy at scale: the same rules as iptables rules on a kernel node and as policies on ours; and ours against itself.
//!
//! Two nodes over VXLAN, one pod on each; the rules stand before the receiver. Every rule names another source address and
//! port, and the last one is the pair's own, so a list that is walked is walked to its end. As many rules again would say
//! nothing else: what is measured is how the time of a new connection, of a round trip and of a byte depends on them.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use vswitch::lab::{Lab, Options, Programs, Stop, Wire};

use crate::chart::{self, Chart, Series};
use crate::cubic::Allowed;
use crate::exchange::{CLIENTS, connects, round_trip};
use crate::iperf::{self, Load};
use crate::network::{Kernel, Network, Pair};
use crate::stats::{Ratio, mean, ratio};

/// Rules the connection rates are compared at.
const RULES: usize = 10_000;
/// Rule counts of the curve; the first is what the others are held against.
const CURVE: [usize; 4] = [1, 100, 10_000, 100_000];
/// Rules of one policy: what Calico's API takes, rounded.
const OF_POLICY: usize = 1000;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Connections a second on a kernel node with one iptables rule, one run of each pair.
    pub bare: Vec<f64>,
    /// The same with 10,000 of them.
    pub iptables: Vec<f64>,
    /// The same with as many policy rules of ours.
    pub ours: Vec<f64>,
    /// Ours against itself, by number of rules.
    pub curve: Vec<Point>,
}

/// One number of rules against one rule.
#[derive(Debug, Serialize)]
pub struct Point {
    /// How many rules.
    pub rules: usize,
    /// TCP throughput, Gbit/s, in pairs: one rule, and this many.
    pub gbit_s: Vec<[f64; 2]>,
    /// Median round trip of one byte over TCP, microseconds, likewise.
    pub rtt_us: Vec<[f64; 2]>,
    /// Connections a second, likewise.
    pub connects: Vec<[f64; 2]>,
}

/// Measures everything: `pairs` pairs of `seconds` seconds.
///
/// # Errors
/// When a network cannot be built or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Figures> {
    let length = Duration::from_secs(seconds.into());
    let [mut bare, mut iptables, mut ours] = [const { Vec::new() }; 3];
    {
        let kernels = [iptables_rules(cubic, 1)?, iptables_rules(cubic, RULES)?];
        let switch = Ours::build(programs, stop, cubic, RULES)?;
        for pair in 0..pairs {
            for side in if pair % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] } {
                stop.check()?;
                match side {
                    0 => bare.push(connects(kernels[0].pair(), length)?),
                    1 => iptables.push(connects(kernels[1].pair(), length)?),
                    _ => ours.push(connects(switch.pair(), length)?),
                }
            }
        }
    }
    let one = Ours::build(programs, stop, cubic, CURVE[0])?;
    let mut curve = Vec::new();
    for &rules in &CURVE[1..] {
        let many = Ours::build(programs, stop, cubic, rules)?;
        let mut point = Point { rules, gbit_s: Vec::new(), rtt_us: Vec::new(), connects: Vec::new() };
        for pair in 0..pairs {
            let mut got = [[0.0; 3]; 2];
            for side in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                stop.check()?;
                let network = if side == 0 { &one } else { &many };
                got[side] = [
                    iperf::run(network.pair(), Load::default(), seconds)?.gbit_s,
                    round_trip(network.pair(), length)?.p50,
                    connects(network.pair(), length)?,
                ];
            }
            point.gbit_s.push([got[0][0], got[1][0]]);
            point.rtt_us.push([got[0][1], got[1][1]]);
            point.connects.push([got[0][2], got[1][2]]);
        }
        curve.push(point);
    }
    Ok(Figures { bare, iptables, ours, curve })
}

impl Figures {
    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let pairs: Vec<f64> = self.iptables.iter().zip(&self.ours).map(|(a, b)| b / a).collect();
        let mut text = format!(
            "\n{RULES} rules, {CLIENTS} clients: {:.0} connections/s with iptables ({:.0} with 1 rule), {:.0} with vswitch: {}\n",
            mean(&self.iptables),
            mean(&self.bare),
            mean(&self.ours),
            shown(ratio(&pairs))
        );
        let _ = writeln!(
            text,
            "{:>8} {:>22} {:>22} {:>22}",
            "rules", "Gbit/s / 1 rule", "rtt / 1 rule", "connects / 1 rule"
        );
        for point in &self.curve {
            let of = |pairs: &[[f64; 2]]| shown(ratio(&pairs.iter().map(|[a, b]| b / a).collect::<Vec<_>>()));
            let _ = writeln!(
                text,
                "{:>8} {:>22} {:>22} {:>22}",
                point.rules,
                of(&point.gbit_s),
                of(&point.rtt_us),
                of(&point.connects)
            );
        }
        text
    }
}

impl Figures {
    /// The curve as a chart, with the name of its file.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // thousands of rules
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let series = |name: &str, of: fn(&Point) -> &Vec<[f64; 2]>| {
            let first = chart::Point::exact(CURVE[0] as f64, 1.0);
            let others = self.curve.iter().filter_map(|point| {
                let Ratio { mean, low, high } =
                    ratio(&of(point).iter().map(|[a, b]| b / a).collect::<Vec<_>>())?;
                Some(chart::Point { x: point.rules as f64, y: mean, low, high })
            });
            Series { name: name.to_owned(), points: std::iter::once(first).chain(others).collect() }
        };
        let chart = Chart {
            title: "Rules before a pod".to_owned(),
            subtitle: String::new(),
            x_label: "rules".to_owned(),
            y_label: "relative to one rule".to_owned(),
            x_log: true,
            series: vec![
                series("TCP throughput", |point| &point.gbit_s),
                series("round trip (less is better)", |point| &point.rtt_us),
                series("connections a second", |point| &point.connects),
            ],
        };
        vec![("rules", chart)]
    }
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.3} ({:.3} - {:.3})", r.mean, r.low, r.high))
}

/// Source address and port of rule `i`; nobody has them.
fn stranger(i: usize) -> (Ipv4Addr, u16) {
    let low = u32::try_from(i).unwrap_or(0);
    (Ipv4Addr::from_bits(0x0b00_0001 + low), 1024 + (low % 60_000) as u16)
}

/// A kernel network whose receiving node has this many rules.
fn iptables_rules(cubic: &Allowed, rules: usize) -> Result<Kernel> {
    let network = Kernel::nodes(Wire::Vxlan { checksum: false }, false)?;
    let (bed, pair) = (network.bed(), network.pair());
    let mut text = String::from("*filter\n:POLICY - [0:0]\n");
    let _ = writeln!(text, "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let _ = writeln!(text, "-A FORWARD -d {} -j POLICY", pair.to);
    for (addr, port) in (1..rules).map(stranger) {
        let _ = writeln!(text, "-A POLICY -s {addr}/32 -p tcp --dport {port} -j ACCEPT");
    }
    let _ = writeln!(text, "-A POLICY -s {} -p tcp -j ACCEPT\n-A POLICY -j DROP\nCOMMIT", network.sender());
    let path = bed.dir().join("rules");
    fs::write(&path, text)?;
    bed.nodes[1].run(&format!("iptables-restore {}", path.display()))?;
    pair.pin(cubic)?;
    Ok(network)
}

struct Ours {
    pods: [vswitch::lab::Attached; 2],
    _lab: Lab,
}

impl Ours {
    fn build(programs: &Programs, stop: &Stop, cubic: &Allowed, rules: usize) -> Result<Ours> {
        let dir = std::env::temp_dir().join(format!("vswitch-compare-{}-{rules}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let written = policies(&dir, rules);
        let options = Options { policy: Some(dir.clone()), ..Options::default() };
        let lab = written.and_then(|()| Ok(Lab::start(programs, options, stop)?));
        // The lab has a copy of its own.
        fs::remove_dir_all(&dir)?;
        let lab = lab?;
        let pods = [lab.pod(0, "a")?, lab.pod(1, "b")?];
        lab.settle()?;
        pods.iter().try_for_each(|pod| cubic.pin(&pod.netns))?;
        let known = lab.daemon(1).context("node 2 has a daemon")?.status()?.policies;
        ensure!(
            known as usize == rules.div_ceil(OF_POLICY),
            "{known} policies are in force for {rules} rules"
        );
        Ok(Ours { pods, _lab: lab })
    }

    fn pair(&self) -> Pair<'_> {
        let [from, far] = &self.pods;
        Pair { from: &from.netns, far: &far.netns, to: far.v4 }
    }
}

/// Calico policies before the pod on the second node: strangers' rules, and in the last one the sender's.
fn policies(dir: &Path, rules: usize) -> Result<()> {
    let sender = json!({"action": "Allow", "source": {"nets": ["10.244.1.0/24"]}});
    let strange = |i: usize| {
        let (addr, port) = stranger(i);
        let source = json!({"nets": [format!("{addr}/32")]});
        json!({"action": "Allow", "protocol": "TCP", "source": source, "destination": {"ports": [port]}})
    };
    for (n, first) in (0..rules).step_by(OF_POLICY).enumerate() {
        let last = (first + OF_POLICY).min(rules);
        let mut ingress: Vec<_> = (first + 1..last).map(strange).collect();
        ingress.push(if last == rules { sender.clone() } else { strange(last) });
        let object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": format!("rules-{n:03}")},
            "spec": {"order": n, "selector": "pod == 'b'",
                "types": ["Ingress"], "ingress": ingress}
        });
        fs::write(dir.join(format!("{n:03}.json")), object.to_string())?;
    }
    Ok(())
}
