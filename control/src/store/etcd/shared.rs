//! What other threads may look at: whether etcd is there, and what it said first.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::fleet::Fleet;

/// What was kept, a file of this machine, is read within this time, or something is wrong with the store's thread.
const READ: Duration = Duration::from_secs(5);

/// Whether etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Changes are heard of.
    pub connected: bool,
    /// Connected: since when. Else: until when all was known; none = this node has never heard of it.
    pub since: Option<SystemTime>,
    /// The member in use, or tried last.
    pub endpoint: String,
    /// The store's revision up to which all is known of nodes.
    pub revision: i64,
    /// This node's lease, once it has one.
    pub lease: Option<LeaseHealth>,
    /// Why it is not reached.
    pub error: Option<String>,
}

/// This node's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHealth {
    /// Its name: the subnets.
    pub key: String,
    /// When it ends unless it is renewed; none = never, it is a reservation.
    pub expires: Option<SystemTime>,
}

/// What a node starts with.
#[derive(Debug, Clone)]
pub struct First {
    /// The nodes.
    pub fleet: Arc<Fleet>,
    /// None = etcd says so now. Else what was kept, of this moment.
    pub kept: Option<SystemTime>,
}

/// Nothing is known, so there is nothing to start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing is known of the cluster yet: {why}")]
pub struct NotReady {
    /// Everything that is in the way.
    pub why: String,
}

#[derive(Debug)]
pub(super) struct Shared {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct Now {
    pub(super) health: Health,
    /// What etcd said first.
    pub(super) first: Option<Arc<Fleet>>,
    /// What was kept.
    pub(super) kept: Option<(Arc<Fleet>, SystemTime)>,
    /// What was kept has been read, if there was anything.
    pub(super) read: bool,
    /// What is waited for.
    pub(super) why: String,
    /// Nothing more will come.
    pub(super) ended: bool,
}

impl Default for Shared {
    fn default() -> Shared {
        let health = Health {
            connected: false,
            since: None,
            endpoint: String::new(),
            revision: 0,
            lease: None,
            error: None,
        };
        let why = "the store has just been started".to_owned();
        let now = Now { health, first: None, kept: None, read: false, why, ended: false };
        Shared { now: Mutex::new(now), changed: Condvar::new() }
    }
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Each change is a whole one: what a panicking thread left is good.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.now());
        self.changed.notify_all();
    }

    pub(super) fn health(&self) -> Health {
        self.now().health.clone()
    }

    pub(super) fn wait_first(&self, timeout: Duration) -> Result<First, NotReady> {
        let began = Instant::now();
        let (deadline, read_by) = (began + timeout, began + timeout.max(READ));
        let mut now = self.now();
        loop {
            if let Some(fleet) = &now.first {
                return Ok(First { fleet: Arc::clone(fleet), kept: None });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Whoever has no time waits for what was kept all the same.
            let read = now.read || Instant::now() >= read_by;
            if now.ended || (left.is_zero() && read) {
                let kept = now.kept.clone().map(|(fleet, at)| First { fleet, kept: Some(at) });
                return kept.ok_or_else(|| NotReady { why: now.why.clone() });
            }
            let left = if left.is_zero() { READ } else { left };
            now = self.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
