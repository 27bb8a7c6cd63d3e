//! The two nodes with rules before the pods of the second: a kernel's, and ours.
//!
//! Every rule names another source address and port, and the last one is the senders' own, so a list that is walked is walked
//! to its end. As many rules again would say nothing else.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vswitch::lab::{Attached, Lab, Netns, NodePlan, Options, Programs, Stop, Wire};

use super::ruleset::Form;
use crate::cubic::Allowed;
use crate::network::{Kernel, Network, Pair};
use crate::process;

/// Rules of one policy: what Calico's API takes, rounded.
pub(super) const OF_POLICY: usize = 1000;
/// How long a daemon may take to bring rules into force.
const IN_FORCE: Duration = Duration::from_secs(60);

/// Source address and port of rule `i`; nobody has them.
pub(super) fn stranger(i: usize) -> (Ipv4Addr, u16) {
    let low = u32::try_from(i).unwrap_or(0);
    (Ipv4Addr::from_bits(0x0b00_0001 + low), 1024 + (low % 60_000) as u16)
}

/// The range of the senders' addresses.
pub(super) fn senders() -> String {
    NodePlan { n: 1 }.pod_cidr()
}

/// A kernel network whose receiving node has this many rules before each of its pods.
pub(super) fn iptables(cubic: &Allowed, rules: usize, form: Form) -> Result<Kernel> {
    let network = Kernel::nodes(Wire::Vxlan { checksum: false }, false)?;
    let pods = [network.pair(), network.beside()];
    pods.iter().try_for_each(|pair| pair.pin(cubic))?;
    let bed = network.bed();
    let path = bed.dir().join("rules");
    fs::write(&path, form.ruleset(pods.map(|pair| pair.to), rules))?;
    bed.nodes[1].run(&format!("iptables-restore {}", path.display()))?;
    Ok(network)
}

/// Ours; fields drop in order: pods, then the nodes with their daemons.
pub(super) struct Ours {
    pods: [Attached; 4],
    lab: Lab,
    policies: usize,
}

impl Ours {
    /// Two nodes with this many rules before the pods of the second.
    pub(super) fn build(programs: &Programs, stop: &Stop, cubic: &Allowed, rules: usize) -> Result<Ours> {
        let dir = std::env::temp_dir().join(format!("vswitch-compare-{}-rules", std::process::id()));
        fs::create_dir_all(&dir)?;
        let options = Options { policy: Some(dir.clone()), ..Options::default() };
        let lab = Lab::start(programs, options, stop);
        // The lab has a copy of its own.
        fs::remove_dir_all(&dir)?;
        let lab = lab?;
        let pods = [lab.pod(0, "a")?, lab.pod(1, "b")?, lab.pod(0, "c")?, lab.pod(1, "d")?];
        pods.iter().try_for_each(|pod| cubic.pin(&pod.netns))?;
        let mut ours = Ours { pods, lab, policies: 0 };
        ours.rules(rules)?;
        Ok(ours)
    }

    /// Makes them this many; open connections stay.
    pub(super) fn rules(&mut self, rules: usize) -> Result<()> {
        let manifests = self.lab.manifests.as_ref().context("the lab runs under policy")?;
        let wanted = policies(rules);
        for (n, policy) in wanted.iter().enumerate() {
            manifests.write(&name(n), std::slice::from_ref(policy))?;
        }
        for n in wanted.len()..self.policies {
            manifests.remove(&name(n))?;
        }
        self.policies = wanted.len();
        let deadline = Instant::now() + IN_FORCE;
        for node in 0..2 {
            let daemon = self.lab.daemon(node).context("both nodes have a daemon")?;
            while daemon.status()?.policies as usize != self.policies {
                ensure!(Instant::now() < deadline, "{rules} rules are not in force");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(self.lab.settle()?)
    }

    /// Seconds of processor time that both nodes' daemons have used so far.
    pub(super) fn ran(&self) -> Result<f64> {
        self.lab.daemons.iter().flatten().map(process::ran).sum()
    }
}

impl Network for Ours {
    fn two(&self, from: usize) -> Pair<'_> {
        let [near, far] = [&self.pods[from], &self.pods[from + 1]];
        Pair { from: &near.netns, far: &far.netns, to: far.v4 }
    }

    fn underlay(&self) -> Option<&Netns> {
        self.lab.bed.nodes.first()
    }
}

fn name(policy: usize) -> String {
    format!("rules-{policy:03}")
}

/// Calico policies before the pods on the second node: strangers' rules, and in the last one the senders'.
fn policies(rules: usize) -> Vec<Value> {
    let known = json!({"action": "Allow", "source": {"nets": [senders()]}});
    let strange = |i: usize| {
        let (addr, port) = stranger(i);
        let source = json!({"nets": [format!("{addr}/32")]});
        json!({"action": "Allow", "protocol": "TCP", "source": source, "destination": {"ports": [port]}})
    };
    let policy = |(n, first): (usize, usize)| {
        let last = (first + OF_POLICY).min(rules);
        let mut ingress: Vec<_> = (first + 1..last).map(strange).collect();
        ingress.push(if last == rules { known.clone() } else { strange(last) });
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": name(n)},
            "spec": {"order": n, "selector": "pod in {'b', 'd'}", "types": ["Ingress"], "ingress": ingress}
        })
    };
    (0..rules).step_by(OF_POLICY).enumerate().map(policy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_senders_rule_is_the_very_last() {
        for rules in [1, 1000, 1001, 2500] {
            let policies = policies(rules);
            let counts = policies.iter().map(|policy| policy["spec"]["ingress"].as_array().unwrap().len());
            assert_eq!(counts.sum::<usize>(), rules);
            let last =
                policies.last().unwrap()["spec"]["ingress"].as_array().unwrap().last().unwrap().clone();
            assert_eq!(last["source"]["nets"][0], "10.244.1.0/24");
        }
    }
}
