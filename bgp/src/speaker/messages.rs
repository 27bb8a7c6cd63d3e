//! Messages off the wire.

use super::{ConnId, Speaker};
use crate::agreed::Agreed;
use crate::frame::{Kind, Message};
use crate::fsm::{Event as FsmEvent, State};
use crate::msg::notification::{self, Notification};
use crate::msg::open::Open;
use crate::msg::refresh::{self, Subtype};
use crate::msg::update::Update;
use crate::peer::Side;
use crate::rib::PeerId;

impl Speaker {
    /// Takes a connection's bytes apart and deals with each message.
    pub(super) fn read(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some((id, side)) = self.conns.get(&conn).copied() else { return };
        let session = self.peers.get_mut(id).and_then(|p| p.session_mut(side));
        let Some(session) = session.filter(|s| s.connected) else { return };
        // The messages borrow it, so it is taken out meanwhile.
        let mut framer = std::mem::take(&mut session.framer);
        framer.push(bytes);
        // The connection may end with any message, or move to the peer's other session.
        while let Some((id, side)) = self.conns.get(&conn).copied() {
            match framer.next() {
                Ok(Some(message)) => self.message(id, side, message),
                Ok(None) => break,
                Err(error) => {
                    self.drive(id, side, FsmEvent::HeaderError, Some(error.into()));
                    return;
                }
            }
            let session = self.peers.get(id).and_then(|p| p.session(side));
            framer.extended(session.and_then(|s| s.agreed.as_ref()).is_some_and(|a| a.extended_message));
        }
        if let Some((id, side)) = self.conns.get(&conn).copied()
            && let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side))
        {
            session.framer = framer;
        }
    }

    fn message(&mut self, id: PeerId, side: Side, message: Message<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.counters.messages_received += 1;
        let Some(state) = peer.session(side).map(|s| s.state) else { return };
        match message.kind {
            Kind::Open => self.on_open(id, side, state, message.body),
            Kind::Keepalive => {
                self.drive(id, side, FsmEvent::Keepalive, None);
            }
            Kind::Notification => {
                // The framer lets none through that is shorter than its two codes.
                let notification = Notification::parse(message.body);
                self.drive(id, side, FsmEvent::Notification, notification);
            }
            Kind::Update if state == State::Established => self.on_update(id, side, message.body),
            Kind::Update => {
                self.drive(id, side, FsmEvent::Update, None);
            }
            Kind::RouteRefresh => {
                if self.drive(id, side, FsmEvent::RouteRefresh, None) {
                    self.on_refresh(id, side, message.body);
                }
            }
        }
    }

    fn on_open(&mut self, id: PeerId, side: Side, state: State, body: &[u8]) {
        if !matches!(state, State::Connect | State::Active | State::OpenSent) {
            self.drive(id, side, FsmEvent::Open, None);
            return;
        }
        let refused = |speaker: &mut Speaker, notification| {
            speaker.drive(id, side, FsmEvent::OpenError, Some(notification));
        };
        let theirs = match Open::parse(body) {
            Ok(open) => open,
            Err(error) => return refused(self, error.into()),
        };
        let sent = self.peers.get(id).and_then(|p| p.session(side)?.open.clone());
        let Some(ours) = sent.or_else(|| self.open(id)) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let agreed = match Agreed::new(&ours, &theirs, &peer.config) {
            Ok(agreed) => agreed,
            Err(notification) => return refused(self, notification),
        };
        let Some(side) = self.resolve_collision(id, side, &theirs) else { return };
        if let Some(session) = self.peers.get_mut(id).and_then(|p| p.session_mut(side)) {
            (session.open, session.agreed) = (Some(ours), Some(agreed));
        }
        self.drive(id, side, FsmEvent::Open, None);
    }

    fn on_update(&mut self, id: PeerId, side: Side, body: &[u8]) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.counters.updates_received += 1;
        let Some(context) = peer.main.agreed.as_ref().map(Agreed::context) else { return };
        match Update::parse(body, &context) {
            Ok(update) => {
                if self.drive(id, side, FsmEvent::Update, None) {
                    self.take_routes(id, update);
                }
            }
            Err(error) => {
                self.drive(id, side, FsmEvent::UpdateError, Some(error.into()));
            }
        }
    }

    fn on_refresh(&mut self, id: PeerId, side: Side, body: &[u8]) {
        let Ok(asked) = refresh::parse(body) else {
            // RFC 7313 section 5. Whoever sends this knows of subtypes, or should.
            let notification = Notification::with((notification::ROUTE_REFRESH, 1), body);
            self.drive(id, side, FsmEvent::UpdateError, Some(notification));
            return;
        };
        let Some(agreed) = self.peers.get(id).and_then(|p| p.main.agreed.as_ref()) else { return };
        let Some((family, subtype)) = asked.filter(|(family, _)| agreed.families[*family]) else { return };
        let enhanced = agreed.enhanced_route_refresh;
        match subtype {
            Subtype::Request => self.rib.refresh(id, family, enhanced),
            Subtype::Begin if enhanced => self.begin_refresh(id, family),
            Subtype::End if enhanced => self.end_of_routes(id, family),
            // RFC 7313 section 4: without the capability they mean nothing.
            Subtype::Begin | Subtype::End => {}
        }
    }

    /// Asks a peer for its routes again; false when it cannot be asked.
    pub fn refresh_in(&mut self, peer: std::net::IpAddr) -> bool {
        let Some(id) = self.peers.id_of(peer) else { return false };
        let agreed = self.peers.get(id).filter(|p| p.is_established()).and_then(|p| p.main.agreed.clone());
        let Some(agreed) = agreed.filter(|a| a.route_refresh) else { return false };
        for family in agreed.families.set() {
            let mut message = Vec::new();
            refresh::emit(family, Subtype::Request, &mut message);
            self.send(id, Side::Main, message);
        }
        true
    }
}
