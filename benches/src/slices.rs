//! One open TCP connection between two pods, looked at for a fraction of a second at a time.
//!
//! A run of seconds sees the machine drift; what is to be told apart by one part in a hundred has to be looked at in turns
//! that are short against that. So connections stay open while others have their turn, and no slow start and no new
//! process lies between two looks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vswitch::lab::within;

use crate::exchange::exchange;
use crate::network::Pair;
use crate::stats::quantile;

const STREAM_PORT: u16 = 5205;
const ECHO_PORT: u16 = 5206;
/// Bytes of one write, as iperf3's.
const BLOCK: usize = 128 << 10;
/// From the first write of a turn until bytes are counted.
const START: Duration = Duration::from_millis(15);
/// From the last write of a turn until nothing is under way.
const DRAIN: Duration = Duration::from_millis(5);
/// Looks in a row without a byte, after which a stream is held to be dead.
const STALLS: usize = 40;

/// A stream that flows while it is looked at.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    socket: TcpStream,
    threads: Vec<JoinHandle<()>>,
    stalls: usize,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    flows: AtomicBool,
    over: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, flag: &AtomicBool, to: bool) {
        // Under the lock, so that the writer is either before its look at the flag or already waiting.
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        flag.store(to, Ordering::Relaxed);
        drop(guard);
        self.changed.notify_all();
    }

    /// Waits for a turn; false when there will be none.
    fn turn(&self) -> bool {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.flows.load(Ordering::Relaxed) && !self.over.load(Ordering::Relaxed) {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        !self.over.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// Connects. Nothing is sent yet.
    ///
    /// # Errors
    /// When the receiver cannot listen or the connection fails.
    pub fn open(pair: Pair<'_>) -> Result<Stream> {
        let (mut sender, mut receiver) = connected(pair, STREAM_PORT)?;
        let shared = Arc::new(Shared::default());
        let socket = sender.try_clone()?;
        let (writing, reading) = (Arc::clone(&shared), Arc::clone(&shared));
        let writer = move || {
            let block = vec![0x5a; BLOCK];
            while writing.flows.load(Ordering::Relaxed) || writing.turn() {
                if sender.write_all(&block).is_err() {
                    return;
                }
            }
        };
        let reader = move || {
            let mut buffer = vec![0; BLOCK];
            while let Ok(n @ 1..) = receiver.read(&mut buffer) {
                reading.received.fetch_add(n as u64, Ordering::Relaxed);
            }
        };
        Ok(Stream {
            shared,
            socket,
            threads: vec![std::thread::spawn(writer), std::thread::spawn(reader)],
            stalls: 0,
        })
    }

    /// Lets it flow for `length`: Gbit/s received, and what `ran` says became more for each GB. `ran` is seconds of processor
    /// time of those who carry it. A look in which nothing arrives, as when the sender waits for a lost packet's timer, is
    /// taken again and counted among the [`Stream::stalls`].
    ///
    /// # Errors
    /// When nothing moves for many looks, or that of `ran`.
    pub fn slice(&mut self, length: Duration, ran: impl Fn() -> Result<f64>) -> Result<[f64; 2]> {
        for _ in 0..STALLS {
            if let Some(seen) = self.look(length, &ran)? {
                return Ok(seen);
            }
            self.stalls += 1;
        }
        bail!("the stream stands still")
    }

    /// Looks in which nothing arrived, so far.
    #[must_use]
    pub fn stalls(&self) -> usize {
        self.stalls
    }

    fn look(&self, length: Duration, ran: &impl Fn() -> Result<f64>) -> Result<Option<[f64; 2]>> {
        let received = || self.shared.received.load(Ordering::Relaxed);
        let (all_before, used_before) = (received(), ran()?);
        self.shared.set(&self.shared.flows, true);
        std::thread::sleep(START);
        let (before, began) = (received(), Instant::now());
        std::thread::sleep(length);
        let (bytes, took) = (received() - before, began.elapsed());
        self.shared.set(&self.shared.flows, false);
        std::thread::sleep(DRAIN);
        // From rest to rest, so that what was worked is for what was received.
        let (all, used) = (received() - all_before, ran()? - used_before);
        let figures = [bytes as f64 * 8.0 / took.as_secs_f64() / 1e9, used / (all as f64 / 1e9)];
        Ok((bytes > 0).then_some(figures))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.set(&self.shared.over, true);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A connection on which a byte goes there and back while it is looked at.
#[derive(Debug)]
pub struct Exchange {
    client: TcpStream,
    server: Option<JoinHandle<()>>,
}

impl Exchange {
    /// Connects. Nothing is sent yet.
    ///
    /// # Errors
    /// When the receiver cannot listen or the connection fails.
    pub fn open(pair: Pair<'_>) -> Result<Exchange> {
        let (client, mut server) = connected(pair, ECHO_PORT)?;
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        let echo = move || {
            let mut byte = [0];
            while matches!(server.read(&mut byte), Ok(1)) && server.write_all(&byte).is_ok() {}
        };
        Ok(Exchange { client, server: Some(std::thread::spawn(echo)) })
    }

    /// Again and again for `length`; the median, in microseconds.
    ///
    /// # Errors
    /// When the byte does not come back.
    pub fn slice(&mut self, length: Duration) -> Result<f64> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < length {
            let sent = Instant::now();
            exchange(&mut self.client).context("round trip")?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        // The first ones wake what slept while others had their turn.
        Ok(quantile(&times[times.len() / 10..], 0.5))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let _ = self.client.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Both ends of a new connection, the sender's first.
fn connected(pair: Pair<'_>, port: u16) -> Result<(TcpStream, TcpStream)> {
    for pod in [pair.from, pair.far] {
        // The window is as wide after a turn of others as before.
        pod.sysctl("ipv4.tcp_slow_start_after_idle", "0")?;
    }
    let listener = within(pair.far.path(), || TcpListener::bind(("0.0.0.0", port)))?.context("listen")?;
    let to = SocketAddr::new(pair.to, port);
    let connect = || -> io::Result<TcpStream> { TcpStream::connect_timeout(&to, Duration::from_secs(3)) };
    let sender = within(pair.from.path(), connect)?.context("connect")?;
    let (receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    receiver.set_nodelay(true)?;
    Ok((sender, receiver))
}

/// `count` pairs of looks in the order A B B A, the first of them not counted.
///
/// # Errors
/// Those of `look`, which is told whose turn it is.
pub fn alternate<T: Copy + Default>(
    count: usize,
    mut look: impl FnMut(usize) -> Result<T>,
) -> Result<Vec<[T; 2]>> {
    let mut pairs = Vec::new();
    for pair in 0..=count {
        let mut seen = [T::default(); 2];
        for side in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            seen[side] = look(side)?;
        }
        if pair > 0 {
            pairs.push(seen);
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate_and_the_first_pair_is_for_warming_up() {
        let mut order = Vec::new();
        let pairs = alternate(3, |side| {
            order.push(side);
            Ok(order.len() * 10 + side)
        });
        assert_eq!(order, [0, 1, 1, 0, 0, 1, 1, 0]);
        assert_eq!(pairs.unwrap(), [[40, 31], [50, 61], [80, 71]]);
    }
}
