//! Peers come, change and go.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Refused, Speaker, drive, own};
use crate::config::{Config, ConfigError, PeerConfig};
use crate::family::Family;
use crate::msg::notification::{self, Notification, cease};
use crate::peer::Peer;
use crate::rib::PeerId;

impl Speaker {
    pub(super) fn add_peer(&mut self, config: PeerConfig, dynamic: Option<usize>) -> PeerId {
        let addr = config.address;
        let id = self.peers.insert(addr, Peer::new(config, dynamic, self.now));
        self.start(id);
        id
    }

    /// A neighbour that is not listed: does it come from one of the ranges?
    pub(super) fn newcomer(&mut self, addr: IpAddr) -> Result<PeerId, Refused> {
        let ranges = self.config.dynamic.iter().enumerate();
        let range = ranges.filter(|(_, d)| d.range.contains(&addr)).max_by_key(|(_, d)| d.range.prefix_len());
        let (at, dynamic) = range.ok_or(Refused::Stranger)?;
        if self.peers.iter().filter(|(_, p)| p.dynamic == Some(at)).count() >= dynamic.limit {
            return Err(Refused::Limit);
        }
        let mut config = dynamic.template.clone();
        config.address = addr;
        Ok(self.add_peer(config, Some(at)))
    }

    /// Takes a peer out, with all its routes.
    pub(super) fn remove_peer(&mut self, id: PeerId) {
        self.rib.leave(id);
        for family in Family::ALL {
            self.rib.drop_routes(id, family, false);
        }
        self.peers.remove(id);
    }

    /// Puts another configuration in force. Sessions of peers that stay as they are are not touched; new policies
    /// are applied to the routes there are.
    ///
    /// # Errors
    /// When it cannot be; then nothing has changed.
    pub fn configure(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        config.check()?;
        self.now = now;
        let (old, new) = (own(&self.config), own(&config));
        let everybody = (old.asn, old.router_id, old.cluster_id) != (new.asn, new.router_id, new.cluster_id);
        self.rib.next_hops.set_require(config.require_resolution);
        let requires = config.ebgp_requires_policy != self.config.ebgp_requires_policy;
        let addresses = old.addresses != new.addresses || self.config.next_hop_self != config.next_hop_self;
        if old.multipath.most != new.multipath.most || old.multipath.relax != new.multipath.relax {
            Family::ALL.into_iter().for_each(|family| self.rib.tables[family].touch_all());
        }
        self.rib.own = new;
        let old = std::mem::replace(&mut self.config, config);
        let changed = Notification::new((notification::CEASE, cease::CONFIG_CHANGE));
        let listed: HashSet<IpAddr> = self.config.peers.iter().map(|p| p.address).collect();
        let ranges = old.dynamic.len() == self.config.dynamic.len()
            && old.dynamic.iter().zip(&self.config.dynamic).all(|(a, b)| {
                a.range == b.range
                    && !a.template.needs_reset(&b.template)
                    && same_policies(&a.template, &b.template)
            });
        for id in self.peers.ids() {
            let Some(peer) = self.peers.get(id) else { continue };
            let (addr, dynamic) = (peer.config.address, peer.dynamic.is_some());
            let gone = if dynamic { !ranges || listed.contains(&addr) } else { !listed.contains(&addr) };
            if gone {
                self.stop(id, Notification::new((notification::CEASE, cease::DECONFIGURED)), false);
                self.remove_peer(id);
            } else if everybody {
                self.stop(id, changed.clone(), false);
            }
        }
        for peer in self.config.peers.clone() {
            match self.peers.id_of(peer.address) {
                None => {
                    self.add_peer(peer, None);
                }
                Some(id) => self.change_peer(id, peer, everybody, requires || addresses),
            }
        }
        Ok(())
    }

    fn change_peer(&mut self, id: PeerId, config: PeerConfig, reset: bool, policies: bool) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let old = std::mem::replace(&mut peer.config, config);
        let reset = reset || peer.config.needs_reset(&old);
        let policies = policies || !same_policies(&old, &peer.config);
        let enabled = peer.config.enabled;
        if !enabled && old.enabled {
            self.stop(id, Notification::administrative(cease::SHUTDOWN, ""), false);
        } else if reset {
            self.stop(id, Notification::new((notification::CEASE, cease::CONFIG_CHANGE)), false);
        } else if policies {
            self.apply_policies(id);
        }
        if enabled && (reset || !old.enabled) {
            self.start(id);
        }
    }

    /// Judges a peer's routes again, both ways.
    fn apply_policies(&mut self, id: PeerId) {
        let internal = self.is_internal(id);
        let (asn, requires) = (self.config.asn, self.config.ebgp_requires_policy);
        let Some(peer) = self.peers.get_mut(id).filter(|p| p.is_established()) else { return };
        let mut import = drive::import(peer, asn, requires, internal);
        self.rib.reimport(id, &mut import);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.import = Some(import);
        }
        if let Some(key) = self.group_key(id) {
            self.rib.regroup(id, key);
        }
    }
}

fn same_policies(a: &PeerConfig, b: &PeerConfig) -> bool {
    let same = |a: &Option<Arc<_>>, b: &Option<Arc<_>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    let rest = |p: &PeerConfig| (p.next_hop, p.subnet, p.allow_own_as, p.enforce_first_as);
    same(&a.import, &b.import) && same(&a.export, &b.export) && rest(a) == rest(b)
}
