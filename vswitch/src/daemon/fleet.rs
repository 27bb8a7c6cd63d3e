//! What a store tells of the nodes, taken over: ranges, peers and how each is spoken to.
//!
//! A store tells a whole [`Fleet`] each time; [`Daemon::set_fleet`] makes everything follow it. What is right already is
//! left alone, so the same fleet told again changes nothing, and what somebody else changed meanwhile is put right.
//!
//! ```text
//! Fleet ──► facts, peers ──► sockets opened ──► host routes added ──► tables published ──► the rest removed
//! ```
//!
//! In this order no packet meets a form of tunnel whose socket is not open, or a direct peer without its route.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control::attachments::StateDir;
use control::config::{Config, Node, Peer, Tunnel as TunnelConfig};
use control::fleet::{Backend, Fleet};
use control::ipam::Ipam;
use control::mac::Mac;
use encap::{Form, Tunnel};
use ipnet::IpNet;

use super::uplinks::{self, Group};
use super::{Daemon, DaemonError, chain, masquerade, node};
use crate::compile::{NodeFacts, PeerFacts};
use crate::snapshot::{PeerStatsBlocks, peer_stats};

/// Ways to peers that the uplink TAP is probed on, at most.
const PROBE_WAYS: usize = 8;

impl Daemon {
    /// Takes over what a store says about nodes and ranges; in force everywhere when this returns.
    ///
    /// Statistics of peers that stay go on, by name. Pods keep the addresses they have: those outside the node's new
    /// ranges are routed and masqueraded as before for as long as they run, but no new pod gets one.
    ///
    /// # Errors
    /// The first thing that could not be set up. Everything else is; what failed is told as a problem of the node and
    /// tried again by its upkeep. Only [`DaemonError::Switch`] is for good.
    pub fn set_fleet(&mut self, fleet: Arc<Fleet>) -> Result<(), DaemonError> {
        if fleet.pod_cidrs != self.fleet.pod_cidrs {
            let stays = |net: &IpNet| fleet.pod_cidrs.contains(net);
            let lost: Vec<IpNet> = self.fleet.pod_cidrs.iter().copied().filter(|net| !stays(net)).collect();
            self.change_ranges(&fleet.pod_cidrs);
            self.write_again(&lost);
        }
        let vtep_mac = match vtep_mac(&fleet, &self.state) {
            Ok(mac) => mac,
            Err(err) => {
                // Without its own MAC the node cannot be reached by VXLAN; what it has stays.
                tracing::error!(err = %chain(&err), "the tunnel's MAC");
                Mac(self.facts.vtep_mac.0)
            }
        };
        self.facts = facts(&self.config, &fleet, vtep_mac, self.facts.mtu);
        let before = (&*self.fleet, &*self.peers);
        self.peers = peers(&fleet, &self.config.node, before, self.whole, self.switch.workers());
        self.path_mtus.retain(|addr, _| self.peers.iter().any(|p| p.addresses.first() == Some(addr)));
        self.fleet = fleet;
        self.level_paths();
        let mut first = None;
        let mut note = |result: Result<(), DaemonError>| {
            if let Err(err) = result {
                first.get_or_insert(err);
            }
        };

        let needs = uplinks::needs(&self.fleet, &self.config.node);
        let before = self.uplinks.have();
        note(self.set_uplinks(&before.union(&needs).copied().collect()));
        // Often it is what it was; then nothing has to be there before the tables.
        if self.host.as_ref() != Some(&self.host_plan()) {
            note(self.configure_host(false));
        }
        if self.guard.set_node_addresses(host_addresses(&self.facts)) {
            self.compile_policy();
        }
        self.publish()?;
        note(self.set_uplinks(&needs));
        note(self.configure_host(true));
        note(self.install_masquerade());
        self.uplinks.probe_ways(self.probe_ways());
        self.watch_paths();
        if self.uplink.is_some_and(|link| self.mtu_on(link.mtu) != Ok(u32::from(self.facts.mtu))) {
            self.uplink = None;
            self.look_at_uplink();
        }
        first.map_or(Ok(()), Err)
    }

    /// The node has other ranges: new pods get addresses of them.
    fn change_ranges(&mut self, pod_cidrs: &[IpNet]) {
        let mut ipam = Ipam::new(pod_cidrs);
        for (id, a) in &self.attached {
            if let Err(err) = ipam.restore(id, &a.record.addresses) {
                tracing::error!(%id, %err, "keep a pod's addresses");
            }
        }
        self.ipam = ipam;
        self.former = former(pod_cidrs, self.attached.values().flat_map(|a| &a.record.addresses));
    }

    /// A pod is gone: its address need not be routed any more where it was outside the node's ranges.
    pub(super) fn forget_former(&mut self) {
        if self.former.is_empty() {
            return;
        }
        let now = former(&self.facts.pod_cidrs, self.attached.values().flat_map(|a| &a.record.addresses));
        if now != self.former {
            self.former = now;
            self.restore_host();
            if let Err(err) = self.install_masquerade() {
                tracing::debug!(err = %chain(&err), "the nftables table");
            }
        }
    }

    /// Opens and closes tunnel sockets until these are there, and deals them out.
    fn set_uplinks(&mut self, needs: &std::collections::BTreeSet<Group>) -> Result<(), DaemonError> {
        if *needs == self.uplinks.have() {
            self.problem("tunnel", None);
            return Ok(());
        }
        let set = self.uplinks.set(needs, &self.keeper);
        self.switch.replace_uplinks(self.uplinks.deal()?)?;
        self.problem("tunnel", set.as_ref().err().map(|err| chain(err)));
        Ok(set?)
    }

    /// Tries again what could not be opened.
    pub(super) fn restore_uplinks(&mut self) {
        let needs = uplinks::needs(&self.fleet, &self.config.node);
        if let Err(err) = self.set_uplinks(&needs) {
            tracing::debug!(err = %chain(&err), "tunnel sockets");
        }
    }

    /// The host's side as it should be; what is right already is left alone, and what is not wanted any more is only
    /// removed with `prune`.
    pub(super) fn configure_host(&mut self, prune: bool) -> Result<(), DaemonError> {
        let plan = self.host_plan();
        let done = node::configure(&plan, prune);
        self.problem("host", done.as_ref().err().map(|err| chain(err)));
        self.host = done.is_ok().then_some(plan);
        Ok(done?)
    }

    fn host_plan(&self) -> node::Plan {
        let facts = &self.facts;
        let routers: Vec<IpAddr> = [facts.router(false), facts.router(true)].into_iter().flatten().collect();
        let masquerade::Ranges { cluster, own, .. } = self.ranges();
        node::Plan {
            uplink: self.config.node.uplink.clone(),
            state_dir: self.config.node.state_dir.clone(),
            mtu: u32::from(facts.mtu),
            routers,
            ranges: [cluster, own].concat(),
            direct: direct_routes(&self.peers),
            loose: accepts_direct(&self.peers, &self.config.node),
        }
    }

    /// The cluster's ranges and this node's, with the addresses of pods that are outside them.
    pub(super) fn ranges(&self) -> masquerade::Ranges {
        let beyond = |net: &&IpNet| !self.facts.cluster_cidrs.iter().any(|c| c.contains(*net));
        let cluster = self.facts.cluster_cidrs.iter().chain(self.former.iter().filter(beyond));
        let own = self.facts.pod_cidrs.iter().chain(&self.former);
        masquerade::Ranges {
            cluster: cluster.copied().collect(),
            own: own.copied().collect(),
            plain: self.fleet.pools.iter().filter(|pool| !pool.masquerade).map(|pool| pool.cidr).collect(),
        }
    }

    fn install_masquerade(&mut self) -> Result<(), DaemonError> {
        let ranges = self.ranges();
        if !self.config.network.masquerade || self.masqueraded.as_ref() == Some(&ranges) {
            return Ok(());
        }
        let done = masquerade::install(&ranges);
        self.problem("nftables", done.as_ref().err().map(|err| chain(err)));
        done?;
        self.masqueraded = Some(ranges);
        Ok(())
    }

    /// Peers on whose ways super-frames might leave whole.
    fn probe_ways(&self) -> Vec<(IpAddr, IpAddr)> {
        let vxlan = |p: &&Arc<PeerFacts>| matches!(p.tunnel, Some(Tunnel::Vxlan { .. }));
        let to = self.peers.iter().filter(vxlan).filter_map(|p| p.addresses.first().copied());
        to.filter_map(|to| {
            let own = self.facts.addresses.iter().find(|a| a.is_ipv6() == to.is_ipv6())?;
            Some((*own, to))
        })
        .take(PROBE_WAYS)
        .collect()
    }
}

/// What compile is told about this node.
pub(super) fn facts(config: &Config, fleet: &Fleet, vtep_mac: Mac, mtu: u16) -> NodeFacts {
    let forms = fleet.backends().into_iter().filter_map(uplinks::form).filter(|f| *f != Form::Ipip);
    let v4 = config.node.address.map(IpAddr::V4);
    NodeFacts {
        cluster_cidrs: fleet.cluster_cidrs.clone(),
        pod_cidrs: fleet.pod_cidrs.clone(),
        addresses: v4.into_iter().chain(config.node.address6.map(IpAddr::V6)).collect(),
        tunnel: tunnel(fleet.tunnel.backend()),
        tunnel_ports: forms.map(|form| uplinks::port(&fleet.tunnel, form)).collect(),
        vtep_mac: encap::Mac(vtep_mac.0),
        mtu,
    }
}

/// The data path's word for a backend.
fn tunnel(backend: Backend) -> Option<Tunnel> {
    match backend {
        Backend::Vxlan { vni } => Some(Tunnel::Vxlan { vni }),
        Backend::Udp => Some(Tunnel::Udp),
        Backend::Ipip => Some(Tunnel::Ipip),
        Backend::Direct => None,
    }
}

/// The peers of a fleet. Of those that were there `before`, in another fleet of this node, their statistics stay, by name;
/// one that did not change is shared with it.
pub fn peers(
    fleet: &Fleet,
    node: &Node,
    before: (&Fleet, &[Arc<PeerFacts>]),
    whole: bool,
    workers: usize,
) -> Vec<Arc<PeerFacts>> {
    let mut known = before.0.peers.iter().zip(before.1).peekable();
    let one = |p: &Arc<Peer>| {
        // Both are in order of their names.
        while known.next_if(|(was, _)| was.name < p.name).is_some() {}
        let known = known.next_if(|(was, _)| was.name == p.name);
        match known {
            Some((was, facts))
                if Arc::ptr_eq(was, p) && before.0.tunnel == fleet.tunnel && facts.whole == whole =>
            {
                Arc::clone(facts)
            }
            _ => {
                let stats = known.map(|(_, facts)| Arc::clone(&facts.stats));
                let stats = stats.unwrap_or_else(|| peer_stats(workers));
                Arc::new(PeerFacts { whole, ..peer(fleet, node, p, stats) })
            }
        }
    };
    fleet.peers.iter().map(one).collect()
}

/// What compile is told about a peer.
fn peer(fleet: &Fleet, node: &Node, p: &Peer, stats: PeerStatsBlocks) -> PeerFacts {
    let backend = fleet.backend(p);
    let reach = fleet.reach(node, p);
    let others = p.address.map(IpAddr::V4).into_iter().chain(p.address6.map(IpAddr::V6));
    let mut addresses: Vec<IpAddr> = reach.into_iter().collect();
    match reach {
        Some(first) => addresses.extend(others.filter(|a| *a != first)),
        None => tracing::warn!(
            peer = p.name,
            backend = backend.kind(),
            "has no address that this node can reach in this form: left out"
        ),
    }
    let near = fleet.is_near(node, p);
    // A direct peer that sends encapsulated is answered in this node's own form.
    let form = uplinks::form(backend).or_else(|| uplinks::form(fleet.tunnel.backend()));
    PeerFacts {
        name: p.name.as_str().into(),
        addresses,
        pod_cidrs: p.pod_cidrs.clone(),
        tunnel: tunnel(backend).filter(|_| !near),
        port: form.map_or(0, |form| uplinks::port(&fleet.tunnel, form)),
        vni: match backend {
            Backend::Vxlan { vni } => Some(vni),
            _ => None,
        },
        vtep_mac: encap::Mac(p.vtep_mac.unwrap_or_default().0),
        path_mtu: u16::MAX,
        whole: false,
        stats,
    }
}

/// The node's own addresses as policy sees them: those of the underlay, and those in the pod ranges.
pub(super) fn host_addresses(facts: &NodeFacts) -> Vec<IpAddr> {
    let routers = [facts.router(false), facts.router(true)].into_iter().flatten();
    facts.addresses.iter().copied().chain(routers).collect()
}

/// This node's VTEP MAC; none but where VXLAN is spoken.
///
/// # Errors
/// When it cannot be kept.
pub(super) fn vtep_mac(fleet: &Fleet, state: &StateDir) -> Result<Mac, DaemonError> {
    if let TunnelConfig::Vxlan { vtep_mac: Some(mac), .. } = &fleet.tunnel {
        return Ok(*mac);
    }
    if !fleet.backends().iter().any(|b| matches!(b, Backend::Vxlan { .. })) {
        return Ok(Mac::default());
    }
    if let Some(mac) = state.vtep_mac()? {
        return Ok(mac);
    }
    let [a, b, c, d, e, _, _, _] = crate::switch::random_seed()[0].to_be_bytes();
    let mac = Mac([0x0e, a, b, c, d, e]);
    state.save_vtep_mac(mac)?;
    Ok(mac)
}

/// Addresses of pods outside the node's ranges: pods that were attached when it had others.
pub(super) fn former<'a>(pod_cidrs: &[IpNet], addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<IpNet> {
    let outside = |a: &&IpAddr| !pod_cidrs.iter().any(|net| net.contains(*a));
    IpNet::aggregate(&addresses.filter(outside).map(|a| IpNet::from(*a)).collect())
}

/// Routes the host needs for peers reached without encapsulation, each through an address of the range's family: over all
/// peers that have the range.
fn direct_routes(peers: &[Arc<PeerFacts>]) -> Vec<(IpNet, Vec<IpAddr>)> {
    let mut routes: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
    for p in peers.iter().filter(|p| p.tunnel.is_none()) {
        for net in &p.pod_cidrs {
            let v6 = matches!(net, IpNet::V6(_));
            if let Some(via) = p.addresses.iter().find(|a| a.is_ipv6() == v6) {
                routes.entry(net.trunc()).or_default().push(*via);
            }
        }
    }
    routes.into_iter().collect()
}

/// May a peer that we send to encapsulated be on our own subnet? It may send directly then, by a way that we do not use.
fn accepts_direct(peers: &[Arc<PeerFacts>], node: &Node) -> bool {
    peers.iter().any(|p| p.tunnel.is_some() && p.addresses.iter().any(|a| node.is_near(*a)))
}

#[cfg(test)]
mod tests;
