//! A rule of Calico's policies.

use std::collections::BTreeMap;

use ipnet::IpNet;
use policy::model::{L4Match, Peer, Ports, Rule, RuleAction};
use policy::selector::{self, Selector};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::field::{At, Errors, Reason};
use super::super::meta::{is_dns_label, is_dns_subdomain, port_number};
use super::super::netpol::{IntOrString, net};
use super::super::selector::in_namespace;
use super::{Whose, given, no_global, parse};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleSpec {
    action: String,
    ip_version: Option<i64>,
    protocol: Option<IntOrString>,
    not_protocol: Option<IntOrString>,
    icmp: Option<Icmp>,
    #[serde(rename = "notICMP")]
    not_icmp: Option<Icmp>,
    source: Option<Entity>,
    destination: Option<Entity>,
    http: Option<Http>,
    #[serde(rename = "metadata")]
    _metadata: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    #[serde(rename = "annotations")]
    _annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    #[serde(rename = "methods")]
    _methods: Option<IgnoredAny>,
    #[serde(rename = "paths")]
    _paths: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Icmp {
    r#type: Option<i64>,
    code: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entity {
    nets: Option<Vec<String>>,
    not_nets: Option<Vec<String>>,
    selector: Option<String>,
    not_selector: Option<String>,
    namespace_selector: Option<String>,
    services: Option<Services>,
    ports: Option<Vec<IntOrString>>,
    not_ports: Option<Vec<IntOrString>>,
    service_accounts: Option<ServiceAccounts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Services {
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceAccounts {
    names: Option<Vec<String>>,
    selector: Option<String>,
}

/// IP protocol numbers of what ports belong to.
const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

pub(super) fn read(
    spec: &RuleSpec,
    namespace: Option<&str>,
    ingress: bool,
    at: &At<'_>,
    errors: &mut Errors,
) -> Option<Rule> {
    let action = match &*spec.action {
        "Allow" => Some(RuleAction::Allow),
        "Deny" => Some(RuleAction::Deny),
        "Log" => Some(RuleAction::Log),
        "Pass" => Some(RuleAction::Pass),
        other => {
            let value = other.to_owned();
            errors.add(&at.key("action"), Reason::Choice { value, allowed: "Allow, Deny, Log, Pass" });
            None
        }
    };
    let v6 = spec.ip_version.map(|version| {
        if version != 4 && version != 6 {
            let value = version.to_string();
            errors.add(&at.key("ipVersion"), Reason::Choice { value, allowed: "4, 6" });
        }
        version == 6
    });
    let none = Entity::default();
    let (source, destination) =
        (spec.source.as_ref().unwrap_or(&none), spec.destination.as_ref().unwrap_or(&none));
    let (at_source, at_destination) = (at.key("source"), at.key("destination"));
    let l4 = l4(spec, [source, destination], v6, at, errors);
    check_services(source, ingress, &at_source, errors);
    check_services(destination, false, &at_destination, errors);
    if spec.http.is_some() {
        if action.is_some_and(|action| action != RuleAction::Allow) {
            errors.add(&at.key("http"), Reason::Conflict("only an Allow rule may have it"));
        }
        if !matches!(l4.proto, None | Some(6)) {
            errors.add(&at.key("http"), Reason::Conflict("needs protocol TCP"));
        }
    }
    let unsupported = spec.http.is_some() || source.services.is_some() || destination.services.is_some();
    let source = peer(source, namespace, &at_source, errors);
    let destination = peer(destination, namespace, &at_destination, errors);
    let rule = |action, source, destination, l4| Rule { action, v6, source, destination, l4, name: None };
    Some(match (unsupported, action?) {
        (false, action) => rule(action, source, destination, (l4 != L4Match::default()).then(|| vec![l4])),
        (true, action @ (RuleAction::Allow | RuleAction::Log)) => rule(action, Some(Vec::new()), None, None),
        (true, RuleAction::Deny | RuleAction::Pass) => {
            Rule { v6: None, ..rule(RuleAction::Deny, None, None, None) }
        }
    })
}

fn l4(spec: &RuleSpec, ends: [&Entity; 2], v6: Option<bool>, at: &At<'_>, errors: &mut Errors) -> L4Match {
    let proto = protocol(spec.protocol.as_ref(), &at.key("protocol"), errors);
    let not_proto = protocol(spec.not_protocol.as_ref(), &at.key("notProtocol"), errors);
    for (proto, field) in [(proto, "protocol"), (not_proto, "notProtocol")] {
        match (proto, v6) {
            (Some(1), Some(true)) => errors.add(&at.key(field), Reason::Conflict("ICMP needs ipVersion 4")),
            (Some(58), Some(false)) => {
                errors.add(&at.key(field), Reason::Conflict("ICMPv6 needs ipVersion 6"))
            }
            _ => {}
        }
    }
    let icmp = |fields: Option<&Icmp>, field, errors: &mut Errors| {
        let (fields, at) = (fields?, at.key(field));
        if !matches!(proto, Some(1 | 58)) {
            errors.add(&at, Reason::Conflict("needs protocol ICMP or ICMPv6"));
        }
        let number = |value: i64, max: i64, at: &At<'_>, errors: &mut Errors| {
            if !(0..=max).contains(&value) {
                errors.add(at, Reason::Range { value, min: 0, max });
            }
            u8::try_from(value).ok()
        };
        let code = fields.code.and_then(|code| number(code, 255, &at.key("code"), errors));
        match fields.r#type {
            Some(r#type) => Some((number(r#type, 254, &at.key("type"), errors)?, code)),
            None => {
                if code.is_some() {
                    errors.add(&at.key("code"), Reason::Conflict("needs a type"));
                }
                None
            }
        }
    };
    let [source, destination] = ends;
    let (at_source, at_destination) = (at.key("source"), at.key("destination"));
    let l4 = L4Match {
        proto,
        not_proto,
        sports: ports(source.ports.as_deref(), &at_source.key("ports"), errors),
        not_sports: ports(source.not_ports.as_deref(), &at_source.key("notPorts"), errors)
            .unwrap_or_default(),
        dports: ports(destination.ports.as_deref(), &at_destination.key("ports"), errors),
        not_dports: ports(destination.not_ports.as_deref(), &at_destination.key("notPorts"), errors)
            .unwrap_or_default(),
        icmp: icmp(spec.icmp.as_ref(), "icmp", errors),
        not_icmp: icmp(spec.not_icmp.as_ref(), "notICMP", errors),
    };
    let has_ports = l4.sports.is_some() || l4.dports.is_some();
    if (has_ports || !l4.not_sports.is_empty() || !l4.not_dports.is_empty())
        && !proto.is_some_and(|proto| WITH_PORTS.contains(&proto))
    {
        errors.add(&at.key("protocol"), Reason::Conflict("ports need protocol TCP, UDP, UDPLite or SCTP"));
    }
    l4
}

/// By name, or by number 1 to 255.
pub(super) fn protocol(proto: Option<&IntOrString>, at: &At<'_>, errors: &mut Errors) -> Option<u8> {
    match proto? {
        IntOrString::Int(number) => match u8::try_from(*number) {
            Ok(proto) if proto > 0 => Some(proto),
            _ => {
                errors.add(at, Reason::Range { value: *number, min: 1, max: 255 });
                None
            }
        },
        IntOrString::String(name) => match &*name.to_ascii_lowercase() {
            "tcp" => Some(6),
            "udp" => Some(17),
            "icmp" => Some(1),
            "icmpv6" => Some(58),
            "sctp" => Some(132),
            "udplite" => Some(136),
            number => match number.parse::<u8>() {
                Ok(proto) if proto > 0 => Some(proto),
                _ => {
                    let allowed = "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, 1 to 255";
                    errors.add(at, Reason::Choice { value: name.chars().take(300).collect(), allowed });
                    None
                }
            },
        },
    }
}

/// None for an empty list, as if it were absent.
fn ports(list: Option<&[IntOrString]>, at: &At<'_>, errors: &mut Errors) -> Option<Vec<Ports>> {
    let list = list.filter(|list| !list.is_empty())?;
    errors.limit(at, list.len(), 50);
    Some(list.iter().enumerate().filter_map(|(i, one)| port(one, &at.index(i), errors)).collect())
}

fn port(one: &IntOrString, at: &At<'_>, errors: &mut Errors) -> Option<Ports> {
    let text = match one {
        IntOrString::Int(number) => {
            let number = port_number(*number, at, errors)?;
            return Some(Ports::Range(number, number));
        }
        IntOrString::String(text) => text,
    };
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    if let (Ok(first), Ok(last)) = (from.parse::<i64>(), to.parse::<i64>()) {
        if last < first {
            errors.add(at, Reason::Backwards { first, last });
        }
        return Some(Ports::Range(port_number(first, at, errors)?, port_number(last, at, errors)?));
    }
    let name = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    errors.syntax(at, name, text, "port: a number, \"min:max\", or a name");
    Some(Ports::Named(text.as_str().into()))
}

fn check_services(entity: &Entity, ports: bool, at: &At<'_>, errors: &mut Errors) {
    let Some(services) = &entity.services else { return };
    let at = at.key("services");
    errors.syntax(&at.key("name"), is_dns_subdomain(&services.name), &services.name, "service name");
    if let Some(namespace) = given(services.namespace.as_deref()) {
        errors.syntax(&at.key("namespace"), is_dns_label(namespace), namespace, "namespace name");
    }
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let text = |text: &Option<String>| given(text.as_deref()).is_some();
    if any(&entity.nets)
        || any(&entity.not_nets)
        || text(&entity.selector)
        || text(&entity.not_selector)
        || text(&entity.namespace_selector)
        || entity.service_accounts.is_some()
    {
        errors.add(&at, Reason::Conflict("excludes nets, selectors and serviceAccounts"));
    }
    if !ports && (entity.ports.is_some() || entity.not_ports.is_some()) {
        errors.add(&at, Reason::Conflict("excludes ports here"));
    }
}

/// None = anywhere.
fn peer(entity: &Entity, namespace: Option<&str>, at: &At<'_>, errors: &mut Errors) -> Option<Vec<Peer>> {
    let nets = nets(entity.nets.as_deref(), &at.key("nets"), errors);
    let not_nets = nets_of(entity.not_nets.as_deref(), &at.key("notNets"), errors);
    let mut all = Vec::new();
    let parsed = |text: &Option<String>, field: &str, whose, errors: &mut Errors| {
        let (text, at) = (given(text.as_deref())?, at.key(field));
        if whose != Whose::Namespace {
            no_global(text, &at, errors);
        }
        parse(text, whose, &at, errors)
    };
    let own = parsed(&entity.selector, "selector", Whose::Own, errors);
    let not_selector = parsed(&entity.not_selector, "notSelector", Whose::Own, errors);
    let of_namespace = parsed(&entity.namespace_selector, "namespaceSelector", Whose::Namespace, errors);
    let accounts = entity.service_accounts.as_ref().map(|accounts| {
        let at = at.key("serviceAccounts");
        service_accounts(accounts, &at, errors)
    });
    let selects = own.is_some() || not_selector.is_some() || accounts.is_some();
    match (of_namespace, namespace) {
        (Some(selector), _) => all.push(selector),
        // A namespaced policy's selectors stay in its namespace unless it says otherwise.
        (None, Some(namespace)) if selects => all.push(in_namespace(namespace)),
        (None, _) => {}
    }
    all.extend(own);
    all.extend(accounts.into_iter().flatten());
    let selector = (!all.is_empty()).then_some(Selector::And(all));
    let peer = Peer { nets, not_nets, selector, not_selector };
    (peer != Peer::default()).then(|| vec![peer])
}

fn service_accounts(accounts: &ServiceAccounts, at: &At<'_>, errors: &mut Errors) -> Vec<Selector> {
    let mut all = Vec::new();
    if let Some(names) = accounts.names.as_ref().filter(|names| !names.is_empty()) {
        let at = at.key("names");
        for (i, name) in names.iter().enumerate() {
            errors.syntax(&at.index(i), is_dns_subdomain(name), name, "service account name");
        }
        let names = names.iter().map(|name| name.as_str().into()).collect();
        all.push(Selector::In(selector::SERVICE_ACCOUNT.into(), names));
    }
    if let Some(text) = given(accounts.selector.as_deref()) {
        let at = at.key("selector");
        no_global(text, &at, errors);
        all.extend(parse(text, Whose::ServiceAccount, &at, errors));
    }
    if all.is_empty() {
        all.push(Selector::Has(selector::SERVICE_ACCOUNT.into()));
    }
    all
}

/// None for an empty list, as if it were absent.
fn nets(list: Option<&[String]>, at: &At<'_>, errors: &mut Errors) -> Option<Vec<IpNet>> {
    let list = list.filter(|list| !list.is_empty())?;
    Some(nets_of(Some(list), at, errors))
}

fn nets_of(list: Option<&[String]>, at: &At<'_>, errors: &mut Errors) -> Vec<IpNet> {
    let list = list.unwrap_or_default();
    errors.limit(at, list.len(), 256);
    list.iter().enumerate().filter_map(|(i, text)| net_or_ip(text, &at.index(i), errors)).collect()
}

/// A prefix, or an address as the prefix of it alone.
pub(super) fn net_or_ip(text: &str, at: &At<'_>, errors: &mut Errors) -> Option<IpNet> {
    match text.parse::<std::net::IpAddr>() {
        Ok(addr) => net(&IpNet::from(addr).to_string(), at, errors),
        Err(_) => net(text, at, errors),
    }
}
