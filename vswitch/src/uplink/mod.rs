//! The uplink: how packets reach the other nodes.
//!
//! [`UplinkIo`] receives, [`UplinkTx`] sends; a worker owns one of each and shares neither. UDP sockets ([`udp`])
//! carry VXLAN and flannel's UDP mode; the uplink TAP ([`tap`]) is a faster way out for VXLAN super-frames, on devices
//! that segment inside a tunnel. Nothing here blocks, allocates per packet or looks into a packet.

pub mod mem;
pub mod tap;
pub mod udp;

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use encap::Frame;

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
    /// Receives into the first of `bufs` (large frames; they are reset) and sets their lengths; says what came in the
    /// same places of `meta`. Returns how many buffers were filled; 0 means that nothing waits. A buffer that was too
    /// small for its datagram comes back empty.
    ///
    /// # Errors
    /// What the socket says.
    fn rx(&mut self, bufs: &mut [Frame], meta: &mut [RecvMeta]) -> io::Result<usize>;
}

/// An outgoing train: datagrams of one size to one peer, laid end to end in `parts`; only the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// The peer.
    pub dst: &'a SocketAddr,
    /// Hash of the inner flow: chooses the source port, so that a flow keeps its path and its order.
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
    /// Sends the trains; those of one flow in order. Never fails as a whole: the report says what became of them.
    fn send(&mut self, trains: &[Train<'_>]) -> SendReport;

    /// What one train may hold: datagrams (1 where the kernel cannot segment) and bytes.
    fn max_train(&self) -> (usize, usize);

    /// Sends an inner super-frame as one, for the host's stack or a device below to segment; false when this uplink
    /// cannot, or not this frame: then send its segments as a train.
    fn send_whole(&mut self, _inner: &Frame, _dst: &SocketAddr, _vni: u32, _flow_hash: u64) -> bool {
        false
    }
}
