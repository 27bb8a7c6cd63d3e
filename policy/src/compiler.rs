//! From a [`World`] to [`Compiled`], each time recomputing what a change touches.
//!
//! Lives on the control thread and keeps its state between updates; the first update compiles everything by the same
//! code. Work follows what changed: objects that are the same by pointer or value are skipped, a new identity is put
//! into the bitmaps of the selectors that select it, and a table is rebuilt when its list of policies is another or
//! a class of identities is new to it. Whatever is unchanged is shared with the previous result.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::addr;
use crate::compiled::{Compiled, EndpointPolicy, Identity, PortOf, Side};
use crate::model::{Direction, Endpoint, EndpointId, NetSet, PolicyId, World};
use crate::table::index::indexed_by;
use crate::table::{self, Entry, Placed, Table};
use addresses::Addresses;
use diff::diff;
use identities::Identities;
use partitions::Partitions;
use policies::{Applying, Policies};
use selectors::Selectors;

mod addresses;
mod diff;
mod identities;
mod partitions;
mod policies;
mod selectors;
#[cfg(test)]
mod tests;

/// What makes a table: endpoints that agree in this share it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TableKey {
    direction: Direction,
    host: bool,
    policies: Box<[u64]>,
}

struct Known {
    endpoint: Arc<Endpoint>,
    member: Identity,
}

/// See the module.
pub struct Compiler {
    endpoint_list: Vec<Arc<Endpoint>>,
    set_list: Vec<Arc<NetSet>>,
    set_members: Vec<Identity>,
    known: HashMap<EndpointId, Known>,
    identities: Identities,
    addresses: Addresses,
    selectors: Selectors,
    policies: Policies,
    partitions: Partitions,
    /// Ingress and egress, by the endpoint's identity and whether it is a host endpoint.
    applying: HashMap<(Identity, bool), [Arc<Applying>; 2]>,
    tables: HashMap<TableKey, Arc<Table>>,
    current: Arc<Compiled>,
    /// The object each entry of `current` was made from.
    made_from: HashMap<EndpointId, Arc<Endpoint>>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            endpoint_list: Vec::new(),
            set_list: Vec::new(),
            set_members: Vec::new(),
            known: HashMap::new(),
            identities: Identities::new(),
            addresses: Addresses::default(),
            selectors: Selectors::default(),
            policies: Policies::default(),
            partitions: Partitions::default(),
            applying: HashMap::new(),
            tables: HashMap::new(),
            current: Arc::new(Compiled::empty()),
            made_from: HashMap::new(),
        }
    }

    /// What the last update made.
    #[must_use]
    pub fn current(&self) -> &Arc<Compiled> {
        &self.current
    }

    /// Compiles a world for the endpoints `local` (those of it that the world knows). Ids of endpoints, names of
    /// tiers and ids of policies are distinct in a world. Counts of hits go on where a rule is still there.
    pub fn update(&mut self, world: &World, local: &[EndpointId]) -> Arc<Compiled> {
        let released = self.update_endpoints(world);
        self.update_sets(world);
        self.addresses.update(&mut self.identities);
        released.into_iter().for_each(|id| self.identities.release(id));

        let changed = self.identities.take_changed();
        self.selectors.update(&changed, &self.identities);
        let policies =
            self.policies.update(&world.policies, &world.tiers, &self.identities, &mut self.selectors);
        let grown = self.partitions.update(&changed, &self.selectors);
        if policies.any {
            self.applying.clear();
        }
        for id in &changed {
            self.applying.remove(&(*id, false));
            self.applying.remove(&(*id, true));
        }
        let mut stale = HashMap::new();
        if policies.tiers {
            self.tables.clear();
        } else {
            stale = self.tables.extract_if(|_, table| grown.contains(&table.partition)).collect();
        }
        self.make(world, local, &stale)
    }

    /// Returns the identities to give back once the new ones are taken.
    fn update_endpoints(&mut self, world: &World) -> Vec<Identity> {
        let old = std::mem::replace(&mut self.endpoint_list, world.endpoints.clone());
        let (gone, come) = diff(&old, &self.endpoint_list);
        let mut released = Vec::new();
        let mut forget = |known: Known, addresses: &mut Addresses| {
            known.endpoint.addrs.iter().for_each(|a| addresses.remove(addr::bits(*a), known.member));
            released.push(known.member);
        };
        for endpoint in gone {
            if let Some(known) = self.known.remove(&endpoint.id) {
                forget(known, &mut self.addresses);
            }
        }
        for endpoint in come {
            let mut ports: Vec<PortOf> = endpoint
                .ports
                .iter()
                .map(|p| (self.policies.port_name(&p.name), p.proto, p.number))
                .collect();
            ports.sort_unstable();
            ports.dedup();
            let member = self.identities.acquire(&endpoint.labels, ports);
            endpoint.addrs.iter().for_each(|a| self.addresses.add(addr::bits(*a), member));
            let known = Known { endpoint: endpoint.clone(), member };
            if let Some(double) = self.known.insert(endpoint.id.clone(), known) {
                forget(double, &mut self.addresses);
            }
        }
        released
    }

    fn update_sets(&mut self, world: &World) {
        let (gone, come) = diff(&self.set_list, &world.sets);
        if gone.is_empty() && come.is_empty() {
            return;
        }
        let members: Vec<Identity> =
            world.sets.iter().map(|s| self.identities.acquire(&s.labels, Vec::new())).collect();
        let nets: Vec<_> = world
            .sets
            .iter()
            .zip(&members)
            .flat_map(|(set, member)| set.nets.iter().map(|net| (*net, *member)))
            .collect();
        self.addresses.set_nets(&nets, &mut self.identities);
        self.set_list = world.sets.clone();
        for member in std::mem::replace(&mut self.set_members, members) {
            self.identities.release(member);
        }
    }

    fn make(
        &mut self,
        world: &World,
        local: &[EndpointId],
        stale: &HashMap<TableKey, Arc<Table>>,
    ) -> Arc<Compiled> {
        let before = self.current.clone();
        let mut endpoints = HashMap::with_capacity(local.len());
        let mut made_from = HashMap::with_capacity(local.len());
        let mut tables = HashMap::with_capacity(self.tables.len());
        for id in local {
            let Some(known) = self.known.get(id) else { continue };
            let (endpoint, member) = (known.endpoint.clone(), known.member);
            let host = matches!(id, EndpointId::Host { .. });
            let [ingress, egress] = self.applying(member, host);
            let old = before.endpoints.get(id);
            let mut side = |applying: &Applying, direction| {
                let old = old.map(|e| (e.table(direction), e.staged(direction)));
                let mut table = |policies: &[u64], old: Option<&Arc<Table>>| {
                    let key = TableKey { direction, host, policies: policies.into() };
                    let made = match tables.get(&key).or_else(|| self.tables.get(&key)) {
                        Some(table) => Arc::clone(table),
                        None => Arc::new(self.table(&key, stale.get(&key), old)),
                    };
                    tables.insert(key, made.clone());
                    made
                };
                let enforced = old.and_then(|o| o.0);
                let differs = applying.enforced != applying.staged;
                Side {
                    staged: differs.then(|| table(&applying.staged, old.and_then(|o| o.1).or(enforced))),
                    table: (!applying.enforced.is_empty()).then(|| table(&applying.enforced, enforced)),
                }
            };
            let (ingress, egress) = (side(&ingress, Direction::Ingress), side(&egress, Direction::Egress));
            let unchanged = old.filter(|old| {
                self.made_from.get(id).is_some_and(|from| *from == endpoint)
                    && same(&old.ingress, &ingress)
                    && same(&old.egress, &egress)
            });
            let policy = unchanged.cloned().unwrap_or_else(|| {
                let mut addrs: Box<[u128]> = endpoint.addrs.iter().map(|a| addr::bits(*a)).collect();
                addrs.sort_unstable();
                let default_allow = endpoint.default_allow;
                Arc::new(EndpointPolicy { host, default_allow, addrs, ingress, egress })
            });
            endpoints.insert(id.clone(), policy);
            made_from.insert(id.clone(), endpoint);
        }
        self.tables = tables;
        self.made_from = made_from;
        self.partitions.retain(self.tables.values().map(|t| t.partition));
        let mut node_addrs: Vec<u128> = world.node_addrs.iter().map(|a| addr::bits(*a)).collect();
        node_addrs.sort_unstable();
        self.current = Arc::new(Compiled {
            addrs: self.addresses.addrs().clone(),
            sets: self.addresses.sets().clone(),
            ports: self.identities.ports().clone(),
            selectors: self.selectors.bitmaps().to_vec(),
            partitions: self.partitions.maps().to_vec(),
            endpoints,
            node_addrs: node_addrs.into(),
        });
        self.current.clone()
    }

    fn applying(&mut self, member: Identity, host: bool) -> [Arc<Applying>; 2] {
        let (policies, selectors) = (&self.policies, &self.selectors);
        let made = self.applying.entry((member, host)).or_insert_with(|| {
            [Direction::Ingress, Direction::Egress]
                .map(|direction| Arc::new(policies.applying(member, host, direction, selectors)))
        });
        made.clone()
    }

    /// Makes a table; `stale` is the same with an index of before, `old` another one whose counts go on.
    fn table(&mut self, key: &TableKey, stale: Option<&Arc<Table>>, old: Option<&Arc<Table>>) -> Table {
        let placed = self.policies.placed(&key.policies, key.direction);
        let entries = table::entries(&placed, key.host);
        let ingress = key.direction == Direction::Ingress;
        let mut by: Vec<u32> = entries
            .iter()
            .filter_map(|e| e.rule.as_ref())
            .filter_map(|r| if ingress { r.source.as_ref() } else { r.destination.as_ref() })
            .flat_map(|peers| peers.iter().filter_map(indexed_by))
            .collect();
        by.sort_unstable();
        by.dedup();
        let partition = self.partitions.get(by, &self.selectors);
        let hits = match (stale, old) {
            (Some(stale), _) => stale.hits().clone(),
            (None, Some(old)) => carried(&placed, &entries, old),
            (None, None) => entries.iter().map(|_| AtomicU64::new(0)).collect(),
        };
        let classes = self.partitions.classes(partition);
        Table::new(key.direction, key.host, (placed, entries), (partition, classes), hits)
    }
}

/// Do both sides have the very same tables?
fn same(a: &Side, b: &Side) -> bool {
    let same = |a: &Option<Arc<Table>>, b: &Option<Arc<Table>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    same(&a.table, &b.table) && same(&a.staged, &b.staged)
}

/// The counts of a new table: of an old one's where the rule, or the end of the tier, is still there.
fn carried(policies: &[Placed], entries: &[Entry], old: &Table) -> Arc<[AtomicU64]> {
    let place = |entry: &Entry, policies: &[Placed]| -> (Option<(PolicyId, u32)>, Arc<str>) {
        let policy = &policies[entry.policy as usize].policy;
        (entry.rule.is_some().then(|| (policy.id.clone(), entry.index)), policy.tier.clone())
    };
    let before: HashMap<_, u32> =
        old.entries.iter().zip(0..).map(|(entry, number)| (place(entry, &old.policies), number)).collect();
    let direction = old.direction();
    let count = |entry: &Entry| {
        let info = old.rule(*before.get(&place(entry, policies))?)?;
        let rules = policies[entry.policy as usize].policy.rules(direction);
        let rule = entry.rule.as_ref().and_then(|_| rules?.get(entry.index as usize));
        (rule == info.rule).then_some(info.hits)
    };
    entries.iter().map(|entry| AtomicU64::new(count(entry).unwrap_or(0))).collect()
}
