//! The objects in force, and the policy world they make.
//!
//! **An invalid policy never widens access.** A new version that is not valid leaves the last valid one in force. With no
//! valid version before it, a policy whose subject can be read stands in as one that selects it and denies; where not
//! even that can be read, nobody can say whom it meant, and it is reported only. Whatever is not as written is in
//! [`Objects::problems`].
//!
//! Owned by the control thread. Only [`Manifests`] does I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::objects::{Key, Object, Refused};

pub use self::manifests::Manifests;
pub use self::problem::{FileError, Problem, Standing};
pub use self::world::{LocalPod, NodeAddrs};

mod manifests;
mod problem;
mod world;

/// All objects, by kind, namespace and name.
#[derive(Debug)]
pub struct Objects {
    entries: BTreeMap<Key, Entry>,
    made: world::Made,
}

#[derive(Debug, Default)]
struct Entry {
    /// The last valid version.
    good: Option<Good>,
    /// The version there is now, if it is not valid.
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Good {
    object: Object,
    source: Arc<Value>,
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
        Objects { entries: BTreeMap::new(), made: world::Made::new() }
    }

    /// Takes over an object's new version. True when that changes anything (what is in force, or the problems).
    pub fn put(&mut self, key: Key, source: Arc<Value>, version: Result<Object, Refused>) -> bool {
        let entry = self.entries.entry(key).or_default();
        match version {
            Ok(object) => {
                let cleared = entry.refused.take().is_some();
                // An equal object keeps its allocation: the compiler compares by pointer first.
                let changed = entry.good.as_ref().is_none_or(|good| good.object != object);
                if changed {
                    entry.good = Some(Good { object, source });
                }
                changed || cleared
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
        self.entries.remove(key).is_some()
    }

    /// The objects in force with their text as plain values, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, &*entry.good.as_ref()?.source)))
    }

    /// What names the objects there are, valid or not.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// The objects whose current version is not valid, and what stands in for them.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let refused =
            self.entries.iter().filter_map(|(key, entry)| Some((key, entry, entry.refused.as_ref()?)));
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

    fn good(&self) -> impl Iterator<Item = (&Key, &Object)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, &entry.good.as_ref()?.object)))
    }
}

/// Is this an address that something can have?
fn usable(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast()
}

#[cfg(test)]
mod tests;
