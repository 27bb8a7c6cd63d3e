//! Decisions about packets: what a flow is, and in time whether it may pass.
//!
//! Nothing here does I/O, reads a clock or allocates per packet. The crate knows no other crate of the workspace.

pub mod addr;
#[cfg(test)]
mod arbitrary;
mod bitmap;
mod compiled;
mod compiler;
pub mod decision;
pub mod flow;
mod hash;
pub mod model;
pub mod naive;
mod prefixes;
pub mod selector;
mod table;

pub use compiled::{Compiled, EndpointPolicy, Identity};
pub use compiler::Compiler;
pub use decision::{By, Decision, Logs};
pub use flow::{FlowKey, HashKey, PEER_BIT};
pub use table::{RuleInfo, Table};
