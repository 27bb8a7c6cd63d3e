//! Giving addresses to a handle.
//!
//! Where an address comes from, in this order: a block that the node has already; a new block; an empty block of another
//! node, that node having had it for a minute; and, unless affinity is strict, a block of another node.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::block::{Block, Owner};
use super::choose::PoolRange;
use super::keys::{CONFIG, Name, affinities_of, affinity_key, block_key, blocks_of, handle_key, parse};
use super::record::{Affinity, Handle, Settings, State};
use super::release::{find, release};
use super::store::{Change, Entry, KeyStore};
use crate::config::nets::overlap;
use crate::ipam::Family;

/// Attempts at a transaction that others come before.
pub const MAX_TRIES: u32 = 100;
/// An empty block of another node is left to it for this long after it was claimed.
const RECLAIM_AFTER: Duration = Duration::from_secs(60);
/// Steps through a pool in search of a block that is not there yet, beyond those that are.
const MOST_STEPS: usize = 1 << 16;

/// What is asked for: an address of each family that `pools` has, and the fixed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Names the attachment.
    pub handle: String,
    /// This node.
    pub node: String,
    /// What is written beside the address.
    pub of: BTreeMap<String, String>,
    /// These addresses, each with its block; at most one of a family.
    pub fixed: Vec<(IpAddr, IpNet)>,
    /// Pools, the first that has an address counts; of both families, or one.
    pub pools: Vec<PoolRange>,
    /// Addresses that nobody is given.
    pub never: BTreeSet<IpAddr>,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError<E: std::error::Error> {
    /// The store.
    #[error("{0}")]
    Store(E),
    /// Others were faster each time.
    #[error("others changed the same blocks {MAX_TRIES} times meanwhile")]
    Contention,
    /// A requested address belongs to another handle.
    #[error("address {addr} belongs to {owner}")]
    Taken {
        /// It.
        addr: IpAddr,
        /// Its handle.
        owner: String,
    },
    /// A requested address lies in a block of another node, and affinity is strict.
    #[error("address {addr} lies in block {block} of node {node}, and affinity is strict")]
    Strict {
        /// It.
        addr: IpAddr,
        /// Its block.
        block: IpNet,
        /// Whose.
        node: String,
    },
    /// No pool has an address.
    #[error("no {family} address is left in {pools}{cooling}")]
    Exhausted {
        /// The family.
        family: Family,
        /// The pools' ranges.
        pools: crate::ipam::Ranges,
        /// What may help.
        cooling: &'static str,
    },
    /// A key that has to be changed cannot be read.
    #[error("{key}: {problem}")]
    Broken {
        /// It.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

impl<E: std::error::Error> From<E> for AssignError<E> {
    fn from(err: E) -> Self {
        AssignError::Store(err)
    }
}

pub(super) fn broken<E: std::error::Error>(key: &str, problem: &impl ToString) -> AssignError<E> {
    AssignError::Broken { key: key.to_owned(), problem: problem.to_string() }
}

/// A block and what has to be written with it.
struct Draft {
    block: Block,
    revision: i64,
    with: Vec<Change>,
}

/// The settings in force; without the key, or while it cannot be read, the defaults.
pub(super) async fn settings<S: KeyStore>(store: &S) -> Result<Settings, S::Error> {
    let entry = store.get(CONFIG).await?;
    Ok(entry.and_then(|entry| Settings::parse(&entry.value).ok()).unwrap_or_default())
}

/// Gives a handle its addresses, IPv4 first: all of them, written when this returns, or none. A handle that has them
/// already keeps them, so that asking again after a lost answer gives the same.
///
/// # Errors
/// See [`AssignError`]. After [`AssignError::Store`] nobody knows whether they were given: release the handle.
pub async fn assign<S: KeyStore>(
    store: &S,
    ask: &Ask,
    now: SystemTime,
) -> Result<Vec<IpAddr>, AssignError<S::Error>> {
    for attempt in 0..MAX_TRIES {
        if attempt > 0 {
            store.pause(attempt).await;
        }
        let key = handle_key(&ask.handle);
        let known = store.get(&key).await?;
        if let Some(entry) = &known {
            let handle = Handle::parse(&entry.value).map_err(|err| broken(&key, &err))?;
            let have = held(store, ask, &handle).await?;
            if satisfies(ask, &have) {
                return Ok(have);
            }
            // Of an attachment that was made half, or is made anew otherwise.
            release(store, &ask.handle, &have, now).await?;
            continue;
        }
        let settings = settings(store).await?;
        let mut search = Search { store, ask, settings: &settings, now };
        let mut drafts: Vec<(IpAddr, Draft)> = Vec::with_capacity(2);
        for v6 in [false, true] {
            let wish = ask.fixed.iter().find(|(addr, _)| addr.is_ipv6() == v6);
            if let Some((addr, block)) = wish {
                drafts.push((*addr, search.fixed(*addr, *block).await?));
            } else if ask.pools.iter().any(|pool| pool.cidr.addr().is_ipv6() == v6) {
                drafts.push(search.any(v6).await?);
            }
        }
        let mut handle = Handle::default();
        let (mut addrs, mut changes) = (Vec::new(), Vec::new());
        for (addr, draft) in drafts {
            let Draft { mut block, revision, with } = draft;
            if !block.give(addr, &ask.handle, &ask.of) {
                return Err(taken(&block, addr));
            }
            handle.add(&block.cidr(), 1);
            addrs.push(addr);
            let (key, value) = (block_key(&block.cidr()), Some(block.encode()));
            changes.push(Change { key, value, over: revision });
            changes.extend(with);
        }
        changes.push(Change { key, value: Some(handle.encode()), over: 0 });
        if store.commit(changes).await? {
            return Ok(addrs);
        }
    }
    Err(AssignError::Contention)
}

fn taken<E: std::error::Error>(block: &Block, addr: IpAddr) -> AssignError<E> {
    let owner = match block.owner(addr) {
        Some(Owner::Held { handle: Some(handle), .. }) => handle.to_owned(),
        _ => "somebody without a handle".to_owned(),
    };
    AssignError::Taken { addr, owner }
}

/// What a handle has already.
async fn held<S: KeyStore>(
    store: &S,
    ask: &Ask,
    handle: &Handle,
) -> Result<Vec<IpAddr>, AssignError<S::Error>> {
    let mut have = Vec::new();
    for block in handle.blocks() {
        if let Some((block, _)) = read(store, &block).await? {
            have.extend(block.held_by(&ask.handle));
        }
    }
    have.sort_unstable();
    Ok(have)
}

/// Is this what is asked for?
fn satisfies(ask: &Ask, have: &[IpAddr]) -> bool {
    let good = |v6: bool| {
        let mut of: Vec<IpAddr> = have.iter().copied().filter(|addr| addr.is_ipv6() == v6).collect();
        let fixed = ask.fixed.iter().find(|(addr, _)| addr.is_ipv6() == v6);
        let pools: Vec<&PoolRange> =
            ask.pools.iter().filter(|pool| pool.cidr.addr().is_ipv6() == v6).collect();
        let addr = of.pop();
        of.is_empty()
            && match (addr, fixed) {
                (None, fixed) => fixed.is_none() && pools.is_empty(),
                (Some(addr), Some((wanted, _))) => addr == *wanted,
                (Some(addr), None) => pools.iter().any(|pool| pool.cidr.contains(&addr)),
            }
    };
    good(false) && good(true)
}

/// A block as it lies there.
pub(super) async fn read<S: KeyStore>(
    store: &S,
    cidr: &IpNet,
) -> Result<Option<(Block, i64)>, AssignError<S::Error>> {
    let key = block_key(cidr);
    let Some(entry) = store.get(&key).await? else { return Ok(None) };
    let block = Block::parse(cidr, &entry.value).map_err(|err| broken(&key, &err))?;
    Ok(Some((block, entry.revision)))
}

struct Search<'a, S> {
    store: &'a S,
    ask: &'a Ask,
    settings: &'a Settings,
    now: SystemTime,
}

impl<S: KeyStore> Search<'_, S> {
    /// The block of a requested address.
    async fn fixed(&mut self, addr: IpAddr, cidr: IpNet) -> Result<Draft, AssignError<S::Error>> {
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
    async fn any(&mut self, v6: bool) -> Result<(IpAddr, Draft), AssignError<S::Error>> {
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
                    if let Some(addr) = draft.block.next_free(&ask.never) {
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
        let free = block.next_free(&self.ask.never);
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
                if let Some(addr) = draft.block.next_free(&self.ask.never) {
                    return Ok(Some((addr, draft)));
                }
            }
        }
        if self.settings.strict_affinity {
            return Ok(None);
        }
        let found = blocks.into_iter().find_map(|(block, revision)| {
            let addr = block.next_free(&self.ask.never)?;
            Some((addr, Draft { block, revision, with: Vec::new() }))
        });
        Ok(found)
    }
}

/// The block that a key names.
pub(super) fn block_of(key: &str) -> Option<IpNet> {
    match parse(key.as_bytes())? {
        Name::Block(cidr) => Some(cidr),
        _ => None,
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
