//! Decisions about packets: what a flow is, and whether policy lets it pass.
//!
//! [`model`] holds what policy is decided from, [`naive`] says what it means, [`Compiler`] turns it into [`Compiled`],
//! and [`EndpointPolicy::decide`] asks that. Nothing here does I/O, reads a clock or allocates per packet. The crate
//! knows no other crate of the workspace.

pub mod addr;
#[cfg(test)]
mod arbitrary;
mod bitmap;
mod compiled;
mod compiler;
pub mod conntrack;
pub mod decision;
mod explain;
pub mod flow;
pub mod frag;
mod hash;
pub mod model;
pub mod naive;
mod prefixes;
pub mod selector;
mod table;
mod text;

pub use compiled::{Compiled, EndpointPolicy, Identity};
pub use compiler::Compiler;
pub use decision::{By, Decision, Logs};
pub use explain::{ExplainStep, Outcome};
pub use flow::{FlowKey, HashKey, PEER_BIT};
pub use table::{RuleInfo, Table};
