//! The metrics listener: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes.
//!
//! One thread accepts, one thread a connection (at most `MAX_CLIENTS`) reads one request, asks the control thread
//! through its events for a [`Scrape`], renders that here and closes. A request is bounded in bytes and in time, nothing
//! a client does reaches a worker, and nothing is ever changed from here.

mod text;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use control::api::PeerInfo;
use crossbeam::channel::{Sender, bounded};

use super::{Daemon, Event, node};
use crate::counters::{PortStatsBlocks, Totals};

/// Connections served at once; the next is told to come again.
const MAX_CLIENTS: usize = 8;
/// Longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take to say what it wants, and then to take the answer.
const CLIENT: Duration = Duration::from_secs(5);
/// How long the control thread may take: an attachment in progress is answered first.
const CONTROL: Duration = Duration::from_secs(3);

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("metrics.listen = \"{addr}\": {err}")]
pub struct MetricsError {
    /// The address of the configuration.
    addr: SocketAddr,
    /// Why.
    err: io::Error,
}

/// One port's part of a scrape, as seen from the port: a pod or the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSample {
    /// Namespace of the pod; empty for the host.
    pub namespace: String,
    /// Name of the pod; empty for the host.
    pub pod: String,
    /// The interface.
    pub interface: String,
    /// Frames and bytes it sent, its frames dropped, frames and bytes it received, frames it did not take.
    pub counts: [u64; 6],
}

/// What the control thread tells for one scrape. Plain data: rendering is done by whoever asked.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// What keeps the node from being ready; empty = ready.
    pub problems: Vec<String>,
    /// Number of the tables in force.
    pub epoch: u64,
    /// Worker threads.
    pub workers: usize,
    /// Attached pods.
    pub pods: usize,
    /// Largest packet of pods, bytes.
    pub mtu: u16,
    /// Addresses held.
    pub addresses_used: u64,
    /// Addresses there are.
    pub addresses_total: u64,
    /// All workers' counters.
    pub totals: Totals,
    /// Ports: pods and the host.
    pub ports: Vec<PortSample>,
    /// Other nodes.
    pub peers: Vec<PeerInfo>,
    /// Policy rules that apply to any pod here.
    pub rules: Vec<RuleSample>,
    /// Objects of the store that are not in force as they are written.
    pub policy_problems: usize,
    /// Connections tracked.
    pub connections: u64,
    /// Where BGP is spoken.
    pub bgp: Option<BgpSample>,
    /// Where there is a store beyond this node: it is reached, and keys of it are wrong.
    pub store: Option<(bool, usize)>,
}

/// What one scrape tells of BGP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpSample {
    /// Neighbours configured.
    pub neighbours: u64,
    /// Sessions that are up.
    pub established: u64,
    /// Prefixes learned and in use.
    pub learned: u64,
    /// The first 1,000 neighbours by address, as of a second ago at most.
    pub each: Arc<[NeighbourSample]>,
}

/// A neighbour. Numbers of prefixes are of IPv4 and IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourSample {
    /// Who.
    pub address: IpAddr,
    /// State of its session as RFC 4273 numbers it (bgpPeerState): 1 idle to 6 established.
    pub state: u8,
    /// Prefixes it sent.
    pub received: [u32; 2],
    /// Of these, taken by import.
    pub accepted: [u32; 2],
    /// Prefixes whose best path is its.
    pub chosen: [u32; 2],
    /// Prefixes sent to it.
    pub announced: [u32; 2],
    /// Times an established session was lost or ended.
    pub flaps: u64,
}

/// One policy rule's part of a scrape: all pods it applies to together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSample {
    /// Its tier.
    pub tier: String,
    /// Its policy; empty for the end of the tier.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Its index in the policy; empty for the end of the tier.
    pub rule: String,
    /// It is counted only.
    pub staged: bool,
    /// Flows it decided.
    pub flows: u64,
}

/// Opens the listener.
///
/// # Errors
/// When the address is in use, not ours, or forbidden.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, MetricsError> {
    TcpListener::bind(addr).map_err(|err| MetricsError { addr, err })
}

/// Starts the accepting thread.
///
/// # Errors
/// When the thread cannot be made.
pub fn start(listener: TcpListener, events: Sender<Event>) -> io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    let started = SystemTime::now();
    std::thread::Builder::new().name("metrics-accept".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => admit(stream, &clients, &events, started),
                // Out of descriptors, or a client that left already: neither is a reason to stop or to spin.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    })?;
    Ok(())
}

fn admit(stream: TcpStream, clients: &Arc<AtomicUsize>, events: &Sender<Event>, started: SystemTime) {
    if clients.load(Ordering::Relaxed) >= MAX_CLIENTS {
        // The answer fits the socket's buffer; whether it arrives is the client's affair.
        let _ = stream.set_nonblocking(true).and_then(|()| send(&stream, &Answer::text(503, "busy\n"), true));
        return;
    }
    clients.fetch_add(1, Ordering::Relaxed);
    let (count, events) = (Arc::clone(clients), events.clone());
    let spawned =
        std::thread::Builder::new().name("metrics-client".into()).stack_size(256 * 1024).spawn(move || {
            // A client that breaks off is its own affair.
            let _ = converse(&stream, &events, started);
            count.fetch_sub(1, Ordering::Relaxed);
        });
    if spawned.is_err() {
        clients.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(stream: &TcpStream, events: &Sender<Event>, started: SystemTime) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT))?;
    let head = read_head(stream)?;
    let (answer, body) = match parse(&head) {
        Ok((method, path)) => (answer(path, events, started), method != "HEAD"),
        Err(refused) => (refused, true),
    };
    send(stream, &answer, body)?;
    // What a client still sends would turn our close into a reset that eats the answer.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if !matches!((&*stream).read(&mut rest), Ok(n) if n > 0) {
            break;
        }
    }
    Ok(())
}

/// Everything up to the empty line; shorter when the client stopped, as long as [`MAX_HEAD`] when it went on.
fn read_head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + CLIENT;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        // A client that drips one byte at a time gets no more time than one that is silent.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => break,
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(head)
}

/// Method and path of a request head (RFC 9112, section 3), or the refusal.
fn parse(head: &[u8]) -> Result<(&str, &str), Answer> {
    let bad = || Answer::text(400, "not an HTTP request\n");
    let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Err(if head.len() < MAX_HEAD { bad() } else { Answer::text(431, "request is too long\n") });
    };
    let line = head[..end].split(|b| *b == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| bad())?;
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) if target.starts_with('/') => {
            if matches!(method, "GET" | "HEAD") {
                Ok((method, target.split('?').next().unwrap_or(target)))
            } else {
                Err(Answer::text(405, "only GET and HEAD\n"))
            }
        }
        _ => Err(bad()),
    }
}

/// A response.
struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

fn answer(path: &str, events: &Sender<Event>, started: SystemTime) -> Answer {
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return Answer::text(404, "there are /metrics, /healthz and /readyz\n");
    }
    let (reply, scrape) = bounded(1);
    // A full queue is a control thread that does not get on.
    let asked = events.send_timeout(Event::Scrape(reply), CONTROL).is_ok();
    let Some(scrape) = asked.then(|| scrape.recv_timeout(CONTROL).ok()).flatten() else {
        return Answer::text(503, "the control thread does not answer\n");
    };
    match path {
        "/metrics" => Answer {
            status: 200,
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: text::render(&scrape, started),
        },
        "/readyz" if !scrape.problems.is_empty() => Answer::text(503, scrape.problems.join("\n") + "\n"),
        _ => Answer::text(200, "ok\n"),
    }
}

fn send(mut stream: &TcpStream, answer: &Answer, body: bool) -> io::Result<()> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let allow = if answer.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let mut out = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    if body {
        out.push_str(&answer.body);
    }
    stream.write_all(out.as_bytes())
}

impl Daemon {
    /// What one scrape tells.
    pub(super) fn scrape(&self) -> Scrape {
        let counts = |stats: &PortStatsBlocks| {
            stats.iter().fold([0; 6], |mut sum: [u64; 6], s| {
                let block =
                    [&s.rx_packets, &s.rx_bytes, &s.rx_dropped, &s.tx_packets, &s.tx_bytes, &s.tx_dropped];
                sum.iter_mut().zip(block).for_each(|(total, counter)| *total += counter.get());
                sum
            })
        };
        let port = |id: u32| self.ports.get(id as usize).and_then(Option::as_ref);
        let pods = self.attached.values().filter_map(|a| {
            Some(PortSample {
                namespace: a.record.pod.namespace.clone(),
                pod: a.record.pod.name.clone(),
                interface: a.record.ifname.clone(),
                counts: counts(&port(a.port)?.stats),
            })
        });
        let host = port(0).map(|p| PortSample {
            interface: node::HOST_IF.to_owned(),
            counts: counts(&p.stats),
            ..PortSample::default()
        });
        Scrape {
            problems: self.problem_list(),
            epoch: self.switch.snapshot().epoch,
            workers: self.switch.workers(),
            pods: self.attached.len(),
            mtu: self.facts.mtu,
            addresses_used: self.ipam.used(),
            addresses_total: self.ipam.total(),
            totals: self.switch.totals(),
            ports: host.into_iter().chain(pods).collect(),
            peers: self.peer_infos(),
            rules: self.rule_samples(),
            policy_problems: self.guard.problems().len(),
            connections: self.switch.conntrack().len(),
            bgp: self.bgp.as_ref().map(super::bgp::Bgp::gauges),
            store: self.etcd.as_ref().map(|etcd| (etcd.info().connected, self.guard.store_problems().len())),
        }
    }
}

#[cfg(test)]
mod tests;
