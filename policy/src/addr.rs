//! Addresses as numbers: IPv6 as it is, IPv4 as `::ffff:a.b.c.d`, which is how [`crate::FlowKey`] holds them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The number of an address.
#[must_use]
pub fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address of a number.
#[must_use]
pub fn ip(bits: u128) -> IpAddr {
    Ipv6Addr::from_bits(bits).to_canonical()
}

/// Is it an IPv4 address?
#[must_use]
pub fn is_v4(bits: u128) -> bool {
    bits >> 32 == 0xffff
}

/// First and last number of a prefix, and whether it is of IPv4.
#[must_use]
pub(crate) fn range(net: &IpNet) -> (u128, u128, bool) {
    let v4 = matches!(net, IpNet::V4(_));
    (bits(net.network()), bits(net.broadcast()), v4)
}
