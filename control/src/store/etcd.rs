//! The etcd store: nodes as flannel leases them, pods as their nodes publish them, objects as people apply them.
//!
//! ```text
//!  daemon ── publish_pods, request, stop ──► │ engine ◄── updates ── mirror: <prefix>/          list, watch
//!                                            │   │    ◄── updates ── mirror: /vswitch/pods/
//!  daemon ◄── StoreEvent, health, wait_first │   │    ◄── updates ── mirror: /vswitch/objects/
//!                                            │   ├──► lease: claim, renew      (calls)
//!                                            │   ├──► published pods           (calls)
//!                                            │   └──► state-dir/etcd.json      (a thread for each copy)
//! ```
//!
//! One thread of its own with a single-threaded tokio runtime; nobody else sees tokio, gRPC or an etcd type. Whatever
//! happens to etcd, what was last known stays in force: nothing is taken back because nobody answers, and nothing is told
//! while a list is half read.

mod calls;
mod client;
mod engine;
mod error;
mod ipam;
mod kept;
mod lease;
mod mirror;
mod nodes;
mod objects;
mod pages;
mod pods;
mod request;
mod shared;
mod table;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::config::EtcdSettings;
use crate::fleet::Fleet;
use crate::mac::Mac;
use crate::objects::{Key, Object, Refused};

pub use self::error::CallError;
pub use self::ipam::{IpamError, IpamReply, IpamRequest, Keys};
pub use self::pods::PublishedPod;
pub use self::request::{Found, Reply, Request, RequestError};
pub use self::shared::{First, Health, LeaseHealth, NotReady};

/// How long things take. The defaults are flannel's where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Life of this node's lease.
    pub ttl: Duration,
    /// It is renewed this long before its end, at half its life at the latest.
    pub renew_margin: Duration,
    /// After a renewal that failed.
    pub renew_retry: Duration,
    /// Between attempts: at first, and at most, doubled each time.
    pub backoff: (Duration, Duration),
    /// To connect to a member.
    pub connect: Duration,
    /// For one answer of one member.
    pub call: Duration,
    /// Between pings over a connection. etcd refuses more than one in 5 s.
    pub ping: Duration,
    /// For the answer to a ping.
    pub pong: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ttl: Duration::from_secs(86_400),
            renew_margin: Duration::from_secs(3600),
            renew_retry: Duration::from_secs(60),
            backoff: (Duration::from_millis(100), Duration::from_secs(1)),
            connect: Duration::from_secs(1),
            call: Duration::from_secs(5),
            ping: Duration::from_secs(10),
            pong: Duration::from_secs(5),
        }
    }
}

/// This node, as far as the store is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name, as objects name it.
    pub name: String,
    /// Its IPv4 address, by which flannel knows it.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// The MAC of its tunnel end, if it has one already. Else the one of its lease is taken up, or one is made: it stands
    /// in [`Fleet::tunnel`] then, and is to be kept.
    pub vtep_mac: Option<Mac>,
    /// flannel's `subnet.env`: a node that ran flannel keeps its subnet.
    pub subnet_env: Option<PathBuf>,
    /// Its pods get addresses of pools ([`crate::blocks`]), beside the subnet that it has for itself.
    pub pools: bool,
}

/// What the store has to tell. The latest of each sort is all that counts.
#[derive(Debug, Clone)]
pub enum StoreEvent {
    /// The nodes, all of them.
    Fleet(Arc<Fleet>),
    /// Objects that changed, for [`crate::store::Objects`].
    Objects(Vec<ObjectChange>),
    /// Everything that is wrong with keys: key and what is wrong, in order of the keys.
    Problems(Vec<(String, String)>),
    /// The store is reached, or not any more.
    Health(Health),
}

/// One object's change.
#[derive(Debug, Clone)]
pub enum ObjectChange {
    /// For [`crate::store::Objects::put`].
    Put {
        /// What names it.
        key: Key,
        /// Its text.
        source: Arc<Value>,
        /// What it means.
        object: Result<Object, Refused>,
    },
    /// For [`crate::store::Objects::remove`].
    Remove(Key),
}

impl ObjectChange {
    /// Brings it into force; true when that changed anything.
    pub fn apply(self, objects: &mut crate::store::Objects) -> bool {
        match self {
            ObjectChange::Put { key, source, object } => objects.put(key, source, object),
            ObjectChange::Remove(key) => objects.remove(&key),
        }
    }
}

/// Why the store did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread or no runtime.
    #[error("start the etcd store's thread")]
    Thread(#[source] std::io::Error),
}

/// What is asked of the engine.
enum Command {
    Request(Request, Box<dyn FnOnce(Result<Reply, RequestError>) + Send>),
    Ipam(IpamRequest, ipam::Answer),
    Stop { release: bool },
}

/// The store, running.
pub struct EtcdStore {
    shared: Arc<shared::Shared>,
    commands: mpsc::UnboundedSender<Command>,
    pods: watch::Sender<Option<Vec<PublishedPod>>>,
    thread: Option<JoinHandle<()>>,
}

impl EtcdStore {
    /// Starts following. What was kept in `state_dir` is told at once, what etcd says when it says it; `on_event` is
    /// called on the store's thread and must not wait.
    ///
    /// # Errors
    /// [`StartError`]: this does not wait for etcd, and it is no error that it is away.
    pub fn start(
        settings: EtcdSettings,
        timing: Timing,
        node: NodeFacts,
        state_dir: &Path,
        on_event: Box<dyn Fn(StoreEvent) + Send>,
    ) -> Result<EtcdStore, StartError> {
        let shared = Arc::new(shared::Shared::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let (pods, desired) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let (state, seen) = (state_dir.to_owned(), Arc::clone(&shared));
        let run = move || {
            runtime.block_on(async {
                engine::Engine::new(settings, timing, node, state, seen, on_event).run(inbox, desired).await;
            });
            // A look-up of a name may hang: nobody waits for it.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("etcd-store".into()).spawn(run);
        Ok(EtcdStore { shared, commands, pods, thread: Some(thread.map_err(StartError::Thread)?) })
    }

    /// Waits until etcd has said everything and this node has a subnet, or until `timeout`: then what was kept has to do.
    /// All [`StoreEvent`]s up to what is returned have been told before. Also with no time at all, the file of what was
    /// kept is read to its end.
    ///
    /// # Errors
    /// [`NotReady`], which says why: nothing was kept either.
    pub fn wait_first(&self, timeout: Duration) -> Result<First, NotReady> {
        self.shared.wait_first(timeout)
    }

    /// Whether etcd is reached, and how old what is known is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Publishes these pods, and no others, as attached to this node. Before the first call nothing is published or
    /// removed. Does not wait.
    pub fn publish_pods(&self, pods: Vec<PublishedPod>) {
        self.pods.send_replace(Some(pods));
    }

    /// Has a request carried out; `reply` is called on the store's thread, once. Does not wait.
    pub fn request(&self, request: Request, reply: Box<dyn FnOnce(Result<Reply, RequestError>) + Send>) {
        if let Err(mpsc::error::SendError(Command::Request(_, reply))) =
            self.commands.send(Command::Request(request, reply))
        {
            reply(Err(RequestError::Stopped));
        }
    }

    /// Has a request carried out, and waits for it.
    ///
    /// # Errors
    /// [`RequestError`]; of a request that timed out nobody knows whether it was carried out.
    pub fn call(&self, request: Request, timeout: Duration) -> Result<Reply, RequestError> {
        let (tx, rx) = sync_channel(1);
        self.request(request, Box::new(move |reply| drop(tx.try_send(reply))));
        rx.recv_timeout(timeout).unwrap_or_else(|_| Err(RequestError::late(timeout)))
    }

    /// Has a request about addresses of pools carried out; `answer` is called on the store's thread, once, unless the
    /// store is stopped meanwhile. Does not wait.
    pub fn ipam(&self, request: IpamRequest, answer: Box<dyn FnOnce(Result<IpamReply, IpamError>) + Send>) {
        if let Err(mpsc::error::SendError(Command::Ipam(_, answer))) =
            self.commands.send(Command::Ipam(request, answer))
        {
            answer(Err(IpamError::Stopped));
        }
    }

    /// Ends it, with what is known kept. With `release` the node's lease is given back, and its published pods with it;
    /// without, both stay until they expire, for a node that comes back.
    pub fn stop(mut self, release: bool) {
        self.end(release);
    }

    fn end(&mut self, release: bool) {
        let _ = self.commands.send(Command::Stop { release });
        if let Some(thread) = self.thread.take() {
            // It panicked or it ended: both are the end.
            let _ = thread.join();
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Random, below `n`; 0 where there is nothing to choose.
fn jitter(n: usize) -> usize {
    let mut bytes = [0; 8];
    // Without randomness everybody does the same, which only costs another attempt.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    // The bias of a remainder is nothing here.
    let random = usize::from_ne_bytes(bytes);
    if n == 0 { 0 } else { random % n }
}

/// A MAC of our own making: unicast, locally administered.
fn made_mac() -> Mac {
    let mut octets = [0; 6];
    let _ = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
    octets[0] = octets[0] & 0xfc | 0x02;
    Mac(octets)
}

/// The same moment by the calendar.
fn calendar(at: Instant, now: Instant) -> SystemTime {
    SystemTime::now().checked_add(at.saturating_duration_since(now)).unwrap_or(SystemTime::UNIX_EPOCH)
}
