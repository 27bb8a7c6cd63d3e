//! Connection tracking: one table of flows for the node, in memory that outlives the process.
//!
//! All workers share one [`Table`]; the control thread walks it (sweeping, detached pods, operators' lists). The table
//! is a fixed layout of 64-bit words in memory that the caller owns, typically a memfd that another process keeps, so
//! that a restarted switch finds its flows again; [`Table::open`] verifies each of them.
//!
//! An entry holds both directions of a flow. Finding one takes no lock and writes nothing. An entry is claimed by
//! compare-and-swap for a flow's first packet; later packets store the time when it changed and change the state by
//! compare-and-swap when it moves. When several workers open one flow at once (both directions, say), each announces
//! its entry before it looks for others, and all but one withdraw (`open.rs`).
//!
//! A worker remembers a flow's [`Slot`]: index and generation of its entry. Every operation through a slot notices
//! that the entry has been given to another flow.
//!
//! There are no timer wheels. Memory is fixed, an expired entry counts as absent at once, and a full bucket takes
//! expired entries first; so expiry need not be punctual for anything but giving quota back, and one background
//! [`Table::sweep`] that reads each used entry's line once in a while does that without a word of memory per flow or a
//! queue between threads.
//!
//! Never done here: I/O, clock reads (time is an argument), allocation, decisions of policy.

mod adopt;
mod entry;
#[cfg(test)]
mod fixture;
mod index;
mod layout;
mod near;
mod open;
mod quota;
mod sctp;
mod state;
mod table;
mod tcp;
mod timeouts;
mod transport;
mod tuple;
mod walk;

pub use adopt::Adopted;
pub use entry::{Epoch, Rules};
pub use layout::{CAPACITY_MAX, Geometry, TableError};
pub use near::{EntryWords, Near, TagWords};
pub use open::{OpenError, Opened, Opening};
pub use quota::{Held, Limits, OPENERS_MAX, Opener};
pub use state::State;
pub use table::{Config, Found, Slot, Step, Table, Tracked};
pub use timeouts::{TICKS_PER_SECOND, Tick, Timeouts};
pub use transport::Transport;
pub use tuple::{Direction, MTU_FLOOR_V4, MTU_FLOOR_V6, Tuple};
pub use walk::{Flow, Swept};
