//! Handles of which nobody knows yet whether they are to stay: written before an address is asked for and before an
//! attachment's record is removed, taken out when the record is there, or the handle is released.
//!
//! So whatever moment the process dies, and for however long the store is away, an address without an attachment is
//! released in the end. Owned by the control thread; one small file in the state directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::attachments::{StateError, keep};

const NAME: &str = "ipam-handles.json";

/// The file's content: each handle with the addresses that it is known to have.
#[derive(Debug, Default)]
pub struct Journal {
    dir: PathBuf,
    handles: BTreeMap<String, Vec<IpAddr>>,
}

impl Journal {
    /// Reads it; a file that cannot be read is none, and its handles are found by `vsctl ipam check`.
    #[must_use]
    pub fn open(dir: &Path) -> (Journal, Option<String>) {
        let path = dir.join(NAME);
        let (handles, problem) = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(handles) => (handles, None),
                Err(err) => (BTreeMap::new(), Some(format!("{}: {err}", path.display()))),
            },
            Err(err) if err.kind() == io::ErrorKind::NotFound => (BTreeMap::new(), None),
            Err(err) => (BTreeMap::new(), Some(format!("{}: {err}", path.display()))),
        };
        (Journal { dir: dir.to_owned(), handles }, problem)
    }

    /// Notes a handle, and returns when that would survive a crash.
    ///
    /// # Errors
    /// The file cannot be written; the handle is noted all the same, for as long as the process lives.
    pub fn note(&mut self, handle: &str, addrs: &[IpAddr]) -> Result<(), StateError> {
        let before = self.handles.insert(handle.to_owned(), addrs.to_vec());
        if before.as_deref() == Some(addrs) { Ok(()) } else { self.write() }
    }

    /// Takes a handle out.
    ///
    /// # Errors
    /// The file cannot be written: after a restart the handle is looked at once more, which does no harm.
    pub fn clear(&mut self, handle: &str) -> Result<(), StateError> {
        if self.handles.remove(handle).is_some() { self.write() } else { Ok(()) }
    }

    /// All of them.
    #[must_use]
    pub fn handles(&self) -> &BTreeMap<String, Vec<IpAddr>> {
        &self.handles
    }

    fn write(&self) -> Result<(), StateError> {
        // Maps with text as keys are always JSON.
        keep(&self.dir, NAME, &serde_json::to_vec(&self.handles).unwrap_or_default())
    }
}
