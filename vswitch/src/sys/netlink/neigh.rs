//! Neighbours (ARP and ND entries): get, list, add, delete.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;

use super::addr::family;
use super::{Netlink, NetlinkError, Operand};

/// A neighbour entry of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The neighbour's address.
    pub ip: IpAddr,
    /// The link's index.
    pub index: u32,
    /// Its Ethernet address, once known.
    pub mac: Option<[u8; 6]>,
    /// The entry may be used for sending (any state but incomplete, failed and none).
    pub usable: bool,
    /// Entered by hand; never ages.
    pub permanent: bool,
}

impl Netlink {
    /// The neighbours of a link, both families.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(Operand::Neighbours, &request, |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).filter(|n| n.index == index),
            _ => None,
        })
    }

    /// One neighbour of a link.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<Neighbour>, NetlinkError> {
        let what = || Operand::Neighbour(ip, index);
        let request = RouteNetlinkMessage::GetNeighbour(message(index, ip));
        let found = self.get(what, request, |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
            _ => None,
        });
        match found {
            Err(err) if err.is_absent() => Ok(None),
            other => other,
        }
    }

    /// Enters a permanent neighbour, or replaces what is there.
    ///
    /// # Errors
    /// `ENODEV` without such a link, `ENETDOWN` where it is down.
    pub fn add_neighbour(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = message(index, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.change("add", || Operand::Neighbour(ip, index), request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes a neighbour.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn del_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::DelNeighbour(message(index, ip));
        self.change("delete", || Operand::Neighbour(ip, index), request, 0)
    }
}

fn message(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message
}

/// The neighbour a message speaks of; none for bridge entries and multicast mappings.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if !matches!(message.header.kind, RouteType::Unicast | RouteType::Unspec) {
        return None;
    }
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = u16::from(message.header.state);
    let unusable = u16::from(NeighbourState::Incomplete) | u16::from(NeighbourState::Failed);
    Some(Neighbour {
        ip: ip?,
        index: message.header.ifindex,
        mac,
        usable: state != 0 && state & unusable == 0 && mac.is_some(),
        permanent: state & u16::from(NeighbourState::Permanent) != 0,
    })
}
