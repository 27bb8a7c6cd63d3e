//! Small exchanges between two pods: a byte there and back, on one connection or on ever new ones.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vswitch::lab::{Netns, within};

use crate::network::Pair;
use crate::stats::quantile;

/// Clients that connect at the same time.
pub const CLIENTS: usize = 8;
const PORT: u16 = 5203;

/// How long a byte takes there and back, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// 999 of 1,000 are faster.
    pub p999: f64,
}

/// One byte there and back on one open connection, again and again for `length`.
///
/// # Errors
/// When the receiver cannot listen, or a connection or an exchange fails.
pub fn round_trip(pair: Pair<'_>, length: Duration) -> Result<RoundTrips> {
    let times = serving(pair.far, || {
        within(pair.from.path(), || -> std::io::Result<Vec<f64>> {
            let (mut stream, began, mut times) = (connect(pair.to)?, Instant::now(), Vec::new());
            while began.elapsed() < length {
                let sent = Instant::now();
                exchange(&mut stream)?;
                times.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        })
    })??
    .context("round trips")?;
    Ok(RoundTrips { p50: quantile(&times, 0.5), p99: quantile(&times, 0.99), p999: quantile(&times, 0.999) })
}

/// Connections a second of [`CLIENTS`] clients together: connect, a byte there, a byte back, reset.
///
/// # Errors
/// When the receiver cannot listen, or a connection or an exchange fails.
pub fn connects(pair: Pair<'_>, length: Duration) -> Result<f64> {
    let counted = serving(pair.far, || {
        within(pair.from.path(), || {
            std::thread::scope(|scope| {
                let client = || -> std::io::Result<u64> {
                    let (began, mut count) = (Instant::now(), 0);
                    while began.elapsed() < length {
                        match once(pair.to) {
                            Ok(()) => count += 1,
                            // The reset of a connection before, from the same port, overtaken on its way.
                            Err(err) if err.kind() == ErrorKind::ConnectionReset => {}
                            Err(err) => return Err(err),
                        }
                    }
                    Ok(count)
                };
                let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
                let ends =
                    clients.into_iter().map(|c| c.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
                ends.sum::<std::io::Result<u64>>()
            })
        })
    })??;
    #[allow(clippy::cast_precision_loss)] // thousands a second
    Ok(counted.context("connect")? as f64 / length.as_secs_f64())
}

/// One connection: a byte there and back, reset.
fn once(to: IpAddr) -> std::io::Result<()> {
    let mut stream = connect(to)?;
    exchange(&mut stream)?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

fn connect(to: IpAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), Duration::from_secs(3))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(stream)
}

/// A byte there and back.
pub(crate) fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// Runs `clients` while an echo server listens in `far`.
fn serving<T>(far: &Netns, clients: impl FnOnce() -> T) -> Result<T> {
    let (listener, stop) =
        (within(far.path(), || TcpListener::bind(("0.0.0.0", PORT)))??, AtomicBool::new(false));
    Ok(std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Ok((mut stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = stream.set_nodelay(true);
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
                }
            });
        }
        let done = clients();
        stop.store(true, Ordering::Relaxed);
        // Each server waits in accept: one last connection for each lets it see that it is over.
        let _ = within(far.path(), || {
            for _ in 0..CLIENTS {
                let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT));
            }
        });
        done
    }))
}
