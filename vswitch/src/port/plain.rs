//! The plain TAP port, opened by the `tun-tap` crate: one MTU-size frame per call, every checksum complete.
//!
//! For hosts whose TAP cannot have a virtio header, for debugging (what a capture shows is what went over the wire),
//! and as the baseline that the other port is measured against. `tun-tap` cannot ask for the virtio header, which
//! is why it opens nothing else here.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use encap::{Burst, Pool, VnetHdr};

use super::{Offloads, PortIo, PortTx};
use crate::sys::device;
use crate::sys::tun::{self, Iff};

/// The reading half of a plain TAP port.
pub struct PlainRx {
    fd: Arc<OwnedFd>,
}

/// The writing half of a plain TAP port.
pub struct PlainTx {
    fd: Arc<OwnedFd>,
}

/// Creates a plain TAP in the network namespace of the calling thread; it ends with its descriptor.
///
/// # Errors
/// What `/dev/net/tun` says; `EBUSY` when the name is taken.
pub fn open(name: &str) -> io::Result<(PlainRx, PlainTx)> {
    let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)?;
    adopt(tun::into_fd(iface))
}

/// Takes over a plain TAP's descriptor, after checking that it is one.
///
/// # Errors
/// `InvalidInput` for a descriptor of another kind.
pub fn adopt(fd: OwnedFd) -> io::Result<(PlainRx, PlainTx)> {
    let (_, flags) = tun::interface(fd.as_fd())?;
    if !flags.contains(Iff::TAP | Iff::NO_PI) || flags.contains(Iff::VNET_HDR) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    tun::set_nonblocking(fd.as_fd())?;
    let fd = Arc::new(fd);
    Ok((PlainRx { fd: Arc::clone(&fd) }, PlainTx { fd }))
}

impl PortIo for PlainRx {
    fn rx(&mut self, into: &mut Burst, pool: &mut Pool, bytes: usize) -> io::Result<usize> {
        let mut budget = bytes;
        let mut count = 0;
        while !into.is_full() && budget > 0 {
            let mut frame = pool.large();
            let n = match device::read(&*self.fd, frame.spare_mut()) {
                Ok(n) => n,
                Err(err) => {
                    pool.give(frame);
                    if count > 0 || err.kind() == io::ErrorKind::WouldBlock {
                        break;
                    }
                    return Err(err);
                }
            };
            frame.set_len(n);
            budget = budget.saturating_sub(n);
            let mut small = pool.small();
            if small.copy_from(frame.data()) {
                std::mem::swap(&mut small, &mut frame);
            }
            pool.give(small);
            frame.hold(into.source);
            if let Err(frame) = into.push(frame) {
                pool.give(frame);
                break;
            }
            count += 1;
        }
        Ok(count)
    }
}

impl PortTx for PlainTx {
    fn tx(&self, vnet: &VnetHdr, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if vnet.needs_csum() || vnet.is_gso() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        device::write(&*self.fd, &[], parts)
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }
}

impl AsFd for PlainRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for PlainTx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
