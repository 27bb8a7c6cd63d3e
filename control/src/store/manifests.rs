//! The static store: a directory of manifests.
//!
//! [`Manifests::reload`] reads what changed and says whether anything did; who calls it, and when, is the daemon's
//! matter. Files ending in `.yaml`, `.yml` or `.json` count, in the order of their names; names that begin with a dot do
//! not, nor do subdirectories.
//!
//! A file that cannot be read or parsed, that changes while it is read, or that has become empty (a writer that
//! truncates first) keeps the objects it last had: only removing the file, or leaving an object out of a file that can
//! be parsed, removes an object. Nobody can tell a file cut off between two documents from one that is complete, so
//! write beside it and rename. Of an object that stands in several places the first counts, the others are reported.
//!
//! What is in force is kept in `objects.json` in the state directory, so that a restart with a broken manifest has the
//! last valid version too. That file is read like any manifest, every object checked again; a damaged one is reported
//! and ignored.
//!
//! On the control thread. The only I/O of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FileError, Objects, Problem};
use crate::attachments::files;
use crate::objects::{Item, Key, read, read_value, yaml};

/// The kept copy's name.
const KEPT: &str = "objects.json";
/// Of the kept copy.
const FORMAT: u32 = 1;

/// A directory of manifests, and the objects in it.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    state: PathBuf,
    files: BTreeMap<String, Manifest>,
    objects: Objects,
    /// What is wrong with files, beside what is wrong with the objects in force.
    problems: Vec<Problem>,
    /// What is wrong with the directory.
    unreadable: Option<Problem>,
    /// What is wrong with the kept copy, until it is written well.
    unkept: Option<Problem>,
}

/// One file.
#[derive(Debug, Default)]
struct Manifest {
    /// Of the version last looked at; none = look again.
    stamp: Option<Stamp>,
    /// Its objects, of the last version that could be parsed.
    items: Vec<Item>,
    /// Why the version there is now could not.
    error: Option<FileError>,
}

/// Tells versions of a file apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The kept copy: by file, the objects that were in force.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<V> {
    format: u32,
    files: BTreeMap<String, Vec<V>>,
}

impl Manifests {
    /// What was last in force, if a copy was kept in `state`, a directory. Reads no manifest yet: [`Manifests::reload`].
    #[must_use]
    pub fn open(dir: &Path, state: &Path) -> Manifests {
        let mut manifests = Manifests {
            dir: dir.to_owned(),
            state: state.to_owned(),
            files: BTreeMap::new(),
            objects: Objects::new(),
            problems: Vec::new(),
            unreadable: None,
            unkept: None,
        };
        let path = state.join(KEPT);
        match load(&path) {
            Ok(files) => manifests.files = files,
            Err(FileError::Io { kind: io::ErrorKind::NotFound, .. }) => {}
            Err(error) => manifests.unkept = Some(Problem::File { path, error }),
        }
        manifests.merge();
        manifests
    }

    /// The objects in force.
    pub fn objects(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// Everything that is not as written.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let files = self.unreadable.iter().chain(&self.unkept).chain(&self.problems).cloned();
        files.chain(self.objects.problems()).collect()
    }

    /// Reads the files that changed. True when the objects in force or the problems did.
    pub fn reload(&mut self) -> bool {
        let before = self.problems();
        let names = match names(&self.dir) {
            Ok(names) => names,
            Err(err) => {
                // Everything stays: a directory that cannot be read is not an empty one.
                self.unreadable = Some(Problem::File { path: self.dir.clone(), error: FileError::io(&err) });
                return self.problems() != before;
            }
        };
        self.unreadable = None;
        let known = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        let mut look = self.files.len() != known;
        for name in names {
            let path = self.dir.join(&name);
            look |= self.files.entry(name).or_default().look(&path);
        }
        let changed = look && self.merge();
        if changed || matches!(self.unkept, Some(Problem::Kept(_))) {
            self.unkept = self.keep().err().map(|err| Problem::Kept(Arc::new(err)));
        }
        changed || self.problems() != before
    }

    /// Brings the files' objects into force. True when that changed anything.
    fn merge(&mut self) -> bool {
        let (mut owners, mut problems): (HashMap<&Key, &str>, _) = (HashMap::new(), Vec::new());
        let mut changed = false;
        for (name, file) in &self.files {
            let path = self.dir.join(name);
            if let Some(error) = &file.error {
                problems.push(Problem::File { path: path.clone(), error: error.clone() });
            }
            for item in &file.items {
                match item {
                    Item::Known { key, source, object } => match owners.entry(key) {
                        Entry::Vacant(free) => {
                            free.insert(name);
                            if !self.objects.has(key, source) {
                                changed |= self.objects.put(key.clone(), Arc::clone(source), object.clone());
                            }
                        }
                        Entry::Occupied(first) => problems.push(Problem::Duplicate {
                            key: key.clone(),
                            path: path.clone(),
                            first: self.dir.join(first.get()),
                        }),
                    },
                    Item::Unknown { what, error } => problems.push(Problem::Unknown {
                        path: path.clone(),
                        what: what.clone(),
                        error: error.clone(),
                    }),
                }
            }
        }
        let gone: Vec<Key> = self.objects.keys().filter(|key| !owners.contains_key(key)).cloned().collect();
        for key in &gone {
            changed |= self.objects.remove(key);
        }
        self.problems = problems;
        changed
    }

    /// Keeps a copy of what is in force.
    fn keep(&self) -> Result<(), crate::attachments::StateError> {
        let mut kept: Kept<&Value> = Kept { format: FORMAT, files: BTreeMap::new() };
        let good: BTreeMap<&Key, &Value> = self.objects.iter().collect();
        let mut seen = BTreeSet::new();
        for (name, file) in &self.files {
            let keys = file.items.iter().filter_map(|item| match item {
                Item::Known { key, .. } => Some(key),
                Item::Unknown { .. } => None,
            });
            let values =
                keys.filter(|key| seen.insert(*key)).filter_map(|key| good.get(key).copied()).collect();
            kept.files.insert(name.clone(), values);
        }
        // A value that serde_json made is always one that it can write.
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        files::replace(&self.state, KEPT, &text)
    }
}

impl Manifest {
    /// Reads the file if it changed. True when it did.
    fn look(&mut self, path: &Path) -> bool {
        let version = match fs::metadata(path) {
            Ok(metadata) if self.stamp == Some(Stamp::of(&metadata)) => return false,
            // Opening anything else than a file may block.
            Ok(metadata) if !metadata.is_file() => Err(FileError::NotAFile),
            Ok(_) => text(path),
            Err(err) => Err(FileError::io(&err)),
        };
        let (stamp, items) = match version {
            Ok((stamp, text)) => (Some(stamp), read(&text).map_err(FileError::Text)),
            Err(error) => (None, Err(error)),
        };
        let error = match items {
            Ok(items) if items.is_empty() && !self.items.is_empty() => Some(FileError::Empty),
            Ok(items) => {
                self.items = items;
                None
            }
            Err(error) => Some(error),
        };
        // An error without a stamp is found again at each look, and is news only once.
        let news = stamp.is_some() || self.error != error;
        (self.stamp, self.error) = (stamp, error);
        news
    }
}

/// The manifests' names, sorted.
fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        // A name that is not UTF-8 is none of ours: its ending cannot be read.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let manifest = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if manifest && !name.starts_with('.') && !dir.join(&name).is_dir() {
            names.insert(name);
        }
    }
    Ok(names)
}

/// A file's text, and the stamp of exactly that version.
fn text(path: &Path) -> Result<(Stamp, Vec<u8>), FileError> {
    let file = File::open(path).map_err(|err| FileError::io(&err))?;
    let before = Stamp::of(&file.metadata().map_err(|err| FileError::io(&err))?);
    let mut text = Vec::new();
    // One byte more than is taken, so that a longer file is seen to be one.
    (&file).take(yaml::MAX_TEXT as u64 + 1).read_to_end(&mut text).map_err(|err| FileError::io(&err))?;
    let after = Stamp::of(&file.metadata().map_err(|err| FileError::io(&err))?);
    if before == after { Ok((after, text)) } else { Err(FileError::Changing) }
}

fn load(path: &Path) -> Result<BTreeMap<String, Manifest>, FileError> {
    let text = fs::read(path).map_err(|err| FileError::io(&err))?;
    let kept: Kept<Value> = serde_json::from_slice(&text).map_err(|err| FileError::Damaged(Arc::new(err)))?;
    if kept.format != FORMAT {
        return Err(FileError::Format { format: kept.format });
    }
    let files = kept.files.into_iter().map(|(name, values)| {
        let mut file = Manifest::default();
        values.into_iter().for_each(|value| read_value(value, &mut file.items));
        (name, file)
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests;
