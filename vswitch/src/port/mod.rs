//! Ports: where a pod's frames come in and go out.
//!
//! The seam between the data path and the devices: [`PortIo`] is the reading half, owned by one worker; [`PortTx`]
//! the writing half, shared by all. The TAP with a virtio header ([`tap`]) is the one in use; the plain TAP
//! ([`plain`]) is for hosts and tests that want nothing of offloads. Nothing here blocks, allocates per packet or
//! looks into a packet.

pub mod mem;
pub mod plain;
pub mod tap;

use std::io::{self, IoSlice};

use encap::{Burst, Pool, VnetHdr};

/// The reading half of a port. One owner: two readers of one queue would reorder its packets.
pub trait PortIo {
    /// Fills `into` with frames, at most its free space and about `bytes` bytes (the frame that passes the budget is
    /// the last). Returns how many came; 0 means that nothing waits. Frames carry their virtio metadata.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] when the device is gone; anything else the device says.
    fn rx(&mut self, into: &mut Burst, pool: &mut Pool, bytes: usize) -> io::Result<usize>;
}

/// The writing half of a port; any thread may write at any time.
pub trait PortTx: Send + Sync {
    /// Writes one frame: its metadata and the pieces that follow each other. All or nothing.
    ///
    /// # Errors
    /// By kind, so that the caller can count: [`WouldBlock`](io::ErrorKind::WouldBlock) no room (try no more now),
    /// [`NetworkDown`](io::ErrorKind::NetworkDown) the interface is down, [`InvalidInput`](io::ErrorKind::InvalidInput)
    /// the kernel refuses the metadata or there are too many pieces
    /// ([`MAX_PARTS`](crate::sys::device::MAX_PARTS)), [`NotConnected`](io::ErrorKind::NotConnected)
    /// the device is gone.
    fn tx(&self, vnet: &VnetHdr, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// What may be left to the device.
    fn offloads(&self) -> Offloads;
}

/// What a port's device takes over from us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Partial checksums.
    pub csum: bool,
    /// IPv4 TCP super-frames.
    pub tso4: bool,
    /// IPv6 TCP super-frames.
    pub tso6: bool,
    /// UDP super-frames.
    pub uso: bool,
    /// Super-frames inside a UDP tunnel.
    pub tunnel: bool,
}

#[cfg(test)]
mod tests;
