//! The tables against a naive twin: a list of routes, decided and exported from scratch. Peers join, leave, stop
//! reading, ask again and change policy at random; in the end each must know what the twin says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::as_path::AsPath;
use crate::config::NextHopMode;
use crate::frame::{self, Framer, Kind, Message};
use crate::msg::update::Update;
use crate::policy::{Match, Policy, PrefixList, Rule};

const PEERS: u32 = 6;
const NETS: u32 = 12;

/// A peer as it hears us.
#[derive(Default)]
struct Listener {
    routes: BTreeMap<IpNet, Attributes>,
    deaf: bool,
    end_of_rib: usize,
    borders: Vec<u8>,
}

#[derive(Default)]
struct Listeners(BTreeMap<PeerId, Listener>);

impl Sink for Listeners {
    fn room(&self, peer: PeerId) -> bool {
        self.0.get(&peer).is_some_and(|l| !l.deaf)
    }

    fn send(&mut self, peer: PeerId, message: Bytes) {
        let listener = self.0.get_mut(&peer).expect("only members are sent anything");
        let mut framer = Framer::default();
        framer.push(&message);
        let Message { kind, body } = framer.next().unwrap().unwrap();
        if kind == Kind::RouteRefresh {
            listener.borders.push(body[2]);
            return;
        }
        let update = Update::parse(body, &context()).unwrap();
        assert!(update.errors.is_empty(), "{:?}", update.errors);
        listener.end_of_rib += usize::from(update.end_of_rib.is_some());
        for (_, prefixes) in update.withdrawn {
            prefixes.iter().for_each(|n| drop(listener.routes.remove(&n.net)));
        }
        for announced in update.announced {
            for nlri in announced.prefixes {
                listener.routes.insert(nlri.net, announced.attributes.clone());
            }
        }
    }
}

fn context() -> crate::attr::Context {
    crate::attr::Context {
        internal: true,
        wide: true,
        families: PerFamily::from_fn(|_| true),
        add_path: PerFamily::default(),
        extended_next_hop: false,
    }
}

fn own() -> Own {
    Own {
        asn: 64_512,
        router_id: Ipv4Addr::new(10, 0, 0, 100),
        cluster_id: Some(Ipv4Addr::new(1, 0, 0, 1)),
        addresses: Vec::new(),
        multipath: Multipath { most: 4, relax: true },
    }
}

/// 1, 2: clients; 3, 4: internal; 5, 6: external.
fn source(peer: u32) -> Source {
    let id = Ipv4Addr::new(10, 0, 0, u8::try_from(peer).unwrap());
    let origin = if peer <= 4 { PathOrigin::Internal } else { PathOrigin::External };
    Source { origin, client: peer <= 2, router_id: id, addr: id.into() }
}

fn key(peer: u32, policy: &Option<Arc<Policy>>) -> GroupKey {
    let target = if peer <= 4 { Target::Internal { client: peer <= 2 } } else { Target::External };
    GroupKey {
        target,
        families: PerFamily::from_fn(|_| true),
        local_asn: 64_512,
        policy: policy.clone(),
        requires_policy: false,
        next_hop: NextHopMode::Auto,
        own: PerFamily::from_fn(|family| {
            Some(if family == Family::Ipv4 {
                "10.0.0.100".parse().unwrap()
            } else {
                "fd00::100".parse().unwrap()
            })
        }),
        subnet: None,
        wide: true,
        extended_next_hop: false,
        most: frame::MAX,
    }
}

fn net(n: u32) -> IpNet {
    let text = if n.is_multiple_of(3) { format!("fd00:{n:x}::/32") } else { format!("10.{n}.0.0/16") };
    text.parse().unwrap()
}

fn route(peer: u32, n: u32, kind: u32) -> Attributes {
    let next_hop = if n.is_multiple_of(3) { format!("fd00::{peer:x}") } else { format!("10.0.0.{peer}") };
    let mut attributes = Attributes::new(next_hop.parse().unwrap());
    attributes.local_pref = (peer <= 4).then_some(100 + kind % 2);
    attributes.med = (kind & 2 != 0).then_some(kind % 3);
    if peer > 4 {
        attributes.as_path = AsPath::sequence(&[65_000 + peer, 65_100][..1 + (kind as usize & 1)]);
    }
    attributes
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Announce { peer: u32, net: u32, kind: u32 },
    Withdraw { peer: u32, net: u32 },
    Join(u32),
    Leave(u32),
    Refresh { peer: u32, borders: bool },
    Deaf { peer: u32, deaf: bool },
    Policy { peer: u32, narrow: bool },
    NextHop { peer: u32, metric: Option<u32> },
    Restart { peer: u32 },
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let peer = || 1..=PEERS;
    prop_oneof![
        8 => (0..=PEERS, 0..NETS, 0u32..6).prop_map(|(peer, net, kind)| Op::Announce { peer, net, kind }),
        4 => (0..=PEERS, 0..NETS).prop_map(|(peer, net)| Op::Withdraw { peer, net }),
        3 => peer().prop_map(Op::Join),
        1 => peer().prop_map(Op::Leave),
        1 => (peer(), any::<bool>()).prop_map(|(peer, borders)| Op::Refresh { peer, borders }),
        2 => (peer(), any::<bool>()).prop_map(|(peer, deaf)| Op::Deaf { peer, deaf }),
        1 => (peer(), any::<bool>()).prop_map(|(peer, narrow)| Op::Policy { peer, narrow }),
        1 => (peer(), prop::option::of(0u32..3)).prop_map(|(peer, metric)| Op::NextHop { peer, metric }),
        1 => peer().prop_map(|peer| Op::Restart { peer }),
        6 => Just(Op::Flush),
    ]
}

#[derive(Default)]
struct Twin {
    routes: BTreeMap<(u32, IpNet), Attributes>,
    joined: BTreeMap<u32, bool>,
    metrics: BTreeMap<IpAddr, Option<u32>>,
}

impl Twin {
    /// The best path to a prefix, and the next hops to use; from scratch.
    fn best(&self, n: &IpNet) -> Option<(u32, &Attributes, Vec<IpAddr>)> {
        let routes: Vec<(u32, &Attributes)> =
            self.routes.iter().filter(|((_, net), _)| net == n).map(|((peer, _), a)| (*peer, a)).collect();
        let usable: Vec<(u32, &Attributes, u32)> = routes
            .into_iter()
            .filter_map(|(peer, a)| {
                let metric = if peer == 0 {
                    Some(0)
                } else {
                    self.metrics.get(&a.next_hop.addr).copied().unwrap_or(Some(0))
                };
                Some((peer, a, metric?))
            })
            .collect();
        let candidates: Vec<Candidate<'_>> = usable
            .iter()
            .map(|(peer, attributes, metric)| {
                let source = source(*peer);
                let origin = if *peer == 0 { PathOrigin::Local } else { source.origin };
                let (router_id, peer) = (source.router_id, source.addr);
                Candidate { attributes, origin, router_id, peer, path_id: 0, metric: *metric }
            })
            .collect();
        let decision = decision::decide(&candidates, own().multipath)?;
        let mut hops: Vec<IpAddr> = decision.equal.iter().map(|at| usable[*at].1.next_hop.addr).collect();
        hops.sort_unstable();
        hops.dedup();
        let (peer, attributes, _) = usable[decision.best];
        Some((peer, attributes, hops))
    }
}

struct World {
    rib: Rib,
    twin: Twin,
    listeners: Listeners,
    fib: BTreeMap<IpNet, Vec<IpAddr>>,
    policies: [Option<Arc<Policy>>; 2],
}

impl World {
    fn new() -> World {
        let prefixes = Some(PrefixList::default().or_longer("10.0.0.0/13".parse().unwrap()));
        let rules = vec![Rule { when: Match { prefixes, ..Match::default() }, then: None }];
        let narrow = Some(Arc::new(Policy { rules, otherwise: true, ..Policy::default() }));
        let rib = Rib::new(own(), false);
        World {
            rib,
            twin: Twin::default(),
            listeners: Listeners::default(),
            fib: BTreeMap::new(),
            policies: [None, narrow],
        }
    }

    fn flush(&mut self) {
        let mut changes = Vec::new();
        assert!(self.rib.flush(&mut self.listeners, &mut changes).is_empty());
        for FibChange { net, route, .. } in changes {
            match route {
                Some(route) => drop(self.fib.insert(net, route.hops.iter().map(|h| h.addr).collect())),
                None => drop(self.fib.remove(&net)),
            }
        }
    }

    fn announce(&mut self, peer: u32, n: u32, kind: u32) {
        let attributes =
            if peer == 0 { Attributes::new(route(1, n, 0).next_hop.addr) } else { route(peer, n, kind) };
        if peer > 0 {
            self.rib.set_source(PeerId(peer), source(peer));
        }
        let shared = self.rib.attributes.intern(attributes.clone());
        self.rib.insert(PeerId(peer), Nlri { net: net(n), path_id: 0 }, &shared, Ok(shared.clone()));
        self.twin.routes.insert((peer, net(n)), attributes);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Announce { peer, net, kind } => self.announce(peer, net, kind),
            Op::Withdraw { peer, net: n } => {
                let found = self.rib.withdraw(PeerId(peer), Nlri { net: net(n), path_id: 0 });
                assert_eq!(found, self.twin.routes.remove(&(peer, net(n))).is_some());
            }
            Op::Join(peer) => {
                if self.twin.joined.insert(peer, false).is_none() {
                    self.listeners.0.insert(PeerId(peer), Listener::default());
                    self.rib.set_source(PeerId(peer), source(peer));
                    self.rib.join(PeerId(peer), key(peer, &self.policies[0]), true);
                } else {
                    self.rib.regroup(PeerId(peer), key(peer, &self.policies[0]));
                }
            }
            Op::Leave(peer) => {
                self.twin.joined.remove(&peer);
                self.rib.leave(PeerId(peer));
                self.listeners.0.remove(&PeerId(peer));
                Family::ALL.into_iter().for_each(|f| self.rib.drop_routes(PeerId(peer), f, false));
                self.twin.routes.retain(|(p, _), _| *p != peer);
            }
            Op::Refresh { peer, borders } => {
                Family::ALL.into_iter().for_each(|f| self.rib.refresh(PeerId(peer), f, borders));
            }
            Op::Deaf { peer, deaf } => {
                if let Some(listener) = self.listeners.0.get_mut(&PeerId(peer)) {
                    listener.deaf = deaf;
                    self.rib.pumping = true;
                }
            }
            Op::Policy { peer, narrow } => {
                if let Some(now) = self.twin.joined.get_mut(&peer) {
                    *now = narrow;
                    self.rib.regroup(PeerId(peer), key(peer, &self.policies[usize::from(narrow)]));
                }
            }
            Op::NextHop { peer, metric } => {
                for n in [0, 1] {
                    let addr = route(peer, n, 0).next_hop.addr;
                    // Answers about next hops nobody uses are forgotten; the twin forgets nothing, so both are told
                    // while there is a route.
                    if self.twin.routes.values().any(|a| a.next_hop.addr == addr) {
                        self.rib.next_hops.answer(addr, metric);
                        self.twin.metrics.insert(addr, metric);
                    }
                }
            }
            Op::Restart { peer } => {
                // It is back and sends every other route again.
                Family::ALL.into_iter().for_each(|f| self.rib.mark_stale(PeerId(peer), f));
                for n in (0..NETS).filter(|n| n % 2 == 0) {
                    if self.twin.routes.contains_key(&(peer, net(n))) {
                        self.announce(peer, n, 0);
                    }
                }
                Family::ALL.into_iter().for_each(|f| self.rib.drop_routes(PeerId(peer), f, true));
                self.twin
                    .routes
                    .retain(|(p, n), _| *p != peer || (0..NETS).any(|i| i % 2 == 0 && net(i) == *n));
            }
            Op::Flush => self.flush(),
        }
        // What is not asked about any more is not remembered.
        let used: Vec<IpAddr> = self.twin.routes.values().map(|a| a.next_hop.addr).collect();
        self.twin.metrics.retain(|addr, _| used.contains(addr));
    }

    fn check(&mut self) {
        for listener in self.listeners.0.values_mut() {
            listener.deaf = false;
        }
        self.rib.pumping = true;
        self.flush();
        for peer in 1..=PEERS {
            let sum = |of: &dyn Fn(Family) -> u32| Family::ALL.into_iter().map(of).sum::<u32>() as usize;
            let best = |n: &u32| self.twin.best(&net(*n)).is_some_and(|(from, ..)| from == peer);
            assert_eq!(sum(&|f| self.rib.chosen(PeerId(peer), f)), (0..NETS).filter(best).count());
            let routes = self.twin.routes.keys().filter(|(from, _)| *from == peer).count();
            assert_eq!(sum(&|f| self.rib.tables[f].accepted(PeerId(peer))), routes);
        }
        let told = self.rib.fib().map(|(net, route)| (net, route.hops.iter().map(|h| h.addr).collect()));
        assert_eq!(told.collect::<BTreeMap<_, Vec<IpAddr>>>(), self.fib);
        for (peer, narrow) in self.twin.joined.clone() {
            let key = key(peer, &self.policies[usize::from(narrow)]);
            let mut expected = BTreeMap::new();
            for n in (0..NETS).map(net) {
                let Some((from, attributes, hops)) = self.twin.best(&n) else {
                    assert!(!self.fib.contains_key(&n));
                    continue;
                };
                let forwarded = (from > 0).then_some(hops);
                assert_eq!(self.fib.get(&n), forwarded.as_ref(), "FIB of {n}");
                let source = if from == 0 { *self.rib.source(PeerId::LOCAL).unwrap() } else { source(from) };
                let (mut memo, mut interner) = (Exports::default(), Interner::default());
                let attributes = Arc::new(attributes.clone());
                let exported =
                    key.export(&n, (PeerId(from), &source), &attributes, &own(), &mut memo, &mut interner);
                if let Some(exported) = exported.filter(|_| from != peer) {
                    expected.insert(n, Attributes::clone(&exported));
                }
            }
            let listener = &self.listeners.0[&PeerId(peer)];
            assert_eq!(listener.routes, expected, "peer {peer}");
            let group = self.rib.groups.iter().find(|g| g.has(PeerId(peer))).unwrap();
            let count: u32 = Family::ALL.into_iter().map(|f| group.out[f].count(PeerId(peer))).sum();
            assert_eq!(count as usize, expected.len());
            assert!(listener.borders.chunks(2).all(|pair| pair == [1, 2]), "{:?}", listener.borders);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn in_the_end_everybody_knows_what_the_twin_says(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.run(op));
        world.check();
        // And once nobody is behind, slots of vanished prefixes are used again.
        for family in Family::ALL {
            prop_assert_eq!(world.rib.tables[family].buried(), 0);
        }
    }
}

#[test]
fn slots_and_next_hops_are_given_back() {
    let mut world = World::new();
    world.run(Op::Join(1));
    for round in 0..1000 {
        (0..NETS).for_each(|n| world.announce(3, n, round));
        world.flush();
        (0..NETS).for_each(|n| world.run(Op::Withdraw { peer: 3, net: n }));
        world.flush();
    }
    assert!(Family::ALL.into_iter().all(|f| world.rib.tables[f].len() <= NETS));
    let asked = world.rib.next_hops.take_asked();
    assert_eq!(asked.iter().filter(|(_, wanted)| *wanted).count(), asked.len() / 2);
    assert!(world.rib.attributes.len() <= 2048);
}

#[test]
fn peers_with_one_policy_share_a_group_and_its_messages() {
    let mut world = World::new();
    (1..=2).for_each(|peer| world.run(Op::Join(peer)));
    world.run(Op::Join(3));
    assert_eq!(world.rib.groups.len(), 2, "clients, and the others");
    world.run(Op::Policy { peer: 1, narrow: true });
    assert_eq!(world.rib.groups.len(), 3);
    (1..=3).for_each(|peer| world.run(Op::Leave(peer)));
    assert!(world.rib.groups.is_empty());
}

#[test]
fn end_of_rib_follows_the_table_once() {
    let mut world = World::new();
    (0..NETS).for_each(|n| world.announce(5, n, 0));
    world.run(Op::Join(1));
    world.listeners.0.get_mut(&PeerId(1)).unwrap().deaf = true;
    world.flush();
    assert_eq!(world.listeners.0[&PeerId(1)].end_of_rib, 0);
    world.check();
    world.check();
    assert_eq!(world.listeners.0[&PeerId(1)].end_of_rib, 2, "one for each family");
}
