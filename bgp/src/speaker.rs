//! The speaker: peers, their sessions, the tables; inputs in, outputs and a deadline out.
//!
//! ```text
//!   incoming, connected, received, closed ─┐
//!   tick(now)                              ├─► Speaker ─► output(): connect, close, write, FIB, events
//!   configure, announce, next_hop          ┘           └► deadline()
//! ```
//!
//! The caller owns sockets and clock. After any input it takes [`output`](Speaker::output) until there is none, which
//! also chooses routes and fills send queues: inputs taken together are worked out together. It belongs to one thread
//! and never blocks; an input costs time in proportion to what it changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::attr::Attributes;
use crate::config::{Config, ConfigError, Connection, Password};
use crate::fsm::{Event as FsmEvent, State};
use crate::msg::notification::{self, Notification, cease};
use crate::msg::update_out::Bytes;
use crate::nlri::Nlri;
use crate::peer::{DownReason, Peer, Session, Side};
use crate::rib::{FibChange, Own, PeerId, Rib, Sink};
use crate::timers::{Jitter, Timer};

mod collision;
mod configure;
mod drive;
mod graceful;
mod messages;
mod routes;
mod status;
#[cfg(test)]
mod tests;

pub use status::{PathStatus, PeerStatus, RouteStatus};

/// A connection, as caller and speaker call it. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What the caller is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Connect, then say [`connected`](Speaker::connected) or [`closed`](Speaker::closed).
    Connect {
        /// Its name from now on.
        conn: ConnId,
        /// Where to.
        to: SocketAddr,
        /// From which address; the system's choice without.
        from: Option<IpAddr>,
        /// What the socket needs before it connects.
        options: Connection,
    },
    /// Try once to write these bytes, then close. The connection is forgotten already; say nothing more about it.
    Close {
        /// Which.
        conn: ConnId,
        /// The end of the stream: a NOTIFICATION, mostly.
        farewell: Vec<u8>,
    },
    /// There are bytes to write: see [`unsent`](Speaker::unsent).
    Write {
        /// Which.
        conn: ConnId,
    },
    /// Forwarding changes.
    Fib(FibChange),
    /// A next hop came into use: tell [`next_hop`](Speaker::next_hop) about it, and whenever that changes.
    Resolve {
        /// The next hop.
        addr: IpAddr,
    },
    /// A next hop is no longer in use.
    Forget {
        /// The next hop.
        addr: IpAddr,
    },
    /// For logs and readiness.
    Event(Event),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session is up.
    Up {
        /// With whom.
        peer: IpAddr,
    },
    /// A session is down.
    Down {
        /// With whom.
        peer: IpAddr,
        /// Why.
        reason: DownReason,
        /// Its routes stay for a while (graceful restart).
        graceful: bool,
    },
    /// A peer nears its limit.
    MaxPrefixesNear {
        /// Who.
        peer: IpAddr,
        /// So many prefixes.
        count: u32,
    },
    /// A connection was refused.
    Refused {
        /// From where.
        remote: SocketAddr,
        /// Why.
        why: Refused,
    },
    /// We have restarted, and now have all routes (or have waited long enough): what forwarding has from before and was
    /// not told again is to be removed.
    RestartOver,
}

/// Why a connection is not taken. The caller closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// No peer has this address, and no range it.
    #[error("not a configured neighbour")]
    Stranger,
    /// The range has as many neighbours as it may.
    #[error("the range has its limit of neighbours")]
    Limit,
    /// The peer is switched off, or waits after an error.
    #[error("the neighbour is idle")]
    Idle,
    /// Another connection of it is further already.
    #[error("the neighbour has a connection")]
    Busy,
}

/// A route announced here.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalRoute {
    /// Its attributes; an unspecified next hop (0.0.0.0, ::) becomes our own address towards each peer.
    pub attributes: Attributes,
}

/// Bytes in a peer's queue above which it is sent no more routes until some are gone.
const HIGH_WATER: usize = 256 << 10;
/// RFC 9687: a peer that takes no byte for so long is gone.
const SEND_HOLD: Duration = Duration::from_secs(480);
/// Encoded parts of tables are kept for peers to come this long.
const CHUNKS_KEPT: Duration = Duration::from_secs(60);

/// All peers, by number.
#[derive(Default, Debug)]
pub(crate) struct Peers {
    list: Vec<Option<Peer>>,
    by_addr: BTreeMap<IpAddr, PeerId>,
    free: Vec<PeerId>,
    /// Gone, and their numbers not to be used before the next flush: their routes still stand in tables.
    retired: Vec<PeerId>,
    /// Connections whose queue was empty and no longer is.
    writable: Vec<ConnId>,
    now: Option<Instant>,
}

impl Peers {
    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.list.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.list.get_mut(id.index())?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.by_addr.values().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        self.by_addr.values().copied().collect()
    }

    fn insert(&mut self, addr: IpAddr, peer: Peer) -> PeerId {
        if self.list.is_empty() {
            // The first number is our own.
            self.list.push(None);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            PeerId(u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX))
        });
        self.list[id.index()] = Some(peer);
        self.by_addr.insert(addr, id);
        id
    }

    fn remove(&mut self, id: PeerId) {
        if let Some(peer) = self.list.get_mut(id.index()).and_then(Option::take) {
            self.by_addr.remove(&peer.config.address);
            self.retired.push(id);
        }
    }

    /// Puts a message into a session's queue.
    fn push(session: &mut Session, message: Bytes, now: Option<Instant>, writable: &mut Vec<ConnId>) {
        if session.queue.is_empty() {
            writable.extend(session.conn);
            if let Some(now) = now {
                session.timers.start(Timer::SendHold, now + SEND_HOLD);
            }
        }
        session.queue.push(message);
    }
}

impl Sink for Peers {
    fn room(&self, peer: PeerId) -> bool {
        self.get(peer).is_some_and(|p| p.main.queue.len() < HIGH_WATER)
    }

    fn send(&mut self, peer: PeerId, message: Bytes) {
        let now = self.now;
        if let Some(Some(peer)) = self.list.get_mut(peer.index()) {
            peer.counters.updates_sent += 1;
            Peers::push(&mut peer.main, message, now, &mut self.writable);
        }
    }
}

/// The speaker.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    peers: Peers,
    conns: HashMap<ConnId, (PeerId, Side)>,
    next_conn: u64,
    rib: Rib,
    jitter: Jitter,
    outputs: VecDeque<Output>,
    /// We have restarted: routes are chosen then at the latest.
    deferral: Option<Instant>,
    forget_chunks: Instant,
    now: Instant,
}

impl Speaker {
    /// A speaker with this configuration. Its peers start at once.
    ///
    /// # Errors
    /// When the configuration cannot be.
    pub fn new(config: Config, now: Instant) -> Result<Speaker, ConfigError> {
        config.check()?;
        let rib = Rib::new(own(&config), config.require_resolution);
        let mut speaker = Speaker {
            peers: Peers::default(),
            conns: HashMap::new(),
            next_conn: 1,
            rib,
            jitter: Jitter::new(config.seed),
            outputs: VecDeque::new(),
            deferral: config.graceful.and_then(|g| g.restarting).map(|time| now + time),
            forget_chunks: now + CHUNKS_KEPT,
            now,
            config,
        };
        speaker.rib.deferring = speaker.deferral.is_some();
        for peer in speaker.config.peers.clone() {
            speaker.add_peer(peer, None);
        }
        Ok(speaker)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where connections may come from and with which TCP MD5 key; for the listener.
    pub fn listen_keys(&self) -> impl Iterator<Item = (IpNet, &Password)> {
        let peers = self.config.peers.iter().map(|p| (IpNet::from(p.address), &p.password));
        let ranges = self.config.dynamic.iter().map(|d| (d.range, &d.template.password));
        peers.chain(ranges).filter_map(|(net, password)| Some((net, password.as_ref()?)))
    }

    /// A connection we asked for is there; `local`: our end of it.
    pub fn connected(&mut self, conn: ConnId, local: IpAddr, now: Instant) {
        self.now = now;
        let Some((id, side)) = self.conns.get(&conn).copied() else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let delay = !peer.config.delay_open.is_zero();
        let Some(session) = peer.session_mut(side) else { return };
        (session.connected, session.local) = (true, Some(local));
        self.drive(id, side, FsmEvent::Connected { delay }, None);
    }

    /// Somebody has connected to our listener. Whoever is taken gets the options set on the socket.
    ///
    /// # Errors
    /// Why it is not taken; the caller closes it.
    pub fn incoming(
        &mut self,
        remote: SocketAddr,
        local: IpAddr,
        now: Instant,
    ) -> Result<(ConnId, Connection), Refused> {
        self.now = now;
        // An IPv4 peer of a listener on [::] is an IPv4 peer.
        let (addr, local) = (remote.ip().to_canonical(), local.to_canonical());
        let taken = self.accept(addr, local);
        if let Err(why) = taken {
            if let Some(peer) = self.peers.by_addr.get(&addr).copied().and_then(|id| self.peers.get_mut(id)) {
                peer.counters.refused += 1;
            }
            self.outputs.push_back(Output::Event(Event::Refused { remote, why }));
        }
        taken.map(|(conn, id)| {
            let internal = self.is_internal(id);
            let options = self.peers.get(id).map(|p| p.config.connection(internal));
            (conn, options.unwrap_or(Connection { ttl: 1, min_ttl: None, password: None }))
        })
    }

    /// Bytes have come.
    pub fn received(&mut self, conn: ConnId, bytes: &[u8], now: Instant) {
        self.now = now;
        self.read(conn, bytes);
    }

    /// A connection has failed, was closed by the peer, or could not be made.
    pub fn closed(&mut self, conn: ConnId, now: Instant) {
        self.now = now;
        let Some((id, side)) = self.conns.remove(&conn) else { return };
        if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) {
            // There is nothing to close any more.
            session.conn = None;
            session.connected = false;
        }
        self.drive(id, side, FsmEvent::Closed, None);
    }

    /// What is to be written to a connection, in order; for `writev`.
    pub fn unsent(&self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        let session = self.conns.get(&conn).and_then(|(id, side)| self.peers.get(*id)?.session(*side));
        session.into_iter().flat_map(|s| s.queue.slices())
    }

    /// So many bytes of it were written.
    pub fn sent(&mut self, conn: ConnId, count: usize, now: Instant) {
        self.now = now;
        let Some((id, side)) = self.conns.get(&conn).copied() else { return };
        let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) else { return };
        let full = session.queue.len() >= HIGH_WATER;
        session.queue.consume(count);
        if session.queue.is_empty() {
            session.timers.stop(Timer::SendHold);
        } else if count > 0 {
            session.timers.start(Timer::SendHold, now + SEND_HOLD);
        }
        self.rib.pumping |= full && session.queue.len() < HIGH_WATER;
    }

    /// Announces a route of our own, or changes it.
    pub fn announce(&mut self, net: IpNet, route: LocalRoute) {
        let attributes = self.rib.attributes.intern(route.attributes);
        let nlri = Nlri { net: net.trunc(), path_id: 0 };
        self.rib.insert(PeerId::LOCAL, nlri, &attributes, Ok(attributes.clone()));
    }

    /// Withdraws it; false when there was none.
    pub fn withdraw(&mut self, net: IpNet) -> bool {
        self.rib.withdraw(PeerId::LOCAL, Nlri { net: net.trunc(), path_id: 0 })
    }

    /// What is known of a next hop: the metric to it, or that it cannot be reached.
    pub fn next_hop(&mut self, addr: IpAddr, metric: Option<u32>) {
        self.rib.next_hops.answer(addr, metric);
    }

    /// The time has come that [`deadline`](Self::deadline) named, or any other.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        for id in self.peers.ids() {
            for side in [Side::Main, Side::Incoming] {
                while let Some(timer) =
                    self.peers.get_mut(id).and_then(|p| p.session_mut(side)?.timers.expired(now))
                {
                    self.expired(id, side, timer);
                }
            }
            self.expire_graceful(id);
        }
        if self.deferral.is_some_and(|at| at <= now) {
            self.end_deferral();
        }
        if self.forget_chunks <= now {
            self.forget_chunks = now + CHUNKS_KEPT;
            self.rib.forget_chunks();
        }
    }

    /// When [`tick`](Self::tick) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|(_, p)| p.deadline()).chain(self.deferral).min()
    }

    /// The next thing to do. `None`: nothing until the next input.
    pub fn output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.flush();
        }
        self.outputs.pop_front()
    }

    /// Chooses routes, fills queues.
    fn flush(&mut self) {
        if self.rib.is_dirty() {
            self.peers.now = Some(self.now);
            let mut changes = Vec::new();
            let laggards = self.rib.flush(&mut self.peers, &mut changes);
            self.outputs.extend(changes.into_iter().map(Output::Fib));
            for id in laggards {
                self.stop(id, Notification::new((notification::CEASE, cease::OUT_OF_RESOURCES)), true);
            }
            self.peers.free.append(&mut self.peers.retired);
        }
        for (addr, wanted) in self.rib.next_hops.take_asked() {
            self.outputs.push_back(if wanted { Output::Resolve { addr } } else { Output::Forget { addr } });
        }
        for conn in self.peers.writable.drain(..) {
            if self.conns.contains_key(&conn) {
                self.outputs.push_back(Output::Write { conn });
            }
        }
    }

    /// Is this peer in our AS?
    fn is_internal(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|p| p.config.asn == p.config.local_asn.unwrap_or(self.config.asn))
    }

    fn expired(&mut self, id: PeerId, side: Side, timer: Timer) {
        let event = match timer {
            Timer::ConnectRetry => FsmEvent::ConnectRetryExpired,
            Timer::Hold => FsmEvent::HoldExpired,
            Timer::Keepalive => FsmEvent::KeepaliveExpired,
            Timer::DelayOpen => FsmEvent::DelayOpenExpired,
            Timer::SendHold => FsmEvent::SendHoldExpired,
            Timer::IdleHold => return self.start(id),
        };
        self.drive(id, side, event, None);
    }

    /// Begins, if the peer is to have a session.
    fn start(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.held = false;
        if peer.config.enabled {
            let passive = peer.config.passive || peer.dynamic.is_some();
            let event = if passive { FsmEvent::StartPassive } else { FsmEvent::Start };
            self.drive(id, Side::Main, event, None);
        }
    }

    /// Ends a peer's sessions; `again`: by itself it begins anew after a while.
    fn stop(&mut self, id: PeerId, notification: Notification, again: bool) {
        self.drive(id, Side::Incoming, FsmEvent::Stop, Some(notification.clone()));
        self.drive(id, Side::Main, FsmEvent::Stop, Some(notification));
        if again {
            self.hold_idle(id, Side::Main, State::Established);
        }
    }

    /// Ends a peer's session and begins again at once, with a text for its operator; false when there is no such peer.
    pub fn reset(&mut self, peer: IpAddr, text: &str, now: Instant) -> bool {
        self.now = now;
        let Some(id) = self.peers.by_addr.get(&peer).copied() else { return false };
        self.stop(id, Notification::administrative(cease::RESET, text), false);
        self.start(id);
        true
    }
}

fn own(config: &Config) -> Own {
    Own {
        asn: config.asn,
        router_id: config.router_id,
        cluster_id: config.cluster_id,
        addresses: config.addresses.clone(),
        multipath: crate::decision::Multipath { most: config.max_paths, relax: config.multipath_relax },
    }
}
