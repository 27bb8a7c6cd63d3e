//! Two connections to one peer (RFC 4271 section 6.8): which one stays.

use std::net::IpAddr;

use super::{ConnId, Refused, Speaker};
use crate::fsm::{Event as FsmEvent, State};
use crate::msg::notification::{self, Notification, cease};
use crate::msg::open::Open;
use crate::peer::{Session, Side};
use crate::rib::PeerId;

impl Speaker {
    /// Finds the peer a connection belongs to, and gives it to one of its sessions.
    pub(super) fn accept(&mut self, addr: IpAddr, local: IpAddr) -> Result<(ConnId, PeerId), Refused> {
        let id = match self.peers.id_of(addr) {
            Some(id) => id,
            None => self.newcomer(addr)?,
        };
        let conn = self.new_conn();
        let peer = self.peers.get_mut(id).ok_or(Refused::Stranger)?;
        let side = match peer.main.state {
            State::Idle => return Err(Refused::Idle),
            // Nothing is going on: it is the main session's.
            State::Active if peer.main.conn.is_none() && peer.incoming.is_none() => Side::Main,
            State::Connect | State::Active | State::OpenSent | State::OpenConfirm | State::Established => {
                Side::Incoming
            }
        };
        if side == Side::Incoming {
            if let Some(other) = &peer.incoming {
                // One that has not even said OPEN may be the remains of a peer that has crashed.
                if !matches!(other.state, State::Connect | State::Active | State::OpenSent) {
                    return Err(Refused::Busy);
                }
                let notification = Notification::new((notification::CEASE, cease::COLLISION));
                self.drive(id, Side::Incoming, FsmEvent::CollisionDump, Some(notification));
            }
            if let Some(peer) = self.peers.get_mut(id) {
                peer.incoming = Some(Session { state: State::Active, ..Session::default() });
            }
        }
        let peer = self.peers.get_mut(id).ok_or(Refused::Stranger)?;
        let delay = !peer.config.delay_open.is_zero();
        let session = peer.session_mut(side).ok_or(Refused::Idle)?;
        (session.conn, session.connected, session.dialled) = (Some(conn), true, false);
        session.local = Some(local);
        self.conns.insert(conn, (id, side));
        self.drive(id, side, FsmEvent::Connected { delay }, None);
        Ok((conn, id))
    }

    /// An acceptable OPEN has come on one session: does it stay, or another connection of the peer? The session that
    /// goes on is the main one from here; `None`: this one is over.
    ///
    /// Both sides come to the same result whatever the order of messages: a connection that is there counts as soon as
    /// its OPEN can be on its way, and a dial still in the air is given up before the KEEPALIVE that commits us.
    pub(super) fn resolve_collision(&mut self, id: PeerId, side: Side, theirs: &Open) -> Option<Side> {
        let peer = self.peers.get(id)?;
        let other = match side {
            Side::Main => Side::Incoming,
            Side::Incoming => Side::Main,
        };
        let Some((this, rival)) = peer.session(side).zip(peer.session(other)) else { return Some(side) };
        let established = rival.state == State::Established;
        let this_stays = if established {
            // RFC 4724 section 5: a peer that has restarted may be back before we noticed that it was gone.
            let agreed = rival.agreed.as_ref().is_some_and(|a| a.graceful.is_some());
            agreed && theirs.capabilities.graceful.is_some_and(|g| g.restarting)
        } else if rival.connected {
            // The connection that the one with the higher identifier dialled stays; of equal ones, the higher AS
            // (RFC 6286 section 2.3).
            let ours = (self.config.router_id, peer.config.local_asn.unwrap_or(self.config.asn));
            this.dialled == (ours > (theirs.router_id, theirs.asn))
        } else {
            true
        };
        let loser = if this_stays { other } else { side };
        if this_stays && established {
            // As if the connection had failed: no NOTIFICATION, and its routes stay.
            self.drive(id, loser, FsmEvent::Closed, None);
        } else {
            let notification = Notification::new((notification::CEASE, cease::COLLISION));
            self.drive(id, loser, FsmEvent::CollisionDump, Some(notification));
        }
        if !this_stays {
            return None;
        }
        if side == Side::Incoming {
            let peer = self.peers.get_mut(id)?;
            peer.main = peer.incoming.take()?;
            if let Some(conn) = peer.main.conn {
                self.conns.insert(conn, (id, Side::Main));
            }
        }
        Some(Side::Main)
    }
}
