//! Why a packet is allowed or denied: every rule in order, asked one by one without the index, in words.
//!
//! For people who ask about one packet, on the control thread; it allocates and takes time with the number of rules.

use std::sync::Arc;

use crate::addr;
use crate::compiled::{Compiled, EndpointPolicy, Seen};
use crate::model::{Direction, Packet, Peer, PolicyId, Rule, RuleAction};
use crate::table::rule::Unmet;
use crate::table::{Entry, Table};
use crate::text::{L4, Peers, Proto};

#[cfg(test)]
mod tests;

/// One step of an explanation. The last one decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainStep {
    /// Its number in the table; none for what is no rule and no tier's end.
    pub number: Option<u32>,
    /// The tier.
    pub tier: Option<Arc<str>>,
    /// The policy.
    pub policy: Option<PolicyId>,
    /// The rule's index in the policy's list for the direction.
    pub index: Option<u32>,
    /// What was asked: the rule as text, or what else decides.
    pub text: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was not asked, and why.
    Skipped(String),
    /// It does not match, and why.
    NoMatch(String),
    /// It matches and is noted; the next rule is asked.
    Logged,
    /// It matches; the next tier is asked.
    Passed,
    /// The packet is allowed.
    Allowed,
    /// The packet is denied.
    Denied,
}

impl EndpointPolicy {
    /// Tells how a packet is decided about; the arguments are those of [`EndpointPolicy::decide`].
    #[must_use]
    pub fn explain(
        &self,
        c: &Compiled,
        direction: Direction,
        packet: &Packet,
        forwarded: bool,
    ) -> Vec<ExplainStep> {
        let outside = |text: &str, allow: bool| ExplainStep {
            number: None,
            tier: None,
            policy: None,
            index: None,
            text: text.to_owned(),
            outcome: if allow { Outcome::Allowed } else { Outcome::Denied },
        };
        if self.is_itself(packet) {
            return vec![outside("a pod may always speak to itself", true)];
        }
        let default = self.default_allow || self.host && forwarded;
        let Some(table) = self.table(direction) else {
            return vec![outside("no policy applies", default)];
        };
        let context = self.context(c, direction, packet, forwarded);
        let mut steps = Walk { table, seen: &Seen::new(c, packet), context, host: self.host }.steps();
        if !matches!(steps.last(), Some(ExplainStep { outcome: Outcome::Allowed | Outcome::Denied, .. })) {
            let text = match (table.applies(context), self.host) {
                (true, _) => "no tier decided",
                (false, true) => "no policy applies to what the host forwards",
                (false, false) => "no policy counts between a pod and its own node",
            };
            steps.push(outside(text, default));
        }
        steps
    }
}

struct Walk<'a> {
    table: &'a Table,
    seen: &'a Seen<'a>,
    context: u8,
    host: bool,
}

impl Walk<'_> {
    fn steps(&self) -> Vec<ExplainStep> {
        let mut steps = Vec::new();
        let mut resume = 0;
        let mut entries = (0..).zip(&self.table.entries).peekable();
        for (at, placed) in (0..).zip(&self.table.policies) {
            let mut empty = true;
            while let Some((number, entry)) = entries.next_if(|(_, e)| e.policy == at && e.rule.is_some()) {
                empty = false;
                steps.push(self.step(number, entry, &mut resume));
                if matches!(
                    steps.last(),
                    Some(ExplainStep { outcome: Outcome::Allowed | Outcome::Denied, .. })
                ) {
                    return steps;
                }
            }
            if empty {
                steps.push(ExplainStep {
                    number: None,
                    tier: Some(placed.policy.tier.clone()),
                    policy: Some(placed.policy.id.clone()),
                    index: None,
                    text: "no rules".to_owned(),
                    outcome: Outcome::Skipped("there is nothing to ask".to_owned()),
                });
            }
            // A tier's end refers to the tier's first policy and stands behind its last.
            let next = self.table.policies.get(at as usize + 1);
            let last = next.is_none_or(|next| (next.stage, next.rank) != (placed.stage, placed.rank));
            if let Some((number, entry)) = entries.next_if(|(_, e)| last && e.rule.is_none()) {
                steps.push(self.step(number, entry, &mut resume));
                if matches!(steps.last(), Some(ExplainStep { outcome: Outcome::Denied, .. })) {
                    return steps;
                }
            }
        }
        steps
    }

    /// `resume`: the number from which on rules are asked again after one that passed.
    fn step(&self, number: u32, entry: &Entry, resume: &mut u32) -> ExplainStep {
        let placed = &self.table.policies[entry.policy as usize];
        let rule =
            placed.policy.rules(self.table.direction()).and_then(|rules| rules.get(entry.index as usize));
        let (rule, own) = (rule.filter(|_| entry.rule.is_some()), entry.rule.is_some());
        let outcome = if number < *resume {
            Outcome::Skipped("a rule of this tier passed the packet on".to_owned())
        } else if entry.contexts >> self.context & 1 == 0 {
            Outcome::Skipped(self.not_counting().to_owned())
        } else if let Some((unmet, rule)) = entry.rule.as_ref().and_then(|r| r.unmet(self.seen)).zip(rule) {
            Outcome::NoMatch(self.why(unmet, rule))
        } else {
            match entry.action {
                Some(RuleAction::Allow) => Outcome::Allowed,
                Some(RuleAction::Log) => Outcome::Logged,
                Some(RuleAction::Pass) => {
                    *resume = entry.section_end;
                    Outcome::Passed
                }
                Some(RuleAction::Deny) | None => Outcome::Denied,
            }
        };
        ExplainStep {
            number: Some(number),
            tier: Some(placed.policy.tier.clone()),
            policy: own.then(|| placed.policy.id.clone()),
            index: own.then_some(entry.index),
            text: rule.map_or_else(|| "end of the tier".to_owned(), Rule::to_string),
            outcome,
        }
    }

    fn not_counting(&self) -> &'static str {
        if self.host {
            "it does not apply to what the host forwards"
        } else {
            "it does not count for the pod's own node"
        }
    }

    fn why(&self, unmet: Unmet, rule: &Rule) -> String {
        let p = self.seen.packet();
        let only = rule.l4.as_deref().unwrap_or_default();
        let end = |word: &str, a: u128, identity: u32, peers: &Option<Vec<Peer>>| {
            let peers = peers.as_deref().unwrap_or_default();
            let by_labels = peers.iter().any(|p| p.selector.is_some());
            let unknown =
                if by_labels && identity == 0 { " (of no known endpoint or network set)" } else { "" };
            format!("{word} {}{unknown} is not {}", addr::ip(a), Peers(peers))
        };
        match unmet {
            Unmet::Family if self.seen.v4() => "the packet is IPv4".to_owned(),
            Unmet::Family => "the packet is IPv6".to_owned(),
            Unmet::Source => end("source", p.src, self.seen.identity(self.seen.src()), &rule.source),
            Unmet::Destination => {
                end("destination", p.dst, self.seen.identity(self.seen.dst()), &rule.destination)
            }
            Unmet::Protocol => format!("{} is not {}", Proto(p.proto), L4(only)),
            Unmet::SourcePort => format!("{} source port {} is not {}", Proto(p.proto), p.sport, L4(only)),
            Unmet::DestinationPort => {
                format!("{} destination port {} is not {}", Proto(p.proto), p.dport, L4(only))
            }
            Unmet::Icmp | Unmet::L4 => format!("{p} is not {}", L4(only)),
        }
    }
}
