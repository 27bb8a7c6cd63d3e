//! Raw ICMP sockets for echo requests of an exact size that nobody may fragment.
//!
//! Every host answers echoes, whatever tunnel it speaks. A raw socket hears all ICMP of its address; a filter lets
//! answers and "too big" through, and what is not an answer to us is passed over here.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use encap::echo::{self, ECHO_LEN, Echo};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::sys::sockopt;

/// Bytes of the secret behind the header.
const SECRET: usize = 16;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// It left.
    Away,
    /// The first link does not take it.
    TooBig,
}

/// What arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// An answer to the request with this number.
    Answer {
        /// Who answered.
        from: IpAddr,
        /// The request.
        number: u16,
    },
    /// Somebody on the way says that the request with this number is too large.
    TooBig {
        /// Where the request was going.
        to: IpAddr,
        /// The request.
        number: u16,
        /// What fits, bytes; 0 = it does not say.
        mtu: u16,
    },
}

/// A socket at one of this node's addresses.
pub(super) struct EchoSocket {
    socket: UdpSocket,
    v6: bool,
    id: u16,
}

impl EchoSocket {
    /// Opens one.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or for an address that is not ours.
    pub(super) fn open(local: IpAddr) -> io::Result<EchoSocket> {
        let v6 = local.is_ipv6();
        let (domain, protocol) =
            if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
        socket.attach_filter(&filter(v6))?;
        sockopt::probe_path(socket.as_fd(), v6)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        let [a, b, ..] = crate::switch::random_seed()[0].to_be_bytes();
        // A raw socket is used like a UDP one: datagrams to and from addresses.
        let socket = UdpSocket::from(OwnedFd::from(socket));
        Ok(EchoSocket { socket, v6, id: u16::from_be_bytes([a, b]) })
    }

    /// Sends an echo request whose IP packet has `size` bytes.
    ///
    /// # Errors
    /// What the kernel says, but for "too large".
    pub(super) fn send(&self, to: IpAddr, size: u16, number: u16, secret: [u64; 2]) -> io::Result<Sent> {
        let ip = if self.v6 { 40 } else { 20 };
        let mut message = vec![0; usize::from(size).saturating_sub(ip).max(ECHO_LEN + SECRET)];
        message[ECHO_LEN..ECHO_LEN + SECRET].copy_from_slice(&bytes(secret));
        echo::request(&mut message, self.v6, self.id, number);
        match self.socket.send_to(&message, (to, 0)) {
            Ok(_) => Ok(Sent::Away),
            Err(err) if err.raw_os_error() == Some(libc::EMSGSIZE) => Ok(Sent::TooBig),
            Err(err) => Err(err),
        }
    }

    /// Hands everything that arrived for us to `each`.
    pub(super) fn drain(&self, secret: [u64; 2], mut each: impl FnMut(Heard)) {
        // Only the start of an answer is looked at; the rest of its bytes may be lost.
        let mut buffer = [0; 256];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((n, from)) => {
                    let message = buffer.get(..n).unwrap_or_default();
                    if let Some(heard) = heard(message, self.v6, self.id, secret, from.ip()) {
                        each(heard);
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                // Nothing waits, or the error of a single packet; what is left wakes us again.
                Err(_) => return,
            }
        }
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bytes(secret: [u64; 2]) -> [u8; SECRET] {
    let mut out = [0; SECRET];
    out[..8].copy_from_slice(&secret[0].to_be_bytes());
    out[8..].copy_from_slice(&secret[1].to_be_bytes());
    out
}

/// What a message of the socket says, if it is about a request of ours.
fn heard(message: &[u8], v6: bool, id: u16, secret: [u64; 2], from: IpAddr) -> Option<Heard> {
    match echo::read(message, v6)? {
        Echo::Answer { id: of, number, data } => {
            let ours = of == id && data.get(..SECRET) == Some(&bytes(secret)[..]);
            ours.then_some(Heard::Answer { from, number })
        }
        Echo::TooBig { id: of, number, to, mtu } => (of == id).then_some(Heard::TooBig { to, number, mtu }),
    }
}

/// The program that takes answers and "too big".
fn filter(v6: bool) -> Vec<SockFilter> {
    const LDX_HEADER: u16 = 0xb1; // x = 4 * (packet[0] & 15)
    const LD_BYTE: u16 = 0x50; // a = packet[x + k], 8 bits
    const LD_BYTE_AT: u16 = 0x30; // a = packet[k], 8 bits
    const EQUAL: u16 = 0x15; // jump by (a == k)
    const RETURN: u16 = 0x06; // take k bytes
    let [answer, too_big] = echo::types(v6);
    let op = |code, k| SockFilter::new(code, 0, 0, k);
    let mut program = if v6 { vec![op(LD_BYTE_AT, 0)] } else { vec![op(LDX_HEADER, 0), op(LD_BYTE, 0)] };
    program.extend([
        SockFilter::new(EQUAL, 1, 0, u32::from(answer)),
        SockFilter::new(EQUAL, 0, 1, u32::from(too_big)),
        op(RETURN, u32::MAX),
        op(RETURN, 0),
    ]);
    program
}

#[cfg(test)]
mod tests;
