//! The switch's end of the socket to the keeper: what is handed over and taken back.
//!
//! Used by the control thread. A `vswitchd --switch` started by hand has no keeper; then nothing is held.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::scm;

/// Names under which descriptors are held.
pub mod names {
    /// The control socket's listener.
    pub const CONTROL: &str = "control";
    /// The connection table's memory.
    pub const CONNTRACK: &str = "conntrack";
    /// Prefix of workers' frames; their number follows.
    pub const HAND: &str = "hand:";
    /// The host's TAP.
    pub const HOST: &str = "host";
    /// The TAP for whole super-frames toward peers.
    pub const UPLINK_TAP: &str = "uplink-tap";
    /// Prefix of the tunnel's receiving sockets; a number follows.
    pub const UPLINK: &str = "uplink:";
    /// Prefix of the BGP listeners; a number follows.
    pub const BGP: &str = "bgp:";
    /// Prefix of pods' TAPs; the attachment's key follows.
    pub const PORT: &str = "port:";
}

/// The link, if there is a keeper.
pub struct KeeperLink {
    socket: Option<OwnedFd>,
}

impl KeeperLink {
    /// A link over this socket; `None` when nobody keeps anything.
    pub fn new(socket: Option<OwnedFd>) -> KeeperLink {
        KeeperLink { socket }
    }

    /// A descriptor that becomes readable (end of file) when the keeper is gone.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Everything the keeper holds, by name.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn take_all(&self) -> io::Result<BTreeMap<String, OwnedFd>> {
        let mut held = BTreeMap::new();
        let Some(socket) = &self.socket else { return Ok(held) };
        scm::send(socket, b"H", &[])?;
        let mut buffer = [0; 1024];
        loop {
            let (n, fds) = scm::recv(socket, &mut buffer)?;
            match (buffer[..n].split_first(), fds.into_iter().next()) {
                (None, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (Some((b'E', _)), _) => return Ok(held),
                (Some((b'F', name)), Some(fd)) => {
                    held.insert(String::from_utf8_lossy(name).into_owned(), fd);
                }
                _ => {}
            }
        }
    }

    /// Gives a descriptor to the keeper (a copy of it; ours stays open).
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn put(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        self.say(b'P', name, &[fd.as_fd()])
    }

    /// Lets the keeper close what it holds under this name.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.say(b'D', name, &[])
    }

    /// Tells that packets flow.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn ready(&self) -> io::Result<()> {
        self.say(b'R', "", &[])
    }

    fn say(&self, kind: u8, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut message = Vec::with_capacity(1 + name.len());
        message.push(kind);
        message.extend_from_slice(name.as_bytes());
        scm::send(socket, &message, fds)
    }
}
