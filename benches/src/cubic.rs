//! Pins TCP to cubic in the namespaces that are measured.
//!
//! Asking a socket for cubic is not enough where the machine's default is BBR: the sockets are born with BBR's internal
//! pacing and keep its timer after `TCP_CONGESTION`, 26,000 timer interrupts a second in a 30 Gbit/s stream. The namespace
//! itself must say cubic, and the kernel takes that only for an algorithm every user may choose.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use vswitch::lab::Netns;

const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Cubic is allowed in every namespace while this lives; afterwards the machine's list is as it was.
#[derive(Debug)]
pub struct Allowed {
    before: String,
}

impl Allowed {
    /// Adds cubic to what any user of this machine may choose.
    ///
    /// # Errors
    /// When the kernel has no cubic, or this process is not root.
    pub fn add() -> anyhow::Result<Allowed> {
        let before = fs::read_to_string(ALLOWED).context(ALLOWED)?.trim().to_owned();
        if !has_cubic(&before) {
            fs::write(ALLOWED, format!("{before} cubic"))
                .with_context(|| format!("add cubic to {ALLOWED}"))?;
        }
        let available = fs::read_to_string(AVAILABLE).context(AVAILABLE)?;
        ensure!(has_cubic(&available), "{AVAILABLE} lacks cubic: {}", available.trim());
        Ok(Allowed { before })
    }

    /// Makes cubic the default inside `netns`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn pin(&self, netns: &Netns) -> anyhow::Result<()> {
        Ok(netns.sysctl("ipv4.tcp_congestion_control", "cubic")?)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if !has_cubic(&self.before) {
            // Nothing can be done about a refusal here, and nothing depends on it.
            let _ = fs::write(Path::new(ALLOWED), &self.before);
        }
    }
}

fn has_cubic(list: &str) -> bool {
    list.split_whitespace().any(|name| name == "cubic")
}
