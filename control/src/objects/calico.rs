//! Calico's policies, `projectcalico.org/v3` (`crd.projectcalico.org/v1` alike), enforced and staged.
//!
//! What this switch cannot look at (`http`, `services`) fails closed rule by rule: an Allow or Log rule with it matches
//! nothing, a Deny or Pass rule denies everything.
//!
//! Sources: `api/pkg/apis/projectcalico/v3/` and `libcalico-go/lib/backend/syncersv1/updateprocessors/`.

use std::sync::Arc;

use policy::model::{Order, Policy, PolicyId, PolicyKind, Rule, RuleAction, Tier};
use policy::selector::{self, Selector};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::field::{At, Errors, Reason};
use super::meta::{Meta, is_dns_subdomain};
use super::selector::{in_namespace, is_pod};
use super::{Key, Object, decode, netpol};

pub(super) mod host;
pub(super) mod pool;
pub(super) mod reservation;
mod rule;
pub(super) mod set;
pub(super) mod tier;

/// Most rules of a direction.
const MAX_RULES: usize = 1024;
/// Longest selector, in bytes.
const MAX_SELECTOR: usize = 1024;

/// Any of Calico's objects.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Doc<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Meta,
    spec: S,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    staged_action: Option<String>,
    tier: Option<String>,
    order: Option<f64>,
    selector: Option<String>,
    service_account_selector: Option<String>,
    namespace_selector: Option<String>,
    types: Option<Vec<String>>,
    ingress: Option<Vec<rule::RuleSpec>>,
    egress: Option<Vec<rule::RuleSpec>>,
    do_not_track: Option<bool>,
    #[serde(rename = "preDNAT")]
    pre_dnat: Option<bool>,
    apply_on_forward: Option<bool>,
    performance_hints: Option<Vec<String>>,
}

/// What is effective of a policy object: a staged one may be there to be ignored.
fn effective(policy: Option<Policy>) -> Object {
    policy.map_or(Object::Inert, |policy| Object::Policy(Arc::new(policy)))
}

fn is_staged(kind: PolicyKind) -> bool {
    kind.enforced() != kind
}

/// The policy an object means; `kind` is that of `key`.
pub(super) fn read(kind: PolicyKind, key: &Key, value: &Value, errors: &mut Errors) -> Option<Object> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let (spec, at) = (&doc.spec, At::root("spec"));
    let namespace = key.namespace.as_deref();
    let subject = subject(spec, namespace, &at, errors);
    own_fields(spec, kind, namespace.is_some(), &at, errors);
    let tier = spec.tier.as_deref().filter(|tier| !tier.is_empty()).unwrap_or(Tier::DEFAULT);
    errors.syntax(&at.key("tier"), is_dns_subdomain(tier), tier, "tier name");
    let types = types(spec, &at, errors);
    let ingress = rules(spec.ingress.as_deref(), namespace, true, &at.key("ingress"), errors);
    let egress = rules(spec.egress.as_deref(), namespace, false, &at.key("egress"), errors);
    let mut policy = policy(kind, key, tier, spec.order, subject?);
    (policy.ingress, policy.egress) = (types.0.then_some(ingress), types.1.then_some(egress));
    policy.apply_on_forward = spec.apply_on_forward == Some(true);
    policy.do_not_track = spec.do_not_track == Some(true);
    policy.pre_dnat = spec.pre_dnat == Some(true);
    if policy.pre_dnat && policy.egress.is_some() {
        errors.add(&at.key("preDNAT"), Reason::Conflict("excludes egress"));
    }
    if policy.pre_dnat && policy.do_not_track {
        errors.add(&at.key("preDNAT"), Reason::Conflict("excludes doNotTrack"));
    }
    if (policy.pre_dnat || policy.do_not_track) && !policy.apply_on_forward {
        errors.add(&at.key("applyOnForward"), Reason::Conflict("must be true with preDNAT or doNotTrack"));
    }
    Some(effective(stage(policy, spec.staged_action.as_deref(), &at, errors)))
}

/// A StagedKubernetesNetworkPolicy: a NetworkPolicy's fields and an action.
pub(super) fn read_kubernetes(key: &Key, value: &Value, errors: &mut Errors) -> Option<Object> {
    let mut value = value.clone();
    let action = value.get_mut("spec").and_then(Value::as_object_mut).and_then(|s| s.remove("stagedAction"));
    let at = At::root("spec");
    let action: Option<String> = decode(&action.unwrap_or_default(), errors)?;
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let mut policy = Policy::clone(&*netpol::read(namespace, &key.name, &value, errors)?);
    policy.id.kind = PolicyKind::StagedKubernetesNetworkPolicy;
    Some(effective(stage(policy, action.as_deref(), &at, errors)))
}

/// None = nothing is evaluated.
fn stage(mut policy: Policy, action: Option<&str>, at: &At<'_>, errors: &mut Errors) -> Option<Policy> {
    policy.staged = is_staged(policy.id.kind);
    match action.unwrap_or("Set") {
        "Set" => {}
        "Delete" => policy.staged_delete = policy.staged,
        "Learn" | "Ignore" => return None,
        other => {
            let (value, allowed) = (other.to_owned(), "Set, Delete, Learn, Ignore");
            errors.add(&at.key("stagedAction"), Reason::Choice { value, allowed });
        }
    }
    Some(policy)
}

/// The policy that stands in for an invalid one: denies, in the directions it names, pods that it selects, but not
/// toward their own node. Host endpoints are spared: a slip in one policy must not lock everybody out of the hosts.
/// None where the selector cannot be read either, and for a staged policy, which is never enforced.
pub(super) fn deny(kind: PolicyKind, key: &Key, value: &Value) -> Option<Policy> {
    if is_staged(kind) {
        return None;
    }
    let value = value.get("spec")?;
    let mut selectors = serde_json::Map::new();
    for field in ["selector", "serviceAccountSelector", "namespaceSelector"] {
        selectors.extend(value.get(field).map(|text| (field.to_owned(), text.clone())));
    }
    let (mut errors, at) = (Errors::default(), At::root("spec"));
    let spec: Spec = decode(&Value::Object(selectors), &mut errors)?;
    let subject = subject(&spec, key.namespace.as_deref(), &at, &mut errors)?;
    if !errors.0.is_empty() {
        return None;
    }
    let tier = value.get("tier").and_then(Value::as_str).filter(|tier| !tier.is_empty());
    let order = value.get("order").and_then(Value::as_f64);
    let deny =
        Rule { action: RuleAction::Deny, v6: None, source: None, destination: None, l4: None, name: None };
    let mut policy =
        policy(kind, key, tier.unwrap_or(Tier::DEFAULT), order, Selector::And(vec![is_pod(), subject]));
    let named = |direction| match value.get("types").and_then(Value::as_array) {
        Some(types) if types.iter().all(|t| t == "Ingress" || t == "Egress") && !types.is_empty() => {
            types.iter().any(|t| t == direction)
        }
        _ => true,
    };
    policy.ingress = named("Ingress").then(|| vec![deny.clone()]);
    policy.egress = named("Egress").then(|| vec![deny]);
    policy.spares_own_node = true;
    Some(policy)
}

fn policy(kind: PolicyKind, key: &Key, tier: &str, order: Option<f64>, subject: Selector) -> Policy {
    Policy {
        id: PolicyId { kind, namespace: key.namespace.clone(), name: Arc::clone(&key.name) },
        tier: tier.into(),
        order: Order(order),
        subject,
        ingress: None,
        egress: None,
        staged: false,
        staged_delete: false,
        spares_own_node: false,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    }
}

/// Fields that only some kinds have.
fn own_fields(spec: &Spec, kind: PolicyKind, namespaced: bool, at: &At<'_>, errors: &mut Errors) {
    let global = [
        ("namespaceSelector", spec.namespace_selector.is_some()),
        ("doNotTrack", spec.do_not_track.is_some()),
        ("preDNAT", spec.pre_dnat.is_some()),
        ("applyOnForward", spec.apply_on_forward.is_some()),
    ];
    for (field, _) in global.iter().filter(|(_, set)| *set && namespaced) {
        errors.add(&at.key(field), Reason::Conflict("only a GlobalNetworkPolicy has this field"));
    }
    if spec.staged_action.is_some() && !is_staged(kind) {
        errors.add(&at.key("stagedAction"), Reason::Conflict("only a staged policy has this field"));
    }
    let at = at.key("performanceHints");
    for (i, hint) in spec.performance_hints.iter().flatten().enumerate() {
        if hint != "AssumeNeededOnEveryNode" {
            let reason = Reason::Choice { value: hint.clone(), allowed: "AssumeNeededOnEveryNode" };
            errors.add(&at.index(i), reason);
        }
    }
}

/// Does the policy apply to ingress, to egress?
fn types(spec: &Spec, at: &At<'_>, errors: &mut Errors) -> (bool, bool) {
    let types = spec.types.as_deref().unwrap_or_default();
    if types.is_empty() {
        let any = |rules: &Option<Vec<_>>| rules.as_ref().is_some_and(|rules| !rules.is_empty());
        return (any(&spec.ingress) || !any(&spec.egress), any(&spec.egress));
    }
    let at = at.key("types");
    errors.limit(&at, types.len(), 2);
    for (i, name) in types.iter().enumerate() {
        if !matches!(&**name, "Ingress" | "Egress") {
            errors.add(&at.index(i), Reason::Choice { value: name.clone(), allowed: "Ingress, Egress" });
        }
    }
    if types.len() == 2 && types[0] == types[1] {
        errors.add(&at, Reason::Conflict("names one type twice"));
    }
    (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress"))
}

fn rules(
    rules: Option<&[rule::RuleSpec]>,
    namespace: Option<&str>,
    ingress: bool,
    at: &At<'_>,
    errors: &mut Errors,
) -> Vec<Rule> {
    let rules = rules.unwrap_or_default();
    errors.limit(at, rules.len(), MAX_RULES);
    let read = rules.iter().enumerate();
    read.filter_map(|(i, rule)| rule::read(rule, namespace, ingress, &at.index(i), errors)).collect()
}

fn subject(spec: &Spec, namespace: Option<&str>, at: &At<'_>, errors: &mut Errors) -> Option<Selector> {
    let texts = [
        (&spec.selector, "selector", Whose::Own),
        (&spec.service_account_selector, "serviceAccountSelector", Whose::ServiceAccount),
        (&spec.namespace_selector, "namespaceSelector", Whose::Namespace),
    ];
    let mut all: Vec<Selector> = namespace.map(in_namespace).into_iter().collect();
    for (text, field, whose) in texts {
        let Some(text) = given(text.as_deref()) else { continue };
        let at = at.key(field);
        no_global(text, &at, errors);
        all.push(parse(text, whose, &at, errors)?);
    }
    Some(if all.is_empty() { Selector::All } else { Selector::And(all) })
}

/// An empty text is as good as none.
fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn no_global(text: &str, at: &At<'_>, errors: &mut Errors) {
    if text.contains("global(") {
        errors.add(at, Reason::Conflict("global() may stand in a rule's namespaceSelector only"));
    }
}

/// Whose labels a selector is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Those of the thing itself, flattened.
    Own,
    /// Its namespace's: `all()` is everything in a namespace.
    Namespace,
    /// Its service account's: `all()` is everything that has one.
    ServiceAccount,
}

fn parse(text: &str, whose: Whose, at: &At<'_>, errors: &mut Errors) -> Option<Selector> {
    if text.len() > MAX_SELECTOR {
        errors.add(at, Reason::TooLong { len: text.len(), max: MAX_SELECTOR });
        return None;
    }
    match text.parse::<Selector>() {
        Ok(parsed) => Some(match whose {
            Whose::Own => parsed,
            Whose::Namespace => about(parsed, selector::OF_NAMESPACE, selector::NAMESPACE),
            Whose::ServiceAccount => about(parsed, selector::OF_SERVICE_ACCOUNT, selector::SERVICE_ACCOUNT),
        }),
        Err(err) => {
            errors.add(at, Reason::Selector { text: text.to_owned(), what: err.to_string() });
            None
        }
    }
}

/// The same expression about labels under a prefix; what has none of them, not even the label `member`, is no member of
/// `all()`.
fn about(selector: Selector, prefix: &str, member: &str) -> Selector {
    // `global()` comes from the parser as a question about this very label.
    let key =
        |key: Arc<str>| if *key == *selector::NAMESPACE { key } else { format!("{prefix}{key}").into() };
    let each = |list: Vec<Selector>| list.into_iter().map(|one| about(one, prefix, member)).collect();
    match selector {
        Selector::All => Selector::Has(member.into()),
        Selector::Has(k) => Selector::Has(key(k)),
        Selector::Eq(k, v) => Selector::Eq(key(k), v),
        Selector::Ne(k, v) => Selector::Ne(key(k), v),
        Selector::In(k, vs) => Selector::In(key(k), vs),
        Selector::NotIn(k, vs) => Selector::NotIn(key(k), vs),
        Selector::Contains(k, v) => Selector::Contains(key(k), v),
        Selector::StartsWith(k, v) => Selector::StartsWith(key(k), v),
        Selector::EndsWith(k, v) => Selector::EndsWith(key(k), v),
        Selector::Not(one) => Selector::Not(Box::new(about(*one, prefix, member))),
        Selector::And(list) => Selector::And(each(list)),
        Selector::Or(list) => Selector::Or(each(list)),
    }
}

#[cfg(test)]
mod tests;
