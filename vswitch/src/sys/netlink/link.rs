//! Links: look up, list, change, make a veth pair, delete.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Netlink, NetlinkError, Operand};

/// A network interface, as it was when asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Ethernet address, zero where it has none.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub txqueuelen: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Operational (`IFF_RUNNING`): up, with carrier, and the kernel has started its queue.
    pub running: bool,
    /// The loopback device.
    pub loopback: bool,
    /// All flags (`IFF_*`).
    pub flags: u32,
    /// What made it: `veth`, `tun`, `vxlan`, `bridge`...; empty for hardware.
    pub kind: String,
}

/// What to change of a link, all in one request; what is `None` stays.
#[derive(Clone, Copy, Default, Debug)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Transmit queue length in packets.
    pub txqueuelen: Option<u32>,
    /// Largest super-frame the stack may send, in bytes (`IFLA_GSO_MAX_SIZE`; the kernel keeps some for headers).
    pub gso_max: Option<u32>,
    /// New name, 1 to 15 bytes.
    pub name: Option<&'a str>,
    /// Move into this network namespace.
    pub netns: Option<BorrowedFd<'a>>,
    /// No IPv6 link-local address of the kernel's own making (`addr_gen_mode none`).
    pub no_link_local: bool,
}

impl Netlink {
    /// The link of that name.
    ///
    /// # Errors
    /// [`NetlinkError::Absent`] when there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message, || Operand::Link(name.into()))
    }

    /// The link with that index.
    ///
    /// # Errors
    /// [`NetlinkError::Absent`] when there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message, || Operand::Index(index))
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(Operand::Links, &request, new_link)
    }

    /// Changes a link.
    ///
    /// # Errors
    /// `ENODEV` without such a link, `EEXIST` for a name taken, `EBUSY` for a name of a link that is up.
    pub fn set_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(change.txqueuelen.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.gso_max.map(LinkAttribute::GsoMaxSize));
        attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
        attributes.extend(change.netns.map(|ns| LinkAttribute::NetNsFd(ns.as_raw_fd())));
        if change.no_link_local {
            use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode};
            let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
            attributes.push(LinkAttribute::AfSpecUnspec(vec![mode]));
        }
        self.change("change", || Operand::Index(index), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// As [`Self::set_link`].
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        self.set_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    }

    /// Sets a link's MTU in bytes.
    ///
    /// # Errors
    /// As [`Self::set_link`]; `EINVAL` outside of what the device can do.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })
    }

    /// Renames a link.
    ///
    /// # Errors
    /// As [`Self::set_link`].
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.set_link(index, &LinkChange { name: Some(name), ..LinkChange::default() })
    }

    /// Moves a link into another network namespace.
    ///
    /// # Errors
    /// As [`Self::set_link`].
    pub fn move_link(&mut self, index: u32, netns: impl AsFd) -> Result<(), NetlinkError> {
        self.set_link(index, &LinkChange { netns: Some(netns.as_fd()), ..LinkChange::default() })
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// `ENODEV` without such a link, `EOPNOTSUPP` for hardware.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change("delete", || Operand::Index(index), RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Makes a veth pair, both ends in this namespace.
    ///
    /// # Errors
    /// `EEXIST` when a name is taken.
    pub fn add_veth(&mut self, name: &str, peer: &str) -> Result<(), NetlinkError> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        let request = RouteNetlinkMessage::NewLink(message);
        self.change("add", || Operand::Link(name.into()), request, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn one_link(&mut self, message: LinkMessage, what: impl Fn() -> Operand) -> Result<Link, NetlinkError> {
        match self.get(&what, RouteNetlinkMessage::GetLink(message), new_link) {
            Ok(found) => found.ok_or_else(|| NetlinkError::Absent(what())),
            Err(err) if err.is_absent() => Err(NetlinkError::Absent(what())),
            Err(err) => Err(err),
        }
    }
}

fn new_link(message: RouteNetlinkMessage) -> Option<Link> {
    if let RouteNetlinkMessage::NewLink(message) = message { Some(link(message)) } else { None }
}

/// The link a message speaks of.
pub(super) fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        running: flags.contains(LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        flags: flags.bits(),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(len) => link.txqueuelen = len,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}
