//! Giving addresses to a handle: searched for, then written in one transaction.

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use self::search::{Draft, Search};
use super::block::{Block, Owner};
use super::choose::PoolRange;
use super::keys::{CONFIG, Name, block_key, handle_key, parse};
use super::record::{Handle, Settings};
use super::release::release;
use super::store::{Change, KeyStore};
use crate::ipam::Family;

/// Attempts at a transaction that others come before.
pub const MAX_TRIES: u32 = 100;

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
    /// Addresses that only who asks for them is given.
    pub reserved: Vec<IpNet>,
}

impl Ask {
    /// Is it none that is given to whoever wants any?
    #[must_use]
    pub fn keeps(&self, addr: &IpAddr) -> bool {
        self.never.contains(addr) || self.reserved.iter().any(|net| net.contains(addr))
    }
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
        let search = Search { store, ask, settings: &settings, now };
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

/// The block that a key names.
pub(super) fn block_of(key: &str) -> Option<IpNet> {
    match parse(key.as_bytes())? {
        Name::Block(cidr) => Some(cidr),
        _ => None,
    }
}
