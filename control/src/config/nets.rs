//! Address ranges: parsing, and finding two that overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Problem;

/// Ranges that no pod may have, whatever a file says.
const SPECIAL: [IpNet; 8] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    // ::/8 holds the unspecified, loopback and IPv4-mapped addresses.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 8),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // Discard-only, RFC 6666.
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), len))
}

/// One contains the other, or they are the same; prefixes overlap in no other way.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// A range that no pod may have, and that overlaps this one.
pub(crate) fn special(net: &IpNet) -> Option<IpNet> {
    SPECIAL.iter().find(|special| overlap(special, net)).copied()
}

/// A range as written: a network address that pods may be in.
pub(super) fn parse(text: &str) -> Result<IpNet, Problem> {
    let net: IpNet = text.parse().map_err(|_| Problem::NotCidr)?;
    if net.addr() != net.network() {
        return Err(Problem::HostBits { network: net.trunc() });
    }
    match special(&net) {
        Some(with) => Err(Problem::SpecialRange { with }),
        None => Ok(net),
    }
}

/// A unicast address that a node can have on its uplink.
pub(crate) fn is_node_address(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// A range and the key it stands under.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) net: IpNet,
    pub(super) key: String,
    /// Position in the file: of two that overlap, the later one is blamed.
    pub(super) order: usize,
}

/// Every range that overlaps an earlier one (in `order`), with one that it overlaps.
pub(super) fn overlaps(ranges: &[Named]) -> Vec<(&Named, &Named)> {
    let mut sorted: Vec<&Named> = ranges.iter().collect();
    sorted.sort_by_key(|r| (r.net.network(), r.net.prefix_len(), r.order));
    let mut found = Vec::new();
    let mut outer: Option<&Named> = None;
    for range in sorted {
        match outer {
            Some(o) if o.net.contains(&range.net) => {
                found.push(if o.order < range.order { (range, o) } else { (o, range) });
            }
            _ => outer = Some(range),
        }
    }
    found
}
