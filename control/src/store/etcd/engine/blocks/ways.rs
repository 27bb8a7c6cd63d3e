//! How packets for each block travel: as its node's, or as its pool says. A node whose blocks are reached in several ways is
//! a peer for each of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Pools;
use crate::config::Peer;
use crate::fleet::{Backend, Fleet, Pool};
use crate::objects::{IpPool, PoolMode};

/// What a fleet is told of a pool.
pub(super) fn facts(pool: &IpPool) -> Pool {
    // VXLAN arrives by the tunnel of the nodes' leases.
    let backend = match pool.mode {
        Some(PoolMode::Ipip { .. }) => Some(Backend::Ipip),
        Some(PoolMode::Never) => Some(Backend::Direct),
        Some(PoolMode::Vxlan { .. }) | None => None,
    };
    Pool { cidr: pool.cidr, backend, masquerade: pool.nat_outgoing, announce: !pool.disable_bgp_export }
}

/// Blocks on their way into a fleet.
pub(super) struct Ways {
    /// By their first address.
    modes: Vec<(IpNet, Option<PoolMode>)>,
    /// The peer of a node's address: the first one, as everywhere.
    by_end: HashMap<IpAddr, usize>,
    /// Those that were made here.
    more: HashMap<(IpAddr, PoolMode), usize>,
}

impl Ways {
    pub(super) fn of(fleet: &Fleet, pools: &Pools) -> Ways {
        let mut modes: Vec<_> = pools.values().map(|pool| (pool.cidr, pool.mode)).collect();
        modes.sort_unstable_by_key(|(net, _)| net.network());
        let mut by_end = HashMap::new();
        for (at, peer) in fleet.peers.iter().enumerate() {
            for end in [peer.address.map(IpAddr::V4), peer.address6.map(IpAddr::V6)].into_iter().flatten() {
                by_end.entry(end).or_insert(at);
            }
        }
        Ways { modes, by_end, more: HashMap::new() }
    }

    /// A block, or a single address, of the node with this address.
    ///
    /// # Errors
    /// The pool wants what the node cannot do; it is reached as its lease says.
    pub(super) fn add(&mut self, fleet: &mut Fleet, net: IpNet, end: IpAddr) -> Result<(), String> {
        let Some(base) = self.by_end.get(&end).copied() else { return Ok(()) };
        let (way, problem) = match fleet.peers.get(base) {
            Some(peer) => self.way(fleet, peer, &net),
            None => return Ok(()),
        };
        let at = way.and_then(|way| match self.more.get(&(end, way)) {
            Some(at) => Some(*at),
            None => {
                let peer = Peer { pod_cidrs: Vec::new(), ..apart(fleet.peers.get(base)?, way) };
                self.more.insert((end, way), fleet.peers.len());
                fleet.peers.push(Arc::new(peer));
                Some(fleet.peers.len() - 1)
            }
        });
        if let Some(peer) = fleet.peers.get_mut(at.unwrap_or(base)) {
            Arc::make_mut(peer).pod_cidrs.push(net);
        }
        problem.map_or(Ok(()), Err)
    }

    /// The pool's way, where it is not the peer's own.
    fn way(&self, fleet: &Fleet, peer: &Peer, net: &IpNet) -> (Option<PoolMode>, Option<String>) {
        let before = self.modes.partition_point(|(pool, _)| pool.network() <= net.network());
        let pool =
            before.checked_sub(1).and_then(|at| self.modes.get(at)).filter(|(pool, _)| pool.contains(net));
        let Some((pool, Some(mode))) = pool else { return (None, None) };
        let (own, across) = (fleet.backend(peer), fleet.tunnel.cross_subnet());
        match (*mode, own) {
            (PoolMode::Never, Backend::Direct) => (None, None),
            (PoolMode::Ipip { cross_subnet }, Backend::Ipip) if cross_subnet == across => (None, None),
            (PoolMode::Vxlan { cross_subnet }, Backend::Vxlan { .. }) if cross_subnet == across => {
                (None, None)
            }
            (PoolMode::Vxlan { .. }, own) if !matches!(own, Backend::Vxlan { .. }) => {
                let why = format!(
                    "IPPool {pool} wants VXLAN, but the lease of {} says {} and names no VTEP: it is reached so",
                    peer.name,
                    own.kind()
                );
                (None, Some(why))
            }
            (PoolMode::Ipip { .. }, _) if peer.address.is_none() => {
                (None, Some(format!("IPPool {pool} wants IP in IP, but {} has no IPv4 address", peer.name)))
            }
            (mode, _) => (Some(mode), None),
        }
    }
}

/// The node as it is reached in this way.
fn apart(peer: &Peer, way: PoolMode) -> Peer {
    let (kind, backend, cross_subnet) = match way {
        PoolMode::Never => ("direct", Some(Backend::Direct), false),
        PoolMode::Ipip { cross_subnet } => ("ipip", Some(Backend::Ipip), cross_subnet),
        PoolMode::Vxlan { cross_subnet } => ("vxlan", peer.backend, cross_subnet),
    };
    let suffix = if cross_subnet { "-cross-subnet" } else { "" };
    Peer {
        name: format!("{}-{kind}{suffix}", peer.name),
        backend,
        cross_subnet: Some(cross_subnet),
        ..peer.clone()
    }
}

#[cfg(test)]
mod tests;
