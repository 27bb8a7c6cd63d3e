//! One TCP connection that is used again and again, to see whether it lives on.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::enter::within;
use super::error::LabError;
use super::probe::Echo;

/// A connection to an echo server.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    to: IpAddr,
    sent: u64,
}

impl Session {
    /// Connects from `netns` to the [`Echo`] at `to`. Every later exchange may take `patience`.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn open(netns: &Path, to: IpAddr, patience: Duration) -> Result<Session, LabError> {
        let open = || {
            let stream =
                TcpStream::connect_timeout(&SocketAddr::new(to, Echo::PORT), Duration::from_secs(3))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        let stream = within(netns, open)?.map_err(LabError::socket("TCP connect"))?;
        Ok(Session { stream, to, sent: 0 })
    }

    /// Sends a numbered message and waits until it came back; returns how long that took.
    ///
    /// # Errors
    /// When the connection broke, stayed silent, or gave other bytes back.
    pub fn exchange(&mut self) -> Result<Duration, LabError> {
        self.sent += 1;
        let (message, mut answer, began) = (self.sent.to_be_bytes(), [0; 8], Instant::now());
        self.stream
            .write_all(&message)
            .and_then(|()| self.stream.read_exact(&mut answer))
            .map_err(LabError::socket("TCP exchange"))?;
        if answer == message { Ok(began.elapsed()) } else { Err(LabError::Corrupt { to: self.to }) }
    }
}
