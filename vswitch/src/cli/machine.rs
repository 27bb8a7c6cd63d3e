//! The machine's facts that a configuration is checked against.

use std::collections::BTreeMap;

use control::config::{Link, Machine};

use crate::sys::netlink::{Netlink, NetlinkError};

/// Reads them.
///
/// # Errors
/// When netlink fails.
pub(super) fn read() -> Result<Machine, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let names: BTreeMap<u32, (String, u32)> =
        netlink.links()?.into_iter().map(|link| (link.index, (link.name, link.mtu))).collect();
    let mut links: BTreeMap<String, Link> =
        names.values().map(|(name, mtu)| (name.clone(), Link { mtu: *mtu, addresses: Vec::new() })).collect();
    for address in netlink.addresses(None)? {
        if let Some(link) = names.get(&address.index).and_then(|(name, _)| links.get_mut(name)) {
            link.addresses.push(address.net);
        }
    }
    let default = match netlink.default_route(false)? {
        Some(route) => Some(route),
        None => netlink.default_route(true)?,
    };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    Ok(Machine {
        hostname: hostname.map(|name| name.trim().to_owned()),
        default_uplink: default
            .and_then(|route| route.oif)
            .and_then(|i| names.get(&i))
            .map(|(name, _)| name.clone()),
        links,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    })
}
