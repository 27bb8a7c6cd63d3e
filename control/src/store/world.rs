//! From objects and attached pods to [`World`].
//!
//! An address is what labels are found by, so who has which address decides what policy means. What is attached here is
//! proof; what a Pod object says is a claim. A claim on an address of a node, or attached here as another pod's, counts
//! for nothing; one that two pods make counts for neither, for a peer that selects one of them would else let the other
//! in. All are reported.
//!
//! Of pods that have ended, and of those in their node's network, only such as are attached here are endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::{Endpoint, EndpointId, NetSet, Order, Policy, Tier, TierEnd, World};
use policy::selector::Labels;

use super::{Objects, Problem, usable};
use crate::objects::labels::Flat;
use crate::objects::meta::LabelMap;
use crate::objects::{Object, Pod};

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
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
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
            endpoints: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

/// What objects say about the ones that pods refer to.
struct Index<'a> {
    namespaces: HashMap<&'a str, &'a LabelMap>,
    accounts: HashMap<(&'a str, &'a str), &'a LabelMap>,
    pods: BTreeMap<(&'a str, &'a str), &'a Pod>,
    nodes: BTreeSet<IpAddr>,
}

impl Objects {
    /// The world these objects make with the pods attached here, and what of it is not as written (beside
    /// [`Objects::problems`]). What did not change since the last call is the same allocation.
    ///
    /// An attached pod has the labels and ports of the Pod object of its name, if there is one, else none; a namespace
    /// or service account without an object has no labels but its name.
    pub fn world(&mut self, local: &[LocalPod], node: &NodeAddrs) -> (World, Vec<Problem>) {
        let mut problems = Vec::new();
        let index = self.index(node);
        let mut endpoints = index.pods(local, &mut problems);
        endpoints.extend(self.hosts(node));
        let sets = self.sets(&index);
        drop(index);
        let made = endpoints.into_iter().map(|made| {
            let id = made.id.clone();
            let made = reuse(&self.made.endpoints, &id, made);
            (id, made)
        });
        self.made.endpoints = made.collect();
        let made = sets.into_iter().map(|made| {
            let id = (made.namespace.clone(), Arc::clone(&made.name));
            let made = reuse(&self.made.sets, &id, made);
            (id, made)
        });
        self.made.sets = made.collect();
        let policies = self.policies();
        let tiers = self.tiers(&policies, &mut problems);
        let world = World {
            tiers,
            policies,
            endpoints: self.made.endpoints.values().cloned().collect(),
            sets: self.made.sets.values().cloned().collect(),
            node_addrs: node.addrs.clone(),
        };
        (world, problems)
    }

    /// The valid ones, and for those that never were, what stands in.
    fn policies(&self) -> Vec<Arc<Policy>> {
        let in_force = self.entries.values().filter_map(|entry| match (&entry.good, &entry.refused) {
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
        for (_, object) in self.good() {
            if let Object::Tier(tier) = object {
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
        let mut index = Index {
            namespaces: HashMap::new(),
            accounts: HashMap::new(),
            pods: BTreeMap::new(),
            nodes: node.addrs.iter().copied().collect(),
        };
        for (key, object) in self.good() {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            match object {
                Object::Namespace(namespace) => {
                    index.namespaces.insert(&key.name, &namespace.labels);
                }
                Object::ServiceAccount(account) => {
                    index.accounts.insert((namespace, &key.name), &account.labels);
                }
                Object::Node(node) => index.nodes.extend(&node.addrs),
                Object::Pod(pod) => {
                    index.pods.insert((namespace, &key.name), pod);
                }
                Object::Host(host) => index.nodes.extend(&host.addrs),
                Object::Policy(_) | Object::Tier(_) | Object::Set(_) | Object::Inert => {}
            }
        }
        index
    }

    /// Host endpoints of every node. One without addresses has, on this node, the node's.
    fn hosts<'a>(&'a self, node: &'a NodeAddrs) -> impl Iterator<Item = Endpoint> + 'a {
        self.good().filter_map(move |(key, object)| {
            let Object::Host(host) = object else { return None };
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
        let sets = self.good().filter_map(|(key, object)| {
            let Object::Set(set) = object else { return None };
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

impl Index<'_> {
    /// The endpoints that are pods.
    fn pods(&self, local: &[LocalPod], problems: &mut Vec<Problem>) -> Vec<Endpoint> {
        let attached: BTreeMap<(&str, &str), &LocalPod> =
            local.iter().map(|pod| ((&*pod.namespace, &*pod.name), pod)).collect();
        let id = |(namespace, name): (&str, &str)| EndpointId::Pod {
            namespace: namespace.into(),
            name: name.into(),
        };
        let mut owners: BTreeMap<IpAddr, (&str, &str)> = BTreeMap::new();
        for (pod, local) in &attached {
            for addr in &local.addrs {
                owners.entry(*addr).or_insert(*pod);
            }
        }
        let mut claims: BTreeMap<IpAddr, Vec<(&str, &str)>> = BTreeMap::new();
        for (pod, object) in &self.pods {
            if object.ended || object.host_network || attached.contains_key(pod) {
                continue;
            }
            for addr in &object.addrs {
                if self.nodes.contains(addr) || !usable(*addr) {
                    problems.push(Problem::NotAPods { addr: *addr, claimant: id(*pod) });
                } else if let Some(owner) = owners.get(addr) {
                    problems.push(Problem::Attached { addr: *addr, owner: id(*owner), claimant: id(*pod) });
                } else {
                    claims.entry(*addr).or_default().push(*pod);
                }
            }
        }
        for (addr, by) in claims {
            match by[..] {
                [one] => {
                    owners.insert(addr, one);
                }
                _ => problems.push(Problem::Claimed { addr, by: by.into_iter().map(id).collect() }),
            }
        }
        let mut addrs: BTreeMap<(&str, &str), Vec<IpAddr>> = BTreeMap::new();
        for (addr, pod) in owners {
            addrs.entry(pod).or_default().push(addr);
        }
        let made = addrs.into_iter().map(|(pod, addrs)| {
            let object = self.pods.get(&pod);
            Endpoint {
                id: id(pod),
                labels: self.labels(pod, object.copied()),
                addrs,
                ports: object.map(|object| object.ports.clone()).unwrap_or_default(),
                default_allow: true,
            }
        });
        made.collect()
    }

    fn labels(&self, (namespace, _): (&str, &str), object: Option<&Pod>) -> Labels {
        let none = LabelMap::new();
        let flat = Flat::own(object.map_or(&none, |object| &object.labels)).pod();
        let flat = flat.in_namespace(namespace, self.namespaces.get(namespace).copied());
        match object {
            Some(object) => {
                let account = &*object.service_account;
                flat.run_as(account, self.accounts.get(&(namespace, account)).copied()).done()
            }
            None => flat.done(),
        }
    }
}
