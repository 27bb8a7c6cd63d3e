//! The node's connection table: where its memory comes from, and how large it is.
//!
//! The memory is a memfd that the keeper holds, so that flows outlive the switch process; workers share the table
//! behind an `Arc`, the control thread sweeps and lists it. What the table does is [`policy::conntrack`]'s.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use policy::conntrack::{Adopted, Config, Geometry, Opener, Table, TableError, Tick, Tuple};

use crate::sys::memory::{self, Mapping};

/// The table as the switch uses it.
pub type Conntrack = Table<Mapping>;

/// Flows the table is rated for. Only what is used takes memory.
const CAPACITY: u32 = 1 << 20;
/// Ports, and pods of peers, that are counted apart.
const PORTS: u32 = 4096;
const PEERS: u32 = 4096;

/// The table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The memory could not be had.
    #[error("memory for the connection table")]
    Memory(#[source] io::Error),
    /// The table does not fit.
    #[error("connection table")]
    Table(#[from] TableError),
}

/// Who opened a flow that came from a peer: the pod with this address, apart from the node's other pods, as far as there
/// are counts for all.
#[must_use]
pub fn remote(src: u128) -> Opener {
    let folded = (src as u64) ^ (src >> 64) as u64;
    Opener::Peer((folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as u32)
}

/// Now, as the table counts time: by a clock that goes on over restarts of the process.
#[must_use]
pub fn now() -> Tick {
    Tick::at(since_boot())
}

/// Time since boot.
#[must_use]
pub fn since_boot() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// How the node's table is made: the middle of a connection it does not know is taken up where policy lets it be opened, as
/// after all state was lost; until it is answered it counts as half-open.
fn config(capacity: u32) -> Config {
    Config { pickup: true, ..Config::new(Geometry { capacity, ports: PORTS, peers: PEERS }) }
}

/// Memory for a new table, to be kept by whoever shall outlive this process.
///
/// # Errors
/// When the kernel gives none.
pub fn memory() -> Result<OwnedFd, ConntrackError> {
    memory::create("vswitch-conntrack", config(CAPACITY).geometry.words()?).map_err(ConntrackError::Memory)
}

/// The table in `memory`, verified; what was there before stays where `whose` knows the opener. `seeds` key a new one.
///
/// # Errors
/// When the memory is not [`memory()`]'s.
pub fn open(
    memory: impl AsFd,
    seeds: [u64; 2],
    whose: impl FnMut(Opener, &Tuple) -> Option<Opener>,
) -> Result<(Conntrack, Adopted), ConntrackError> {
    let config = config(CAPACITY);
    let mapping = Mapping::new(memory, config.geometry.words()?).map_err(ConntrackError::Memory)?;
    Ok(Table::open(mapping, config, seeds, now(), whose)?)
}

/// A table of its own for `capacity` flows, which ends with its last user: for simulations and measurements.
///
/// # Errors
/// When the kernel gives no memory.
pub fn private(capacity: u32, seeds: [u64; 2]) -> Result<Conntrack, ConntrackError> {
    let config = config(capacity);
    let words = config.geometry.words()?;
    let fd = memory::create("vswitch-conntrack", words).map_err(ConntrackError::Memory)?;
    let mapping = Mapping::new(fd, words).map_err(ConntrackError::Memory)?;
    Ok(Table::open(mapping, config, seeds, Tick::default(), |_, _| None)?.0)
}
