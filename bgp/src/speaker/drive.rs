//! Does what the state machine says.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ConnId, Event, Output, Speaker};
use crate::config::PeerConfig;
use crate::family::{Family, PerFamily};
use crate::frame::{self, Kind};
use crate::fsm::{self, Action, Event as FsmEvent, Reason, State};
use crate::msg::capability::{AddPath, Capabilities, Graceful};
use crate::msg::notification::{self, Notification, cease};
use crate::msg::open::Open;
use crate::peer::{DownReason, Peer, Session, Side};
use crate::rib::{GroupKey, Import, PeerId, Source, Target};
use crate::timers::Timer;

/// Until the peer's OPEN is there (RFC 4271 section 8.2.2 suggests 4 minutes).
const OPEN_HOLD: Duration = Duration::from_secs(240);

impl Speaker {
    /// One event for one session. `given`: the NOTIFICATION that goes, or came, with it. True: the message that was the
    /// event is to be delivered.
    pub(super) fn drive(
        &mut self,
        id: PeerId,
        side: Side,
        event: FsmEvent,
        given: Option<Notification>,
    ) -> bool {
        let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) else { return false };
        let before = session.state;
        let (next, actions) = fsm::step(before, event);
        session.state = next;
        let reason = reason(event, actions, given);
        for action in actions {
            self.act(id, side, *action, before, &reason);
        }
        self.settle(id, side, before, next);
        actions.contains(&Action::Deliver)
    }

    /// Cleans up behind a step.
    fn settle(&mut self, id: PeerId, side: Side, before: State, next: State) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        match side {
            // One that came in lives as long as its connection.
            Side::Incoming => {
                if peer.incoming.as_ref().is_some_and(|s| s.conn.is_none()) {
                    peer.incoming = None;
                }
            }
            Side::Main if before != next => peer.since = now,
            Side::Main => {}
        }
        let gone = peer.main.conn.is_none() && peer.incoming.is_none() && peer.restart_until.is_none();
        if peer.dynamic.is_some() && gone && before != State::Idle {
            self.remove_peer(id);
        }
    }

    fn act(&mut self, id: PeerId, side: Side, action: Action, before: State, reason: &DownReason) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (passive, retry) = (peer.config.passive || peer.dynamic.is_some(), peer.connect_retry());
        let delay = peer.config.delay_open;
        let Some(session) = peer.session_mut(side) else { return };
        match action {
            Action::Dial => self.dial(id),
            Action::Close => self.close(id, side),
            Action::StartConnectRetry => {
                if !passive && side == Side::Main {
                    let wait = self.jitter.apply(retry);
                    session.timers.start(Timer::ConnectRetry, now + wait);
                }
            }
            Action::StopConnectRetry => session.timers.stop(Timer::ConnectRetry),
            Action::StartDelayOpen => session.timers.start(Timer::DelayOpen, now + delay),
            Action::StopDelayOpen => session.timers.stop(Timer::DelayOpen),
            Action::SendOpen => {
                if let Some(open) = session.open.clone().or_else(|| self.open(id)) {
                    let mut message = Vec::new();
                    open.emit(&mut message);
                    self.send(id, side, message);
                    if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) {
                        session.open = Some(open);
                    }
                }
            }
            Action::StartOpenHold => session.timers.start(Timer::Hold, now + OPEN_HOLD),
            Action::StartTimers => {
                session.timers.stop(Timer::Hold);
                self.restart_hold(id, side);
                self.restart_keepalive(id, side);
            }
            Action::RestartHold => self.restart_hold(id, side),
            Action::SendKeepalive => {
                let mut message = Vec::new();
                frame::emit(Kind::Keepalive, &[], &mut message);
                self.send(id, side, message);
                self.restart_keepalive(id, side);
            }
            Action::Notify(_) => {
                if let DownReason::Sent(notification) = reason
                    && session.connected
                {
                    session.farewell.clear();
                    let graceful = session.agreed.as_ref().is_some_and(|a| a.graceful_notification);
                    if graceful && notification.is_for_good() {
                        // Without this the peer would keep our routes (RFC 8538 section 5).
                        notification.clone().hard().emit(&mut session.farewell);
                    } else {
                        notification.emit(&mut session.farewell);
                    }
                }
            }
            Action::Establish => self.establish(id),
            Action::Deliver => {}
            Action::TearDown => {
                let spoke = matches!(before, State::OpenSent | State::OpenConfirm | State::Established);
                if spoke {
                    peer.last_error = Some((now, reason.clone()));
                }
                if before == State::Established && side == Side::Main {
                    self.down(id, reason);
                }
                self.close(id, side);
                if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) {
                    let state = session.state;
                    *session = Session { state, ..Session::default() };
                }
            }
            Action::HoldIdle => self.hold_idle(id, side, before),
        }
    }

    /// Begins again after a while.
    pub(super) fn hold_idle(&mut self, id: PeerId, side: Side, before: State) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id).filter(|_| side == Side::Main) else { return };
        if peer.dynamic.is_some() {
            // It comes back by itself, if it is to come back.
            if peer.restart_until.is_some() {
                self.start(id);
            }
            return;
        }
        let wait = peer.failed(before == State::Established, now);
        let wait = self.jitter.apply(wait);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.main.timers.start(Timer::IdleHold, now + wait);
        }
    }

    fn dial(&mut self, id: PeerId) {
        let internal = self.is_internal(id);
        let conn = self.new_conn();
        let Some(peer) = self.peers.get_mut(id) else { return };
        (peer.main.conn, peer.main.connected, peer.main.dialled) = (Some(conn), false, true);
        self.conns.insert(conn, (id, Side::Main));
        let PeerConfig { address, port, local_address, .. } = peer.config;
        let options = peer.config.connection(internal);
        let to = SocketAddr::new(address, port);
        self.outputs.push_back(Output::Connect { conn, to, from: local_address, options });
    }

    pub(super) fn new_conn(&mut self) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        conn
    }

    fn close(&mut self, id: PeerId, side: Side) {
        let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) else { return };
        let mut farewell = session.queue.abandon();
        farewell.append(&mut session.farewell);
        session.connected = false;
        session.framer = frame::Framer::default();
        session.timers.stop(Timer::SendHold);
        if let Some(conn) = session.conn.take() {
            self.conns.remove(&conn);
            self.outputs.push_back(Output::Close { conn, farewell });
        }
    }

    /// Puts a message into a session's queue.
    pub(super) fn send(&mut self, id: PeerId, side: Side, message: Vec<u8>) {
        self.peers.now = Some(self.now);
        self.peers.queue(id, side, message.into());
    }

    fn restart_hold(&mut self, id: PeerId, side: Side) {
        let now = self.now;
        if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side))
            && let Some(agreed) = &session.agreed
            && !agreed.hold_time.is_zero()
        {
            session.timers.start(Timer::Hold, now + agreed.hold_time);
        }
    }

    fn restart_keepalive(&mut self, id: PeerId, side: Side) {
        let now = self.now;
        if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side))
            && let Some(time) = session.agreed.as_ref().and_then(|a| a.keepalive())
        {
            let wait = self.jitter.apply(time);
            session.timers.start(Timer::Keepalive, now + wait);
        }
    }

    /// Our OPEN to a peer.
    pub(super) fn open(&self, id: PeerId) -> Option<Open> {
        let peer = self.peers.get(id)?;
        let config = &peer.config;
        let asn = config.local_asn.unwrap_or(self.config.asn);
        let families = config.families;
        let graceful = self.config.graceful.map(|graceful| {
            let restarting = self.deferral.is_some();
            // Forwarding goes on over our restart when the caller kept it, and over a lost session always.
            let kept = restarting || peer.counters.established > 0;
            Graceful {
                restarting,
                notification: true,
                time: u16::try_from(graceful.restart_time.as_secs()).unwrap_or(u16::MAX).min(0xfff),
                forwarding: PerFamily::from_fn(|family| families[family].then_some(kept)),
            }
        });
        let capabilities = Capabilities {
            families,
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: config.extended_messages,
            extended_next_hop: config.extended_next_hop,
            graceful,
            asn: Some(asn),
            add_path: PerFamily::from_fn(|family| AddPath {
                receive: config.add_path && families[family],
                send: false,
            }),
        };
        Some(Open { asn, hold_time: config.hold_time, router_id: self.config.router_id, capabilities })
    }

    /// The session is up: routes may flow.
    fn establish(&mut self, id: PeerId) {
        let now = self.now;
        let internal = self.is_internal(id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(agreed) = peer.main.agreed.clone() else { return };
        peer.counters.established += 1;
        peer.since = now;
        peer.end_of_rib = PerFamily::default();
        peer.warned = PerFamily::default();
        let addr = peer.config.address;
        let origin = if internal {
            crate::decision::PathOrigin::Internal
        } else {
            crate::decision::PathOrigin::External
        };
        let source = Source { origin, client: peer.config.client, router_id: agreed.router_id, addr };
        peer.import = Some(import(peer, self.config.asn, self.config.ebgp_requires_policy, internal));
        self.rib.set_source(id, source);
        self.resume(id, &agreed);
        if let Some(key) = self.group_key(id) {
            self.rib.join(id, key, agreed.graceful.is_some());
        }
        self.outputs.push_back(Output::Event(Event::Up { peer: addr }));
    }

    /// What a peer's messages depend on.
    pub(super) fn group_key(&self, id: PeerId) -> Option<GroupKey> {
        let peer = self.peers.get(id)?;
        let agreed = peer.main.agreed.as_ref()?;
        let config = &peer.config;
        let target =
            if agreed.internal { Target::Internal { client: config.client } } else { Target::External };
        let local = peer.main.local;
        let own = |family: Family| {
            local.filter(|addr| Family::of_addr(*addr) == family).or(self.config.next_hop_self[family])
        };
        Some(GroupKey {
            target,
            families: agreed.families,
            local_asn: config.local_asn.unwrap_or(self.config.asn),
            policy: config.export.clone(),
            requires_policy: self.config.ebgp_requires_policy,
            next_hop: config.next_hop,
            own: PerFamily::from_fn(own),
            subnet: config.subnet,
            wide: agreed.four_octet_as,
            extended_next_hop: agreed.extended_next_hop,
            most: agreed.most(),
        })
    }
}

/// Why the session ends, if it does.
fn reason(event: FsmEvent, actions: &[Action], given: Option<Notification>) -> DownReason {
    let notify = actions.iter().find_map(|action| match action {
        Action::Notify(reason) => Some(*reason),
        _ => None,
    });
    match (notify, given) {
        (Some(Reason::HoldTimer), _) => DownReason::Sent(Notification::new((notification::HOLD_TIMER, 0))),
        (Some(Reason::SendHoldTimer), _) => {
            DownReason::Sent(Notification::new((notification::SEND_HOLD_TIMER, 0)))
        }
        (Some(Reason::Unexpected(subcode)), _) => {
            DownReason::Sent(Notification::new((notification::FSM, subcode)))
        }
        (Some(Reason::Given), given) => {
            DownReason::Sent(given.unwrap_or_else(|| Notification::new((notification::CEASE, cease::RESET))))
        }
        (None, Some(received)) if event == FsmEvent::Notification => DownReason::Received(received),
        (None, _) => DownReason::Closed,
    }
}

pub(super) fn import(peer: &Peer, asn: u32, requires_policy: bool, internal: bool) -> Import {
    let config = &peer.config;
    Import {
        external: (!internal).then_some(config.asn),
        local_asn: config.local_asn.unwrap_or(asn),
        allow_own_as: config.allow_own_as,
        enforce_first_as: config.enforce_first_as,
        requires_policy,
        policy: config.import.clone(),
        local: peer.main.local.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        memo: None,
    }
}
