//! Fragments: which of them pass, after the decision about the flow of their first.
//!
//! A later fragment has no ports. What its datagram's first fragment said is remembered beside the decision about that,
//! so that a change of the tables between the two is noticed: what was let through once is no licence for the rest.

use encap::{Frag, Parsed};
use policy::conntrack::{Epoch, Opener, Step, Tick, Transport, Tuple};
use policy::frag::{Fate, FragKey, Piece};
use policy::{FlowKey, PEER_BIT};

use super::Core;
use super::track::{Remembered, asked};
use crate::conntrack;
use crate::counters::DropReason;
use crate::judge::{self, Ends};
use crate::pipeline::{Action, Ingress, flow_key};
use crate::snapshot::Snapshot;

/// What a datagram's first fragment said, and why it did not pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    sport: u16,
    dport: u16,
    proto: u8,
    dropped: Option<DropReason>,
}

impl PartialEq for First {
    /// The reason does not count: a doubled fragment may be refused for another.
    fn eq(&self, other: &First) -> bool {
        (self.sport, self.dport, self.proto, self.dropped.is_some())
            == (other.sport, other.dport, other.proto, other.dropped.is_some())
    }
}

impl Core {
    /// A fragment shares the fate of its datagram's first, and no two that pass overlap.
    pub(super) fn fragment(
        &mut self,
        snap: &Snapshot,
        from: Ingress<'_>,
        p: &Parsed,
        r: &Remembered,
        now: Tick,
    ) -> Action {
        // IPv6 datagrams are told apart without their protocol (RFC 8200, section 4.5).
        let proto = if p.v6 { 0 } else { p.proto };
        // The pods of a peer are apart from each other, as this node's are.
        let ingress = match (from, conntrack::remote(p.src)) {
            (Ingress::Peer(_), Opener::Peer(pod)) => PEER_BIT | pod,
            _ => from.id(),
        };
        let key = FragKey { src: p.src, dst: p.dst, proto, id: p.frag_id, ingress };
        let piece = Piece { offset: u32::from(p.frag_offset), len: u32::from(p.frag_len), more: p.frag_more };
        let own = match r.action {
            Action::Drop(reason) => Some(reason),
            _ => None,
        };
        let (fate, unknown) = if p.frag == Frag::First {
            let first = First { sport: p.sport, dport: p.dport, proto: p.proto, dropped: own };
            (self.frags.first(&key, piece, first, now), DropReason::FragmentLimit)
        } else {
            (self.frags.later(&key, piece, now), DropReason::FragmentUnmatched)
        };
        match fate {
            Fate::Follows(First { dropped: Some(reason), .. }) => Action::Drop(reason),
            Fate::Follows(first) if r.guarded && own.is_none() && p.frag == Frag::Later => {
                self.later_denied(snap, from, p, r.action, first, now).map_or(r.action, Action::Drop)
            }
            Fate::Follows(_) => r.action,
            Fate::Poisoned => Action::Drop(DropReason::FragmentOverlap),
            Fate::Tiny => Action::Drop(DropReason::TinyFragment),
            Fate::Unknown | Fate::NoRoom if r.guarded => Action::Drop(own.unwrap_or(unknown)),
            Fate::Unknown | Fate::NoRoom => r.action,
        }
    }

    /// Why a later fragment does not pass, though its first did: the tables may have changed since.
    fn later_denied(
        &self,
        snap: &Snapshot,
        from: Ingress<'_>,
        p: &Parsed,
        action: Action,
        first: First,
        now: Tick,
    ) -> Option<DropReason> {
        let First { sport, dport, proto, .. } = first;
        let key = FlowKey { sport, dport, proto, frag: 0, ..flow_key(from, p) };
        let ends = Ends::of(from, action);
        let Some(found) = self.conntrack.lookup(&Tuple::from(&key), now) else {
            return judge::judge(snap, ends, &asked(&key)).denied();
        };
        if Epoch::of(snap.epoch).newer(found.epoch) {
            return self.judge_again(snap, ends, &key, found, now);
        }
        let step = self.conntrack.packet(found.slot, found.direction, Transport::Other, now);
        (step == Step::Revoked).then_some(DropReason::PolicyRevoked)
    }
}
