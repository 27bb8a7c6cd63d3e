//! This node's lease: which subnet to take, when to renew it, what to do when it is not ours any more.
//!
//! ```text
//!            plan              claimed
//!  Seeking ───────► (a call) ───────────► Held ──── due ────► (a call) ──► Held
//!     ▲  ▲             │ lost, failed       │ deleted, expired,
//!     │  └─────────────┘ wait, doubled      │ another's
//!     └─────────────────────────────────────┘ the same subnet first
//! ```
//!
//! Pure: what the store holds and the time go in, the call to make comes out. Packets go on whatever happens here.

use std::time::{Duration, Instant};

use super::Timing;
use super::nodes::Nodes;
use crate::flannel::roster::Own;
use crate::flannel::{LeaseKey, LeaseValue};
use crate::mac::Mac;

mod plan;

/// A call about the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// Take a subnet, or write again what we have.
    Claim(Claim),
    /// Let the lease live as long again.
    Renew {
        /// The etcd lease.
        lease: i64,
    },
    /// Give a subnet back that another node had first.
    Yield {
        /// Which.
        key: LeaseKey,
        /// Only this version of it.
        modified: i64,
    },
}

/// What is to be written, and what must be so for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The subnets.
    pub(super) key: LeaseKey,
    /// What peers need.
    pub(super) value: LeaseValue,
    /// The key's version that is written over; 0 = it must not be there.
    pub(super) over: i64,
    /// A key of ours that is in the way: it goes first, in this version.
    pub(super) remove: Option<(String, i64)>,
    /// It is a reservation: it stays without a lease.
    pub(super) reservation: bool,
    /// The etcd lease to use again; 0 = a new one.
    pub(super) lease: i64,
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is ours, as of this revision, with this etcd lease.
    Yes {
        /// Of the write.
        revision: i64,
        /// The node's lease, which the key ends with unless it is a reservation.
        lease: i64,
        /// From the answer on.
        ttl: Duration,
    },
    /// Somebody else was first.
    Lost,
}

/// A lease that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) key: LeaseKey,
    pub(super) value: LeaseValue,
    /// The write that made it ours.
    pub(super) revision: i64,
    /// The etcd lease.
    pub(super) lease: i64,
    pub(super) reservation: bool,
    /// When it ends, unless it is renewed.
    pub(super) expires: Instant,
}

/// What this node wants.
#[derive(Debug)]
pub(super) struct Keeper {
    timing: Timing,
    own: Own,
    mac: Option<Mac>,
    /// Made once, for a node without one.
    spare: Mac,
    /// The subnets to take where they are free.
    pub(super) wish: Option<LeaseKey>,
    held: Option<Held>,
    /// No call before.
    not_before: Option<Instant>,
    wait: Duration,
    renew_at: Option<Instant>,
    /// What happened to the lease, for somebody to read.
    pub(super) note: Option<String>,
}

impl Keeper {
    /// `own.key` is what this node had when it last knew; `wish` what else it may have had before.
    pub(super) fn new(
        timing: Timing,
        own: Own,
        wish: Option<LeaseKey>,
        mac: Option<Mac>,
        spare: Mac,
    ) -> Keeper {
        let wait = timing.backoff.0;
        let wish = own.key.or(wish);
        Keeper {
            timing,
            own,
            mac,
            spare,
            wish,
            held: None,
            not_before: None,
            wait,
            renew_at: None,
            note: None,
        }
    }

    /// Who we are; with our subnets, once there are some.
    pub(super) fn own(&self) -> &Own {
        &self.own
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The MAC of our end.
    pub(super) fn mac(&self) -> Mac {
        self.mac.unwrap_or(self.spare)
    }

    /// When to ask again though nothing happened.
    pub(super) fn next(&self) -> [Option<Instant>; 2] {
        [self.not_before, self.renew_at.filter(|_| self.held.is_some())]
    }

    /// All was listed as of this revision: an earlier store was put back if ours is later.
    pub(super) fn listed(&mut self, revision: i64) {
        if let Some(held) = &mut self.held {
            held.revision = held.revision.min(revision);
        }
    }

    /// The call to make now, if any. `pick` chooses one of so many.
    pub(super) fn step(
        &mut self,
        nodes: &Nodes,
        now: Instant,
        pick: &mut dyn FnMut(usize) -> usize,
    ) -> Option<Call> {
        let network = nodes.network.as_ref()?;
        if nodes.is_listing() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        match self.held.clone() {
            None => self.plan(network, nodes, pick).map(Call::Claim),
            // What was written is not seen yet, or the store was put back and a list will come.
            Some(held) if nodes.revision < held.revision => self.renewal(&held, now),
            Some(held) => self.look(held, nodes, now, pick),
        }
    }

    fn renewal(&self, held: &Held, now: Instant) -> Option<Call> {
        self.renew_at.is_some_and(|at| at <= now).then_some(Call::Renew { lease: held.lease })
    }

    /// Is what we have still ours?
    fn look(
        &mut self,
        mut held: Held,
        nodes: &Nodes,
        now: Instant,
        pick: &mut dyn FnMut(usize) -> usize,
    ) -> Option<Call> {
        let Some(entry) = nodes.own(&held.key) else {
            self.lose(format!("the lease of {} was deleted or has expired; it is taken again", held.key));
            return self.step(nodes, now, pick);
        };
        let ours = entry.value.as_ref().is_some_and(|value| Some(value.public_ip) == self.own.address);
        if !ours && entry.created > held.revision {
            let by = entry.value.as_ref().map_or("somebody".to_owned(), |value| value.public_ip.to_string());
            self.lose(format!("the subnet {} was taken by {by}; another one is taken", held.key));
            return self.step(nodes, now, pick);
        }
        if let Some(first) = self.first_owner(&held.key, entry.created, nodes) {
            self.note = Some(format!(
                "{} overlaps {first}, which was there first; another subnet is taken",
                held.key
            ));
            return Some(Call::Yield { key: held.key, modified: entry.modified });
        }
        if entry.lease == 0 && ours && !held.reservation {
            held.reservation = true;
            self.held = Some(held.clone());
        }
        let lease = if held.reservation { 0 } else { held.lease };
        // Peers believe what a node wrote last, so a lease that names our address with another way to it is answered.
        let usurped = || {
            nodes.leases.values().any(|other| {
                let claims =
                    |v: &LeaseValue| Some(v.public_ip) == self.own.address && v.backend != held.value.backend;
                other.modified > entry.modified && other.value.as_ref().is_some_and(claims)
            })
        };
        if entry.value.as_ref() != Some(&held.value) || entry.lease != lease || usurped() {
            let (key, value, over) = (held.key, held.value.clone(), entry.modified);
            let reservation = held.reservation;
            return Some(Call::Claim(Claim {
                key,
                value,
                over,
                remove: None,
                reservation,
                lease: held.lease,
            }));
        }
        self.wait = self.timing.backoff.0;
        self.renewal(&held, now)
    }

    fn lose(&mut self, note: String) {
        if let Some(held) = self.held.take() {
            self.wish = Some(held.key);
        }
        self.tell(note);
    }

    fn tell(&mut self, note: String) {
        if self.note.as_ref() != Some(&note) {
            tracing::warn!("etcd: {note}");
            self.note = Some(note);
        }
    }

    /// How a claim ended.
    pub(super) fn claimed(&mut self, claim: Claim, claimed: Claimed, now: Instant) {
        match claimed {
            Claimed::Yes { revision, lease, ttl } => {
                let Claim { key, value, reservation, .. } = claim;
                let expires = now + ttl;
                self.note = None;
                self.own.key = Some(key);
                self.wish = Some(key);
                self.held = Some(Held { key, value, revision, lease, reservation, expires });
                self.renew_at = Some(self.due(expires, ttl));
                // A fight over one key is not fought at full speed.
                self.hold_off(now);
            }
            Claimed::Lost => self.hold_off(now),
        }
    }

    /// How a renewal ended; none = it failed.
    pub(super) fn renewed(&mut self, ttl: Option<Duration>, now: Instant) {
        match ttl {
            Some(ttl) if !ttl.is_zero() => {
                if let Some(held) = &mut self.held {
                    held.expires = now + ttl;
                    self.renew_at = Some(self.due(now + ttl, ttl));
                }
            }
            Some(_) => {
                let key = self.held.as_ref().map(|held| held.key.to_string()).unwrap_or_default();
                self.lose(format!("the lease of {key} has expired; it is taken again"));
            }
            None => self.renew_at = Some(now + self.timing.renew_retry),
        }
    }

    /// Our key was given back.
    pub(super) fn yielded(&mut self, done: bool, now: Instant) {
        if done {
            self.held = None;
            self.wish = None;
        }
        self.hold_off(now);
    }

    /// The call brought nothing.
    pub(super) fn failed(&mut self, now: Instant) {
        self.hold_off(now);
    }

    fn hold_off(&mut self, now: Instant) {
        let millis = usize::try_from(self.wait.as_millis()).unwrap_or(1000);
        self.not_before =
            Some(now + self.wait / 2 + Duration::from_millis(super::jitter(millis / 2 + 1) as u64));
        self.wait = (self.wait * 2).min(self.timing.backoff.1);
    }

    /// When a lease that ends then is renewed: a margin before, or at half its life where that is later.
    fn due(&self, expires: Instant, ttl: Duration) -> Instant {
        let early = self.timing.renew_margin.min(ttl / 2);
        expires.checked_sub(early).unwrap_or(expires)
    }
}

#[cfg(test)]
mod tests;
