//! A policy as iptables rules, in the forms it is compared with.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::beds::{OF_POLICY, senders, stranger};

/// How a policy is written as iptables rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A rule of ours is a rule of theirs that accepts: as few as it can be done with.
    Shortest,
    /// As Calico's Felix writes it: a chain for each policy, for each rule one that marks what matches and one that returns
    /// what is marked, ports by `multiport`. What Calico and Canal make of it in their iptables mode.
    Felix,
}

impl Form {
    /// What `iptables-restore` reads.
    pub(super) fn ruleset(self, pods: [IpAddr; 2], rules: usize) -> String {
        match self {
            Form::Shortest => shortest(pods, rules),
            Form::Felix => felix(pods, rules),
        }
    }
}

fn shortest(pods: [IpAddr; 2], rules: usize) -> String {
    let mut text = String::from("*filter\n:POLICY - [0:0]\n");
    let _ = writeln!(text, "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    for pod in pods {
        let _ = writeln!(text, "-A FORWARD -d {pod} -j POLICY");
    }
    for (addr, port) in (1..rules).map(stranger) {
        let _ = writeln!(text, "-A POLICY -s {addr}/32 -p tcp --dport {port} -j ACCEPT");
    }
    let _ = writeln!(text, "-A POLICY -s {} -p tcp -j ACCEPT\n-A POLICY -j DROP\nCOMMIT", senders());
    text
}

/// Bits of the packet mark as Felix has them by default: accepted, and passed on to the next tier.
const ACCEPTED: &str = "0x10000/0x10000";
const PASSED: &str = "0x20000";

fn felix(pods: [IpAddr; 2], rules: usize) -> String {
    let policies = rules.div_ceil(OF_POLICY);
    let mut text = String::from("*filter\n:cali-FORWARD - [0:0]\n:cali-tw - [0:0]\n");
    for n in 0..policies {
        let _ = writeln!(text, ":cali-pi-{n} - [0:0]");
    }
    let mut rule = |chain: &str, matches: &str, target: &str| {
        // Felix finds its own rules again by what it writes here.
        let _ =
            writeln!(text, "-A {chain} -m comment --comment \"cali:0123456789abcdef\" {matches} -j {target}");
    };
    rule("FORWARD", "", "cali-FORWARD");
    for pod in pods {
        // By the pod's interface, where it is not on a bridge with others.
        rule("cali-FORWARD", &format!("-d {pod}"), "cali-tw");
    }
    rule("cali-FORWARD", &format!("-m mark --mark {ACCEPTED}"), "ACCEPT");
    rule("cali-tw", "-m conntrack --ctstate RELATED,ESTABLISHED", "ACCEPT");
    rule("cali-tw", "-m conntrack --ctstate INVALID", "DROP");
    rule("cali-tw", "", "MARK --set-xmark 0x0/0x30000");
    for n in 0..policies {
        rule("cali-tw", &format!("-m mark --mark 0x0/{PASSED}"), &format!("cali-pi-{n}"));
        rule("cali-tw", &format!("-m mark --mark {ACCEPTED}"), "RETURN");
    }
    rule("cali-tw", &format!("-m mark --mark 0x0/{PASSED}"), "DROP");
    for i in 1..=rules {
        let chain = format!("cali-pi-{}", (i - 1) / OF_POLICY);
        let (addr, port) = stranger(i);
        let matches = match i == rules {
            true => format!("-s {}", senders()),
            false => format!("-p tcp -s {addr}/32 -m multiport --dports {port}"),
        };
        rule(&chain, &matches, &format!("MARK --set-xmark {ACCEPTED}"));
        // At the end of a chain it would change nothing, and Felix leaves it out.
        if i != rules && i % OF_POLICY != 0 {
            rule(&chain, &format!("-m mark --mark {ACCEPTED}"), "RETURN");
        }
    }
    text.push_str("COMMIT\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_every_rule_and_the_senders_in_the_last_one() {
        let pods = [1, 2].map(|n| IpAddr::from([10, 244, 2, n]));
        for rules in [1, 1000, 1001, 2500] {
            for (form, target) in
                [(Form::Shortest, "-j ACCEPT"), (Form::Felix, "-j MARK --set-xmark 0x10000/0x10000")]
            {
                let text = form.ruleset(pods, rules);
                let of_policy =
                    |line: &&str| line.starts_with("-A POLICY") || line.starts_with("-A cali-pi-");
                let accepting: Vec<_> =
                    text.lines().filter(of_policy).filter(|line| line.ends_with(target)).collect();
                assert_eq!(accepting.len(), rules, "{form:?}");
                assert!(accepting.last().unwrap().contains("-s 10.244.1.0/24"), "{form:?}");
                assert!(text.ends_with("COMMIT\n"));
                // An iptables chain must be named before it is used.
                for line in text.lines().filter(|line| line.starts_with("-A ")) {
                    let chain = line.split(' ').nth(1).unwrap();
                    assert!(chain == "FORWARD" || text.contains(&format!(":{chain} ")), "{line}");
                }
            }
        }
    }
}
