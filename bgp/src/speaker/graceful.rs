//! Graceful restart (RFC 4724, RFC 8538): what becomes of a peer's routes when its session goes down, and of our own
//! choice of routes when it is we who have restarted.

use super::{Event, Output, Speaker};
use crate::agreed::Agreed;
use crate::family::{Family, PerFamily};
use crate::peer::{DownReason, Peer};
use crate::rib::PeerId;

impl Speaker {
    /// An established session is over.
    pub(super) fn down(&mut self, id: PeerId, reason: &DownReason) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.counters.lost += 1;
        let addr = peer.config.address;
        let kept = self.config.graceful.and_then(|config| {
            let agreed = peer.main.agreed.as_ref().filter(|a| keeps(a, reason))?;
            let graceful = agreed.graceful?;
            let time = std::time::Duration::from_secs(u64::from(graceful.time)).min(config.helper_time);
            let families = PerFamily::from_fn(|f| agreed.families[f] && graceful.forwarding[f].is_some());
            (families.any() && !time.is_zero()).then_some((families, time))
        });
        peer.stale_until = None;
        peer.restart_until = kept.map(|(_, time)| now + time);
        peer.import = None;
        let families = kept.map_or(PerFamily::default(), |(families, _)| families);
        self.rib.leave(id);
        for family in Family::ALL {
            // What is stale already was not sent again in time (RFC 4724 section 4.2).
            self.rib.drop_routes(id, family, families[family]);
            self.rib.mark_stale(id, family);
        }
        let event = Event::Down { peer: addr, reason: reason.clone(), graceful: kept.is_some() };
        self.outputs.push_back(Output::Event(event));
        self.check_deferral();
    }

    /// A peer is back: which of its routes stay until it has sent them again?
    pub(super) fn resume(&mut self, id: PeerId, agreed: &Agreed) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.restart_until.take().is_none() {
            return;
        }
        let keeps = |family: Family| {
            agreed.families[family] && agreed.graceful.is_some_and(|g| g.forwarding[family] == Some(true))
        };
        peer.stale_until = self
            .config
            .graceful
            .filter(|_| Family::ALL.into_iter().any(keeps))
            .map(|config| now + config.stale_time);
        for family in Family::ALL.into_iter().filter(|family| !keeps(*family)) {
            self.rib.drop_routes(id, family, true);
        }
    }

    /// A peer begins to answer a refresh (RFC 7313 section 4.2).
    pub(super) fn begin_refresh(&mut self, id: PeerId, family: Family) {
        let now = self.now;
        self.rib.mark_stale(id, family);
        let time = self.config.graceful.unwrap_or_default().stale_time;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.stale_until = Some(now + time);
        }
    }

    /// A peer has sent all it has: what it did not send again is gone.
    pub(super) fn end_of_routes(&mut self, id: PeerId, family: Family) {
        self.rib.drop_routes(id, family, true);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.end_of_rib[family] = true;
        }
        self.check_deferral();
    }

    /// A peer did not come back, or did not send everything again, in time.
    pub(super) fn expire_graceful(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        let due = |at: &mut Option<std::time::Instant>| at.take_if(|at| *at <= now).is_some();
        let (restart, stale) = (due(&mut peer.restart_until), due(&mut peer.stale_until));
        let alone = peer.dynamic.is_some() && peer.main.conn.is_none() && peer.incoming.is_none();
        if restart || stale {
            for family in Family::ALL {
                self.rib.drop_routes(id, family, true);
            }
        }
        if restart && alone {
            self.remove_peer(id);
        }
    }

    /// We have restarted: do we know enough to choose (RFC 4724 section 4.1)?
    pub(super) fn check_deferral(&mut self) {
        if self.deferral.is_none() {
            return;
        }
        let heard = |peer: &Peer| {
            let Some(agreed) = peer.main.agreed.as_ref().filter(|_| peer.is_established()) else {
                return false;
            };
            // One that cannot say where its routes end, or that waits for us, is not waited for.
            agreed.graceful.is_none_or(|g| g.restarting)
                || agreed.families.set().all(|family| peer.end_of_rib[family])
        };
        if self.peers.iter().filter(|(_, p)| p.config.enabled && p.dynamic.is_none()).all(|(_, p)| heard(p)) {
            self.end_deferral();
        }
    }

    pub(super) fn end_deferral(&mut self) {
        self.deferral = None;
        self.rib.deferring = false;
        // Forwarding is told first what is, then that nothing else is.
        self.flush();
        self.outputs.push_back(Output::Event(Event::RestartOver));
    }
}

/// Do a peer's routes outlive its session?
fn keeps(agreed: &Agreed, reason: &DownReason) -> bool {
    // RFC 8538 section 4: over a NOTIFICATION where both want it, unless it is a hard reset.
    match reason {
        DownReason::Closed => true,
        DownReason::Sent(notification) => agreed.graceful_notification && !notification.is_for_good(),
        DownReason::Received(notification) => agreed.graceful_notification && !notification.is_hard_reset(),
    }
}
