//! Addresses of links: add, delete, list.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, Operand};

/// An address of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addr {
    /// The address with its prefix length.
    pub net: IpNet,
    /// The link's index.
    pub index: u32,
    /// Valid on the link only.
    pub link_scope: bool,
    /// IPv6: duplicate address detection has not ended yet.
    pub tentative: bool,
}

impl Netlink {
    /// Gives a link an address; one that it has already stays. `nodad` skips IPv6 duplicate address detection, so
    /// that the address works at once; no route to the prefix is made with `no_route`.
    ///
    /// # Errors
    /// `ENODEV` without such a link, `EACCES` for IPv6 where it is disabled.
    pub fn add_address(
        &mut self,
        index: u32,
        net: IpNet,
        nodad: bool,
        no_route: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = message(index, net);
        let mut flags = AddressFlags::empty();
        if nodad && matches!(net, IpNet::V6(_)) {
            flags |= AddressFlags::Nodad;
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        if no_route {
            flags |= AddressFlags::Noprefixroute;
        }
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        let request = RouteNetlinkMessage::NewAddress(message);
        self.change("add", || Operand::Address(net, index), request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when it has no such address.
    pub fn del_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::DelAddress(message(index, net));
        self.change("delete", || Operand::Address(net, index), request, 0)
    }

    /// The addresses of one link, or of all.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Addr>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(Operand::Addresses, &request, |message| match message {
            RouteNetlinkMessage::NewAddress(message) => {
                addr(&message).filter(|addr| index.is_none_or(|index| index == addr.index))
            }
            _ => None,
        })
    }
}

/// The address a message speaks of.
pub(super) fn addr(message: &AddressMessage) -> Option<Addr> {
    let mut address = None;
    let mut local = None;
    let mut tentative = message.header.flags.contains(AddressHeaderFlags::Tentative);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(flags) => tentative |= flags.contains(AddressFlags::Tentative),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let link_scope = message.header.scope == AddressScope::Link;
    Some(Addr { net, index: message.header.index, link_scope, tentative })
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
