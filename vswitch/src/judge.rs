//! What policy says about a packet at both of its ends on this node.
//!
//! Pure: tables of one snapshot in, two decisions out. The data path asks for a flow's first packet and after each change
//! of the tables; `vsctl trace` asks the same functions. A packet passes the egress policy of the port it comes from and
//! the ingress policy of the port it goes to; the end on another node is that node's affair.

use policy::model::{Direction, Packet};
use policy::{Decision, EndpointPolicy};

use crate::counters::DropReason;
use crate::pipeline::{Action, Ingress, proto};
use crate::snapshot::{PortKind, Snapshot};

/// Ports of the node itself that no policy may close (Calico's failsafes): (protocol, port).
const FAILSAFE_IN: [(u8, u16); 9] = [
    (proto::TCP, 22),
    (proto::UDP, 68),
    (proto::TCP, 179),
    (proto::TCP, 2379),
    (proto::TCP, 2380),
    (proto::TCP, 5473),
    (proto::TCP, 6443),
    (proto::TCP, 6666),
    (proto::TCP, 6667),
];
/// Ports elsewhere that the node itself may always reach.
const FAILSAFE_OUT: [(u8, u16); 9] = [
    (proto::UDP, 53),
    (proto::UDP, 67),
    (proto::TCP, 179),
    (proto::TCP, 2379),
    (proto::TCP, 2380),
    (proto::TCP, 5473),
    (proto::TCP, 6443),
    (proto::TCP, 6666),
    (proto::TCP, 6667),
];

/// The ports of this node that a packet comes from and goes to; none = it enters or leaves through a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// The sender's port.
    pub from: Option<u32>,
    /// The receiver's port.
    pub to: Option<u32>,
}

impl Ends {
    /// Those of a packet from `from` with which `action` is done.
    #[inline]
    pub fn of(from: Ingress<'_>, action: Action) -> Ends {
        let from = match from {
            Ingress::Port(port) => Some(port.id),
            Ingress::Peer(_) => None,
        };
        let to = match action {
            Action::Port(id) => Some(id),
            Action::Peer(_) | Action::Gateway | Action::Drop(_) => None,
        };
        Ends { from, to }
    }

    /// Those of a packet the other way.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Ends {
        Ends { from: self.to, to: self.from }
    }

    /// Does any policy apply at either end, in either direction? If not, nobody need be asked.
    #[inline]
    pub fn guarded(self, snap: &Snapshot) -> bool {
        [self.from, self.to].into_iter().flatten().any(|id| snap.guard(id).is_some_and(|g| !g.is_open()))
    }

    /// Is any policy staged at either end? Then new flows are judged to be counted, though nothing may be enforced.
    #[inline]
    pub fn watched(self, snap: &Snapshot) -> bool {
        [self.from, self.to].into_iter().flatten().any(|id| snap.guard(id).is_some_and(|g| g.has_staged()))
    }
}

/// What both ends say. The receiver is not asked when the sender may not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Judgement {
    /// The sender's egress policy; none = it has none, or is not here.
    pub egress: Option<Decision>,
    /// The receiver's ingress policy; likewise.
    pub ingress: Option<Decision>,
}

impl Judgement {
    /// Why the packet may not pass; none = it may.
    #[inline]
    pub fn denied(&self) -> Option<DropReason> {
        let deny = |d: &Option<Decision>| d.is_some_and(|d| !d.allow);
        match (deny(&self.egress), deny(&self.ingress)) {
            (true, _) => Some(DropReason::PolicyEgress),
            (_, true) => Some(DropReason::PolicyIngress),
            _ => None,
        }
    }
}

/// Asks both ends about a packet that opens a flow.
#[inline]
pub fn judge(snap: &Snapshot, ends: Ends, packet: &Packet) -> Judgement {
    let egress = ends.from.and_then(|id| ask(snap, id, Direction::Egress, packet));
    let refused = egress.is_some_and(|d| !d.allow);
    let ingress = ends.to.filter(|_| !refused).and_then(|id| ask(snap, id, Direction::Ingress, packet));
    Judgement { egress, ingress }
}

/// The policy that guards a port in a direction, and whether the host only forwards the packet; none = it does not ask.
pub fn guard<'a>(
    snap: &'a Snapshot,
    id: u32,
    direction: Direction,
    packet: &Packet,
) -> Option<(&'a EndpointPolicy, bool)> {
    let guard = snap.guard(id)?;
    let host = snap.port(id).is_some_and(|p| p.kind == PortKind::Host);
    if !host {
        return Some((guard, false));
    }
    let (own, failsafe) = match direction {
        Direction::Ingress => (packet.dst, &FAILSAFE_IN),
        Direction::Egress => (packet.src, &FAILSAFE_OUT),
    };
    let forwarded = !snap.node.addrs.contains(&own);
    if !forwarded && failsafe.contains(&(packet.proto, packet.dport)) {
        return None;
    }
    Some((guard, forwarded))
}

#[inline]
fn ask(snap: &Snapshot, id: u32, direction: Direction, packet: &Packet) -> Option<Decision> {
    if snap.guard(id).is_none_or(|g| g.is_open() && !g.has_staged()) {
        return None;
    }
    let (guard, forwarded) = guard(snap, id, direction, packet)?;
    Some(guard.decide(&snap.policy, direction, packet, forwarded))
}
