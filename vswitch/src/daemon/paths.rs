//! The ways to the peers: round trip, loss and path MTU, asked by ICMP echo.
//!
//! ```text
//!  control thread ── targets ──► path thread ── echo requests with DF ──► peers (any host answers)
//!         ▲  Event::Paths (an MTU changed)  │
//!         └───────── shared table ◄─────────┘  read for `vsctl peers` and metrics
//! ```
//!
//! One thread for all peers, apart from workers. It sends at most [`RATE`] requests a second, spread evenly, so a large
//! fleet is asked more slowly. What it finds decides nothing about routes; only the largest packet toward a peer follows.
//! Answers are believed when they carry this process's secret, and what routers say when it quotes a request under way.

mod echo;
mod search;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{Event, chain};
use echo::{EchoSocket, Heard, Sent};
pub(super) use search::Health;
use search::Path;

/// Requests a second, all peers together.
const RATE: u64 = 200;
/// Between two rounds of a peer in a small fleet, milliseconds.
const INTERVAL: u64 = 3000;
/// Every IPv4 path takes this much as far as a search goes, and every IPv6 path (RFC 8200 section 5).
const BASE_V4: u16 = 576;
const BASE_V6: u16 = 1280;

/// A peer to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its address.
    pub(super) addr: IpAddr,
    /// Ours, of the same family.
    pub(super) from: IpAddr,
    /// MTU of the uplink, bytes.
    pub(super) max: u16,
}

/// What is known, by the peer's address.
type Table = Arc<Mutex<HashMap<IpAddr, Health>>>;

/// What became of the targets: of thousands, few at a time.
struct Change {
    gone: Vec<Target>,
    new: Vec<Target>,
}

/// The control thread's end.
pub(super) struct Paths {
    targets: Sender<Change>,
    wake: Arc<OwnedFd>,
    table: Table,
    told: Vec<Target>,
}

impl Paths {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(events: Sender<Event>) -> io::Result<Paths> {
        let (targets, told) = unbounded();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let table = Table::default();
        let watcher = Watcher {
            wake: Arc::clone(&wake),
            told,
            events,
            table: Arc::clone(&table),
            started: Instant::now(),
            secret: crate::switch::random_seed(),
            sockets: Vec::new(),
            peers: Vec::new(),
            by_addr: HashMap::new(),
            flights: HashMap::new(),
            due: BinaryHeap::new(),
            next_number: 0,
            free_at: 0,
        };
        std::thread::Builder::new().name("paths".into()).spawn(move || watcher.run())?;
        Ok(Paths { targets, wake, table, told: Vec::new() })
    }

    /// Asks these from now on, which are in order of their names.
    pub(super) fn watch(&mut self, targets: Vec<Target>) {
        let missing = |of: &[Target], from: &[Target]| -> Vec<Target> {
            let is_there =
                |t: &&Target| from.binary_search_by(|f| f.name.cmp(&t.name)).is_ok_and(|at| from[at] == **t);
            of.iter().filter(|t| !is_there(t)).cloned().collect()
        };
        let (gone, new) = (missing(&self.told, &targets), missing(&targets, &self.told));
        if gone.is_empty() && new.is_empty() {
            return;
        }
        self.told = targets;
        // The thread ends with this process only.
        let _ = self.targets.send(Change { gone, new });
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// What is known of a peer.
    pub(super) fn health(&self, addr: IpAddr) -> Option<Health> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).get(&addr).copied()
    }
}

struct Peer {
    target: Target,
    path: Path,
    known: Health,
    /// When it is in [`Watcher::due`] next; other entries of it are stale.
    due: Option<u64>,
}

/// The thread's state.
struct Watcher {
    wake: Arc<OwnedFd>,
    told: Receiver<Change>,
    events: Sender<Event>,
    table: Table,
    started: Instant,
    secret: [u64; 2],
    sockets: Vec<(IpAddr, EchoSocket)>,
    /// None = the place is free.
    peers: Vec<Option<Peer>>,
    /// Their places.
    by_addr: HashMap<IpAddr, usize>,
    /// Requests under way, by number: whose, how large, and when.
    flights: HashMap<u16, (IpAddr, u16, Instant)>,
    /// When to look at which peer.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    next_number: u16,
    /// When the next request may be sent.
    free_at: u64,
}

impl Watcher {
    fn run(mut self) {
        loop {
            let now = self.now();
            let next = self.due.peek().map(|Reverse((at, _))| (*at).max(self.free_at));
            if self.wait(next.map(|at| at.saturating_sub(now))).is_err() {
                return tracing::error!("peers' paths are not watched any more");
            }
            let mut changed = Vec::new();
            for targets in self.told.try_iter().collect::<Vec<_>>() {
                self.aim(targets);
            }
            self.receive(&mut changed);
            self.send(&mut changed);
            if !changed.is_empty() && self.events.send(Event::Paths(changed)).is_err() {
                return;
            }
        }
    }

    fn peer(&mut self, at: usize) -> Option<&mut Peer> {
        self.peers.get_mut(at)?.as_mut()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sleeps until something arrives, or for so many milliseconds.
    fn wait(&self, patience: Option<u64>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(self.sockets.iter().map(|(_, s)| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
        let patience = patience.map(|ms| {
            let d = Duration::from_millis(ms.min(3_600_000));
            Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) }
        });
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
        Ok(())
    }

    /// Other targets. What is known of a path stays with it.
    fn aim(&mut self, Change { gone, new }: Change) {
        let now = self.now();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = HashMap::new();
        for target in gone {
            table.remove(&target.addr);
            if let Some(at) = self.by_addr.get(&target.addr).copied()
                && let Some(place) = self.peers.get_mut(at)
                && let Some(peer) = place.take_if(|peer| peer.target == target)
            {
                self.by_addr.remove(&target.addr);
                before.insert((target.name, target.addr), peer);
            }
        }
        let mut free =
            (0..self.peers.len() + new.len()).filter(|at| !matches!(self.peers.get(*at), Some(Some(_))));
        let places: Vec<usize> = free.by_ref().take(new.len()).collect();
        for (at, target) in places.iter().copied().zip(new) {
            let base = if target.addr.is_ipv6() { BASE_V6 } else { BASE_V4 };
            let peer = match before.remove(&(Arc::clone(&target.name), target.addr)) {
                Some(mut peer) => {
                    peer.path.set_max(target.max);
                    Peer { target, due: None, ..peer }
                }
                None => {
                    let path = Path::new(base, target.max, now);
                    Peer { target, known: Health::default(), path, due: None }
                }
            };
            table.insert(peer.target.addr, peer.path.health());
            self.by_addr.insert(peer.target.addr, at);
            if self.peers.len() <= at {
                self.peers.resize_with(at + 1, || None);
            }
            self.peers[at] = Some(peer);
        }
        drop(table);
        places.into_iter().for_each(|at| self.schedule(at, now));
        self.open();
    }

    /// Has a socket for every address of ours that peers are asked from.
    fn open(&mut self) {
        let locals: BTreeSet<IpAddr> = self.peers.iter().flatten().map(|p| p.target.from).collect();
        self.sockets.retain(|(local, _)| locals.contains(local));
        for local in locals {
            if self.sockets.iter().any(|(have, _)| *have == local) {
                continue;
            }
            match EchoSocket::open(local) {
                Ok(socket) => self.sockets.push((local, socket)),
                Err(err) => tracing::warn!(%local, err = %chain(&err), "peers' paths cannot be asked"),
            }
        }
    }

    /// Rounds are further apart where there are many peers.
    fn interval(&self) -> u64 {
        INTERVAL.max(self.by_addr.len() as u64 * 2 * 1000 / RATE)
    }

    /// Sends what is due, as far as the rate allows.
    fn send(&mut self, changed: &mut Vec<(IpAddr, u16)>) {
        let interval = self.interval();
        loop {
            let now = self.now();
            let Some(Reverse((at, index))) = self.due.peek().copied() else { return };
            if at > now || self.free_at > now {
                return;
            }
            self.due.pop();
            let Some(peer) = self.peer(index).filter(|p| p.due == Some(at)) else { continue };
            peer.due = None;
            let sizes = peer.path.poll(now, interval);
            let (addr, from) = (peer.target.addr, peer.target.from);
            for size in sizes {
                self.free_at = self.free_at.max(now) + 1000 / RATE;
                self.ask(index, (from, addr), size);
            }
            self.schedule(index, now + 1);
            self.note(index, changed);
        }
    }

    /// Notes when to look at a peer next, which is not before `least`.
    fn schedule(&mut self, index: usize, least: u64) {
        let Some(peer) = self.peer(index) else { return };
        let at = peer.path.next().max(least);
        if peer.due.is_none_or(|due| at < due) {
            peer.due = Some(at);
            self.due.push(Reverse((at, index)));
        }
    }

    fn ask(&mut self, index: usize, (from, addr): (IpAddr, IpAddr), size: u16) {
        let Some((_, socket)) = self.sockets.iter().find(|(local, _)| *local == from) else { return };
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.flights.insert(number, (addr, size, Instant::now()));
        match socket.send(addr, size, number, self.secret) {
            Ok(Sent::Away) => {}
            // The first link does not take it: that is an answer too.
            Ok(Sent::TooBig) => {
                let now = self.now();
                if let Some(peer) = self.peer(index) {
                    peer.path.too_big(size, 0, now);
                }
            }
            // No route, no room: as if it had been lost on the way.
            Err(_) => {}
        }
    }

    fn receive(&mut self, changed: &mut Vec<(IpAddr, u16)>) {
        let mut heard = Vec::new();
        for (_, socket) in &self.sockets {
            socket.drain(self.secret, |h| heard.push(h));
        }
        let now = self.now();
        for h in heard {
            let number = match h {
                Heard::Answer { number, .. } | Heard::TooBig { number, .. } => number,
            };
            let Some(&(addr, size, since)) = self.flights.get(&number) else { continue };
            let Some(index) = self.by_addr.get(&addr).copied() else { continue };
            let Some(peer) = self.peer(index) else { continue };
            match h {
                Heard::Answer { from, .. } if from == addr => {
                    let rtt = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
                    peer.path.answered(size, rtt, now);
                }
                Heard::TooBig { to, mtu, .. } if to == addr => peer.path.too_big(size, mtu, now),
                Heard::Answer { .. } | Heard::TooBig { .. } => continue,
            }
            self.flights.remove(&number);
            self.schedule(index, now);
            self.note(index, changed);
        }
        // Nobody answers after this long; numbers come round.
        if self.flights.len() > 4096 {
            self.flights.retain(|_, (_, _, since)| since.elapsed() < Duration::from_secs(5));
        }
    }

    /// Writes down what is new about a peer.
    fn note(&mut self, index: usize, changed: &mut Vec<(IpAddr, u16)>) {
        let Some(peer) = self.peer(index) else { return };
        let health = peer.path.health();
        if health == peer.known {
            return;
        }
        let before = if peer.known.mtu == 0 { peer.target.max } else { peer.known.mtu };
        if before != health.mtu {
            tracing::info!(peer = &*peer.target.name, addr = %peer.target.addr, from = before, to = health.mtu, "path MTU");
            changed.push((peer.target.addr, health.mtu));
        }
        peer.known = health;
        let addr = peer.target.addr;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(addr, health);
    }
}
