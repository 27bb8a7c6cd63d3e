//! The oracle: policy read straight from the [`World`], with no table, no index and no cache.
//!
//! Slow and plain on purpose. The tests hold the compiled tables against it, and it is the place to read what the
//! semantics are. Runs on the thread that calls it; nothing in production does.

use std::net::IpAddr;

use crate::addr;
use crate::decision::{By, Decision, Logs};
use crate::model::{
    Direction, Endpoint, EndpointId, L4Match, Packet, Peer, Policy, Ports, Rule, RuleAction, Tier, TierEnd,
    World,
};
use crate::selector::{Labels, Selector};

/// Decides by the policies that are in force. `forwarded`: for a host endpoint, the host only forwards the packet.
#[must_use]
pub fn decide(
    world: &World,
    endpoint: &Endpoint,
    direction: Direction,
    packet: &Packet,
    forwarded: bool,
) -> Decision {
    let policies: Vec<&Policy> = world.policies.iter().map(|p| &**p).filter(|p| !p.staged).collect();
    evaluate(world, &policies, endpoint, direction, packet, forwarded)
}

/// Decides as if every staged policy were in force.
#[must_use]
pub fn decide_staged(
    world: &World,
    endpoint: &Endpoint,
    direction: Direction,
    packet: &Packet,
    forwarded: bool,
) -> Decision {
    let replaced = |p: &Policy| world.policies.iter().any(|s| s.staged && s.replaces(p));
    let policies: Vec<&Policy> = world
        .policies
        .iter()
        .map(|p| &**p)
        .filter(|p| if p.staged { !p.staged_delete } else { !replaced(p) })
        .collect();
    evaluate(world, &policies, endpoint, direction, packet, forwarded)
}

fn evaluate(
    world: &World,
    policies: &[&Policy],
    endpoint: &Endpoint,
    direction: Direction,
    packet: &Packet,
    forwarded: bool,
) -> Decision {
    let mut logs = Logs::default();
    let decision = |allow, by, logs| Decision { allow, by, logs };
    let host = matches!(endpoint.id, EndpointId::Host { .. });
    let own = |a: u128| endpoint.addrs.iter().any(|have| addr::bits(*have) == a);
    if !host && own(packet.src) && own(packet.dst) {
        return decision(true, By::Itself, logs);
    }
    let remote = if direction == Direction::Ingress { packet.src } else { packet.dst };
    let own_node = !host && world.node_addrs.iter().any(|a| addr::bits(*a) == remote);
    let forwarded = host && forwarded;

    let mut tiers: Vec<&Tier> = world.tiers.iter().map(|t| &**t).collect();
    tiers.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.name.cmp(&b.name)));
    let mut number = 0;
    let (mut counting, mut sparing) = (false, false);
    for stage in Stage::ALL {
        for tier in &tiers {
            let mut applying: Vec<&Policy> = policies
                .iter()
                .copied()
                .filter(|p| p.tier == tier.name && Stage::of(p) == stage && (host || stage == Stage::Normal))
                .filter(|p| p.rules(direction).is_some() && p.subject.matches(&endpoint.labels))
                .collect();
            applying.sort_by_cached_key(|p| p.sort_key());
            applying.sort_by_key(|p| p.order);
            let counts = |p: &Policy| {
                !(own_node && p.spares_own_node || forwarded && stage == Stage::Normal && !p.apply_on_forward)
            };
            let (mut tier_counts, mut verdict) = (false, None);
            for policy in &applying {
                if counts(policy) {
                    tier_counts = true;
                } else {
                    sparing = true;
                }
                for rule in policy.rules(direction).into_iter().flatten() {
                    if verdict.is_none() && counts(policy) && matches(world, rule, packet) {
                        match rule.action {
                            RuleAction::Log => logs.note(number),
                            action => verdict = Some((action, number)),
                        }
                    }
                    number += 1;
                }
            }
            counting |= tier_counts;
            match verdict {
                Some((RuleAction::Allow, n)) => return decision(true, By::Rule(n), logs),
                Some((RuleAction::Deny, n)) => return decision(false, By::Rule(n), logs),
                _ => {}
            }
            let ends = stage == Stage::Normal && tier.end == TierEnd::Deny && !applying.is_empty();
            if ends {
                if tier_counts && verdict.is_none() {
                    return decision(false, By::TierEnd(number), logs);
                }
                number += 1;
            }
        }
    }
    let by = match (counting, sparing && !host) {
        (true, _) => By::Default,
        (false, true) => By::OwnNode,
        (false, false) => By::NoPolicy,
    };
    decision(forwarded || endpoint.default_allow, by, logs)
}

/// When a host endpoint's policy is evaluated. Pods know only the last of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Stage {
    Untracked,
    PreDnat,
    Normal,
}

impl Stage {
    pub(crate) const ALL: [Stage; 3] = [Stage::Untracked, Stage::PreDnat, Stage::Normal];

    pub(crate) fn of(policy: &Policy) -> Stage {
        if policy.do_not_track {
            Stage::Untracked
        } else if policy.pre_dnat {
            Stage::PreDnat
        } else {
            Stage::Normal
        }
    }
}

/// Does the rule match?
fn matches(world: &World, rule: &Rule, p: &Packet) -> bool {
    rule.v6.is_none_or(|v6| v6 != addr::is_v4(p.dst))
        && end_matches(world, rule.source.as_deref(), p.src)
        && end_matches(world, rule.destination.as_deref(), p.dst)
        && rule.l4.as_ref().is_none_or(|l4| l4.iter().any(|m| l4_matches(world, m, p)))
}

fn end_matches(world: &World, peers: Option<&[Peer]>, a: u128) -> bool {
    peers.is_none_or(|peers| peers.iter().any(|peer| peer_matches(world, peer, a)))
}

fn peer_matches(world: &World, peer: &Peer, a: u128) -> bool {
    let ip = addr::ip(a);
    peer.nets.as_ref().is_none_or(|nets| nets.iter().any(|n| n.contains(&ip)))
        && !peer.not_nets.iter().any(|n| n.contains(&ip))
        && peer.selector.as_ref().is_none_or(|s| selects(world, s, ip))
        && !peer.not_selector.as_ref().is_some_and(|s| selects(world, s, ip))
}

/// Does the selector select one of those who have the address?
fn selects(world: &World, selector: &Selector, ip: IpAddr) -> bool {
    let endpoints = world.endpoints.iter().filter(|e| has(e, ip)).map(|e| &e.labels);
    let sets = world.sets.iter().filter(|s| s.nets.iter().any(|n| n.contains(&ip))).map(|s| &s.labels);
    endpoints.chain(sets).any(|labels: &Labels| selector.matches(labels))
}

fn has(endpoint: &Endpoint, ip: IpAddr) -> bool {
    endpoint.addrs.iter().any(|a| a.to_canonical() == ip)
}

fn l4_matches(world: &World, m: &L4Match, p: &Packet) -> bool {
    let has_ports = matches!(p.proto, 6 | 17 | 132 | 136);
    let is_icmp = matches!(p.proto, 1 | 58);
    let asks_ports =
        m.sports.is_some() || m.dports.is_some() || !m.not_sports.is_empty() || !m.not_dports.is_empty();
    let asks_icmp = m.icmp.is_some() || m.not_icmp.is_some();
    let port = |ports: &Ports, a: u128, number: u16| match ports {
        Ports::Range(from, to) => (*from..=*to).contains(&number),
        Ports::Named(name) => world
            .endpoints
            .iter()
            .filter(|e| has(e, addr::ip(a)))
            .flat_map(|e| &e.ports)
            .any(|have| have.name == *name && have.proto == p.proto && have.number == number),
    };
    let icmp = |(ty, code): (u8, Option<u8>)| {
        p.sport >> 8 == u16::from(ty) && code.is_none_or(|c| p.sport & 0xff == u16::from(c))
    };
    m.proto.is_none_or(|proto| proto == p.proto)
        && m.not_proto != Some(p.proto)
        && (has_ports || !asks_ports)
        && (is_icmp || !asks_icmp)
        && m.sports.as_ref().is_none_or(|ports| ports.iter().any(|x| port(x, p.src, p.sport)))
        && !m.not_sports.iter().any(|x| port(x, p.src, p.sport))
        && m.dports.as_ref().is_none_or(|ports| ports.iter().any(|x| port(x, p.dst, p.dport)))
        && !m.not_dports.iter().any(|x| port(x, p.dst, p.dport))
        && m.icmp.is_none_or(icmp)
        && !m.not_icmp.is_some_and(icmp)
}
