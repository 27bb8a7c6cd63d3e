//! What must survive a restart: one file for each attached pod, and the MAC of our tunnel end.
//!
//! ```text
//! <state-dir>/lock                                 held while a daemon runs
//! <state-dir>/vtep-mac                             made once
//! <state-dir>/ports/<container id>--<ifname>.json  one attachment
//! ```
//!
//! Owned by the daemon's control thread: blocking file I/O, never called by a worker. A file is written under a
//! temporary name, flushed, renamed and its directory flushed, so that after a crash there is the old content or the
//! new one.

pub(crate) mod files;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::PodId;
use crate::mac::Mac;
use crate::names::{AttachmentId, NameError};

/// Version of the files' format.
pub const FORMAT: u32 = 1;

/// Why the state could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory operation failed.
    #[error("{doing} {}: {err}", path.display())]
    Io {
        /// The operation, for example `create`.
        doing: &'static str,
        /// Its operand.
        path: PathBuf,
        /// Its cause.
        #[source]
        err: io::Error,
    },
    /// Another daemon has this state directory.
    #[error("{} is locked: another vswitchd is using this state-dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A name that may not become a file name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An attachment could not be written as JSON.
    #[error("write {id} as JSON: {err}")]
    Encode {
        /// The attachment.
        id: AttachmentId,
        /// Of the serializer.
        #[source]
        err: serde_json::Error,
    },
    /// An attachment's file is not what we wrote.
    #[error(
        "{} is damaged: {err}; remove the file and delete its pod, which gets a new address when it is made again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Of the parser.
        #[source]
        err: serde_json::Error,
    },
    /// An attachment's file was written by a version with another format.
    #[error("{} has format {found}, this version reads {FORMAT}: run the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// An attachment's file holds another attachment than its name says: it was copied or renamed.
    #[error("{} describes {id}, which belongs in {expected}: remove the copy", path.display())]
    Misplaced {
        /// The file.
        path: PathBuf,
        /// What it describes.
        id: AttachmentId,
        /// The file name that this attachment has.
        expected: String,
    },
    /// The stored tunnel MAC is none.
    #[error("{} does not hold a unicast MAC; remove the file, a new one is made", path.display())]
    VtepMac {
        /// The file.
        path: PathBuf,
    },
}

/// A network namespace's identity: its path may come to name another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the namespace file.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
}

impl NetnsId {
    /// The namespace that `path` names now.
    ///
    /// # Errors
    /// Of `stat`.
    pub fn of(path: &Path) -> io::Result<NetnsId> {
        let meta = fs::metadata(path)?;
        Ok(NetnsId { dev: meta.dev(), ino: meta.ino() })
    }
}

/// The running kernel's boot id: after a reboot no attachment is alive, whatever its inode number says.
///
/// # Errors
/// Of reading `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Puts `bytes` into the file `name` of the state directory `dir`: after a crash it is the old one or the new one.
///
/// # Errors
/// [`StateError::Io`]; the old content is in place then.
pub fn keep(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    files::replace(dir, name, bytes)
}

/// An attached pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network in the CNI configuration.
    pub network: String,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
    /// The pod.
    pub pod: PodId,
    /// Path of the network namespace, as the runtime gave it.
    pub netns: PathBuf,
    /// Which namespace that was.
    pub netns_id: NetnsId,
    /// Boot during which it was attached.
    pub boot_id: String,
    /// Addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// MAC of the pod's interface.
    pub mac: Mac,
    /// MTU of the pod's interface when it was attached, in bytes.
    pub mtu: u32,
}

impl Attachment {
    /// What names it.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<A> {
    format: u32,
    attachment: A,
}

/// What [`StateDir::load`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The attachments, in the order of their file names.
    pub attachments: Vec<Attachment>,
    /// Files that could not be understood. They are left where they are.
    pub problems: Vec<StateError>,
}

/// The state directory of a running daemon; the lock is held until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    ports: PathBuf,
    /// Held for its lock only.
    _lock: File,
}

impl StateDir {
    /// Makes the directory where needed (mode 0700) and locks it.
    ///
    /// # Errors
    /// [`StateError::Locked`] while another daemon runs, else [`StateError::Io`].
    pub fn open(dir: &Path) -> Result<StateDir, StateError> {
        let ports = dir.join("ports");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&ports)
            .map_err(|err| files::error("create", &ports, err))?;
        let path = dir.join("lock");
        let lock =
            files::private().truncate(false).open(&path).map_err(|err| files::error("open", &path, err))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDir { dir: dir.to_owned(), ports, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path }),
            Err(TryLockError::Error(err)) => Err(files::error("lock", &path, err)),
        }
    }

    /// Reads all attachments, and removes what an interrupted write left behind.
    ///
    /// # Errors
    /// [`StateError::Io`] when the directory cannot be read. A single bad file is no error, but a problem.
    pub fn load(&self) -> Result<Loaded, StateError> {
        let failed = |err| files::error("read", &self.ports, err);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.ports).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        let mut loaded = Loaded::default();
        for name in names {
            let path = self.ports.join(&name);
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(files::TEMPORARY.as_bytes()) {
                fs::remove_file(&path).map_err(|err| files::error("remove", &path, err))?;
            } else if bytes.ends_with(b".json") {
                match read(&path) {
                    Ok(attachment) => loaded.attachments.push(attachment),
                    Err(problem) => loaded.problems.push(problem),
                }
            }
        }
        Ok(loaded)
    }

    /// Keeps an attachment; replaces an older one of the same id.
    ///
    /// # Errors
    /// The old content is in place then.
    pub fn save(&self, attachment: &Attachment) -> Result<(), StateError> {
        let id = attachment.id();
        let name = id.file_name()?;
        let stored = Stored { format: FORMAT, attachment };
        let mut text = serde_json::to_vec_pretty(&stored).map_err(|err| StateError::Encode { id, err })?;
        text.push(b'\n');
        files::replace(&self.ports, &name, &text)
    }

    /// Forgets an attachment; false when there was none.
    ///
    /// # Errors
    /// [`StateError::Name`], [`StateError::Io`].
    pub fn remove(&self, id: &AttachmentId) -> Result<bool, StateError> {
        files::remove(&self.ports, &id.file_name()?)
    }

    /// The MAC of our tunnel end, if one was kept.
    ///
    /// # Errors
    /// [`StateError::VtepMac`], [`StateError::Io`].
    pub fn vtep_mac(&self) -> Result<Option<Mac>, StateError> {
        let path = self.dir.join("vtep-mac");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(files::error("read", &path, err)),
        };
        match text.trim().parse::<Mac>() {
            Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
            _ => Err(StateError::VtepMac { path }),
        }
    }

    /// Keeps the MAC of our tunnel end.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn save_vtep_mac(&self, mac: Mac) -> Result<(), StateError> {
        files::replace(&self.dir, "vtep-mac", format!("{mac}\n").as_bytes())
    }
}

fn read(path: &Path) -> Result<Attachment, StateError> {
    let bytes = fs::read(path).map_err(|err| files::error("read", path, err))?;
    let damaged = |err| StateError::Damaged { path: path.to_owned(), err };
    let stored: Stored<serde_json::Value> = serde_json::from_slice(&bytes).map_err(damaged)?;
    if stored.format != FORMAT {
        return Err(StateError::Format { path: path.to_owned(), found: stored.format });
    }
    let attachment: Attachment = serde_json::from_value(stored.attachment).map_err(damaged)?;
    let id = attachment.id();
    let expected = id.file_name()?;
    if path.file_name().is_some_and(|name| name == expected.as_str()) {
        Ok(attachment)
    } else {
        Err(StateError::Misplaced { path: path.to_owned(), id, expected })
    }
}

#[cfg(test)]
mod tests;
