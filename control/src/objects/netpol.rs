//! Kubernetes' NetworkPolicy, `networking.k8s.io/v1`.
//!
//! Unordered policies that only allow: in the model they are policies of one order in tier `default`, whose end denies
//! what none of them allowed. A peer given by selectors means pods; network sets and host endpoints, which have labels
//! too, are no pods.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use policy::model::{L4Match, Order, Peer, Policy, PolicyId, PolicyKind, Ports, Rule, RuleAction, Tier};
use policy::selector::Selector;
use serde::Deserialize;
use serde::de::{self, IgnoredAny};
use serde_json::Value;

use super::core::protocol;
use super::decode;
use super::field::{At, Errors, Reason};
use super::meta::{Meta, is_port_name, port_number};
use super::selector::{LabelSelector, Of, in_namespace, is_pod};

/// Where Calico puts Kubernetes' policies among its own.
const ORDER: f64 = 1000.0;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Doc {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Meta,
    spec: Option<Spec>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    from: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    to: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPeer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPort {
    protocol: Option<String>,
    port: Option<IntOrString>,
    end_port: Option<i64>,
}

/// A port by number or name.
pub(super) enum IntOrString {
    Int(i64),
    String(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = IntOrString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The policy an object means.
pub(super) fn read(namespace: &str, name: &str, value: &Value, errors: &mut Errors) -> Option<Arc<Policy>> {
    let doc: Doc = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let policy = convert(&doc.spec.unwrap_or_default(), namespace, name, errors);
    Some(Arc::new(policy))
}

fn convert(spec: &Spec, namespace: &str, name: &str, errors: &mut Errors) -> Policy {
    let at = At::root("spec");
    let types = types(spec, &at, errors);
    let everything = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
    let subject = subject(selector, namespace, &at, errors);
    let at_rules = at.key("ingress");
    let mut ingress = Vec::new();
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = at_rules.index(i);
        let source = peers(rule.from.as_deref(), namespace, &at.key("from"), errors);
        ingress.push(allow(source, None, l4(rule.ports.as_deref(), &at.key("ports"), errors)));
    }
    let at_rules = at.key("egress");
    let mut egress = Vec::new();
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let at = at_rules.index(i);
        let destination = peers(rule.to.as_deref(), namespace, &at.key("to"), errors);
        egress.push(allow(None, destination, l4(rule.ports.as_deref(), &at.key("ports"), errors)));
    }
    policy(namespace, name, subject, types.0.then_some(ingress), types.1.then_some(egress))
}

/// The policy that stands in for an invalid one: isolates what it selects in the directions it names (both, if that
/// cannot be read) and allows nothing. None where the selector cannot be read either.
pub(super) fn deny(namespace: &str, name: &str, value: &Value) -> Option<Policy> {
    let mut errors = Errors::default();
    let selector = value.pointer("/spec")?.get("podSelector").unwrap_or(&Value::Null);
    let selector: Option<LabelSelector> = decode(selector, &mut errors)?;
    let subject = subject(&selector.unwrap_or_default(), namespace, &At::root("spec"), &mut errors);
    if !errors.0.is_empty() {
        return None;
    }
    let types = value.pointer("/spec/policyTypes").filter(|types| !types.is_null());
    let (ingress, egress) = match types {
        None => (true, value.pointer("/spec/egress").is_some_and(|e| !e.is_null())),
        Some(Value::Array(types))
            if types.iter().all(|t| t == "Ingress" || t == "Egress") && !types.is_empty() =>
        {
            (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress"))
        }
        Some(_) => (true, true),
    };
    Some(policy(namespace, name, subject, ingress.then(Vec::new), egress.then(Vec::new)))
}

fn policy(
    namespace: &str,
    name: &str,
    subject: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> Policy {
    Policy {
        id: PolicyId {
            kind: PolicyKind::KubernetesNetworkPolicy,
            namespace: Some(namespace.into()),
            name: name.into(),
        },
        tier: Tier::DEFAULT.into(),
        order: Order(Some(ORDER)),
        subject,
        ingress,
        egress,
        staged: false,
        staged_delete: false,
        spares_own_node: true,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    }
}

fn subject(selector: &LabelSelector, namespace: &str, at: &At<'_>, errors: &mut Errors) -> Selector {
    let mut all = vec![is_pod(), in_namespace(namespace)];
    all.extend(selector.conditions(Of::Pod, &at.key("podSelector"), errors));
    Selector::And(all)
}

/// Does the policy apply to ingress, to egress?
fn types(spec: &Spec, at: &At<'_>, errors: &mut Errors) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
    }
    let at = at.key("policyTypes");
    errors.limit(&at, types.len(), 2);
    for (i, name) in types.iter().enumerate() {
        if !matches!(&**name, "Ingress" | "Egress") {
            errors.add(&at.index(i), Reason::Choice { value: name.clone(), allowed: "Ingress, Egress" });
        }
    }
    (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress"))
}

fn allow(source: Option<Vec<Peer>>, destination: Option<Vec<Peer>>, l4: Option<Vec<L4Match>>) -> Rule {
    Rule { action: RuleAction::Allow, v6: None, source, destination, l4, name: None }
}

/// None (anywhere) for no peers and for an empty list alike.
fn peers(
    peers: Option<&[PolicyPeer]>,
    namespace: &str,
    at: &At<'_>,
    errors: &mut Errors,
) -> Option<Vec<Peer>> {
    let peers = peers.filter(|peers| !peers.is_empty())?;
    Some(peers.iter().enumerate().filter_map(|(i, p)| peer(p, namespace, &at.index(i), errors)).collect())
}

fn peer(peer: &PolicyPeer, namespace: &str, at: &At<'_>, errors: &mut Errors) -> Option<Peer> {
    let (pods, namespaces) = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
    if let Some(block) = &peer.ip_block {
        if pods.is_some() || namespaces.is_some() {
            errors.add(at, Reason::Conflict("ipBlock excludes podSelector and namespaceSelector"));
        }
        return ip_block(block, &at.key("ipBlock"), errors);
    }
    if pods.is_none() && namespaces.is_none() {
        errors.add(at, Reason::Need("one of podSelector, namespaceSelector, ipBlock"));
        return None;
    }
    let mut all = vec![is_pod()];
    match namespaces {
        None => all.push(in_namespace(namespace)),
        Some(selector) => {
            all.extend(selector.conditions(Of::Namespace, &at.key("namespaceSelector"), errors));
        }
    }
    if let Some(selector) = pods {
        all.extend(selector.conditions(Of::Pod, &at.key("podSelector"), errors));
    }
    Some(Peer { selector: Some(Selector::And(all)), ..Peer::default() })
}

fn ip_block(block: &IpBlock, at: &At<'_>, errors: &mut Errors) -> Option<Peer> {
    let cidr = net(&block.cidr, &at.key("cidr"), errors);
    let at = at.key("except");
    let mut not_nets = Vec::new();
    for (i, except) in block.except.iter().flatten().enumerate() {
        let at = at.index(i);
        let Some(except) = net(except, &at, errors) else { continue };
        match cidr {
            Some(cidr) if !cidr.contains(&except) || cidr == except => {
                errors.add(&at, Reason::NotInside { except, cidr });
            }
            _ => not_nets.push(except),
        }
    }
    Some(Peer { nets: Some(vec![cidr?]), not_nets, ..Peer::default() })
}

/// A prefix without host bits; an IPv4-mapped IPv6 one would be read in two ways, so it is none.
pub(super) fn net(text: &str, at: &At<'_>, errors: &mut Errors) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().map(|net| net.trunc()).filter(
        |net| !matches!(net, IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some()),
    );
    errors.syntax(at, net.is_some(), text, "CIDR prefix such as 10.0.0.0/8 or fd00::/64");
    net
}

/// None (everything) for no ports and for an empty list alike.
fn l4(ports: Option<&[PolicyPort]>, at: &At<'_>, errors: &mut Errors) -> Option<Vec<L4Match>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    Some(ports.iter().enumerate().filter_map(|(i, p)| port(p, &at.index(i), errors)).collect())
}

fn port(port: &PolicyPort, at: &At<'_>, errors: &mut Errors) -> Option<L4Match> {
    let proto = protocol(port.protocol.as_deref(), &at.key("protocol"), errors);
    let (at_port, at_end) = (at.key("port"), at.key("endPort"));
    let dports = match (&port.port, port.end_port) {
        (None, None) => None,
        (Some(IntOrString::Int(first)), end) => {
            let from = port_number(*first, &at_port, errors);
            let to = end.map_or(from, |last| port_number(last, &at_end, errors));
            if let Some(last) = end.filter(|last| last < first) {
                errors.add(&at_end, Reason::Backwards { first: *first, last });
            }
            Some(vec![Ports::Range(from?, to?)])
        }
        (Some(IntOrString::String(name)), end) => {
            errors.syntax(&at_port, is_port_name(name), name, "port name");
            if end.is_some() {
                errors.add(&at_end, Reason::Conflict("needs a port that is a number"));
            }
            Some(vec![Ports::Named(name.as_str().into())])
        }
        (None, Some(_)) => {
            errors.add(&at_end, Reason::Conflict("needs a port"));
            None
        }
    };
    Some(L4Match { proto: Some(proto?), dports, ..L4Match::default() })
}
