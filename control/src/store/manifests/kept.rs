//! The copy of what is in force, in the state directory: written by whoever has time, read at the start by all processors.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{FileError, Manifest, Stamp};
use crate::attachments::{StateError, files};
use crate::objects::{Item, read_value};

/// The kept copy's name.
pub(super) const KEPT: &str = "objects.json";
/// Of the kept copy.
const FORMAT: u32 = 1;
/// Objects of the kept copy that are worth a thread.
const PART: usize = 250;

/// The kept copy: by file, the objects that were in force.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<V> {
    format: u32,
    files: BTreeMap<String, Vec<V>>,
    /// The versions of those files that had these objects and nothing else.
    #[serde(default)]
    stamps: BTreeMap<String, Stamp>,
}

/// A copy of the objects in force, to be kept.
#[derive(Debug)]
pub struct Copy {
    pub(super) state: PathBuf,
    pub(super) files: BTreeMap<String, Arc<[Arc<Value>]>>,
    pub(super) stamps: BTreeMap<String, Stamp>,
}

impl Copy {
    /// Puts it into the state directory, in place of the last one; a crash leaves one of both.
    ///
    /// # Errors
    /// When it cannot be written; the last one is still there then.
    pub fn write(&self) -> Result<(), StateError> {
        let files =
            self.files.iter().map(|(name, values)| (name.clone(), values.iter().map(|v| &**v).collect()));
        let kept: Kept<&Value> = Kept { format: FORMAT, files: files.collect(), stamps: self.stamps.clone() };
        // A value that serde_json made is always one that it can write.
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        files::replace(&self.state, KEPT, &text)
    }
}

/// The files of a kept copy, with the objects that were in force.
pub(super) fn load(path: &Path) -> Result<BTreeMap<String, Manifest>, FileError> {
    let text = fs::read(path).map_err(|err| FileError::io(&err))?;
    let damaged = |err| FileError::Damaged(Arc::new(err));
    let kept: Kept<&RawValue> = serde_json::from_slice(&text).map_err(damaged)?;
    if kept.format != FORMAT {
        return Err(FileError::Format { format: kept.format });
    }
    let mut files: Vec<(String, Manifest)> = Vec::new();
    let mut values: Vec<(usize, &RawValue)> = Vec::new();
    for (name, texts) in kept.files {
        values.extend(texts.into_iter().map(|text| (files.len(), text)));
        let stamp = kept.stamps.get(&name).copied();
        files.push((name, Manifest { stamp, ..Manifest::default() }));
    }
    for part in understand(&values) {
        for (file, item) in part.map_err(damaged)? {
            files[file].1.items.push(item);
        }
    }
    Ok(files.into_iter().collect())
}

/// The objects of these texts with the numbers that the texts have, in order, in parts. While this lasts no packet of a pod is
/// carried, so every processor takes part.
fn understand(values: &[(usize, &RawValue)]) -> Vec<serde_json::Result<Vec<(usize, Item)>>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let each = values.len().div_ceil(processors).max(PART);
    thread::scope(|scope| {
        let start =
            |part| thread::Builder::new().spawn_scoped(scope, move || objects(part)).map_err(|_| part);
        let parts: Vec<_> = values.chunks(each).map(start).collect();
        let end = |part: Result<thread::ScopedJoinHandle<'_, _>, _>| match part {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(part) => objects(part),
        };
        parts.into_iter().map(end).collect()
    })
}

fn objects(values: &[(usize, &RawValue)]) -> serde_json::Result<Vec<(usize, Item)>> {
    let (mut all, mut of_one) = (Vec::with_capacity(values.len()), Vec::new());
    for (number, text) in values {
        read_value(serde_json::from_str(text.get())?, &mut of_one);
        all.extend(of_one.drain(..).map(|item| (*number, item)));
    }
    Ok(all)
}
