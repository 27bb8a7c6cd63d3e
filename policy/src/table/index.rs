//! Which rules of a table a packet can match, found without asking every rule.
//!
//! A rule lies under **keys** for the far end of a packet: under each prefix it names, or under each class of
//! identities its selector covers, or under the key of all packets. Within a key it lies in **spans** of protocol and
//! destination port, in the key's wide list, or, where many broad spans overlap, in a tree of spans. A packet looks into one class, into the prefixes that contain its
//! far end, and into the key of all packets: a handful of short ascending lists, whose smallest matching number
//! decides. A list may hold too much, never too little: matching is exact, and a posting marked as exact has had all
//! its conditions implied by key and span. Behind an exact posting the rest of its tier is left out of the list.
//!
//! Built on the control thread, immutable.

use std::collections::HashMap;

use ipnet::IpNet;

use super::Entry;
use super::rule::{CompiledPeer, Port, WITH_PORTS};
use crate::model::Packet;
use crate::prefixes::Prefixes;
use layout::Builder;

mod layout;

/// Marks "no key".
const NONE: u32 = u32::MAX;
/// Behind the last point.
const POINTS: u32 = 1 << 24;
/// A posting list may hold this many times the rules before the broad ones go to a list of their own.
const SPREAD: usize = 16;
/// What counts as broad then: more classes or spans than this.
const BROAD: usize = 64;

/// Protocol and destination port as one number.
pub(crate) fn point(p: &Packet) -> u32 {
    u32::from(p.proto) << 16 | u32::from(p.dport)
}

/// A rule's number in a list, and whether key and span imply all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posting(u32);

impl Posting {
    fn new(number: u32, exact: bool) -> Posting {
        Posting(number << 1 | u32::from(exact))
    }

    pub(crate) fn number(self) -> u32 {
        self.0 >> 1
    }

    pub(crate) fn exact(self) -> bool {
        self.0 & 1 == 1
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    start: u32,
    len: u32,
}

impl Run {
    fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.start as usize..][..self.len as usize]
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Key {
    wide: Run,
    spans: Run,
    /// The lists of a segment tree over the edges, root at 1; empty if no span is broad.
    tree: Run,
    /// Points at which spans begin or end; kept only for the tree.
    edges: Run,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
    postings: Run,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    /// Key 0 is the one of all packets, then the classes', then the prefixes'.
    keys: Box<[Key]>,
    /// Key by class, or none.
    by_class: Box<[u32]>,
    prefixes: Prefixes,
    /// Key of prefix 0.
    first_prefix: u32,
    spans: Box<[Span]>,
    trees: Box<[Run]>,
    edges: Box<[u32]>,
    postings: Box<[Posting]>,
}

/// A rule under a key: number, first and last point, exact.
type Item = (u32, u32, u32, bool);

impl Index {
    /// `classes[c]` holds the selectors that cover class c; class 0 has none.
    pub(super) fn build(entries: &[Entry], ingress: bool, classes: &[Box<[u32]>]) -> Index {
        let mut covers: HashMap<u32, Vec<u32>> = HashMap::new();
        for (class, selectors) in classes.iter().enumerate() {
            for s in selectors {
                covers.entry(*s).or_default().push(class as u32);
            }
        }
        let selected =
            |e: &Entry| far(e, ingress).into_iter().flatten().filter_map(indexed_by).collect::<Vec<_>>();
        let spread: usize =
            entries.iter().flat_map(selected).map(|s| covers.get(&s).map_or(0, Vec::len)).sum();
        let most = if spread <= SPREAD * entries.len() + (1 << 16) { usize::MAX } else { BROAD };

        let mut nets: HashMap<IpNet, u32> = HashMap::new();
        let (mut all, mut of_class, mut of_net) = (Vec::new(), vec![Vec::new(); classes.len()], Vec::new());
        for (number, entry) in (0u32..).zip(entries) {
            let near = entry.rule.as_ref().is_some_and(|r| {
                r.v6.is_some() || if ingress { r.destination.is_some() } else { r.source.is_some() }
            });
            let spans = spans_of(entry, !near);
            let push = |list: &mut Vec<Item>, exact: bool| {
                list.extend(
                    spans.iter().map(|(from, to, span_exact)| (number, *from, *to, exact && *span_exact)),
                );
            };
            let Some(peers) = far(entry, ingress) else {
                push(&mut all, true);
                continue;
            };
            let broad = |p: &CompiledPeer| match (&p.nets, p.selector) {
                (Some(_), _) => false,
                (None, Some(s)) => covers.get(&s).is_some_and(|c| c.len() > most),
                (None, None) => true,
            };
            if peers.iter().any(broad) {
                push(&mut all, false);
                continue;
            }
            for peer in peers {
                let only = peer.not_nets.is_empty() && peer.not_selector.is_none();
                match (&peer.nets, peer.selector) {
                    (Some(list), selector) => {
                        for net in list {
                            let next = nets.len() as u32;
                            let key = *nets.entry(*net).or_insert(next) as usize;
                            if key == of_net.len() {
                                of_net.push(Vec::new());
                            }
                            push(&mut of_net[key], only && selector.is_none());
                        }
                    }
                    (None, Some(s)) => {
                        for class in covers.get(&s).into_iter().flatten() {
                            push(&mut of_class[*class as usize], only);
                        }
                    }
                    (None, None) => {}
                }
            }
        }

        let mut ordered = vec![IpNet::default(); nets.len()];
        nets.iter().for_each(|(net, i)| ordered[*i as usize] = *net);
        let mut builder = Builder {
            entries,
            keys: Vec::new(),
            spans: Vec::new(),
            trees: Vec::new(),
            edges: Vec::new(),
            postings: Vec::new(),
        };
        builder.key(&all);
        let by_class = of_class
            .into_iter()
            .map(|items| if items.is_empty() { NONE } else { builder.key(&items) })
            .collect();
        let first_prefix = builder.keys.len() as u32;
        of_net.into_iter().for_each(|items| {
            builder.key(&items);
        });
        Index {
            keys: builder.keys.into(),
            by_class,
            prefixes: Prefixes::build(&ordered),
            first_prefix,
            spans: builder.spans.into(),
            trees: builder.trees.into(),
            edges: builder.edges.into(),
            postings: builder.postings.into(),
        }
    }

    /// Do classes matter?
    pub(crate) fn by_class(&self) -> bool {
        self.first_prefix > 1
    }

    /// Gives every list in which the packet's rules lie to `scan`.
    #[inline]
    pub(crate) fn lists(&self, far: u128, class: u32, at: u32, mut scan: impl FnMut(&[Posting])) {
        let mut look = |key: u32| {
            let Some(key) = self.keys.get(key as usize) else { return };
            if key.wide.len > 0 {
                scan(key.wide.of(&self.postings));
            }
            let spans = key.spans.of(&self.spans);
            if let Some(span) = spans.get(spans.partition_point(|s| s.to < at)).filter(|s| s.from <= at) {
                scan(span.postings.of(&self.postings));
            }
            if key.tree.len > 0 {
                let begun = key.edges.of(&self.edges).partition_point(|e| *e <= at);
                // Interval i lies between edge i and edge i + 1; before the first edge there is none.
                let mut node = if begun == 0 { 0 } else { begun - 1 + key.edges.len as usize };
                while node > 0 {
                    scan(key.tree.of(&self.trees)[node].of(&self.postings));
                    node /= 2;
                }
            }
        };
        look(0);
        look(self.by_class.get(class as usize).copied().unwrap_or(NONE));
        if !self.prefixes.is_empty() {
            self.prefixes.containing(far).for_each(|p| look(self.first_prefix + p));
        }
    }
}

/// What a rule asks of the far end. A tier's end asks nothing.
fn far(entry: &Entry, ingress: bool) -> Option<&[CompiledPeer]> {
    let rule = entry.rule.as_ref()?;
    if ingress { rule.source.as_deref() } else { rule.destination.as_deref() }
}

/// The selector whose classes a peer is indexed by.
pub(crate) fn indexed_by(peer: &CompiledPeer) -> Option<u32> {
    peer.selector.filter(|_| peer.nets.is_none())
}

/// The points a rule can match, and whether its other conditions are implied there.
fn spans_of(entry: &Entry, exact: bool) -> Vec<(u32, u32, bool)> {
    let Some(l4) = entry.rule.as_ref().and_then(|r| r.l4.as_ref()) else {
        return vec![(0, POINTS - 1, exact)];
    };
    let mut spans = Vec::new();
    for m in l4 {
        let exact = exact && m.is_span();
        match (&m.dports, m.proto) {
            (None, None) => spans.push((0, POINTS - 1, exact)),
            (None, Some(proto)) => spans.push(whole(proto, exact)),
            (Some(ports), Some(proto)) if WITH_PORTS.contains(&proto) => {
                of_ports(&mut spans, ports, proto, exact)
            }
            (Some(_), Some(_)) => {}
            (Some(ports), None) => {
                WITH_PORTS.iter().for_each(|proto| of_ports(&mut spans, ports, *proto, exact));
            }
        }
    }
    spans
}

fn whole(proto: u8, exact: bool) -> (u32, u32, bool) {
    (u32::from(proto) << 16, u32::from(proto) << 16 | 0xffff, exact)
}

fn of_ports(spans: &mut Vec<(u32, u32, bool)>, ports: &[Port], proto: u8, exact: bool) {
    let base = u32::from(proto) << 16;
    spans.extend(ports.iter().filter_map(|port| match *port {
        Port::Range(from, to) if from > to => None,
        Port::Range(from, to) => Some((base | u32::from(from), base | u32::from(to), exact)),
        Port::Named(_) => Some(whole(proto, false)),
    }));
}
