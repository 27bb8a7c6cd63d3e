//! The blocking client end of the control socket. One caller, one request at a time, a deadline for each.
//!
//! Nothing is retried here: whether a failed request is worth repeating is the caller's to know.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::api::{ApiError, MAX_REPLY, Reply, Request};

/// Why a request has no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach vswitchd at {}: {err} (is it running?)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Of `connect`.
        #[source]
        err: io::Error,
    },
    /// The connection could not be given a timeout.
    #[error("set a timeout on the connection to vswitchd")]
    SetTimeout {
        /// Of `setsockopt`.
        #[source]
        err: io::Error,
    },
    /// The request could not be written as JSON.
    #[error("write the request as JSON")]
    Encode {
        /// Of the serializer.
        #[source]
        err: serde_json::Error,
    },
    /// Sending failed.
    #[error("send the request to vswitchd: {err}")]
    Send {
        /// Of `write`.
        #[source]
        err: io::Error,
    },
    /// Receiving failed.
    #[error("receive the reply of vswitchd: {err}")]
    Receive {
        /// Of `read`.
        #[source]
        err: io::Error,
    },
    /// The daemon is there and does not answer.
    #[error("vswitchd did not answer within {:.1} s", after.as_secs_f64())]
    TimedOut {
        /// How long it was given.
        after: Duration,
    },
    /// The connection ended before a whole reply: the daemon stopped or started anew.
    #[error("vswitchd closed the connection before answering")]
    Closed,
    /// The reply is longer than [`MAX_REPLY`].
    #[error("the reply of vswitchd is longer than {MAX_REPLY} bytes")]
    TooLong,
    /// The reply is not what the request asks for: something else listens there, or another version.
    #[error("vswitchd answered with something else than expected: {err}")]
    Garbage {
        /// Of the parser.
        #[source]
        err: serde_json::Error,
    },
    /// The daemon refused the request.
    #[error("{0}")]
    Refused(ApiError),
}

impl ClientError {
    /// The daemon is absent, starting anew or stuck: the same request may work later.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Connect { .. }
            | ClientError::Send { .. }
            | ClientError::Receive { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Closed => true,
            ClientError::SetTimeout { .. }
            | ClientError::Encode { .. }
            | ClientError::TooLong
            | ClientError::Garbage { .. }
            | ClientError::Refused(_) => false,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
    /// Bytes of the next reply that arrived together with the last one.
    rest: Vec<u8>,
}

impl Client {
    /// Connects. `timeout` is what each later request is given, from its first byte sent to its last byte received.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path, timeout: Duration) -> Result<Client, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|err| ClientError::Connect { path: path.to_owned(), err })?;
        Ok(Client { stream, timeout, rest: Vec::new() })
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// Everything but [`ClientError::Connect`]. After any of them except [`ClientError::Refused`] the connection is
    /// of no further use.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut line = serde_json::to_vec(request).map_err(|err| ClientError::Encode { err })?;
        line.push(b'\n');
        self.send(&line, deadline)?;
        let reply = self.receive(deadline)?;
        match serde_json::from_slice(&reply).map_err(|err| ClientError::Garbage { err })? {
            Reply::Ok(value) => Ok(value),
            Reply::Error(err) => Err(ClientError::Refused(err)),
        }
    }

    fn send(&mut self, mut line: &[u8], deadline: Instant) -> Result<(), ClientError> {
        while !line.is_empty() {
            let left = self.left(deadline)?;
            self.stream.set_write_timeout(Some(left)).map_err(|err| ClientError::SetTimeout { err })?;
            match self.stream.write(line) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(n) => line = &line[n..],
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if is_timeout(&err) => return Err(ClientError::TimedOut { after: self.timeout }),
                Err(err) if err.kind() == ErrorKind::BrokenPipe => return Err(ClientError::Closed),
                Err(err) => return Err(ClientError::Send { err }),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut line = std::mem::take(&mut self.rest);
        let mut seen = 0;
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(at) = line[seen..].iter().position(|&b| b == b'\n') {
                self.rest = line.split_off(seen + at + 1);
                return Ok(line);
            }
            seen = line.len();
            if seen > MAX_REPLY {
                return Err(ClientError::TooLong);
            }
            let left = self.left(deadline)?;
            self.stream.set_read_timeout(Some(left)).map_err(|err| ClientError::SetTimeout { err })?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(n) => line.extend_from_slice(&chunk[..n]),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if is_timeout(&err) => return Err(ClientError::TimedOut { after: self.timeout }),
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                Err(err) => return Err(ClientError::Receive { err }),
            }
        }
    }

    fn left(&self, deadline: Instant) -> Result<Duration, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ClientError::TimedOut { after: self.timeout }) } else { Ok(left) }
    }
}

fn is_timeout(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests;
