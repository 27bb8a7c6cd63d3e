//! The small values: affinities, handles, settings.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How long a released address is given to nobody where the settings do not say: longer than any cache of ours holds a
/// flow's end, short beside the life of a pod.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// Longest that it may be.
const MOST_COOL_DOWN: u64 = 1200;
/// Blocks that a node may have where the settings do not say.
const MOST_BLOCKS: usize = 20;

/// How far an affinity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// The node is about to make the block.
    #[default]
    Pending,
    /// The block is the node's: only such a one is announced.
    Confirmed,
    /// The node is about to give the block back.
    PendingDeletion,
}

/// A node's affinity to a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Affinity {
    /// How far it is.
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Affinity {
    /// One that is in force.
    pub(super) fn confirmed(mut self) -> Affinity {
        (self.state, self.deleted) = (State::Confirmed, false);
        self
    }

    /// Reads a value; old ones are empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Affinity, serde_json::Error> {
        if text.is_empty() { Ok(Affinity::default()) } else { serde_json::from_slice(text) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Maps with text as keys are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// In which blocks a handle has how many addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Handle {
    #[serde(default, deserialize_with = "null")]
    block: BTreeMap<String, i64>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Handle {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Handle, serde_json::Error> {
        serde_json::from_slice(text)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Its blocks; what is no range is left out.
    #[must_use]
    pub fn blocks(&self) -> Vec<IpNet> {
        self.block.iter().filter(|(_, n)| **n > 0).filter_map(|(net, _)| net.parse().ok()).collect()
    }

    /// `n` more addresses (or less) of a block; true when none is left of any.
    pub(super) fn add(&mut self, block: &IpNet, n: i64) -> bool {
        let count = self.block.entry(block.to_string()).or_insert(0);
        *count = count.saturating_add(n);
        self.block.retain(|_, n| *n > 0);
        self.block.is_empty()
    }
}

/// What holds for all nodes: Calico's `IPAMConfig`. The key may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
pub struct Settings {
    /// No node takes an address of a block that another node has.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Nodes claim blocks by themselves.
    #[serde(default)]
    auto_allocate_blocks: Option<bool>,
    #[serde(default, rename = "maxBlocksPerHost")]
    max_blocks: i64,
    #[serde(default, rename = "ipCooldownSeconds")]
    cooldown: Option<i64>,
}

impl Settings {
    /// Reads the key's value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Settings, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Do nodes claim blocks by themselves? Unless it is written that they do not.
    #[must_use]
    pub fn claims(&self) -> bool {
        self.auto_allocate_blocks.unwrap_or(true)
    }

    /// Most blocks of one node.
    #[must_use]
    pub fn most_blocks(&self) -> usize {
        usize::try_from(self.max_blocks).ok().filter(|n| *n > 0).unwrap_or(MOST_BLOCKS)
    }

    /// How long a released address is given to nobody.
    #[must_use]
    pub fn cool_down(&self) -> Duration {
        let written =
            self.cooldown.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0).min(MOST_COOL_DOWN)));
        written.unwrap_or(COOL_DOWN)
    }
}

/// Go writes a list or map without elements as `null`.
pub(super) fn null<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
