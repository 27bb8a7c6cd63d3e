//! The rules that apply to an endpoint in one direction, in order, with an index.
//!
//! Immutable but for the counts of hits, and shared by all endpoints with the same policies. Made by
//! [`crate::Compiler`] on the control thread, asked on any thread; asking allocates nothing and takes a time that
//! does not grow with the number of rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compiled::Seen;
use crate::decision::{By, Logs};
use crate::model::{Direction, Policy, PolicyId, Rule, RuleAction, TierEnd};
use crate::naive::Stage;
use index::{Index, point};
use rule::CompiledRule;

pub(crate) mod index;
pub(crate) mod rule;

/// Everything counts: for a pod, its own node or not; for a host endpoint, forwarded or not.
pub(crate) const ANY_CONTEXT: u8 = 0b11;

/// One rule, or the end of a tier.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None for the end of a tier.
    pub(crate) rule: Option<Arc<CompiledRule>>,
    /// The rule's; none for the end of a tier.
    pub(crate) action: Option<RuleAction>,
    /// The number behind the section's last entry.
    pub(crate) section_end: u32,
    /// Index in the table's policies.
    pub(crate) policy: u32,
    /// Index in the policy's rules.
    pub(crate) index: u32,
    /// The contexts it counts in, one bit each.
    pub(crate) contexts: u8,
}

/// A policy and the tier it is in, as a table refers to them.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) policy: Arc<Policy>,
    pub(crate) rules: Arc<[Arc<CompiledRule>]>,
    pub(crate) stage: Stage,
    /// The place of its tier among the tiers.
    pub(crate) rank: usize,
    pub(crate) end: TierEnd,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    direction: Direction,
    pub(crate) entries: Box<[Entry]>,
    pub(crate) policies: Box<[Placed]>,
    /// The contexts in which some policy counts.
    applies: u8,
    index: Index,
    /// Which partition of the identities the index goes by.
    pub(crate) partition: u32,
    hits: Arc<[AtomicU64]>,
}

/// What stands behind a number of a table.
#[derive(Clone, Copy, Debug)]
pub struct RuleInfo<'a> {
    /// Its number in the table.
    pub number: u32,
    /// Its tier.
    pub tier: &'a str,
    /// The policy it belongs to, and its index in the policy's list for the direction; none for the end of a tier.
    pub policy: Option<(&'a PolicyId, u32)>,
    /// The rule as it was written; none for the end of a tier, which denies.
    pub rule: Option<&'a Rule>,
    /// The policy is staged.
    pub staged: bool,
    /// Flows it decided (Log rules: matched).
    pub hits: u64,
}

/// The entries of a list of policies in order of evaluation.
pub(crate) fn entries(policies: &[Placed], host: bool) -> Vec<Entry> {
    let mut made: Vec<Entry> = Vec::new();
    let section = |p: &Placed| (p.stage, p.rank);
    let mut at = 0;
    for part in policies.chunk_by(|a, b| section(a) == section(b)) {
        let first = made.len();
        let mut counts = 0;
        for (policy, placed) in (at..).zip(part) {
            let contexts = contexts(placed, host);
            counts |= contexts;
            made.extend((0..).zip(placed.rules.iter()).map(|(index, rule)| Entry {
                rule: Some(rule.clone()),
                action: Some(rule.action),
                section_end: 0,
                policy,
                index,
                contexts,
            }));
        }
        if part[0].stage == Stage::Normal && part[0].end == TierEnd::Deny {
            made.push(Entry {
                rule: None,
                action: None,
                section_end: 0,
                policy: at,
                index: 0,
                contexts: counts,
            });
        }
        let end = made.len() as u32;
        made[first..].iter_mut().for_each(|e| e.section_end = end);
        at += part.len() as u32;
    }
    made
}

fn contexts(placed: &Placed, host: bool) -> u8 {
    let limited = if host {
        placed.stage == Stage::Normal && !placed.policy.apply_on_forward
    } else {
        placed.policy.spares_own_node
    };
    if limited { 0b01 } else { ANY_CONTEXT }
}

impl Table {
    pub(crate) fn new(
        direction: Direction,
        host: bool,
        (policies, entries): (Vec<Placed>, Vec<Entry>),
        (partition, classes): (u32, &[Box<[u32]>]),
        hits: Arc<[AtomicU64]>,
    ) -> Table {
        Table {
            direction,
            applies: policies.iter().fold(0, |all, p| all | contexts(p, host)),
            index: Index::build(&entries, direction == Direction::Ingress, classes),
            entries: entries.into(),
            policies: policies.into(),
            partition,
            hits,
        }
    }

    /// Its direction.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// How many numbers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has it no rule and no tier end? (Policies may apply all the same.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Counts a flow for a number; unknown numbers are ignored.
    pub fn hit(&self, number: u32) {
        if let Some(count) = self.hits.get(number as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What stands behind a number.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<RuleInfo<'_>> {
        let entry = self.entries.get(number as usize)?;
        let placed = &self.policies[entry.policy as usize];
        let written = placed.policy.rules(self.direction).unwrap_or_default();
        let own = entry.rule.is_some();
        Some(RuleInfo {
            number,
            tier: &placed.policy.tier,
            policy: own.then_some((&placed.policy.id, entry.index)),
            rule: written.get(entry.index as usize).filter(|_| own),
            staged: placed.policy.staged && own,
            hits: self.hits[number as usize].load(Ordering::Relaxed),
        })
    }

    /// Everything in it, in order.
    pub fn rules(&self) -> impl Iterator<Item = RuleInfo<'_>> {
        (0..self.entries.len() as u32).filter_map(|n| self.rule(n))
    }

    pub(crate) fn hits(&self) -> &Arc<[AtomicU64]> {
        &self.hits
    }

    /// Does a policy count in this context?
    pub(crate) fn applies(&self, context: u8) -> bool {
        self.applies >> context & 1 == 1
    }

    /// The entry that decides, if one does; `context` is 0 or 1 ([`ANY_CONTEXT`]).
    #[inline]
    pub(crate) fn decide(&self, seen: &Seen<'_>, context: u8) -> (Option<(bool, By)>, Logs) {
        let mut logs = Logs::default();
        let packet = seen.packet();
        let far = if self.direction == Direction::Ingress { seen.src() } else { seen.dst() };
        let class = if self.index.by_class() { seen.class(self.partition, far) } else { 0 };
        let mut cursor = 0;
        loop {
            let mut best = u32::MAX;
            self.index.lists(far.addr, class, point(packet), |list| {
                let from = if cursor == 0 { 0 } else { list.partition_point(|p| p.number() < cursor) };
                for posting in &list[from..] {
                    let number = posting.number();
                    if number >= best {
                        break;
                    }
                    let entry = &self.entries[number as usize];
                    if entry.contexts >> context & 1 == 0 {
                        continue;
                    }
                    if posting.exact() || entry.rule.as_ref().is_none_or(|r| r.unmet(seen).is_none()) {
                        if entry.action == Some(RuleAction::Log) {
                            logs.note(number);
                        } else {
                            best = number;
                            break;
                        }
                    }
                }
            });
            logs.truncate(best);
            let Some(entry) = self.entries.get(best as usize) else { return (None, logs) };
            match entry.action {
                Some(RuleAction::Pass | RuleAction::Log) => cursor = entry.section_end,
                Some(RuleAction::Allow) => return (Some((true, By::Rule(best))), logs),
                Some(RuleAction::Deny) => return (Some((false, By::Rule(best))), logs),
                None => return (Some((false, By::TierEnd(best))), logs),
            }
        }
    }
}
