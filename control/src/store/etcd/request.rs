//! Objects as people read and write them: `vsctl get`, `apply`, `delete`.

use std::time::Duration;

use serde_json::Value;

use super::calls::{Write, Written, write};
use super::client::Client;
use super::error::CallError;
use super::objects::{one, parse_path, path};
use super::wire::{RangeRequest, prefix_end};
use crate::objects::{Key, Kind};

/// Most objects of one answer.
const MOST_FOUND: usize = 10_000;
/// Keys of a page.
const PAGE: i64 = 200;

/// What is asked of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Write an object.
    Apply {
        /// What names it.
        key: Key,
        /// Its manifest.
        manifest: Value,
        /// Only over this version ([`Found::revision`]); 0 = only if it is not there; none = whatever there is.
        over: Option<i64>,
    },
    /// Read objects.
    Get {
        /// Of this kind.
        kind: Kind,
        /// In this namespace only.
        namespace: Option<String>,
        /// Of this name only.
        name: Option<String>,
    },
    /// Remove an object.
    Delete {
        /// What names it.
        key: Key,
        /// Only in this version; none = whatever there is.
        over: Option<i64>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is written, as of this revision.
    Applied {
        /// Of the write.
        revision: i64,
    },
    /// The objects there are.
    Found(Vec<Found>),
    /// It is gone; false = it was not there.
    Deleted {
        /// Was there one?
        existed: bool,
    },
}

/// An object in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What names it.
    pub key: Key,
    /// Its manifest as it was written.
    pub manifest: Value,
    /// The revision that wrote it.
    pub revision: i64,
}

/// Why nothing came of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The object is not valid; it was not written.
    #[error("{key}: {problem}")]
    Invalid {
        /// The object.
        key: Key,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else wrote it meanwhile.
    #[error("{key} is at revision {revision} by now: read it again")]
    Conflict {
        /// The object.
        key: Key,
        /// The version there is; 0 = none.
        revision: i64,
    },
    /// There are more than one answer holds.
    #[error("more than {MOST_FOUND} objects: name a namespace")]
    TooMany,
    /// The store did not answer, or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No answer within the time given.
    #[error("the store did not answer within {seconds} s")]
    Timeout {
        /// The time given.
        seconds: u64,
    },
    /// The store has been stopped.
    #[error("the store is stopped")]
    Stopped,
}

impl RequestError {
    pub(super) fn late(limit: Duration) -> RequestError {
        RequestError::Timeout { seconds: limit.as_secs() }
    }
}

/// Carries a request out. `base` is what objects' paths stand behind.
pub(super) async fn carry_out(client: &Client, base: &str, request: Request) -> Result<Reply, RequestError> {
    match request {
        Request::Apply { key, manifest, over } => {
            let value = manifest.to_string().into_bytes();
            // As an API server would: what is not valid is not written.
            let invalid = |problem| RequestError::Invalid { key: key.clone(), problem };
            let (_, object) = one(&value, &key).map_err(invalid)?;
            if let Err(refused) = object {
                let errors: Vec<String> = refused.errors.iter().map(ToString::to_string).collect();
                return Err(invalid(errors.join("; ")));
            }
            let call = Write { key: at(base, &key), value: Some(value), lease: 0, over };
            match write(client, &call).await? {
                Written::Yes(revision) => Ok(Reply::Applied { revision }),
                Written::No(there) => {
                    Err(RequestError::Conflict { key, revision: there.map_or(0, |kv| kv.mod_revision) })
                }
            }
        }
        Request::Delete { key, over } => {
            let question = RangeRequest { key: at(base, &key), keys_only: true, ..RangeRequest::default() };
            let Some(there) = client.range(question).await?.kvs.into_iter().next() else {
                return Ok(Reply::Deleted { existed: false });
            };
            let call =
                Write { key: at(base, &key), value: None, lease: 0, over: over.or(Some(there.mod_revision)) };
            match write(client, &call).await? {
                Written::Yes(_) => Ok(Reply::Deleted { existed: true }),
                Written::No(there) => {
                    Err(RequestError::Conflict { key, revision: there.map_or(0, |kv| kv.mod_revision) })
                }
            }
        }
        Request::Get { kind, namespace, name } => {
            get(client, base, kind, namespace.as_deref(), name.as_deref()).await
        }
    }
}

fn at(base: &str, key: &Key) -> Vec<u8> {
    format!("{base}{}", path(key)).into_bytes()
}

async fn get(
    client: &Client,
    base: &str,
    kind: Kind,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Reply, RequestError> {
    let prefix = match namespace {
        Some(namespace) if kind.namespaced() => format!("{base}{}/{namespace}/", kind.as_str()),
        _ => format!("{base}{}/", kind.as_str()),
    };
    let mut question = RangeRequest {
        key: prefix.clone().into_bytes(),
        range_end: prefix_end(prefix.as_bytes()),
        limit: PAGE,
        ..RangeRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let answer = match client.range(question.clone()).await {
            Err(CallError::TooLarge { .. }) if question.limit > 1 => {
                question.limit = (question.limit / 8).max(1);
                continue;
            }
            answer => answer?,
        };
        if question.revision == 0 {
            question.revision = answer.header.map_or(0, |header| header.revision);
        }
        let Some(last) = answer.kvs.last() else { break };
        question.key = [&last.key[..], &[0]].concat();
        for kv in &answer.kvs {
            let path = std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(base));
            let Some(key) = path.and_then(parse_path) else { continue };
            if name.is_some_and(|name| name != &*key.name) {
                continue;
            }
            // What is not JSON is shown as it is.
            let text = || Value::from(String::from_utf8_lossy(&kv.value).into_owned());
            let manifest = serde_json::from_slice(&kv.value).unwrap_or_else(|_| text());
            found.push(Found { key, manifest, revision: kv.mod_revision });
        }
        if found.len() > MOST_FOUND {
            return Err(RequestError::TooMany);
        }
        if !answer.more {
            break;
        }
    }
    Ok(Reply::Found(found))
}
