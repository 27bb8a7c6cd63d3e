//! What was last known, kept in the state directory for a start without etcd.
//!
//! One file, written whole beside the old one and renamed. A thread of its own writes it, and rests many times as long
//! as that took, so that a store in constant change costs little. What is read back is checked as if it came from etcd.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attachments::{StateError, files};
use crate::store::FileError;

/// Its name.
const NAME: &str = "etcd.json";
/// Of its format.
const FORMAT: u32 = 1;
/// A copy is begun this many times later than the last one took.
pub(super) const REST: u32 = 20;
/// After one that failed.
pub(super) const RETRY: Duration = Duration::from_secs(30);
/// Though nothing changed, so that the age of what is known is known.
pub(super) const REFRESH: Duration = Duration::from_secs(3600);

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    format: u32,
    /// flannel's prefix: another one is another network.
    pub(super) prefix: String,
    /// Seconds since 1970 of the last moment at which etcd was there.
    contact: u64,
    /// The network's configuration, as text.
    pub(super) network: String,
    /// The key of our own lease.
    pub(super) own: Option<String>,
    pub(super) leases: BTreeMap<String, KeptLease>,
    /// By path.
    pub(super) pods: BTreeMap<String, Arc<Value>>,
    /// By node: its blocks, and single addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) routes: crate::blocks::Routes,
    /// By path.
    pub(super) objects: BTreeMap<String, Arc<Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptLease {
    /// As flannel writes it.
    pub(super) value: String,
    pub(super) created: i64,
    pub(super) modified: i64,
    pub(super) lease: i64,
}

impl Kept {
    pub(super) fn new(prefix: &str, network: String, contact: SystemTime) -> Kept {
        let contact = contact.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Kept { format: FORMAT, prefix: prefix.to_owned(), contact, network, ..Kept::default() }
    }

    pub(super) fn contact(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.contact)).unwrap_or(UNIX_EPOCH)
    }

    /// Writes it in place of the last one; a crash leaves one of both.
    pub(super) fn write(&self, state: &Path) -> Result<(), StateError> {
        // Maps with text as keys are always JSON.
        let text = serde_json::to_vec(self).unwrap_or_default();
        files::replace(state, NAME, &text)
    }

    /// Reads the last one; none = there is none, or it is of another network.
    ///
    /// # Errors
    /// It is there and cannot be read: then it is ignored.
    pub(super) fn read(state: &Path, prefix: &str) -> Result<Option<Kept>, (PathBuf, FileError)> {
        let path = state.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err((path, FileError::io(&err))),
        };
        let kept: Kept = match serde_json::from_slice(&text) {
            Ok(kept) => kept,
            Err(err) => return Err((path, FileError::Damaged(Arc::new(err)))),
        };
        if kept.format != FORMAT {
            return Err((path, FileError::Format { format: kept.format }));
        }
        Ok(Some(kept).filter(|kept| kept.prefix == prefix))
    }
}
