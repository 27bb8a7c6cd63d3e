//! Pools and blocks: addresses out of pools that all nodes share, in the keys and values that Calico keeps in etcd.
//!
//! ```text
//! IPPool ── cut into ──► blocks of one size; a node has an affinity to some of them
//! block  ── holds ─────► for each of its addresses: free, given to a handle, or cooling down
//! handle ── one for an attachment: in which blocks it holds addresses
//! ```
//!
//! Whatever belongs together is written in one transaction that holds only if nothing of it was changed meanwhile:
//! a new block, this node's affinity to it, the address and its handle. So whoever dies between two calls leaves either
//! nothing or an address that its handle names, and no half-claimed block. What a Calico node leaves half done (it writes
//! key by key) is understood: a pending affinity is taken up, a handle without addresses is found by [`survey`].
//!
//! Pure: [`KeyStore`] is the only way out, and time is an argument. The etcd store runs these functions on its own thread
//! (`store/etcd/ipam.rs`); tests run them over a store in memory, step by step.
//!
//! Formats: Calico's `libcalico-go/lib/backend/model`. Unknown fields of a block are kept.

mod assign;
mod block;
mod choose;
mod journal;
mod keys;
mod record;
mod release;
mod repair;
mod routes;
mod store;
mod surplus;
mod survey;
mod time;

pub use self::assign::{Ask, AssignError, MAX_TRIES, assign};
pub use self::block::{Attribute, Block, BlockError, Owner};
pub use self::choose::{ChooseError, Facts, PodWishes, PoolRange, choose, unusable};
pub use self::journal::Journal;
pub use self::keys::{
    AFFINITIES, BLOCKS, CONFIG, HANDLES, Name, PREFIX, affinity_key, block_key, handle_key, parse,
};
pub use self::record::{Affinity, Handle, Settings, State};
pub use self::release::{release, release_address};
pub use self::repair::{Repaired, repair};
pub use self::routes::{Routes, Table};
pub use self::store::{Change, Entry, KeyStore};
pub use self::surplus::{Idle, RETENTION, give_back};
pub use self::survey::{Finding, Known, Problem, Survey, Surveyed, survey};
pub use self::time::{parse_time, timestamp};

/// Written beside each address that vswitch gives.
pub const BY: (&str, &str) = ("by", "vswitch");

#[cfg(test)]
mod tests;
