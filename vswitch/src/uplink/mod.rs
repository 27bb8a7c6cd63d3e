//! The uplink: how packets reach the other nodes.
//!
//! [`UplinkIo`] receives, [`UplinkTx`] sends; a worker owns those it uses and shares none. UDP sockets ([`udp`])
//! carry VXLAN and flannel's UDP mode, raw sockets ([`ipip`]) IP in IP; the uplink TAP ([`tap`]) is a faster way out for VXLAN super-frames, on devices
//! that segment inside a tunnel. Nothing here blocks, allocates per packet or looks into a packet.

pub mod ipip;
pub mod mem;
mod pieces;
pub mod steer;
pub mod tap;
pub mod udp;

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, RawFd};

use encap::{Form, Frame};

use crate::sys::mmsg::RecvBatch;

/// What came with one received buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvMeta {
    /// The sender.
    pub addr: SocketAddr,
    /// Bytes in the buffer.
    pub len: usize,
    /// The kernel's segment size for a train of datagrams, 0 when it gave none.
    pub stride: usize,
}

impl Default for RecvMeta {
    fn default() -> Self {
        Self { addr: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into(), len: 0, stride: 0 }
    }
}

/// The receiving half of an uplink. One owner.
pub trait UplinkIo {
    /// Receives with the arrays of `batch` into the first of `bufs` (large frames; they are reset) and sets their lengths; says what came in the
    /// same places of `meta`. Returns how many buffers were filled; 0 means that nothing waits. A buffer that was too
    /// small for its datagram comes back empty.
    ///
    /// # Errors
    /// What the socket says.
    fn rx(&mut self, batch: &mut RecvBatch, bufs: &mut [Frame], meta: &mut [RecvMeta]) -> io::Result<usize>;
}

/// A receiving socket as a worker gets it.
pub struct Uplink {
    /// How what it receives is read.
    pub form: Form,
    /// It.
    pub rx: Box<dyn UplinkIo + Send>,
    /// The descriptor to wait on.
    pub fd: RawFd,
}

impl Uplink {
    /// Buffers that one receive call uses well.
    #[must_use]
    pub fn buffers(&self) -> usize {
        match self.form {
            // Each takes a train of up to 64 datagrams.
            Form::Vxlan | Form::Udp => 8,
            Form::Ipip => ipip::RECV_BATCH,
        }
    }
}

/// Fills `bufs` from a socket: what [`UplinkIo::rx`] says.
fn receive(
    batch: &mut RecvBatch,
    socket: BorrowedFd<'_>,
    bufs: &mut [Frame],
    meta: &mut [RecvMeta],
) -> io::Result<usize> {
    let most = bufs.len().min(meta.len());
    let room = bufs.iter_mut().take(most).map(|frame| {
        frame.reset();
        frame.spare_mut()
    });
    let result = batch.recv(socket, room, |i, got| {
        let len = if got.truncated { 0 } else { got.len };
        meta[i] = RecvMeta { addr: got.addr, len, stride: got.stride };
    });
    match result {
        Ok(count) => {
            for (frame, meta) in bufs.iter_mut().zip(meta).take(count) {
                frame.set_len(meta.len);
            }
            Ok(count)
        }
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(err) => Err(err),
    }
}

/// The kernel has no room now.
fn is_full(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

/// An outgoing train: datagrams of one size to one peer, laid end to end in `parts`; only the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// The peer.
    pub dst: &'a SocketAddr,
    /// Hash of inner addresses: chooses the source port, so that a flow keeps its path and its order.
    pub flow_hash: u64,
    /// Bytes of every datagram but the last.
    pub seg: usize,
    /// Bytes of all datagrams together.
    pub total: usize,
    /// The bytes, piece by piece.
    pub parts: &'a [IoSlice<'a>],
}

impl Train<'_> {
    /// Datagrams in the train.
    #[must_use]
    pub fn count(&self) -> u32 {
        let count = if self.seg == 0 { 1 } else { self.total.div_ceil(self.seg).max(1) };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// What became of some trains, in datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendReport {
    /// Taken by the kernel.
    pub sent: u32,
    /// Not taken for want of room.
    pub dropped: u32,
    /// Refused: no route, too large, forbidden.
    pub errors: u32,
}

/// The sending half of an uplink. One owner.
pub trait UplinkTx {
    /// Sends the trains, which are of this form; those of one flow in order. Never fails as a whole: the report says
    /// what became of them. Datagrams of [`Form::Ipip`] are inner packets; their outer header is added here.
    fn send(&mut self, form: Form, trains: &[Train<'_>]) -> SendReport;

    /// What one train of this form may hold: datagrams (1 where nobody segments) and bytes.
    fn max_train(&self, form: Form) -> (usize, usize);

    /// Stands for the source port that a flow's packets leave from: those of two flows may share a train when it is the
    /// same.
    fn port(&self, _form: Form, _flow_hash: u64) -> usize {
        0
    }

    /// Sends an inner super-frame as one, for the host's stack or a device below to segment; false when this uplink
    /// cannot, or not this frame: then send its segments as a train.
    fn send_whole(&mut self, _inner: &Frame, _dst: &SocketAddr, _vni: u32, _flow_hash: u64) -> bool {
        false
    }
}
