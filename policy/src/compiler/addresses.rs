//! Which identity each address has: exact addresses of endpoints, prefixes of net sets, and where several have one
//! address, the combination. Holds a reference to every identity it gives out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::identities::Identities;
use crate::compiled::{Identity, SetAddrs};
use crate::hash::AddrHash;
use crate::prefixes::Prefixes;

#[derive(Default)]
pub(super) struct Addresses {
    /// The members that have an address, one entry for each endpoint.
    owners: HashMap<u128, Vec<Identity>, AddrHash>,
    /// What is published: the combination's identity.
    addrs: Arc<HashMap<u128, Identity, AddrHash>>,
    sets: Arc<SetAddrs>,
    /// By prefix of a net set: the sets it and those around it belong to.
    set_members: Vec<Vec<Identity>>,
    changed: BTreeSet<u128>,
}

impl Addresses {
    pub(super) fn add(&mut self, addr: u128, member: Identity) {
        self.owners.entry(addr).or_default().push(member);
        self.changed.insert(addr);
    }

    pub(super) fn remove(&mut self, addr: u128, member: Identity) {
        let Some(owners) = self.owners.get_mut(&addr) else { return };
        if let Some(at) = owners.iter().position(|m| *m == member) {
            owners.swap_remove(at);
        }
        if owners.is_empty() {
            self.owners.remove(&addr);
        }
        self.changed.insert(addr);
    }

    /// Replaces all net sets.
    pub(super) fn set_nets(&mut self, sets: &[(IpNet, Identity)], identities: &mut Identities) {
        let mut members: HashMap<IpNet, Vec<Identity>> = HashMap::new();
        for (net, member) in sets {
            members.entry(net.trunc()).or_default().push(*member);
        }
        let nets: Vec<IpNet> = members.keys().copied().collect();
        let prefixes = Prefixes::build(&nets);
        self.set_members = (0..nets.len() as u32)
            .map(|i| {
                let around = prefixes.chain(i).flat_map(|p| &members[&nets[p as usize]]);
                around.copied().collect::<BTreeSet<_>>().into_iter().collect()
            })
            .collect();
        let made = self.set_members.iter().map(|members| identities.combine(members)).collect();
        let old = std::mem::replace(&mut self.sets, Arc::new(SetAddrs { prefixes, identities: made }));
        old.identities.iter().for_each(|id| identities.release(*id));
        self.changed.extend(self.owners.keys());
    }

    /// Brings what is published up to date.
    pub(super) fn update(&mut self, identities: &mut Identities) {
        if self.changed.is_empty() {
            return;
        }
        let addrs = Arc::make_mut(&mut self.addrs);
        let mut old = Vec::new();
        for addr in std::mem::take(&mut self.changed) {
            let identity = self.owners.get(&addr).map(|owners| {
                let around = self.sets.prefixes.longest(addr).map(|p| &self.set_members[p as usize]);
                let mut members: Vec<Identity> =
                    owners.iter().chain(around.into_iter().flatten()).copied().collect();
                members.sort_unstable();
                members.dedup();
                identities.combine(&members)
            });
            old.extend(match identity {
                Some(identity) => addrs.insert(addr, identity),
                None => addrs.remove(&addr),
            });
        }
        old.into_iter().for_each(|id| identities.release(id));
    }

    pub(super) fn addrs(&self) -> &Arc<HashMap<u128, Identity, AddrHash>> {
        &self.addrs
    }

    pub(super) fn sets(&self) -> &Arc<SetAddrs> {
        &self.sets
    }
}
