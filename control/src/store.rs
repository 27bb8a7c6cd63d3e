//! The objects in force, and the policy world they make.
//!
//! **An invalid policy never widens access.** A new version that is not valid leaves the last valid one in force. With no
//! valid version before it, a policy whose subject can be read stands in as one that selects it and denies; where not
//! even that can be read, nobody can say whom it meant, and it is reported only. Whatever is not as written is in
//! [`Objects::problems`].
//!
//! Owned by the control thread. Only [`Manifests`] does I/O, and the etcd store, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::Value;

use crate::objects::{Key, Kind, Object, Refused};

pub use self::manifests::{Changed, Copy, Manifests};
pub use self::problem::{FileError, Problem, Standing};
pub use self::world::{LocalPod, NodeAddrs};

#[cfg(feature = "etcd")]
pub mod etcd;
mod manifests;
mod nodes;
mod pods;
mod problem;
mod world;

/// All objects, by kind, namespace and name.
#[derive(Debug)]
pub struct Objects {
    entries: BTreeMap<Key, Entry>,
    /// Those whose current version is not valid.
    refused: BTreeSet<Key>,
    /// One text for each namespace, that all keys share: what is asked most is whether two are the same.
    namespaces: HashSet<Arc<str>>,
    /// The last version given to an object.
    version: u64,
    /// By namespace, the version of what its pods' labels depend on beside the Pod object: the namespace itself and its
    /// service accounts. None = there never was any of these.
    contexts: HashMap<Arc<str>, u64>,
    /// The version of what says who has which address: addresses of pods, nodes and host endpoints.
    claims: u64,
    /// Pods that changed since the last world was made, in other things than that.
    changed: BTreeSet<Key>,
    /// Namespaces whose context changed since then.
    moved: BTreeSet<Arc<str>>,
    made: world::Made,
}

#[derive(Debug, Default)]
struct Entry {
    /// The text last taken over, valid or not.
    seen: Option<Arc<Value>>,
    /// The last valid version.
    good: Option<Good>,
    /// The version there is now, if it is not valid.
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Good {
    object: Object,
    source: Arc<Value>,
    /// Another one each time the object changes.
    version: u64,
}

impl Default for Objects {
    fn default() -> Self {
        Objects::new()
    }
}

impl Objects {
    /// None yet.
    #[must_use]
    pub fn new() -> Objects {
        Objects {
            entries: BTreeMap::new(),
            refused: BTreeSet::new(),
            namespaces: HashSet::new(),
            version: 0,
            contexts: HashMap::new(),
            claims: 0,
            changed: BTreeSet::new(),
            moved: BTreeSet::new(),
            made: world::Made::new(),
        }
    }

    /// Takes over an object's new version. True when that changes anything (what is in force, or the problems).
    pub fn put(&mut self, mut key: Key, source: Arc<Value>, version: Result<Object, Refused>) -> bool {
        key.namespace = key.namespace.map(|namespace| self.shared(namespace));
        match &version {
            Ok(_) => self.refused.remove(&key),
            Err(_) => self.refused.insert(key.clone()),
        };
        let entry = self.entries.entry(key.clone()).or_default();
        entry.seen = Some(Arc::clone(&source));
        match version {
            Ok(object) => {
                let cleared = entry.refused.take().is_some();
                // An equal object keeps its allocation: the compiler compares by pointer first.
                match entry.good.as_mut().filter(|good| good.object == object) {
                    Some(good) => {
                        good.source = source;
                        cleared
                    }
                    None => {
                        self.version += 1;
                        let before = entry.good.replace(Good { object, source, version: self.version });
                        let moves = claims(before.as_ref().map(|good| &good.object))
                            != claims(entry.good.as_ref().map(|good| &good.object));
                        self.note(key, moves);
                        true
                    }
                }
            }
            Err(refused) => {
                let changed = entry.refused.as_ref() != Some(&refused);
                if changed {
                    entry.refused = Some(refused);
                }
                changed
            }
        }
    }

    /// The object is gone. True when it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        self.refused.remove(key);
        let Some(entry) = self.entries.remove(key) else { return false };
        self.version += 1;
        self.note(key.clone(), claims(entry.good.as_ref().map(|good| &good.object)).is_some());
        true
    }

    /// An object became what it is with the last version. `moves`: so did who has which address.
    fn note(&mut self, key: Key, moves: bool) {
        if moves {
            self.claims = self.version;
        }
        if let Some(namespace) = context(&key) {
            self.contexts.insert(Arc::clone(namespace), self.version);
            self.moved.insert(Arc::clone(namespace));
        } else if key.kind == Kind::Pod {
            self.changed.insert(key);
        }
    }

    /// Was exactly this text, the same allocation, the last one taken over?
    fn has(&self, key: &Key, source: &Arc<Value>) -> bool {
        self.entries
            .get(key)
            .and_then(|entry| entry.seen.as_ref())
            .is_some_and(|seen| Arc::ptr_eq(seen, source))
    }

    /// The text of an object's version in force, as a plain value.
    fn source(&self, key: &Key) -> Option<&Arc<Value>> {
        Some(&self.entries.get(key)?.good.as_ref()?.source)
    }

    /// The texts of the objects of a kind in force, in order of namespace and name.
    pub fn manifests<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
        name: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Value>> {
        let wanted = move |key: &Key| {
            namespace.is_none_or(|ns| key.namespace.as_deref() == Some(ns))
                && name.is_none_or(|name| *key.name == *name)
        };
        self.good(kind).filter(move |(key, _)| wanted(key)).map(|(_, good)| &good.source)
    }

    /// What names the objects there are, valid or not.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// The objects whose current version is not valid, and what stands in for them.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let refused = self.refused.iter().filter_map(|key| {
            let entry = self.entries.get(key)?;
            Some((key, entry, entry.refused.as_ref()?))
        });
        refused
            .map(|(key, entry, refused)| Problem::Refused {
                key: key.clone(),
                errors: refused.errors.clone(),
                standing: match (&entry.good, &refused.deny) {
                    (Some(_), _) => Standing::LastValid,
                    (None, Some(_)) => Standing::Denies,
                    (None, None) => Standing::Nothing,
                },
            })
            .collect()
    }

    /// The entries of some kinds, in order of their keys.
    fn of(&self, kinds: RangeInclusive<Kind>) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = Key { kind: *kinds.start(), namespace: None, name: "".into() };
        self.entries.range(first..).take_while(move |(key, _)| kinds.contains(&key.kind))
    }

    /// The objects of one kind in force, in order of their keys.
    fn good(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Good)> {
        self.of(kind..=kind).filter_map(|(key, entry)| Some((key, entry.good.as_ref()?)))
    }

    /// The one text of a namespace.
    fn shared(&mut self, namespace: Arc<str>) -> Arc<str> {
        match self.namespaces.get(&namespace) {
            Some(shared) => Arc::clone(shared),
            None => {
                self.namespaces.insert(Arc::clone(&namespace));
                namespace
            }
        }
    }
}

/// The namespace whose pods' labels depend on an object, beside the pods' own.
fn context(key: &Key) -> Option<&Arc<str>> {
    match key.kind {
        Kind::Namespace => Some(&key.name),
        Kind::ServiceAccount => key.namespace.as_ref(),
        _ => None,
    }
}

/// What an object says about who has which address, if it says anything: the addresses, and whether they are pods'.
fn claims(object: Option<&Object>) -> Option<(&[IpAddr], bool)> {
    match object? {
        Object::Pod(pod) => Some((&pod.addrs, !pod.ended && !pod.host_network)),
        Object::Node(node) => Some((&node.addrs, false)),
        Object::Host(host) => Some((&host.addrs, false)),
        _ => None,
    }
}

/// Is this an address that something can have?
fn usable(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast()
}

#[cfg(test)]
mod tests;
