//! Prefix lists: `10.0.0.0/8 ge 16 le 24`.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::family::Family;

/// A set of prefixes, each entry a prefix and the lengths of what is meant below it.
#[derive(Clone, Default, Debug)]
pub struct PrefixList {
    /// Ranges of lengths by covering prefix.
    entries: HashMap<IpNet, Vec<(u8, u8)>>,
    /// The lengths of covering prefixes, each once.
    lengths: Vec<u8>,
}

/// Lengths that cannot be: `ge` below the prefix's own, above `le`, or above what the family has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{net} ge {ge} le {le}: the lengths must rise, from {net} to the longest of its family")]
pub struct PrefixListError {
    net: IpNet,
    ge: u8,
    le: u8,
}

impl PrefixList {
    /// Adds exactly this prefix.
    pub fn exact(mut self, net: IpNet) -> PrefixList {
        self.insert(net.trunc(), net.prefix_len(), net.prefix_len());
        self
    }

    /// Adds this prefix and all longer ones in it.
    pub fn or_longer(mut self, net: IpNet) -> PrefixList {
        self.insert(net.trunc(), net.prefix_len(), Family::of(&net).bits());
        self
    }

    /// Adds the prefixes in `net` that are `ge` to `le` bits long.
    ///
    /// # Errors
    /// When the lengths cannot be.
    pub fn range(mut self, net: IpNet, ge: u8, le: u8) -> Result<PrefixList, PrefixListError> {
        if ge < net.prefix_len() || ge > le || le > Family::of(&net).bits() {
            return Err(PrefixListError { net, ge, le });
        }
        self.insert(net.trunc(), ge, le);
        Ok(self)
    }

    fn insert(&mut self, net: IpNet, ge: u8, le: u8) {
        self.entries.entry(net).or_default().push((ge, le));
        if !self.lengths.contains(&net.prefix_len()) {
            self.lengths.push(net.prefix_len());
        }
    }

    /// Is this prefix meant? One look-up per length on the list.
    pub fn contains(&self, net: &IpNet) -> bool {
        self.lengths.iter().filter(|length| **length <= net.prefix_len()).any(|length| {
            let Ok(cover) = IpNet::new(net.addr(), *length) else { return false };
            let ranges = self.entries.get(&cover.trunc());
            ranges.is_some_and(|r| r.iter().any(|(ge, le)| (*ge..=*le).contains(&net.prefix_len())))
        })
    }
}
