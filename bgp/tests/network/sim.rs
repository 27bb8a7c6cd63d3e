//! The network: nodes with one address each, every one reachable from every other, connections that are slow, bounded
//! and mortal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::{
    Attributes, Config, ConnId, Event, Family, FibRoute, LocalRoute, Output, PeerConfig, Policy, Speaker,
};
use ipnet::IpNet;

/// Bytes on their way in one direction at most, as a socket's buffers would hold.
const WINDOW: usize = 32 << 10;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// A connection's end.
type End = (usize, ConnId);

enum Happening {
    /// A connection attempt reaches the other side.
    Syn {
        from: End,
        to: SocketAddr,
    },
    /// It was taken.
    SynAck {
        to: End,
    },
    Bytes {
        from: End,
        to: End,
        bytes: Vec<u8>,
    },
    Closed {
        from: End,
        to: End,
    },
}

struct Node {
    speaker: Option<Speaker>,
    fib: BTreeMap<IpNet, Arc<FibRoute>>,
    local: Vec<IpNet>,
    events: Vec<Event>,
    /// Packets to and from it are lost.
    cut: bool,
}

/// The network.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    start: Instant,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: HashMap<u64, Happening>,
    sequence: u64,
    /// The two ends of each connection.
    peer: HashMap<End, End>,
    /// Bytes on their way to an end.
    flying: HashMap<End, usize>,
    /// When the last bytes of a direction arrive: they do not overtake.
    last: HashMap<End, Instant>,
    pub(crate) random: Random,
    /// Longest delay of a packet, milliseconds.
    pub(crate) delay: u64,
}

pub(crate) fn addr(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, u8::try_from(node / 200).unwrap(), u8::try_from(node % 200 + 1).unwrap()))
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A speaker of this AS, accepting and sending everything.
pub(crate) fn config(node: usize, asn: u32) -> Config {
    let IpAddr::V4(id) = addr(node) else { unreachable!() };
    let mut config = Config::new(asn, id);
    config.addresses = vec![addr(node)];
    config.next_hop_self[Family::Ipv6] = Some(IpAddr::V6(format!("fd00::{:x}", node + 1).parse().unwrap()));
    config
}

pub(crate) fn peer(node: usize, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(addr(node), asn);
    peer.families[Family::Ipv6] = true;
    peer.import = Some(Arc::new(Policy::accept_all()));
    peer.export = Some(Arc::new(Policy::accept_all()));
    peer
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Sim {
        let now = Instant::now();
        Sim {
            now,
            start: now,
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            sequence: 0,
            peer: HashMap::new(),
            flying: HashMap::new(),
            last: HashMap::new(),
            random: Random(seed),
            delay: 5,
        }
    }

    /// Adds a node for each configuration.
    pub(crate) fn add(&mut self, config: Config) -> usize {
        let speaker = Some(Speaker::new(config, self.now).unwrap());
        let (fib, local, events) = (BTreeMap::new(), Vec::new(), Vec::new());
        self.nodes.push(Node { speaker, fib, local, events, cut: false });
        let node = self.nodes.len() - 1;
        self.drain(node);
        node
    }

    pub(crate) fn speaker(&mut self, node: usize) -> &mut Speaker {
        self.nodes[node].speaker.as_mut().unwrap()
    }

    /// Asks the speaker for something, then does what it wants done.
    pub(crate) fn with<T>(&mut self, node: usize, ask: impl FnOnce(&mut Speaker, Instant) -> T) -> T {
        let now = self.now;
        let answer = ask(self.speaker(node), now);
        self.drain(node);
        answer
    }

    pub(crate) fn announce(&mut self, node: usize, prefix: &str) {
        let (at, prefix) = (addr(node), net(prefix));
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let next_hop = if prefix.addr().is_ipv4() { at } else { unspecified };
        self.nodes[node].local.push(prefix);
        self.with(node, |s, _| s.announce(prefix, LocalRoute { attributes: Attributes::new(next_hop) }));
    }

    pub(crate) fn withdraw(&mut self, node: usize, prefix: &str) {
        let prefix = net(prefix);
        self.nodes[node].local.retain(|n| *n != prefix);
        assert!(self.with(node, |s, _| s.withdraw(prefix)));
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn later(&mut self) -> Instant {
        self.now + Duration::from_micros(100 + self.random.below(self.delay * 1000 + 1))
    }

    /// In order behind what is on its way there already.
    fn deliver(&mut self, to: End, happening: Happening) {
        let at = self.later().max(self.last.get(&to).copied().unwrap_or(self.now));
        self.last.insert(to, at);
        self.schedule(at, happening);
    }

    /// Does what a speaker wants done.
    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].speaker.as_mut().and_then(Speaker::output) {
            match output {
                Output::Connect { conn, to, .. } => {
                    let at = self.later();
                    self.schedule(at, Happening::Syn { from: (node, conn), to });
                }
                Output::Close { conn, farewell } => {
                    if let Some(to) = self.peer.remove(&(node, conn)) {
                        if !farewell.is_empty() {
                            self.deliver(to, Happening::Bytes { from: (node, conn), to, bytes: farewell });
                        }
                        self.deliver(to, Happening::Closed { from: (node, conn), to });
                    }
                }
                Output::Write { conn } => self.write((node, conn)),
                Output::Fib(change) => {
                    let fib = &mut self.nodes[node].fib;
                    match change.route {
                        Some(route) => drop(fib.insert(change.net, route)),
                        None => drop(fib.remove(&change.net)),
                    }
                }
                Output::Resolve { .. } | Output::Forget { .. } => {}
                Output::Event(event) => self.nodes[node].events.push(event),
            }
        }
    }

    /// Moves bytes from a queue onto the wire, as many as there is room for.
    fn write(&mut self, from: End) {
        let Some(to) = self.peer.get(&from).copied() else { return };
        let now = self.now;
        let room = WINDOW - self.flying.get(&to).copied().unwrap_or(0);
        let Some(speaker) = &mut self.nodes[from.0].speaker else { return };
        let bytes: Vec<u8> = speaker.unsent(from.1).flatten().copied().take(room).collect();
        if bytes.is_empty() {
            return;
        }
        speaker.sent(from.1, bytes.len(), now);
        *self.flying.entry(to).or_default() += bytes.len();
        self.deliver(to, Happening::Bytes { from, to, bytes });
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Syn { from, to } => {
                let target = (0..self.nodes.len()).find(|n| addr(*n) == to.ip());
                let target = target.filter(|n| !self.nodes[*n].cut && !self.nodes[from.0].cut);
                let Some(target) = target else { return };
                let remote = SocketAddr::new(addr(from.0), 40_000);
                let taken = self.nodes[target].speaker.as_mut().map(|s| s.incoming(remote, to.ip(), now));
                match taken {
                    Some(Ok((conn, _))) => {
                        self.peer.insert((target, conn), from);
                        self.peer.insert(from, (target, conn));
                        self.deliver(from, Happening::SynAck { to: from });
                    }
                    Some(Err(_)) | None => {
                        self.deliver(from, Happening::Closed { from: (target, ConnId(0)), to: from })
                    }
                }
                self.drain(target);
            }
            Happening::SynAck { to: (node, conn) } => {
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.connected(conn, addr(node), now);
                    self.drain(node);
                }
            }
            Happening::Bytes { from, to: (node, conn), bytes } => {
                if self.nodes[node].cut || self.nodes[from.0].cut {
                    return;
                }
                let other = self.peer.get(&(node, conn)).copied();
                if other.is_none() && self.peer.contains_key(&from) {
                    // Nobody there any more: a reset comes back.
                    self.deliver(from, Happening::Closed { from: (node, conn), to: from });
                }
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.received(conn, &bytes, now);
                    self.drain(node);
                }
                if let Some(flying) = self.flying.get_mut(&(node, conn)) {
                    *flying = flying.saturating_sub(bytes.len());
                }
                if let Some(other) = other {
                    self.write(other);
                    self.drain(other.0);
                }
            }
            Happening::Closed { from, to: (node, conn) } => {
                if self.nodes[node].cut || self.nodes[from.0].cut {
                    return;
                }
                self.peer.remove(&(node, conn));
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.closed(conn, now);
                    self.drain(node);
                }
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self.nodes.iter().filter_map(|n| n.speaker.as_ref()?.deadline());
            let next = self.queue.peek().map(|Reverse((at, _))| *at).into_iter().chain(timers).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if let Some(Reverse((at, number))) = self.queue.peek().copied()
                && at <= self.now
            {
                self.queue.pop();
                let happening = self.happenings.remove(&number).unwrap();
                self.happen(happening);
                continue;
            }
            for node in 0..self.nodes.len() {
                let now = self.now;
                if let Some(speaker) = self.nodes[node].speaker.as_mut()
                    && speaker.deadline().is_some_and(|at| at <= now)
                {
                    speaker.tick(now);
                    self.drain(node);
                }
            }
        }
        self.now = end;
    }

    pub(crate) fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Breaks a connection between two nodes, if there is one.
    pub(crate) fn break_between(&mut self, a: usize, b: usize) {
        let ends: Vec<End> =
            self.peer.iter().filter(|(x, y)| x.0 == a && y.0 == b).map(|(x, _)| *x).collect();
        for end in ends {
            let Some(other) = self.peer.remove(&end) else { continue };
            self.peer.remove(&other);
            for (from, to) in [(other, end), (end, other)] {
                self.deliver(to, Happening::Closed { from, to });
            }
        }
    }

    /// A node's process dies. Its kernel closes the connections; forwarding goes on as it was.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        let mut ends: Vec<(End, End)> =
            self.peer.iter().map(|(a, b)| (*a, *b)).filter(|(a, _)| a.0 == node).collect();
        ends.sort_unstable();
        for (end, other) in ends {
            self.peer.remove(&end);
            self.deliver(other, Happening::Closed { from: end, to: other });
        }
    }

    /// Its process begins again. Its own routes are to be announced again.
    pub(crate) fn revive(&mut self, node: usize, config: Config) {
        self.nodes[node].speaker = Some(Speaker::new(config, self.now).unwrap());
        self.nodes[node].local.clear();
        self.drain(node);
    }

    /// A node's packets are lost, both ways, or no longer.
    pub(crate) fn cut(&mut self, node: usize, cut: bool) {
        self.nodes[node].cut = cut;
    }

    pub(crate) fn fib(&self, node: usize) -> &BTreeMap<IpNet, Arc<FibRoute>> {
        &self.nodes[node].fib
    }

    pub(crate) fn events(&self, node: usize) -> &[Event] {
        &self.nodes[node].events
    }

    pub(crate) fn forget_events(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.events.clear());
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn established(&mut self, node: usize) -> usize {
        let now = self.now;
        self.speaker(node).peers(now).iter().filter(|p| p.state == bgp::State::Established).count()
    }

    /// Every node has a way to every prefix of every other, and each way ends where the prefix is at home.
    pub(crate) fn assert_reachable(&self) {
        let homes: Vec<(usize, IpNet)> = (0..self.nodes.len())
            .flat_map(|n| self.nodes[n].local.iter().map(move |net| (n, *net)))
            .collect();
        for node in 0..self.nodes.len() {
            for (home, prefix) in &homes {
                let at_home = |n: usize| self.nodes[n].local.contains(prefix);
                if prefix.addr().is_ipv4() {
                    self.follow(node, prefix, &at_home, 0);
                } else {
                    assert!(
                        at_home(node) || self.fib(node).contains_key(prefix),
                        "{node}: {prefix} of {home}"
                    );
                }
            }
            for known in self.fib(node).keys() {
                assert!(homes.iter().any(|(_, prefix)| prefix == known), "{node} still knows {known}");
            }
        }
    }

    fn follow(&self, node: usize, prefix: &IpNet, at_home: &dyn Fn(usize) -> bool, steps: usize) {
        assert!(steps <= self.nodes.len(), "{prefix} goes round in circles at {node}");
        if at_home(node) {
            return;
        }
        let route = self.fib(node).get(prefix);
        let route = route.unwrap_or_else(|| panic!("node {node} has no way to {prefix}"));
        for hop in &route.hops {
            let next = (0..self.nodes.len()).find(|n| addr(*n) == hop.addr);
            self.follow(next.expect("a next hop is a node"), prefix, at_home, steps + 1);
        }
    }
}
