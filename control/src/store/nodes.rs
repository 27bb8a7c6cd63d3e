//! Peers out of Node objects: `spec.podCIDRs` and flannel's annotations say all that a lease says.
//!
//! So a directory of a cluster's Node manifests describes its network, with or without `[[peer]]` in the configuration
//! file. A name that the file has is the file's alone. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Objects, Problem};
use crate::config::{Config, Peer};
use crate::flannel::roster::Taken;
use crate::flannel::{LeaseBackend, LeaseValue, Vtep};
use crate::fleet::{Backend, Fleet};
use crate::mac::Mac;
use crate::objects::{Kind, Node, Object};

impl Objects {
    /// Another value whenever a Node object has changed.
    #[must_use]
    pub fn nodes_version(&self) -> (usize, u64) {
        self.good(Kind::Node).fold((0, 0), |(count, last), (_, good)| (count + 1, last.max(good.version)))
    }

    /// What the configuration file says of the nodes, and with it every other node that an object describes; and the
    /// objects of which no peer can be made.
    ///
    /// As with leases, a node whose tunnel has an end for each family is two peers: its IPv6 one is named `<node>-v6`.
    #[must_use]
    pub fn fleet(&self, config: &Config) -> (Fleet, Vec<Problem>) {
        let (mut fleet, mut problems) = (Fleet::of(config), Vec::new());
        let mut known = Known::of(config);
        let mut found = Vec::new();
        for (key, good) in self.good(Kind::Node) {
            let Object::Node(node) = &good.object else { continue };
            let Some(value) = &node.flannel else { continue };
            if *key.name == config.node.name || config.peers.iter().any(|peer| peer.name == *key.name) {
                continue;
            }
            match peers(&key.name, node, value).and_then(|peers| known.add(&key.name, &peers).map(|()| peers))
            {
                Ok(peers) => found.extend(peers),
                Err(why) => problems.push(Problem::Node { key: key.clone(), why }),
            }
        }
        fleet.peers.extend(found.into_iter().map(Arc::new));
        fleet.peers.sort_by(|a, b| a.name.cmp(&b.name));
        (fleet, problems)
    }
}

/// What is somebody's already.
struct Known<'a> {
    cluster: &'a [IpNet],
    ends: HashMap<IpAddr, &'a str>,
    ranges: Taken<'a>,
}

impl<'a> Known<'a> {
    fn of(config: &'a Config) -> Known<'a> {
        let (cluster, ends) = (&*config.network.cluster_cidrs, HashMap::new());
        let mut known = Known { cluster, ends, ranges: Taken::default() };
        let own = [config.node.address.map(IpAddr::V4), config.node.address6.map(IpAddr::V6)];
        known.ends.extend(own.into_iter().flatten().map(|end| (end, "this node")));
        let theirs = config.peers.iter().flat_map(|peer| ends_of(peer).map(|end| (end, &*peer.name)));
        known.ends.extend(theirs);
        // The file's own ranges do not overlap: that was checked.
        for net in &config.network.pod_cidrs {
            let _ = known.ranges.add(*net, "this node");
        }
        for peer in &config.peers {
            for net in &peer.pod_cidrs {
                let _ = known.ranges.add(*net, &peer.name);
            }
        }
        known
    }

    /// May these be peers beside those there are?
    fn add(&mut self, name: &'a str, peers: &[Peer]) -> Result<(), String> {
        for end in peers.iter().flat_map(ends_of) {
            if self.cluster.iter().any(|net| net.contains(&end)) {
                return Err(format!("the node's address {end} is inside the network of pods"));
            }
            if let Some(other) = self.ends.get(&end) {
                return Err(format!("{end} is the address of {other} already"));
            }
        }
        for net in peers.iter().flat_map(|peer| &peer.pod_cidrs) {
            if !self.cluster.iter().any(|cluster| cluster.contains(net)) {
                return Err(format!("{net} is not inside network.cluster-cidrs"));
            }
            // What went in before a later one of this node was refused stays taken: to claim it is a claim.
            if let Err((theirs, other)) = self.ranges.add(*net, name) {
                return Err(format!("{net} overlaps {theirs} of {other}"));
            }
        }
        self.ends.extend(peers.iter().flat_map(ends_of).map(|end| (end, name)));
        Ok(())
    }
}

fn ends_of(peer: &Peer) -> impl Iterator<Item = IpAddr> + use<> {
    peer.address.map(IpAddr::V4).into_iter().chain(peer.address6.map(IpAddr::V6))
}

/// One or two.
fn peers(name: &str, node: &Node, value: &LeaseValue) -> Result<Vec<Peer>, String> {
    if node.pod_cidrs.is_empty() {
        return Err("spec.podCIDRs is missing".to_owned());
    }
    // Raw IP goes in IPv4 whatever it carries.
    let one_end = matches!(value.backend, LeaseBackend::Ipip);
    let (four, six): (Vec<IpNet>, Vec<IpNet>) =
        node.pod_cidrs.iter().partition(|net| one_end || net.addr().is_ipv4());
    let (vtep4, vtep6) = match value.backend {
        LeaseBackend::Vxlan { v4, v6 } => (v4, v6),
        _ => (None, None),
    };
    let mut peers = Vec::new();
    if !four.is_empty() {
        let (backend, mac) = backend(value, vtep4, "backend-data")?;
        peers.push(Peer {
            name: name.to_owned(),
            address: Some(value.public_ip),
            address6: None,
            pod_cidrs: four,
            vtep_mac: mac,
            backend: Some(backend),
            cross_subnet: None,
        });
    }
    // What has no form on the wire is no reason to do without the rest.
    let udp = matches!(value.backend, LeaseBackend::None | LeaseBackend::Udp);
    if udp && peers.is_empty() {
        return Err("udp carries no IPv6".to_owned());
    }
    if !six.is_empty() && !udp {
        let public = value.public_ipv6.ok_or("public-ipv6 is missing, which spec.podCIDRs wants")?;
        let (backend, mac) = backend(value, vtep6, "backend-v6-data")?;
        peers.push(Peer {
            name: format!("{name}-v6"),
            address: None,
            address6: Some(public),
            pod_cidrs: six,
            vtep_mac: mac,
            backend: Some(backend),
            cross_subnet: None,
        });
    }
    Ok(peers)
}

fn backend(value: &LeaseValue, vtep: Option<Vtep>, field: &str) -> Result<(Backend, Option<Mac>), String> {
    match (&value.backend, vtep) {
        (LeaseBackend::Vxlan { .. }, Some(vtep)) => Ok((Backend::Vxlan { vni: vtep.vni }, Some(vtep.mac))),
        (LeaseBackend::Vxlan { .. }, None) => Err(format!("{field} is missing")),
        (LeaseBackend::None | LeaseBackend::Udp, _) => Ok((Backend::Udp, None)),
        (LeaseBackend::HostGw, _) => Ok((Backend::Direct, None)),
        (LeaseBackend::Ipip, _) => Ok((Backend::Ipip, None)),
        (LeaseBackend::Other(kind), _) => Err(format!("backend-type {kind:?} is not supported")),
    }
}

#[cfg(test)]
mod tests;
