//! Where an address comes from, in this order: a block that the node has already; a new block; an empty block of another
//! node, that node having had it for a minute; and, unless affinity is strict, a block of another node.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::{Ask, AssignError, PoolRange, block_of, broken, read, taken};
use crate::blocks::block::{Block, Owner};
use crate::blocks::keys::{Name, affinities_of, affinity_key, block_key, blocks_of, parse};
use crate::blocks::record::{Affinity, Settings, State};
use crate::blocks::release::find;
use crate::blocks::store::{Change, Entry, KeyStore};
use crate::config::nets::overlap;
use crate::ipam::Family;

/// An empty block of another node is left to it for this long after it was claimed.
const RECLAIM_AFTER: Duration = Duration::from_secs(60);
/// Steps through a pool in search of a block that is not there yet, beyond those that are.
const MOST_STEPS: usize = 1 << 16;

/// A block and what has to be written with it.
pub(super) struct Draft {
    pub(super) block: Block,
    pub(super) revision: i64,
    pub(super) with: Vec<Change>,
}

/// One look for an address; nothing is written.
pub(super) struct Search<'a, S> {
    pub(super) store: &'a S,
    pub(super) ask: &'a Ask,
    pub(super) settings: &'a Settings,
    pub(super) now: SystemTime,
}

impl<S: KeyStore> Search<'_, S> {
    /// The block of a requested address.
    pub(super) async fn fixed(&self, addr: IpAddr, cidr: IpNet) -> Result<Draft, AssignError<S::Error>> {
        let found = match read(self.store, &cidr).await? {
            Some(found) => Some((found, cidr)),
            // Blocks of another size may be there from earlier.
            None => match find(self.store, addr).await? {
                Some(other) => read(self.store, &other).await?.map(|found| (found, other)),
                None => None,
            },
        };
        let Some(((mut block, revision), cidr)) = found else { return self.claim(cidr).await };
        // Whoever asks for an address by its number need not wait until it has cooled down.
        block.ripen(self.now, self.settings.cool_down());
        if self.settings.strict_affinity && block.node() != Some(self.ask.node.as_str()) {
            let node = block.node().unwrap_or("(none)").to_owned();
            return Err(AssignError::Strict { addr, block: cidr, node });
        }
        match block.owner(addr) {
            Some(Owner::Free | Owner::Cooling) => Ok(Draft { block, revision, with: Vec::new() }),
            _ => Err(taken(&block, addr)),
        }
    }

    /// Some address of a family.
    pub(super) async fn any(&self, v6: bool) -> Result<(IpAddr, Draft), AssignError<S::Error>> {
        let ask = self.ask;
        let pools: Vec<&PoolRange> =
            ask.pools.iter().filter(|pool| pool.cidr.addr().is_ipv6() == v6).collect();
        let own = self.own(v6).await?;
        for pool in &pools {
            for (cidr, entry) in own.iter().filter(|(cidr, _)| pool.cidr.contains(cidr)) {
                if let Some(found) = self.of_own(*cidr, entry).await? {
                    return Ok(found);
                }
            }
        }
        if self.settings.claims() && own.len() < self.settings.most_blocks() {
            let names = self.store.list(&blocks_of(v6), true).await?;
            let there: BTreeSet<IpNet> = names.iter().filter_map(|entry| block_of(&entry.key)).collect();
            for pool in &pools {
                if let Some(cidr) = unclaimed(pool, &there, &ask.node) {
                    let draft = self.claim(cidr).await?;
                    if let Some(addr) = draft.block.next_free(|addr| ask.keeps(addr)) {
                        return Ok((addr, draft));
                    }
                }
            }
        }
        let found = self.of_others(v6, &pools, own.len()).await?;
        found.ok_or_else(|| AssignError::Exhausted {
            family: if v6 { Family::V6 } else { Family::V4 },
            pools: crate::ipam::Ranges(pools.iter().map(|pool| pool.cidr).collect()),
            cooling: "; addresses that were released a moment ago are not given yet",
        })
    }

    /// The blocks that this node has an affinity to.
    async fn own(&self, v6: bool) -> Result<Vec<(IpNet, Entry)>, S::Error> {
        let all = self.store.list(&affinities_of(&self.ask.node, v6), false).await?;
        let known = |entry: Entry| match parse(entry.key.as_bytes())? {
            Name::Affinity { block, .. } => Some((block, entry)),
            _ => None,
        };
        Ok(all.into_iter().filter_map(known).collect())
    }

    /// An address of a block that this node has an affinity to.
    async fn of_own(
        &self,
        cidr: IpNet,
        entry: &Entry,
    ) -> Result<Option<(IpAddr, Draft)>, AssignError<S::Error>> {
        // One bad key costs only itself.
        let Ok(affinity) = Affinity::parse(&entry.value) else { return Ok(None) };
        if affinity.state == State::PendingDeletion {
            return Ok(None);
        }
        let confirm = || Change {
            key: entry.key.clone(),
            value: Some(affinity.clone().confirmed().encode()),
            over: entry.revision,
        };
        let (mut block, revision, with) = match read(self.store, &cidr).await {
            Ok(Some((block, _))) if block.node() != Some(self.ask.node.as_str()) => return Ok(None),
            Ok(Some((block, revision))) if affinity.state == State::Confirmed => {
                (block, revision, Vec::new())
            }
            Ok(Some((block, revision))) => (block, revision, vec![confirm()]),
            // Announced and never made, by a node that writes key by key.
            Ok(None) => match Block::new(cidr, &self.ask.node, self.now) {
                Ok(block) => (block, 0, vec![confirm()]),
                Err(_) => return Ok(None),
            },
            Err(AssignError::Broken { .. }) => return Ok(None),
            Err(err) => return Err(err),
        };
        block.ripen(self.now, self.settings.cool_down());
        let free = block.next_free(|addr| self.ask.keeps(addr));
        Ok(free.map(|addr| (addr, Draft { block, revision, with })))
    }

    /// A new block of this node.
    async fn claim(&self, cidr: IpNet) -> Result<Draft, AssignError<S::Error>> {
        let key = affinity_key(&self.ask.node, &cidr);
        let known = self.store.get(&key).await?;
        let over = known.as_ref().map_or(0, |entry| entry.revision);
        let before = known.and_then(|entry| Affinity::parse(&entry.value).ok()).unwrap_or_default();
        let block =
            Block::new(cidr, &self.ask.node, self.now).map_err(|err| broken(&block_key(&cidr), &err))?;
        let with = vec![Change { key, value: Some(before.confirmed().encode()), over }];
        Ok(Draft { block, revision: 0, with })
    }

    /// An address of a block that another node has: the whole block where it is empty, else only the address.
    async fn of_others(
        &self,
        v6: bool,
        pools: &[&PoolRange],
        own: usize,
    ) -> Result<Option<(IpAddr, Draft)>, AssignError<S::Error>> {
        let mut blocks = Vec::new();
        for entry in self.store.list(&blocks_of(v6), false).await? {
            let Some(cidr) = block_of(&entry.key) else { continue };
            if !pools.iter().any(|pool| pool.cidr.contains(&cidr)) {
                continue;
            }
            if let Ok(mut block) = Block::parse(&cidr, &entry.value)
                && block.node() != Some(self.ask.node.as_str())
            {
                block.ripen(self.now, self.settings.cool_down());
                blocks.push((block, entry.revision));
            }
        }
        // Nodes that look at the same moment begin at different ones.
        let begin = usize::try_from(hash(&self.ask.node)).unwrap_or(0) % blocks.len().max(1);
        blocks.rotate_left(begin);
        if self.settings.claims() && own < self.settings.most_blocks() {
            for (block, revision) in &blocks {
                let old = self.now.duration_since(block.claimed_at()).unwrap_or_default();
                if !block.is_empty() || old < RECLAIM_AFTER {
                    continue;
                }
                let mut draft = self.claim(block.cidr()).await?;
                draft.revision = *revision;
                if let Some(node) = block.node() {
                    let key = affinity_key(node, &block.cidr());
                    if let Some(entry) = self.store.get(&key).await? {
                        draft.with.push(Change { key, value: None, over: entry.revision });
                    }
                }
                if let Some(addr) = draft.block.next_free(|addr| self.ask.keeps(addr)) {
                    return Ok(Some((addr, draft)));
                }
            }
        }
        if self.settings.strict_affinity {
            return Ok(None);
        }
        let found = blocks.into_iter().find_map(|(block, revision)| {
            let addr = block.next_free(|addr| self.ask.keeps(addr))?;
            Some((addr, Draft { block, revision, with: Vec::new() }))
        });
        Ok(found)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A block of a pool that nobody has made, from a place on that differs from node to node.
fn unclaimed(pool: &PoolRange, there: &BTreeSet<IpNet>, node: &str) -> Option<IpNet> {
    let shift = u32::from(pool.cidr.max_prefix_len().checked_sub(pool.block_size)?);
    let count = 1_u128.checked_shl(u32::from(pool.block_size.checked_sub(pool.cidr.prefix_len())?))?;
    let base = match pool.cidr.network() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let begin = u128::from(hash(node)) % count;
    let steps = usize::try_from(count).unwrap_or(usize::MAX).min(there.len().saturating_add(MOST_STEPS));
    (0..steps as u128).find_map(|step| {
        let number = base + (((begin + step) % count) << shift);
        let addr = match pool.cidr {
            IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        };
        let cidr = IpNet::new(addr, pool.block_size).ok()?;
        // Blocks of another size may lie there from earlier: those are few, and near in order.
        let free = !there.contains(&cidr) && !there.iter().any(|other| overlap(other, &cidr));
        free.then_some(cidr)
    })
}
