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
//! and ignored. It says of each file which version it has, if it has all of it, so that a restart does not read what has not
//! changed: YAML takes most of the time. Nobody waits for it: [`Manifests::copy`] may be written on another thread, after
//! what it holds is in force.
//!
//! On the control thread; the kept copy is understood by several, started and ended within [`Manifests::open`]. The only I/O
//! of the store.

mod kept;

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FileError, Objects, Problem};
use crate::attachments::StateError;
use crate::objects::{Item, Key, read, yaml};

pub use kept::Copy;
use kept::{KEPT, load};

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
    /// The kept copy is older than what is in force.
    stale: bool,
}

/// What may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// These names in the directory, and nothing else.
    Names(BTreeSet<String>),
    /// Nobody knows: all is looked at.
    Anything,
}

/// How far a file's change reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum News {
    /// There is none.
    None,
    /// The same objects in other versions.
    Versions,
    /// Other objects, or another error.
    Objects,
}

/// One file.
#[derive(Debug, Default)]
struct Manifest {
    /// Of the version last looked at; none = look again.
    stamp: Option<Stamp>,
    /// Its objects, of the last version that could be parsed.
    items: Vec<Item>,
    /// They are newer than what was last taken over.
    fresh: bool,
    /// Which of them count, of those that several places have; as of the last merge.
    counts: Vec<bool>,
    /// Those of its objects that are in force, where that is known: what the kept copy has of it.
    in_force: Option<Arc<[Arc<Value>]>>,
    /// Why the version there is now could not.
    error: Option<FileError>,
}

/// Tells versions of a file apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
            stale: false,
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
    pub fn reload(&mut self, changed: &Changed) -> bool {
        let before = self.problems();
        let news = match changed {
            // A mounted ConfigMap's files are links through `..data`: one new link there changes them all.
            Changed::Names(names)
                if self.unreadable.is_none() && !names.iter().any(|name| name.starts_with("..")) =>
            {
                names.iter().filter(|name| is_manifest(name)).map(|name| self.look(name)).max()
            }
            _ => match names(&self.dir) {
                Ok(names) => {
                    self.unreadable = None;
                    let gone = self.files.keys().filter(|name| !names.contains(*name));
                    let all: Vec<String> = gone.chain(&names).cloned().collect();
                    all.iter().map(|name| self.look(name)).max()
                }
                Err(err) => {
                    // Everything stays: a directory that cannot be read is not an empty one.
                    self.unreadable =
                        Some(Problem::File { path: self.dir.clone(), error: FileError::io(&err) });
                    None
                }
            },
        };
        let changed = match news {
            Some(News::Objects) => self.merge(),
            Some(News::Versions) => self.replace(),
            Some(News::None) | None => false,
        };
        self.stale |= changed;
        changed || self.problems() != before
    }

    /// Looks at one file.
    fn look(&mut self, name: &str) -> News {
        let path = self.dir.join(name);
        // A directory is none of ours, whatever its name.
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_dir() => {
                self.files.entry(name.to_owned()).or_default().look(&path, Ok(metadata))
            }
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                self.files.entry(name.to_owned()).or_default().look(&path, Err(err))
            }
            // A link to nothing is there, and cannot be read.
            Err(err) if fs::symlink_metadata(&path).is_ok() => {
                self.files.entry(name.to_owned()).or_default().look(&path, Err(err))
            }
            _ => self.files.remove(name).map_or(News::None, |_| News::Objects),
        }
    }

    /// Takes over other versions of the same objects in the same places.
    fn replace(&mut self) -> bool {
        let mut changed = false;
        for file in self.files.values_mut().filter(|file| file.fresh) {
            (file.fresh, file.in_force) = (false, None);
            for (item, _) in file.items.iter().zip(&file.counts).filter(|(_, counts)| **counts) {
                if let Item::Known { key, source, object } = item {
                    changed |= self.objects.put(key.clone(), Arc::clone(source), object.clone());
                }
            }
        }
        changed
    }

    /// Brings the files' objects into force. True when that changed anything.
    fn merge(&mut self) -> bool {
        let (mut owners, mut problems): (HashMap<&Key, &str>, _) = (HashMap::new(), Vec::new());
        let mut changed = false;
        for (name, file) in &mut self.files {
            let path = self.dir.join(name);
            let counted = std::mem::take(&mut file.counts);
            let mut same = !std::mem::take(&mut file.fresh);
            if let Some(error) = &file.error {
                problems.push(Problem::File { path: path.clone(), error: error.clone() });
            }
            for item in &file.items {
                let mut counts = false;
                match item {
                    Item::Known { key, source, object } => match owners.entry(key) {
                        Entry::Vacant(free) => {
                            free.insert(name);
                            counts = true;
                            if !self.objects.has(key, source) {
                                same = false;
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
                file.counts.push(counts);
            }
            if !same || file.counts != counted {
                file.in_force = None;
            }
        }
        let gone: Vec<Key> = self.objects.keys().filter(|key| !owners.contains_key(key)).cloned().collect();
        for key in &gone {
            changed |= self.objects.remove(key);
        }
        self.problems = problems;
        changed
    }

    /// Is what is in force newer than the kept copy?
    #[must_use]
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// A copy of what is in force, to be written by whoever has time; how that ended is to be told by
    /// [`Manifests::kept`].
    pub fn copy(&mut self) -> Copy {
        self.stale = false;
        let (mut files, mut stamps) = (BTreeMap::new(), BTreeMap::new());
        for (name, file) in &mut self.files {
            stamps.extend(file.whole().map(|stamp| (name.clone(), stamp)));
            let in_force = file.in_force.get_or_insert_with(|| {
                let counting = file.items.iter().zip(&file.counts).filter(|(_, counts)| **counts);
                let good = counting.filter_map(|(item, _)| match item {
                    Item::Known { key, .. } => self.objects.source(key).cloned(),
                    Item::Unknown { .. } => None,
                });
                good.collect()
            });
            files.insert(name.clone(), Arc::clone(in_force));
        }
        Copy { state: self.state.clone(), files, stamps }
    }

    /// How writing a copy ended.
    pub fn kept(&mut self, result: Result<(), StateError>) {
        self.stale |= result.is_err();
        self.unkept = result.err().map(|err| Problem::Kept(Arc::new(err)));
    }
}

impl Manifest {
    /// Its version, if all that it has is in force.
    fn whole(&self) -> Option<Stamp> {
        let valid = |item: &Item| matches!(item, Item::Known { object: Ok(_), .. });
        let whole = self.error.is_none() && self.items.iter().all(valid) && self.counts.iter().all(|c| *c);
        self.stamp.filter(|_| whole && !self.fresh)
    }

    /// Reads the file if it changed.
    fn look(&mut self, path: &Path, metadata: io::Result<Metadata>) -> News {
        let version = match metadata {
            Ok(metadata) if self.stamp == Some(Stamp::of(&metadata)) => return News::None,
            // Opening anything else than a file may block.
            Ok(metadata) if !metadata.is_file() => Err(FileError::NotAFile),
            Ok(_) => text(path),
            Err(err) => Err(FileError::io(&err)),
        };
        let (stamp, items) = match version {
            Ok((stamp, text)) => (Some(stamp), read(&text).map_err(FileError::Text)),
            Err(error) => (None, Err(error)),
        };
        let mut same = false;
        let error = match items {
            Ok(items) if items.is_empty() && !self.items.is_empty() => Some(FileError::Empty),
            Ok(items) => {
                same = self.error.is_none() && same_objects(&self.items, &items);
                (self.items, self.fresh) = (items, true);
                None
            }
            Err(error) => Some(error),
        };
        // An error without a stamp is found again at each look, and is news only once.
        let news = stamp.is_some() || self.error != error;
        (self.stamp, self.error) = (stamp, error);
        match news {
            true if same => News::Versions,
            true => News::Objects,
            false => News::None,
        }
    }
}

/// Are these the same objects in the same order, in whatever version?
fn same_objects(before: &[Item], after: &[Item]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|pair| match pair {
            (Item::Known { key: before, .. }, Item::Known { key: after, .. }) => before == after,
            _ => false,
        })
}

/// Is a file of that name a manifest?
fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.')
}

/// The manifests' names, sorted.
fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        // A name that is not UTF-8 is none of ours: its ending cannot be read.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if is_manifest(&name) {
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

#[cfg(test)]
mod tests;
