//! The node's nftables table: which pod traffic leaves under the node's own address.
//!
//! Flannel's six rules in flannel's order, first match wins, in one table of our own (`inet vswitch`) that is replaced
//! in one transaction. Pod to pod never meets them: only what goes through the host does. The `nft` program does the
//! talking, as it does for every administrator.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use ipnet::IpNet;

/// The table's family and name.
pub const TABLE: &str = "inet vswitch";

/// nftables could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// The program is missing.
    #[error("network.masquerade = true needs the nft program: install nftables, or set masquerade = false")]
    NoProgram(#[source] io::Error),
    /// Talking to it failed.
    #[error("run nft")]
    Run(#[source] io::Error),
    /// It refused.
    #[error("nft refused table {TABLE}: {said}")]
    Refused {
        /// Its own words.
        said: Box<str>,
    },
}

/// What the rules are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Of all pods.
    pub cluster: Vec<IpNet>,
    /// Of this node's pods.
    pub own: Vec<IpNet>,
    /// Those whose pods keep their addresses wherever they send to: address pools without `natOutgoing`.
    pub plain: Vec<IpNet>,
}

/// Installs the rules, replacing ours of before.
///
/// # Errors
/// When nft is missing or refuses.
pub fn install(ranges: &Ranges) -> Result<(), MasqueradeError> {
    nft(&render(ranges))
}

/// Installs the rules again where they are not as installed; true when they were.
///
/// # Errors
/// When nft is missing or refuses.
pub fn ensure(ranges: &Ranges) -> Result<bool, MasqueradeError> {
    // nft writes sets its own way, so rules are counted, not compared.
    let rules = |text: &str| {
        let is_rule = |l: &&str| ["ip ", "ip6 ", "meta "].iter().any(|word| l.starts_with(word));
        text.lines().map(str::trim).filter(is_rule).count()
    };
    let wanted = render(ranges);
    let mut list = vec!["list", "table"];
    list.extend(TABLE.split(' '));
    let listed = Command::new("nft").args(list).stdin(Stdio::null()).output().map_err(cannot_run)?;
    if listed.status.success() && rules(&String::from_utf8_lossy(&listed.stdout)) == rules(&wanted) {
        return Ok(true);
    }
    nft(&wanted).map(|()| false)
}

/// Is the table there?
#[must_use]
pub fn is_there() -> bool {
    let mut list = vec!["list", "table"];
    list.extend(TABLE.split(' '));
    let silent = Command::new("nft")
        .args(list)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    silent.is_ok_and(|status| status.success())
}

/// Removes the table if it is there.
///
/// # Errors
/// When nft is there and refuses.
pub fn remove() -> Result<(), MasqueradeError> {
    match nft(&format!("add table {TABLE}\ndelete table {TABLE}\n")) {
        Err(MasqueradeError::NoProgram(_)) => Ok(()),
        other => other,
    }
}

/// The rules as nft reads them.
pub fn render(Ranges { cluster, own, plain }: &Ranges) -> String {
    let mut out = format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    out.push_str("\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n");
    out.push_str("\t\tmeta mark & 0x4000 == 0x4000 return comment \"kube-proxy masquerades it\"\n");
    for (family, multicast, v6) in [("ip", "224.0.0.0/4", false), ("ip6", "ff00::/8", true)] {
        let of = |nets: &[IpNet]| -> Vec<String> {
            nets.iter().filter(|n| matches!(n, IpNet::V6(_)) == v6).map(IpNet::to_string).collect()
        };
        let plain = of(plain).join(", ");
        let (cluster, own) = (of(cluster).join(", "), of(own).join(", "));
        if cluster.is_empty() || own.is_empty() {
            continue;
        }
        let (c, o) = (format!("{{ {cluster} }}"), format!("{{ {own} }}"));
        let mut rules = vec![
            format!("saddr {o} {family} daddr {c} return"),
            format!("saddr {c} {family} daddr {o} return"),
            format!("saddr != {c} {family} daddr {o} return"),
            format!("saddr {c} {family} daddr != {multicast} masquerade fully-random"),
            format!("saddr != {c} {family} daddr {c} masquerade fully-random"),
        ];
        if !plain.is_empty() {
            rules.insert(3, format!("saddr {{ {plain} }} return"));
        }
        for rule in rules {
            let _ = writeln!(out, "\t\t{family} {rule}");
        }
    }
    out.push_str("\t}\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n");
    for net in cluster {
        let family = if matches!(net, IpNet::V6(_)) { "ip6" } else { "ip" };
        let _ = writeln!(out, "\t\t{family} saddr {net} accept\n\t\t{family} daddr {net} accept");
    }
    out.push_str("\t}\n}\n");
    out
}

fn nft(script: &str) -> Result<(), MasqueradeError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot_run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(MasqueradeError::Run)?;
    }
    let out = child.wait_with_output().map_err(MasqueradeError::Run)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().into();
    Err(MasqueradeError::Refused { said })
}

fn cannot_run(err: io::Error) -> MasqueradeError {
    if err.kind() == io::ErrorKind::NotFound {
        MasqueradeError::NoProgram(err)
    } else {
        MasqueradeError::Run(err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_flannels_in_their_order() {
        let nets = |s: &[&str]| s.iter().map(|n| n.parse().unwrap()).collect::<Vec<IpNet>>();
        let text = render(&Ranges {
            cluster: nets(&["10.244.0.0/16", "fd00::/48"]),
            own: nets(&["10.244.1.0/24"]),
            plain: Vec::new(),
        });
        let rules: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.starts_with("ip ") || l.starts_with("meta")).collect();
        assert_eq!(
            rules[..6],
            [
                "meta mark & 0x4000 == 0x4000 return comment \"kube-proxy masquerades it\"",
                "ip saddr { 10.244.1.0/24 } ip daddr { 10.244.0.0/16 } return",
                "ip saddr { 10.244.0.0/16 } ip daddr { 10.244.1.0/24 } return",
                "ip saddr != { 10.244.0.0/16 } ip daddr { 10.244.1.0/24 } return",
                "ip saddr { 10.244.0.0/16 } ip daddr != 224.0.0.0/4 masquerade fully-random",
                "ip saddr != { 10.244.0.0/16 } ip daddr { 10.244.0.0/16 } masquerade fully-random",
            ]
        );
        assert!(!text.contains("ip6 saddr {"), "no v6 range of ours, no v6 masquerade");
    }
}
