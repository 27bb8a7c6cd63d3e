//! The address families spoken: IPv4 and IPv6 unicast (RFC 4760 section 3).

use std::net::IpAddr;
use std::ops::{Index, IndexMut};

use ipnet::IpNet;

/// An address family with unicast forwarding (SAFI 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];
    /// The subsequent address family spoken: unicast.
    pub const SAFI: u8 = 1;

    /// The address family identifier.
    pub fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// The family of these identifiers, if it is spoken.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.afi() == afi && safi == Family::SAFI)
    }

    /// The family of a prefix.
    pub fn of(net: &IpNet) -> Family {
        match net {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        }
    }

    /// The family of an address.
    pub fn of_addr(addr: IpAddr) -> Family {
        if addr.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// The longest prefix, bits.
    pub fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4 unicast",
            Family::Ipv6 => "IPv6 unicast",
        })
    }
}

/// One value for each family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct PerFamily<T>([T; 2]);

impl<T> PerFamily<T> {
    /// A value made for each family.
    pub fn from_fn(mut make: impl FnMut(Family) -> T) -> PerFamily<T> {
        PerFamily(Family::ALL.map(&mut make))
    }

    /// Each family with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().zip(&self.0)
    }
}

impl PerFamily<bool> {
    /// The families that are set.
    pub fn set(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self[*family])
    }

    /// Is any set?
    pub fn any(self) -> bool {
        self.set().next().is_some()
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.0[0],
            Family::Ipv6 => &self.0[1],
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.0[0],
            Family::Ipv6 => &mut self.0[1],
        }
    }
}
