//! The sending half of the UDP uplink.

use std::io::{self, IoSlice};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{SockFilter, Socket};

use super::{UdpError, UdpRx, configure, open};
use crate::sys::mmsg::{Message, SendBatch};
use crate::sys::sockopt;
use crate::uplink::pieces::Cursor;
use crate::uplink::{SendReport, Train, is_full};

/// Trains one call sends; more are sent in several calls.
const SEND_BATCH: usize = 64;
/// Datagrams per train: what every kernel that can segment takes, and what a receiving kernel joins at most.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// Bytes per train. One more and the sending kernel cuts the train in software, because with its headers it passes
/// 65,535 bytes.
const MAX_BYTES_V4: usize = 65_493;
pub(crate) const MAX_BYTES_V6: usize = 65_473;
/// Pieces one datagram may have when it is sent alone out of a train.
const MAX_PIECES: usize = 32;

/// Sending sockets, chosen by flow hash.
pub struct UdpTx {
    v4: Vec<Socket>,
    v6: Vec<Socket>,
    local4: Vec<SocketAddr>,
    local6: Vec<SocketAddr>,
    batch: SendBatch,
    segments: bool,
}

impl UdpTx {
    /// Opens `spread` sockets for each local address (at most 64), each with a port of the kernel's choosing. They
    /// never receive.
    ///
    /// # Errors
    /// See [`UdpError`].
    pub fn spread(locals: &[IpAddr], spread: usize) -> Result<Self, UdpError> {
        let mut sockets = Vec::new();
        for local in locals {
            let addr = SocketAddr::new(*local, 0);
            for _ in 0..spread.clamp(1, 64) {
                let socket = open(addr, false).map_err(|err| UdpError::Bind { addr, err })?;
                configure(&socket, addr)?;
                // Nobody reads these sockets: let nothing pile up in them. The program is "return 0".
                let nothing = SockFilter::new(0x06, 0, 0, 0);
                socket.attach_filter(&[nothing]).map_err(|err| UdpError::Option {
                    addr,
                    option: "SO_ATTACH_FILTER",
                    err,
                })?;
                sockets.push((local.is_ipv6(), socket));
            }
        }
        Self::new(sockets)
    }

    /// Sends through receiving sockets, so that the source port is the tunnel's own: one per outer family.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn bound<'a>(sockets: impl IntoIterator<Item = &'a UdpRx>) -> Result<Self, UdpError> {
        let sockets = sockets.into_iter().map(|rx| {
            let socket = rx.socket.try_clone().map_err(|err| UdpError::Bind { addr: rx.local, err })?;
            Ok((rx.local.is_ipv6(), socket))
        });
        Self::new(sockets.collect::<Result<Vec<_>, UdpError>>()?)
    }

    fn new(sockets: Vec<(bool, Socket)>) -> Result<Self, UdpError> {
        let segments = sockets.iter().all(|(_, socket)| sockopt::has_udp_segment(socket.as_fd()));
        let (v6, v4): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|(v6, _)| *v6);
        let strip =
            |sockets: Vec<(bool, Socket)>| -> Vec<Socket> { sockets.into_iter().map(|(_, s)| s).collect() };
        let (v4, v6) = (strip(v4), strip(v6));
        let locals = |sockets: &[Socket]| -> io::Result<Vec<SocketAddr>> {
            sockets
                .iter()
                .map(|s| s.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput.into()))
                .collect()
        };
        let (local4, local6) =
            (locals(&v4).map_err(UdpError::NotUdp)?, locals(&v6).map_err(UdpError::NotUdp)?);
        Ok(Self { v4, v6, local4, local6, batch: SendBatch::new(SEND_BATCH), segments })
    }

    /// Whether trains leave as one; false from the start on a kernel without `UDP_SEGMENT`, and for good once a
    /// device refused one.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.segments
    }

    /// Sends with outer UDP checksums off, which makes the kernel refuse trains.
    #[cfg(test)]
    pub(super) fn without_checksum(&self) {
        for socket in self.v4.iter().chain(&self.v6) {
            sockopt::set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        }
    }

    /// The address and port that a flow's datagrams come from; none without a socket of the family. For a second way
    /// out (the uplink TAP) that must look the same to the peer.
    #[must_use]
    pub fn source(&self, flow_hash: u64, v6: bool) -> Option<SocketAddr> {
        let locals = if v6 { &self.local6 } else { &self.local4 };
        choose(flow_hash, locals.len()).map(|index| locals[index])
    }

    /// A number for the port that a flow's datagrams come from, the same for both families.
    #[must_use]
    pub fn port(&self, flow_hash: u64) -> usize {
        let index = |sockets: &[Socket]| choose(flow_hash, sockets.len()).unwrap_or(0);
        index(&self.v4) << 8 | index(&self.v6)
    }

    /// Behaves as on a kernel without `UDP_SEGMENT` from now on.
    pub fn disable_segments(&mut self) {
        self.segments = false;
    }
}

impl UdpTx {
    /// Sends the trains; those of one flow in order. The report says what became of them.
    pub fn send(&mut self, trains: &[Train<'_>]) -> SendReport {
        let mut report = SendReport::default();
        for trains in trains.chunks(SEND_BATCH) {
            for v6 in [false, true] {
                let sockets = if v6 { &self.v6 } else { &self.v4 };
                let mut used = 0u64;
                for train in trains.iter().filter(|train| train.dst.is_ipv6() == v6) {
                    match choose(train.flow_hash, sockets.len()) {
                        Some(index) => used |= 1 << index,
                        None => report.errors += train.count(),
                    }
                }
                while used != 0 {
                    let index = used.trailing_zeros() as usize;
                    used &= used - 1;
                    let sender = Sender {
                        socket: &sockets[index],
                        batch: &mut self.batch,
                        segments: &mut self.segments,
                    };
                    let count = sockets.len();
                    let mine =
                        |t: &&Train<'_>| t.dst.is_ipv6() == v6 && choose(t.flow_hash, count) == Some(index);
                    sender.send(trains.iter().filter(mine), &mut report);
                }
            }
        }
        report
    }

    /// What one train may hold: datagrams (1 where the kernel cannot segment) and bytes.
    #[must_use]
    pub fn max_train(&self) -> (usize, usize) {
        let bytes = if self.v6.is_empty() { MAX_BYTES_V4 } else { MAX_BYTES_V6 };
        (if self.segments { MAX_SEGMENTS } else { 1 }, bytes)
    }
}

/// The socket of a train's flow; none when there is no socket of its family.
fn choose(flow_hash: u64, sockets: usize) -> Option<usize> {
    // Below the low bits, which index hash tables.
    ((flow_hash >> 32) as usize).checked_rem(sockets)
}

/// One socket's turn.
struct Sender<'a> {
    socket: &'a Socket,
    batch: &'a mut SendBatch,
    segments: &'a mut bool,
}

impl Sender<'_> {
    /// Sends trains in order, as many at once as the kernel takes.
    fn send<'t>(self, mut trains: impl Iterator<Item = &'t Train<'t>> + Clone, report: &mut SendReport) {
        loop {
            let whole = trains.clone().map(|train| Message {
                dst: train.dst,
                parts: train.parts,
                segment: if train.count() > 1 { u16::try_from(train.seg).unwrap_or(0) } else { 0 },
            });
            let messages = if *self.segments { usize::MAX } else { alone(trains.clone()) };
            let result = if messages == 0 {
                Err(libc::EIO)
            } else {
                let sent = self.batch.send(self.socket.as_fd(), whole.take(messages));
                sent.map_err(|err| err.raw_os_error().unwrap_or(libc::EIO))
            };
            match result {
                Ok(0) => return,
                Ok(count) => report.sent += trains.by_ref().take(count).map(Train::count).sum::<u32>(),
                Err(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => {
                    report.dropped += trains.map(Train::count).sum::<u32>();
                    return;
                }
                Err(code) => {
                    let Some(train) = trains.next() else { return };
                    match code {
                        libc::EIO | libc::EINVAL if train.count() > 1 => *self.segments = false,
                        // The path's MTU is smaller than a datagram: alone they may be fragmented.
                        libc::EMSGSIZE if train.count() > 1 => {}
                        _ => {
                            report.errors += train.count();
                            continue;
                        }
                    }
                    one_by_one(self.batch, self.socket, train, report);
                }
            }
        }
    }
}

/// How many trains from the first on are a single datagram.
fn alone<'t>(trains: impl Iterator<Item = &'t Train<'t>>) -> usize {
    let mut more = false;
    let count = trains
        .take_while(|train| {
            more = train.count() > 1;
            !more
        })
        .count();
    if more { count } else { count.max(1) }
}

/// Sends a train's datagrams one at a time, out of the train's own pieces.
fn one_by_one(batch: &mut SendBatch, socket: &Socket, train: &Train<'_>, report: &mut SendReport) {
    let mut cursor = Cursor::new(train.parts);
    for _ in 0..train.count() {
        let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
        let Some(count) = cursor.take(train.seg, &mut pieces) else {
            report.errors += 1;
            continue;
        };
        let message = Message { dst: train.dst, parts: &pieces[..count], segment: 0 };
        match batch.send(socket.as_fd(), iter::once(message)) {
            Ok(_) => report.sent += 1,
            Err(err) if is_full(&err) => report.dropped += 1,
            Err(_) => report.errors += 1,
        }
    }
}
