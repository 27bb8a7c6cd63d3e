//! Peers that are equally good ways to a range, and which of them a flow goes by.
//!
//! Part of a snapshot; built by the control thread, read by every worker without a lock. A flow goes to the member with
//! the highest random weight (RFC 2991): a hash over the flow and the member's address. So a member that goes moves its
//! own flows only, and one that comes takes its share of each other's. Weights are computed where a decision is made,
//! not for every packet.
//!
//! The hash has the same key in every process: a flow stays on its way when the daemon starts again. A sender that
//! chooses its ports by it gains nothing but an uneven load on ways that are all its own to use.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use policy::{FlowKey, HashKey};

/// Key of the hash: any will do.
const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// A peer in a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Member {
    /// Its index in the snapshot.
    peer: u32,
    /// What stands for it in weights: told by its address, not by its index, which changes when others come and go.
    identity: u32,
}

/// The groups of a snapshot, each once.
#[derive(Clone, Debug)]
pub struct Groups {
    key: HashKey,
    all: Vec<Box<[Member]>>,
    known: HashMap<Box<[Member]>, u32>,
}

impl Default for Groups {
    fn default() -> Self {
        Self { key: HashKey::new(SEEDS[0], SEEDS[1]), all: Vec::new(), known: HashMap::new() }
    }
}

impl Groups {
    /// The number of the group with these members: peers' indices and addresses (IPv4 mapped). Their order counts.
    pub fn add(&mut self, members: impl IntoIterator<Item = (u32, u128)>) -> u32 {
        let identity = |addr| FlowKey { src: addr, ..FlowKey::default() }.hash(&self.key) as u32;
        let members: Box<[Member]> =
            members.into_iter().map(|(peer, addr)| Member { peer, identity: identity(addr) }).collect();
        let next = self.all.len() as u32;
        *self.known.entry(members).or_insert_with_key(|members| {
            self.all.push(members.clone());
            next
        })
    }

    /// The members of a group: indices of peers, in the order they were given.
    pub fn members(&self, group: u32) -> impl Iterator<Item = u32> {
        self.get(group).iter().map(|member| member.peer)
    }

    /// The peer that a flow's packets go to; none = there is no such group. Where a packet came in does not count, and
    /// of fragments only the addresses do: those are what all fragments of a packet share (RFC 8200 section 4.5 lets
    /// even the protocol differ).
    #[must_use]
    pub fn pick(&self, group: u32, flow: &FlowKey) -> Option<u32> {
        let FlowKey { src, dst, .. } = *flow;
        let flow = if flow.frag == 0 { *flow } else { FlowKey { src, dst, ..FlowKey::default() } };
        let weight = |m: &&Member| FlowKey { ingress: m.identity, ..flow }.hash(&self.key);
        self.get(group).iter().max_by_key(weight).map(|member| member.peer)
    }

    fn get(&self, group: u32) -> &[Member] {
        self.all.get(group as usize).map_or(&[], |members| members)
    }
}
