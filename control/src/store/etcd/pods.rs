//! Attached pods as their nodes publish them, below `<own prefix>/pods/<namespace>/<name>`.
//!
//! A value is a Pod manifest with `spec.nodeName`, `status.podIPs` and `status.hostIPs`. It is a claim: it counts only
//! while the subnet of each of its addresses is leased by the node that has one of its host addresses. So two nodes that
//! write one name do not gain each other's addresses, and a node that lost its lease loses its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::objects::one;
use super::table::Notes;
use super::wire::KeyValue;
use crate::config::Peer;
use crate::objects::{Key, Kind, Object};

/// Longest value that is read, in bytes.
const MOST_TEXT: usize = 64 << 10;
/// Most text of all of them, in bytes.
const MOST_BYTES: usize = 128 << 20;

/// A pod attached to this node, to be published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPod {
    /// Its namespace, a DNS label.
    pub namespace: String,
    /// Its name, a DNS subdomain.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The addresses it was given.
    pub addrs: Vec<IpAddr>,
}

impl PublishedPod {
    /// The manifest, as one line of JSON.
    pub(super) fn encode(&self, node: &str, hosts: &[IpAddr]) -> String {
        let ips = |addrs: &[IpAddr]| addrs.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>();
        let value = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": self.namespace, "name": self.name, "labels": self.labels },
            "spec": { "nodeName": node },
            "status": {
                "hostIP": hosts.first(),
                "hostIPs": ips(hosts),
                "podIP": self.addrs.first(),
                "podIPs": ips(&self.addrs),
            },
        });
        value.to_string()
    }
}

/// Published pods.
#[derive(Debug)]
pub(super) struct PodKeys {
    /// With a slash at the end.
    prefix: String,
    pub(super) entries: BTreeMap<Key, PodEntry>,
    by_addr: BTreeMap<IpAddr, BTreeSet<Key>>,
    bytes: usize,
    seen: Option<BTreeSet<Key>>,
    pub(super) notes: Notes,
    /// All is known up to here.
    pub(super) revision: i64,
    owners: Owners,
    /// What those are made of: the peers, and what is ours.
    peers: Vec<Arc<Peer>>,
    mine: Vec<(IpNet, IpAddr)>,
}

/// Whose addresses are whose, by their nodes' addresses.
#[derive(Debug, Default)]
struct Owners {
    /// Subnets and blocks; disjoint.
    nets: BTreeMap<IpAddr, (IpNet, IpAddr)>,
    /// Single addresses, which may lie inside those.
    single: BTreeMap<IpAddr, IpAddr>,
}

impl Owners {
    fn insert(&mut self, (net, end): (IpNet, IpAddr)) {
        match is_single(&net) {
            true => drop(self.single.insert(net.addr(), end)),
            false => drop(self.nets.insert(net.network(), (net, end))),
        }
    }

    fn remove(&mut self, net: &IpNet) {
        match is_single(net) {
            true => drop(self.single.remove(&net.addr())),
            false => drop(self.nets.remove(&net.network())),
        }
    }

    fn len(&self) -> usize {
        self.nets.len() + self.single.len()
    }

    /// Is the address one of these nodes'?
    fn has(&self, hosts: &[IpAddr], addr: IpAddr) -> bool {
        if let Some(end) = self.single.get(&addr) {
            return hosts.contains(end);
        }
        let found = self.nets.range(..=addr).next_back();
        found.is_some_and(|(_, (net, end))| net.contains(&addr) && hosts.contains(end))
    }
}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// What a peer says is its own.
fn claims(peer: &Arc<Peer>) -> impl Iterator<Item = (IpNet, IpAddr)> {
    let end = peer.address.map(IpAddr::V4).or(peer.address6.map(IpAddr::V6));
    peer.pod_cidrs.iter().filter_map(move |net| Some((*net, end?)))
}

/// Which of two lists in order of their names are only in the first, and only in the second.
fn differences<'a>(a: &'a [Arc<Peer>], b: &'a [Arc<Peer>]) -> (Vec<&'a Arc<Peer>>, Vec<&'a Arc<Peer>>) {
    let (mut only_a, mut only_b) = (Vec::new(), Vec::new());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x == y => {
                a.next();
                b.next();
            }
            (Some(x), y) if y.is_none_or(|y| x.name <= y.name) => only_a.extend(a.next()),
            (_, Some(_)) => only_b.extend(b.next()),
            (_, None) => return (only_a, only_b),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct PodEntry {
    pub(super) modified: i64,
    pub(super) lease: i64,
    pub(super) text: String,
    pub(super) node: Option<Arc<str>>,
    addrs: Vec<IpAddr>,
    hosts: Vec<IpAddr>,
    pub(super) source: Option<Arc<Value>>,
}

impl PodEntry {
    /// The addresses that it says.
    pub(super) fn addrs(&self) -> &[IpAddr] {
        &self.addrs
    }
}

impl PodKeys {
    pub(super) fn new(own_prefix: &str) -> PodKeys {
        PodKeys {
            prefix: format!("{own_prefix}/pods/"),
            entries: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            bytes: 0,
            seen: None,
            notes: Notes::default(),
            revision: 0,
            owners: Owners::default(),
            peers: Vec::new(),
            mine: Vec::new(),
        }
    }

    /// The range of keys.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a pod.
    pub(super) fn pod_key(&self, key: &Key) -> Vec<u8> {
        format!("{}{}/{}", self.prefix, key.namespace.as_deref().unwrap_or_default(), key.name).into_bytes()
    }

    pub(super) fn listing(&mut self) {
        self.seen = Some(BTreeSet::new());
        self.notes.listing();
    }

    pub(super) fn is_listing(&self) -> bool {
        self.seen.is_some()
    }

    /// The list was complete; the pods that are gone.
    pub(super) fn listed(&mut self, revision: i64) -> Vec<Key> {
        self.revision = revision;
        let Some(seen) = self.seen.take() else { return Vec::new() };
        let gone: Vec<Key> = self.entries.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.forget(key));
        gone
    }

    /// A key was written, or is listed; the pod it is about.
    pub(super) fn put(&mut self, kv: &KeyValue) -> Option<Key> {
        let Some((name, key)) = self.name(&kv.key) else {
            self.notes.junk(kv.create_revision == kv.mod_revision || self.seen.is_some());
            return None;
        };
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        } else if self.entries.get(&key).is_some_and(|have| have.modified >= kv.mod_revision) {
            return None;
        }
        self.notes.clear(&name);
        self.forget(&key);
        let mut entry = PodEntry {
            modified: kv.mod_revision,
            lease: kv.lease,
            text: String::new(),
            node: None,
            addrs: Vec::new(),
            hosts: Vec::new(),
            source: None,
        };
        let bytes = self.bytes + kv.value.len();
        let read = match kv.value.len() {
            len if len > MOST_TEXT => Err(format!("{len} bytes: at most {MOST_TEXT} are read")),
            _ if bytes > MOST_BYTES => {
                Err(format!("it is not read: all pods have more than {MOST_BYTES} bytes"))
            }
            _ => one(&kv.value, &key),
        };
        match read {
            Ok((source, Ok(Object::Pod(pod)))) => {
                (entry.node, entry.addrs) = (pod.node, pod.addrs);
                entry.hosts = hosts(&source);
                entry.source = Some(source);
                entry.text = String::from_utf8_lossy(&kv.value).into_owned();
                self.bytes = bytes;
            }
            Ok((_, Ok(_))) => self.notes.tell(&name, "it is no pod".to_owned()),
            Ok((_, Err(refused))) => {
                let first = refused.errors.first().map(ToString::to_string).unwrap_or_default();
                self.notes.tell(&name, first);
            }
            Err(problem) => self.notes.tell(&name, problem),
        }
        for addr in &entry.addrs {
            self.by_addr.entry(*addr).or_default().insert(key.clone());
        }
        self.entries.insert(key.clone(), entry);
        Some(key)
    }

    /// A key was deleted; the pod it was about.
    pub(super) fn delete(&mut self, key: &[u8]) -> Option<Key> {
        let Some((name, key)) = self.name(key) else {
            self.notes.junk_gone();
            return None;
        };
        self.notes.clear(&name);
        self.forget(&key);
        Some(key)
    }

    /// A key's value is larger than is read.
    pub(super) fn too_large(&mut self, kv: &KeyValue) -> Option<Key> {
        self.put(&KeyValue { value: vec![b' '; MOST_TEXT + 1], ..kv.clone() })
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(entry.text.len());
        for addr in &entry.addrs {
            if let Some(keys) = self.by_addr.get_mut(addr) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_addr.remove(addr);
                }
            }
        }
    }

    /// Takes over whose subnets are whose; the pods for which that may make a difference. Peers are in order of their
    /// names, and those that did not change are shared with the last ones, so that only the others are looked at.
    pub(super) fn own(&mut self, peers: &[Arc<Peer>], own: &[(IpNet, IpAddr)]) -> BTreeSet<Key> {
        let before = std::mem::replace(&mut self.peers, peers.to_vec());
        let (gone, new) = differences(&before, peers);
        let (mut gone, mut new): (Vec<_>, Vec<_>) =
            (gone.into_iter().flat_map(claims).collect(), new.into_iter().flat_map(claims).collect());
        if self.mine != own {
            gone.extend(std::mem::replace(&mut self.mine, own.to_vec()));
            new.extend_from_slice(own);
        }
        gone.iter().for_each(|(net, _)| self.owners.remove(net));
        new.iter().for_each(|claim| self.owners.insert(*claim));
        let all = peers.iter().flat_map(claims).count() + own.len();
        if self.owners.len() != all {
            // Something is claimed twice. Then it is the last one's, and ours before anybody's.
            self.owners = Owners::default();
            peers.iter().flat_map(claims).for_each(|claim| self.owners.insert(claim));
            own.iter().for_each(|claim| self.owners.insert(*claim));
            return self.entries.keys().cloned().collect();
        }
        let nets = gone.iter().chain(&new).map(|(net, _)| net);
        let keys = nets.flat_map(|net| self.by_addr.range(net.network()..=net.broadcast()));
        keys.flat_map(|(_, keys)| keys.iter().cloned()).collect()
    }

    /// A pod that another node published and has the addresses for; a claim that does not hold is told of.
    pub(super) fn valid(&mut self, key: &Key, own_node: &str) -> Option<Arc<Value>> {
        let name = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
        let entry = self.entries.get(key)?;
        let source = entry.source.clone()?;
        let claim = entry.addrs.iter().find(|addr| !self.owners.has(&entry.hosts, **addr));
        match claim {
            None if entry.node.as_deref() == Some(own_node) => None,
            None => {
                self.notes.clear(&name);
                Some(source)
            }
            Some(addr) => {
                let node = entry.node.as_deref().unwrap_or("(none)");
                let text = format!("node {node} has no lease for address {addr}; the pod does not count");
                self.notes.tell(&name, text);
                None
            }
        }
    }

    /// Has the node that wrote it the addresses it says?
    pub(super) fn holds(&self, entry: &PodEntry) -> bool {
        entry.source.is_some() && entry.addrs.iter().all(|addr| self.owners.has(&entry.hosts, *addr))
    }

    fn name(&self, key: &[u8]) -> Option<(String, Key)> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (namespace, pod) = name.split_once('/')?;
        let good = [namespace, pod].iter().all(|part| (1..=253).contains(&part.len()) && !part.contains('/'));
        let key = || Key { kind: Kind::Pod, namespace: Some(namespace.into()), name: pod.into() };
        good.then(|| (name.to_owned(), key()))
    }
}

/// `status.hostIPs` and `status.hostIP`.
fn hosts(value: &Value) -> Vec<IpAddr> {
    let ip = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let list = value.pointer("/status/hostIPs").and_then(Value::as_array).into_iter().flatten();
    let list = list.filter_map(|item| item.get("ip")).filter_map(ip);
    list.chain(value.pointer("/status/hostIP").and_then(ip)).collect()
}

/// An object's text with where the pod runs and which addresses it has, as its node says.
pub(super) fn merged(object: &Value, published: &Value) -> Value {
    let mut merged = object.clone();
    let Value::Object(map) = &mut merged else { return published.clone() };
    let mut take = |section: &str, fields: &[&str]| {
        let into = map.entry(section).or_insert_with(|| json!({}));
        if !into.is_object() {
            *into = json!({});
        }
        for field in fields {
            match published.get(section).and_then(|from| from.get(*field)) {
                Some(value) => into[*field] = value.clone(),
                None => drop(into.as_object_mut().and_then(|into| into.remove(*field))),
            }
        }
    };
    take("spec", &["nodeName"]);
    take("status", &["podIP", "podIPs", "hostIP", "hostIPs"]);
    merged
}

#[cfg(test)]
mod tests;
