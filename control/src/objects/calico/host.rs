//! Calico's HostEndpoint.

use std::net::IpAddr;
use std::sync::Arc;

use policy::model::NamedPort;
use serde::Deserialize;
use serde_json::Value;

use super::super::core::ip;
use super::super::decode;
use super::super::field::{At, Errors, Reason};
use super::super::meta::{LabelMap, is_dns_subdomain, port_number};
use super::super::netpol::IntOrString;
use super::Doc;
use super::rule::protocol;

/// The profile that allows everything.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// A host's interface that policy applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    pub(crate) labels: LabelMap,
    /// The node's name.
    pub node: Arc<str>,
    /// The interface's name, `*` for all of them; none = the one with one of the addresses.
    pub interface: Option<Arc<str>>,
    /// Its addresses; may be empty where there is an interface.
    pub addrs: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// What happens where no policy applies: it has the profile that allows. Other profiles are not known here, and
    /// allow nothing.
    pub default_allow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    node: String,
    interface_name: Option<String>,
    #[serde(rename = "expectedIPs")]
    expected_ips: Option<Vec<String>>,
    profiles: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    name: String,
    protocol: IntOrString,
    port: i64,
}

pub(in super::super) fn read(value: &Value, errors: &mut Errors) -> Option<HostEndpoint> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let (spec, at) = (doc.spec, At::root("spec"));
    errors.syntax(&at.key("node"), is_dns_subdomain(&spec.node), &spec.node, "node name");
    let interface = spec.interface_name.filter(|name| !name.is_empty());
    if let Some(name) = &interface {
        let good = name == "*" || crate::names::check_ifname(name).is_ok();
        errors.syntax(&at.key("interfaceName"), good, name, "interface name");
    }
    let (at_ips, mut addrs) = (at.key("expectedIPs"), Vec::new());
    for (i, text) in spec.expected_ips.iter().flatten().enumerate() {
        addrs.extend(ip(text, &at_ips.index(i), errors));
    }
    if interface.is_none() && addrs.is_empty() {
        errors.add(&at, Reason::Need("one of interfaceName, expectedIPs"));
    }
    let (at_ports, mut ports) = (at.key("ports"), Vec::new());
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let at = at_ports.index(i);
        let good = (1..=128).contains(&port.name.len())
            && port.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        errors.syntax(&at.key("name"), good, &port.name, "port name");
        let number = port_number(port.port, &at.key("port"), errors);
        let proto = protocol(Some(&port.protocol), &at.key("protocol"), errors);
        if let (Some(number), Some(proto)) = (number, proto) {
            ports.push(NamedPort { name: port.name.as_str().into(), proto, number });
        }
    }
    Some(HostEndpoint {
        labels: doc.metadata.labels.unwrap_or_default(),
        node: spec.node.into(),
        interface: interface.map(Arc::from),
        addrs,
        ports,
        default_allow: spec.profiles.iter().flatten().any(|profile| profile == DEFAULT_ALLOW),
    })
}
