//! From objects and attached pods to [`World`].
//!
//! Pods are the matter of [`pods`](super::pods); here they come together with host endpoints, sets, tiers and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::{Endpoint, EndpointId, NetSet, Order, Policy, Tier, TierEnd, World};

use super::pods::{Index, MadePod};
use super::{Objects, Problem};
use crate::objects::labels::Flat;
use crate::objects::{Key, Kind, Object};

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
    /// What they were made from, beside objects that are noted when they change.
    from: Option<From>,
    hosts: BTreeMap<EndpointId, Arc<Endpoint>>,
    sets: BTreeMap<SetId, Arc<NetSet>>,
}

/// Who has which address depends on these.
#[derive(Debug, PartialEq)]
struct From {
    claims: u64,
    local: Vec<LocalPod>,
    node: NodeAddrs,
    /// What is odd about it.
    problems: Vec<Problem>,
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
            from: None,
            hosts: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

impl Objects {
    /// The world these objects make with the pods attached here, and what of it is not as written (beside
    /// [`Objects::problems`]). What did not change since the last call is the same allocation.
    ///
    /// Host endpoints come after all pods. An attached pod has the labels and ports of the Pod object of its name, if there is one, else none; a namespace
    /// or service account without an object has no labels but its name.
    pub fn world(&mut self, local: &[LocalPod], node: &NodeAddrs) -> (World, Vec<Problem>) {
        let (changed, moved) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.moved));
        let mut before = std::mem::take(&mut self.made.pods);
        let from = self.made.from.take();
        let from = from.filter(|f| f.claims == self.claims && f.local == local && f.node == *node);
        let (pods, from) = match from {
            // As nearly always: nobody's address is another's now.
            Some(from) => {
                self.renew(&mut before, &changed, &moved);
                (before, from)
            }
            None => {
                let mut problems = Vec::new();
                let pods = self.index(node).endpoints(local, &self.contexts, before, &mut problems);
                let (claims, local, node) = (self.claims, local.to_vec(), node.clone());
                (pods, From { claims, local, node, problems })
            }
        };
        let mut problems = from.problems.clone();
        (self.made.pods, self.made.from) = (pods, Some(from));
        let sets = self.sets(&self.refer());
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

    /// Makes anew those of `pods` whose object changed or whose namespace moved; their addresses stay.
    fn renew(&self, pods: &mut [MadePod], changed: &BTreeSet<Key>, moved: &BTreeSet<Arc<str>>) {
        let mut which = BTreeSet::new();
        for key in changed {
            let Some(namespace) = &key.namespace else { continue };
            which.extend(pods.binary_search_by(|pod| pod.sequence((namespace, &key.name))));
        }
        for namespace in moved {
            let from = pods.partition_point(|pod| pod.name().0 < namespace);
            let those = pods[from..].iter().take_while(|pod| pod.name().0 == namespace).count();
            which.extend(from..from + those);
        }
        let index = self.refer();
        for i in which {
            let (namespace, name) = pods[i].name();
            let key = Key { kind: Kind::Pod, namespace: Some(Arc::clone(namespace)), name: Arc::clone(name) };
            let good = self.entries.get(&key).and_then(|entry| entry.good.as_ref());
            let object = good.and_then(|good| match &good.object {
                Object::Pod(pod) => Some((pod, good.version)),
                _ => None,
            });
            let context = self.contexts.get(namespace).copied().unwrap_or_default();
            pods[i] = index.renewed(&pods[i], object, context);
        }
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
        let mut there: Option<&Arc<str>> = None;
        for policy in policies {
            // Neighbours nearly always are of one tier.
            if there.is_some_and(|tier| Arc::ptr_eq(tier, &policy.tier) || *tier == policy.tier) {
                continue;
            }
            there = tiers.contains_key(&policy.tier).then_some(&policy.tier);
            if there.is_none() {
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

    /// What pods refer to.
    fn refer(&self) -> Index<'_> {
        let mut index = Index::default();
        for (key, entry) in self.of(Kind::Namespace..=Kind::ServiceAccount) {
            match (entry.good.as_ref().map(|good| &good.object), &key.namespace) {
                (Some(Object::Namespace(namespace)), _) => {
                    index.namespaces.insert(&key.name, &namespace.labels);
                }
                (Some(Object::ServiceAccount(account)), Some(namespace)) => {
                    index.accounts.insert((namespace, &key.name), &account.labels);
                }
                _ => {}
            }
        }
        index
    }

    /// That, and what says who has which address.
    fn index(&self, node: &NodeAddrs) -> Index<'_> {
        let mut index = self.refer();
        index.nodes.extend(&node.addrs);
        for (key, good) in self.good(Kind::Pod) {
            // They come in the order of their names, since keys do, and each has a namespace.
            if let (Object::Pod(pod), Some(namespace)) = (&good.object, &key.namespace) {
                index.pods.push(((namespace, &key.name), pod, good.version));
            }
        }
        for (_, good) in self.good(Kind::Node).chain(self.good(Kind::HostEndpoint)) {
            match &good.object {
                Object::Node(node) => index.nodes.extend(&node.addrs),
                Object::Host(host) => index.nodes.extend(&host.addrs),
                _ => {}
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
