//! The kernel: the only folder of the workspace where `unsafe` is allowed.
//!
//! Each file wraps one kernel interface, takes and gives safe types, returns `io::Result`, and has a test against
//! the real kernel in a network namespace of its own. Nothing here knows a pod, a policy or a packet's meaning, and
//! nothing here imports the rest of the crate. No clock is read, nothing is logged.

pub mod alloc;
pub mod device;
pub mod ethtool;
pub mod memory;
pub mod mmsg;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod prefetch;
pub mod process;
pub mod scm;
pub mod sockopt;
pub mod sysctl;
pub mod tun;

/// Runs a system call again for as long as a signal interrupts it.
fn retry_eintr<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
