//! The TAP port: Ethernet frames with a virtio header, super-frames and partial checksums left whole.
//!
//! [`TapRx`] and [`TapTx`] share one descriptor. A read always goes into the same large buffer, hot in the cache;
//! what fits a small slab is copied out (2 KiB at most), what does not takes the large slab along. So a burst of
//! small packets costs 2 KiB each and a super-frame is never copied. One system call per frame: a TAP has no batch
//! calls.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use encap::{Burst, Pool, SMALL, VnetHdr};

use super::{Offloads, PortIo, PortTx};
use crate::sys::device;
use crate::sys::tun::{self, Tap};

/// The reading half of a TAP port.
pub struct TapRx {
    tap: Arc<Tap>,
}

/// The writing half of a TAP port.
pub struct TapTx {
    tap: Arc<Tap>,
    offloads: Offloads,
}

/// The two halves of a TAP. `gso_write` is what [`probe_gso_write`] said about this kernel: where it cannot take
/// super-frames, the port does not offer to.
///
/// # Errors
/// `InvalidInput` when the TAP has another virtio header than the plain one.
pub fn halves(tap: Tap, gso_write: bool) -> io::Result<(TapRx, TapTx)> {
    if tap.header() != VnetHdr::LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let taken = tap.offload();
    let has = |bits: u32| gso_write && taken & bits == bits;
    let offloads = Offloads {
        csum: true,
        tso4: has(tun::F_TSO4),
        tso6: has(tun::F_TSO6),
        uso: has(tun::F_USO),
        tunnel: false,
    };
    let tap = Arc::new(tap);
    Ok((TapRx { tap: Arc::clone(&tap) }, TapTx { tap, offloads }))
}

impl PortIo for TapRx {
    fn rx(&mut self, into: &mut Burst, pool: &mut Pool, bytes: usize) -> io::Result<usize> {
        let mut budget = bytes;
        let mut count = 0;
        let mut hot = pool.large();
        let result = loop {
            if into.is_full() || budget == 0 {
                break Ok(count);
            }
            hot.expect(into.source);
            let n = match device::read(&*self.tap, hot.spare_mut()) {
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break Ok(count),
                // What came before the error is delivered first; the error comes again.
                Err(_) if count > 0 => break Ok(count),
                Err(err) => break Err(err),
            };
            hot.set_len(n);
            let vnet = VnetHdr::parse(hot.data()).unwrap_or_default();
            if !hot.pull(VnetHdr::LEN) {
                continue;
            }
            budget = budget.saturating_sub(hot.len());
            let mut frame = if hot.len() <= SMALL {
                let mut small = pool.small();
                small.copy_from(hot.data());
                small
            } else {
                std::mem::replace(&mut hot, pool.large())
            };
            frame.vnet = vnet;
            frame.hold(into.source);
            match into.push(frame) {
                Ok(()) => count += 1,
                Err(frame) => {
                    pool.give(frame);
                    break Ok(count);
                }
            }
        };
        pool.give(hot);
        result
    }
}

impl PortTx for TapTx {
    fn tx(&self, vnet: &VnetHdr, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut header = [0; VnetHdr::LEN];
        vnet.emit(&mut header);
        device::write(&*self.tap, &header, parts)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

impl TapRx {
    /// The device, for its name and its settings.
    #[must_use]
    pub fn device(&self) -> &Tap {
        &self.tap
    }
}

impl AsFd for TapRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

impl AsFd for TapTx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

/// Whether this kernel takes super-frames written to a TAP: some long-term kernels answer `EINVAL` to all of them.
/// Writes one that nobody gets: it is addressed to a MAC that is not the interface's. The interface must be up.
///
/// # Errors
/// `NetworkDown` when it is not, and whatever else a write says.
pub fn probe_gso_write(tap: &Tap) -> io::Result<bool> {
    const PAYLOAD: u16 = 2400;
    let mut frame = [0u8; 54 + PAYLOAD as usize];
    frame[..14].copy_from_slice(&[2, 0xff, 0, 0, 0, 1, 2, 0xff, 0, 0, 0, 2, 8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(40 + PAYLOAD).to_be_bytes());
    frame[23] = 6; // TCP; the time to live is 0
    frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]); // TEST-NET-1, RFC 5737
    frame[46] = 0x50;
    frame[47] = 0x10;
    let checksum = encap::checksum::sum(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1200,
        csum_start: 34,
        csum_offset: 16,
    };
    let mut header = [0; VnetHdr::TUNNEL_LEN];
    vnet.emit(&mut header);
    let header = header.get(..tap.header()).ok_or(io::ErrorKind::InvalidInput)?;
    match device::write(tap, header, &[IoSlice::new(&frame)]) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(err) => Err(err),
    }
}
