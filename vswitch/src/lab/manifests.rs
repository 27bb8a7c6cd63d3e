//! The directory of manifests that every node of a lab reads, and when they have read it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::Daemon;
use super::error::LabError;

/// How long the nodes may take to read them.
const SETTLE: Duration = Duration::from_secs(5);
/// The file by which [`Manifests::settle`] tells that everything before it was read.
const MARK: &str = "lab-mark";

/// A directory of manifests; it goes with the bed.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    mark: AtomicU64,
}

impl Manifests {
    /// Copies the files of `from` into a new directory `dir`.
    pub(super) fn copy(from: &Path, dir: &Path) -> Result<Manifests, LabError> {
        fs::create_dir_all(dir).map_err(LabError::file(dir))?;
        for entry in fs::read_dir(from).map_err(LabError::file(from))? {
            let path = entry.map_err(LabError::file(from))?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                fs::copy(&path, dir.join(name)).map_err(LabError::file(&path))?;
            }
        }
        Ok(Manifests { dir: dir.to_owned(), mark: AtomicU64::new(0) })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts `objects` into `<name>.yaml`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, objects: &[Value]) -> Result<(), LabError> {
        // Every JSON text is YAML.
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        self.write_text(name, &documents.join("\n---\n"))
    }

    /// Puts `text` into `<name>.yaml`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), LabError> {
        let (new, path) = (self.dir.join(format!(".{name}.new")), self.dir.join(format!("{name}.yaml")));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(LabError::file(path))
    }

    /// Removes `<name>.yaml`.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<(), LabError> {
        let path = self.dir.join(format!("{name}.yaml"));
        fs::remove_file(&path).map_err(LabError::file(path))
    }

    /// Waits until what was written so far is in force on all of `daemons`: a namespace is written whose label changes,
    /// and a daemon that has new tables after that has read what was written before.
    pub(super) fn settle(&self, daemons: &[Option<Daemon>]) -> Result<(), LabError> {
        let running = || daemons.iter().enumerate().filter_map(|(i, d)| Some((i, d.as_ref()?)));
        let before: Vec<u64> =
            running().map(|(_, d)| Ok(d.status()?.epoch)).collect::<Result<_, LabError>>()?;
        let mark = self.mark.fetch_add(1, Ordering::Relaxed).to_string();
        let metadata = json!({"name": MARK, "labels": {"mark": mark}});
        self.write(MARK, &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])?;
        let deadline = Instant::now() + SETTLE;
        for ((i, daemon), before) in running().zip(before) {
            while daemon.status()?.epoch <= before {
                if Instant::now() > deadline {
                    let (path, seconds) = (self.dir.clone(), SETTLE.as_secs());
                    return Err(LabError::NotInForce { path, node: i + 1, seconds });
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}
