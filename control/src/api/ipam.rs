//! Reports about addresses: `vsctl ipam`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is asked of the allocator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpamQuery {
    /// Pools and blocks.
    #[default]
    Show,
    /// Who has an address.
    Ip(IpAddr),
    /// What does not fit together.
    Check,
    /// Take these addresses back, whoever has them.
    Release(Vec<IpAddr>),
    /// Put these findings of a check right, each if it is still so.
    Repair(Vec<Value>),
}

/// What the allocator knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IpamReport {
    /// `node` or `pools`.
    pub kind: String,
    /// Pools, or the node's own ranges.
    #[serde(default)]
    pub pools: Vec<PoolInfo>,
    /// Blocks, in order.
    #[serde(default)]
    pub blocks: Vec<BlockInfo>,
    /// The address that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressInfo>,
    /// What does not fit together; each has `problem` and `detail`.
    #[serde(default)]
    pub findings: Vec<Value>,
    /// What was released or put right, one line each.
    #[serde(default)]
    pub done: Vec<String>,
    /// What was not, and why.
    #[serde(default)]
    pub left: Vec<String>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// Its name; empty for a node's own range.
    pub name: String,
    /// Its addresses.
    pub cidr: IpNet,
    /// Its blocks' prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Blocks that are claimed.
    pub blocks: u64,
    /// Addresses it has; saturates.
    pub addresses: u64,
    /// Addresses that pods have.
    pub used: u64,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// Its addresses.
    pub cidr: IpNet,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its affinity: `confirmed`, `pending`, `pendingDeletion` or `none`.
    pub affinity: String,
    /// Addresses that pods have.
    pub used: u64,
    /// Of these, pods of other nodes.
    pub borrowed: u64,
    /// Addresses that were released a moment ago.
    pub cooling: u64,
    /// Addresses that are free.
    pub free: u64,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressInfo {
    /// It.
    pub address: IpAddr,
    /// `held`, `cooling`, `free`, or `unknown` where no block has it.
    pub state: String,
    /// Its block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<IpNet>,
    /// Its handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// The node it was given on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pod it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}
