//! The policies in order, compiled, and which of them apply to an endpoint.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::diff::diff;
use super::identities::Identities;
use super::selectors::Selectors;
use crate::compiled::Identity;
use crate::model::{Direction, Policy, PolicyId, Tier};
use crate::naive::Stage;
use crate::selector::Selector;
use crate::table::Placed;
use crate::table::rule::{CompiledRule, Names};

/// The rules of a policy for a direction, if it applies to that direction.
type Rules = Option<Arc<[Arc<CompiledRule>]>>;

/// A policy, compiled.
struct Form {
    policy: Arc<Policy>,
    /// Distinguishes this version of this policy from any other.
    serial: u64,
    subject: u32,
    ingress: Rules,
    egress: Rules,
    /// Selectors held, one entry for each reference.
    held: Vec<u32>,
}

/// A form in order of evaluation.
struct InOrder {
    form: u64,
    stage: Stage,
    subject: u32,
    /// Has rules for ingress, for egress.
    directions: [bool; 2],
    staged: Enforcement,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Enforcement {
    /// In force, staged or not.
    Always,
    /// In force, and not when staged policies are.
    Replaced,
    /// In force only when staged policies are.
    Staged,
    Never,
}

/// What applies to an endpoint in one direction, by serial.
#[derive(PartialEq, Eq, Default)]
pub(super) struct Applying {
    pub(super) enforced: Box<[u64]>,
    /// With the staged policies in force.
    pub(super) staged: Box<[u64]>,
}

#[derive(Default)]
pub(super) struct Policies {
    list: Vec<Arc<Policy>>,
    tiers: Vec<Arc<Tier>>,
    forms: HashMap<u64, Form>,
    /// By where the object lies; `list` keeps it there.
    by_pointer: HashMap<usize, u64>,
    order: Vec<InOrder>,
    next_serial: u64,
    port_names: HashMap<Arc<str>, u32>,
}

struct Namer<'a> {
    selectors: &'a mut Selectors,
    identities: &'a Identities,
    port_names: &'a mut HashMap<Arc<str>, u32>,
    held: Vec<u32>,
}

impl Names for Namer<'_> {
    fn selector(&mut self, selector: &Selector) -> u32 {
        let number = self.selectors.acquire(selector, self.identities);
        self.held.push(number);
        number
    }

    fn port_name(&mut self, name: &Arc<str>) -> u32 {
        port_name(self.port_names, name)
    }
}

fn port_name(names: &mut HashMap<Arc<str>, u32>, name: &Arc<str>) -> u32 {
    let next = names.len() as u32;
    *names.entry(name.clone()).or_insert(next)
}

/// What a change of policies means for what was made from them.
pub(super) struct Changed {
    /// Some policy or tier is another: which policies apply has to be asked anew.
    pub(super) any: bool,
    /// A tier is another: tables have to be made anew.
    pub(super) tiers: bool,
}

impl Policies {
    /// The number of a port's name.
    pub(super) fn port_name(&mut self, name: &Arc<str>) -> u32 {
        port_name(&mut self.port_names, name)
    }

    /// Takes over the policies and tiers of a world.
    pub(super) fn update(
        &mut self,
        policies: &[Arc<Policy>],
        tiers: &[Arc<Tier>],
        identities: &Identities,
        selectors: &mut Selectors,
    ) -> Changed {
        // Selectors are released last, so that what was made by their numbers meets no number with a new meaning
        // before it is dropped at the end of the update.
        let old = std::mem::replace(&mut self.list, policies.to_vec());
        let (gone, come) = diff(&old, &self.list);
        let mut leaving: HashMap<&PolicyId, Vec<u64>> = HashMap::new();
        for policy in gone {
            if let Some(serial) = self.by_pointer.remove(&Arc::as_ptr(policy).addr()) {
                leaving.entry(&policy.id).or_default().push(serial);
            }
        }
        let mut any = false;
        for policy in come {
            if self.by_pointer.contains_key(&Arc::as_ptr(policy).addr()) {
                continue;
            }
            // An object that was only read again is the old one.
            let same = leaving.get_mut(&policy.id).and_then(|serials| {
                let at = serials.iter().position(|s| self.forms[s].policy == *policy)?;
                Some(serials.swap_remove(at))
            });
            let serial = same.unwrap_or_else(|| {
                any = true;
                let mut namer =
                    Namer { selectors, identities, port_names: &mut self.port_names, held: Vec::new() };
                let form = Form::new(policy, self.next_serial, &mut namer);
                self.forms.insert(self.next_serial, form);
                self.next_serial += 1;
                self.next_serial - 1
            });
            if let Some(form) = self.forms.get_mut(&serial) {
                form.policy = policy.clone();
            }
            self.by_pointer.insert(Arc::as_ptr(policy).addr(), serial);
        }
        for serial in leaving.into_values().flatten() {
            any = true;
            if let Some(form) = self.forms.remove(&serial) {
                form.held.iter().for_each(|s| selectors.release(*s));
            }
        }
        let mut sorted = tiers.to_vec();
        sorted.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.name.cmp(&b.name)));
        let tiers_changed = self.tiers != sorted;
        self.tiers = sorted;
        if any || tiers_changed {
            self.sort();
        }
        Changed { any: any || tiers_changed, tiers: tiers_changed }
    }

    fn sort(&mut self) {
        let ranks: HashMap<&str, usize> = self.tiers.iter().enumerate().map(|(i, t)| (&*t.name, i)).collect();
        let staged: HashSet<PolicyId> = self
            .forms
            .values()
            .filter(|f| f.policy.staged)
            .map(|f| PolicyId { kind: f.policy.id.kind.enforced(), ..f.policy.id.clone() })
            .collect();
        let mut order: Vec<_> = self
            .forms
            .values()
            .filter_map(|f| {
                let p = &f.policy;
                let enforcement = match (p.staged, p.staged_delete) {
                    (true, true) => Enforcement::Never,
                    (true, false) => Enforcement::Staged,
                    (false, _) if staged.contains(&p.id) => Enforcement::Replaced,
                    (false, _) => Enforcement::Always,
                };
                let rank = *ranks.get(&*p.tier)?;
                let stage = Stage::of(p);
                let directions = [f.ingress.is_some(), f.egress.is_some()];
                let made =
                    InOrder { form: f.serial, stage, subject: f.subject, directions, staged: enforcement };
                Some(((stage, rank, p.order, p.sort_key(), f.serial), made))
            })
            .collect();
        order.sort_by(|a, b| a.0.cmp(&b.0));
        self.order = order.into_iter().map(|(_, made)| made).collect();
    }

    /// What applies to an endpoint with that identity of its own, in a direction.
    pub(super) fn applying(
        &self,
        member: Identity,
        host: bool,
        direction: Direction,
        selectors: &Selectors,
    ) -> Applying {
        let (mut enforced, mut staged) = (Vec::new(), Vec::new());
        for entry in &self.order {
            if !host && entry.stage != Stage::Normal
                || !entry.directions[direction as usize]
                || !selectors.bitmap(entry.subject).contains(member)
            {
                continue;
            }
            if matches!(entry.staged, Enforcement::Always | Enforcement::Replaced) {
                enforced.push(entry.form);
            }
            if matches!(entry.staged, Enforcement::Always | Enforcement::Staged) {
                staged.push(entry.form);
            }
        }
        Applying { enforced: enforced.into(), staged: staged.into() }
    }

    /// The policies behind serials, as a table refers to them.
    pub(super) fn placed(&self, serials: &[u64], direction: Direction) -> Vec<Placed> {
        let ranks: HashMap<&str, usize> = self.tiers.iter().enumerate().map(|(i, t)| (&*t.name, i)).collect();
        let placed = |serial: &u64| {
            let form = self.forms.get(serial)?;
            let rank = *ranks.get(&*form.policy.tier)?;
            Some(Placed {
                policy: form.policy.clone(),
                rules: form.rules(direction)?.clone(),
                stage: Stage::of(&form.policy),
                rank,
                end: self.tiers[rank].end,
            })
        };
        serials.iter().filter_map(placed).collect()
    }
}

impl Form {
    fn new(policy: &Arc<Policy>, serial: u64, namer: &mut Namer<'_>) -> Form {
        let subject = namer.selector(&policy.subject);
        let mut rules = |direction| {
            policy
                .rules(direction)
                .map(|rules| rules.iter().map(|r| Arc::new(CompiledRule::new(r, namer))).collect())
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        Form {
            policy: policy.clone(),
            serial,
            subject,
            ingress,
            egress,
            held: std::mem::take(&mut namer.held),
        }
    }

    fn rules(&self, direction: Direction) -> Option<&Arc<[Arc<CompiledRule>]>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}
