//! Identities: the distinct (labels, named ports) of endpoints and net sets, and the distinct combinations of those
//! that single addresses have. One number space, 0 = nobody. Numbers are counted references and reused; whoever
//! keeps something by identity looks at [`Identities::take_changed`].
//!
//! Also the inverted index of labels that selectors are evaluated by.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::compiled::{Identity, PortOf};
use crate::selector::{Labels, Selector};

/// Labels and named ports, sorted.
type Member = (Labels, Arc<[PortOf]>);

enum Slot {
    Free,
    Member(Member),
    Composite(Box<[Identity]>),
}

/// See the module.
pub(super) struct Identities {
    slots: Vec<(Slot, u32)>,
    free: Vec<Identity>,
    members: HashMap<Member, Identity>,
    composites: HashMap<Box<[Identity]>, Identity>,
    /// Members by key and value of a label, ascending.
    index: HashMap<Arc<str>, HashMap<Arc<str>, Vec<Identity>>>,
    all: Bitmap,
    ports: Arc<Vec<Arc<[PortOf]>>>,
    changed: Vec<Identity>,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![(Slot::Free, 0)],
            free: Vec::new(),
            members: HashMap::new(),
            composites: HashMap::new(),
            index: HashMap::new(),
            all: Bitmap::default(),
            ports: Arc::new(vec![Arc::new([])]),
            changed: Vec::new(),
        }
    }

    /// Takes a reference to the identity of labels and named ports.
    pub(super) fn acquire(&mut self, labels: &Labels, ports: Vec<PortOf>) -> Identity {
        let member = (labels.clone(), Arc::from(ports));
        if let Some(id) = self.members.get(&member) {
            self.slots[*id as usize].1 += 1;
            return *id;
        }
        let id = self.make(Slot::Member(member.clone()), member.1.clone());
        for (key, value) in labels.0.iter() {
            let ids = self.index.entry(key.clone()).or_default().entry(value.clone()).or_default();
            ids.insert(ids.partition_point(|have| *have < id), id);
        }
        self.all.set(id, true);
        self.members.insert(member, id);
        id
    }

    /// Takes a reference to the identity of an address that has all of these (sorted, distinct; none = 0).
    pub(super) fn combine(&mut self, members: &[Identity]) -> Identity {
        match members {
            [] => return 0,
            [one] => {
                self.slots[*one as usize].1 += 1;
                return *one;
            }
            _ => {}
        }
        if let Some(id) = self.composites.get(members) {
            self.slots[*id as usize].1 += 1;
            return *id;
        }
        let ports = members.iter().flat_map(|m| self.ports[*m as usize].iter().copied()).collect();
        members.iter().for_each(|m| self.slots[*m as usize].1 += 1);
        let id = self.make(Slot::Composite(members.into()), ports);
        self.composites.insert(members.into(), id);
        id
    }

    fn make(&mut self, slot: Slot, ports: Arc<[PortOf]>) -> Identity {
        let all_ports = Arc::make_mut(&mut self.ports);
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push((Slot::Free, 0));
            all_ports.push(Arc::new([]));
            self.slots.len() as Identity - 1
        });
        all_ports[id as usize] = ports;
        self.slots[id as usize] = (slot, 1);
        self.changed.push(id);
        id
    }

    /// Gives a reference back.
    pub(super) fn release(&mut self, id: Identity) {
        let Some((slot, refs)) = self.slots.get_mut(id as usize).filter(|_| id != 0) else { return };
        *refs -= 1;
        if *refs > 0 {
            return;
        }
        match std::mem::replace(slot, Slot::Free) {
            Slot::Free => return,
            Slot::Composite(members) => {
                self.composites.remove(&members);
                members.iter().for_each(|m| self.release(*m));
            }
            Slot::Member(member) => {
                for (key, value) in member.0.0.iter() {
                    let Entry::Occupied(mut values) = self.index.entry(key.clone()) else { continue };
                    if let Entry::Occupied(mut ids) = values.get_mut().entry(value.clone()) {
                        ids.get_mut().retain(|have| *have != id);
                        if ids.get().is_empty() {
                            ids.remove();
                        }
                    }
                    if values.get().is_empty() {
                        values.remove();
                    }
                }
                self.all.set(id, false);
                self.members.remove(&member);
            }
        }
        self.free.push(id);
    }

    /// The identities that stand for something new since the last call, members before combinations.
    pub(super) fn take_changed(&mut self) -> Vec<Identity> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.retain(|id| !matches!(self.slots[*id as usize].0, Slot::Free));
        changed.sort_unstable_by_key(|id| (matches!(self.slots[*id as usize].0, Slot::Composite(_)), *id));
        changed.dedup();
        changed
    }

    /// Named ports by identity.
    pub(super) fn ports(&self) -> &Arc<Vec<Arc<[PortOf]>>> {
        &self.ports
    }

    /// The labels of those the identity stands for.
    pub(super) fn labels(&self, id: Identity) -> Vec<&Labels> {
        match &self.slots[id as usize].0 {
            Slot::Free => Vec::new(),
            Slot::Member((labels, _)) => vec![labels],
            Slot::Composite(members) => members.iter().flat_map(|m| self.labels(*m)).collect(),
        }
    }

    /// Does the selector select one of those the identity stands for?
    pub(super) fn matches(&self, id: Identity, selector: &Selector) -> bool {
        match &self.slots[id as usize].0 {
            Slot::Free => false,
            Slot::Member((labels, _)) => selector.matches(labels),
            Slot::Composite(members) => members.iter().any(|m| self.matches(*m, selector)),
        }
    }

    /// The identities a selector selects.
    pub(super) fn select(&self, selector: &Selector) -> Bitmap {
        let mut selected = self.members_of(selector);
        let mut combined = Vec::new();
        for (members, id) in &self.composites {
            if members.iter().any(|m| selected.contains(*m)) {
                combined.push(*id);
            }
        }
        combined.into_iter().for_each(|id| selected.set(id, true));
        selected
    }

    fn members_of(&self, selector: &Selector) -> Bitmap {
        let having = |key: &Arc<str>, value: &Arc<str>| self.index.get(key).and_then(|vs| vs.get(value));
        let equal = |key, value| having(key, value).into_iter().flatten().copied().collect::<Bitmap>();
        let among = |key: &Arc<str>, test: &dyn Fn(&str) -> bool| -> Bitmap {
            let values = self.index.get(key).into_iter().flatten();
            values.filter(|(value, _)| test(value)).flat_map(|(_, ids)| ids.iter().copied()).collect()
        };
        let except = |some: Bitmap| {
            let mut all = self.all.clone();
            all.subtract(&some);
            all
        };
        let any_of = |key, values: &[Arc<str>]| -> Bitmap {
            values.iter().filter_map(|v| having(key, v)).flatten().copied().collect()
        };
        match selector {
            Selector::All => self.all.clone(),
            Selector::Has(k) => among(k, &|_| true),
            Selector::Eq(k, v) => equal(k, v),
            Selector::Ne(k, v) => except(equal(k, v)),
            Selector::In(k, vs) => any_of(k, vs),
            Selector::NotIn(k, vs) => except(any_of(k, vs)),
            Selector::Contains(k, v) => among(k, &|have| have.contains(&**v)),
            Selector::StartsWith(k, v) => among(k, &|have| have.starts_with(&**v)),
            Selector::EndsWith(k, v) => among(k, &|have| have.ends_with(&**v)),
            Selector::Not(e) => except(self.members_of(e)),
            Selector::And(es) => {
                let mut parts = es.iter().map(|e| self.members_of(e));
                let Some(mut common) = parts.next() else { return self.all.clone() };
                parts.for_each(|part| common.intersect(&part));
                common
            }
            Selector::Or(es) => {
                let mut any = Bitmap::default();
                es.iter().for_each(|e| any.union(&self.members_of(e)));
                any
            }
        }
    }
}
