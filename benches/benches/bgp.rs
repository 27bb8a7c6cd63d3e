//! A route reflector at its rated size, in processor time of the one thread that runs it; the clients are made of bytes.
//!
//! Not a criterion benchmark: one run takes seconds, and memory is part of the result. `BGP_ROUTES` and `BGP_CLIENTS`
//! change the size.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::{Config, ConnId, Event, Output, PeerConfig, Speaker};

const ASN: u32 = 64_512;
/// Set for a process that measures one table: paths for each route, routes alike.
const TABLE: &str = "BGP_BENCH_TABLE";

/// Processor time of this thread so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).expect("its first number");
    Duration::from_nanos(nanos)
}

/// Resident memory of this process, MiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel counts");
    let pages: f64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("its second number");
    pages * 4096.0 / f64::from(1 << 20)
}

fn addr(client: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + 0x100 + client))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("short").to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

fn open(client: u32) -> Vec<u8> {
    let capabilities = [&[1, 4, 0, 1, 0, 1, 2, 0, 65, 4][..], &ASN.to_be_bytes()].concat();
    let IpAddr::V4(id) = addr(client) else { unreachable!() };
    let length = u8::try_from(capabilities.len()).expect("short");
    let head = [&[4, 0xfc, 0, 0, 90][..], &id.octets(), &[length + 2, 2, length], &capabilities].concat();
    message(1, &head)
}

/// An UPDATE of one client with these /24s.
fn update(client: u32, med: u32, prefixes: std::ops::Range<u32>) -> Vec<u8> {
    let IpAddr::V4(next_hop) = addr(client) else { unreachable!() };
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    attributes.extend(next_hop.octets());
    attributes.extend([0x80, 4, 4]);
    attributes.extend(med.to_be_bytes());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    let length = u16::try_from(attributes.len()).expect("short").to_be_bytes();
    let nlri = prefixes.flat_map(|p| [24, 0x20 + (p >> 16) as u8, (p >> 8) as u8, p as u8]);
    message(2, &[&[0, 0][..], &length, &attributes, &nlri.collect::<Vec<_>>()].concat())
}

struct Lab {
    speaker: Speaker,
    now: Instant,
    bytes: usize,
    messages: usize,
    fib: usize,
    up: usize,
}

impl Lab {
    fn new(clients: u32) -> Lab {
        let mut config = Config::new(ASN, Ipv4Addr::new(10, 0, 0, 1));
        config.cluster_id = Some(Ipv4Addr::new(1, 0, 0, 1));
        config.addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))];
        config.peers = (0..clients)
            .map(|client| {
                let mut peer = PeerConfig::new(addr(client), ASN);
                (peer.passive, peer.client) = (true, true);
                peer
            })
            .collect();
        let now = Instant::now();
        let speaker = Speaker::new(config, now).expect("the configuration is good");
        Lab { speaker, now, bytes: 0, messages: 0, fib: 0, up: 0 }
    }

    /// One turn of a driver's loop: every output is done, every queue written.
    fn turn(&mut self) {
        loop {
            let mut again = false;
            while let Some(output) = self.speaker.output() {
                match output {
                    Output::Write { conn } => {
                        let (mut bytes, mut messages) = (0, 0);
                        for slice in self.speaker.unsent(conn) {
                            bytes += slice.len();
                            messages += 1;
                        }
                        self.speaker.sent(conn, bytes, self.now);
                        self.bytes += bytes;
                        self.messages += messages;
                        again = true;
                    }
                    Output::Fib(_) => self.fib += 1,
                    Output::Event(Event::Up { .. }) => self.up += 1,
                    Output::Event(event) => panic!("{event:?}"),
                    Output::Close { .. } | Output::Connect { .. } => panic!("a session is lost"),
                    Output::Resolve { .. } | Output::Forget { .. } => {}
                }
            }
            if !again {
                return;
            }
        }
    }

    fn connect(&mut self, client: u32) -> ConnId {
        let remote = SocketAddr::new(addr(client), 40_000);
        let local = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let (conn, _) = self.speaker.incoming(remote, local, self.now).expect("it is configured");
        self.speaker.received(conn, &open(client), self.now);
        self.speaker.received(conn, &message(4, &[]), self.now);
        conn
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.speaker.received(conn, bytes, self.now);
    }
}

fn size(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// All clients are there, then each announces its share; `together`: so many clients' messages are read in one turn.
fn converge(clients: u32, routes: u32, together: usize) -> (Lab, Vec<ConnId>, Duration) {
    let mut lab = Lab::new(clients);
    let conns: Vec<ConnId> = (0..clients).map(|client| lab.connect(client)).collect();
    lab.turn();
    assert_eq!(lab.up, clients as usize);
    let each = routes / clients;
    let updates: Vec<(ConnId, Vec<u8>)> = (0..4)
        .flat_map(|part| {
            conns.iter().zip(0..).map(move |(conn, client)| {
                let from = client * each + part * each / 4;
                (*conn, update(client, part, from..client * each + (part + 1) * each / 4))
            })
        })
        .collect();
    (lab.bytes, lab.messages) = (0, 0);
    let start = cpu();
    for turn in updates.chunks(together) {
        turn.iter().for_each(|(conn, bytes)| lab.send(*conn, bytes));
        lab.turn();
    }
    let spent = cpu() - start;
    assert_eq!(lab.fib, (each * clients) as usize);
    (lab, conns, spent)
}

/// Clients come to a reflector that knows everything, one a turn.
fn join(clients: u32, routes: u32) -> (Duration, usize) {
    let mut lab = Lab::new(clients + 1);
    let first = lab.connect(clients);
    for part in 0..routes / 200 {
        lab.send(first, &update(clients, part, part * 200..(part + 1) * 200));
    }
    lab.turn();
    (lab.bytes, lab.messages) = (0, 0);
    let start = cpu();
    for client in 0..clients {
        lab.connect(client);
        lab.turn();
    }
    (cpu() - start, lab.bytes)
}

/// One route goes and comes, to all clients.
fn flap(lab: &mut Lab, conns: &[ConnId]) -> Duration {
    const TIMES: u32 = 200;
    let announced = update(0, 0, 0..1);
    let withdrawn = message(2, &[0, 4, 24, 0x20, 0, 0, 0, 0]);
    let before = lab.messages;
    let start = cpu();
    for _ in 0..TIMES {
        lab.send(conns[0], &withdrawn);
        lab.turn();
        lab.send(conns[0], &announced);
        lab.turn();
    }
    let spent = (cpu() - start) / TIMES;
    assert_eq!(lab.messages - before, 2 * TIMES as usize * (conns.len() - 1));
    spent
}

/// A large table from each peer, announced by UPDATEs of `alike` routes, each with attributes of its own.
fn table(routes: u32, peers: u32, alike: u32) -> (f64, Duration, usize) {
    let before = memory();
    let mut lab = Lab::new(peers + 1);
    let conns: Vec<ConnId> = (0..=peers).map(|client| lab.connect(client)).collect();
    lab.turn();
    let start = cpu();
    for peer in 0..peers {
        for part in 0..routes / alike {
            lab.send(conns[peer as usize], &update(peer, part, part * alike..(part + 1) * alike));
            if part % 64 == 0 {
                lab.turn();
            }
        }
        lab.turn();
    }
    let spent = cpu() - start;
    let sets = lab.speaker.totals().attribute_sets;
    (memory() - before, spent, sets)
}

/// The same in a process of its own: memory that earlier runs gave back to the allocator does not count.
fn apart(peers: u32, alike: u32) -> String {
    let exe = std::env::current_exe().expect("we run from somewhere");
    let out =
        std::process::Command::new(exe).env(TABLE, format!("{peers} {alike}")).output().expect("it starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn main() {
    if let Some((peers, alike)) = std::env::var(TABLE).ok().as_deref().and_then(|text| text.split_once(' ')) {
        let number = |text: &str| text.parse().expect("we wrote it");
        let (mib, spent, sets) = table(1_000_000, number(peers), number(alike));
        #[expect(clippy::print_stdout, reason = "the caller reads it")]
        {
            println!("{mib:.0} MiB, {spent:.2?}, {sets} sets of attributes");
        }
        return;
    }
    let (clients, routes) = (size("BGP_CLIENTS", 500), size("BGP_ROUTES", 100_000));
    let mut report = String::new();
    let mut line = |what: &str, value: String| writeln!(report, "{what:<58} {value}").expect("memory");

    let before = memory();
    let (mut lab, conns, spent) = converge(clients, routes, 32);
    line(&format!("{routes} routes of {clients} clients, 32 messages a turn"), format!("{spent:.2?}"));
    line("  sent", format!("{} messages, {} MB", lab.messages, lab.bytes / 1_000_000));
    line("  memory", format!("{:.0} MiB", memory() - before));
    line("one route withdrawn and announced again", format!("{:.2?}", flap(&mut lab, &conns)));
    drop(lab);
    let (lab, _, spent) = converge(clients, routes, 1);
    line("  the same routes, one message a turn", format!("{spent:.2?}, {} messages", lab.messages));
    drop(lab);
    let (spent, bytes) = join(clients, routes);
    line(
        &format!("{clients} clients join {routes} routes, one a turn"),
        format!("{spent:.2?}, {} MB", bytes / 1_000_000),
    );
    for (peers, alike) in [(1, 100), (2, 100), (1, 5)] {
        let what = format!("table of 1000000 routes, {peers} path(s) each, {alike} routes alike");
        line(&what, apart(peers, alike));
    }
    #[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
    {
        println!("{report}");
    }
}
