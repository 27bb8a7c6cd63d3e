//! Kernel settings of the host that the daemon changed, with what they were before, so that `vsctl uninstall` can put
//! them back.
//!
//! Kept in `<state-dir>/sysctls`, a line for each: boot id, name, value before, value set. A setting does not outlive the
//! machine's run, so lines of another boot mean nothing.

use std::io;
use std::path::{Path, PathBuf};

use control::attachments::boot_id;

use super::node::NodeError;
use crate::sys::sysctl;

/// The file's name in the state directory.
const FILE: &str = "sysctls";

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// Its name, with slashes.
    pub(super) name: String,
    /// What it was.
    pub(super) before: String,
    /// What it was set to.
    pub(super) set: String,
}

/// Gives a setting a value, and notes what it was. A read-only `/proc/sys` (a container) is fine as long as the value is
/// there already.
///
/// # Errors
/// When it cannot be set.
pub(super) fn set(state_dir: &Path, name: &str, value: &'static str) -> Result<(), NodeError> {
    let failed = |err| NodeError::Sysctl { path: Path::new("/proc/sys").join(name), value, err };
    let before = sysctl::get(name).map_err(failed)?;
    if before == value {
        return Ok(());
    }
    sysctl::set(name, value).map_err(failed)?;
    if let Err(err) = note(state_dir, name, &before, value) {
        tracing::warn!(name, %err, "what the setting was is not kept");
    }
    Ok(())
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn note(state_dir: &Path, name: &str, before: &str, set: &str) -> io::Result<()> {
    let mut lines = changed(state_dir)?;
    // The first value is the host's own; later ones are somebody's quarrel with us.
    if lines.iter().all(|c| c.name != name) {
        lines.push(Changed { name: name.into(), before: before.into(), set: set.into() });
    }
    let boot = boot_id()?;
    let text: String = lines.iter().map(|c| format!("{boot} {} {} {}\n", c.name, c.before, c.set)).collect();
    let next = state_dir.join(format!("{FILE}.new"));
    std::fs::write(&next, text)?;
    std::fs::rename(next, file(state_dir))
}

/// What was changed since the machine started.
///
/// # Errors
/// When the file is there and cannot be read.
pub(super) fn changed(state_dir: &Path) -> io::Result<Vec<Changed>> {
    let text = match std::fs::read_to_string(file(state_dir)) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let boot = boot_id()?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let of = words.next()?;
        let changed =
            Changed { name: words.next()?.into(), before: words.next()?.into(), set: words.next()?.into() };
        // The name becomes a path below /proc/sys/net.
        let good = changed.name.starts_with("net/") && !changed.name.contains("..");
        (of == boot && good).then_some(changed)
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Forgets what was changed.
///
/// # Errors
/// When the file cannot be removed.
pub(super) fn forget(state_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(file(state_dir)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}
