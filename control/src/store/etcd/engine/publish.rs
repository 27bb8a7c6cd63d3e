//! Publishing the pods attached here: the difference between what is to be there and what is.

use super::*;
use crate::objects::Kind;
use crate::store::etcd::calls::{Write, Written, write};

/// Most writes of one call.
const BATCH: usize = 64;
/// How long what was written is waited for before it is looked at again.
const ECHO: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Publishing {
    /// None = nobody has said yet.
    wanted: Option<BTreeMap<Key, PublishedPod>>,
    /// What we wrote last, for pods that another node wrote since: that one is not fought over.
    written: BTreeMap<Key, String>,
    calling: bool,
    /// What was written is seen at this revision, or at this time.
    settled: i64,
    not_before: Option<Instant>,
    dirty: bool,
}

/// How a batch ended.
pub(super) struct Outcome {
    written: Vec<(Key, Option<String>)>,
    revision: i64,
    error: Option<CallError>,
    lost: bool,
}

impl Publishing {
    pub(super) fn want(&mut self, pods: Vec<PublishedPod>) {
        let key = |pod: &PublishedPod| Key {
            kind: Kind::Pod,
            namespace: Some(pod.namespace.as_str().into()),
            name: pod.name.as_str().into(),
        };
        let wanted: BTreeMap<Key, PublishedPod> = pods.into_iter().map(|pod| (key(&pod), pod)).collect();
        self.written.retain(|key, _| wanted.contains_key(key));
        self.wanted = Some(wanted);
        self.dirty = true;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.calling && self.wanted.is_some())
    }

    pub(super) fn published(&mut self, outcome: Outcome, now: Instant, timing: &Timing) {
        self.calling = false;
        for (key, text) in outcome.written {
            match text {
                Some(text) => drop(self.written.insert(key, text)),
                None => drop(self.written.remove(&key)),
            }
        }
        self.settled = outcome.revision;
        let wait = match (&outcome.error, outcome.lost) {
            (Some(err), _) => {
                tracing::warn!(%err, "etcd: publish pods");
                timing.backoff.1
            }
            (None, true) => timing.backoff.0,
            (None, false) => ECHO,
        };
        self.not_before = Some(now + wait);
        if outcome.error.is_some() {
            self.settled = i64::MAX;
        }
    }
}

impl Engine {
    /// Begins a batch, if there is anything to write.
    pub(super) fn publish(&mut self, now: Instant) {
        let p = &mut self.publishing;
        let late = p.not_before.is_none_or(|at| at <= now);
        if p.calling || p.wanted.is_none() || (self.pods.revision < p.settled && !late) {
            return;
        }
        if late {
            p.not_before = None;
        }
        if !self.is_up(Source::Pods) || self.pods.is_listing() {
            return;
        }
        let Some(lease) = self.keeper.held().map(|held| held.lease) else { return };
        let batch = self.batch(lease);
        self.publishing.dirty = false;
        if batch.is_empty() {
            return;
        }
        self.publishing.calling = true;
        let client = self.client.clone();
        self.calls.spawn(async move {
            let mut outcome = Outcome { written: Vec::new(), revision: 0, error: None, lost: false };
            for (key, call) in batch {
                match write(&client, &call).await {
                    Ok(Written::Yes(revision)) => {
                        outcome.revision = outcome.revision.max(revision);
                        let text = call.value.map(|text| String::from_utf8_lossy(&text).into_owned());
                        outcome.written.push((key, text));
                    }
                    Ok(Written::No(..)) => outcome.lost = true,
                    Err(err) => {
                        outcome.error = Some(err);
                        break;
                    }
                }
            }
            Done::Published(outcome)
        });
    }

    fn batch(&self, lease: i64) -> Vec<(Key, Write)> {
        let Some(wanted) = &self.publishing.wanted else { return Vec::new() };
        let hosts = self.hosts();
        let mut batch = Vec::new();
        for (key, pod) in wanted {
            let text = pod.encode(&self.node.name, &hosts);
            let there = self.pods.entries.get(key);
            let foreign = there.is_some_and(|entry| entry.node.as_deref() != Some(&*self.node.name));
            let same = there.is_some_and(|entry| entry.text == text && entry.lease == lease);
            // Another node that has the addresses it says wrote after us: the pod has moved there.
            let moved = foreign
                && self.publishing.written.get(key) == Some(&text)
                && there.is_some_and(|entry| self.pods.holds(entry));
            if !same && !moved {
                let over = Some(there.map_or(0, |entry| entry.modified));
                let value = Some(text.into_bytes());
                batch.push((key.clone(), Write { key: self.pods.pod_key(key), value, lease, over }));
            }
        }
        // What a run before this one left, and what was detached.
        let ours =
            self.pods.entries.iter().filter(|(_, entry)| entry.node.as_deref() == Some(&*self.node.name));
        for (key, entry) in ours.filter(|(key, _)| !wanted.contains_key(*key)) {
            let over = Some(entry.modified);
            batch.push((key.clone(), Write { key: self.pods.pod_key(key), value: None, lease: 0, over }));
        }
        batch.truncate(BATCH);
        batch
    }
}
