//! What the daemon tells about policy: rules with their hits, why a packet may pass, drops and logs one by one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control::api::{EventInfo, EventKind, EventReport, PolicyReport, PolicyRule};
use encap::to_ip;
use policy::model::{Direction, EndpointId, Packet};
use policy::{Compiler, ExplainStep, FlowKey, Outcome, Table};

use super::metrics::RuleSample;
use super::{Daemon, guard, report};
use crate::counters::DropReason;
use crate::datapath::asked;
use crate::events::{Event, What};
use crate::fib::NextHop;
use crate::judge;
use crate::pipeline::Explain;
use crate::snapshot::Snapshot;

/// Events told again to whoever asks late.
const KEPT: usize = 4096;
/// Drops are told for this long after somebody asked for them.
const LISTEN: Duration = Duration::from_secs(5);
/// Lines for Log rules in one round of [`LOG_ROUND`]; the rest is counted.
const LOG_LINES: u32 = 50;
/// How often Log rules are looked after.
pub(super) const LOG_ROUND: Duration = Duration::from_millis(500);

/// Who denies a packet that is explained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Denied {
    /// This node, for this reason.
    Here(DropReason),
    /// The receiver's node.
    There,
}

/// Events that were told, for `vsctl drops -f`.
#[derive(Default)]
pub(super) struct Told {
    events: VecDeque<EventInfo>,
    next: u64,
    lost: u64,
    listening_until: Option<Instant>,
}

impl Daemon {
    /// The rules that apply to a pod, or to all, in order.
    pub(super) fn policy_report(&self, pod: Option<&str>) -> PolicyReport {
        let world = self.guard.world();
        let mut rules = Vec::new();
        let mut endpoints: Vec<_> = self.guard.compiled().endpoints().collect();
        endpoints.sort_by(|a, b| a.0.cmp(b.0));
        for (id, endpoint) in endpoints {
            let name = name_of(id);
            if pod.is_some_and(|pod| pod != name) {
                continue;
            }
            for direction in [Direction::Ingress, Direction::Egress] {
                if let Some(table) = endpoint.table(direction) {
                    rules.extend(rows(&name, direction, table, false));
                }
                if let Some(table) = endpoint.staged(direction) {
                    rules.extend(rows(&name, direction, table, true));
                }
            }
        }
        PolicyReport {
            policies: world.policies.len() as u64,
            endpoints: world.endpoints.len() as u64,
            problems: self.guard.problems(),
            rules,
        }
    }

    /// What each rule decided, added up over the tables it is in: tables are shared by pods with the same policies.
    pub(super) fn rule_samples(&self) -> Vec<RuleSample> {
        let mut sums: BTreeMap<RuleSample, u64> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (_, endpoint) in self.guard.compiled().endpoints() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let tables = [(endpoint.table(direction), false), (endpoint.staged(direction), true)];
                for (table, staged) in tables {
                    let Some(table) = table.filter(|t| seen.insert(Arc::as_ptr(t))) else { continue };
                    for r in table.rules().filter(|r| !staged || r.staged) {
                        *sums.entry(sample(direction, &r)).or_default() += r.hits;
                    }
                }
            }
        }
        sums.into_iter().map(|(rule, flows)| RuleSample { flows, ..rule }).collect()
    }

    /// Writes down how policy decides about a packet at its ends, the far one included where it is known; says who
    /// denies it.
    pub(super) fn explain_policy(
        &self,
        snap: &Snapshot,
        ends: judge::Ends,
        packet: &Packet,
        steps: &mut impl Explain,
    ) -> Option<Denied> {
        let sides = [
            (ends.from, Direction::Egress, "egress", DropReason::PolicyEgress),
            (ends.to, Direction::Ingress, "ingress", DropReason::PolicyIngress),
        ];
        for (port, direction, stage, reason) in sides {
            let Some(port) = port else { continue };
            let name = report::port_name(snap, port);
            let Some((guard, forwarded)) = judge::guard(snap, port, direction, packet) else {
                steps.step(stage, || format!("{name}: nothing restricts it"));
                continue;
            };
            let explained = guard.explain(&snap.policy, direction, packet, forwarded);
            if !write(steps, stage, &name, &explained) {
                return Some(Denied::Here(reason));
            }
        }
        let far = matches!(snap.fib.lookup(packet.dst), Some(NextHop::Peer(_) | NextHop::Group(_)));
        (far && !self.explain_far(packet, steps)).then_some(Denied::There)
    }

    /// What the receiver's node decides, as far as this node's objects tell.
    fn explain_far(&self, packet: &Packet, steps: &mut impl Explain) -> bool {
        let world = self.guard.world();
        let addr = to_ip(packet.dst);
        let pods = world.endpoints.iter().filter(|e| matches!(e.id, EndpointId::Pod { .. }));
        let Some(far) = pods.into_iter().find(|e| e.addrs.contains(&addr)) else {
            steps.step("ingress", || format!("{addr}: its own node decides; no object here tells who it is"));
            return true;
        };
        let compiled = Compiler::new().update(world, std::slice::from_ref(&far.id));
        let Some(guard) = compiled.endpoint(&far.id) else { return true };
        let name = format!("{} (its own node decides)", name_of(&far.id));
        write(steps, "ingress", &name, &guard.explain(&compiled, Direction::Ingress, packet, false))
    }

    /// The rule that lets a cached flow pass, or not, at this node's ends.
    pub(super) fn deciding(&self, snap: &Snapshot, ends: judge::Ends, key: &FlowKey) -> [Option<String>; 2] {
        let packet = asked(key);
        let judgement = judge::judge(snap, ends, &packet);
        let name = |port: Option<u32>, direction, decision: Option<policy::Decision>| {
            let (guard, _) = judge::guard(snap, port?, direction, &packet)?;
            rule_name(guard.table(direction)?, decision?.by)
        };
        [
            name(ends.from, Direction::Egress, judgement.egress),
            name(ends.to, Direction::Ingress, judgement.ingress),
        ]
    }

    /// Events from number `after` on; as long as somebody asks, drops are told.
    pub(super) fn event_report(&mut self, after: u64) -> EventReport {
        self.told.listening_until = Some(Instant::now() + LISTEN);
        self.switch.events().listen(true);
        self.drain_events();
        let events: Vec<EventInfo> = self.told.events.iter().filter(|e| e.number >= after).cloned().collect();
        EventReport { next: self.told.next, lost: self.told.lost, events }
    }

    /// When events have to be looked after next, if at all.
    pub(super) fn next_events(&self) -> Option<Instant> {
        let log = self.logging.then(|| Instant::now() + LOG_ROUND);
        self.told.listening_until.into_iter().chain(log).min()
    }

    /// Takes over what workers told; writes what Log rules want written.
    pub(super) fn drain_events(&mut self) {
        if self.told.listening_until.is_some_and(|until| Instant::now() >= until) {
            self.told.listening_until = None;
            self.switch.events().listen(false);
        }
        let snap = self.switch.snapshot();
        let (mut lines, mut unwritten) = (0, 0);
        while let Some(event) = self.switch.events().take() {
            let info = self.event_info(&snap, &event);
            if info.kind == EventKind::Log {
                if lines < LOG_LINES {
                    let (src, dst) = (to_ip(event.key.src), to_ip(event.key.dst));
                    tracing::info!(
                        target: "policy",
                        policy = info.policy.as_deref().unwrap_or_default(), verdict = info.reason, pod = info.at,
                        %src, %dst, proto = info.proto, sport = info.sport, dport = info.dport, "flow"
                    );
                    lines += 1;
                } else {
                    unwritten += 1;
                }
            }
            if self.told.events.len() == KEPT {
                self.told.events.pop_front();
            }
            self.told.events.push_back(info);
        }
        if unwritten > 0 {
            tracing::warn!(target: "policy", unwritten, "more flows matched Log rules than are written");
        }
        self.told.lost += self.switch.events().lost();
    }

    fn event_info(&mut self, snap: &Snapshot, event: &Event) -> EventInfo {
        let key = &event.key;
        let number = self.told.next;
        self.told.next += 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let parsed = key.src != 0 || key.dst != 0;
        let addr = |a: u128| parsed.then(|| to_ip(a));
        let (kind, reason, at, policy) = match event.what {
            What::Drop(reason) => {
                let at = report::ingress(snap, key.ingress);
                (EventKind::Drop, reason.code().to_owned(), at, self.denying(snap, key, reason))
            }
            What::Log { port, direction, rule, allowed, epoch } => {
                let table = snap.guard(port).and_then(|g| g.table(direction));
                let current = epoch == snap.epoch;
                let name = table.filter(|_| current).and_then(|t| rule_name(t, policy::By::Rule(rule)));
                let verdict = if allowed { "allowed" } else { "denied" };
                (EventKind::Log, verdict.to_owned(), report::port_name(snap, port), name)
            }
        };
        EventInfo {
            number,
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            kind,
            reason,
            at,
            src: addr(key.src),
            dst: addr(key.dst),
            src_pod: parsed.then(|| self.pod_at(key.src)).flatten(),
            dst_pod: parsed.then(|| self.pod_at(key.dst)).flatten(),
            proto: key.proto,
            sport: key.sport,
            dport: key.dport,
            policy,
        }
    }

    /// Which rule denies a packet that policy dropped, by the tables in force now.
    fn denying(&self, snap: &Snapshot, key: &FlowKey, reason: DropReason) -> Option<String> {
        if !matches!(reason, DropReason::PolicyEgress | DropReason::PolicyIngress) {
            return None;
        }
        let to = match snap.fib.lookup(key.dst) {
            Some(NextHop::Port(id)) => Some(id),
            Some(NextHop::Host) => snap.host,
            _ => None,
        };
        let from = (key.ingress & policy::PEER_BIT == 0).then_some(key.ingress);
        let [egress, ingress] = self.deciding(snap, judge::Ends { from, to }, key);
        if reason == DropReason::PolicyEgress { egress } else { ingress }
    }

    /// The pod that has this address, by what this node knows.
    fn pod_at(&self, addr: u128) -> Option<String> {
        let addr = to_ip(addr);
        self.guard.world().endpoints.iter().find(|e| e.addrs.contains(&addr)).map(|e| name_of(&e.id))
    }
}

/// Writes an explanation down; whether it ends well.
fn write(steps: &mut impl Explain, stage: &'static str, name: &str, explained: &[ExplainStep]) -> bool {
    let mut allowed = true;
    for step in explained {
        let whose = match (&step.policy, &step.tier) {
            (Some(policy), _) => match step.index {
                Some(index) => format!("{policy} rule {index}: "),
                None => format!("{policy}: "),
            },
            (None, Some(tier)) => format!("tier {tier}: "),
            (None, None) => String::new(),
        };
        let (text, outcome) = match &step.outcome {
            Outcome::Skipped(why) => (&step.text, format!("not asked ({why})")),
            Outcome::NoMatch(why) => (&step.text, format!("no match ({why})")),
            Outcome::Logged => (&step.text, "logged".to_owned()),
            Outcome::Passed => (&step.text, "passed on to the next tier".to_owned()),
            Outcome::Allowed => (&step.text, "ALLOWED".to_owned()),
            Outcome::Denied => (&step.text, "DENIED".to_owned()),
        };
        allowed &= step.outcome != Outcome::Denied;
        steps.step(stage, || format!("{name}: {whose}{text}: {outcome}"));
    }
    allowed
}

fn rows(pod: &str, direction: Direction, table: &Table, staged: bool) -> Vec<PolicyRule> {
    let row = |r: policy::RuleInfo<'_>| PolicyRule {
        pod: pod.to_owned(),
        direction: direction_name(direction).to_owned(),
        tier: r.tier.to_owned(),
        policy: r.policy.map(|(id, _)| id.to_string()),
        rule: r.policy.map(|(_, index)| index),
        text: r.rule.map_or_else(|| "deny (end of the tier)".to_owned(), ToString::to_string),
        staged,
        hits: r.hits,
    };
    // Of a staged table, only what is not enforced is worth a line of its own.
    table.rules().filter(|r| !staged || r.staged).map(row).collect()
}

fn sample(direction: Direction, r: &policy::RuleInfo<'_>) -> RuleSample {
    RuleSample {
        tier: r.tier.to_owned(),
        policy: r.policy.map(|(id, _)| id.to_string()).unwrap_or_default(),
        direction: direction_name(direction),
        rule: r.policy.map(|(_, index)| index.to_string()).unwrap_or_default(),
        staged: r.staged,
        flows: 0,
    }
}

fn rule_name(table: &Table, by: policy::By) -> Option<String> {
    let (policy::By::Rule(n) | policy::By::TierEnd(n)) = by else { return None };
    let info = table.rule(n)?;
    Some(match info.policy {
        Some((id, index)) => format!("{id} rule {index}"),
        None => format!("end of tier {}", info.tier),
    })
}

pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// An endpoint as users write it: pods without ceremony.
pub(super) fn name_of(id: &EndpointId) -> String {
    match guard::pod_name(id) {
        Some(name) => name,
        None => id.to_string(),
    }
}
