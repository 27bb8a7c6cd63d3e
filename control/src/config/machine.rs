//! The facts about the machine that defaults come from. Read by the caller, so that checking stays a pure function.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// What the machine is, as far as a configuration depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Host name.
    pub hostname: Option<String>,
    /// Interface of the default route.
    pub default_uplink: Option<String>,
    /// Its interfaces. Empty = unknown: the file was written for another machine, so nothing is compared with it.
    pub links: BTreeMap<String, Link>,
    /// Cores this process may use; 0 counts as 1.
    pub cores: usize,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// MTU in bytes.
    pub mtu: u32,
    /// Its addresses with their prefix length, host bits set, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

impl Machine {
    /// Nothing is known; the file must say everything.
    pub fn unknown() -> Machine {
        Machine::default()
    }

    pub(super) fn is_known(&self) -> bool {
        !self.links.is_empty()
    }
}
