//! The names that arrive from container runtimes, and what they may look like.
//!
//! These names become file names and device names, so they are checked in the plugin and again in the daemon: the
//! control socket trusts nobody.

use serde::{Deserialize, Serialize};

/// Longest container id taken, in bytes: `<id>--<ifname>.json` must stay a file name.
pub const MAX_CONTAINER_ID: usize = 200;

/// Longest network name taken, in bytes.
pub const MAX_NETWORK: usize = 253;

/// Longest interface name, in bytes (Linux `IFNAMSIZ` - 1).
pub const MAX_IFNAME: usize = 15;

/// What names one attachment: an interface of a container (CNI specification, section 2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// The interface's name inside the sandbox.
    pub ifname: String,
}

impl std::fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.ifname, self.container_id)
    }
}

impl AttachmentId {
    /// Both names are well formed.
    ///
    /// # Errors
    /// The first name that is not.
    pub fn check(&self) -> Result<(), NameError> {
        check_container_id(&self.container_id)?;
        check_ifname(&self.ifname)
    }

    /// `<container id>--<ifname>.json`. Distinct ids give distinct names: an interface name's own `-` (and every other
    /// byte that is no letter, digit, `_` or `.`) is escaped, so the last `--` is always the separator.
    ///
    /// # Errors
    /// A name that is not well formed never becomes a file name.
    pub fn file_name(&self) -> Result<String, NameError> {
        use std::fmt::Write as _;
        self.check()?;
        let mut name = format!("{}--", self.container_id);
        for byte in self.ifname.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' {
                name.push(char::from(byte));
            } else {
                let _ = write!(name, "%{byte:02x}");
            }
        }
        name.push_str(".json");
        Ok(name)
    }
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Container id: not a letter or digit followed by letters, digits, `_`, `.`, `-`.
    #[error("container id {id:?}: must be a letter or digit followed by letters, digits, '_', '.' or '-'")]
    ContainerId {
        /// The id as given.
        id: String,
    },
    /// Container id: too long.
    #[error("container id of {len} bytes: the limit is {MAX_CONTAINER_ID}")]
    ContainerIdLength {
        /// Its length in bytes.
        len: usize,
    },
    /// Interface name: not one that Linux takes.
    #[error(
        "interface name {name:?}: must be 1 to 15 printable ASCII characters without '/' and ':', not '.' or '..'"
    )]
    Ifname {
        /// The name as given.
        name: String,
    },
    /// Network name: same alphabet as a container id.
    #[error("network name {name:?}: must be a letter or digit followed by letters, digits, '_', '.' or '-'")]
    Network {
        /// The name as given.
        name: String,
    },
    /// Pod namespace, name or UID: same alphabet as a container id.
    #[error(
        "{what} {name:?}: must be a letter or digit followed by letters, digits, '_', '.' or '-', at most 253"
    )]
    Pod {
        /// Which of the three.
        what: &'static str,
        /// The name as given.
        name: String,
    },
}

fn is_plain(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A container id as the CNI specification allows it, at most [`MAX_CONTAINER_ID`] bytes.
///
/// # Errors
/// [`NameError::ContainerId`] or [`NameError::ContainerIdLength`].
pub fn check_container_id(id: &str) -> Result<(), NameError> {
    if id.len() > MAX_CONTAINER_ID {
        return Err(NameError::ContainerIdLength { len: id.len() });
    }
    if is_plain(id) { Ok(()) } else { Err(NameError::ContainerId { id: id.to_owned() }) }
}

/// An interface name that Linux takes and that is safe in a path: no `/`, `:`, blank or control character.
///
/// # Errors
/// [`NameError::Ifname`].
pub fn check_ifname(name: &str) -> Result<(), NameError> {
    let good = (1..=MAX_IFNAME).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if good { Ok(()) } else { Err(NameError::Ifname { name: name.chars().take(64).collect() }) }
}

/// A network's name.
///
/// # Errors
/// [`NameError::Network`].
pub fn check_network(name: &str) -> Result<(), NameError> {
    if name.len() <= MAX_NETWORK && is_plain(name) {
        Ok(())
    } else {
        Err(NameError::Network { name: name.chars().take(64).collect() })
    }
}

/// A pod's namespace, name or UID (`what`): Kubernetes' names, and those of runtimes that allow `_` and upper case.
///
/// # Errors
/// [`NameError::Pod`].
pub fn check_pod(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.len() <= 253 && is_plain(name) {
        Ok(())
    } else {
        Err(NameError::Pod { what, name: name.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn a_path_never_becomes_a_file_name() {
        for (container, ifname) in [
            ("../../x", "eth0"),
            ("", "eth0"),
            (".hidden", "eth0"),
            ("a/b", "eth0"),
            ("a\0b", "eth0"),
            ("a", "../eth0"),
            ("a", "."),
            ("a", ".."),
            ("a", "eth/0"),
            ("a", "eth:0"),
            ("a", "e h"),
            ("a", ""),
            ("a", "sixteen-chars-xx"),
        ] {
            assert!(id(container, ifname).file_name().is_err(), "{container:?} {ifname:?}");
        }
        assert!(id(&"a".repeat(201), "eth0").file_name().is_err());
    }

    #[test]
    fn fits_a_file_name_at_its_longest() {
        let name = id(&"a".repeat(MAX_CONTAINER_ID), "---------------").file_name().unwrap();
        assert!(name.len() <= 255, "{}", name.len());
    }

    #[test]
    fn distinct_ids_never_share_a_file() {
        let pairs = [("a--b", "c"), ("a", "b--c"), ("a-", "b"), ("a", "-b"), ("a", "%2db"), ("a--", "b")];
        let names: std::collections::BTreeSet<_> =
            pairs.iter().map(|(c, i)| id(c, i).file_name().unwrap()).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
        assert_eq!(id("abc", "eth0").file_name().unwrap(), "abc--eth0.json");
    }
}
