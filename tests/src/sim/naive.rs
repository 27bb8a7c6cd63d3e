//! A node's decisions without a cache, a table or an index: policy by its oracle, connections and fragments in lists.
//!
//! It shares with the data path what reads a packet and routes it (`encap::parse`, `pipeline`), and nothing of what
//! decides about connections. Owned by the test that holds the data path against it.

pub mod flows;

use std::collections::BTreeMap;

use encap::{Frag, Parsed};
use policy::model::{Direction, Endpoint, Packet, World};
use policy::naive::decide;
use vswitch::counters::DropReason;
use vswitch::fib::NextHop;
use vswitch::pipeline::{self, Action, Admit, Ingress, Silent};
use vswitch::snapshot::{PortKind, Snapshot};

use super::guard::endpoint_of;
use flows::{Flow, Flows, Step, Word, first};

/// Datagrams in fragments of one sender.
const DATAGRAMS: usize = 64;
/// Sixteenths of a second that a datagram may take.
const PATIENCE: u64 = 30 * 16;

/// What should become of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes to this port.
    Port(u32),
    /// It goes to this peer.
    Peer(u32),
    /// It is the gateway's to answer.
    Gateway,
    /// It is dropped.
    Drop(DropReason),
}

/// The ports a packet comes from and goes to.
#[derive(Clone, Copy)]
struct Ends {
    from: Option<u32>,
    to: Option<u32>,
}

/// What is known of a datagram from its first fragment.
#[derive(Clone, Copy)]
struct First {
    packet: Packet,
    dropped: Option<DropReason>,
}

impl First {
    /// Does another first fragment of the datagram say the same?
    fn agrees(&self, other: &First) -> bool {
        self.packet == other.packet && self.dropped.is_some() == other.dropped.is_some()
    }
}

struct Datagram {
    key: (u128, u128, u8, u32),
    first: Option<First>,
    since: u64,
    /// Start, end, last.
    pieces: Vec<(u32, u32, bool)>,
}

/// The node.
#[derive(Default)]
pub struct NaiveNode {
    flows: Flows,
    /// By where they came in, and for those from a peer, by sender.
    datagrams: BTreeMap<(u32, u128), Vec<Datagram>>,
}

/// A packet as policy is asked about it.
fn asked(p: &Parsed) -> Packet {
    Packet { src: p.src, dst: p.dst, proto: p.proto, sport: p.sport, dport: p.dport }
}

impl NaiveNode {
    /// The verdict about a frame at `now_ms`, with `world` in force beside the routes of `snap`.
    ///
    /// # Panics
    /// When `snap` routes to a port that it does not have.
    pub fn verdict(
        &mut self,
        snap: &Snapshot,
        world: &World,
        from: Ingress<'_>,
        frame: &[u8],
        now_ms: u64,
    ) -> Verdict {
        let now = now_ms * 16 / 1000;
        let p = match encap::parse::parse(frame, frame.len(), false) {
            Ok(p) => p,
            Err(e) => return Verdict::Drop(pipeline::parse_drop(e)),
        };
        match from {
            Ingress::Port(port) => match pipeline::admit(port, &p) {
                Admit::Route => {}
                Admit::Arp | Admit::Nd => return Verdict::Gateway,
                Admit::Drop(reason) => return Verdict::Drop(reason),
            },
            Ingress::Peer(_) if p.vlan => return Verdict::Drop(DropReason::Vlan),
            Ingress::Peer(_) if !p.is_ip() => return Verdict::Drop(DropReason::UnknownEtherType),
            Ingress::Peer(_) => {}
        }
        let action = pipeline::resolve(snap, from, &p, &mut Silent);
        let dropped = self.dropped(snap, world, (from, action), &p, frame, now);
        let (to, mtu) = match (dropped, action) {
            (Some(reason), _) | (None, Action::Drop(reason)) => return Verdict::Drop(reason),
            (None, Action::Gateway) if matches!(from, Ingress::Peer(_)) => {
                return Verdict::Drop(DropReason::NotLocal);
            }
            (None, Action::Gateway) => return Verdict::Gateway,
            (None, Action::Port(id)) => {
                (Verdict::Port(id), snap.port(id).expect("a port routed to is there").mtu)
            }
            (None, Action::Peer(i)) => (Verdict::Peer(i), snap.peers[i as usize].mtu),
        };
        match () {
            () if p.ttl <= 1 => Verdict::Drop(DropReason::TtlExceeded),
            () if p.ip_len > u32::from(mtu) => Verdict::Drop(DropReason::TooBig),
            () => to,
        }
    }

    fn dropped(
        &mut self,
        snap: &Snapshot,
        world: &World,
        (from, action): (Ingress<'_>, Action),
        p: &Parsed,
        frame: &[u8],
        now: u64,
    ) -> Option<DropReason> {
        let policed = matches!(action, Action::Port(_) | Action::Peer(_));
        let to = if let Action::Port(id) = action { Some(id) } else { None };
        let port = if let Ingress::Port(port) = from { Some(port.id) } else { None };
        let judge = Judge { snap, world, ends: Ends { from: port, to } };
        if p.is_icmp_error() {
            return if policed { self.error(&judge, p, frame, now) } else { None };
        }
        let own = match action {
            Action::Drop(reason) => Some(reason),
            _ if policed && p.frag != Frag::Later => self.connection(&judge, &asked(p), Word::of(p), now),
            _ => None,
        };
        if p.frag == Frag::None { own } else { self.fragment(&judge, from.id(), p, own, now) }
    }

    fn connection(&mut self, judge: &Judge<'_>, packet: &Packet, word: Word, now: u64) -> Option<DropReason> {
        let guarded = judge.guarded();
        let unless_open = |reason| guarded.then_some(reason);
        if let Some((flow, original)) = self.flows.find(packet, now) {
            let newer = judge.snap.epoch > flow.epoch;
            match flow.step(original, word, now) {
                Step::Pass if guarded && newer => return judge.again(flow, original, now),
                Step::Pass => return None,
                Step::Invalid if flow.state != policy::conntrack::State::Revoked => {
                    return unless_open(DropReason::OutOfState);
                }
                Step::Invalid if !newer => return Some(DropReason::PolicyRevoked),
                Step::Invalid | Step::Reopen => {}
            }
        }
        let Some(state) = first(packet, word, false) else { return unless_open(DropReason::OutOfState) };
        let denied = judge.denied(packet);
        if denied.is_none() {
            self.flows.open(packet, state, judge.snap.epoch, now);
        }
        denied
    }

    fn error(&mut self, judge: &Judge<'_>, p: &Parsed, frame: &[u8], now: u64) -> Option<DropReason> {
        let floor = if p.v6 { 1280 } else { 552 };
        let unrelated = Some(DropReason::IcmpUnrelated);
        let Some(q) = encap::quoted(frame, p).filter(|q| q.mtu.is_none_or(|mtu| mtu >= floor)) else {
            return unrelated;
        };
        let quoted = Packet { src: q.src, dst: q.dst, proto: q.proto, sport: q.sport, dport: q.dport };
        let Some((flow, original)) = self.flows.find(&quoted, now).filter(|_| q.src == p.dst) else {
            return unrelated;
        };
        if flow.state == policy::conntrack::State::Revoked || !(original || flow.two_way()) {
            return unrelated;
        }
        let to = match judge.snap.fib.lookup(q.dst) {
            Some(NextHop::Port(id)) => Some(id),
            Some(NextHop::Host) => judge.snap.host,
            _ => None,
        };
        let judge = Judge { ends: Ends { from: judge.ends.to, to }, ..*judge };
        if judge.guarded() && judge.snap.epoch > flow.epoch { judge.again(flow, original, now) } else { None }
    }

    fn fragment(
        &mut self,
        judge: &Judge<'_>,
        ingress: u32,
        p: &Parsed,
        own: Option<DropReason>,
        now: u64,
    ) -> Option<DropReason> {
        let key = (p.src, p.dst, if p.v6 { 0 } else { p.proto }, p.frag_id);
        let sender = if ingress & policy::PEER_BIT == 0 { 0 } else { p.src };
        let lane = self.datagrams.entry((ingress, sender)).or_default();
        let over = lane.iter().take_while(|d| now - d.since > PATIENCE).count();
        lane.drain(..over);
        let is_first = p.frag == Frag::First;
        let first = First { packet: asked(p), dropped: own };
        if is_first && !lane.iter().any(|d| d.key == key) {
            if lane.len() == DATAGRAMS {
                lane.remove(0);
            }
            lane.push(Datagram { key, first: Some(first), since: now, pieces: Vec::new() });
        }
        let Some(at) = lane.iter().position(|d| d.key == key) else {
            return own.or(judge.guarded().then_some(DropReason::FragmentUnmatched));
        };
        let datagram = &mut lane[at];
        let (start, end) = (u32::from(p.frag_offset), u32::from(p.frag_offset) + u32::from(p.frag_len));
        if (is_first && !datagram.first.is_some_and(|seen| seen.agrees(&first)))
            || !datagram.takes(start, end, !p.frag_more)
        {
            datagram.first = None;
        }
        let Some(first) = datagram.first else { return Some(DropReason::FragmentOverlap) };
        if datagram.is_complete() {
            lane.remove(at);
        }
        if first.dropped.is_some() || is_first || !judge.guarded() {
            return first.dropped.or(own);
        }
        // The routes may say otherwise by now; else the first fragment's connection decides.
        own.or_else(|| self.rest(judge, &first.packet, now))
    }

    /// A later fragment of a connection's datagram.
    fn rest(&mut self, judge: &Judge<'_>, packet: &Packet, now: u64) -> Option<DropReason> {
        let Some((flow, original)) = self.flows.find(packet, now) else { return judge.denied(packet) };
        if judge.snap.epoch > flow.epoch {
            return judge.again(flow, original, now);
        }
        let revoked = flow.state == policy::conntrack::State::Revoked;
        flow.step(original, Word::None, now);
        revoked.then_some(DropReason::PolicyRevoked)
    }

    /// Connections, expired ones included.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}

impl Datagram {
    /// Notes a piece; false when it contradicts what was there.
    fn takes(&mut self, start: u32, end: u32, last: bool) -> bool {
        if self.pieces.contains(&(start, end, last)) {
            return true;
        }
        let total = self.pieces.iter().find(|p| p.2).map(|p| p.1);
        let fits = self.pieces.iter().all(|p| end <= p.0 || p.1 <= start)
            && total.is_none_or(|total| !last && end < total)
            && (!last || self.pieces.iter().all(|p| p.1 <= end))
            && self.pieces.len() < policy::frag::RANGES;
        if fits {
            self.pieces.push((start, end, last));
        }
        fits
    }

    fn is_complete(&self) -> bool {
        let bytes: u32 = self.pieces.iter().map(|p| p.1 - p.0).sum();
        self.pieces.iter().any(|p| p.2 && p.1 == bytes)
    }
}

/// Who is asked.
#[derive(Clone, Copy)]
struct Judge<'a> {
    snap: &'a Snapshot,
    world: &'a World,
    ends: Ends,
}

impl<'a> Judge<'a> {
    fn endpoint(&self, port: Option<u32>) -> Option<&'a Endpoint> {
        let port = self.snap.port(port?)?;
        let id = endpoint_of(&port.name).filter(|_| port.kind == PortKind::Pod)?;
        self.world.endpoints.iter().find(|e| e.id == id).map(|e| &**e)
    }

    /// Does any policy apply to one of the ends?
    fn guarded(&self) -> bool {
        let ends = [self.ends.from, self.ends.to].into_iter().filter_map(|port| self.endpoint(port));
        ends.into_iter().any(|e| {
            let mut policies = self.world.policies.iter().filter(|p| !p.staged);
            policies.any(|p| p.subject.matches(&e.labels) && (p.ingress.is_some() || p.egress.is_some()))
        })
    }

    /// Why a packet may not open a connection.
    fn denied(&self, packet: &Packet) -> Option<DropReason> {
        let asks = |port, direction| {
            self.endpoint(port).is_some_and(|e| !decide(self.world, e, direction, packet, false).allow)
        };
        if asks(self.ends.from, Direction::Egress) {
            Some(DropReason::PolicyEgress)
        } else if asks(self.ends.to, Direction::Ingress) {
            Some(DropReason::PolicyIngress)
        } else {
            None
        }
    }

    /// Judges a connection once more, by its first packet.
    fn again(&self, flow: &mut Flow, original: bool, now: u64) -> Option<DropReason> {
        let Ends { from, to } = self.ends;
        let ends = if original { self.ends } else { Ends { from: to, to: from } };
        let denied = Judge { ends, ..*self }.denied(&flow.opened);
        match denied {
            Some(_) => flow.revoke(self.snap.epoch, now),
            // A revoked one stays so until somebody opens it again.
            None if flow.state == policy::conntrack::State::Revoked => {}
            None => flow.epoch = self.snap.epoch,
        }
        denied
    }
}
