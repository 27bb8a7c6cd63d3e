//! What to take: what is ours already, what was ours before, or any that is free; and what peers need to know of us.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Claim, Keeper};
use crate::config::nets::overlap;
use crate::flannel::roster::{nets_of, too_wide};
use crate::flannel::{BackendConfig, Entry, LeaseBackend, LeaseKey, LeaseValue, NetworkConfig, Pool, Vtep};
use crate::store::etcd::nodes::Nodes;

/// Among how many free subnets one is chosen, as flannel does.
pub(super) const CANDIDATES: usize = 100;

impl Keeper {
    /// A lease of another node that overlaps these subnets and was made before them.
    pub(super) fn first_owner<'a>(&self, key: &LeaseKey, created: i64, nodes: &'a Nodes) -> Option<&'a str> {
        let overlaps = |entry: &Entry| {
            let other = entry.value.as_ref().is_none_or(|value| Some(value.public_ip) != self.own.address);
            let before = entry.key != *key && entry.created < created;
            other && before && nets_of(entry.key).any(|net| nets_of(*key).any(|mine| overlap(&net, &mine)))
        };
        let possible = |entry: &Entry| {
            let networks = nodes.network.iter().flat_map(NetworkConfig::networks);
            !networks
                .into_iter()
                .any(|all| all.contains(&IpNet::V4(entry.key.v4)) && too_wide(&all, &entry.key.v4.into()))
        };
        let mut found = nodes.leases.iter().filter(|(_, entry)| overlaps(entry) && possible(entry));
        found.next().map(|(name, _)| name.as_str())
    }

    /// What to take: what is ours already, what was ours before, or any that is free.
    pub(super) fn plan(
        &mut self,
        network: &NetworkConfig,
        nodes: &Nodes,
        pick: &mut dyn FnMut(usize) -> usize,
    ) -> Option<Claim> {
        if let Err(problem) = self.value(network) {
            self.tell(problem);
            return None;
        }
        let ours = nodes.leases.iter().filter(|(name, entry)| {
            let value = entry.value.as_ref();
            value.is_some_and(|value| Some(value.public_ip) == self.own.address)
                && **name == entry.key.to_string()
        });
        // The one written last is the one the node has.
        let mine =
            ours.max_by_key(|(_, entry)| entry.modified).map(|(name, entry)| (name.clone(), entry.clone()));
        if let Some((_, entry)) = &mine
            && self.mac.is_none()
            && let Some(LeaseBackend::Vxlan { v4: Some(vtep), .. }) =
                entry.value.as_ref().map(|value| &value.backend)
        {
            // Peers know this one.
            self.mac = Some(vtep.mac);
        }
        let value = self.value(network).ok()?;
        let good = |entry: &Entry| {
            fits(network, &entry.key) && self.first_owner(&entry.key, entry.created, nodes).is_none()
        };
        if let Some((_, entry)) = mine.as_ref().filter(|(_, entry)| good(entry)) {
            let reservation = entry.lease == 0;
            let (key, over, lease) = (entry.key, entry.modified, entry.lease);
            return Some(Claim { key, value, over, remove: None, reservation, lease });
        }
        let old = mine.as_ref().map(|(name, _)| name.as_str());
        let taken: Vec<IpNet> = nodes.taken(old).collect();
        let free = |net: &IpNet| !taken.iter().any(|other| overlap(other, net));
        let wishes = self.wish.into_iter().chain(mine.as_ref().map(|(_, entry)| entry.key));
        let wished: Vec<IpNet> = wishes.flat_map(nets_of).filter(free).collect();
        let mut choose = |pool: &Pool| {
            let wish = wished
                .iter()
                .find(|net| pool.fits(net) && net.addr().is_ipv4() == pool.network.addr().is_ipv4());
            wish.copied().or_else(|| {
                let free = candidates(pool, &taken);
                free.get(pick(free.len())).copied()
            })
        };
        let v4 = choose(&network.v4).and_then(|net| if let IpNet::V4(v4) = net { Some(v4) } else { None });
        let v6 = network
            .v6
            .as_ref()
            .map(|pool| choose(pool).and_then(|net| if let IpNet::V6(v6) = net { Some(v6) } else { None }));
        let (Some(v4), false): (Option<Ipv4Net>, bool) = (v4, v6 == Some(None)) else {
            self.tell(format!("no subnet is free in {}", network.v4.network));
            return None;
        };
        let v6: Option<Ipv6Net> = v6.flatten();
        let remove = mine.map(|(name, entry)| (name, entry.modified));
        let (key, over, reservation) = (LeaseKey { v4, v6 }, 0, false);
        Some(Claim { key, value, over, remove, reservation, lease: 0 })
    }

    /// What peers need to know of us.
    fn value(&self, network: &NetworkConfig) -> Result<LeaseValue, String> {
        let public_ip = self.own.address.ok_or("this node has no IPv4 address (node.address)")?;
        let public_ipv6 = match network.v6 {
            Some(_) => Some(self.own.address6.ok_or("this node has no IPv6 address (node.address6)")?),
            None => None,
        };
        if let Some(addr) = [Some(IpAddr::V4(public_ip)), public_ipv6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .find(|addr| network.networks().iter().any(|net| net.contains(addr)))
        {
            return Err(format!("this node's address {addr} is inside the network of pods"));
        }
        // Fails for a backend that is not spoken: then nothing is taken, for no packet would come.
        network.backend.tunnel(self.mac()).map_err(|err| err.to_string())?;
        let backend = match network.backend {
            BackendConfig::Udp { .. } | BackendConfig::Other(_) => LeaseBackend::None,
            BackendConfig::Vxlan { vni, .. } => {
                let vtep = Vtep { vni, mac: self.mac() };
                LeaseBackend::Vxlan { v4: Some(vtep), v6: public_ipv6.map(|_| vtep) }
            }
            BackendConfig::HostGw => LeaseBackend::HostGw,
            BackendConfig::Ipip { .. } => LeaseBackend::Ipip,
        };
        Ok(LeaseValue { public_ip, public_ipv6, backend })
    }
}

/// Can a node have these subnets in this network?
fn fits(network: &NetworkConfig, key: &LeaseKey) -> bool {
    network.v4.fits(&key.v4.into())
        && match (&network.v6, key.v6) {
            (Some(pool), Some(v6)) => pool.fits(&v6.into()),
            (None, None) => true,
            _ => false,
        }
}

/// The first free subnets, at most [`CANDIDATES`].
pub(super) fn candidates(pool: &Pool, taken: &[IpNet]) -> Vec<IpNet> {
    let number = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let is_v4 = pool.min.is_ipv4();
    let bits: u8 = if is_v4 { 32 } else { 128 };
    let size = 1_u128.checked_shl(u32::from(bits - pool.subnet_len.min(bits))).unwrap_or(1).max(1);
    // By their first address: the furthest end of those that begin before.
    let same = taken.iter().filter(|net| net.addr().is_ipv4() == is_v4);
    let mut ends: BTreeMap<u128, u128> = BTreeMap::new();
    for net in same {
        let end = ends.entry(number(net.network())).or_default();
        *end = (*end).max(number(net.broadcast()));
    }
    let mut ends = ends.into_iter().peekable();
    let (mut at, last, mut covered) = (number(pool.min), number(pool.max), None::<u128>);
    let mut free = Vec::new();
    while at <= last && free.len() < CANDIDATES {
        while let Some((_, end)) = ends.next_if(|(start, _)| *start <= at + (size - 1)) {
            covered = covered.max(Some(end));
        }
        match covered.filter(|end| *end >= at) {
            Some(end) => {
                let steps = (end - at) / size + 1;
                let Some(next) = steps.checked_mul(size).and_then(|step| at.checked_add(step)) else { break };
                at = next;
            }
            None => {
                let addr = match is_v4 {
                    true => IpAddr::from(u32::try_from(at).unwrap_or(u32::MAX).to_be_bytes()),
                    false => IpAddr::from(at.to_be_bytes()),
                };
                free.extend(IpNet::new(addr, pool.subnet_len).ok());
                let Some(next) = at.checked_add(size) else { break };
                at = next;
            }
        }
    }
    free
}
