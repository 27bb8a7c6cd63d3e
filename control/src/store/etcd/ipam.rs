//! Pools and blocks in etcd: [`crate::blocks`] over this store's connections.
//!
//! Requests that give or take addresses are carried out one after the other by a task of the store's thread, so that a
//! node does not contend with itself; surveys go beside them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Timing;
use super::client::Client;
use super::error::CallError;
use super::jitter;
use super::pages::Pages;
use super::wire::{Compare, DeleteRangeRequest, Op, PutRequest, RangeRequest, TxnRequest};
use crate::blocks::{
    Ask, AssignError, Change, ChooseError, Entry, Idle, KeyStore, Problem, Repaired, Survey, Surveyed,
    assign, give_back, release, release_address, repair,
};
use crate::config::EtcdSettings;

/// Between two looks for blocks that nobody needs.
const LOOK: Duration = Duration::from_secs(60);
/// Everything about one request has to be done in this time.
const DEADLINE: Duration = Duration::from_secs(15);

/// What is asked.
#[derive(Debug, Clone)]
pub enum IpamRequest {
    /// Give a pod of this node its addresses.
    Assign {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Names the attachment.
        handle: String,
        /// What is written beside the addresses.
        of: BTreeMap<String, String>,
        /// Addresses that the runtime asks for.
        addrs: Vec<IpAddr>,
    },
    /// Take back what a handle has.
    Release {
        /// It.
        handle: String,
        /// Addresses that it is known to have.
        addrs: Vec<IpAddr>,
    },
    /// Read everything.
    Survey,
    /// Put findings right.
    Repair(Vec<Problem>),
    /// Take back one address, whoever has it.
    ReleaseAddress(IpAddr),
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum IpamReply {
    /// The addresses; IPv4 first.
    Assigned(Vec<IpAddr>),
    /// What was taken back.
    Released(Vec<IpAddr>),
    /// Everything.
    Survey(Box<Surveyed>),
    /// What came of each finding.
    Repaired(Vec<Repaired>),
}

/// Why nothing came of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IpamError {
    /// The configuration has `ipam.type = "node"`.
    #[error("this node does not take addresses of pools")]
    Off,
    /// etcd is away.
    #[error("etcd is not reached: {0}")]
    NotReached(String),
    /// Nothing can be asked for.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// Nothing was given, or taken back.
    #[error(transparent)]
    Assign(#[from] AssignError<CallError>),
    /// It took too long; nobody knows whether it was carried out.
    #[error("not done within {} s", DEADLINE.as_secs())]
    Late,
    /// The store has been stopped.
    #[error("the store is stopped")]
    Stopped,
}

/// Takes what came of a request.
pub(super) type Answer = Box<dyn FnOnce(Result<IpamReply, IpamError>) + Send>;

/// A request as the task carries it out.
pub(super) enum Job {
    Assign(Ask),
    Release(String, Vec<IpAddr>),
    ReleaseAddress(IpAddr),
}

/// Keys of an etcd, for whoever works on pools and blocks.
#[derive(Debug, Clone)]
pub struct Keys(Client);

impl Keys {
    pub(super) fn new(client: Client) -> Keys {
        Keys(client)
    }

    /// Lets `work` have the keys of an etcd, on this thread and until it is done.
    ///
    /// # Errors
    /// No runtime can be made.
    pub fn with<T>(
        settings: EtcdSettings,
        timing: Timing,
        work: impl AsyncFnOnce(&Keys) -> T,
    ) -> std::io::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            let keys = Keys(Client::new(settings, timing));
            work(&keys).await
        });
        runtime.shutdown_background();
        Ok(done)
    }
}

impl KeyStore for Keys {
    type Error = CallError;

    async fn get(&self, key: &str) -> Result<Option<Entry>, CallError> {
        let question = RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() };
        let found = self.0.range(question).await?.kvs.into_iter().next();
        Ok(found.map(|kv| Entry { key: key.to_owned(), value: kv.value, revision: kv.mod_revision }))
    }

    async fn list(&self, prefix: &str, names: bool) -> Result<Vec<Entry>, CallError> {
        let mut pages = Pages::of(&self.0, prefix.as_bytes(), names);
        let mut found = Vec::new();
        // One value that is larger than is read: its name has to do.
        while let Some(page) = pages.next().await? {
            // What is no text is no key of ours.
            found.extend(page.keys.into_iter().filter_map(|kv| {
                Some(Entry {
                    key: String::from_utf8(kv.key).ok()?,
                    value: kv.value,
                    revision: kv.mod_revision,
                })
            }));
        }
        Ok(found)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<bool, CallError> {
        let compare = changes
            .iter()
            .map(|change| Compare::unchanged(change.key.clone().into_bytes(), change.over))
            .collect();
        let op = |change: Change| match change.value {
            Some(value) => Op::Put(PutRequest { key: change.key.into_bytes(), value, lease: 0 }).into(),
            None => Op::Delete(DeleteRangeRequest { key: change.key.into_bytes() }).into(),
        };
        let success = changes.into_iter().map(op).collect();
        Ok(self.0.txn(TxnRequest { compare, success, failure: Vec::new() }).await?.succeeded)
    }

    async fn pause(&self, attempt: u32) {
        let most = (attempt.min(50) as usize) * 4;
        sleep(Duration::from_millis(jitter(most + 1) as u64)).await;
    }
}

/// Carries out one request after the other, until nobody asks any more; between them `node`'s idle blocks are given back.
pub(super) async fn serve(keys: Keys, node: String, mut jobs: mpsc::UnboundedReceiver<(Job, Answer)>) {
    let mut idle = Idle::new();
    // Nodes that started together do not look together.
    let later = || Instant::now() + LOOK + Duration::from_millis(jitter(10_000) as u64);
    let mut look_at = later();
    loop {
        let (job, answer) = match timeout_at(look_at, jobs.recv()).await {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(_) => {
                look_at = later();
                match timeout(DEADLINE, give_back(&keys, &node, &mut idle, SystemTime::now())).await {
                    Ok(Ok(given)) => {
                        given.iter().for_each(|block| tracing::info!(%block, "given back: nobody used it"))
                    }
                    Ok(Err(err)) => tracing::debug!(%err, "look for idle blocks"),
                    Err(_) => tracing::debug!("look for idle blocks: not done in time"),
                }
                continue;
            }
        };
        let now = SystemTime::now();
        let done = timeout(DEADLINE, async {
            Ok(match job {
                Job::Assign(ask) => IpamReply::Assigned(assign(&keys, &ask, now).await?),
                Job::Release(handle, addrs) => {
                    IpamReply::Released(release(&keys, &handle, &addrs, now).await?)
                }
                Job::ReleaseAddress(addr) => {
                    let done = release_address(&keys, addr, None, now).await?;
                    IpamReply::Released(done.then_some(addr).into_iter().collect())
                }
            })
        });
        answer(done.await.unwrap_or(Err(IpamError::Late)));
    }
}

/// Reads everything; `known` is completed with it.
pub(super) async fn survey(keys: &Keys, mut known: Surveyed) -> Result<IpamReply, IpamError> {
    known.survey = Survey::read(keys).await.map_err(AssignError::Store)?;
    Ok(IpamReply::Survey(Box::new(known)))
}

/// Puts findings right, each on its own.
pub(super) async fn repair_all(keys: &Keys, problems: &[Problem]) -> Result<IpamReply, IpamError> {
    let mut done = Vec::with_capacity(problems.len());
    for problem in problems {
        done.push(match repair(keys, problem, SystemTime::now()).await {
            Ok(repaired) => repaired,
            // One bad key costs only itself.
            Err(AssignError::Broken { .. }) => Repaired::Never,
            Err(err) => return Err(err.into()),
        });
    }
    Ok(IpamReply::Repaired(done))
}
