//! The UDP uplink: `recvmmsg` with `UDP_GRO` in, `sendmmsg` with `UDP_SEGMENT` out.
//!
//! Every worker has one receiving socket of an `SO_REUSEPORT` group ([`bind`]) and its own sending sockets: either
//! several with ports of the kernel's choosing, picked by a hash of both pods' addresses (VXLAN, RFC 7348 section 5: the
//! source port is the underlay's entropy), or the receiving one itself (flannel's UDP mode expects the tunnel's port as the source).
//! Both outer families. The outer UDP checksum is always on: trains need it, and the peer's kernel coalesces nothing
//! without. A kernel or device that turns out not to segment is asked no more, and the train is sent datagram by
//! datagram out of the same pieces.

mod tx;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use encap::{Form, Frame};
use socket2::{Domain, Protocol, Socket, Type};

use super::steer::{self, Moved};
use super::{RecvMeta, UplinkIo};
use crate::sys::mmsg::RecvBatch;
use crate::sys::sockopt;

pub use self::tx::UdpTx;
pub(crate) use self::tx::{MAX_BYTES_V6, MAX_SEGMENTS};

/// Bytes of kernel buffer asked for, each way: some 100 trains.
pub const SOCKET_BUFFER: u32 = 8 << 20;

/// Why the tunnel's sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Somebody else has the port: a kernel VXLAN device, another switch.
    #[error("UDP {0} is taken by somebody else (a kernel VXLAN device? another switch?)")]
    Taken(SocketAddr),
    /// The socket could not be made or bound.
    #[error("bind UDP {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
    /// An option was refused.
    #[error("set {option} on UDP {addr}")]
    Option {
        /// The socket's address.
        addr: SocketAddr,
        /// The option's name.
        option: &'static str,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
    /// A descriptor handed over is no bound UDP socket.
    #[error("the descriptor is no bound UDP socket")]
    NotUdp(#[source] io::Error),
}

/// A receiving socket.
pub struct UdpRx {
    socket: Socket,
    local: SocketAddr,
}

/// Binds `count` receiving sockets to one address; the kernel spreads flows over them.
///
/// # Errors
/// [`UdpError::Taken`] when anybody, even a socket that would share, has the port already.
pub fn bind(addr: SocketAddr, count: usize) -> Result<Vec<UdpRx>, UdpError> {
    // Without SO_REUSEPORT this fails where any other socket is bound; with it we would quietly share with a
    // stranger of the same user and get every other flow.
    open(addr, false).map_err(|err| match err.kind() {
        io::ErrorKind::AddrInUse => UdpError::Taken(addr),
        _ => UdpError::Bind { addr, err },
    })?;
    let mut addr = addr;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let rx = UdpRx::new(open(addr, true).map_err(|err| UdpError::Bind { addr, err })?)?;
        rx.coalesce(true)?;
        addr = rx.local;
        sockets.push(rx);
    }
    Ok(sockets)
}

impl UdpRx {
    /// Takes over a bound socket (of the keeper, after a restart), which goes on joining datagrams or not as before.
    ///
    /// # Errors
    /// [`UdpError::NotUdp`] for a descriptor of another kind.
    pub fn adopt(fd: OwnedFd) -> Result<Self, UdpError> {
        let socket = Socket::from(fd);
        let kind = socket.r#type().map_err(UdpError::NotUdp)?;
        if kind != Type::DGRAM {
            return Err(UdpError::NotUdp(io::ErrorKind::InvalidInput.into()));
        }
        Self::new(socket)
    }

    fn new(socket: Socket) -> Result<Self, UdpError> {
        let local = socket.local_addr().map_err(UdpError::NotUdp)?.as_socket();
        let local = local
            .filter(|local| local.port() != 0)
            .ok_or_else(|| UdpError::NotUdp(io::ErrorKind::InvalidInput.into()))?;
        configure(&socket, local)?;
        Ok(Self { socket, local })
    }

    /// Says whether the kernel joins datagrams of a flow in one buffer. True for sockets from [`bind`]; belongs to the
    /// socket, and so to every descriptor of it.
    ///
    /// # Errors
    /// [`UdpError::Option`] where the kernel refuses.
    pub fn coalesce(&self, on: bool) -> Result<(), UdpError> {
        sockopt::set_udp_gro(self.socket.as_fd(), on).map_err(|err| UdpError::Option {
            addr: self.local,
            option: "UDP_GRO",
            err,
        })
    }

    /// Gives every datagram of this form to the socket of the worker that reads the port of its inner destination
    /// ([`steer`]), for the whole group of one socket a worker; some have `moved` to another worker.
    ///
    /// # Errors
    /// [`UdpError::Option`] where the kernel refuses.
    pub fn steer(&self, form: Form, workers: usize, moved: &Moved) -> Result<(), UdpError> {
        let program = steer::group(form, u32::try_from(workers).unwrap_or(1), moved);
        let option = "SO_ATTACH_REUSEPORT_CBPF";
        let refused = |err| UdpError::Option { addr: self.local, option, err };
        sockopt::choose_by(self.socket.as_fd(), &program).map_err(refused)
    }

    /// The address the socket is bound to.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl UplinkIo for UdpRx {
    fn rx(&mut self, batch: &mut RecvBatch, bufs: &mut [Frame], meta: &mut [RecvMeta]) -> io::Result<usize> {
        super::receive(batch, self.socket.as_fd(), bufs, meta)
    }
}

impl AsFd for UdpRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A bound, non-blocking UDP socket.
fn open(addr: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// What every tunnel socket has: large buffers, no path MTU discovery of its own.
fn configure(socket: &Socket, addr: SocketAddr) -> Result<(), UdpError> {
    let failed = |option| move |err| UdpError::Option { addr, option, err };
    socket.set_nonblocking(true).map_err(failed("O_NONBLOCK"))?;
    sockopt::set_buffers(socket.as_fd(), SOCKET_BUFFER).map_err(failed("SO_RCVBUF and SO_SNDBUF"))?;
    sockopt::allow_fragments(socket.as_fd(), addr.is_ipv6()).map_err(failed("IP_MTU_DISCOVER"))
}

#[cfg(test)]
mod tests;
