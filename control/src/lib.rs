//! Desired state of one node: what a person configured, what the runtime asked for, who holds which address.
//!
//! No packets, no sockets but the control socket's client end, no netlink and no threads. Everything is plain data
//! and pure functions, except the files of [`attachments`] and [`store::Manifests`]. Everything here runs on the daemon's
//! control thread, in `vsctl`, or in the CNI plugin.
//!
//! The CNI plugin is built without the feature `daemon`: it needs [`api`], [`client`], [`mac`] and [`names`] only, so
//! that it starts in a millisecond.

pub mod api;
pub mod client;
pub mod mac;
pub mod names;

#[cfg(feature = "daemon")]
pub mod attachments;
#[cfg(feature = "daemon")]
pub mod blocks;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod flannel;
#[cfg(feature = "daemon")]
pub mod fleet;
#[cfg(feature = "daemon")]
pub mod ipam;
#[cfg(feature = "daemon")]
pub mod objects;
#[cfg(feature = "daemon")]
pub mod store;
