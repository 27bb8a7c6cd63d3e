//! Path attributes as values (RFC 4271 section 5). Routes share them: see [`Interner`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::as_path::AsPath;
use crate::community::{Community, LargeCommunity};

pub(crate) mod code;
mod emit;
mod intern;
mod parse;
#[cfg(test)]
mod tests;

pub use intern::Interner;
pub use parse::{AttributeError, Fault, Handling};
pub(crate) use parse::{Context, parse};

/// Where the route's origin AS had it from (RFC 4271 section 5.1.1). The lower, the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Origin {
    /// Interior to the origin AS.
    #[default]
    Igp = 0,
    /// From EGP.
    Egp = 1,
    /// Otherwise.
    Incomplete = 2,
}

/// Where packets for a route go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHop {
    /// The address (for IPv6 the global one).
    pub addr: IpAddr,
    /// The link-local address that came along (RFC 2545 section 3). Not passed on.
    pub link_local: Option<Ipv6Addr>,
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> NextHop {
        NextHop { addr, link_local: None }
    }
}

/// An attribute we do not know, optional and transitive: passed on unread (RFC 4271 section 5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Unknown {
    /// Its type code.
    pub code: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

/// All attributes of a route.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, merged with AS4_PATH.
    pub as_path: AsPath,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: AS number and router id.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// COMMUNITIES, as received.
    pub communities: Box<[Community]>,
    /// LARGE_COMMUNITY.
    pub large_communities: Box<[LargeCommunity]>,
    /// EXTENDED COMMUNITIES, opaque.
    pub extended_communities: Box<[[u8; 8]]>,
    /// ORIGINATOR_ID (RFC 4456 section 8).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST, the nearest reflector first (RFC 4456 section 8).
    pub cluster_list: Box<[Ipv4Addr]>,
    /// What we do not know and pass on, by code.
    pub unknown: Box<[Unknown]>,
}

impl Attributes {
    /// A route of our own: origin IGP, empty path.
    pub fn new(next_hop: IpAddr) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: next_hop.into(),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Box::default(),
            large_communities: Box::default(),
            extended_communities: Box::default(),
            originator_id: None,
            cluster_list: Box::default(),
            unknown: Box::default(),
        }
    }

    /// LOCAL_PREF, or the usual 100 where there is none.
    pub fn preference(&self) -> u32 {
        self.local_pref.unwrap_or(100)
    }

    /// Has it this community?
    pub fn has(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }
}
