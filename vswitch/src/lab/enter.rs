//! Running a closure inside a network namespace named by its path.

use std::path::Path;

use super::error::LabError;
use crate::sys::netns::{Netns, run_in};

/// Runs `f` on a fresh thread inside the network namespace at `path` and returns what it returned. Sockets opened by
/// `f` stay in that namespace and may be carried out of it.
///
/// # Errors
/// [`LabError::Enter`] when the namespace does not exist or may not be entered.
pub fn within<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let enter = |source| LabError::Enter { path: path.into(), source };
    let netns = Netns::open(path).map_err(enter)?;
    run_in(&netns, f).map_err(enter)
}
