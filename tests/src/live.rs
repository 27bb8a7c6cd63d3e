//! What the tests of policy on a live node share: a directory of manifests, and numbered datagrams between pods.
//!
//! Every sender and listener is a thread with a socket of its pod's namespace; it ends with its owner.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use vswitch::lab::within;

/// The port that [`Listener`]s listen on.
pub const PORT: u16 = 9100;

/// A directory of manifests, removed when dropped.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Default for Manifests {
    fn default() -> Self {
        Self::new()
    }
}

impl Manifests {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("vsl{}-manifests{n}", std::process::id()));
        fs::create_dir_all(root.join("watched")).expect("the directory can be made");
        Manifests { root }
    }

    /// The directory the daemon watches.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.root.join("watched")
    }

    /// Replaces a file as a careful writer does: written elsewhere, renamed into place.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, name: &str, text: &str) {
        let next = self.root.join("next");
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, self.dir().join(name)))
            .expect("it is written");
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        // Nobody is left to tell when it cannot be removed; the tests look for leftovers themselves.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Pod objects of namespace `default`, each with its name as the label `app`.
#[must_use]
pub fn pods(names: &[&str]) -> String {
    let mut yaml = String::from("{apiVersion: v1, kind: Namespace, metadata: {name: default}}\n");
    for name in names {
        let _ = writeln!(
            yaml,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}}}"
        );
    }
    yaml
}

/// A NetworkPolicy of namespace `default` as one more document.
#[must_use]
pub fn netpol(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{name: {name}, namespace: default}}, spec: {{{spec}}}}}\n"
    )
}

/// Lets `from` reach `to` as far as `to`'s ingress is concerned; isolates `to` from the others.
#[must_use]
pub fn admit(to: &str, from: &[&str]) -> String {
    let peers: Vec<String> =
        from.iter().map(|name| format!("{{podSelector: {{matchLabels: {{app: {name}}}}}}}")).collect();
    let spec = format!(
        "podSelector: {{matchLabels: {{app: {to}}}}}, policyTypes: [Ingress], ingress: [{{from: [{}]}}]",
        peers.join(", ")
    );
    netpol(&format!("to-{to}"), &spec)
}

/// A thread that runs until its owner is dropped or joins it.
#[derive(Debug)]
struct Runner<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Runner<T> {
    fn start(body: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Runner { stop, thread: Some(std::thread::spawn(move || body(&seen))) }
    }

    fn join(&mut self) -> Option<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl<T> Drop for Runner<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has failed its test already.
            let _ = thread.join();
        }
    }
}

/// A datagram that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Whose it is: the sender's number.
    pub id: u8,
    /// Which of the sender's it is, from 0; 0 where it does not say.
    pub number: u32,
    /// Where it came from.
    pub from: SocketAddr,
    /// When it was read.
    pub at: Instant,
}

/// Takes down every datagram that comes to a port of a namespace.
#[derive(Debug)]
pub struct Listener {
    seen: Arc<Mutex<Vec<Arrival>>>,
    socket: UdpSocket,
    _runner: Runner<()>,
}

impl Listener {
    /// Listens in `netns` on IPv4 `port`.
    ///
    /// # Panics
    /// When the port is taken or the namespace cannot be entered.
    #[must_use]
    pub fn start(netns: &Path, port: u16) -> Self {
        let socket = within(netns, || UdpSocket::bind(("0.0.0.0", port))).expect("entered").expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        // What waited while no switch was there comes all at once.
        sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20).expect("the buffer can be enlarged");
        let (reader, seen) = (socket.try_clone().expect("cloned"), Arc::new(Mutex::new(Vec::new())));
        let arrivals = Arc::clone(&seen);
        let runner = Runner::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let mut datagram = [0; 64];
                if let Ok((1.., from)) = reader.recv_from(&mut datagram) {
                    let [id, number @ ..] = *datagram.first_chunk::<5>().expect("long enough");
                    let arrival =
                        Arrival { id, number: u32::from_le_bytes(number), from, at: Instant::now() };
                    arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
                }
            }
        });
        Listener { seen, socket, _runner: runner }
    }

    /// Everything of sender `id` so far.
    #[must_use]
    pub fn of(&self, id: u8) -> Vec<Arrival> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|arrival| arrival.id == id).copied().collect()
    }

    /// How many of sender `id` arrived, once `wanted` have or 3 s are over.
    #[must_use]
    pub fn count(&self, id: u8, wanted: usize) -> usize {
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.of(id).len() < wanted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.of(id).len()
    }

    /// Numbers of the first `sent` of sender `id` that have not arrived, once all have or 3 s are over.
    #[must_use]
    pub fn missing(&self, id: u8, sent: usize) -> Vec<u32> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let seen: HashSet<u32> = self.of(id).iter().map(|arrival| arrival.number).collect();
            let missing: Vec<u32> = (0..).take(sent).filter(|number| !seen.contains(number)).collect();
            if missing.is_empty() || Instant::now() > deadline {
                return missing;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a datagram of sender `id` from the port it listens on. That it is refused is not told.
    pub fn answer(&self, id: u8, to: SocketAddr) {
        let _ = self.socket.send_to(&[id], to);
    }
}

/// Sends datagrams at an even pace.
#[derive(Debug)]
pub struct Sender {
    runner: Runner<usize>,
}

impl Sender {
    /// Sends from `netns` and source port `port` (0 = any) to port [`PORT`] of `to`, every `pace`.
    ///
    /// # Panics
    /// When the port is taken or the namespace cannot be entered.
    #[must_use]
    pub fn start(netns: &Path, port: u16, to: IpAddr, id: u8, pace: Duration) -> Self {
        let socket = within(netns, || UdpSocket::bind(("0.0.0.0", port))).expect("entered").expect("bound");
        let runner = Runner::start(move |stop| {
            let (mut sent, mut next) = (0u32, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                // Without an address or a route yet it is refused; the next one may not be.
                let [a, b, c, d] = sent.to_le_bytes();
                sent += u32::from(socket.send_to(&[id, a, b, c, d], (to, PORT)).is_ok());
                next += pace;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            sent as usize
        });
        Sender { runner }
    }

    /// Ends it; how many left the socket.
    ///
    /// # Panics
    /// When the sending thread panicked.
    #[must_use]
    pub fn stop(mut self) -> usize {
        self.runner.join().expect("the sender ran")
    }
}
