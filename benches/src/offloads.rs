//! What the devices under a network do for the kernel: without it no figure of a stream says anything.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use vswitch::lab::{Netns, within};
use vswitch::sys::ethtool::feature;

/// The kernel's names, and the short ones that are used here.
const FEATURES: [(&str, &str); 6] = [
    ("tx-checksum-ip-generic", "csum"),
    ("tx-tcp-segmentation", "tso"),
    ("tx-generic-segmentation", "gso"),
    ("rx-gro", "gro"),
    ("tx-udp-segmentation", "uso"),
    ("tx-udp_tnl-segmentation", "tunnel"),
];
/// Both of nodes and of pods.
const DEVICE: &str = "eth0";

/// The offloads that are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offloads {
    /// Of a node's underlay device, where there is more than one node.
    pub underlay: Option<Vec<&'static str>>,
    /// Of a pod's `eth0`.
    pub pods: Vec<&'static str>,
}

impl Offloads {
    /// Of the underlay device in `node` and of a pod's device.
    ///
    /// # Errors
    /// When a namespace or a device is gone.
    pub fn of(node: Option<&Netns>, pod: &Netns) -> Result<Offloads> {
        Ok(Offloads { underlay: node.map(on).transpose()?, pods: on(pod)? })
    }
}

fn on(netns: &Netns) -> Result<Vec<&'static str>> {
    let read = || {
        let state = |(name, short)| Ok(feature(DEVICE, name)?.then_some(short));
        FEATURES.into_iter().map(state).collect::<std::io::Result<Vec<_>>>()
    };
    let states = within(netns.path(), read)?.with_context(|| format!("offloads in {}", netns.name()))?;
    Ok(states.into_iter().flatten().collect())
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |on: &[&str]| if on.is_empty() { "none".to_owned() } else { on.join(" ") };
        if let Some(underlay) = &self.underlay {
            write!(f, "underlay {}; ", words(underlay))?;
        }
        write!(f, "pods {}", words(&self.pods))
    }
}

/// For each distinct state a line that says of which rows it is, and of which of their sides where both are not alike.
#[must_use]
pub fn summary<'a>(rows: impl Iterator<Item = (&'a str, &'a [Offloads; 2])>) -> String {
    let mut found: Vec<(&Offloads, Vec<String>)> = Vec::new();
    let mut add = |state, whose: String| match found.iter_mut().find(|(known, _)| *known == state) {
        Some((_, rows)) if rows.last() == Some(&whose) => {}
        Some((_, rows)) => rows.push(whose),
        None => found.push((state, vec![whose])),
    };
    for (row, [a, b]) in rows {
        if a == b {
            add(a, row.to_owned());
        } else {
            add(a, format!("{row} A"));
            add(b, format!("{row} B"));
        }
    }
    found.iter().map(|(state, rows)| format!("{state}: {}\n", rows.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_state_share_a_line() {
        let whole = Offloads { underlay: Some(vec!["csum", "tso"]), pods: vec!["csum"] };
        let none = Offloads { underlay: Some(vec![]), ..whole.clone() };
        let one_node = Offloads { underlay: None, ..whole.clone() };
        let same = [whole.clone(), whole.clone()];
        let rows = [("g1", &same), ("g1", &same), ("g2", &[none.clone(), whole]), ("g4", &[one_node, none])];
        assert_eq!(
            summary(rows.into_iter()),
            "underlay csum tso; pods csum: g1, g2 B\nunderlay none; pods csum: g2 A, g4 B\npods csum: g4 A\n"
        );
    }
}
