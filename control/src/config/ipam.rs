//! `[ipam]`: where pods' addresses come from.

use super::check::Errors;
use super::{ConfigFile, Problem, Store};

/// Where pods' addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipam {
    /// Out of the node's own pod ranges ([`crate::ipam`]).
    #[default]
    Node,
    /// Out of pools that all nodes share ([`crate::blocks`]); with the etcd store only.
    Pools,
}

impl Ipam {
    /// As the file and reports write it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Ipam::Node => "node",
            Ipam::Pools => "pools",
        }
    }
}

pub(super) fn check(file: &ConfigFile, store: &Store, errors: &mut Errors) -> Ipam {
    match file.ipam.kind.as_deref().unwrap_or("node") {
        "node" => Ipam::Node,
        "pools" => {
            if !matches!(store, Store::Etcd(_)) {
                errors.add("ipam.type", "pools", Problem::StoreKey { wants: "etcd" });
            }
            Ipam::Pools
        }
        kind => {
            errors.add("ipam.type", kind, Problem::UnknownType { have: "node, pools" });
            Ipam::Node
        }
    }
}
