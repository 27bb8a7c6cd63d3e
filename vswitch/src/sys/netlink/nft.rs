//! nftables: only that a table was changed or removed, as the kernel tells whoever listens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::NetlinkError;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const NFTABLES: u8 = 10;
/// The attribute that names the table, in messages about tables, chains, rules, sets and their elements alike.
const TABLE: u16 = 1;
/// Bytes of a message's header and of the netfilter header behind it.
const HEADER: usize = 16;
const INNER: usize = 4;

/// A non-blocking socket that hears of changes in the namespace it was opened in. Poll its descriptor for reading.
pub struct NftMonitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl NftMonitor {
    /// Opens one in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`]: no nftables in this kernel, or not allowed.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::Open)?;
        socket.bind(&SocketAddr::new(0, GROUP)).map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        Ok(Self { socket, buffer: vec![0; 64 << 10] })
    }

    /// Reads everything that waits: does any of it concern a table of this name? Also when more happened than the
    /// socket could hold.
    ///
    /// # Errors
    /// What the socket says.
    pub fn touched(&mut self, table: &str) -> io::Result<bool> {
        let mut touched = false;
        loop {
            let mut room = &mut self.buffer[..];
            match self.socket.recv_from(&mut room, 0) {
                Ok((n, _)) => touched |= concerns(self.buffer.get(..n).unwrap_or_default(), table),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(touched),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => touched = true,
                Err(err) => return Err(err),
            }
        }
    }
}

impl AsRawFd for NftMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for NftMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Is one of these messages about the table?
fn concerns(mut messages: &[u8], table: &str) -> bool {
    while let Some(&[a, b, c, d, _, subsystem]) = messages.first_chunk::<6>() {
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(message) = messages.get(..len).filter(|m| m.len() >= HEADER) else { return false };
        if subsystem == NFTABLES && names(message.get(HEADER + INNER..).unwrap_or_default(), table) {
            return true;
        }
        messages = messages.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Does the attribute that names the table have this name?
fn names(mut attributes: &[u8], table: &str) -> bool {
    while let Some(&[a, b, c, d]) = attributes.first_chunk::<4>() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let Some(value) = attributes.get(4..len) else { return false };
        if kind & 0x3fff == TABLE {
            return value.strip_suffix(&[0]) == Some(table.as_bytes());
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::netns;

    fn nft(line: &str) {
        let out = Command::new("nft").arg(line).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn only_our_table_is_heard_of() {
        netns::in_new(|| {
            nft("add table inet ours; add table inet ours2");
            let mut monitor = NftMonitor::open().unwrap();
            assert!(!monitor.touched("ours").unwrap(), "what was before is not told");
            nft("add chain inet ours2 c; add rule inet ours2 c accept; delete table inet ours2");
            assert!(!monitor.touched("ours").unwrap());
            for change in ["add chain inet ours c", "add rule inet ours c accept", "flush ruleset"] {
                nft(change);
                assert!(monitor.touched("ours").unwrap(), "{change}");
                assert!(!monitor.touched("ours").unwrap());
            }
        })
        .unwrap();
    }

    #[test]
    fn broken_messages_are_about_nothing() {
        for len in 0..40 {
            for fill in [0, 1, 10, 255] {
                assert!(!concerns(&vec![fill; len], "ours"));
            }
        }
    }
}
