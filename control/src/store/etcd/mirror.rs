//! One range of keys, followed: a list in pages, then a watch from there on, for ever.
//!
//! ```text
//! list at revision R ──► watch from R+1 ──► broken: wait, watch from the last revision + 1
//!        ▲                                    │
//!        └── compacted, or the store is another one than before ◄─┘
//! ```
//!
//! A task of the store's thread. What it learns goes to the engine through a short queue, so that neither a large store
//! nor a fast one fills memory.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{Client, Watch};
use super::error::CallError;
use super::jitter;
use super::pages::Pages;
use super::wire::{Event, KeyValue, WatchCreateRequest, WatchResponse, prefix_end};

/// Pages and batches under way to the engine.
pub(super) const QUEUE: usize = 2;

/// Which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// flannel's: the network and the leases.
    Nodes,
    /// Pods as their nodes publish them.
    Pods,
    /// Objects.
    Objects,
    /// Calico's blocks.
    Blocks,
    /// Nodes' affinities to them.
    Affinities,
}

/// What is learnt.
#[derive(Debug)]
pub(super) enum Update {
    /// A list begins.
    Listing,
    /// Some of its keys.
    Page(Vec<KeyValue>),
    /// One of its keys, whose value is larger than is read.
    TooLarge(KeyValue),
    /// The list was complete, as of this revision.
    Listed(i64),
    /// The watch is on.
    Up,
    /// What happened since, up to this revision.
    Changed(i64, Vec<Event>),
    /// Nothing is heard until the next [`Update::Up`].
    Down(CallError),
}

/// Follows one range.
#[derive(Debug)]
pub(super) struct Mirror {
    source: Source,
    prefix: Vec<u8>,
    client: Client,
    updates: mpsc::Sender<(Source, Update)>,
    /// Of the store that is followed: its cluster, and the revision up to which all is known.
    known: Option<(u64, i64)>,
}

/// The engine has ended.
struct Ended;

enum Broken {
    Ended,
    /// Nobody can say what was missed.
    Unknown,
    Call(CallError),
}

impl From<Ended> for Broken {
    fn from(_: Ended) -> Broken {
        Broken::Ended
    }
}

impl From<CallError> for Broken {
    fn from(err: CallError) -> Broken {
        Broken::Call(err)
    }
}

impl Mirror {
    pub(super) fn new(
        source: Source,
        prefix: &str,
        client: Client,
        updates: mpsc::Sender<(Source, Update)>,
    ) -> Mirror {
        Mirror { source, prefix: prefix.as_bytes().to_vec(), client, updates, known: None }
    }

    /// Follows until the engine ends.
    pub(super) async fn run(mut self) {
        let timing = *self.client.timing();
        let mut wait = timing.backoff.0;
        loop {
            match self.follow(&mut wait).await {
                Broken::Ended => return,
                Broken::Unknown => self.known = None,
                Broken::Call(err) => {
                    if err.compacted() {
                        self.known = None;
                    }
                    if err.denied() || err.wants_token() {
                        self.client.forget_token();
                    }
                    if self.tell(Update::Down(err)).await.is_err() {
                        return;
                    }
                }
            }
            // Many nodes that lost the same member do not come back all at once.
            let millis = usize::try_from(wait.as_millis()).unwrap_or(usize::MAX);
            sleep(wait / 2 + Duration::from_millis(jitter(millis / 2 + 1) as u64)).await;
            wait = (wait * 2).min(timing.backoff.1);
        }
    }

    async fn tell(&self, update: Update) -> Result<(), Ended> {
        self.updates.send((self.source, update)).await.map_err(|_| Ended)
    }

    /// Lists if nothing is known, then watches until something breaks.
    async fn follow(&mut self, wait: &mut Duration) -> Broken {
        let (cluster, revision) = match self.known {
            Some(known) => known,
            None => match self.list().await {
                Ok(known) => known,
                Err(broken) => return broken,
            },
        };
        self.known = Some((cluster, revision));
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: prefix_end(&self.prefix),
            start_revision: revision + 1,
            progress_notify: true,
            fragment: true,
        };
        let (watch, first) = match self.client.watch(create).await {
            Ok(created) => created,
            Err(err) => return err.into(),
        };
        if first.canceled {
            return self.canceled(&watch, &first);
        }
        let header = first.header.clone().unwrap_or_default();
        if header.cluster_id != cluster || header.revision < revision {
            // Another store, or one that was put back to an earlier day: our revisions mean nothing there.
            return Broken::Unknown;
        }
        if let Err(ended) = self.tell(Update::Up).await {
            return ended.into();
        }
        *wait = self.client.timing().backoff.0;
        self.listen(watch, cluster, revision).await
    }

    async fn listen(&mut self, mut watch: Watch, cluster: u64, mut revision: i64) -> Broken {
        loop {
            let answer = match watch.next().await {
                Ok(answer) => answer,
                Err(err) => {
                    if err.elsewhere() {
                        self.client.failed(&watch.member);
                    }
                    // A batch that is larger than is read comes again and again: the list takes it apart.
                    let large = matches!(err, CallError::TooLarge { .. });
                    return if large { Broken::Unknown } else { err.into() };
                }
            };
            if answer.canceled {
                return self.canceled(&watch, &answer);
            }
            // The header's revision is the store's, of which a watch that lags behind has not seen all.
            let upto = match answer.events.iter().filter_map(|event| event.kv.as_ref()).next_back() {
                Some(kv) => kv.mod_revision,
                None => answer.header.as_ref().map_or(revision, |header| header.revision),
            };
            // Of a revision in fragments all is known with the last one.
            revision = revision.max(if answer.fragment { upto - 1 } else { upto });
            self.known = Some((cluster, revision));
            if let Err(ended) = self.tell(Update::Changed(revision, answer.events)).await {
                return ended.into();
            }
        }
    }

    fn canceled(&self, watch: &Watch, answer: &WatchResponse) -> Broken {
        if answer.compact_revision != 0 {
            return Broken::Unknown;
        }
        // The token may have run out: a watch does not say.
        self.client.forget_token();
        let reason = &answer.cancel_reason;
        let code = match reason.contains("permission denied") {
            true => tonic::Code::PermissionDenied,
            false => tonic::Code::Unavailable,
        };
        CallError::of(&watch.member, &tonic::Status::new(code, format!("the watch was ended: {reason}")))
            .into()
    }

    /// All keys of one revision, page by page.
    async fn list(&self) -> Result<(u64, i64), Broken> {
        self.tell(Update::Listing).await?;
        let mut pages = Pages::of(&self.client, &self.prefix, false);
        while let Some(page) = pages.next().await? {
            if page.too_large {
                for kv in page.keys {
                    self.tell(Update::TooLarge(kv)).await?;
                }
            } else {
                self.tell(Update::Page(page.keys)).await?;
            }
        }
        let (revision, cluster) = pages.seen();
        self.tell(Update::Listed(revision)).await?;
        Ok((cluster, revision))
    }
}
