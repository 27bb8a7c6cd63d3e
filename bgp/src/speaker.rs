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

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::config::{Config, ConfigError, Connection, Password};
use crate::fsm::{Event as FsmEvent, State};
use crate::msg::notification::{self, Notification, cease};
use crate::nlri::Nlri;
use crate::peer::Side;
use crate::rib::{Own, PeerId, Rib};
use crate::timers::{Jitter, Timer};

mod collision;
mod configure;
mod drive;
mod graceful;
mod messages;
mod output;
mod peers;
mod routes;
mod status;

pub use output::{ConnId, Event, LocalRoute, Output, Refused};
pub(crate) use peers::Peers;
pub use status::{PathStatus, PeerStatus, RouteStatus, Totals};

/// Bytes in a peer's queue above which it is sent no more routes until some are gone.
const HIGH_WATER: usize = 256 << 10;
/// RFC 9687: a peer that takes no byte for so long is gone.
const SEND_HOLD: Duration = Duration::from_secs(480);
/// Encoded parts of tables are kept for peers to come this long.
const CHUNKS_KEPT: Duration = Duration::from_secs(60);

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
    strangers: u64,
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
            strangers: 0,
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
            if let Some(peer) = self.peers.id_of(addr).and_then(|id| self.peers.get_mut(id)) {
                peer.counters.refused += 1;
            } else {
                self.strangers += 1;
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
            self.peers.recycle();
        }
        for (addr, wanted) in self.rib.next_hops.take_asked() {
            self.outputs.push_back(if wanted { Output::Resolve { addr } } else { Output::Forget { addr } });
        }
        for conn in self.peers.take_writable() {
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
        let Some(id) = self.peers.id_of(peer) else { return false };
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
