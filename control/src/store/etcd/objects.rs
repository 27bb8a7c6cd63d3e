//! Objects below `<own prefix>/objects/`, as far as they are known.
//!
//! One JSON manifest a key: `<kind>/<namespace, or _>/<name>`. A version that cannot be read leaves the last valid one in
//! force; only deleting the key removes the object. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde_json::Value;

use super::table::Notes;
use super::wire::KeyValue;
use crate::objects::{Item, Key, Kind, Object, Refused, read, yaml};

/// Most text of all objects together, in bytes.
const MOST_BYTES: usize = 256 << 20;

/// A version of an object as it was read.
pub(super) type Version = (Arc<Value>, Result<Object, Refused>);

/// All objects.
#[derive(Debug)]
pub(super) struct ObjectKeys {
    /// With a slash at the end.
    prefix: String,
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
    seen: Option<BTreeSet<Key>>,
    pub(super) notes: Notes,
    /// All is known up to here.
    pub(super) revision: i64,
}

#[derive(Debug, Default)]
struct Entry {
    modified: i64,
    /// Of the text.
    hash: u64,
    len: usize,
    /// The last version whose JSON could be read, valid or not.
    current: Option<Arc<Value>>,
    /// The last valid one.
    good: Option<Arc<Value>>,
}

impl ObjectKeys {
    pub(super) fn new(own_prefix: &str) -> ObjectKeys {
        ObjectKeys {
            prefix: format!("{own_prefix}/objects/"),
            entries: BTreeMap::new(),
            bytes: 0,
            seen: None,
            notes: Notes::default(),
            revision: 0,
        }
    }

    /// The range of keys.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn listing(&mut self) {
        self.seen = Some(BTreeSet::new());
        self.notes.listing();
    }

    pub(super) fn is_listing(&self) -> bool {
        self.seen.is_some()
    }

    /// The list was complete; the objects that are gone.
    pub(super) fn listed(&mut self, revision: i64) -> Vec<Key> {
        self.revision = revision;
        let Some(seen) = self.seen.take() else { return Vec::new() };
        let gone: Vec<Key> = self.entries.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.forget(key));
        gone
    }

    /// A key was written, or is listed; the object's new version, if it is one that can be read.
    pub(super) fn put(&mut self, kv: &KeyValue) -> Option<(Key, Version)> {
        let Some((name, key)) = self.name(&kv.key) else {
            self.notes.junk(kv.create_revision == kv.mod_revision || self.seen.is_some());
            return None;
        };
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        }
        let mut hasher = DefaultHasher::new();
        kv.value.hash(&mut hasher);
        let hash = hasher.finish();
        let entry = self.entries.entry(key.clone()).or_default();
        let same = entry.modified == kv.mod_revision && entry.hash == hash;
        if (same && entry.current.is_some()) || (self.seen.is_none() && entry.modified > kv.mod_revision) {
            return None;
        }
        self.notes.clear(&name);
        let bytes = self.bytes - entry.len + kv.value.len();
        let version = match one(&kv.value, &key) {
            _ if bytes > MOST_BYTES => {
                Err(format!("it is not read: all objects have more than {MOST_BYTES} bytes"))
            }
            version => version,
        };
        (entry.modified, entry.hash) = (kv.mod_revision, hash);
        match version {
            Ok((source, object)) => {
                (entry.len, self.bytes) = (kv.value.len(), bytes);
                entry.current = Some(Arc::clone(&source));
                if object.is_ok() {
                    entry.good = Some(Arc::clone(&source));
                }
                Some((key, (source, object)))
            }
            Err(problem) => {
                let standing = if entry.good.is_some() {
                    "its last valid version stays in force"
                } else {
                    "it is ignored"
                };
                self.notes.tell(&name, format!("{problem}; {standing}"));
                None
            }
        }
    }

    /// A key was deleted; the object that is gone.
    pub(super) fn delete(&mut self, key: &[u8]) -> Option<Key> {
        let Some((name, key)) = self.name(key) else {
            self.notes.junk_gone();
            return None;
        };
        self.notes.clear(&name);
        self.forget(&key);
        Some(key)
    }

    pub(super) fn too_large(&mut self, kv: &KeyValue) {
        if let Some((name, key)) = self.name(&kv.key) {
            if let Some(seen) = &mut self.seen {
                seen.insert(key);
            }
            self.notes.tell(
                &name,
                "it is larger than is read; its last valid version, if any, stays in force".to_owned(),
            );
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.len;
        }
    }

    /// The text of an object's current version, and of the last valid one.
    pub(super) fn source(&self, key: &Key) -> (Option<&Arc<Value>>, Option<&Arc<Value>>) {
        self.entries.get(key).map_or((None, None), |entry| (entry.current.as_ref(), entry.good.as_ref()))
    }

    /// The revision that wrote an object last; 0 = it is not there.
    pub(super) fn revision_of(&self, key: &Key) -> i64 {
        self.entries.get(key).map_or(0, |entry| entry.modified)
    }

    /// What was in force when it was kept.
    pub(super) fn restore(&mut self, key: Key, source: Arc<Value>) {
        let (current, good) = (Some(Arc::clone(&source)), Some(source));
        self.entries.insert(key, Entry { current, good, ..Entry::default() });
    }

    /// Every object's last valid text.
    pub(super) fn good(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.good.as_ref()?)))
    }

    /// What a key names, as a text for reports and as an object.
    fn name(&self, key: &[u8]) -> Option<(String, Key)> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        parse_path(name).map(|key| (name.to_owned(), key))
    }
}

/// `<kind>/<namespace, or _>/<name>`
pub(super) fn path(key: &Key) -> String {
    format!("{}/{}/{}", key.kind.as_str(), key.namespace.as_deref().unwrap_or("_"), key.name)
}

/// The object that such a path names. Only the path that [`path`] makes of it is one.
pub(super) fn parse_path(text: &str) -> Option<Key> {
    let mut parts = text.split('/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let good = parts.next().is_none()
        && kind.namespaced() == (namespace != "_")
        && [namespace, name].iter().all(|part| (1..=253).contains(&part.len()));
    good.then(|| Key { kind, namespace: kind.namespaced().then(|| namespace.into()), name: name.into() })
}

/// The one object of a text, which must be that of its key.
pub(super) fn one(text: &[u8], key: &Key) -> Result<Version, String> {
    if text.len() > yaml::MAX_DOCUMENT {
        return Err(format!("{} bytes: at most {} are read", text.len(), yaml::MAX_DOCUMENT));
    }
    let mut items = read(text).map_err(|err| err.to_string())?;
    match (items.pop(), items.len()) {
        (Some(Item::Known { key: found, source, object }), 0) if found == *key => Ok((source, object)),
        (Some(Item::Known { key: found, .. }), 0) => Err(format!("it holds {found}")),
        (Some(Item::Unknown { what, error }), 0) => Err(format!("{what}: {error}")),
        (Some(_), more) => Err(format!("it holds {} objects", more + 1)),
        (None, _) => Err("it is empty".to_owned()),
    }
}
