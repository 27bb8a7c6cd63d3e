//! Routes of an UPDATE into the tables.

use super::{Event, Output, Speaker};
use crate::family::Family;
use crate::msg::notification::{self, Notification, cease};
use crate::msg::update::Update;
use crate::rib::PeerId;
use crate::timers::Timer;

impl Speaker {
    pub(super) fn take_routes(&mut self, id: PeerId, update: Update) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(error) = update.errors.first() {
            peer.counters.attribute_errors += 1;
            peer.last_attribute_error = Some(*error);
        }
        peer.counters.treated_as_withdrawn += u64::try_from(update.treated_as_withdrawn).unwrap_or(u64::MAX);
        let Some(import) = &mut peer.import else { return };
        let mut excess = 0;
        for (_, prefixes) in &update.withdrawn {
            for nlri in prefixes {
                self.rib.withdraw(id, *nlri);
            }
        }
        for announced in update.announced {
            let received = self.rib.attributes.intern(announced.attributes);
            for nlri in announced.prefixes {
                let outcome = import.judge(&nlri.net, &received, &self.rib.own, &mut self.rib.attributes);
                if !self.rib.insert(id, nlri, &received, outcome) {
                    excess += 1;
                }
            }
        }
        peer.counters.excess_paths += excess;
        self.bound_prefixes(id);
        if let Some(family) = update.end_of_rib {
            self.end_of_routes(id, family);
        }
    }

    /// Ends the session of a peer that sends too much.
    fn bound_prefixes(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(bound) = peer.config.max_prefixes else { return };
        for family in Family::ALL {
            let count = self.rib.tables[family].count(id);
            let warn = u64::from(count) * 100 >= u64::from(bound.limit) * u64::from(bound.warn_percent);
            if warn && bound.warn_percent > 0 && !peer.warned[family] {
                peer.warned[family] = true;
                let peer = peer.config.address;
                self.outputs.push_back(Output::Event(Event::MaxPrefixesNear { peer, count }));
            }
            if count > bound.limit && !bound.warn_only {
                let [a, b] = family.afi().to_be_bytes();
                let [c, d, e, f] = bound.limit.to_be_bytes();
                let data = [a, b, Family::SAFI, c, d, e, f];
                let notification = Notification::with((notification::CEASE, cease::MAX_PREFIXES), &data);
                self.stop(id, notification, false);
                let now = self.now;
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.held = true;
                    if let Some(time) = bound.restart {
                        peer.main.timers.start(Timer::IdleHold, now + time);
                    }
                }
                return;
            }
        }
    }
}
