//! The speaker's thread: its sockets and its clock.
//!
//! ```text
//!  sockets ─► Speaker ─► routes of pods ──► mailbox ──► control thread ──► tables
//!  control ─► (commands)  └► other routes ─► kernel
//! ```
//!
//! One thread, one poll. Routes go to the control thread through a mailbox in which the latest word about a prefix wins,
//! so a neighbour that flaps faster than tables are made costs no memory, and nobody waits for anybody. The thread never
//! touches a packet.

mod conns;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bgp::attr::Attributes;
use bgp::speaker::{ConnId, Event, LocalRoute, Output, Speaker};
use bgp::{FibChange, FibRoute};
use crossbeam::channel::{Receiver, Sender, TrySendError};
use ipnet::IpNet;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::conn::{self, Conn};
use super::gauges::{Gauges, MOST_NEIGHBOURS};
use super::hops::{Moved, NextHops};
use super::kernel::Kernel;
use super::mailbox::Mailbox;
use super::report;
use super::settings::{Scope, Settings};
use crate::daemon::Event as ToControl;
use crate::daemon::metrics::NeighbourSample;
use control::api::BgpQuery;

const WAKE: Token = Token(usize::MAX);
const MONITOR: Token = Token(usize::MAX - 1);
/// Connections' tokens begin here; listeners' are below.
const CONNS: usize = 1 << 10;
/// How often neighbours' numbers are told anew.
const SAMPLES: Duration = Duration::from_secs(1);
/// Priority of the thread (`nice`): below the workers, which run on the same processors.
const NICE: i32 = 10;
/// How soon a full control thread is told again.
const NAG: Duration = Duration::from_millis(10);

/// What the control thread wants.
pub(super) enum Command {
    /// Another configuration.
    Configure(Box<Settings>),
    /// These, and no others, are announced as ours.
    Announce(Vec<IpNet>),
    /// A question, and where the answer goes.
    Report(BgpQuery, super::Answer),
    /// End all sessions; answered when they are.
    Stop(Sender<()>),
}

/// The thread's state.
pub(super) struct Driver {
    speaker: Speaker,
    scope: Scope,
    poll: Poll,
    listeners: Vec<TcpListener>,
    keys: BTreeMap<IpNet, String>,
    conns: HashMap<ConnId, Conn>,
    /// Those with bytes left to read.
    ready: VecDeque<ConnId>,
    announced: Vec<IpNet>,
    /// Prefixes learned and in use.
    learned: u64,
    hops: NextHops,
    kernel: Kernel,
    mailbox: Arc<Mailbox>,
    gauges: Arc<Gauges>,
    /// Neighbours' numbers are told then.
    samples: Option<Instant>,
    /// They were told last.
    sampled: Option<Instant>,
    commands: Receiver<Command>,
    control: Sender<ToControl>,
    buffer: Vec<u8>,
    /// Neighbours whose session is up.
    up: HashSet<IpAddr>,
    stop: bool,
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) speaker: Speaker,
    pub(super) scope: Scope,
    pub(super) listeners: Vec<TcpListener>,
    /// What is announced as ours from the first message on: a neighbour that kept our routes would else drop them.
    pub(super) announced: Vec<IpNet>,
    /// Routes of before are in force until neighbours have told theirs again.
    pub(super) restarting: bool,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) commands: Receiver<Command>,
    pub(super) control: Sender<ToControl>,
}

impl Driver {
    /// A driver and what wakes it.
    ///
    /// # Errors
    /// When the kernel gives no poll.
    pub(super) fn new(parts: Parts) -> io::Result<(Driver, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let mut driver = Driver {
            speaker: parts.speaker,
            scope: parts.scope,
            poll,
            listeners: parts.listeners,
            keys: BTreeMap::new(),
            conns: HashMap::new(),
            ready: VecDeque::new(),
            announced: Vec::new(),
            learned: 0,
            hops: NextHops::new(),
            kernel: Kernel::default(),
            mailbox: parts.mailbox,
            gauges: parts.gauges,
            samples: None,
            sampled: None,
            commands: parts.commands,
            control: parts.control,
            buffer: vec![0; 64 << 10],
            up: HashSet::new(),
            stop: false,
        };
        for (i, listener) in driver.listeners.iter_mut().enumerate() {
            driver.poll.registry().register(listener, Token(i), Interest::READABLE)?;
        }
        if let Some(fd) = driver.hops.fd() {
            driver.poll.registry().register(&mut SourceFd(&fd), MONITOR, Interest::READABLE)?;
        }
        driver.set_keys();
        driver.announce(parts.announced);
        driver.kernel.take_up();
        if !parts.restarting {
            driver.kernel.sift();
        }
        Ok((driver, waker))
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        // Of a thread, on Linux. A million routes must not hold up a packet.
        if let Err(err) = rustix::process::setpriority_process(None, NICE) {
            tracing::warn!(%err, "BGP runs at the workers' priority");
        }
        let mut events = Events::with_capacity(256);
        while !self.stop {
            self.work();
            if let Err(err) = self.poll.poll(&mut events, self.patience())
                && err.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%err, "BGP has no sockets any more");
                return;
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKE => {}
                    MONITOR => self.hops.heard(now),
                    Token(at) if at < CONNS => self.accept(at, now),
                    Token(at) => {
                        let conn = ConnId((at - CONNS) as u64);
                        if event.is_writable() {
                            self.writable(conn, now);
                        }
                        if (event.is_readable() || event.is_read_closed()) && !self.ready.contains(&conn) {
                            self.ready.push_back(conn);
                        }
                    }
                }
            }
            let turns = if self.kernel.is_behind() { 0 } else { self.ready.len() };
            for _ in 0..turns {
                if let Some(conn) = self.ready.pop_front()
                    && self.read(conn, now)
                {
                    self.ready.push_back(conn);
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command, now);
            }
            self.speaker.tick(now);
        }
    }

    /// How long nothing need be done.
    fn patience(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let due = self.speaker.deadline().map(|at| at.saturating_duration_since(now));
        let nag = self.mailbox.with(|w| (!w.told && w.waits()).then_some(NAG));
        let own = [self.kernel.next(), self.hops.next(), self.samples].into_iter().flatten();
        let own = own.map(|at| at.saturating_duration_since(now));
        [due, nag].into_iter().flatten().chain(own).min()
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Configure(settings) => {
                let Settings { config, scope } = *settings;
                if let Err(err) = config.check() {
                    tracing::error!(%err, "the BGP configuration stays as it was");
                    return;
                }
                // Everything that waits was chosen under the old scope.
                self.work();
                if scope != self.scope {
                    self.sort_anew(scope);
                }
                // It was checked.
                let _ = self.speaker.configure(config, now);
                self.set_keys();
            }
            Command::Announce(nets) => self.announce(nets),
            Command::Report(query, reply) => {
                let mut report = report::answer(&self.speaker, &query, now);
                report.waiting = self.kernel.waiting();
                reply(report);
            }
            Command::Stop(done) => {
                let mut config = self.speaker.config().clone();
                config.peers.clear();
                config.dynamic.clear();
                // A configuration without peers is possible where one with them was.
                let _ = self.speaker.configure(config, now);
                self.work();
                self.kernel.clear();
                self.stop = true;
                let _ = done.send(());
            }
        }
    }

    fn announce(&mut self, nets: Vec<IpNet>) {
        for gone in self.announced.iter().filter(|net| !nets.contains(net)) {
            self.speaker.withdraw(*gone);
        }
        for net in nets.iter().filter(|net| !self.announced.contains(net)) {
            let unspecified = match net {
                IpNet::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
                IpNet::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            };
            self.speaker.announce(*net, LocalRoute { attributes: Attributes::new(unspecified) });
        }
        self.announced = nets;
    }

    /// Does what the speaker wants done.
    fn work(&mut self) {
        loop {
            self.take_outputs();
            if !self.look_at_hops() {
                break;
            }
        }
        self.gauges.learned.store(self.learned, Relaxed);
        self.kernel.flush(&mut self.hops);
        self.notify();
        self.sample();
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.speaker.output() {
            let now = Instant::now();
            match output {
                Output::Connect { conn, to, from, options } => match conn::dial(to, from, &options) {
                    Ok(made) => self.keep(conn, made, now),
                    Err(err) => {
                        tracing::debug!(%to, %err, "BGP neighbour cannot be dialled");
                        self.speaker.closed(conn, now);
                    }
                },
                Output::Close { conn, farewell } => {
                    if let Some(mut gone) = self.conns.remove(&conn) {
                        // Once: a neighbour that takes nothing more is not waited for.
                        let _ = gone.write(std::iter::once(farewell.as_slice()));
                        let _ = self.poll.registry().deregister(&mut gone.stream);
                    }
                }
                Output::Write { conn } => self.flush(conn, now),
                Output::Fib(change) => self.learn(change),
                Output::Resolve { addr } => self.hops.add(addr),
                Output::Forget { addr } => self.hops.remove(addr),
                Output::Event(event) => self.tell(event),
            }
        }
    }

    /// Tells the speaker which next hops are reached otherwise than before; true when there was one.
    fn look_at_hops(&mut self) -> bool {
        let (speaker, scope) = (&self.speaker, &self.scope);
        let learned = |net: &IpNet| {
            let route = speaker.forwarded(*net)?;
            (!scope.has(net, addrs(route))).then(|| addrs(route).collect())
        };
        let moved = self.hops.look(Instant::now(), learned);
        for Moved { hop, now, .. } in &moved {
            tracing::debug!(target: "bgp", %hop, way = ?now, "next hop");
            self.speaker.next_hop(*hop, now.map(|way| way.metric));
        }
        // Routes that stay, by another gateway or link.
        let rerouted: HashSet<IpAddr> =
            moved.iter().filter(|m| m.before.is_some() && m.now.is_some()).map(|m| m.hop).collect();
        if !rerouted.is_empty() {
            for (net, route) in self.speaker.fib() {
                if addrs(route).any(|hop| rerouted.contains(&hop)) && !self.scope.has(&net, addrs(route)) {
                    self.kernel.set(net, Some(Arc::clone(route)));
                }
            }
        }
        !moved.is_empty()
    }

    /// Tells neighbours' numbers, when it is time: something has happened, and the last time was a while ago.
    fn sample(&mut self) {
        let now = Instant::now();
        if self.sampled.is_some_and(|at| now < at + SAMPLES) {
            self.samples = self.sampled.map(|at| at + SAMPLES);
        } else {
            (self.samples, self.sampled) = (None, Some(now));
            let all = self.speaker.peers(now);
            self.gauges.tell(all.iter().take(MOST_NEIGHBOURS).map(NeighbourSample::from).collect());
        }
    }

    /// Keys of neighbours that will dial, on the listeners of their family.
    fn set_keys(&mut self) {
        self.gauges.neighbours.store(self.speaker.config().peers.len() as u64, Relaxed);
        let wanted: BTreeMap<IpNet, String> =
            self.speaker.listen_keys().map(|(net, password)| (net, password.0.clone())).collect();
        let old = self.keys.keys().filter(|net| !wanted.contains_key(net)).map(|net| (*net, ""));
        let new = wanted.iter().filter(|(net, key)| self.keys.get(net) != Some(key));
        for (net, key) in old.chain(new.map(|(net, key)| (*net, key.as_str()))) {
            let same_family =
                |l: &&TcpListener| l.local_addr().is_ok_and(|a| a.is_ipv6() == matches!(net, IpNet::V6(_)));
            for listener in self.listeners.iter().filter(same_family) {
                match crate::sys::tcp::set_md5(listener, net, key.as_bytes()) {
                    Err(err) if !key.is_empty() => {
                        tracing::error!(%net, %err, "TCP MD5 key for BGP neighbours");
                    }
                    _ => {}
                }
            }
        }
        self.keys = wanted;
    }

    /// A prefix is reached otherwise than before.
    fn learn(&mut self, change: FibChange) {
        let FibChange { net, before, route } = change;
        self.learned = self.learned + u64::from(route.is_some()) - u64::from(before.is_some());
        let ours =
            |route: &Option<Arc<FibRoute>>| route.as_ref().map(|route| self.scope.has(&net, addrs(route)));
        let (was, is) = (ours(&before), ours(&route));
        if was == Some(false) && is != Some(false) {
            self.kernel.set(net, None);
        }
        match is {
            Some(true) => self.post(net, route.map(|route| addrs(&route).collect())),
            Some(false) => {
                if was == Some(true) {
                    self.post(net, None);
                }
                self.kernel.set(net, route);
            }
            None if was == Some(true) => self.post(net, None),
            None => {}
        }
    }

    fn post(&self, net: IpNet, hops: Option<Vec<IpAddr>>) {
        self.mailbox.with(|w| drop(w.routes.insert(net, hops)));
    }

    /// The scope changes: routes go over from the kernel to the data path, and the other way.
    fn sort_anew(&mut self, scope: Scope) {
        for (net, route) in self.speaker.fib() {
            let (was, is) = (self.scope.has(&net, addrs(route)), scope.has(&net, addrs(route)));
            if was != is {
                self.kernel.set(net, (!is).then(|| Arc::clone(route)));
                self.post(net, is.then(|| addrs(route).collect()));
            }
        }
        self.scope = scope;
    }

    /// Tells the control thread that there is something in the mailbox.
    fn notify(&self) {
        let tell = self.mailbox.with(|w| !w.told && w.waits());
        if tell {
            match self.control.try_send(ToControl::Learned) {
                Ok(()) => self.mailbox.with(|w| w.told = w.waits()),
                // Told again soon.
                Err(TrySendError::Full(_)) => {}
                // The process is ending.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.note(event);
        self.gauges.established.store(self.up.len() as u64, Relaxed);
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Up { peer } => {
                self.up.insert(peer);
                tracing::info!(target: "bgp", %peer, "session up");
            }
            Event::Down { peer, reason, graceful } => {
                self.up.remove(&peer);
                tracing::warn!(target: "bgp", %peer, %reason, graceful, "session down");
            }
            Event::MaxPrefixesNear { peer, count } => {
                tracing::warn!(target: "bgp", %peer, count, "nears its limit of prefixes");
            }
            Event::Refused { remote, why } => tracing::debug!(target: "bgp", %remote, %why, "refused"),
            Event::RestartOver => {
                tracing::info!(target: "bgp", "all routes are there again");
                self.kernel.sift();
                self.mailbox.with(|w| w.settled = true);
            }
        }
    }
}

/// A route's next hops.
fn addrs(route: &FibRoute) -> impl Iterator<Item = IpAddr> + '_ {
    route.hops.iter().map(|hop| hop.addr)
}
