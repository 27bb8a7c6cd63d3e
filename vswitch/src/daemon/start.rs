//! Starting the switch process: check everything, take up what the keeper held, then make what is missing.
//!
//! Whatever can be wrong with the configuration, the state directory or the sockets is found before the first interface
//! or rule is made; when a later step fails on a fresh start, what was made is removed again.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use control::attachments::{Attachment, StateDir, boot_id};
use control::config::{Config, FastPath, Ipam as IpamConfig};
use control::fleet::Fleet;
use control::ipam::Ipam;
use crossbeam::channel::{Sender, bounded};
use policy::conntrack::{Opener, Tuple};

use super::attach::{self, Opened};
use super::bgp::Bgp;
use super::guard::Guard;
use super::keeper::RESTARTS;
use super::keeper_link::{KeeperLink, names};
use super::paths::Paths;
use super::policy_report::Told;
use super::pools::{Pools, announced};
use super::upkeep::Upkeep;
use super::uplinks::{self, Uplinks};
use super::{Daemon, DaemonError, Event, chain, fleet, masquerade, metrics, node, pods, serve, watch};
use crate::conntrack::{self, Conntrack};
use crate::counters::port_stats;
use crate::datapath::DatapathOptions;
use crate::hand::{self, Hand, Left, Sizes};
use crate::snapshot::{Port, PortKind};
use crate::switch::Switch;
use crate::sys::tun::{OFFLOAD_PORT, Tap, VNET_LEN};
use crate::worker::WorkerOptions;

/// Runs the switch process until it is told to end.
///
/// # Errors
/// What could not be set up; nothing half-made is left behind.
pub fn run(config: &Path) -> Result<(), DaemonError> {
    let (tx, events) = bounded(1024);
    watch::signals(&tx)?;
    let (mut daemon, socket) = start(config, KeeperLink::new(keeper_socket()), &tx)?;
    if daemon.serve(&events)? {
        // A stop on request: nobody will answer here until the next start.
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

/// Sets everything up; gives the control thread's state, and the control socket.
pub(super) fn start(
    path: &Path,
    keeper: KeeperLink,
    events: &Sender<Event>,
) -> Result<(Daemon, std::path::PathBuf), DaemonError> {
    let text = std::fs::read_to_string(path)
        .map_err(|err| DaemonError::ReadConfig { path: path.to_owned(), err })?;
    let machine = node::machine().map_err(DaemonError::Machine)?;
    let config =
        Config::load(&text, &machine).map_err(|err| DaemonError::Config { path: path.to_owned(), err })?;
    let name = config.node.uplink.clone();
    let uplink = machine.links.get(&name).ok_or(DaemonError::Uplink { name })?;
    let state = StateDir::open(&config.node.state_dir)?;
    let mut guard = Guard::open(&config.node.name, config.manifests(), &config.node.state_dir);
    let (etcd, fleet) = Daemon::start_store(&config, &state, &mut guard, events)?;
    let (mtu, least) = (fleet.pod_mtu(&config, uplink.mtu), fleet.least_mtu());
    if mtu < least {
        return Err(DaemonError::Mtu { uplink: config.node.uplink.clone(), have: uplink.mtu, mtu, least });
    }
    let mut held = keeper.take_all().map_err(DaemonError::Keeper)?;
    let restored = !held.is_empty();
    let vtep_mac = fleet::vtep_mac(&fleet, &state)?;
    let mut loaded = state.load()?;
    if !loaded.problems.is_empty() {
        return Err(loaded.problems.swap_remove(0).into());
    }
    let mut ipam = Ipam::new(&fleet.pod_cidrs);
    let boot = boot_id().map_err(|err| DaemonError::Thread { what: "with this machine's boot id", err })?;
    let mut pools = (config.ipam == IpamConfig::Pools).then(|| Pools::open(&config.node.state_dir));
    let alive = sift(&state, loaded.attachments, &boot, pools.as_mut())?;
    for a in &alive {
        let restore = ipam.restore(&a.id(), &a.addresses);
        restore.map_err(|err| DaemonError::Restore {
            id: Box::new(a.id()),
            dir: config.node.state_dir.clone(),
            err: Box::new(err),
        })?;
    }
    let facts = fleet::facts(&config, &fleet, vtep_mac, u16::try_from(mtu).unwrap_or(u16::MAX));
    let former = fleet::former(&fleet.pod_cidrs, alive.iter().flat_map(|a| &a.addresses));
    let metrics = metrics_listener(&config, restored)?;
    let needs = uplinks::needs(&fleet, &config.node);
    let mut uplinks = Uplinks::new(&config.node, events.clone());
    uplinks.take_up(&needs, &keeper, &mut held)?;
    uplinks.set(&needs, &keeper)?;
    let socket = config.node.socket();
    let listener = match held.remove(names::CONTROL) {
        Some(fd) if socket.exists() => serve::adopt(fd),
        // Without its name, or with another run-dir than before, nobody would find the one that was kept.
        _ => serve::bind(&socket)?,
    };
    let undo =
        Undo { armed: !restored, socket: socket.clone(), host: !machine.links.contains_key(node::HOST_IF) };
    keeper.put(names::CONTROL, &listener).map_err(DaemonError::Keeper)?;

    let host = node::open_host_tap(held.remove(names::HOST))?;
    keeper.put(names::HOST, &host).map_err(DaemonError::Keeper)?;
    if !config.network.masquerade {
        masquerade::remove()?;
    }
    let announced = match &pools {
        Some(_) => announced(&fleet, alive.iter().flat_map(|a| &a.addresses)),
        None => fleet.pod_cidrs.iter().chain(&former).copied().collect(),
    };
    let bgp = Bgp::start(&config, &fleet, announced, &keeper, &mut held, events.clone())?;
    let stored = Arc::new(fleet);
    let fleet = bgp.as_ref().map_or_else(|| Arc::clone(&stored), |bgp| Arc::new(bgp.onto(&stored)));
    let conntrack = Arc::new(take_conntrack(&keeper, &mut held, &fleet, &alive)?);
    guard.set_node_addresses(fleet::host_addresses(&facts));
    let takes = |path| !config.node.without.contains(&path);
    let options = WorkerOptions {
        datapath: DatapathOptions {
            merge: takes(FastPath::Merging),
            trains: takes(FastPath::Trains),
            // They are put together by what joins packets.
            slices: takes(FastPath::Slices) && takes(FastPath::Merging),
            ..DatapathOptions::default()
        },
        polling: takes(FastPath::Polling),
        priority: takes(FastPath::Priority),
    };
    let parts = uplinks.deal()?;
    let hands = (0..parts.len()).map(|n| take_hand(&keeper, &mut held, n)).collect::<Result<_, _>>()?;
    let mut daemon = Daemon {
        switch: Switch::start(parts, hands, options, conntrack)?,
        uplinks,
        whole: false,
        stored,
        paths: None,
        path_mtus: HashMap::new(),
        fleet: Arc::clone(&fleet),
        bgp,
        etcd,
        pools,
        former,
        masqueraded: None,
        guard,
        logging: false,
        told: Told::default(),
        swept: 0,
        config,
        state,
        ipam,
        keeper,
        facts,
        peers: Vec::new(),
        host: None,
        ports: Vec::new(),
        origin: None,
        attached: BTreeMap::new(),
        boot_id: boot,
        started: Instant::now(),
        restarts: std::env::var(RESTARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0),
        gso_write: true,
        waiting: Some(Vec::new()),
        problems: BTreeMap::new(),
        upkeep: Upkeep::new(Instant::now()),
        uplink: None,
    };
    daemon.set_fleet(fleet)?;
    // Needs the interface up; a kernel that refuses gets single packets (performance over nothing at all).
    daemon.gso_write = crate::port::tap::probe_gso_write(&host).unwrap_or(true);
    // What the store told with its first word: policy is in force before a pod is taken up.
    daemon.heed_objects();
    daemon.plug_host(host)?;
    daemon.take_up(alive, &mut held)?;
    daemon.drop_unknown(&held);
    daemon.begin()?;
    daemon.publish_pods();
    daemon.give_back_noted();
    daemon.tell_subnet();
    daemon.level_mtu();
    // Whatever changes from now on is heard of; what has changed meanwhile is seen by the first look.
    watch::uplink(&daemon.config.node.uplink, events.clone())?;
    if let Some(dir) = daemon.config.manifests() {
        watch::manifests(dir, events.clone())?;
    }
    daemon.look_at_uplink();
    let calls = events.clone();
    serve::start(listener, calls).map_err(|err| DaemonError::Thread { what: "the control socket", err })?;
    if let Some(listener) = metrics {
        let started = metrics::start(listener, events.clone());
        started.map_err(|err| DaemonError::Thread { what: "the metrics listener", err })?;
    }
    if daemon.config.network.masquerade {
        watch::nftables(events.clone())?;
    }
    if daemon.config.node.probe_peers {
        let started = Paths::start(events.clone());
        daemon.paths = Some(started.map_err(|err| DaemonError::Thread { what: "the peers' probe", err })?);
        daemon.watch_paths();
    }
    watch::keeper(&daemon.keeper, events.clone())?;
    daemon.keeper.ready().map_err(DaemonError::Keeper)?;
    undo.disarm();
    tracing::info!(
        node = daemon.config.node.name,
        tunnel = daemon.fleet.tunnel.kind(),
        mtu,
        pods = daemon.attached.len(),
        peers = daemon.peers.len(),
        "forwarding"
    );
    Ok((daemon, socket))
}

/// The metrics listener, where one is wanted. Pods that are running already do not pay for its trouble.
fn metrics_listener(config: &Config, restored: bool) -> Result<Option<TcpListener>, DaemonError> {
    match config.metrics.map(metrics::bind) {
        Some(Err(err)) if restored => {
            tracing::error!(%err, "going on without metrics");
            Ok(None)
        }
        other => Ok(other.transpose()?),
    }
}

/// The connection table the keeper held, or a new one. Flows stay with the pod or peer that has their opener's address
/// now; what is nobody's any more goes.
fn take_conntrack(
    keeper: &KeeperLink,
    held: &mut BTreeMap<String, OwnedFd>,
    fleet: &Fleet,
    alive: &[Attachment],
) -> Result<Conntrack, DaemonError> {
    // Ports are numbered in the order they are taken up, behind the host's.
    let pods: BTreeMap<u128, u32> = (1..)
        .zip(alive)
        .flat_map(|(port, a)| a.addresses.iter().map(move |addr| (encap::from_ip(*addr), port)))
        .collect();
    let whose = |opener: Opener, tuple: &Tuple| {
        if let Some(port) = pods.get(&tuple.src) {
            return Some(Opener::Port(*port));
        }
        let src = encap::to_ip(tuple.src);
        let known = fleet.peers.iter().any(|p| p.pod_cidrs.iter().any(|net| net.contains(&src)));
        match (known, opener) {
            (true, _) => Some(conntrack::remote(tuple.src)),
            (false, Opener::Port(0)) => Some(opener),
            (false, _) => None,
        }
    };
    let seeds = crate::switch::random_seed();
    if let Some(memory) = held.remove(names::CONNTRACK) {
        match conntrack::open(&memory, seeds, whose) {
            Ok((table, adopted)) => {
                tracing::info!(flows = adopted.kept, dropped = adopted.dropped, "connections taken over");
                return Ok(table);
            }
            Err(err) => tracing::warn!(err = %chain(&err), "the kept connection table is of no use"),
        }
    }
    let memory = conntrack::memory()?;
    keeper.put(names::CONNTRACK, &memory).map_err(DaemonError::Keeper)?;
    Ok(conntrack::open(&memory, seeds, |_, _| None)?.0)
}

/// A worker's frames: those the keeper held, with what is still in them, or new ones.
fn take_hand(
    keeper: &KeeperLink,
    held: &mut BTreeMap<String, OwnedFd>,
    worker: usize,
) -> Result<(Hand, Left), DaemonError> {
    let (name, sizes) = (format!("{}{worker}", names::HAND), Sizes::default());
    if let Some(memory) = held.remove(&name) {
        match Hand::take(&memory, sizes) {
            Ok(taken) => return Ok(taken),
            Err(err) => tracing::warn!(worker, err = %chain(&err), "the kept frames are of no use"),
        }
    }
    let memory = hand::memory(sizes).map_err(DaemonError::Frames)?;
    keeper.put(&name, &memory).map_err(DaemonError::Keeper)?;
    Hand::take(&memory, sizes).map_err(DaemonError::Frames)
}

/// Takes back what a failed fresh start made.
struct Undo {
    armed: bool,
    socket: std::path::PathBuf,
    host: bool,
}

impl Undo {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let _ = std::fs::remove_file(&self.socket);
        let _ = masquerade::remove();
        if self.host
            && let Ok(mut nl) = crate::sys::netlink::Netlink::open()
            && let Ok(link) = nl.link(node::HOST_IF)
        {
            let _ = nl.delete_link(link.index);
        }
    }
}

/// The keeper's socket, when there is one at its place.
fn keeper_socket() -> Option<OwnedFd> {
    crate::sys::process::inherited(super::keeper::SWITCH_FD).ok()
}

/// Keeps the attachments whose namespace is still there; forgets the others.
fn sift(
    state: &StateDir,
    all: Vec<Attachment>,
    boot: &str,
    mut pools: Option<&mut Pools>,
) -> Result<Vec<Attachment>, DaemonError> {
    let mut alive = Vec::with_capacity(all.len());
    for a in all {
        if a.boot_id == boot && attach::reopen_netns(&a).is_ok() {
            alive.push(a);
        } else {
            tracing::info!(id = %a.id(), pod = %a.pod, "its network namespace is gone: its addresses are free again");
            if let Some(pools) = &mut pools {
                pools.note(&a);
            }
            state.remove(&a.id())?;
        }
    }
    Ok(alive)
}

impl Daemon {
    fn plug_host(&mut self, tap: Tap) -> Result<(), DaemonError> {
        let what = "the host's interface";
        let halves = pods::halves(Opened::Tap(tap), self.gso_write)
            .map_err(|err| DaemonError::Thread { what, err })?;
        self.ports.push(Some(Arc::new(Port {
            id: 0,
            name: node::HOST_IF.to_owned(),
            kind: PortKind::Host,
            mac: node::HOST_MAC,
            v4: None,
            v6: None,
            mtu: self.facts.mtu,
            tx: halves.tx,
            stats: port_stats(self.switch.workers()),
        })));
        Ok(self.read(0, (halves.rx, halves.fd))?)
    }

    /// Takes up the pods of before: by the descriptors kept, else by opening their persistent interfaces again.
    fn take_up(
        &mut self,
        alive: Vec<Attachment>,
        held: &mut BTreeMap<String, OwnedFd>,
    ) -> Result<(), DaemonError> {
        for a in alive {
            let id = a.id();
            let kept = held.remove(&pods::keeper_name(&id)).and_then(|fd| self.adopt(&a, fd));
            let opened = match kept {
                Some(opened) => Ok(opened),
                None => {
                    attach::reopen_netns(&a).and_then(|ns| attach::reopen(&ns, &a, self.config.node.offload))
                }
            };
            let plugged = match opened {
                Ok(opened) => self.plug(&id, a, opened).map_err(|e| e.to_string()),
                Err(e) => Err(chain(&e)),
            };
            if let Err(err) = plugged {
                // Its interface is gone: an ADD that never finished, or a pod that is ending.
                tracing::warn!(%id, err, "cannot be taken up again; forgotten");
                if let Err(err) = self.detach(&id) {
                    tracing::error!(%id, %err, "forget");
                }
            }
        }
        Ok(())
    }

    fn adopt(&self, a: &Attachment, fd: OwnedFd) -> Option<Opened> {
        if !self.config.node.offload {
            return Some(Opened::Plain(fd));
        }
        match Tap::adopt(fd, VNET_LEN, OFFLOAD_PORT) {
            Ok(tap) => Some(Opened::Tap(tap)),
            Err(err) => {
                tracing::warn!(id = %a.id(), err = %chain(&err), "the kept descriptor is of no use");
                None
            }
        }
    }

    /// Lets the keeper close what nobody has a record of.
    fn drop_unknown(&self, held: &BTreeMap<String, OwnedFd>) {
        for name in held.keys() {
            tracing::info!(name, "kept descriptor without a use: closed");
            if let Err(err) = self.keeper.forget(name) {
                tracing::error!(name, %err, "let the keeper forget");
            }
        }
    }
}
