//! One kernel test at a time: they measure, and two at once would measure each other.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

static THREADS: Mutex<()> = Mutex::new(());

/// Held by a test for its whole length.
#[derive(Debug)]
pub struct Turn {
    _file: File,
    _thread: MutexGuard<'static, ()>,
}

/// Waits for the machine: for the other tests of this program and for other test programs.
///
/// # Panics
/// When the lock file cannot be opened, or this is not root: kernel tests never skip themselves.
#[must_use]
pub fn turn() -> Turn {
    assert!(rustix::process::geteuid().is_root(), "kernel tests need root: run them with sudo");
    let thread = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = std::env::temp_dir().join("vswitch-tests.lock");
    let file = File::options().create(true).append(true).open(&path).expect("the lock file opens");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("the lock file locks");
    Turn { _file: file, _thread: thread }
}
