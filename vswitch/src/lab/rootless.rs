//! The lab without root: the same program again, inside a user namespace where it is.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use super::cmd;
use super::error::LabError;

/// Set in the environment of the program started inside, so that it does not start itself again.
const INSIDE: &str = "VSWITCH_LAB_INSIDE";

/// Returns at once for root. Otherwise replaces this process by itself inside a new user, mount and network namespace
/// with an empty /run; returns only when that cannot be done.
///
/// # Errors
/// [`LabError::NeedsRoot`] when users may not open /dev/net/tun, [`LabError::Start`] when `unshare` is missing.
pub(crate) fn ensure_root() -> Result<(), LabError> {
    if rustix::process::geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if let Err(source) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        return Err(LabError::NeedsRoot { source });
    }
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("vsctl"));
    let source = cmd::command("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--", "sh", "-c"])
        .arg("mount -t tmpfs tmpfs /run && exec \"$@\"")
        .arg("sh")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(LabError::Start { program: PathBuf::from("unshare"), source })
}
