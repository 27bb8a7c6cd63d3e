//! UDP datagrams of one size from pod to pod: how many arrive when as many as possible are sent, and the highest rate
//! at which nearly all arrive.
//!
//! Sender and receiver are plain sockets that send and receive one datagram a call, as most programs do; both count.
//! The receiver's buffer holds some thousand datagrams, so that what is lost is lost by the network between them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vswitch::lab::within;

use crate::network::Pair;

const PORT: u16 = 5204;
/// Bytes of the receiver's buffer.
const BUFFER: usize = 4 << 20;
/// Share of datagrams that may be lost at the highest rate.
const LOSS: f64 = 0.005;
/// Steps of the search for that rate, each of which halves what is not known.
const STEPS: u32 = 7;
/// How often a paced sender sends what is due.
const TICK: Duration = Duration::from_micros(200);
/// A paced sender that was away makes up for this much at once. The rest is not sent: a rate is no burst.
const BURST: Duration = Duration::from_millis(2);

/// What was sent and what arrived.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Datagrams a second that the sender's kernel took.
    pub sent: f64,
    /// Datagrams a second that the receiver read.
    pub received: f64,
}

/// Sends datagrams with `size` payload bytes for `length`: at `rate` a second, or as fast as possible.
///
/// # Errors
/// When a socket cannot be made or nothing can be sent.
pub fn send(pair: Pair<'_>, size: usize, rate: Option<f64>, length: Duration) -> Result<Counted> {
    let receiver = within(pair.far.path(), || UdpSocket::bind(("0.0.0.0", PORT)))?.context("receiver")?;
    socket2::SockRef::from(&receiver).set_recv_buffer_size(BUFFER)?;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let sender = within(pair.from.path(), || UdpSocket::bind(("0.0.0.0", 0)))?.context("sender")?;
    sender.connect(SocketAddr::new(pair.to, PORT))?;
    // The first datagram opens the flow everywhere on the way; it is not counted.
    sender.send(&vec![0; size])?;
    let mut buffer = vec![0; 65_536];
    receiver.recv(&mut buffer).context("the first datagram did not arrive")?;
    let over = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut count = 0_u64;
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(_) => count += 1,
                    // What is under way when the sender ends still counts.
                    Err(_) if over.load(Ordering::Relaxed) => return count,
                    Err(_) => {}
                }
            }
        });
        let sent = burst(&sender, size, rate, length);
        over.store(true, Ordering::Relaxed);
        let received = counting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.map(|sent| (sent, received))
    })?;
    #[allow(clippy::cast_precision_loss)] // millions
    let a_second = |count: u64| count as f64 / length.as_secs_f64();
    Ok(Counted { sent: a_second(sent), received: a_second(received) })
}

/// When the datagrams of a rate are due.
struct Pace {
    /// A second.
    rate: f64,
    /// Those that will not be sent, since the sender was away when they were due.
    missed: u64,
}

impl Pace {
    /// How many are to have been sent by now, when `sent` have been.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn due(&mut self, elapsed: Duration, sent: u64) -> u64 {
        let of = |time: Duration| (self.rate * time.as_secs_f64()) as u64;
        let due = of(elapsed) - self.missed;
        let late = due.saturating_sub(sent + of(BURST));
        self.missed += late;
        due - late
    }
}

/// The sender's loop; how many datagrams went out.
fn burst(sender: &UdpSocket, size: usize, rate: Option<f64>, length: Duration) -> io::Result<u64> {
    let (payload, began, mut sent) = (vec![0; size], Instant::now(), 0_u64);
    let mut pace = rate.map(|rate| Pace { rate, missed: 0 });
    loop {
        let elapsed = began.elapsed();
        if elapsed >= length {
            return Ok(sent);
        }
        let due = pace.as_mut().map_or(sent + 64, |pace| pace.due(elapsed, sent));
        while sent < due {
            match sender.send(&payload) {
                Ok(_) => sent += 1,
                // The sender's own queue is full: as good as lost, but nobody's datagram.
                Err(err) if err.raw_os_error() == Some(NO_BUFFERS) => break,
                // An ICMP error, for a port that was closed a moment ago.
                Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(err) => return Err(err),
            }
        }
        if rate.is_some() {
            std::thread::sleep(TICK);
        }
    }
}

/// `ENOBUFS` on Linux.
pub(crate) const NO_BUFFERS: i32 = 105;

/// The highest rate, datagrams a second, at which at most 0.5 % of them are lost: halving between 0 and what arrives
/// at overload times two, `length` at each step. A rate counts as what was sent, which is less than what was tried where
/// the sender did not keep up.
///
/// # Errors
/// As [`send`].
pub fn lossless(pair: Pair<'_>, size: usize, length: Duration) -> Result<f64> {
    let flood = send(pair, size, None, length)?;
    let (mut good, mut bad, mut shown) = (0.0, (flood.received * 2.0).min(flood.sent).max(1.0), 0.0_f64);
    for _ in 0..STEPS {
        let rate = (good + bad) / 2.0;
        let got = send(pair, size, Some(rate), length)?;
        let arrives = got.received >= got.sent * (1.0 - LOSS);
        if arrives {
            shown = shown.max(got.sent);
        }
        if arrives && got.sent >= rate * 0.98 {
            good = rate;
        } else {
            bad = rate;
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_makes_up_for_little() {
        let mut pace = Pace { rate: 1e6, missed: 0 };
        assert_eq!(pace.due(Duration::from_millis(1), 0), 1000);
        assert_eq!(pace.due(Duration::from_millis(3), 1000), 3000, "within the burst");
        // Away for 97 ms: two of them are made up for, and the rate goes on from there.
        assert_eq!(pace.due(Duration::from_millis(100), 3000), 5000);
        assert_eq!(pace.due(Duration::from_millis(101), 5000), 6000);
        assert_eq!(pace.missed, 95_000);
    }
}
