//! The control thread: it owns what is known (configuration, addresses, attachments) and is the only one to change
//! what the workers see.
//!
//! ```text
//!  vswitch-cni, vsctl ── control socket ── client threads ──► events ──► control thread ──► snapshot ──► workers
//!  signals, keeper, workers' notices ─────────────────────────┘   │
//!                                      state-dir, keeper, netlink ◄┘
//! ```
//!
//! Everything here may block and allocate; nothing here touches a packet. A request is carried out whole before the
//! next, so there are no locks and no half-made attachments. State is written before what it describes is made, and
//! removed after: whatever moment the process dies, the next start finds out what to keep and what to clear away.

pub mod attach;
mod bgp;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(not(feature = "etcd"))]
#[path = "without_etcd.rs"]
mod etcd;
mod fleet;
mod guard;
pub mod keeper;
pub mod keeper_link;
mod kept;
pub mod masquerade;
pub mod metrics;
mod mtu;
pub mod node;
mod paths;
mod pods;
mod policy_report;
mod pools;
mod report;
pub mod serve;
mod settings;
mod start;
mod stored;
mod trace;
pub mod uninstall;
mod upkeep;
mod uplinks;
mod watch;
mod whole;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use control::api::{ApiError, AttachmentId, Request, code};
use control::attachments::{Attachment, StateDir, StateError};
use control::config::{Config, LoadError};
use control::fleet::Fleet;
use control::ipam::Ipam;
use control::store::Changed;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use ipnet::IpNet;
use serde_json::Value;

use crate::compile::{NodeFacts, Origin, PeerFacts, compile};
use crate::daemon::keeper_link::KeeperLink;
use crate::daemon::serve::{Call, ServeError};
use crate::snapshot::{Port, Snapshot};
use crate::switch::{Switch, SwitchError};
use crate::sys::netlink::NetlinkError;

pub use fleet::peers;
pub use start::run;

/// The daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration file cannot be read.
    #[error("read configuration {}", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The configuration is wrong.
    #[error("configuration {}:\n{err}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, line by line.
        err: LoadError,
    },
    /// The uplink interface is missing.
    #[error("node.uplink = {name:?}: no such interface on this machine")]
    Uplink {
        /// Its name.
        name: String,
    },
    /// The MTU left for pods is too small.
    #[error("uplink {uplink} has MTU {have}, which leaves pods {mtu}: they need at least {least}")]
    Mtu {
        /// The uplink.
        uplink: String,
        /// Its MTU.
        have: u32,
        /// What is left.
        mtu: u32,
        /// What is needed.
        least: u32,
    },
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// An attachment's addresses cannot be taken over.
    #[error("attachment {id}: {err}; remove its file from {}/ports and restart the pod", dir.display())]
    Restore {
        /// The attachment.
        id: Box<AttachmentId>,
        /// The state directory.
        dir: PathBuf,
        /// Why.
        err: Box<control::ipam::IpamError>,
    },
    /// The kernel's state could not be read.
    #[error("read the machine's interfaces")]
    Machine(#[source] NetlinkError),
    /// The host's side failed.
    #[error(transparent)]
    Node(#[from] node::NodeError),
    /// nftables failed.
    #[error(transparent)]
    Masquerade(#[from] masquerade::MasqueradeError),
    /// The store.
    #[error(transparent)]
    Etcd(#[from] etcd::EtcdError),
    /// BGP could not be started.
    #[error(transparent)]
    Bgp(#[from] bgp::BgpError),
    /// The tunnel's sockets failed.
    #[error(transparent)]
    Uplinks(#[from] uplinks::UplinkError),
    /// The control socket failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The metrics listener failed.
    #[error(transparent)]
    Metrics(#[from] metrics::MetricsError),
    /// The host's interface was deleted.
    #[error("{} was deleted", node::HOST_IF)]
    HostGone,
    /// The connection table failed.
    #[error(transparent)]
    Conntrack(#[from] crate::conntrack::ConntrackError),
    /// A worker failed.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The keeper is gone.
    #[error("talk to the keeper")]
    Keeper(#[source] io::Error),
    /// Memory for packets cannot be had.
    #[error("memory for packets")]
    Frames(#[source] io::Error),
    /// A thread or signal handler could not be made.
    #[error("start {what}")]
    Thread {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// What wakes the control thread.
pub enum Event {
    /// A request.
    Call(Box<Call>),
    /// The metrics listener is asked; the answer goes here.
    Scrape(Sender<metrics::Scrape>),
    /// The uplink may have changed.
    Uplink,
    /// The store's objects may have changed.
    Objects(Changed),
    /// The store has told something.
    Store,
    /// Routes have been learned or lost.
    Learned,
    /// Somebody changed our nftables table, or we did.
    Nftables,
    /// The ways to these peers take packets of another size, bytes.
    Paths(Vec<(IpAddr, u16)>),
    /// Super-frames may, or may no longer, leave whole through the uplink TAP.
    Whole(bool),
    /// TERM or INT.
    Stop,
    /// HUP: another switch takes over.
    MakeWay,
    /// The keeper's socket closed.
    KeeperGone,
}

/// An attached pod.
struct Attached {
    record: Attachment,
    port: u32,
}

/// The control thread's state.
pub struct Daemon {
    config: Config,
    state: StateDir,
    ipam: Ipam,
    keeper: KeeperLink,
    switch: Switch,
    facts: NodeFacts,
    guard: guard::Guard,
    /// A Log rule applies somewhere.
    logging: bool,
    told: policy_report::Told,
    /// Where sweeping the connection table goes on.
    swept: u32,
    /// What the store says of the nodes.
    stored: Arc<Fleet>,
    /// The same with what was learned by BGP: in force.
    fleet: Arc<Fleet>,
    bgp: Option<bgp::Bgp>,
    etcd: Option<etcd::Etcd>,
    /// Addresses come from pools; none = from the node's own ranges.
    pools: Option<pools::Pools>,
    peers: Vec<Arc<PeerFacts>>,
    /// The host's side as it was set up last.
    host: Option<node::Plan>,
    /// Addresses of pods outside the node's ranges, which were others when they were attached.
    former: Vec<IpNet>,
    /// The tunnel's sockets.
    uplinks: uplinks::Uplinks,
    /// Super-frames may leave whole through the uplink TAP.
    whole: bool,
    /// The thread that asks peers, unless the configuration forbids it.
    paths: Option<paths::Paths>,
    /// Sizes of packets that the ways to peers take, where less than the uplink's.
    path_mtus: HashMap<IpAddr, u16>,
    /// The ranges as the nftables table has them.
    masqueraded: Option<masquerade::Ranges>,
    ports: Vec<Option<Arc<Port>>>,
    /// What the tables in force were made from, policy aside.
    origin: Option<Origin>,
    attached: BTreeMap<AttachmentId, Attached>,
    boot_id: String,
    started: Instant,
    /// How many switches the keeper started before this one.
    restarts: u64,
    /// This kernel takes super-frames at a TAP.
    gso_write: bool,
    /// While starting: readers that wait for the first tables, so that a restart never forwards by half of them.
    waiting: Option<Vec<(u32, pods::Reader)>>,
    /// What keeps the node from being ready, by subject.
    problems: BTreeMap<&'static str, String>,
    upkeep: upkeep::Upkeep,
    /// The uplink when last looked at; none = never, or gone.
    uplink: Option<mtu::Uplink>,
}

impl Daemon {
    /// Serves events until told to end; true when nobody is to take over.
    fn serve(&mut self, events: &Receiver<Event>) -> Result<bool, DaemonError> {
        loop {
            let bgp = self.bgp.as_ref().and_then(bgp::Bgp::next);
            let sooner = self.next_events().into_iter().chain(self.guard.next()).chain(bgp);
            let next = sooner.fold(self.upkeep.next(), Instant::min);
            match events.recv_deadline(next) {
                Ok(Event::Call(call))
                    if matches!(
                        call.request,
                        Request::Apply { .. } | Request::Get { .. } | Request::Delete { .. }
                    ) =>
                {
                    self.ask_store(call);
                }
                Ok(Event::Call(call)) if matches!(call.request, Request::Bgp { .. }) => {
                    if let Call { request: Request::Bgp { query }, reply } = *call {
                        self.ask_bgp(query, reply);
                    }
                }
                Ok(Event::Call(call)) if matches!(call.request, Request::Ipam { .. }) => {
                    if let Call { request: Request::Ipam { query }, reply } = *call {
                        self.ask_ipam(query, reply);
                    }
                }
                Ok(Event::Call(call)) if self.pools.is_some() && matches!(call.request, Request::Add(_)) => {
                    if let Call { request: Request::Add(a), reply } = *call {
                        self.add_from_pools(a, reply);
                    }
                }
                Ok(Event::Call(call)) => {
                    let answer = self.answer(call.request);
                    // A client that left does not want its answer.
                    let _ = call.reply.send(answer);
                }
                Ok(Event::Scrape(reply)) => {
                    let _ = reply.send(self.scrape());
                }
                Ok(Event::Uplink) => self.look_at_uplink(),
                // Looked at below, whatever woke us.
                Ok(Event::Store) => {}
                Ok(Event::Learned) => self.take_learned()?,
                Ok(Event::Objects(changed)) => self.reload_objects(&changed)?,
                Ok(Event::Whole(whole)) => {
                    self.whole = whole;
                    self.peers.iter_mut().for_each(|p| Arc::make_mut(p).whole = whole);
                    self.publish()?;
                }
                Ok(Event::Nftables) => self.restore_masquerade(),
                Ok(Event::Paths(changed)) => self.follow_paths(changed)?,
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.guard.finish();
                    if let Some(bgp) = &mut self.bgp {
                        bgp.stop(&self.config);
                    }
                    if let Some(etcd) = self.etcd.take() {
                        etcd.stop();
                    }
                    return Ok(true);
                }
                Ok(Event::MakeWay) => {
                    self.guard.finish();
                    return Ok(false);
                }
                Ok(Event::KeeperGone) => {
                    return Err(DaemonError::Keeper(io::ErrorKind::BrokenPipe.into()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.heed_store()?;
            self.drain_events();
            self.guard.keep();
            if let Some(bgp) = &mut self.bgp {
                bgp.keep(&self.config);
            }
            self.look_after()?;
        }
    }

    fn answer(&mut self, request: Request) -> Value {
        match request {
            Request::Add(a) => reply(self.add(&a)),
            Request::Del(a) => reply(self.del(&a)),
            Request::Check(a) => reply(self.check(&a)),
            Request::Gc(gc) => reply(self.gc(&gc)),
            Request::Ready => reply(self.ready()),
            Request::Status => serve::ok(self.status()),
            Request::Ports => serve::ok(self.port_infos()),
            Request::Routes => serve::ok(self.route_infos()),
            Request::Peers => serve::ok(self.peer_infos()),
            Request::Drops => serve::ok(self.drop_infos()),
            Request::Flows => serve::ok(self.flow_infos()),
            Request::Policy { pod } => serve::ok(self.policy_report(pod.as_deref())),
            Request::Events { after } => serve::ok(self.event_report(after)),
            // Answered by whoever is asked: see `ask_store`, `ask_bgp` and `ask_ipam`.
            Request::Apply { .. }
            | Request::Get { .. }
            | Request::Delete { .. }
            | Request::Bgp { .. }
            | Request::Ipam { .. } => serve::error(code::INTERNAL, "not here"),
            Request::Trace(t) => reply(self.trace(&t)),
            Request::Config => serve::ok(control::api::ConfigReport { toml: self.config.to_toml() }),
        }
    }

    /// Compiles and publishes what is known now; returns when it is in force everywhere.
    fn publish(&mut self) -> Result<(), SwitchError> {
        if self.waiting.is_some() {
            return Ok(());
        }
        let (node, peers, ports) = (&self.facts, &self.peers, &self.ports);
        let mut snapshot = match &self.origin {
            Some(origin) if origin.is(node, peers, ports) => Snapshot::clone(&self.switch.snapshot()),
            _ => {
                self.origin = Some(Origin::new(node, peers, ports));
                compile(node, peers, ports)
            }
        };
        snapshot.policy = Arc::clone(self.guard.compiled());
        snapshot.guards = self.guard.of_ports(&self.ports);
        self.switch.publish(snapshot).map(|_| ()).inspect_err(|_| self.origin = None)
    }

    /// Compiles policy for the pods there are; at the start only once, when all are known ([`Daemon::begin`]).
    fn compile_policy(&mut self) {
        if self.waiting.is_some() {
            return;
        }
        self.guard.compile(self.attached.values().map(|a| (&a.record.pod, a.record.addresses.as_slice())));
        self.logging = self.guard.logs();
    }

    /// The store's objects as they are now, in force everywhere when this returns.
    fn reload_objects(&mut self, changed: &Changed) -> Result<(), DaemonError> {
        if !self.guard.reload(changed) {
            return Ok(());
        }
        if let Some(fleet) = self.guard.fleet(&self.config)
            && fleet != *self.stored
        {
            self.set_stored(Arc::new(fleet))?;
        }
        Ok(self.bring_objects_into_force()?)
    }

    fn problem_list(&self) -> Vec<String> {
        self.problems.values().cloned().collect()
    }

    fn ready(&self) -> Result<(), ApiError> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ApiError::new(code::NOT_AVAILABLE, self.problem_list().join("; ")))
        }
    }
}

fn reply<T: serde::Serialize>(result: Result<T, ApiError>) -> Value {
    match result {
        Ok(value) => serve::ok(value),
        Err(e) => serde_json::json!({ "error": e }),
    }
}

/// An error and its causes on one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
