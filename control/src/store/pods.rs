//! Pods as endpoints: who has which address, and with which labels.
//!
//! An address is what labels are found by, so who has which address decides what policy means. What is attached here is
//! proof; what a Pod object says is a claim. A claim on an address of a node, or attached here as another pod's, counts
//! for nothing; one that two pods make counts for neither, for a peer that selects one of them would else let the other
//! in. All are reported.
//!
//! Of pods that have ended, and of those in their node's network, only such as are attached here are endpoints.
//!
//! Who has which address is found in one pass over all pods, and only when somebody's address changed; an endpoint is
//! made only where its object, its [context](super::Objects) or its addresses are others than last time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::{Endpoint, EndpointId};
use policy::selector::Labels;

use super::world::LocalPod;
use super::{Problem, usable};
use crate::objects::Pod;
use crate::objects::labels::Flat;
use crate::objects::meta::LabelMap;

/// An endpoint, and what it was made from.
#[derive(Debug)]
pub(super) struct MadePod {
    pub(super) endpoint: Arc<Endpoint>,
    /// Of the Pod object; 0 = none.
    version: u64,
    /// Of its namespace with its service accounts.
    context: u64,
}

impl MadePod {
    pub(super) fn name(&self) -> Name<'_> {
        match &self.endpoint.id {
            EndpointId::Pod { namespace, name } => (namespace, name),
            // There are none among pods.
            EndpointId::Host { name } => (name, name),
        }
    }

    /// Where it stands to a pod of that name.
    pub(super) fn sequence(&self, name: Name<'_>) -> Ordering {
        let own = self.name();
        // Nearly always the very same texts: a comparison of them would be most of the work.
        match Arc::ptr_eq(own.0, name.0) {
            true if Arc::ptr_eq(own.1, name.1) => Ordering::Equal,
            true => own.1.cmp(name.1),
            false => own.cmp(&name),
        }
    }
}

/// Namespace and name; sorts as [`EndpointId`] does.
pub(super) type Name<'a> = (&'a Arc<str>, &'a Arc<str>);

/// What objects say about pods and about what pods refer to.
#[derive(Default)]
pub(super) struct Index<'a> {
    pub(super) namespaces: HashMap<&'a str, &'a LabelMap>,
    pub(super) accounts: HashMap<(&'a str, &'a str), &'a LabelMap>,
    /// In order of their names, each with its object's version.
    pub(super) pods: Vec<(Name<'a>, &'a Pod, u64)>,
    /// Addresses of nodes.
    pub(super) nodes: BTreeSet<IpAddr>,
}

/// A pod that an object, an attachment or both speak of.
struct Candidate<'a> {
    name: Name<'a>,
    object: Option<(&'a Pod, u64)>,
    local: Option<&'a LocalPod>,
}

impl Candidate<'_> {
    fn id(&self) -> EndpointId {
        EndpointId::Pod { namespace: Arc::clone(self.name.0), name: Arc::clone(self.name.1) }
    }

    /// The addresses it says it has.
    fn addrs(&self) -> &[IpAddr] {
        match (self.local, self.object) {
            (Some(local), _) => &local.addrs,
            (None, Some((object, _))) if !object.ended && !object.host_network => &object.addrs,
            _ => &[],
        }
    }
}

/// Who has an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// One, by its number.
    One(usize),
    /// Several say they do.
    Several,
}

impl Index<'_> {
    /// The endpoints that are pods, in order of their ids. `before` are those of last time in the same order,
    /// `contexts` the [contexts](super::Objects) of namespaces.
    pub(super) fn endpoints(
        &self,
        local: &[LocalPod],
        contexts: &HashMap<Arc<str>, u64>,
        before: Vec<MadePod>,
        problems: &mut Vec<Problem>,
    ) -> Vec<MadePod> {
        let candidates = self.candidates(local);
        let owners = self.owners(&candidates, problems);
        let mut before = before.into_iter().peekable();
        let mut made = Vec::with_capacity(candidates.len());
        // Neighbours in the order of names share their namespace.
        let (mut namespace, mut context): (Option<&Arc<str>>, u64) = (None, 0);
        let mut addrs: Vec<IpAddr> = Vec::new();
        for (i, candidate) in candidates.iter().enumerate() {
            addrs.clear();
            addrs.extend(candidate.addrs().iter().filter(|a| owners.get(*a) == Some(&Owner::One(i))));
            if addrs.is_empty() {
                continue;
            }
            addrs.sort_unstable();
            addrs.dedup();
            if !namespace.is_some_and(|namespace| Arc::ptr_eq(namespace, candidate.name.0)) {
                namespace = Some(candidate.name.0);
                context = contexts.get(candidate.name.0).copied().unwrap_or_default();
            }
            let old = loop {
                match before.peek().map(|old| old.sequence(candidate.name)) {
                    Some(Ordering::Less) => drop(before.next()),
                    Some(Ordering::Equal) => break before.next(),
                    _ => break None,
                }
            };
            let version = candidate.object.map_or(0, |(_, version)| version);
            made.push(match old {
                Some(old)
                    if (old.version, old.context) == (version, context) && old.endpoint.addrs == addrs =>
                {
                    old
                }
                old => self.made(candidate, &addrs, context, old.as_ref()),
            });
        }
        made
    }

    /// Objects and attachments together, in order of their names.
    fn candidates<'a>(&'a self, local: &'a [LocalPod]) -> Vec<Candidate<'a>> {
        let attached: BTreeMap<Name<'a>, &LocalPod> =
            local.iter().map(|pod| ((&pod.namespace, &pod.name), pod)).collect();
        let mut attached = attached.into_iter().peekable();
        let here =
            |(name, local): (Name<'a>, &'a LocalPod)| Candidate { name, object: None, local: Some(local) };
        let mut all = Vec::with_capacity(self.pods.len() + attached.len());
        for (name, object, version) in &self.pods {
            let local = loop {
                match attached.peek().map(|(other, _)| other.cmp(name)) {
                    Some(Ordering::Less) => all.extend(attached.next().map(here)),
                    Some(Ordering::Equal) => break attached.next().map(|(_, local)| local),
                    _ => break None,
                }
            };
            all.push(Candidate { name: *name, object: Some((*object, *version)), local });
        }
        all.extend(attached.map(here));
        all
    }

    fn owners(&self, candidates: &[Candidate<'_>], problems: &mut Vec<Problem>) -> HashMap<IpAddr, Owner> {
        let mut owners: HashMap<IpAddr, Owner> = HashMap::with_capacity(candidates.len());
        for (i, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.local.is_some()) {
            for addr in candidate.addrs() {
                owners.entry(*addr).or_insert(Owner::One(i));
            }
        }
        let mut claimed: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
        for (i, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.local.is_none()) {
            for addr in candidate.addrs() {
                if self.nodes.contains(addr) || !usable(*addr) {
                    problems.push(Problem::NotAPods { addr: *addr, claimant: candidate.id() });
                    continue;
                }
                match owners.get(addr) {
                    None => drop(owners.insert(*addr, Owner::One(i))),
                    Some(Owner::One(same)) if *same == i => {}
                    Some(Owner::One(owner)) if candidates[*owner].local.is_some() => {
                        let (owner, claimant) = (candidates[*owner].id(), candidate.id());
                        problems.push(Problem::Attached { addr: *addr, owner, claimant });
                    }
                    Some(Owner::One(first)) => {
                        claimed.insert(*addr, vec![*first, i]);
                        owners.insert(*addr, Owner::Several);
                    }
                    Some(Owner::Several) => {
                        let by = claimed.entry(*addr).or_default();
                        if by.last() != Some(&i) {
                            by.push(i);
                        }
                    }
                }
            }
        }
        problems.extend(claimed.into_iter().map(|(addr, by)| {
            let by = by.into_iter().map(|i| candidates[i].id()).collect();
            Problem::Claimed { addr, by }
        }));
        owners
    }

    /// What a pod that keeps its addresses is now.
    pub(super) fn renewed(&self, old: &MadePod, object: Option<(&Pod, u64)>, context: u64) -> MadePod {
        let candidate = Candidate { name: old.name(), object, local: None };
        self.made(&candidate, &old.endpoint.addrs, context, Some(old))
    }

    fn made(
        &self,
        candidate: &Candidate<'_>,
        addrs: &[IpAddr],
        context: u64,
        old: Option<&MadePod>,
    ) -> MadePod {
        let new = self.make(candidate, addrs);
        // The compiler compares by pointer first.
        let equal = old.map(|old| &old.endpoint).filter(|old| ***old == new).cloned();
        let version = candidate.object.map_or(0, |(_, version)| version);
        MadePod { endpoint: equal.unwrap_or_else(|| Arc::new(new)), version, context }
    }

    fn make(&self, candidate: &Candidate<'_>, addrs: &[IpAddr]) -> Endpoint {
        let object = candidate.object.map(|(object, _)| object);
        Endpoint {
            id: candidate.id(),
            labels: self.labels(candidate.name.0, object),
            addrs: addrs.to_vec(),
            ports: object.map(|object| object.ports.clone()).unwrap_or_default(),
            default_allow: true,
        }
    }

    fn labels(&self, namespace: &str, object: Option<&Pod>) -> Labels {
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
