//! Decisions about packets: what a flow is, and in time whether it may pass.
//!
//! Nothing here does I/O, reads a clock or allocates per packet. The crate knows no other crate of the workspace.

pub mod conntrack;
pub mod flow;
pub mod frag;
pub mod model;
pub mod selector;

pub use flow::{FlowKey, HashKey, PEER_BIT};
