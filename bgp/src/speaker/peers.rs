//! All peers, and the way messages take into their queues.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::{ConnId, HIGH_WATER, SEND_HOLD};
use crate::msg::update_out::Bytes;
use crate::peer::{Peer, Side};
use crate::rib::{PeerId, Sink};
use crate::timers::Timer;

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
    pub(super) now: Option<Instant>,
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

    pub(super) fn insert(&mut self, addr: IpAddr, peer: Peer) -> PeerId {
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

    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some(peer) = self.list.get_mut(id.index()).and_then(Option::take) {
            self.by_addr.remove(&peer.config.address);
            self.retired.push(id);
        }
    }

    pub(super) fn id_of(&self, addr: IpAddr) -> Option<PeerId> {
        self.by_addr.get(&addr).copied()
    }

    /// Numbers of peers that are gone may be used again: no table knows their routes any more.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Connections with something to write that had nothing before.
    pub(super) fn take_writable(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.writable)
    }

    /// Puts a message into a session's queue.
    pub(super) fn queue(&mut self, id: PeerId, side: Side, message: Bytes) {
        let Some(Some(peer)) = self.list.get_mut(id.index()) else { return };
        let Some(session) = peer.session_mut(side) else { return };
        if session.queue.is_empty() {
            self.writable.extend(session.conn);
            if let Some(now) = self.now {
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
        if let Some(peer) = self.get_mut(peer) {
            peer.counters.updates_sent += 1;
        }
        self.queue(peer, Side::Main, message);
    }
}
