//! From all leases to peers, and what of them cannot be.
//!
//! A pure function of what is in the store, so that every node that reads the same leases comes to the same peers. Of
//! two leases that contradict each other the one made first counts; of several by one node, the one written last.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::lease::{LeaseBackend, LeaseKey, LeaseValue, Vtep};
use super::network::NetworkConfig;
use crate::config::{Peer, nets};
use crate::fleet::Backend;

/// A lease as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The subnets that its key names.
    pub key: LeaseKey,
    /// Its value; none = it cannot be read, and the subnets are taken all the same.
    pub value: Option<LeaseValue>,
    /// The revision that made it.
    pub created: i64,
    /// The revision that wrote it last.
    pub modified: i64,
    /// The etcd lease that it ends with; 0 = it stays until somebody removes it.
    pub lease: i64,
}

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Its IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Its subnets, once it has them.
    pub key: Option<LeaseKey>,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The other nodes, in order of their names, which are their addresses.
    pub peers: Vec<Arc<Peer>>,
    /// What is wrong with a lease, by its name in the store.
    pub problems: BTreeMap<String, String>,
}

/// One family's half of a lease.
pub(super) struct Half<'a> {
    name: &'a str,
    entry: &'a Entry,
    net: IpNet,
    end: IpAddr,
    vtep: Option<Vtep>,
}

/// How packets for one node of one family travel: what all its subnets share.
pub(super) type Way = (IpAddr, Backend, Option<crate::mac::Mac>);

/// A lease's name, the peer's, and the range.
pub(super) type Given = (String, String, IpNet);

impl Half<'_> {
    pub(super) fn net(&self) -> IpNet {
        self.net
    }
}

impl Roster {
    /// The peers that these leases make, by their names in the store.
    #[must_use]
    pub fn of(network: &NetworkConfig, own: &Own, leases: &BTreeMap<String, Entry>) -> Roster {
        Roster::and_whether_agreed(network, own, leases).0
    }

    /// The same; and where none of them has to do with another, which lease gives which peer which range.
    pub(super) fn and_whether_agreed(
        network: &NetworkConfig,
        own: &Own,
        leases: &BTreeMap<String, Entry>,
    ) -> (Roster, Option<Vec<Given>>) {
        let mut roster = Roster::default();
        let halves = roster.collect(network, own, leases);
        let agreed = agree(own, &halves).then(|| {
            halves.iter().map(|(half, _)| (half.name.to_owned(), half.end.to_string(), half.net)).collect()
        });
        if agreed.is_some() {
            let one = |(half, backend): &(Half<'_>, Backend)| peer(way(half, *backend), vec![half.net]);
            roster.peers = halves.iter().map(one).map(Arc::new).collect();
        } else {
            roster.settle(own, halves);
        }
        roster.peers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        (roster, agreed)
    }

    /// The peer of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<Peer>> {
        let at = self.peers.binary_search_by(|peer| peer.name.as_str().cmp(name)).ok()?;
        self.peers.get(at)
    }

    /// What of one lease could be a peer, looked at alone.
    pub(super) fn of_one<'a>(
        &mut self,
        network: &NetworkConfig,
        own: &Own,
        name: &'a str,
        entry: &'a Entry,
    ) -> Vec<(Half<'a>, Backend)> {
        let halves = self.halves(network, own, name, entry).into_iter().flatten();
        halves.filter_map(|half| self.backend(network, &half).map(|backend| (half, backend))).collect()
    }

    /// What could be a peer, looked at alone.
    fn collect<'a>(
        &mut self,
        network: &NetworkConfig,
        own: &Own,
        leases: &'a BTreeMap<String, Entry>,
    ) -> Vec<(Half<'a>, Backend)> {
        let mut halves = Vec::with_capacity(leases.len());
        for (name, entry) in leases {
            halves.extend(self.of_one(network, own, name, entry));
        }
        halves
    }

    /// Peers of leases some of which contradict each other, or are of one node.
    fn settle(&mut self, own: &Own, mut halves: Vec<(Half<'_>, Backend)>) {
        let mut newest: HashMap<IpAddr, (i64, &str)> = HashMap::new();
        for (half, _) in &halves {
            let this = (half.entry.modified, half.name);
            let last = newest.entry(half.end).or_insert(this);
            *last = (*last).max(this);
        }
        // What a node wrote last says how it is reached now.
        let current: HashMap<IpAddr, Way> = halves
            .iter()
            .filter(|(half, _)| newest.get(&half.end).is_some_and(|(_, name)| *name == half.name))
            .map(|(half, backend)| (half.end, way(half, *backend)))
            .collect();
        halves.retain(|(half, backend)| {
            let same = current.get(&half.end) == Some(&way(half, *backend));
            if !same {
                let by = newest.get(&half.end).map_or("", |(_, name)| *name);
                self.tell(half.name, format!("{} is replaced by {by} of the same node", half.net));
            }
            same
        });
        halves.sort_by_key(|(half, _)| (half.entry.created, half.name));
        let mut taken = Taken::default();
        let own_nets = own.key.iter().flat_map(|key| nets_of(*key));
        for net in own_nets {
            // Those of one node do not overlap.
            let _ = taken.add(net, "this node's");
        }
        let mut ways: HashMap<Way, Vec<IpNet>> = HashMap::with_capacity(halves.len());
        for (half, backend) in &halves {
            match taken.add(half.net, half.name) {
                Ok(()) => ways.entry(way(half, *backend)).or_default().push(half.net),
                Err((net, by)) => self.tell(half.name, format!("{} overlaps {by} subnet {net}", half.net)),
            }
        }
        self.peers = ways.into_iter().map(|(way, nets)| Arc::new(peer(way, nets))).collect();
    }

    fn tell(&mut self, name: &str, problem: String) {
        self.problems.entry(name.to_owned()).or_insert(problem);
    }

    fn halves<'a>(
        &mut self,
        network: &NetworkConfig,
        own: &Own,
        name: &'a str,
        entry: &'a Entry,
    ) -> [Option<Half<'a>>; 2] {
        // Without a value somebody else has told why.
        let Some(value) = &entry.value else { return [None, None] };
        if own.key == Some(entry.key) {
            if own.address != Some(value.public_ip) {
                self.tell(name, format!("{} says that it has this node's subnet", value.public_ip));
            }
            return [None, None];
        }
        let (vtep4, vtep6) = match value.backend {
            LeaseBackend::Vxlan { v4, v6 } => (v4, v6),
            _ => (None, None),
        };
        let four = Half { name, entry, net: entry.key.v4.into(), end: value.public_ip.into(), vtep: vtep4 };
        // Raw IP goes in IPv4 whatever it carries.
        let end6 = match value.backend {
            LeaseBackend::Ipip => Some(value.public_ip.into()),
            _ => value.public_ipv6.map(IpAddr::V6),
        };
        let six = match (entry.key.v6, end6, &network.v6) {
            (Some(net), Some(end), Some(_)) => Some(Half { name, entry, net: net.into(), end, vtep: vtep6 }),
            (Some(net), None, Some(_)) => {
                self.tell(name, format!("{net} is without PublicIPv6"));
                None
            }
            // A network without IPv6 has no use for it.
            _ => None,
        };
        [Some(four), six].map(|half| {
            half.filter(|half| match self.check(network, own, half) {
                Ok(()) => true,
                Err(problem) => {
                    self.tell(name, problem);
                    false
                }
            })
        })
    }

    fn check(&self, network: &NetworkConfig, own: &Own, half: &Half<'_>) -> Result<(), String> {
        let pool = if half.net.addr().is_ipv4() { Some(&network.v4) } else { network.v6.as_ref() };
        let Some(pool) = pool.filter(|pool| pool.network.contains(&half.net)) else {
            return Err(format!("{} is not inside the network", half.net));
        };
        if too_wide(&pool.network, &half.net) {
            return Err(format!(
                "{} is more than a quarter of the network, which no node is given",
                half.net
            ));
        }
        if own.address.map(IpAddr::V4) == Some(half.end) || own.address6.map(IpAddr::V6) == Some(half.end) {
            return Err(format!("{} claims this node's address {}", half.net, half.end));
        }
        if network.networks().iter().any(|net| net.contains(&half.end)) {
            return Err(format!("the node's address {} is inside the network of pods", half.end));
        }
        Ok(())
    }

    /// How packets for it travel; none = it is no peer, and if that is odd, somebody is told.
    fn backend(&mut self, network: &NetworkConfig, half: &Half<'_>) -> Option<Backend> {
        let value = half.entry.value.as_ref()?;
        match (&value.backend, half.vtep) {
            // Whoever was promised this subnet is not there yet.
            (LeaseBackend::None, _) if half.entry.lease == 0 && network.backend.kind() != "udp" => None,
            (LeaseBackend::None | LeaseBackend::Udp, _) if half.net.addr().is_ipv6() => {
                self.tell(half.name, format!("udp carries no IPv6: {} is not reached", half.net));
                None
            }
            (LeaseBackend::None | LeaseBackend::Udp, _) => Some(Backend::Udp),
            (LeaseBackend::Vxlan { .. }, Some(vtep)) => Some(Backend::Vxlan { vni: vtep.vni }),
            (LeaseBackend::Vxlan { .. }, None) => {
                let field = if half.net.addr().is_ipv4() { "BackendData" } else { "BackendV6Data" };
                self.tell(half.name, format!("{field} is missing"));
                None
            }
            (LeaseBackend::HostGw, _) => Some(Backend::Direct),
            (LeaseBackend::Ipip, _) => Some(Backend::Ipip),
            (LeaseBackend::Other(kind), _) => {
                self.tell(half.name, format!("BackendType {kind:?} is not supported"));
                None
            }
        }
    }
}

/// Is each of another node, and does none reach into another's range or ours? So it is nearly always, and then the order in
/// which they were made does not matter.
fn agree(own: &Own, halves: &[(Half<'_>, Backend)]) -> bool {
    let mut ends: Vec<IpAddr> = halves.iter().map(|(half, _)| half.end).collect();
    ends.sort_unstable();
    let mine = own.key.iter().flat_map(|key| nets_of(*key));
    let mut nets: Vec<IpNet> = halves.iter().map(|(half, _)| half.net).chain(mine).collect();
    nets.sort_unstable_by_key(IpNet::network);
    let apart = |pair: &[IpNet]| matches!(pair, [a, b] if a.broadcast() < b.network());
    ends.windows(2).all(|pair| pair[0] != pair[1]) && nets.windows(2).all(apart)
}

pub(super) fn way(half: &Half<'_>, backend: Backend) -> Way {
    (half.end, backend, half.vtep.map(|vtep| vtep.mac))
}

pub(super) fn peer((end, backend, vtep_mac): Way, mut pod_cidrs: Vec<IpNet>) -> Peer {
    pod_cidrs.sort_unstable();
    let (address, address6) = match end {
        IpAddr::V4(v4) => (Some(v4), None),
        IpAddr::V6(v6) => (None, Some(v6)),
    };
    Peer {
        name: end.to_string(),
        address,
        address6,
        pod_cidrs,
        vtep_mac,
        backend: Some(backend),
        cross_subnet: None,
    }
}

/// More than any node can be given: a subnet is a quarter of the network at most.
pub(crate) fn too_wide(network: &IpNet, subnet: &IpNet) -> bool {
    subnet.prefix_len() < network.prefix_len().saturating_add(2)
}

/// The subnets of a key.
pub fn nets_of(key: LeaseKey) -> impl Iterator<Item = IpNet> {
    std::iter::once(IpNet::V4(key.v4)).chain(key.v6.map(IpNet::V6))
}

/// Disjoint ranges, each with whose it is.
#[derive(Debug, Default)]
pub(crate) struct Taken<'a>(BTreeMap<IpAddr, (IpNet, &'a str)>);

impl<'a> Taken<'a> {
    /// Adds a range, or says which one it overlaps.
    pub(crate) fn add(&mut self, net: IpNet, by: &'a str) -> Result<(), (IpNet, &'a str)> {
        // Being disjoint, only the last one that begins before its end can reach into it.
        let before = self.0.range(..=net.broadcast()).next_back().map(|(_, found)| *found);
        match before.filter(|(other, _)| nets::overlap(other, &net)) {
            Some(found) => Err(found),
            None => {
                self.0.insert(net.network(), (net, by));
                Ok(())
            }
        }
    }

    /// Takes one out that was added.
    pub(crate) fn remove(&mut self, net: &IpNet) {
        self.0.remove(&net.network());
    }
}

#[cfg(test)]
mod tests;
