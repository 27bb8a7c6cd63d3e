//! From objects and attached pods to [`World`].
//!
//! Pods are the matter of [`pods`](super::pods); here they come together with host endpoints, sets, tiers and policies.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::{Endpoint, EndpointId, NetSet, Order, Policy, Tier, TierEnd, World};

use super::pods::{Index, MadePod};
use super::{Objects, Problem};
use crate::objects::labels::Flat;
use crate::objects::{Kind, Object};

/// A pod attached to this node's switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalPod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The addresses it was given.
    pub addrs: Vec<IpAddr>,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAddrs {
    /// Its name, as objects name it.
    pub name: Arc<str>,
    /// Its own addresses.
    pub addrs: Vec<IpAddr>,
}

/// What was made last time: what comes out equal again keeps its allocation.
#[derive(Debug)]
pub(super) struct Made {
    predefined: [Arc<Tier>; 3],
    missing: BTreeMap<Arc<str>, Arc<Tier>>,
    pods: Vec<MadePod>,
    hosts: BTreeMap<EndpointId, Arc<Endpoint>>,
    sets: BTreeMap<SetId, Arc<NetSet>>,
}

/// Namespace and name.
type SetId = (Option<Arc<str>>, Arc<str>);

/// What was made before where it is equal, else what is made now.
fn reuse<K: Ord, T: PartialEq>(before: &BTreeMap<K, Arc<T>>, key: &K, made: T) -> Arc<T> {
    match before.get(key) {
        Some(before) if **before == made => Arc::clone(before),
        _ => Arc::new(made),
    }
}

impl Made {
    pub(super) fn new() -> Made {
        Made {
            predefined: Tier::predefined().map(Arc::new),
            missing: BTreeMap::new(),
            pods: Vec::new(),
            hosts: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

impl Objects {
    /// The world these objects make with the pods attached here, and what of it is not as written (beside
    /// [`Objects::problems`]). What did not change since the last call is the same allocation.
    ///
    /// An attached pod has the labels and ports of the Pod object of its name, if there is one, else none; a namespace
    /// or service account without an object has no labels but its name.
    pub fn world(&mut self, local: &[LocalPod], node: &NodeAddrs) -> (World, Vec<Problem>) {
        let mut problems = Vec::new();
        let before = std::mem::take(&mut self.made.pods);
        let index = self.index(node);
        let pods = index.endpoints(local, &self.contexts, before, &mut problems);
        let sets = self.sets(&index);
        drop(index);
        self.made.pods = pods;
        let hosts = self.hosts(node).map(|made| {
            let id = made.id.clone();
            let made = reuse(&self.made.hosts, &id, made);
            (id, made)
        });
        self.made.hosts = hosts.collect();
        let made = sets.into_iter().map(|made| {
            let id = (made.namespace.clone(), Arc::clone(&made.name));
            let made = reuse(&self.made.sets, &id, made);
            (id, made)
        });
        self.made.sets = made.collect();
        let policies = self.policies();
        let tiers = self.tiers(&policies, &mut problems);
        let pods = self.made.pods.iter().map(|made| &made.endpoint);
        let world = World {
            tiers,
            policies,
            endpoints: pods.chain(self.made.hosts.values()).cloned().collect(),
            sets: self.made.sets.values().cloned().collect(),
            node_addrs: node.addrs.clone(),
        };
        (world, problems)
    }

    /// The valid ones, and for those that never were, what stands in.
    fn policies(&self) -> Vec<Arc<Policy>> {
        let in_force = self.of(Kind::POLICIES).filter_map(|(_, entry)| match (&entry.good, &entry.refused) {
            (Some(good), _) => match &good.object {
                Object::Policy(policy) => Some(policy),
                _ => None,
            },
            (None, Some(refused)) => refused.deny.as_ref(),
            (None, None) => None,
        });
        in_force.cloned().collect()
    }

    /// Those there are objects of, the predefined ones, and those that policies are in without there being any.
    fn tiers(&mut self, policies: &[Arc<Policy>], problems: &mut Vec<Problem>) -> Vec<Arc<Tier>> {
        let mut tiers: BTreeMap<Arc<str>, Arc<Tier>> = BTreeMap::new();
        for (_, good) in self.good(Kind::Tier) {
            if let Object::Tier(tier) = &good.object {
                tiers.insert(Arc::clone(&tier.name), Arc::clone(tier));
            }
        }
        for tier in &self.made.predefined {
            tiers.insert(Arc::clone(&tier.name), Arc::clone(tier));
        }
        let mut missing = BTreeMap::new();
        for policy in policies {
            if !tiers.contains_key(&policy.tier) {
                problems.push(Problem::NoTier { policy: policy.id.clone(), tier: Arc::clone(&policy.tier) });
                let name = Arc::clone(&policy.tier);
                let before = self.made.missing.get(&name).cloned();
                let make = || Tier { name: Arc::clone(&name), order: Order(None), end: TierEnd::Deny };
                missing.insert(Arc::clone(&name), before.unwrap_or_else(|| Arc::new(make())));
            }
        }
        self.made.missing = missing;
        tiers.values().chain(self.made.missing.values()).cloned().collect()
    }

    fn index(&self, node: &NodeAddrs) -> Index<'_> {
        let mut index = Index { nodes: node.addrs.iter().copied().collect(), ..Index::default() };
        for (key, entry) in self.of(Kind::Namespace..=Kind::Node) {
            let Some(good) = &entry.good else { continue };
            match (&good.object, &key.namespace) {
                (Object::Namespace(namespace), _) => {
                    index.namespaces.insert(&key.name, &namespace.labels);
                }
                (Object::ServiceAccount(account), Some(namespace)) => {
                    index.accounts.insert((namespace, &key.name), &account.labels);
                }
                // They come in the order of their names, since keys do.
                (Object::Pod(pod), Some(namespace)) => {
                    index.pods.push(((namespace, &key.name), pod, good.version));
                }
                (Object::Node(node), _) => index.nodes.extend(&node.addrs),
                _ => {}
            }
        }
        for (_, good) in self.good(Kind::HostEndpoint) {
            if let Object::Host(host) = &good.object {
                index.nodes.extend(&host.addrs);
            }
        }
        index
    }

    /// Host endpoints of every node. One without addresses has, on this node, the node's.
    fn hosts<'a>(&'a self, node: &'a NodeAddrs) -> impl Iterator<Item = Endpoint> + 'a {
        self.good(Kind::HostEndpoint).filter_map(move |(key, good)| {
            let Object::Host(host) = &good.object else { return None };
            let addrs =
                if host.addrs.is_empty() && host.node == node.name { &node.addrs } else { &host.addrs };
            Some(Endpoint {
                id: EndpointId::Host { name: Arc::clone(&key.name) },
                labels: Flat::own(&host.labels).done(),
                addrs: addrs.clone(),
                ports: host.ports.clone(),
                default_allow: host.default_allow,
            })
        })
    }

    fn sets(&self, index: &Index<'_>) -> Vec<NetSet> {
        let sets = self.of(Kind::NetworkSet..=Kind::GlobalNetworkSet).filter_map(|(key, entry)| {
            let Object::Set(set) = &entry.good.as_ref()?.object else { return None };
            let flat = Flat::own(&set.labels);
            let flat = match key.namespace.as_deref() {
                Some(namespace) => flat.in_namespace(namespace, index.namespaces.get(namespace).copied()),
                None => flat,
            };
            Some(NetSet {
                namespace: key.namespace.clone(),
                name: Arc::clone(&key.name),
                labels: flat.done(),
                nets: set.nets.clone(),
            })
        });
        sets.collect()
    }
}
