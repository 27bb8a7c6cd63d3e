//! All leases, and the roster they make, patched where one changes.
//!
//! Of thousands of leases one changes at a time, and it agrees with all others nearly always: then its peer alone is made
//! anew ([`Roster`] says what the peers are, and this comes to the same). Owned by the store's thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use super::network::NetworkConfig;
use super::roster::{Entry, Own, Roster, Taken, nets_of, peer, way};

/// Leases by their names in the store.
#[derive(Debug, Default)]
pub struct Leases {
    all: BTreeMap<String, Entry>,
    /// What the roster does not know yet.
    changed: BTreeSet<String>,
    made: Option<Made>,
}

/// The last roster.
#[derive(Debug)]
struct Made {
    network: NetworkConfig,
    own: Own,
    roster: Roster,
    /// None where leases contradict each other, or a node has several.
    agreed: Option<Agreed>,
}

/// What each lease brings in, where none has to do with another.
#[derive(Debug, Default)]
struct Agreed {
    /// The names of peers and their ranges, by the lease's name.
    given: HashMap<String, Vec<(String, IpNet)>>,
    /// All ranges, and this node's.
    taken: Taken<'static>,
}

impl Deref for Leases {
    type Target = BTreeMap<String, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Leases {
    /// A lease is there, or is another.
    pub fn insert(&mut self, name: String, entry: Entry) {
        self.changed.insert(name.clone());
        self.all.insert(name, entry);
    }

    /// A lease is gone.
    pub fn remove(&mut self, name: &str) {
        if self.all.remove(name).is_some() {
            self.changed.insert(name.to_owned());
        }
    }

    /// The roster that was made last.
    #[must_use]
    pub fn last(&self) -> Option<&Roster> {
        self.made.as_ref().map(Made::roster)
    }

    /// The roster of what is there now. A peer that did not change is the one of the last roster.
    pub fn roster(&mut self, network: &NetworkConfig, own: &Own) -> &Roster {
        let changed = std::mem::take(&mut self.changed);
        let before = self.made.take();
        let same = before.filter(|made| made.network == *network && made.own == *own);
        let all = &self.all;
        // Where most change, as with a list, making it anew is less work.
        let patched = same.map(|mut made| match changed.len() <= 1 + all.len() / 8 {
            true if changed.is_empty() || made.patch(all, &changed) => made,
            _ => Made::new(network, own, all, Some(&made.roster)),
        });
        self.made.insert(patched.unwrap_or_else(|| Made::new(network, own, all, None))).roster()
    }
}

impl Made {
    fn new(
        network: &NetworkConfig,
        own: &Own,
        leases: &BTreeMap<String, Entry>,
        before: Option<&Roster>,
    ) -> Made {
        let (network, own) = (network.clone(), own.clone());
        let (mut roster, agreed) = Roster::and_whether_agreed(&network, &own, leases);
        for now in &mut roster.peers {
            if let Some(known) =
                before.and_then(|roster| roster.named(&now.name)).filter(|known| *known == now)
            {
                *now = Arc::clone(known);
            }
        }
        let mut index = Agreed::default();
        for net in own.key.iter().flat_map(|key| nets_of(*key)) {
            let _ = index.taken.add(net, "");
        }
        let agreed = agreed.map(|given| {
            // They agree, so none overlaps.
            for (name, peer, net) in given {
                let _ = index.taken.add(net, "");
                index.given.entry(name).or_default().push((peer, net));
            }
            index
        });
        Made { network, own, roster, agreed }
    }

    fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Takes over what these leases are now; false = one has to do with another one, and what is here is of no use.
    fn patch(&mut self, leases: &BTreeMap<String, Entry>, changed: &BTreeSet<String>) -> bool {
        let Some(Agreed { given, taken }) = &mut self.agreed else { return false };
        let roster = &mut self.roster;
        let at = |roster: &Roster, name: &str| roster.peers.binary_search_by(|p| p.name.as_str().cmp(name));
        // All that goes before all that comes: two may have changed places.
        let mut gone = Vec::new();
        for name in changed {
            roster.problems.remove(name);
            for (peer, net) in given.remove(name).into_iter().flatten() {
                taken.remove(&net);
                if let Ok(at) = at(roster, &peer) {
                    gone.push(roster.peers.remove(at));
                }
            }
        }
        for name in changed {
            let Some(entry) = leases.get(name) else { continue };
            for (half, backend) in roster.of_one(&self.network, &self.own, name, entry) {
                let now = peer(way(&half, backend), vec![half.net()]);
                let (Err(at), Ok(())) = (at(roster, &now.name), taken.add(half.net(), "")) else {
                    return false;
                };
                given.entry(name.clone()).or_default().push((now.name.clone(), half.net()));
                // Written again as it was, it is what it was.
                let known = gone.iter().find(|known| ***known == now).map(Arc::clone);
                roster.peers.insert(at, known.unwrap_or_else(|| Arc::new(now)));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
