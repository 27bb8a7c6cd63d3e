//! What an operator asks.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Speaker;
use crate::agreed::Agreed;
use crate::attr::{AttributeError, Attributes};
use crate::decision::{PathOrigin, Step};
use crate::family::{Family, PerFamily};
use crate::fsm::State;
use crate::peer::{DownReason, PeerCounters};
use crate::rib::{FibRoute, PeerId, Rejected, Slot};

/// A peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// It came from a range.
    pub dynamic: bool,
    /// State of its session.
    pub state: State,
    /// In this state so long.
    pub since: Duration,
    /// Its router id, once it is known.
    pub router_id: Option<Ipv4Addr>,
    /// What the session can do.
    pub agreed: Option<Agreed>,
    /// Prefixes received, before import policy.
    pub received: PerFamily<u32>,
    /// Of these, accepted.
    pub accepted: PerFamily<u32>,
    /// Prefixes whose best path is its.
    pub chosen: PerFamily<u32>,
    /// Routes sent.
    pub advertised: PerFamily<u32>,
    /// Times a route could not be sent to it or others with the same policy: its attributes leave no room in a
    /// message, or it has no next hop of a family they can use.
    pub unsendable: u64,
    /// It restarts, and its routes stay so long.
    pub restarting: Option<Duration>,
    /// It sent too many prefixes and is left alone.
    pub held: bool,
    /// Why the last session ended, and how long ago.
    pub last_error: Option<(Duration, DownReason)>,
    /// The last wrong attribute that did not end the session.
    pub last_attribute_error: Option<AttributeError>,
    /// Bytes not yet written.
    pub unsent: usize,
    /// Messages and errors.
    pub counters: PeerCounters,
}

/// The speaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Prefixes with at least one path.
    pub prefixes: PerFamily<usize>,
    /// Distinct sets of attributes held.
    pub attribute_sets: usize,
    /// Connections refused because nobody is configured there, or a range is full.
    pub strangers: u64,
    /// We have restarted and still collect routes.
    pub deferring: bool,
}

/// A prefix.
#[derive(Clone, Debug)]
pub struct RouteStatus {
    /// The prefix.
    pub net: IpNet,
    /// All paths to it, the best first.
    pub paths: Vec<PathStatus>,
    /// What made the best one the best.
    pub step: Option<Step>,
}

/// A path.
#[derive(Clone, Debug)]
pub struct PathStatus {
    /// Who announced it; `None`: we.
    pub peer: Option<IpAddr>,
    /// From another AS, from ours, from us.
    pub origin: PathOrigin,
    /// Path identifier (ADD-PATH).
    pub path_id: u32,
    /// As received.
    pub received: Arc<Attributes>,
    /// As import policy left it, or why it is not used.
    pub accepted: Result<Arc<Attributes>, Rejected>,
    /// Its next hop can be reached.
    pub reachable: bool,
    /// It is used: the best, or as good.
    pub used: bool,
    /// From before the peer's restart.
    pub stale: bool,
}

impl Speaker {
    /// Every peer, by address.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.peers.iter().map(|(id, _)| id).filter_map(|id| self.peer_status(id, now)).collect()
    }

    fn peer_status(&self, id: PeerId, now: Instant) -> Option<PeerStatus> {
        let peer = self.peers.get(id)?;
        let group = self.rib.groups.iter().find(|g| g.has(id));
        Some(PeerStatus {
            address: peer.config.address,
            asn: peer.config.asn,
            dynamic: peer.dynamic.is_some(),
            state: peer.main.state,
            since: now.saturating_duration_since(peer.since),
            router_id: peer.main.agreed.as_ref().map(|a| a.router_id),
            agreed: peer.main.agreed.clone(),
            received: PerFamily::from_fn(|family| self.rib.tables[family].count(id)),
            accepted: PerFamily::from_fn(|family| self.rib.tables[family].accepted(id)),
            chosen: PerFamily::from_fn(|family| self.rib.chosen(id, family)),
            advertised: PerFamily::from_fn(|family| group.map_or(0, |g| g.out[family].count(id))),
            unsendable: group.map_or(0, |g| g.unsendable),
            restarting: peer.restart_until.map(|at| at.saturating_duration_since(now)),
            held: peer.held,
            last_error: peer.last_error.clone().map(|(at, e)| (now.saturating_duration_since(at), e)),
            last_attribute_error: peer.last_attribute_error,
            unsent: peer.main.queue.len(),
            counters: peer.counters,
        })
    }

    /// Every prefix of a family, in no order.
    pub fn routes(&self, family: Family) -> impl Iterator<Item = RouteStatus> + '_ {
        self.rib.tables[family].iter().map(|slot| self.route_status(slot))
    }

    /// One prefix.
    pub fn route(&self, net: IpNet) -> Option<RouteStatus> {
        let slot = self.rib.tables[Family::of(&net)].find(&net.trunc())?;
        Some(self.route_status(slot))
    }

    /// What forwarding was told last: every prefix that it forwards by a learned route, in no order.
    pub fn fib(&self) -> impl Iterator<Item = (IpNet, &Arc<FibRoute>)> {
        self.rib.fib()
    }

    /// How a prefix is forwarded, as forwarding was told last.
    pub fn forwarded(&self, net: IpNet) -> Option<&Arc<FibRoute>> {
        self.rib.tables[Family::of(&net)].find(&net.trunc())?.fib.as_ref()
    }

    fn route_status(&self, slot: &Slot) -> RouteStatus {
        let used = usize::from(slot.equal);
        let paths = slot.paths.iter().enumerate().map(|(at, path)| {
            let source = self.rib.source(path.source);
            PathStatus {
                peer: source.filter(|s| s.origin != PathOrigin::Local).map(|s| s.addr),
                origin: source.map_or(PathOrigin::Local, |s| s.origin),
                path_id: path.path_id,
                received: Arc::clone(&path.received),
                accepted: path.accepted.clone().ok_or(path.rejected.unwrap_or(Rejected::Policy)),
                reachable: self.rib.next_hops.usable(path).is_some(),
                used: at < used,
                stale: path.stale,
            }
        });
        RouteStatus { net: slot.net, paths: paths.collect(), step: self.rib.explain(slot) }
    }

    /// The routes a peer was sent, as they were sent.
    pub fn advertised(&self, peer: IpAddr, family: Family) -> Vec<(IpNet, Arc<Attributes>)> {
        let Some(id) = self.peers.id_of(peer) else { return Vec::new() };
        let table = &self.rib.tables[family];
        let groups = self.rib.groups.iter().filter(|g| g.has(id));
        let told = groups.flat_map(|g| g.out[family].told(id));
        told.filter_map(|(at, sent)| Some((table.slot(at)?.net, Arc::clone(&sent.attributes)))).collect()
    }

    /// The speaker as a whole.
    pub fn totals(&self) -> Totals {
        Totals {
            prefixes: PerFamily::from_fn(|family| self.rib.tables[family].iter().count()),
            attribute_sets: self.rib.attributes.len(),
            strangers: self.strangers,
            deferring: self.deferral.is_some(),
        }
    }
}
