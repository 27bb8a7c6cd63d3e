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
    /// the kernel refuses the metadata or there are too many pieces, [`NotConnected`](io::ErrorKind::NotConnected)
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

/// Pieces one frame may have, its virtio header not counted.
pub const MAX_PARTS: usize = 255;

/// Calls `write` with `first` (when it is not empty) and `parts` in one array on the stack, as small as will do.
pub(crate) fn gather<T>(
    first: &[u8],
    parts: &[IoSlice<'_>],
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<T>,
) -> io::Result<T> {
    fn with<'a, const N: usize, T>(
        first: &'a [u8],
        parts: &[IoSlice<'a>],
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut all = [IoSlice::new(first); N];
        all[1..=parts.len()].copy_from_slice(parts);
        write(&all[usize::from(first.is_empty())..=parts.len()])
    }
    match parts.len() {
        0..4 => with::<4, T>(first, parts, write),
        4..16 => with::<16, T>(first, parts, write),
        16..64 => with::<64, T>(first, parts, write),
        64..=MAX_PARTS => with::<256, T>(first, parts, write),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A device's error as the kind that [`PortIo`] and [`PortTx`] promise; others stay as they are.
pub(crate) fn fault(err: rustix::io::Errno) -> io::Error {
    use rustix::io::Errno;
    match err {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => io::ErrorKind::WouldBlock.into(),
        Errno::IO | Errno::NETDOWN => io::ErrorKind::NetworkDown.into(),
        Errno::INVAL | Errno::MSGSIZE => io::ErrorKind::InvalidInput.into(),
        Errno::BADFD | Errno::NODEV => io::ErrorKind::NotConnected.into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
