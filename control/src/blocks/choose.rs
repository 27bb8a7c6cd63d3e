//! Which pools a pod may have addresses of, and which addresses it is to have.
//!
//! A pool that pods ask for by annotation need not select their node (as Calico has it), but their namespace always: one
//! tenant does not take another's addresses by naming them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::assign::Ask;
use crate::config::nets::overlap;
use crate::ipam::Family;
use crate::objects::meta::LabelMap;
use crate::objects::{IpPool, Wishes};

/// A pool as far as blocks depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRange {
    /// Its addresses.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
}

impl PoolRange {
    /// The block of one of its addresses.
    #[must_use]
    pub fn block_of(&self, addr: IpAddr) -> Option<IpNet> {
        if !self.cidr.contains(&addr) {
            return None;
        }
        IpNet::new(addr, self.block_size).ok().map(|net| net.trunc())
    }
}

/// What is chosen from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The pools in force, by name.
    pub pools: &'a BTreeMap<Arc<str>, Arc<IpPool>>,
    /// Labels of this node.
    pub node: &'a LabelMap,
    /// Labels of the pod's namespace.
    pub namespace: &'a LabelMap,
    /// Addresses that no pod is given: those of nodes.
    pub never: &'a BTreeSet<IpAddr>,
    /// Those that a pod is given only when it asks for them: IPReservations.
    pub reserved: &'a [IpNet],
}

/// What the pod asks for.
#[derive(Debug, Clone, Default)]
pub struct PodWishes {
    /// By its annotations.
    pub annotations: Wishes,
    /// By the runtime: `CNI_ARGS`, the capability `ips`. They count before the annotation.
    pub addrs: Vec<IpAddr>,
}

/// Why nothing can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// An annotation that cannot be read.
    #[error("annotation cni.projectcalico.org/{key} = {text:?}: {why}")]
    Annotation {
        /// Which.
        key: &'static str,
        /// Its text, cut.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A pool that is not there.
    #[error("there is no usable IPPool {name:?} for this pod")]
    Pool {
        /// Its name or range, cut.
        name: String,
    },
    /// Nothing selects this pod.
    #[error("no IPPool that is enabled selects this node and the pod's namespace")]
    None,
    /// Two addresses of one family.
    #[error("two {family} addresses were requested; a pod has one of each family")]
    Twice {
        /// The family.
        family: Family,
    },
    /// An address that no pool has, or not for this pod.
    #[error("address {addr} is in no enabled IPPool for this pod")]
    Outside {
        /// It.
        addr: IpAddr,
    },
    /// An address of a node.
    #[error("address {addr} is a node's own")]
    Node {
        /// It.
        addr: IpAddr,
    },
}

/// Pools that cannot be used, and why: they overlap the network that nodes have their own addresses in, another pool
/// (the one first by name counts), or hold a node's address. The others are cut out of `pools`.
pub fn unusable(
    pools: &mut BTreeMap<Arc<str>, Arc<IpPool>>,
    networks: &[IpNet],
    nodes: &BTreeSet<IpAddr>,
) -> BTreeMap<Arc<str>, String> {
    let mut problems = BTreeMap::new();
    let mut good: Vec<(IpNet, Arc<str>)> = Vec::new();
    for (name, pool) in pools.iter() {
        let net = pool.cidr;
        let family = networks.iter().any(|all| all.addr().is_ipv4() == net.addr().is_ipv4());
        let why = if let Some(all) = networks.iter().find(|all| overlap(all, &net)) {
            format!("{net} overlaps the network {all} that nodes have their own ranges of")
        } else if !family {
            format!("{net} is of a family that the network does not have")
        } else if let Some((other, by)) = good.iter().find(|(other, _)| overlap(other, &net)) {
            format!("{net} overlaps {other} of IPPool {by}")
        } else if let Some(node) = nodes.range(net.network()..=net.broadcast()).next() {
            format!("{net} holds a node's address, {node}")
        } else {
            good.push((net, Arc::clone(name)));
            continue;
        };
        problems.insert(Arc::clone(name), format!("{why}; the pool is not used"));
    }
    pools.retain(|name, _| !problems.contains_key(name));
    problems
}

/// What to ask the allocator for.
///
/// # Errors
/// See [`ChooseError`].
pub fn choose(
    facts: Facts<'_>,
    wishes: &PodWishes,
    node: &str,
    handle: &str,
    of: BTreeMap<String, String>,
) -> Result<Ask, ChooseError> {
    let open = |pool: &IpPool| !pool.disabled && pool.workloads && pool.serves_namespace(facts.namespace);
    let range = |pool: &IpPool| PoolRange { cidr: pool.cidr, block_size: pool.block_size };
    let mut addrs = wishes.addrs.clone();
    if addrs.is_empty() {
        let wanted: Vec<String> = list("ipAddrs", wishes.annotations.addrs.as_deref())?.unwrap_or_default();
        for text in wanted {
            addrs.push(text.parse().map_err(|_| annotation("ipAddrs", &text, "an address is wanted"))?);
        }
    }
    let mut fixed = Vec::with_capacity(addrs.len());
    for (i, addr) in addrs.iter().enumerate() {
        let family = Family::of(*addr);
        if addrs[..i].iter().any(|other| Family::of(*other) == family) {
            return Err(ChooseError::Twice { family });
        }
        if facts.never.contains(addr) {
            return Err(ChooseError::Node { addr: *addr });
        }
        let mut pools = facts.pools.values().filter(|pool| open(pool));
        let block = pools.find_map(|pool| range(pool).block_of(*addr));
        fixed.push((*addr, block.ok_or(ChooseError::Outside { addr: *addr })?));
    }
    let mut pools = Vec::new();
    for (family, key, text) in [
        (Family::V4, "ipv4pools", &wishes.annotations.pools4),
        (Family::V6, "ipv6pools", &wishes.annotations.pools6),
    ] {
        if addrs.iter().any(|addr| Family::of(*addr) == family) {
            continue;
        }
        let of_family = |pool: &IpPool| Family::of(pool.cidr.addr()) == family;
        match list(key, text.as_deref())? {
            Some(names) => {
                for name in names {
                    let named = |(known, pool): &(&Arc<str>, &Arc<IpPool>)| {
                        ***known == *name || name.parse() == Ok(pool.cidr)
                    };
                    let found =
                        facts.pools.iter().filter(|(_, pool)| open(pool) && of_family(pool)).find(named);
                    let cut = || ChooseError::Pool { name: name.chars().take(300).collect() };
                    pools.push(range(found.ok_or_else(cut)?.1));
                }
            }
            None => {
                let selected = |pool: &&Arc<IpPool>| {
                    open(pool) && of_family(pool) && !pool.manual && pool.serves_node(facts.node)
                };
                pools.extend(facts.pools.values().filter(selected).map(|pool| range(pool)));
            }
        }
    }
    if fixed.is_empty() && pools.is_empty() {
        return Err(ChooseError::None);
    }
    Ok(Ask {
        handle: handle.to_owned(),
        node: node.to_owned(),
        of,
        fixed,
        pools,
        never: facts.never.clone(),
        reserved: facts.reserved.to_vec(),
    })
}

fn annotation(key: &'static str, text: &str, why: &'static str) -> ChooseError {
    ChooseError::Annotation { key, text: text.chars().take(300).collect(), why }
}

/// A list of texts in JSON; none = the annotation is not there.
fn list(key: &'static str, text: Option<&str>) -> Result<Option<Vec<String>>, ChooseError> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let list: Vec<String> =
        serde_json::from_str(text).map_err(|_| annotation(key, text, "a JSON list of texts is wanted"))?;
    if list.is_empty() {
        return Err(annotation(key, text, "the list is empty"));
    }
    Ok(Some(list))
}
