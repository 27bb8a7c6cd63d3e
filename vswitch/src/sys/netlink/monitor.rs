//! The monitor: changes of links, addresses, routes and neighbours, as the kernel tells them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::{SockFilter, SockRef};

use super::{Addr, Link, Neighbour, NetlinkError, Parts, Route, addr, link, neigh, receive, route};

/// Which changes to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups(u32);

impl Groups {
    /// Links.
    pub const LINK: Self = Self(libc::RTMGRP_LINK as u32);
    /// Addresses of both families.
    pub const ADDRESS: Self = Self((libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32);
    /// Routes of both families.
    pub const ROUTE: Self = Self((libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32);
    /// Neighbours.
    pub const NEIGHBOUR: Self = Self(libc::RTMGRP_NEIGH as u32);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A link is new or changed.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is new or changed.
    Address(Addr),
    /// An address is gone.
    AddressGone(Addr),
    /// A route is new or changed.
    Route(Route),
    /// A route is gone.
    RouteGone(Route),
    /// A neighbour is new or changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// The kernel had more to say than the socket could hold: look at everything again.
    Overflow,
}

/// A non-blocking socket that hears of changes in the namespace it was opened in. Poll its descriptor for reading.
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens one in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open(groups: Groups) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind(&SocketAddr::new(0, groups.0)).map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        Ok(Self { socket, buffer: vec![0; 64 << 10] })
    }

    /// Hears nothing of routes of this maker from here on: the kernel leaves them out, so that a million of them cost
    /// neither time nor [`Event::Overflow`].
    ///
    /// # Errors
    /// When the kernel takes no filter.
    pub fn without_routes_of(&self, protocol: u8) -> io::Result<()> {
        let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
        // The filter reads big-endian; the header has the machine's order.
        let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
        // nlmsghdr: length, then the type at 4. rtmsg begins at 16, and its protocol is its sixth byte.
        SockRef::from(&self.socket).attach_filter(&[
            op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, kind(libc::RTM_NEWROUTE)),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 2, kind(libc::RTM_DELROUTE)),
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 21),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, u32::from(protocol)),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ])
    }

    /// Hands everything that waits to `each`; returns how many events there were.
    ///
    /// # Errors
    /// What the socket says, but for `EAGAIN` (the end) and `ENOBUFS` ([`Event::Overflow`]).
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> io::Result<usize> {
        let mut count = 0;
        loop {
            let got = match receive(&self.socket, &mut self.buffer) {
                Ok(got) => got,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => {
                    count += 1;
                    each(Event::Overflow);
                    continue;
                }
                Err(err) => return Err(err),
            };
            for (_, body) in Parts(&self.buffer[..got]).flatten() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(body);
                if let Ok(NetlinkPayload::InnerMessage(message)) = message.map(|m| m.payload)
                    && let Some(event) = event(message)
                {
                    count += 1;
                    each(event);
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn event(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(m) => Some(Event::Link(link::link(m))),
        RouteNetlinkMessage::DelLink(m) => Some(Event::LinkGone(link::link(m))),
        RouteNetlinkMessage::NewAddress(m) => addr::addr(&m).map(Event::Address),
        RouteNetlinkMessage::DelAddress(m) => addr::addr(&m).map(Event::AddressGone),
        RouteNetlinkMessage::NewRoute(m) => route::route(&m).map(Event::Route),
        RouteNetlinkMessage::DelRoute(m) => route::route(&m).map(Event::RouteGone),
        RouteNetlinkMessage::NewNeighbour(m) => neigh::neighbour(&m).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(m) => neigh::neighbour(&m).map(Event::NeighbourGone),
        _ => None,
    }
}
