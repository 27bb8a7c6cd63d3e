//! A store in memory. Each call waits before it is carried out and before its answer comes, so that whoever polls a future
//! decides what happens in between; a future that is dropped there has died there.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::super::store::{Change, Entry, KeyStore};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lost")]
pub(super) struct Lost;

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<String, (Vec<u8>, i64)>,
    revision: i64,
    commits: usize,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, key: &str, value: &str) {
        self.with(|inner| {
            inner.revision += 1;
            inner.keys.insert(key.to_owned(), (value.as_bytes().to_vec(), inner.revision));
        });
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.with(|inner| inner.keys.keys().cloned().collect())
    }

    pub(super) fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.with(|inner| {
            inner
                .keys
                .iter()
                .filter(|(k, _)| k.contains("block/"))
                .map(|(k, v)| (k.clone(), v.0.clone()))
                .collect()
        })
    }

    pub(super) fn text(&self, key: &str) -> String {
        self.with(|inner| String::from_utf8(inner.keys[key].0.clone()).unwrap())
    }

    pub(super) fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(key)).unwrap()
    }

    pub(super) fn commits(&self) -> usize {
        self.with(|inner| inner.commits)
    }
}

/// Once not ready.
pub(super) async fn step() {
    let mut waited = false;
    std::future::poll_fn(
        |_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending },
    )
    .await;
}

impl KeyStore for Memory {
    type Error = Lost;

    async fn get(&self, key: &str) -> Result<Option<Entry>, Lost> {
        step().await;
        let found = self.with(|inner| {
            let (value, revision) = inner.keys.get(key)?;
            Some(Entry { key: key.to_owned(), value: value.clone(), revision: *revision })
        });
        step().await;
        Ok(found)
    }

    async fn list(&self, prefix: &str, names: bool) -> Result<Vec<Entry>, Lost> {
        step().await;
        let found = self.with(|inner| {
            let from = inner.keys.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
            let entry = |(key, (value, revision)): (&String, &(Vec<u8>, i64))| Entry {
                key: key.clone(),
                value: if names { Vec::new() } else { value.clone() },
                revision: *revision,
            };
            from.map(entry).collect()
        });
        step().await;
        Ok(found)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<bool, Lost> {
        step().await;
        let done = self.with(|inner| {
            let mut names: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            // etcd refuses a transaction that writes a key twice.
            assert_eq!(names.len(), changes.len(), "{changes:?}");
            let now = |key: &str| inner.keys.get(key).map_or(0, |(_, revision)| *revision);
            if changes.iter().any(|change| now(&change.key) != change.over) {
                return false;
            }
            inner.revision += 1;
            inner.commits += 1;
            for change in changes {
                match change.value {
                    Some(value) => drop(inner.keys.insert(change.key, (value, inner.revision))),
                    None => drop(inner.keys.remove(&change.key)),
                }
            }
            true
        });
        step().await;
        Ok(done)
    }

    async fn pause(&self, _attempt: u32) {
        step().await;
    }
}

/// Runs a future to its end.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}
