//! flannel's keys as far as they are known: the network in force, and the leases.
//!
//! Pure, time is an argument. Memory is bounded whatever lies there: keys that name no subnet are counted, of those that have something
//! before it a thousand are kept, and of the regular ones as many as a network may have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::table::Notes;
use super::wire::KeyValue;
use crate::flannel::roster::{Own, nets_of, too_wide};
use crate::flannel::{Entry, LeaseKey, LeaseValue, Leases, NetworkConfig, Roster};

/// Most leases whose key is written as flannel does.
const MOST_REGULAR: usize = 1 << 17;
/// Most others.
const MOST_ODD: usize = 1000;
/// Most changes that wait; others are in force at once.
const MOST_LATER: usize = 1000;
/// A lease that is gone, or that contradicts another one of the same node, counts this much later: its node takes it again,
/// or says again how it is reached, at once, and no packet shall notice.
const LINGER: Duration = Duration::from_millis(500);

/// What flannel's keys say.
#[derive(Debug)]
pub(super) struct Nodes {
    /// With a slash at the end.
    prefix: String,
    /// The configuration's text as it lies there; none = there is none.
    pub(super) text: Option<Vec<u8>>,
    /// In force: the first valid one that etcd had since the start; until then the one that was kept.
    pub(super) network: Option<NetworkConfig>,
    /// The one in force is only what was kept.
    kept: bool,
    /// Its text.
    in_force: Option<String>,
    network_problem: Option<String>,
    /// By their names below `subnets/`.
    pub(super) leases: Leases,
    /// Which of them have something before the subnet.
    odd: BTreeSet<String>,
    seen: Option<(bool, BTreeSet<String>)>,
    /// Changes of leases that are not in force yet: since when they are, and the key; none = it is gone.
    later: BTreeMap<String, (Instant, Option<KeyValue>)>,
    pub(super) notes: Notes,
    /// All is known up to here.
    pub(super) revision: i64,
}

/// A key's meaning.
enum Name<'a> {
    Config,
    Lease(&'a str, LeaseKey),
    Junk,
}

impl Nodes {
    pub(super) fn new(prefix: &str) -> Nodes {
        Nodes {
            prefix: format!("{prefix}/"),
            text: None,
            network: None,
            kept: false,
            in_force: None,
            network_problem: None,
            leases: Leases::default(),
            odd: BTreeSet::new(),
            seen: None,
            later: BTreeMap::new(),
            notes: Notes::default(),
            revision: 0,
        }
    }

    /// The range of keys.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn name<'a>(&self, key: &'a [u8]) -> Name<'a> {
        let Ok(text) = std::str::from_utf8(key) else { return Name::Junk };
        match text.strip_prefix(&self.prefix) {
            Some("config") => Name::Config,
            Some(rest) => match rest.strip_prefix("subnets") {
                Some(rest) if rest.len() <= 300 => {
                    let name = rest.strip_prefix('/').unwrap_or(rest);
                    name.parse().map_or(Name::Junk, |key| Name::Lease(name, key))
                }
                _ => Name::Junk,
            },
            None => Name::Junk,
        }
    }

    /// A list begins.
    pub(super) fn listing(&mut self) {
        self.seen = Some((false, BTreeSet::new()));
        self.later.clear();
        self.notes.listing();
    }

    /// The list was complete: what it did not have is gone.
    pub(super) fn listed(&mut self, revision: i64) {
        self.revision = revision;
        let Some((config, seen)) = self.seen.take() else { return };
        if !config {
            self.text = None;
        }
        let gone: Vec<String> = self.leases.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.forget(name));
    }

    /// Is a list under way?
    pub(super) fn is_listing(&self) -> bool {
        self.seen.is_some()
    }

    /// A key was written, or is listed; in force at once.
    pub(super) fn put(&mut self, kv: &KeyValue) {
        match self.name(&kv.key) {
            Name::Config => {
                if let Some((config, _)) = &mut self.seen {
                    *config = true;
                }
                self.configure(&kv.value);
            }
            Name::Lease(name, key) => {
                let name = name.to_owned();
                if let Some((_, seen)) = &mut self.seen {
                    seen.insert(name.clone());
                }
                self.put_lease(name, key, kv);
            }
            Name::Junk => self.notes.junk(kv.create_revision == kv.mod_revision || self.seen.is_some()),
        }
    }

    /// A key was written. What contradicts another lease of the same node waits for that node's word.
    pub(super) fn changed(&mut self, kv: &KeyValue, own: &Own, now: Instant) {
        if let Name::Lease(name, _) = self.name(&kv.key) {
            let name = name.to_owned();
            self.later.remove(&name);
            if self.seen.is_none() && self.contradicts(&name, &kv.value, own) && self.later.len() < MOST_LATER
            {
                self.later.insert(name, (now + LINGER, Some(kv.clone())));
                return;
            }
        }
        self.put(kv);
    }

    /// A key was deleted. A lease of another node stays for a moment, in which that node takes it again.
    pub(super) fn deleted(&mut self, key: &[u8], own: &Own, now: Instant) {
        if let Name::Lease(name, lease) = self.name(key)
            && own.key != Some(lease)
            && self.leases.contains_key(name)
            && self.later.len() < MOST_LATER
        {
            self.later.insert(name.to_owned(), (now + LINGER, None));
            return;
        }
        self.delete(key);
    }

    /// Brings into force what has waited long enough; true when anything did.
    pub(super) fn ripen(&mut self, now: Instant) -> bool {
        let ripe: Vec<String> =
            self.later.iter().filter(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone()).collect();
        for name in &ripe {
            match self.later.remove(name) {
                Some((_, Some(kv))) => self.put(&kv),
                _ => self.forget(name),
            }
        }
        !ripe.is_empty()
    }

    /// When to call [`Nodes::ripen`] next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.later.values().map(|(at, _)| *at).min()
    }

    /// Does another lease say of the same node that it is reached in another way? What is said of this node it hears at
    /// once, for it has to answer.
    fn contradicts(&self, name: &str, value: &[u8], own: &Own) -> bool {
        let Ok(said) = LeaseValue::parse(value) else { return false };
        let of_ours = own.address == Some(said.public_ip)
            || said.public_ipv6.is_some() && own.address6 == said.public_ipv6;
        let others = self.leases.iter().filter(|(other, _)| *other != name);
        !of_ours
            && others.filter_map(|(_, entry)| entry.value.as_ref()).any(|other| {
                let same_node = other.public_ip == said.public_ip
                    || said.public_ipv6.is_some() && other.public_ipv6 == said.public_ipv6;
                same_node && other.backend != said.backend
            })
    }

    /// A key is gone, at once.
    fn delete(&mut self, key: &[u8]) {
        match self.name(key) {
            Name::Config => self.text = None,
            Name::Lease(name, _) => self.forget(name),
            Name::Junk => self.notes.junk_gone(),
        }
    }

    /// A key's value is larger than is read.
    pub(super) fn too_large(&mut self, kv: &KeyValue) {
        let kv = KeyValue { value: vec![b' '; crate::flannel::network::MOST_TEXT + 1], ..kv.clone() };
        self.put(&kv);
    }

    /// Takes up the configuration that was kept.
    pub(super) fn restore(&mut self, text: &[u8]) {
        self.configure(text);
        self.kept = true;
    }

    /// Takes a configuration over. One that differs from the one in force waits for the next start: what is in force
    /// stays, whatever somebody writes.
    fn configure(&mut self, text: &[u8]) {
        self.text = Some(text.get(..crate::flannel::network::MOST_TEXT).unwrap_or(text).to_vec());
        let parsed = NetworkConfig::parse(text);
        let in_force = self.network.as_ref().filter(|_| !self.kept);
        self.network_problem = match (in_force, parsed) {
            (_, Err(err)) => Some(err.to_string()),
            (None, Ok(network)) => {
                (self.network, self.kept) = (Some(network), false);
                self.in_force = Some(String::from_utf8_lossy(text).into_owned());
                None
            }
            (Some(in_force), Ok(network)) if *in_force == network => None,
            (Some(_), Ok(_)) => {
                Some("it was changed; the change is in force after the next start".to_owned())
            }
        };
    }

    fn put_lease(&mut self, name: String, key: LeaseKey, kv: &KeyValue) {
        // Events may come twice; a list is right whatever was there before.
        if self.seen.is_none() && self.leases.get(&name).is_some_and(|have| have.modified >= kv.mod_revision)
        {
            return;
        }
        self.forget(&name);
        let inside = |net: IpNet, all: &NetworkConfig| all.networks().iter().any(|all| all.contains(&net));
        if self.network.as_ref().is_some_and(|network| !inside(key.v4.into(), network)) {
            return self.notes.tell(&name, format!("{} is not inside the network", key.v4));
        }
        // There is one regular name for a subnet, so a network has room for so many; of other names there is no end.
        let regular = name == key.to_string();
        let (have, most) = match regular {
            true => (self.leases.len() - self.odd.len(), MOST_REGULAR),
            false => (self.odd.len(), MOST_ODD),
        };
        if have >= most {
            return self.notes.tell(&name, format!("it is ignored: there are more than {most} like it"));
        }
        let value = LeaseValue::parse(&kv.value);
        if let Err(err) = &value {
            self.notes.tell(&name, err.to_string());
        }
        if !regular {
            self.odd.insert(name.clone());
        }
        let (created, modified, lease) = (kv.create_revision, kv.mod_revision, kv.lease);
        self.leases.insert(name, Entry { key, value: value.ok(), created, modified, lease });
    }

    fn forget(&mut self, name: &str) {
        self.notes.clear(name);
        self.leases.remove(name);
        self.odd.remove(name);
    }

    /// What our own key holds.
    pub(super) fn own(&self, key: &LeaseKey) -> Option<&Entry> {
        self.leases.get(&key.to_string())
    }

    /// Every subnet that somebody has or claims, but under this name. A claim to more than a node can have is none: one
    /// key would else leave nothing to all others.
    pub(super) fn taken<'a>(&'a self, but: Option<&'a str>) -> impl Iterator<Item = IpNet> + 'a {
        let others = self.leases.iter().filter(move |(name, _)| Some(name.as_str()) != but);
        let networks: Vec<IpNet> = self.network.iter().flat_map(NetworkConfig::networks).collect();
        let possible = move |net: &IpNet| !networks.iter().any(|all| all.contains(net) && too_wide(all, net));
        others.flat_map(|(_, entry)| nets_of(entry.key)).filter(possible)
    }

    /// The text of the configuration in force.
    pub(super) fn network_text(&self) -> Option<String> {
        self.in_force.clone()
    }

    /// The peers; none without a network.
    pub(super) fn roster(&mut self, own: &Own) -> Option<&Roster> {
        self.network.as_ref().map(|network| self.leases.roster(network, own))
    }

    /// What is wrong with the configuration.
    pub(super) fn network_problem(&self) -> Option<String> {
        match (&self.text, &self.network) {
            (None, None) => Some("it is not there; write it, and this node takes a subnet".to_owned()),
            (None, Some(_)) => Some("it is gone; everything stays as it was until it is back".to_owned()),
            _ => self.network_problem.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
