//! Running other programs (`ip`, `nft`, `ping`, `nsenter`) and turning their failures into errors.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::error::LabError;

/// A command with the lab's environment: fixed locale, and the sbin directories in PATH (a user's shell on Debian
/// leaves them out).
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs `line`, split at white space (so no word of it may contain any), and returns its standard output.
///
/// # Errors
/// [`LabError::Start`] when the program is missing, [`LabError::Failed`] when it exits non-zero.
pub fn run(line: &str) -> Result<String, LabError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run_args(&words)
}

/// Runs `words[0]` with the other words as its arguments and returns its standard output.
///
/// # Errors
/// As [`run`].
pub fn run_args(words: &[&str]) -> Result<String, LabError> {
    let out = output(words)?;
    if !out.status.success() {
        return Err(LabError::Failed {
            command: words.join(" ").into(),
            status: out.status,
            stderr: String::from_utf8_lossy(&out.stderr).trim().into(),
        });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs the words to their end, whatever it is.
pub(crate) fn output(words: &[&str]) -> Result<Output, LabError> {
    let (program, args) = words.split_first().unwrap_or((&"true", &[]));
    command(program)
        .args(args)
        .output()
        .map_err(|source| LabError::Start { program: PathBuf::from(program), source })
}
