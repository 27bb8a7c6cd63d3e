//! Writing a file so that a crash leaves the old content or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StateError;

/// What the names of unfinished files begin with. No attachment's file begins with a dot.
pub(super) const TEMPORARY: &str = ".new-";

pub(super) fn error(doing: &'static str, path: &Path, err: io::Error) -> StateError {
    StateError::Io { doing, path: path.to_owned(), err }
}

/// For reading and writing by us alone, made where missing.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// Puts `bytes` into `dir/name`: temporary file, flush, rename, flush of the directory.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    let path = dir.join(name);
    // One daemon holds the directory's lock, and each file is written by one thread at a time.
    let temporary = dir.join(format!("{TEMPORARY}{name}"));
    let mut file =
        private().truncate(true).open(&temporary).map_err(|err| error("create", &temporary, err))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|err| error("write", &temporary, err))
        .and_then(|()| fs::rename(&temporary, &path).map_err(|err| error("rename to", &path, err)));
    if let Err(err) = written {
        // The first failure is the one to tell; a leftover goes at the next load.
        let _ = fs::remove_file(&temporary);
        return Err(err);
    }
    flush(dir)
}

/// Removes `dir/name`; false when there is no such file.
pub(super) fn remove(dir: &Path, name: &str) -> Result<bool, StateError> {
    let path = dir.join(name);
    match fs::remove_file(&path) {
        Ok(()) => flush(dir).map(|()| true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(error("remove", &path, err)),
    }
}

fn flush(dir: &Path) -> Result<(), StateError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|err| error("flush", dir, err))
}
