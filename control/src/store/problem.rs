//! What is not as somebody wrote it, in words for that somebody.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use policy::model::{EndpointId, PolicyId};

use crate::attachments::StateError;
use crate::objects::{FieldError, Key, TextError};

/// What is in force in place of an invalid version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The last valid version.
    LastValid,
    /// A policy that selects what this one selects, and denies.
    Denies,
    /// Nothing: whom it was about cannot be read.
    Nothing,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::LastValid => "its last valid version stays in force",
            Standing::Denies => "until it is valid, what it selects is denied",
            Standing::Nothing => "it is ignored",
        })
    }
}

/// Why a file's current version is not read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("{text}")]
    Io {
        /// Kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        text: String,
    },
    /// A device, a pipe, …
    #[error("not a file")]
    NotAFile,
    /// It changed while it was read.
    #[error("it is being written")]
    Changing,
    /// It had objects and is empty now.
    #[error("it is empty: remove it to remove its objects")]
    Empty,
    /// It cannot be parsed.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The kept copy cannot be parsed.
    #[error("damaged, and ignored: {0}")]
    Damaged(Arc<serde_json::Error>),
    /// The kept copy is another version's.
    #[error("of unknown format {format}, and ignored")]
    Format {
        /// Its number.
        format: u32,
    },
}

impl FileError {
    pub(super) fn io(err: &io::Error) -> FileError {
        FileError::Io { kind: err.kind(), text: err.to_string() }
    }
}

impl PartialEq for FileError {
    /// By what they say: the causes know no equality.
    fn eq(&self, other: &FileError) -> bool {
        self.to_string() == other.to_string()
    }
}

/// One thing that is not as written.
#[derive(Clone, Debug)]
pub enum Problem {
    /// An object is not valid.
    Refused {
        /// The object.
        key: Key,
        /// What is wrong; never empty.
        errors: Vec<FieldError>,
        /// What is in force instead.
        standing: Standing,
    },
    /// Pods claim one address, and no attachment says whose it is: nobody has it.
    Claimed {
        /// The address.
        addr: IpAddr,
        /// Who claims it.
        by: Vec<EndpointId>,
    },
    /// A pod claims an address that is attached here as another's: the attached pod has it.
    Attached {
        /// The address.
        addr: IpAddr,
        /// The pod that has it.
        owner: EndpointId,
        /// The pod that does not.
        claimant: EndpointId,
    },
    /// A pod that is not of the host's network claims a node's address, or one that nothing can have: it has not.
    NotAPods {
        /// The address.
        addr: IpAddr,
        /// The pod.
        claimant: EndpointId,
    },
    /// A policy is in a tier that there is no object of: the tier stands last and denies.
    NoTier {
        /// The policy.
        policy: PolicyId,
        /// Its tier.
        tier: Arc<str>,
    },
    /// A node's object describes no node that packets could be sent to.
    Node {
        /// The object.
        key: Key,
        /// Why.
        why: String,
    },
    /// A file's current version is not read; the objects it last had stay in force.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: FileError,
    },
    /// An object stands in several places: the first counts.
    Duplicate {
        /// The object.
        key: Key,
        /// Where it does not count.
        path: PathBuf,
        /// Where it does.
        first: PathBuf,
    },
    /// Something in a file that is no object read here.
    Unknown {
        /// The file.
        path: PathBuf,
        /// What can be said of it.
        what: String,
        /// What is wrong.
        error: FieldError,
    },
    /// What is in force could not be kept for the next start.
    Kept(Arc<StateError>),
}

impl PartialEq for Problem {
    /// By what they say: some causes know no equality.
    fn eq(&self, other: &Problem) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Refused { key, errors, standing } => {
                write!(f, "{key}: ")?;
                for error in errors {
                    write!(f, "{error}; ")?;
                }
                write!(f, "{standing}")
            }
            Problem::Claimed { addr, by } => {
                write!(f, "address {addr} is claimed by several pods, and none of them has it:")?;
                by.iter().try_for_each(|pod| write!(f, " {pod}"))
            }
            Problem::Attached { addr, owner, claimant } => {
                write!(f, "address {addr} is claimed by pod {claimant}, but attached here as pod {owner}'s")
            }
            Problem::NotAPods { addr, claimant } => {
                write!(f, "address {addr}, claimed by pod {claimant}, is no pod's address")
            }
            Problem::NoTier { policy, tier } => {
                write!(f, "{policy}: there is no tier {tier}; it is evaluated last, and denies at its end")
            }
            Problem::Node { key, why } => write!(f, "{key}: no peer is made of it: {why}"),
            Problem::File { path, error } => write!(f, "{}: {error}", path.display()),
            Problem::Duplicate { key, path, first } => {
                write!(f, "{}: {key} is ignored: it stands in {} already", path.display(), first.display())
            }
            Problem::Unknown { path, what, error } => write!(f, "{}: {what}: {error}", path.display()),
            Problem::Kept(err) => write!(f, "the objects in force are not kept for a restart: {err}"),
        }
    }
}
