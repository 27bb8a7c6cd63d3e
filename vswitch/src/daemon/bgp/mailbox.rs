//! What the speaker's thread has for the control thread: the latest word about each prefix.
//!
//! Written by the one, taken whole by the other; neither waits for longer than a look takes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

/// Routes for the control thread that it has not taken yet.
#[derive(Default)]
pub(super) struct Mailbox {
    routes: Mutex<Waiting>,
}

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    /// Prefix to next hops; none = no longer learned.
    pub(super) routes: BTreeMap<IpNet, Option<Vec<IpAddr>>>,
    /// After these, whatever is from before a restart and was not told again is gone.
    pub(super) settled: bool,
    /// The control thread has been told that something waits.
    pub(super) told: bool,
}

impl Mailbox {
    /// Looks at what waits.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Waiting) -> T) -> T {
        f(&mut self.routes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> Waiting {
        self.with(std::mem::take)
    }
}

impl Waiting {
    /// Is there anything?
    pub(super) fn waits(&self) -> bool {
        !self.routes.is_empty() || self.settled
    }
}
