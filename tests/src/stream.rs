//! A stream of numbered datagrams, and the one who counts and answers them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vswitch::lab::within;

/// The port a [`Sink`] listens on.
const PORT: u16 = 9020;
/// Between two datagrams of a stream: 500 a second.
const PACE: Duration = Duration::from_millis(2);
/// How long a stream waits for its last answers.
const PATIENCE: Duration = Duration::from_secs(3);

/// Counts by sender what arrives in a namespace, and sends it back.
#[derive(Debug)]
pub struct Sink {
    seen: Arc<Mutex<HashMap<IpAddr, u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Serves inside `netns` until dropped.
    ///
    /// # Panics
    /// When the socket cannot be had.
    #[must_use]
    pub fn start(netns: &Path) -> Sink {
        let socket = open(netns, PORT, Duration::from_millis(20));
        let (seen, stop) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(AtomicBool::new(false)));
        let (theirs, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !until.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                *theirs.lock().unwrap_or_else(PoisonError::into_inner).entry(from.ip()).or_default() += 1;
                let _ = socket.send_to(&buffer[..n], from);
            }
        });
        Sink { seen, stop, thread: Some(thread) }
    }

    /// How many datagrams came from `addr`.
    #[must_use]
    pub fn from(&self, addr: IpAddr) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&addr).copied().unwrap_or(0)
    }

    /// How many came at all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Sends to a [`Sink`], 500 a second.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    /// Starts inside `netns`, from port `port` (0: any).
    ///
    /// # Panics
    /// When the socket cannot be had.
    #[must_use]
    pub fn start(netns: &Path, port: u16, to: IpAddr) -> Stream {
        let socket = open(netns, port, PACE);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let (mut answered, mut next) = (0, Instant::now());
            while !until.load(Ordering::Relaxed) {
                // Without an answer to the send the kernel has an ICMP error to tell first; then it is sent again.
                let n = count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&n.to_be_bytes(), (to, PORT));
                next += PACE;
                while Instant::now() < next {
                    answered += u64::from(socket.recv(&mut [0; 64]).is_ok());
                }
            }
            let deadline = Instant::now() + PATIENCE;
            while answered > 0 && answered < count.load(Ordering::Relaxed) && Instant::now() < deadline {
                answered += u64::from(socket.recv(&mut [0; 64]).is_ok());
            }
            answered
        });
        Stream { stop, sent, thread: Some(thread) }
    }

    /// Ends it: how many were sent, and how many answered.
    ///
    /// # Panics
    /// When the thread did.
    #[must_use]
    pub fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.thread.take().map_or(0, |thread| thread.join().expect("the stream's thread"));
        (self.sent.load(Ordering::Relaxed), answered)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn open(netns: &Path, port: u16, patience: Duration) -> UdpSocket {
    let open = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(socket)
    };
    within(netns, open).expect("the namespace").expect("a socket")
}
