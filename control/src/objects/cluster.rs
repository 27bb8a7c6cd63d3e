//! Kubernetes' ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`.
//!
//! Admin policies stand in tier `kube-admin`, baseline ones in `kube-baseline`, with their priority as order; Accept is
//! the model's Allow. Both tiers end in Pass: to select a pod does not isolate it.
//!
//! Peers that are not supported here (`nodes`, `domainNames`) fail closed as the API asks: an Accept rule with one
//! matches nothing, a Deny or Pass rule denies everything.

use std::sync::Arc;

use policy::model::{L4Match, Order, Peer, Policy, PolicyId, PolicyKind, Ports, Rule, RuleAction, Tier};
use policy::selector::Selector;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::decode;
use super::field::{At, Errors, Reason};
use super::meta::{Meta, is_port_name, port_number};
use super::netpol::net;
use super::selector::{LabelSelector, Of, is_pod};

/// Most rules of one direction, peers and protocols of a rule, prefixes of a peer.
const MAX: usize = 25;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Doc {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Meta,
    spec: Spec,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    tier: String,
    priority: i64,
    subject: Subject,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespacedPod {
    namespace_selector: LabelSelector,
    pod_selector: LabelSelector,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    name: Option<String>,
    action: String,
    from: Vec<Subject>,
    protocols: Option<Vec<Protocol>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    name: Option<String>,
    action: String,
    to: Vec<EgressPeer>,
    protocols: Option<Vec<Protocol>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EgressPeer {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Protocol {
    tcp: Option<Transport>,
    udp: Option<Transport>,
    sctp: Option<Transport>,
    destination_named_port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Transport {
    destination_port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: Option<i64>,
    range: Option<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: i64,
    end: i64,
}

/// The policy an object means.
pub(super) fn read(name: &str, value: &Value, errors: &mut Errors) -> Option<Arc<Policy>> {
    let doc: Doc = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let (spec, at) = (&doc.spec, At::root("spec"));
    let tier = tier(&spec.tier, &at, errors);
    if !(0..=1000).contains(&spec.priority) {
        errors.add(&at.key("priority"), Reason::Range { value: spec.priority, min: 0, max: 1000 });
    }
    let subject = pods(&spec.subject.namespaces, &spec.subject.pods, &at.key("subject"), errors);
    let at_rules = at.key("ingress");
    let mut ingress = Vec::new();
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = at_rules.index(i);
        let (at_peers, mut peers) = (at.key("from"), Vec::new());
        count(&at_peers, rule.from.len(), errors);
        for (i, peer) in rule.from.iter().enumerate() {
            let selector = pods(&peer.namespaces, &peer.pods, &at_peers.index(i), errors);
            peers.push(Peer { selector, ..Peer::default() });
        }
        let l4 = protocols(rule.protocols.as_deref(), &at.key("protocols"), errors);
        if let Some((action, name)) = head(&rule.action, rule.name.as_deref(), &at, errors) {
            ingress.push(Rule { action, v6: None, source: Some(peers), destination: None, l4, name });
        }
    }
    let at_rules = at.key("egress");
    let mut egress = Vec::new();
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        egress.extend(egress_rule(rule, &at_rules.index(i), errors));
    }
    errors.limit(&at.key("ingress"), ingress.len(), MAX);
    errors.limit(&at_rules, egress.len(), MAX);
    // Without rules for a direction it does not affect it.
    let some = |rules: Vec<Rule>| (!rules.is_empty()).then_some(rules);
    let mut policy = policy(name, tier?, spec.priority, subject?);
    (policy.ingress, policy.egress) = (some(ingress), some(egress));
    Some(Arc::new(policy))
}

/// The policy that stands in for an invalid one: denies everything to and from what it selects, but not its own node
/// (whose probes no such policy can be about). None where tier or subject cannot be read either.
pub(super) fn deny(name: &str, value: &Value) -> Option<Policy> {
    let (mut errors, at) = (Errors::default(), At::root("spec"));
    let spec = value.get("spec")?;
    let tier = tier(spec.get("tier")?.as_str()?, &at, &mut errors)?;
    let subject: Subject = decode(spec.get("subject")?, &mut errors)?;
    let subject = pods(&subject.namespaces, &subject.pods, &at, &mut errors)?;
    let priority = spec.get("priority").and_then(Value::as_i64).unwrap_or(0).clamp(0, 1000);
    let deny =
        Rule { action: RuleAction::Deny, v6: None, source: None, destination: None, l4: None, name: None };
    let mut policy = policy(name, tier, priority, subject);
    (policy.ingress, policy.egress) = (Some(vec![deny.clone()]), Some(vec![deny]));
    policy.spares_own_node = true;
    errors.0.is_empty().then_some(policy)
}

fn policy(name: &str, tier: &str, priority: i64, subject: Selector) -> Policy {
    Policy {
        id: PolicyId { kind: PolicyKind::ClusterNetworkPolicy, namespace: None, name: name.into() },
        tier: tier.into(),
        // At most 1000: exact.
        order: Order(i32::try_from(priority).ok().map(f64::from)),
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

fn tier(name: &str, at: &At<'_>, errors: &mut Errors) -> Option<&'static str> {
    match name {
        "Admin" => Some(Tier::KUBE_ADMIN),
        "Baseline" => Some(Tier::KUBE_BASELINE),
        other => {
            errors
                .add(&at.key("tier"), Reason::Choice { value: other.to_owned(), allowed: "Admin, Baseline" });
            None
        }
    }
}

/// Action and name.
fn head(
    action: &str,
    name: Option<&str>,
    at: &At<'_>,
    errors: &mut Errors,
) -> Option<(RuleAction, Option<Arc<str>>)> {
    let name = name.filter(|name| !name.is_empty());
    if let Some(len) = name.map(|name| name.chars().count()).filter(|len| *len > 100) {
        errors.add(&at.key("name"), Reason::TooLong { len, max: 100 });
    }
    let action = match action {
        "Accept" => RuleAction::Allow,
        "Deny" => RuleAction::Deny,
        "Pass" => RuleAction::Pass,
        other => {
            let value = other.to_owned();
            errors.add(&at.key("action"), Reason::Choice { value, allowed: "Accept, Deny, Pass" });
            return None;
        }
    };
    Some((action, name.map(Arc::from)))
}

fn count(at: &At<'_>, len: usize, errors: &mut Errors) {
    if len == 0 {
        errors.add(at, Reason::Empty);
    }
    errors.limit(at, len, MAX);
}

/// Exactly one of both; pods only, whatever else has labels.
fn pods(
    namespaces: &Option<LabelSelector>,
    pods: &Option<NamespacedPod>,
    at: &At<'_>,
    errors: &mut Errors,
) -> Option<Selector> {
    let mut all = vec![is_pod()];
    match (namespaces, pods) {
        (Some(namespaces), None) => {
            all.extend(namespaces.conditions(Of::Namespace, &at.key("namespaces"), errors));
        }
        (None, Some(pods)) => {
            let at = at.key("pods");
            all.extend(pods.namespace_selector.conditions(
                Of::Namespace,
                &at.key("namespaceSelector"),
                errors,
            ));
            all.extend(pods.pod_selector.conditions(Of::Pod, &at.key("podSelector"), errors));
        }
        _ => {
            errors.add(at, Reason::Need("exactly one of namespaces, pods"));
            return None;
        }
    }
    Some(Selector::And(all))
}

fn egress_rule(rule: &EgressRule, at: &At<'_>, errors: &mut Errors) -> Option<Rule> {
    let (action, name) = head(&rule.action, rule.name.as_deref(), at, errors)?;
    let l4 = protocols(rule.protocols.as_deref(), &at.key("protocols"), errors);
    let at_peers = at.key("to");
    count(&at_peers, rule.to.len(), errors);
    let (mut peers, mut unsupported) = (Vec::new(), false);
    for (i, peer) in rule.to.iter().enumerate() {
        let at = at_peers.index(i);
        let fields = [
            peer.namespaces.is_some(),
            peer.pods.is_some(),
            peer.nodes.is_some(),
            peer.networks.is_some(),
            peer.domain_names.is_some(),
        ];
        if fields.iter().filter(|set| **set).count() != 1 {
            errors.add(&at, Reason::Need("exactly one of namespaces, pods, nodes, networks, domainNames"));
        } else if let Some(networks) = &peer.networks {
            let at = at.key("networks");
            count(&at, networks.len(), errors);
            let nets = networks.iter().enumerate().filter_map(|(i, text)| net(text, &at.index(i), errors));
            peers.push(Peer { nets: Some(nets.collect()), ..Peer::default() });
        } else if let Some(names) = &peer.domain_names {
            let at = at.key("domainNames");
            count(&at, names.len(), errors);
            if action != RuleAction::Allow {
                errors.add(&at, Reason::Conflict("only an Accept rule may have domain names"));
            }
            unsupported = true;
        } else if let Some(nodes) = &peer.nodes {
            // For its syntax only.
            nodes.conditions(Of::Namespace, &at.key("nodes"), errors);
            unsupported = true;
        } else {
            let selector = pods(&peer.namespaces, &peer.pods, &at, errors);
            peers.push(Peer { selector, ..Peer::default() });
        }
    }
    Some(match (unsupported, action) {
        (false, _) => Rule { action, v6: None, source: None, destination: Some(peers), l4, name },
        (true, RuleAction::Allow) => {
            Rule { action, v6: None, source: None, destination: Some(Vec::new()), l4, name }
        }
        (true, _) => {
            Rule { action: RuleAction::Deny, v6: None, source: None, destination: None, l4: None, name }
        }
    })
}

/// None (everything) where absent.
fn protocols(list: Option<&[Protocol]>, at: &At<'_>, errors: &mut Errors) -> Option<Vec<L4Match>> {
    let list = list?;
    count(at, list.len(), errors);
    Some(list.iter().enumerate().filter_map(|(i, one)| protocol(one, &at.index(i), errors)).collect())
}

fn protocol(one: &Protocol, at: &At<'_>, errors: &mut Errors) -> Option<L4Match> {
    let (proto, field, transport) = match (&one.tcp, &one.udp, &one.sctp, &one.destination_named_port) {
        (Some(tcp), None, None, None) => (6, "tcp", tcp),
        (None, Some(udp), None, None) => (17, "udp", udp),
        (None, None, Some(sctp), None) => (132, "sctp", sctp),
        (None, None, None, Some(name)) => {
            errors.syntax(&at.key("destinationNamedPort"), is_port_name(name), name, "port name");
            let dports = Some(vec![Ports::Named(name.as_str().into())]);
            return Some(L4Match { dports, ..L4Match::default() });
        }
        _ => {
            errors.add(at, Reason::Need("exactly one of tcp, udp, sctp, destinationNamedPort"));
            return None;
        }
    };
    let at = at.key(field);
    let at = at.key("destinationPort");
    let dports = match &transport.destination_port {
        None => None,
        Some(Port { number: Some(number), range: None }) => {
            let number = port_number(*number, &at.key("number"), errors)?;
            Some(vec![Ports::Range(number, number)])
        }
        Some(Port { number: None, range: Some(Range { start, end }) }) => {
            let at = at.key("range");
            let range =
                (port_number(*start, &at.key("start"), errors), port_number(*end, &at.key("end"), errors));
            if end <= start {
                errors.add(&at, Reason::Conflict("start must be less than end"));
            }
            Some(vec![Ports::Range(range.0?, range.1?)])
        }
        Some(_) => {
            errors.add(&at, Reason::Need("exactly one of number, range"));
            return None;
        }
    };
    Some(L4Match { proto: Some(proto), dports, ..L4Match::default() })
}

#[cfg(test)]
mod tests;
