//! A pod: smoltcp's stack on an interface, with the sockets of the flows it takes part in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::Mac;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};
use vswitch::snapshot::{GATEWAY_V4, GATEWAY_V6};

use super::nic::Nic;

const TCP_BUFFER: usize = 256 * 1024;

/// Who a pod is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its MAC address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Identity {
    /// Its address of one family.
    #[must_use]
    pub fn addr(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }
}

/// The pod.
pub struct Host {
    /// Who it is.
    pub identity: Identity,
    /// Its interface.
    pub nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
}

fn instant(now_us: u64) -> Instant {
    Instant::from_micros(now_us as i64)
}

impl Host {
    /// A pod behind `nic`, its gateway the switch's.
    ///
    /// # Panics
    /// When smoltcp has no room for the addresses and routes.
    #[must_use]
    pub fn new(identity: Identity, mut nic: Nic, seed: u64) -> Self {
        let mut config = Config::new(EthernetAddress(identity.mac.0).into());
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut nic, instant(0));
        iface.update_ip_addrs(|addrs| {
            // smoltcp takes ARP and ND answers only from networks it has an address in.
            for cidr in [
                IpCidr::new(IpAddress::Ipv4(identity.v4), 32),
                IpCidr::new(IpAddress::Ipv6(identity.v6), 128),
                IpCidr::new(IpAddress::Ipv4(Ipv4Addr::new(169, 254, 1, 2)), 30),
                IpCidr::new(IpAddress::Ipv6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)), 64),
            ] {
                addrs.push(cidr).expect("smoltcp has room for four addresses");
            }
        });
        let routes = iface.routes_mut();
        routes.add_default_ipv4_route(GATEWAY_V4).expect("smoltcp has room for a route");
        routes.add_default_ipv6_route(GATEWAY_V6).expect("smoltcp has room for a route");
        Self { identity, nic, iface, sockets: SocketSet::new(Vec::new()) }
    }

    /// Lets the stack work; true when something moved.
    pub fn poll(&mut self, now_us: u64) -> bool {
        let pulled = self.nic.pull();
        let sent = self.nic.stats.tx;
        self.iface.poll(instant(now_us), &mut self.nic, &mut self.sockets);
        pulled || self.nic.stats.tx != sent
    }

    /// When the stack wants to be polled again, microseconds.
    pub fn poll_at(&mut self, now_us: u64) -> Option<u64> {
        self.iface.poll_at(instant(now_us), &self.sockets).map(|at| at.total_micros().max(0) as u64)
    }

    fn tcp_socket() -> tcp::Socket<'static> {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        tcp::Socket::new(buffer(), buffer())
    }

    /// Waits for a connection on `port`.
    ///
    /// # Panics
    /// For port 0.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = Self::tcp_socket();
        socket.listen(port).expect("the port is not 0");
        self.sockets.add(socket)
    }

    /// Connects from `port`.
    ///
    /// # Panics
    /// For port 0 or an address of another family than we have.
    pub fn connect(&mut self, port: u16, to: (IpAddr, u16)) -> SocketHandle {
        let mut socket = Self::tcp_socket();
        let local = IpEndpoint::from((self.identity.addr(to.0.is_ipv6()), port));
        socket.connect(self.iface.context(), IpEndpoint::from(to), local).expect("both ends are given");
        self.sockets.add(socket)
    }

    /// A UDP socket on `port`.
    ///
    /// # Panics
    /// For port 0.
    pub fn bind(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 1024], vec![0; 1024 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("the port is not 0");
        self.sockets.add(socket)
    }

    /// A TCP socket of ours.
    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A UDP socket of ours.
    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}
