//! A TCP connection of the speaker's, and the listeners.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use bgp::config::Connection;
use ipnet::IpNet;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::tcp;

/// Connections the kernel holds while nobody accepts: over a restart of the switch, say.
const BACKLOG: i32 = 128;
/// Pieces written in one call.
const PIECES: usize = 64;

/// A connection.
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    /// Whether it is there is not known yet.
    pub(super) dialling: bool,
}

/// Opens a listener.
///
/// # Errors
/// When the address is in use or not ours.
pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Takes up a listener that was kept, if it is one on that address.
pub(super) fn adopt(fd: OwnedFd, addr: SocketAddr) -> Option<TcpListener> {
    let socket = Socket::from(fd);
    let same = socket.local_addr().ok().and_then(|local| local.as_socket()) == Some(addr);
    (same && socket.set_nonblocking(true).is_ok()).then(|| TcpListener::from_std(socket.into()))
}

/// Begins to connect.
///
/// # Errors
/// When it cannot even begin: no route, an address that is not ours, a key the kernel refuses.
pub(super) fn dial(to: SocketAddr, from: Option<IpAddr>, options: &Connection) -> io::Result<Conn> {
    let socket =
        Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if let Some(password) = &options.password {
        tcp::set_md5(&socket, IpNet::from(to.ip()), password.0.as_bytes())?;
    }
    ready(&socket, to.ip(), options)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(err) if err.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(err) => return Err(err),
    }
    Ok(Conn { stream: TcpStream::from_std(socket.into()), dialling: true })
}

/// Makes an accepted connection what its neighbour's sessions are.
///
/// # Errors
/// When an option is refused.
pub(super) fn welcome(stream: TcpStream, peer: IpAddr, options: &Connection) -> io::Result<Conn> {
    ready(&stream, peer, options)?;
    Ok(Conn { stream, dialling: false })
}

fn ready(socket: &impl AsFd, peer: IpAddr, options: &Connection) -> io::Result<()> {
    let peer = peer.to_canonical();
    tcp::set_ttl(socket.as_fd(), peer, options.ttl)?;
    if let Some(ttl) = options.min_ttl {
        tcp::set_min_ttl(socket.as_fd(), peer, ttl)?;
    }
    // A message is whole when it is written: waiting for more only delays it.
    let nodelay = libc::c_int::from(true);
    crate::sys::sockopt::set_int(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, nodelay)
}

impl Conn {
    /// Reads once; 0 = the peer has closed.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        again(|| self.stream.read(buffer))
    }

    /// Writes once as much as the kernel takes.
    pub(super) fn write<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut n = 0;
        for (slot, part) in pieces.iter_mut().zip(parts) {
            *slot = IoSlice::new(part);
            n += 1;
        }
        again(|| self.stream.write_vectored(&pieces[..n]))
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
