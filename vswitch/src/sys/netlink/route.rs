//! Routes: replace, delete, list, ask which one a packet would take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addr::family;
use super::multi::several;
use super::{Netlink, NetlinkError, Operand};

/// The protocol number that marks a route as made by the switch.
pub const PROTOCOL: u8 = 0x76;
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// What a route does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Drops it and tells the sender.
    Unreachable,
    /// Delivers it here.
    Local,
    /// Anything else (broadcast, multicast, throw...); read only.
    Other,
}

/// A route. [`Route::to`] gives one with the defaults, to be filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop, none on a connected network.
    pub via: Option<IpAddr>,
    /// Index of the outgoing link.
    pub oif: Option<u32>,
    /// Next hops, each with the index of its link, all equally good, in order; `via` and `oif` are none then. Empty for a
    /// route that has one way only.
    pub hops: Vec<(IpAddr, u32)>,
    /// The next hop is on the link even where no address says so.
    pub onlink: bool,
    /// Source address of packets that the host sends.
    pub source: Option<IpAddr>,
    /// Scope link: the destination is on the link (IPv4; set by itself for a route without next hop).
    pub link_scope: bool,
    /// Priority; lower wins. IPv6 gives 1,024 to a route without.
    pub metric: Option<u32>,
    /// MTU of the path in bytes.
    pub mtu: Option<u32>,
    /// Who made it; [`PROTOCOL`] is us.
    pub protocol: u8,
    /// Routing table.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
}

impl Route {
    /// A route of ours in the main table, still without next hop and link.
    #[must_use]
    pub fn to(dst: IpNet) -> Self {
        Self {
            dst,
            via: None,
            oif: None,
            hops: Vec::new(),
            onlink: false,
            source: None,
            link_scope: false,
            metric: None,
            mtu: None,
            protocol: PROTOCOL,
            table: MAIN_TABLE,
            kind: RouteKind::Unicast,
        }
    }
}

/// Which routes to list.
#[derive(Clone, Copy, Default, Debug)]
pub struct RouteFilter {
    /// Only this table; `None` for all, the local one too.
    pub table: Option<u32>,
    /// Only those of this maker.
    pub protocol: Option<u8>,
    /// Only those out of this link.
    pub oif: Option<u32>,
}

impl RouteFilter {
    /// The switch's own routes in the main table.
    pub const OURS: Self = Self { table: Some(MAIN_TABLE), protocol: Some(PROTOCOL), oif: None };
    /// The main table.
    pub const MAIN: Self = Self { table: Some(MAIN_TABLE), protocol: None, oif: None };
}

impl Netlink {
    /// Adds a route, or replaces the one with the same destination, table and metric.
    ///
    /// # Errors
    /// `ENETUNREACH` for a next hop that no link reaches, `ENETDOWN` for a link that is down.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRoute(message(route));
        self.change("replace", || Operand::Route(route.dst), request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes a route that matches all that is given of it.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn del_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::DelRoute(message(route));
        self.change("delete", || Operand::Route(route.dst), request, 0)
    }

    /// The routes of both families that pass the filter. Cached exceptions are left out.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            all.extend(self.dump(Operand::Routes, &request, |message| match message {
                RouteNetlinkMessage::NewRoute(message) => route(&message).filter(|route| {
                    filter.table.is_none_or(|table| table == route.table)
                        && filter.protocol.is_none_or(|protocol| protocol == route.protocol)
                        && filter.oif.is_none_or(|oif| {
                            Some(oif) == route.oif || route.hops.iter().any(|hop| hop.1 == oif)
                        })
                }),
                _ => None,
            })?);
        }
        Ok(all)
    }

    /// The default route of one family: the one with the lowest metric in the main table.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn default_route(&mut self, v6: bool) -> Result<Option<Route>, NetlinkError> {
        let routes = self.routes(RouteFilter::MAIN)?;
        let defaults = routes.into_iter().filter(|route| {
            route.dst.prefix_len() == 0
                && route.dst.addr().is_ipv6() == v6
                && route.oif.is_some()
                && route.kind == RouteKind::Unicast
        });
        Ok(defaults.min_by_key(|route| route.metric.unwrap_or(0)))
    }

    /// The route that a packet of this host to `dst` would take: link, next hop and source address filled in.
    ///
    /// # Errors
    /// `ENETUNREACH` without one.
    pub fn route_to(&mut self, dst: IpAddr) -> Result<Route, NetlinkError> {
        self.look_up(dst, RouteFlags::empty())
    }

    /// The entry of the kernel's tables that [`route_to`](Self::route_to) follows: its own destination, priority and
    /// maker. Several next hops are in [`Route::hops`].
    ///
    /// # Errors
    /// `ENETUNREACH` without one.
    pub fn entry_for(&mut self, dst: IpAddr) -> Result<Route, NetlinkError> {
        self.look_up(dst, RouteFlags::FibMatch)
    }

    fn look_up(&mut self, dst: IpAddr, flags: RouteFlags) -> Result<Route, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.flags = flags;
        message.header.address_family = family(dst);
        message.header.destination_prefix_length = IpNet::from(dst).prefix_len();
        message.attributes.push(RouteAttribute::Destination(dst.into()));
        let what = || Operand::Route(dst.into());
        let request = RouteNetlinkMessage::GetRoute(message);
        let found = self.get(what, request, |message| match message {
            RouteNetlinkMessage::NewRoute(message) => route(&message),
            _ => None,
        })?;
        found.ok_or_else(|| NetlinkError::Absent(what()))
    }
}

fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.dst.addr());
    header.destination_prefix_length = route.dst.prefix_len();
    header.table = u8::try_from(route.table).unwrap_or(0);
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = match route.kind {
        RouteKind::Unicast | RouteKind::Other => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
    };
    let connected = route.via.is_none() && route.oif.is_some() && route.dst.addr().is_ipv4();
    header.scope = match route.kind {
        RouteKind::Local => RouteScope::Host,
        RouteKind::Unicast if route.link_scope || connected => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink && route.hops.is_empty() {
        header.flags |= RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.dst.prefix_len() != 0 {
        attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    if route.table > 255 {
        attributes.push(RouteAttribute::Table(route.table));
    }
    attributes.extend(route.via.map(|ip| RouteAttribute::Gateway(ip.into())));
    attributes.extend(route.oif.map(RouteAttribute::Oif));
    if !route.hops.is_empty() {
        attributes.push(several(&route.hops, route.onlink));
    }
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

/// The destination a message speaks of.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let length = message.header.destination_prefix_length;
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => ip(to),
        _ => None,
    });
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    IpNet::new(to.unwrap_or(any), length).ok()
}

/// The route a message speaks of; none for a cached exception or a family we do not know.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let any: IpNet = match header.address_family {
        AddressFamily::Inet => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        AddressFamily::Inet6 => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
        _ => return None,
    };
    let mut route = Route::to(any);
    route.table = u32::from(header.table);
    route.protocol = u8::from(header.protocol);
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    route.link_scope = header.scope == RouteScope::Link;
    route.kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Local => RouteKind::Local,
        _ => RouteKind::Other,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.dst = IpNet::new(ip(to)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(via) => route.via = ip(via),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.via = Some((*via).into()),
            RouteAttribute::Oif(index) => route.oif = Some(*index),
            RouteAttribute::MultiPath(all) => {
                route.hops =
                    all.iter().filter_map(|hop| Some((gateway(hop)?, hop.interface_index))).collect();
                route.hops.sort_unstable();
                route.onlink = all.iter().all(|hop| hop.flags.contains(RouteNextHopFlags::Onlink));
            }
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                route.mtu = mtu.or(route.mtu);
            }
            _ => {}
        }
    }
    Some(route)
}

/// The address of one of several next hops; none for one on a connected network.
fn gateway(hop: &RouteNextHop) -> Option<IpAddr> {
    hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(via) => ip(via),
        RouteAttribute::Via(RouteVia::Inet6(via)) => Some((*via).into()),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
