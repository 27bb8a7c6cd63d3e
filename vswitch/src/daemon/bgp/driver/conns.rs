//! The driver's connections: dialled, welcomed, read in turns, written as far as they take it.

use std::io;
use std::time::Instant;

use bgp::speaker::ConnId;
use mio::net::TcpListener;
use mio::{Interest, Token};

use super::super::conn::{self, Conn};
use super::{CONNS, Driver};

/// Bytes read from one connection before others have their turn.
const READ: usize = 256 << 10;

impl Driver {
    /// Watches a new connection.
    pub(super) fn keep(&mut self, id: ConnId, mut conn: Conn, now: Instant) {
        let token = Token(CONNS + id.0 as usize);
        let both = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut conn.stream, token, both) {
            Ok(()) => drop(self.conns.insert(id, conn)),
            Err(_) => self.speaker.closed(id, now),
        }
    }

    /// Takes what neighbours have dialled at the listener `at`.
    pub(super) fn accept(&mut self, at: usize, now: Instant) {
        while let Some(Ok((stream, remote))) = self.listeners.get(at).map(TcpListener::accept) {
            let Ok(local) = stream.local_addr() else { continue };
            // Who is not taken is closed by being dropped; the speaker tells why.
            let Ok((id, options)) = self.speaker.incoming(remote, local.ip(), now) else { continue };
            match conn::welcome(stream, remote.ip(), &options) {
                Ok(conn) => self.keep(id, conn, now),
                Err(err) => {
                    tracing::warn!(%remote, %err, "a BGP connection's options");
                    self.speaker.closed(id, now);
                }
            }
        }
    }

    /// A connection stands, or failed to, or takes more.
    pub(super) fn writable(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.dialling {
            let failed = !matches!(conn.stream.take_error(), Ok(None));
            match conn.stream.local_addr() {
                // Not yet: the event was of another kind.
                _ if !failed && conn.stream.peer_addr().is_err() => return,
                Ok(local) if !failed => {
                    conn.dialling = false;
                    self.speaker.connected(id, local.ip(), now);
                }
                _ => return self.gone(id, now),
            }
        }
        self.flush(id, now);
    }

    /// Writes what the speaker has for a connection, as far as that takes it.
    pub(super) fn flush(&mut self, id: ConnId, now: Instant) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.dialling) else { return };
            let mut unsent = self.speaker.unsent(id).peekable();
            if unsent.peek().is_none() {
                return;
            }
            match conn.write(unsent) {
                Ok(n) => self.speaker.sent(id, n, now),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.gone(id, now),
            }
        }
    }

    /// Reads a connection for its turn; true when there may be more.
    pub(super) fn read(&mut self, id: ConnId, now: Instant) -> bool {
        let mut taken = 0;
        while taken < READ {
            let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.dialling) else { return false };
            match conn.read(&mut self.buffer) {
                Ok(0) => {
                    self.gone(id, now);
                    return false;
                }
                Ok(n) => {
                    taken += n;
                    self.speaker.received(id, &self.buffer[..n], now);
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.gone(id, now);
                    return false;
                }
            }
        }
        true
    }

    /// A connection has ended.
    fn gone(&mut self, id: ConnId, now: Instant) {
        if let Some(mut conn) = self.conns.remove(&id) {
            let _ = self.poll.registry().deregister(&mut conn.stream);
        }
        self.speaker.closed(id, now);
    }
}
