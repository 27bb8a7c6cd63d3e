//! The IP-in-IP uplink: raw IPv4 sockets, one packet a message.
//!
//! No kernel module takes part. Packets are sent with `IP_HDRINCL`: the outer header is written here, because DF and
//! the traffic class are each inner packet's own; the kernel fills in identification and checksum. It neither fragments
//! nor refuses what is larger than a path it knows (`IP_PMTUDISC_PROBE`): how large packets may be is decided before.
//! There is no segmentation: a train leaves as many packets in one `sendmmsg`, cut out of its own pieces.
//!
//! A raw socket is bound to one protocol and gets a copy of every such packet that comes to the node's address, fragments
//! reassembled. Each worker has one for IPv4 and one for IPv6 inner packets, with a filter that takes the worker's share
//! by inner addresses, so that a flow stays with one worker. A node with these sockets never answers "protocol
//! unreachable"; where the kernel's own ipip module is loaded, it may answer "port unreachable", which peers pass over.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use encap::Frame;
use encap::ipip::{self, IPIP_LEN, PROTO_IPV4, PROTO_IPV6};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::pieces::Cursor;
use super::steer::{self, Moved};
use super::udp::SOCKET_BUFFER;
use super::{RecvMeta, SendReport, Train, UplinkIo};
use crate::sys::mmsg::{Message, RecvBatch, SendBatch};
use crate::sys::sockopt;

/// Packets one call receives, and buffers it can use well.
pub const RECV_BATCH: usize = 64;
/// Packets one call sends.
const SEND_BATCH: usize = 64;
/// Pieces an inner packet may have: headers and payload, and one more where a cut goes through a piece.
const PIECES: usize = 3;
/// Packets that a train may hold.
pub const MAX_PACKETS: usize = 64;
/// Bytes that a train may hold.
pub const MAX_BYTES: usize = 65_515;
/// The protocols there is a receiving socket of for each worker.
pub const PROTOCOLS: [u8; 2] = [PROTO_IPV4, PROTO_IPV6];

/// Why the raw sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum IpipError {
    /// The socket could not be made or bound.
    #[error("open a raw socket of protocol {protocol} at {addr} (it needs CAP_NET_RAW)")]
    Open {
        /// The address.
        addr: Ipv4Addr,
        /// The IP protocol.
        protocol: u8,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
    /// An option was refused.
    #[error("set {option} on a raw socket")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
    /// A descriptor handed over is no raw IPv4 socket.
    #[error("the descriptor is no raw IPv4 socket")]
    NotRaw(#[source] io::Error),
}

/// A receiving socket.
pub struct IpipRx {
    socket: Socket,
}

impl IpipRx {
    /// Opens a socket for one of [`PROTOCOLS`] that gets what is for `addr`.
    ///
    /// # Errors
    /// See [`IpipError`].
    pub fn open(addr: Ipv4Addr, protocol: u8) -> Result<Self, IpipError> {
        Self::new(open(addr, protocol)?)
    }

    /// Takes over a socket (of the keeper, after a restart).
    ///
    /// # Errors
    /// [`IpipError::NotRaw`] for a descriptor of another kind.
    pub fn adopt(fd: OwnedFd) -> Result<Self, IpipError> {
        let socket = Socket::from(fd);
        let refused = || IpipError::NotRaw(io::ErrorKind::InvalidInput.into());
        if socket.r#type().map_err(IpipError::NotRaw)? != Type::RAW {
            return Err(refused());
        }
        let protocol = socket.protocol().map_err(IpipError::NotRaw)?;
        match protocol.and_then(|p| u8::try_from(i32::from(p)).ok()) {
            Some(p) if PROTOCOLS.contains(&p) => Self::new(socket),
            _ => Err(refused()),
        }
    }

    fn new(socket: Socket) -> Result<Self, IpipError> {
        configure(&socket)?;
        Ok(Self { socket })
    }

    /// Takes only what is worker number `index`'s of `workers`, by inner destination ([`steer`]); some have `moved` to
    /// another worker.
    ///
    /// # Errors
    /// When the kernel takes no filter.
    pub fn share(&self, index: usize, workers: usize, moved: &Moved) -> Result<(), IpipError> {
        let protocol = self.socket.protocol().map_err(IpipError::NotRaw)?;
        let v6 = protocol.map(i32::from) == Some(i32::from(PROTO_IPV6));
        let of = |n| u32::try_from(n).unwrap_or(1);
        let program = steer::share(v6, of(index), of(workers), moved);
        let filter: Vec<SockFilter> =
            program.iter().map(|op| SockFilter::new(op.code, op.jt, op.jf, op.k)).collect();
        self.socket
            .attach_filter(&filter)
            .map_err(|err| IpipError::Option { option: "SO_ATTACH_FILTER", err })
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local(&self) -> Result<SocketAddr, IpipError> {
        let local = self.socket.local_addr().map_err(IpipError::NotRaw)?.as_socket();
        local.ok_or_else(|| IpipError::NotRaw(io::ErrorKind::InvalidInput.into()))
    }
}

impl UplinkIo for IpipRx {
    fn rx(&mut self, batch: &mut RecvBatch, bufs: &mut [Frame], meta: &mut [RecvMeta]) -> io::Result<usize> {
        super::receive(batch, self.socket.as_fd(), bufs, meta)
    }
}

impl AsFd for IpipRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The sending socket.
pub struct IpipTx {
    socket: Socket,
    src: Ipv4Addr,
    batch: SendBatch,
    headers: Box<[[u8; IPIP_LEN]; SEND_BATCH]>,
}

/// One inner packet, cut out of its train.
#[derive(Clone, Copy)]
struct Packet<'a> {
    dst: &'a SocketAddr,
    pieces: [IoSlice<'a>; PIECES],
    count: usize,
}

impl IpipTx {
    /// Opens a socket that sends from `src` and receives nothing.
    ///
    /// # Errors
    /// See [`IpipError`].
    pub fn open(src: Ipv4Addr) -> Result<Self, IpipError> {
        // Protocol 255 sends any protocol and receives none.
        let socket = open(src, RAW)?;
        configure(&socket)?;
        let failed = |option| move |err| IpipError::Option { option, err };
        socket.set_header_included_v4(true).map_err(failed("IP_HDRINCL"))?;
        sockopt::probe_path(socket.as_fd(), false).map_err(failed("IP_MTU_DISCOVER"))?;
        let headers = Box::new([[0; IPIP_LEN]; SEND_BATCH]);
        Ok(Self { socket, src, batch: SendBatch::new(SEND_BATCH), headers })
    }

    /// Sends the inner packets of the trains, in order, as many in one call as there are.
    pub fn send(&mut self, trains: &[Train<'_>]) -> SendReport {
        let mut report = SendReport::default();
        let mut packets = trains.iter().flat_map(|train| {
            let mut cursor = Cursor::new(train.parts);
            (0..train.count()).map(move |_| {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let count = cursor.take(train.seg.max(1), &mut pieces)?;
                Some(Packet { dst: train.dst, pieces, count })
            })
        });
        loop {
            let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            let empty = Packet { dst: &nowhere, pieces: [IoSlice::new(&[]); PIECES], count: 0 };
            let mut batch = [empty; SEND_BATCH];
            let mut n = 0;
            for packet in packets.by_ref() {
                let (Some(packet), Some(slot)) = (packet, batch.get_mut(n)) else {
                    report.errors += 1;
                    continue;
                };
                let len = packet.pieces[..packet.count].iter().map(|p| p.len()).sum();
                let header = match packet.dst {
                    SocketAddr::V4(dst) => ipip::header(&packet.pieces[0], len, self.src, *dst.ip()),
                    SocketAddr::V6(_) => None,
                };
                let Some(header) = header else {
                    report.errors += 1;
                    continue;
                };
                self.headers[n] = header;
                *slot = packet;
                n += 1;
                if n == SEND_BATCH {
                    break;
                }
            }
            if n == 0 {
                return report;
            }
            self.send_batch(&batch[..n], &mut report);
        }
    }

    fn send_batch(&mut self, packets: &[Packet<'_>], report: &mut SendReport) {
        let mut parts = [[IoSlice::new(&[]); PIECES + 1]; SEND_BATCH];
        for ((parts, header), packet) in parts.iter_mut().zip(&*self.headers).zip(packets) {
            parts[0] = IoSlice::new(header);
            parts[1..].copy_from_slice(&packet.pieces);
        }
        let mut at = 0;
        while at < packets.len() {
            let messages = packets[at..].iter().zip(&parts[at..]).map(|(packet, parts)| Message {
                dst: packet.dst,
                parts: &parts[..=packet.count],
                segment: 0,
            });
            let left = u32::try_from(packets.len() - at).unwrap_or(u32::MAX);
            match self.batch.send(self.socket.as_fd(), messages) {
                Ok(0) => return,
                Ok(n) => {
                    report.sent += u32::try_from(n).unwrap_or(u32::MAX);
                    at += n;
                }
                Err(err) if super::is_full(&err) => {
                    report.dropped += left;
                    return;
                }
                Err(_) => {
                    report.errors += 1;
                    at += 1;
                }
            }
        }
    }
}

/// `IPPROTO_RAW`.
const RAW: u8 = 255;

/// A bound, non-blocking raw socket.
fn open(addr: Ipv4Addr, protocol: u8) -> Result<Socket, IpipError> {
    let failed = |err| IpipError::Open { addr, protocol, err };
    let kind = Protocol::from(i32::from(protocol));
    let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(kind)).map_err(failed)?;
    socket.bind(&SocketAddr::new(addr.into(), 0).into()).map_err(failed)?;
    Ok(socket)
}

fn configure(socket: &Socket) -> Result<(), IpipError> {
    let failed = |option| move |err| IpipError::Option { option, err };
    socket.set_nonblocking(true).map_err(failed("O_NONBLOCK"))?;
    sockopt::set_buffers(socket.as_fd(), SOCKET_BUFFER).map(|_| ()).map_err(failed("SO_RCVBUF and SO_SNDBUF"))
}

#[cfg(test)]
mod tests;
