//! One lease of five thousand changes, again and again, while a worker carries a million packets a second by them.
//!
//! Of what the store's thread and the control thread do the pure part is the real thing: leases to peers, peers to tables,
//! tables published and acknowledged. etcd's event, the host's routes and sockets are not in it (tests/tests/etcd_scale.rs
//! has those too). The worker's node has ports and uplinks in memory; every datagram that leaves it is looked at, and must
//! go where the lease of its destination says in the epoch that it met, or nowhere if there is none.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::config::{Node as Place, Tunnel as TunnelConfig};
use control::flannel::roster::Own;
use control::flannel::{Entry, LeaseKey, LeaseValue, Leases, NetworkConfig};
use control::fleet::Fleet;
use encap::{Tunnel, VnetHdr};
use vswitch::compile::{NodeFacts, PeerFacts, compile};
use vswitch::daemon::peers;
use vswitch::datapath::DatapathOptions;
use vswitch::port::mem::MemEnd;
use vswitch::snapshot::{Port, Published, published};
use vswitch_benches::stats::quantile;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::node::Node;

const LEASES: u32 = 5000;
const CHANGES: u64 = 300;
const BATCH: u64 = 64;
/// Between two batches, so that they are a million packets a second.
const PACE: Duration = Duration::from_micros(BATCH);
/// Where an Ethernet frame has the IPv4 destination, and a VXLAN datagram that of its inner frame.
const DST_AT: usize = 30;
const INNER_DST_AT: usize = 8 + DST_AT;
/// Where a VXLAN datagram has the MAC that its inner frame goes to.
const INNER_MAC_AT: usize = 8;

const NETWORK: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;

/// Where a node's packets go: its address and its VTEP's MAC; none = it has no lease.
type End = Option<(Ipv4Addr, [u8; 6])>;

fn subnet(n: u32) -> Ipv4Addr {
    let [_, _, high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 100 + high, low, 0)
}

/// Where node `n` is after so many changes.
fn end(n: u32, change: u64) -> (Ipv4Addr, [u8; 6]) {
    let [_, _, high, low] = n.to_be_bytes();
    let round = change as u8;
    (Ipv4Addr::new(172, 16 + high, low, 1 + round % 200), [0x0e, 0, round, 1, high, low])
}

fn key(n: u32) -> String {
    format!("{}-24", subnet(n))
}

fn entry(n: u32, end: (Ipv4Addr, [u8; 6]), revision: i64) -> Entry {
    let mac: Vec<String> = end.1.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        end.0,
        mac.join(":")
    );
    let key: LeaseKey = key(n).parse().expect("a key");
    let value = LeaseValue::parse(text.as_bytes()).expect("a lease");
    Entry { key, value: Some(value), created: i64::from(n) + 1, modified: revision, lease: 7 }
}

/// The node that all this happens on.
fn place() -> Place {
    Place {
        name: "n1".to_owned(),
        uplink: "eth0".to_owned(),
        address: Some(Ipv4Addr::new(192, 168, 77, 1)),
        address6: None,
        subnet: None,
        subnet6: None,
        state_dir: PathBuf::new(),
        run_dir: PathBuf::new(),
        workers: 1,
        probe_peers: false,
        offload: true,
        without: std::collections::BTreeSet::new(),
    }
}

/// What the store and the control thread have.
struct Control {
    network: NetworkConfig,
    own: Own,
    leases: Leases,
    place: Place,
    fleet: Fleet,
    peers: Vec<Arc<PeerFacts>>,
    facts: NodeFacts,
    ports: Vec<Option<Arc<Port>>>,
    published: Published,
    acked: Arc<AtomicU64>,
    /// By epoch: which lease changed, and to what.
    changes: Arc<Mutex<Vec<(u32, End)>>>,
}

impl Control {
    /// Makes everything anew from the leases and waits until the worker has it; the milliseconds of each step.
    fn publish(&mut self) -> [f64; 4] {
        let began = Instant::now();
        let mut times = [0.0; 4];
        let mut note = |i: usize| times[i] = began.elapsed().as_secs_f64() * 1e3;
        let theirs = self.leases.roster(&self.network, &self.own).peers.clone();
        note(0);
        let fleet = Fleet { peers: theirs, ..self.fleet.clone() };
        self.peers = peers(&fleet, &self.place, (&self.fleet, &self.peers), false, 1);
        self.fleet = fleet;
        note(1);
        let mut snapshot = compile(&self.facts, &self.peers, &self.ports);
        note(2);
        let epoch = self.changes.lock().expect("nobody panics with it").len() as u64;
        snapshot.epoch = epoch;
        let old = self.published.swap(Arc::new(snapshot));
        while self.acked.load(Ordering::Acquire) < epoch {
            std::thread::sleep(Duration::from_micros(20));
        }
        drop(old);
        note(3);
        times
    }

    /// Lease `n` is another, is gone, or is there again.
    fn change(&mut self, n: u32, to: End) {
        let revision = self.changes.lock().expect("nobody panics with it").len() as i64 + 10_000;
        match to {
            Some(end) => self.leases.insert(key(n), entry(n, end, revision)),
            None => self.leases.remove(&key(n)),
        }
        self.changes.lock().expect("nobody panics with it").push((n, to));
    }
}

/// The worker, and who looks at what it sends.
struct Carrier {
    node: Node,
    pod: MemEnd,
    frame: Vec<u8>,
    published: Published,
    acked: Arc<AtomicU64>,
    changes: Arc<Mutex<Vec<(u32, End)>>>,
    /// Where each lease's packets go, in the epoch in force.
    ends: Vec<End>,
    epoch: u64,
    sent: u64,
    carried: u64,
    nowhere: u64,
    misrouted: u64,
}

impl Carrier {
    fn adopt(&mut self) {
        let snapshot = self.published.load_full();
        if snapshot.epoch == self.epoch {
            return;
        }
        let changes = self.changes.lock().expect("nobody panics with it");
        for (n, to) in &changes[self.epoch as usize..snapshot.epoch as usize] {
            self.ends[*n as usize] = *to;
        }
        drop(changes);
        self.epoch = snapshot.epoch;
        self.node.adopt(snapshot);
        self.acked.store(self.epoch, Ordering::Release);
    }

    /// A batch to leases that no cache can guess, and where it went.
    fn batch(&mut self, seed: &mut u64) {
        self.adopt();
        let mut expected = 0;
        for _ in 0..BATCH {
            let n = (random(seed) % u64::from(LEASES)) as u32;
            let dst = Ipv4Addr::from_bits(subnet(n).to_bits() + 7);
            self.frame[DST_AT..DST_AT + 4].copy_from_slice(&dst.octets());
            // The header's checksum: nothing but the destination differs.
            self.frame[24..26].fill(0);
            let sum = encap::checksum::sum(&self.frame[14..34]).finish();
            self.frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert!(self.pod.send(VnetHdr::default(), &self.frame), "the port has room");
            expected += u64::from(self.ends[n as usize].is_some());
        }
        while self.node.turn(1_000_000) {}
        let before = self.carried;
        while let Some(datagrams) = self.node.wire.recv() {
            for datagram in datagrams.iter() {
                self.carried += 1;
                let dst: [u8; 4] =
                    datagram[INNER_DST_AT..INNER_DST_AT + 4].try_into().expect("four bytes are four");
                let n = (u32::from(dst[1]) - 100) << 8 | u32::from(dst[2]);
                let right = self.ends[n as usize].is_some_and(|(addr, mac)| {
                    datagrams.addr.ip() == IpAddr::V4(addr) && datagram[INNER_MAC_AT..INNER_MAC_AT + 6] == mac
                });
                self.misrouted += u64::from(!right);
            }
            self.node.wire.recycle(datagrams);
        }
        // What has no lease is answered by ICMP.
        while let Some(frame) = self.pod.recv() {
            self.pod.recycle(frame);
        }
        while let Some(frame) = self.node.host.recv() {
            self.node.host.recycle(frame);
        }
        self.sent += BATCH;
        self.nowhere += BATCH - expected;
        assert_eq!(self.carried - before, expected, "each packet with a lease is carried");
    }
}

/// xorshift64: the same order in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn line(name: &str, times: &[f64]) -> String {
    let most = times.iter().copied().fold(0.0, f64::max);
    format!(
        "{name:<34} p50 {:6.2} ms, p99 {:6.2} ms, most {most:6.2} ms",
        quantile(times, 0.5),
        quantile(times, 0.99)
    )
}

#[allow(clippy::print_stdout)] // the body of a program
fn main() {
    let mut node = Node::sized(0, Tunnel::Vxlan { vni: 1 }, 7, 1 << 16, DatapathOptions::default());
    let (identity, pod) = node.attach(0, true);
    node.publish(0, 1);
    let (mut facts, ports) = node.facts();
    let network = NetworkConfig::parse(NETWORK.as_bytes()).expect("a network");
    facts.cluster_cidrs = network.networks();
    let published = published();
    let acked = Arc::new(AtomicU64::new(0));
    let first: Vec<(u32, End)> = (0..LEASES).map(|n| (n, Some(end(n, 0)))).collect();
    let mut leases = Leases::default();
    (0..LEASES).for_each(|n| leases.insert(key(n), entry(n, end(n, 0), 1)));
    let tunnel = TunnelConfig::Vxlan { vni: 1, port: 8472, vtep_mac: None, cross_subnet: false };
    let (cluster_cidrs, pod_cidrs) = (network.networks(), facts.pod_cidrs.clone());
    let fleet = Fleet { cluster_cidrs, pod_cidrs, pools: Vec::new(), tunnel, peers: Vec::new() };
    let changes = Arc::new(Mutex::new(first));
    let own = Own { address: Some(Ipv4Addr::new(192, 168, 77, 1)), ..Own::default() };
    let mut control = Control {
        network,
        own,
        leases,
        place: place(),
        fleet,
        peers: Vec::new(),
        facts,
        ports,
        published: Arc::clone(&published),
        acked: Arc::clone(&acked),
        changes: Arc::clone(&changes),
    };
    let frame = Way::routed(&identity, IpAddr::V4(subnet(1))).udp((1, 2), 22);
    let mut carrier = Carrier {
        node,
        pod,
        frame,
        published,
        acked,
        changes,
        ends: vec![None; LEASES as usize],
        epoch: 0,
        sent: 0,
        carried: 0,
        nowhere: 0,
        misrouted: 0,
    };
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let control = std::thread::spawn(move || {
        let whole = control.publish();
        let mut times: [Vec<f64>; 4] = Default::default();
        for change in 0..CHANGES {
            std::thread::sleep(Duration::from_millis(10));
            let n = (change / 3 * 37 % u64::from(LEASES)) as u32;
            let to = match change % 3 {
                0 => Some(end(n, change + 1)),
                1 => None,
                _ => Some(end(n, change + 2)),
            };
            control.change(n, to);
            times.iter_mut().zip(control.publish()).for_each(|(times, took)| times.push(took));
        }
        ended.store(true, Ordering::Relaxed);
        (whole, times)
    });
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    while carrier.epoch == 0 {
        carrier.adopt();
        std::thread::yield_now();
    }
    let began = Instant::now();
    let mut next = began;
    while !over.load(Ordering::Relaxed) {
        carrier.batch(&mut seed);
        next += PACE;
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    let took = began.elapsed().as_secs_f64();
    let (whole, times) = control.join().expect("the control thread ends well");
    println!("{LEASES} leases at once: peers {:.1} ms, in force {:.1} ms", whole[1], whole[3]);
    println!("{CHANGES} changes of one lease (another node, none, one again):");
    for (name, times) in
        ["leases to peers", "peers to what compile takes", "tables", "in force"].iter().zip(&times)
    {
        println!("{}", line(&format!("  from the change to: {name}"), times));
    }
    println!(
        "meanwhile {} packets, {:.2} million a second: {} carried, {} to nobody, {} misrouted",
        carrier.sent,
        carrier.sent as f64 / took / 1e6,
        carrier.carried,
        carrier.nowhere,
        carrier.misrouted
    );
    assert_eq!(carrier.misrouted, 0);
}
