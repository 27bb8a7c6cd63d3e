//! A block: who has which of its addresses. Calico's value, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::record::null;
use super::time::{parse_time, timestamp};

/// Most addresses of a block: /20, /116.
const MOST: usize = 4096;
/// Longest value that is read, in bytes.
const MOST_TEXT: usize = 1 << 20;

/// A block's value that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not JSON of that shape.
    #[error("{0}")]
    Shape(String),
    /// Longer than is read.
    #[error("{0} bytes: at most {MOST_TEXT} are read")]
    TooLong(usize),
    /// It describes another block than its key names.
    #[error("it describes block {0}")]
    Other(IpNet),
    /// More addresses than a block has.
    #[error("a block has {MOST} addresses at most")]
    TooWide,
    /// Its lists contradict each other.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// What is known of whoever has an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Attribute {
    /// Its handle.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Names and values: `node`, `namespace`, `pod`, `timestamp`.
    #[serde(
        default,
        rename = "secondary",
        deserialize_with = "null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub of: BTreeMap<String, String>,
    /// The address cools down since then, and is nobody's.
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Nobody.
    Free,
    /// Nobody yet: it was released a moment ago.
    Cooling,
    /// A handle, or somebody without one.
    Held {
        /// The handle.
        handle: Option<&'a str>,
        /// Its node.
        node: Option<&'a str>,
        /// The block's sequence number when it was given.
        sequence: u64,
    },
}

/// A block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    cidr: IpNet,
    affinity: Option<String>,
    #[serde(default, rename = "affinity_claim_time", skip_serializing_if = "Option::is_none")]
    claimed: Option<String>,
    allocations: Vec<Option<usize>>,
    #[serde(default, deserialize_with = "null")]
    unallocated: Vec<usize>,
    #[serde(default, deserialize_with = "null")]
    attributes: Vec<Attribute>,
    #[serde(default)]
    sequence_number: u64,
    #[serde(default, deserialize_with = "null")]
    sequence_number_for_allocation: BTreeMap<String, u64>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn size(cidr: &IpNet) -> Result<usize, BlockError> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    1_usize.checked_shl(bits).filter(|n| *n <= MOST && bits <= 12).ok_or(BlockError::TooWide)
}

impl Block {
    /// A new one, affine to this node.
    ///
    /// # Errors
    /// [`BlockError::TooWide`].
    pub fn new(cidr: IpNet, node: &str, now: SystemTime) -> Result<Block, BlockError> {
        let size = size(&cidr)?;
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Ok(Block {
            cidr,
            affinity: Some(format!("host:{node}")),
            claimed: Some(timestamp(now)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            // A block that is made again must not give out the numbers of its predecessor.
            sequence_number: u64::try_from(nanos).unwrap_or(0),
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            rest: Map::new(),
        })
    }

    /// Reads the value of this block's key.
    ///
    /// # Errors
    /// See [`BlockError`]: whatever is read can be worked with.
    pub fn parse(cidr: &IpNet, text: &[u8]) -> Result<Block, BlockError> {
        if text.len() > MOST_TEXT {
            return Err(BlockError::TooLong(text.len()));
        }
        let size = size(cidr)?;
        let mut block: Block =
            serde_json::from_slice(text).map_err(|err| BlockError::Shape(err.to_string()))?;
        if block.cidr != *cidr {
            return Err(BlockError::Other(block.cidr));
        }
        if block.allocations.len() != size {
            return Err(BlockError::Inconsistent("allocations has not one entry for each address"));
        }
        if block.allocations.iter().flatten().any(|at| *at >= block.attributes.len()) {
            return Err(BlockError::Inconsistent("allocations names attributes that are not there"));
        }
        let free: BTreeSet<usize> = block.unallocated.iter().copied().collect();
        let good = free.len() == block.unallocated.len()
            && free.iter().all(|i| block.allocations.get(*i).is_some_and(Option::is_none));
        if !good || free.len() != block.allocations.iter().filter(|a| a.is_none()).count() {
            return Err(BlockError::Inconsistent("unallocated and allocations contradict each other"));
        }
        if block.affinity.is_none()
            && let Some(host) = block.rest.get("hostAffinity").and_then(Value::as_str)
        {
            // As old versions had it.
            block.affinity = Some(format!("host:{host}"));
            block.rest.remove("hostAffinity");
        }
        Ok(block)
    }

    /// The value to be written.
    pub(super) fn encode(&mut self) -> Vec<u8> {
        self.sequence_number = self.sequence_number.wrapping_add(1);
        // Maps with text as keys are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Its range.
    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The node it is affine to.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix("host:")
    }

    /// It is affine to something, though perhaps to no node.
    pub(super) fn is_affine(&self) -> bool {
        self.affinity.is_some()
    }

    /// When it was claimed; long ago where it does not say.
    pub(super) fn claimed_at(&self) -> SystemTime {
        self.claimed.as_deref().and_then(parse_time).unwrap_or(UNIX_EPOCH)
    }

    /// Its addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.allocations.len()
    }

    /// Has nobody any of its addresses, not even a moment ago?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }

    /// Addresses that are free now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.unallocated.len()
    }

    fn ordinal(&self, addr: IpAddr) -> Option<usize> {
        let offset = match (addr, self.cidr.network()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits().checked_sub(b.to_bits())?),
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits().checked_sub(b.to_bits())?,
            _ => return None,
        };
        usize::try_from(offset).ok().filter(|i| *i < self.len())
    }

    fn address(&self, ordinal: usize) -> IpAddr {
        // An ordinal is less than 4096, and lies inside the block.
        let offset = u32::try_from(ordinal).unwrap_or(0);
        match self.cidr.network() {
            IpAddr::V4(base) => IpAddr::V4(base.to_bits().wrapping_add(offset).into()),
            IpAddr::V6(base) => IpAddr::V6(base.to_bits().wrapping_add(offset.into()).into()),
        }
    }

    fn attribute(&self, ordinal: usize) -> Option<&Attribute> {
        self.attributes.get(self.allocations.get(ordinal).copied().flatten()?)
    }

    fn sequence(&self, ordinal: usize) -> u64 {
        self.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or(0)
    }

    fn owner_of(&self, ordinal: usize) -> Owner<'_> {
        match self.attribute(ordinal) {
            None => Owner::Free,
            Some(a) if a.released_at.is_some() => Owner::Cooling,
            Some(a) => Owner::Held {
                handle: a.handle.as_deref(),
                node: a.of.get("node").map(String::as_str),
                sequence: self.sequence(ordinal),
            },
        }
    }

    /// Who has an address; none when it is not in this block.
    #[must_use]
    pub fn owner(&self, addr: IpAddr) -> Option<Owner<'_>> {
        Some(self.owner_of(self.ordinal(addr)?))
    }

    /// What is known of whoever has an address.
    #[must_use]
    pub fn attribute_of(&self, addr: IpAddr) -> Option<&Attribute> {
        self.attribute(self.ordinal(addr)?)
    }

    /// Every address that somebody has, or had a moment ago, and who.
    pub fn taken(&self) -> impl Iterator<Item = (IpAddr, Owner<'_>)> {
        let taken = (0..self.len()).filter(|i| self.allocations.get(*i).copied().flatten().is_some());
        taken.map(|i| (self.address(i), self.owner_of(i)))
    }

    /// The addresses of a handle.
    #[must_use]
    pub fn held_by(&self, handle: &str) -> Vec<IpAddr> {
        let held = self
            .taken()
            .filter(|(_, owner)| matches!(owner, Owner::Held { handle: Some(h), .. } if *h == handle));
        held.map(|(addr, _)| addr).collect()
    }

    /// The address that has been free longest and is not kept back.
    #[must_use]
    pub fn next_free(&self, kept: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.unallocated.iter().map(|i| self.address(*i)).find(|addr| !kept(addr))
    }

    /// Gives an address of this block that is free, or cools down, to a handle; true when it was.
    pub(super) fn give(&mut self, addr: IpAddr, handle: &str, of: &BTreeMap<String, String>) -> bool {
        let Some(ordinal) = self.ordinal(addr) else { return false };
        if matches!(self.owner_of(ordinal), Owner::Held { .. }) {
            return false;
        }
        let attribute = Attribute { handle: Some(handle.to_owned()), of: of.clone(), ..Attribute::default() };
        let at = match self.attributes.iter().position(|known| *known == attribute) {
            Some(at) => at,
            None => {
                self.attributes.push(attribute);
                self.attributes.len() - 1
            }
        };
        self.unallocated.retain(|free| *free != ordinal);
        self.set(ordinal, Some(at));
        self.drop_unused();
        true
    }

    fn set(&mut self, ordinal: usize, to: Option<usize>) {
        if let Some(slot) = self.allocations.get_mut(ordinal) {
            *slot = to;
        }
        match to {
            Some(_) => {
                self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
            }
            None => drop(self.sequence_number_for_allocation.remove(&ordinal.to_string())),
        }
    }

    /// Takes back those of a handle's addresses that `which` names; they cool down from now on.
    pub(super) fn take_back(
        &mut self,
        handle: Option<&str>,
        which: impl Fn(IpAddr) -> bool,
        now: SystemTime,
        cool_down: Duration,
    ) -> Vec<IpAddr> {
        let of_handle = |owner: Owner<'_>| matches!(owner, Owner::Held { handle: h, .. } if h == handle);
        let taken = self.taken().filter(|(addr, owner)| of_handle(*owner) && which(*addr));
        let addrs: Vec<IpAddr> = taken.map(|(addr, _)| addr).collect();
        if addrs.is_empty() {
            return addrs;
        }
        self.attributes.push(Attribute { released_at: Some(timestamp(now)), ..Attribute::default() });
        let at = self.attributes.len() - 1;
        for addr in &addrs {
            if let Some(ordinal) = self.ordinal(*addr) {
                self.set(ordinal, Some(at));
            }
        }
        self.drop_unused();
        self.ripen(now, cool_down);
        addrs
    }

    /// Frees addresses that have cooled down, behind those that were free before; true when there were any. A moment
    /// that cannot be read is long ago.
    pub(super) fn ripen(&mut self, now: SystemTime, cool_down: Duration) -> bool {
        let ripe = |a: &Attribute| match &a.released_at {
            None => false,
            Some(text) => parse_time(text).is_none_or(|at| {
                // A clock that is far ahead of ours does not keep an address for ever.
                now.duration_since(at)
                    .map_or_else(|ahead| ahead.duration() > cool_down, |since| since >= cool_down)
            }),
        };
        let ordinals: Vec<usize> = (0..self.len()).filter(|i| self.attribute(*i).is_some_and(ripe)).collect();
        for ordinal in &ordinals {
            self.set(*ordinal, None);
            self.unallocated.push(*ordinal);
        }
        self.drop_unused();
        !ordinals.is_empty()
    }

    /// Attributes that no address has go.
    fn drop_unused(&mut self) {
        let used: BTreeSet<usize> = self.allocations.iter().copied().flatten().collect();
        if used.len() == self.attributes.len() {
            return;
        }
        let place: BTreeMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut at = 0;
        self.attributes.retain(|_| {
            at += 1;
            used.contains(&(at - 1))
        });
        for slot in &mut self.allocations {
            *slot = slot.and_then(|old| place.get(&old).copied());
        }
    }
}
