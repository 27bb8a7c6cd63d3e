//! The decision about a packet: remembered, or made now from route, policy and connection state.
//!
//! What is remembered is private to the worker and belongs to one epoch. It holds the flow's slot in the node's
//! connection table, so a packet of a known flow costs one look at its entry. Policy is asked for a flow's first packet
//! and once more after each change of the tables; replies and related ICMP errors of an allowed flow pass.
//!
//! A flow that no policy touches is tracked all the same, so that a policy that appears later finds the connections
//! under way; but nothing is dropped for its state. ICMP errors are never remembered: what decides about them, the packet
//! they quote, is not in the key.

use encap::{Frag, Frame, Parsed};
use policy::conntrack::{
    Direction, Epoch, Found, Near, OpenError, Opener, Opening, Rules, Slot, Step, Tick, Tracked, Transport,
};
use policy::conntrack::{MTU_FLOOR_V4, MTU_FLOOR_V6, Tuple};
use policy::model::{self, Packet as Asked};
use policy::{By, Decision, FlowKey, PEER_BIT};

use super::{Core, Sight};
use crate::conntrack;
use crate::counters::DropReason;
use crate::fib::NextHop;
use crate::judge::{self, Ends, Judgement};
use crate::pipeline::{self, Action, Ingress, Silent, proto};
use crate::snapshot::{Port, Snapshot};

/// What a worker remembers about a flow.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    /// What is done with its packets.
    pub action: Action,
    /// Its entry in the connection table, and which way its packets go there; none = it is not tracked.
    pub track: Option<(Slot, Direction)>,
    /// Policy applies at one of its ends.
    pub guarded: bool,
}

/// A decision, and whether it may be remembered.
struct Verdict {
    remembered: Remembered,
    lasting: bool,
}

impl Core {
    /// The action for a packet whose headers are in `head`. `count` packets of the wire, together `len` bytes, are in it.
    pub(super) fn decide(
        &mut self,
        snap: &Snapshot,
        from: Ingress<'_>,
        Sight { p, key, hash, near, .. }: &Sight,
        head: &[u8],
        (len, count): (usize, u64),
        now_ms: u64,
    ) -> Action {
        let now = self.tick(now_ms);
        if p.is_icmp_error() {
            return self.icmp_error(snap, from, p, head, now);
        }
        let transport = transport(p);
        let remembered = match self.flows.get(key, *hash, snap.epoch) {
            Some(flow) => match step(&self.conntrack, key, &flow.action, transport, now) {
                Some(action) => {
                    self.counters.flow_hits.add(count);
                    flow.packets += count;
                    flow.bytes += len as u64;
                    flow.last_ms = now_ms;
                    Some(Remembered { action, ..flow.action })
                }
                None => None,
            },
            None => None,
        };
        let r = match remembered {
            Some(r) => r,
            None => {
                self.counters.flow_misses.add(count);
                let verdict = self.verdict(snap, from, p, (key, *near), transport, now);
                if verdict.lasting
                    && let Some(flow) = self.flows.put(*key, *hash, snap.epoch, verdict.remembered, now_ms)
                {
                    flow.packets += count;
                    flow.bytes += len as u64;
                    flow.last_ms = now_ms;
                }
                verdict.remembered
            }
        };
        if p.frag == Frag::None { r.action } else { self.fragment(snap, from, p, &r, now) }
    }

    /// This turn's time as the connection table counts it.
    fn tick(&self, now_ms: u64) -> Tick {
        Tick::at(self.boot + std::time::Duration::from_millis(now_ms))
    }

    /// Decides about a flow's first packet, or about a known flow once more.
    fn verdict(
        &mut self,
        snap: &Snapshot,
        from: Ingress<'_>,
        p: &Parsed,
        (key, near): (&FlowKey, Option<Near>),
        transport: Transport,
        now: Tick,
    ) -> Verdict {
        let action = pipeline::resolve(snap, from, p, &mut Silent);
        let ends = Ends::of(from, action);
        let guarded = ends.guarded(snap);
        let lasting =
            |action, track| Verdict { remembered: Remembered { action, track, guarded }, lasting: true };
        let passing =
            |action| Verdict { remembered: Remembered { action, track: None, guarded }, lasting: false };
        if !matches!(action, Action::Port(_) | Action::Peer(_)) || p.frag == Frag::Later {
            return lasting(action, None);
        }
        // Without policy nothing is dropped for its state.
        let unless_open = |reason| if guarded { Action::Drop(reason) } else { action };
        let (tuple, epoch) = (Tuple::from(key), Epoch::of(snap.epoch));
        let near = near.unwrap_or_else(|| self.conntrack.near(&tuple));
        match self.conntrack.track_near(near, &tuple, transport, epoch, now) {
            Tracked::Known(found) => {
                if guarded
                    && epoch.newer(found.epoch)
                    && let Some(reason) = self.judge_again(snap, ends, key, found, now)
                {
                    // Not for as long as the tables last: once the flow is gone, the packet may open one of its own.
                    return passing(Action::Drop(reason));
                }
                lasting(action, Some((found.slot, found.direction)))
            }
            Tracked::New => {
                let mut judgement = Judgement::default();
                if guarded || ends.watched(snap) {
                    let packet = asked(key);
                    judgement = judge::judge(snap, ends, &packet);
                    self.note(snap, ends, key, &packet, &judgement);
                }
                if let Some(reason) = judgement.denied() {
                    return lasting(Action::Drop(reason), None);
                }
                let opening = Opening { opener: opener(from, p.src), epoch, rules: rules(&judgement) };
                match self.conntrack.open_flow(&tuple, transport, &opening, now) {
                    Ok(opened) => lasting(action, Some((opened.found.slot, opened.found.direction))),
                    Err(OpenError::Invalid) => passing(unless_open(DropReason::OutOfState)),
                    Err(OpenError::Revoked) => passing(Action::Drop(DropReason::PolicyRevoked)),
                    Err(OpenError::HalfOpen | OpenError::Total) => {
                        passing(unless_open(DropReason::FlowQuota))
                    }
                    Err(OpenError::Full | OpenError::Contended | OpenError::UnknownPort) => {
                        passing(unless_open(DropReason::FlowTableFull))
                    }
                }
            }
            Tracked::Invalid => passing(unless_open(DropReason::OutOfState)),
            Tracked::Revoked => passing(Action::Drop(DropReason::PolicyRevoked)),
        }
    }

    /// Judges a known flow by tables that are newer than its last verdict; `key` is a packet of it from `ends.from` to
    /// `ends.to`. Why the flow must end; none = it goes on.
    pub(super) fn judge_again(
        &self,
        snap: &Snapshot,
        ends: Ends,
        key: &FlowKey,
        found: Found,
        now: Tick,
    ) -> Option<DropReason> {
        let (ends, packet) = match found.direction {
            Direction::Original => (ends, asked(key)),
            Direction::Reply => (ends.reversed(), asked(&opened_by(key))),
        };
        let (judgement, epoch) = (judge::judge(snap, ends, &packet), Epoch::of(snap.epoch));
        let denied = judgement.denied();
        if denied.is_some() {
            self.conntrack.revoke(found.slot, epoch, now);
        } else {
            self.conntrack.judged(found.slot, epoch, rules(&judgement));
        }
        denied
    }

    /// Counts the rules that decided about a new flow, in force and staged, and tells what Log rules want told.
    #[cold]
    fn note(&mut self, snap: &Snapshot, ends: Ends, key: &FlowKey, packet: &Asked, judgement: &Judgement) {
        let sides = [
            (ends.from, model::Direction::Egress, judgement.egress),
            (ends.to, model::Direction::Ingress, judgement.ingress),
        ];
        for (port, direction, decision) in sides {
            let (Some(port), Some(decision)) = (port, decision) else { continue };
            let Some((guard, forwarded)) = judge::guard(snap, port, direction, packet) else { continue };
            if let Some(table) = guard.table(direction) {
                hit(table, &decision);
            }
            if !decision.logs.as_slice().is_empty() {
                self.events.log(snap.epoch, port, direction, key, &decision);
            }
            if let (Some(table), Some(staged)) =
                (guard.staged(direction), guard.decide_staged(&snap.policy, direction, packet, forwarded))
            {
                hit(table, &staged);
            }
        }
    }

    /// An ICMP error passes when it quotes a live flow of its receiver.
    fn icmp_error(&self, snap: &Snapshot, from: Ingress<'_>, p: &Parsed, head: &[u8], now: Tick) -> Action {
        let action = pipeline::resolve(snap, from, p, &mut Silent);
        if !matches!(action, Action::Port(_) | Action::Peer(_)) {
            return action;
        }
        let floor = if p.v6 { MTU_FLOOR_V6 } else { MTU_FLOOR_V4 };
        let Some(q) = encap::quoted(head, p).filter(|q| q.mtu.is_none_or(|mtu| mtu >= floor)) else {
            return Action::Drop(DropReason::IcmpUnrelated);
        };
        let key = FlowKey {
            src: q.src,
            dst: q.dst,
            sport: q.sport,
            dport: q.dport,
            proto: q.proto,
            ..FlowKey::default()
        };
        let Some(found) = self.conntrack.related(&Tuple::from(&key), p.dst, now) else {
            return Action::Drop(DropReason::IcmpUnrelated);
        };
        // The quoted packet went the other way: from whom the error goes to, to whom it was addressed.
        let ends = Ends { from: Ends::of(from, action).to, to: local_end(snap, &key) };
        if ends.guarded(snap) && Epoch::of(snap.epoch).newer(found.epoch) {
            return self.judge_again(snap, ends, &key, found, now).map_or(action, Action::Drop);
        }
        action
    }
}

/// The step of a packet of a remembered flow; none = it must be decided anew.
#[inline]
fn step(
    table: &conntrack::Conntrack,
    key: &FlowKey,
    r: &Remembered,
    transport: Transport,
    now: Tick,
) -> Option<Action> {
    let Some((slot, direction)) = r.track else {
        // Policy was asked because there was no flow. There may be one by now: the other end's, which this answers.
        let denied = matches!(r.action, Action::Drop(DropReason::PolicyEgress | DropReason::PolicyIngress));
        return (!denied || table.lookup(&Tuple::from(key), now).is_none()).then_some(r.action);
    };
    match table.packet(slot, direction, transport, now) {
        Step::Pass => Some(r.action),
        Step::Invalid if r.guarded => Some(Action::Drop(DropReason::OutOfState)),
        Step::Invalid => Some(r.action),
        Step::Reopen | Step::Revoked | Step::Gone => None,
    }
}

/// The port of this node that a flow's packets leave by; none = they leave through a tunnel, or not at all.
fn local_end(snap: &Snapshot, flow: &FlowKey) -> Option<u32> {
    match pipeline::next_hop(snap, flow)? {
        NextHop::Port(id) => Some(id),
        NextHop::Host => snap.host,
        NextHop::Peer(i) => {
            snap.host.filter(|_| snap.peers.get(i as usize).is_some_and(|peer| peer.tunnel.is_none()))
        }
        NextHop::Group(_) | NextHop::Gateway | NextHop::Blackhole => None,
    }
}

fn hit(table: &policy::Table, decision: &Decision) {
    if let By::Rule(n) | By::TierEnd(n) = decision.by {
        table.hit(n);
    }
    decision.logs.as_slice().iter().for_each(|n| table.hit(*n));
}

fn rules(judgement: &Judgement) -> Rules {
    let number = |d: &Option<Decision>| match d.map(|d| d.by) {
        Some(By::Rule(n) | By::TierEnd(n)) => n,
        _ => u32::MAX,
    };
    Rules { egress: number(&judgement.egress), ingress: number(&judgement.ingress) }
}

fn opener(from: Ingress<'_>, src: u128) -> Opener {
    match from {
        Ingress::Port(port) => Opener::Port(port.id),
        Ingress::Peer(_) => conntrack::remote(src),
    }
}

/// The key of a frame that was dropped; only where it came in when its headers cannot be read.
#[cold]
pub(super) fn key_of(port: &Port, frame: &Frame) -> FlowKey {
    let from = Ingress::Port(port);
    match encap::parse::parse(frame.data(), frame.len(), frame.vnet.is_gso()) {
        Ok(p) => pipeline::flow_key(from, &p),
        Err(_) => FlowKey { ingress: from.id(), ..FlowKey::default() },
    }
}

/// A packet as policy is asked about it.
pub(crate) fn asked(key: &FlowKey) -> Asked {
    Asked { src: key.src, dst: key.dst, proto: key.proto, sport: key.sport, dport: key.dport }
}

/// A parsed packet, as policy is asked about it.
pub(crate) fn asked_of(p: &Parsed) -> Asked {
    Asked { src: p.src, dst: p.dst, proto: p.proto, sport: p.sport, dport: p.dport }
}

/// The first packet of the flow that the packet with this key answers.
pub(crate) fn opened_by(key: &FlowKey) -> FlowKey {
    let reply = FlowKey { ingress: PEER_BIT, ..key.reply(PEER_BIT) };
    let request = match (key.proto, key.sport >> 8) {
        (proto::ICMP, 0) => 8 << 8,
        (proto::ICMPV6, 129) => 128 << 8,
        (proto::ICMP | proto::ICMPV6, _) => key.sport,
        _ => return reply,
    };
    FlowKey { sport: request, dport: key.dport, ..reply }
}

fn transport(p: &Parsed) -> Transport {
    match p.proto {
        proto::TCP if p.frag != Frag::Later => Transport::Tcp { flags: p.tcp_flags },
        proto::SCTP if p.frag != Frag::Later => Transport::Sctp { chunk: p.sctp_chunk },
        _ => Transport::Other,
    }
}
