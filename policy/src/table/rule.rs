//! A rule in the form that packets are held against: names resolved to numbers, prefixes to ranges.
//!
//! Made once for a policy and shared by every table the policy is in. Matching is exact; the index of a table only
//! narrows down which rules are asked.

use std::sync::Arc;

use ipnet::IpNet;

use crate::addr;
use crate::compiled::Seen;
use crate::model::{L4Match, Peer, Ports, Rule, RuleAction};
use crate::selector::Selector;

/// What a compiled rule turns names into.
pub(crate) trait Names {
    /// The number of a selector.
    fn selector(&mut self, selector: &Selector) -> u32;
    /// The number of a port's name.
    fn port_name(&mut self, name: &Arc<str>) -> u32;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) action: RuleAction,
    pub(crate) v6: Option<bool>,
    pub(crate) source: Option<Box<[CompiledPeer]>>,
    pub(crate) destination: Option<Box<[CompiledPeer]>>,
    pub(crate) l4: Option<Box<[CompiledL4]>>,
}

#[derive(Debug)]
pub(crate) struct CompiledPeer {
    pub(crate) nets: Option<Box<[IpNet]>>,
    ranges: Box<[Range]>,
    pub(crate) not_nets: Box<[Range]>,
    pub(crate) selector: Option<u32>,
    pub(crate) not_selector: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    first: u128,
    last: u128,
    v4: bool,
}

#[derive(Debug)]
pub(crate) struct CompiledL4 {
    pub(crate) proto: Option<u8>,
    pub(crate) not_proto: Option<u8>,
    pub(crate) sports: Option<Box<[Port]>>,
    pub(crate) not_sports: Box<[Port]>,
    pub(crate) dports: Option<Box<[Port]>>,
    pub(crate) not_dports: Box<[Port]>,
    pub(crate) icmp: Option<(u8, Option<u8>)>,
    pub(crate) not_icmp: Option<(u8, Option<u8>)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Port {
    Range(u16, u16),
    Named(u32),
}

/// The condition of a rule that a packet fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmet {
    Family,
    Source,
    Destination,
    Protocol,
    SourcePort,
    DestinationPort,
    Icmp,
    /// Several alternatives for protocol and ports, and none of them.
    L4,
}

impl CompiledRule {
    pub(crate) fn new(rule: &Rule, names: &mut impl Names) -> CompiledRule {
        let mut peers = |list: &Option<Vec<Peer>>| -> Option<Box<[CompiledPeer]>> {
            list.as_ref().map(|list| list.iter().map(|p| CompiledPeer::new(p, names)).collect())
        };
        let (source, destination) = (peers(&rule.source), peers(&rule.destination));
        let l4 = rule.l4.as_ref().map(|list| list.iter().map(|m| CompiledL4::new(m, names)).collect());
        CompiledRule { action: rule.action, v6: rule.v6, source, destination, l4 }
    }

    /// The first condition that the packet fails; none = the rule matches.
    #[inline]
    pub(crate) fn unmet(&self, seen: &Seen<'_>) -> Option<Unmet> {
        if self.v6.is_some_and(|v6| v6 == seen.v4()) {
            return Some(Unmet::Family);
        }
        if let Some(l4) = &self.l4
            && !l4.iter().any(|m| m.unmet(seen).is_none())
        {
            return match &**l4 {
                [only] => only.unmet(seen),
                _ => Some(Unmet::L4),
            };
        }
        if !self.source.as_ref().is_none_or(|ps| ps.iter().any(|p| p.matches(seen, seen.src()))) {
            return Some(Unmet::Source);
        }
        if !self.destination.as_ref().is_none_or(|ps| ps.iter().any(|p| p.matches(seen, seen.dst()))) {
            return Some(Unmet::Destination);
        }
        None
    }
}

impl CompiledPeer {
    fn new(peer: &Peer, names: &mut impl Names) -> CompiledPeer {
        let range = |net: &IpNet| {
            let (first, last, v4) = addr::range(net);
            Range { first, last, v4 }
        };
        CompiledPeer {
            nets: peer.nets.as_ref().map(|nets| nets.iter().map(IpNet::trunc).collect()),
            ranges: peer.nets.iter().flatten().map(range).collect(),
            not_nets: peer.not_nets.iter().map(range).collect(),
            selector: peer.selector.as_ref().map(|s| names.selector(s)),
            not_selector: peer.not_selector.as_ref().map(|s| names.selector(s)),
        }
    }

    fn matches(&self, seen: &Seen<'_>, end: End<'_>) -> bool {
        (self.nets.is_none() || self.ranges.iter().any(|r| r.contains(end.addr)))
            && !self.not_nets.iter().any(|r| r.contains(end.addr))
            && self.selector.is_none_or(|s| seen.selects(s, end))
            && !self.not_selector.is_some_and(|s| seen.selects(s, end))
    }
}

/// One end of a packet.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) addr: u128,
    /// Its identity, once someone has asked.
    pub(crate) identity: &'a std::cell::Cell<Option<u32>>,
}

impl Range {
    fn contains(&self, a: u128) -> bool {
        addr::is_v4(a) == self.v4 && (self.first..=self.last).contains(&a)
    }
}

impl CompiledL4 {
    fn new(m: &L4Match, names: &mut impl Names) -> CompiledL4 {
        let mut ports = |list: &[Ports]| -> Box<[Port]> {
            let port = |p: &Ports| match p {
                Ports::Range(from, to) => Port::Range(*from, *to),
                Ports::Named(name) => Port::Named(names.port_name(name)),
            };
            list.iter().map(port).collect()
        };
        CompiledL4 {
            proto: m.proto,
            not_proto: m.not_proto,
            sports: m.sports.as_deref().map(&mut ports),
            not_sports: ports(&m.not_sports),
            dports: m.dports.as_deref().map(&mut ports),
            not_dports: ports(&m.not_dports),
            icmp: m.icmp,
            not_icmp: m.not_icmp,
        }
    }

    fn unmet(&self, seen: &Seen<'_>) -> Option<Unmet> {
        let p = seen.packet();
        if self.proto.is_some_and(|proto| proto != p.proto) || self.not_proto == Some(p.proto) {
            return Some(Unmet::Protocol);
        }
        let any = |list: &[Port], end, number| list.iter().any(|port| port_is(*port, seen, end, number));
        if self.dports.is_some() || !self.not_dports.is_empty() {
            let listed = self.dports.as_ref().is_none_or(|l| any(l, seen.dst(), p.dport));
            if !has_ports(p.proto) || !listed || any(&self.not_dports, seen.dst(), p.dport) {
                return Some(Unmet::DestinationPort);
            }
        }
        if self.sports.is_some() || !self.not_sports.is_empty() {
            let listed = self.sports.as_ref().is_none_or(|l| any(l, seen.src(), p.sport));
            if !has_ports(p.proto) || !listed || any(&self.not_sports, seen.src(), p.sport) {
                return Some(Unmet::SourcePort);
            }
        }
        if self.icmp.is_some() || self.not_icmp.is_some() {
            let is = |(ty, code): (u8, Option<u8>)| {
                p.sport >> 8 == u16::from(ty) && code.is_none_or(|code| p.sport & 0xff == u16::from(code))
            };
            if !is_icmp(p.proto) || !self.icmp.is_none_or(is) || self.not_icmp.is_some_and(is) {
                return Some(Unmet::Icmp);
            }
        }
        None
    }

    /// Says its span of [`crate::table::index::point`]s all that it asks?
    pub(crate) fn is_span(&self) -> bool {
        self.not_proto.is_none()
            && self.sports.is_none()
            && self.not_sports.is_empty()
            && self.not_dports.is_empty()
            && self.icmp.is_none()
            && self.not_icmp.is_none()
    }
}

fn port_is(port: Port, seen: &Seen<'_>, end: End<'_>, number: u16) -> bool {
    match port {
        Port::Range(from, to) => (from..=to).contains(&number),
        Port::Named(name) => seen.has_port(end, name, number),
    }
}

/// Has the protocol ports (TCP, UDP, SCTP, UDP-Lite)?
pub(crate) const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

fn has_ports(proto: u8) -> bool {
    WITH_PORTS.contains(&proto)
}

fn is_icmp(proto: u8) -> bool {
    matches!(proto, 1 | 58)
}
