//! Kubernetes' core kinds, as far as policy depends on them: who has which labels, addresses and named ports.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::model::NamedPort;
use serde::Deserialize;
use serde_json::Value;

use super::decode;
use super::field::{At, Errors, Reason};
use super::meta::{LabelMap, Meta, is_dns_subdomain, is_port_name, port_number};
use crate::flannel::{LeaseValue, annotations};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub(crate) labels: LabelMap,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    pub(crate) labels: LabelMap,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(crate) labels: LabelMap,
    /// Its addresses (`InternalIP` and `ExternalIP`).
    pub addrs: Vec<IpAddr>,
    /// The ranges of its pods (`spec.podCIDRs`).
    pub pod_cidrs: Vec<IpNet>,
    /// How flannel there is reached, by the node's annotations.
    pub flannel: Option<LeaseValue>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub(crate) labels: LabelMap,
    /// The node it runs on, if known.
    pub node: Option<Arc<str>>,
    /// Its service account's name.
    pub service_account: Arc<str>,
    /// It shares its node's network: its address is its node's, and it is no endpoint.
    pub host_network: bool,
    /// It has ended (phase Succeeded or Failed): its address may be another's by now.
    pub ended: bool,
    /// Its addresses, if known.
    pub addrs: Vec<IpAddr>,
    /// Its containers' named ports.
    pub ports: Vec<NamedPort>,
    /// What its annotations say of the addresses it is to have.
    pub wishes: Wishes,
}

/// Calico's annotations about a pod's addresses: lists in JSON. What cannot be read is an error when the pod is
/// attached, not of the object: policy must not depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wishes {
    /// `cni.projectcalico.org/ipAddrs`
    pub addrs: Option<Arc<str>>,
    /// `cni.projectcalico.org/ipv4pools`
    pub pools4: Option<Arc<str>>,
    /// `cni.projectcalico.org/ipv6pools`
    pub pools6: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Plain {
    metadata: Meta,
}

pub(super) fn namespace(value: &Value, errors: &mut Errors) -> Option<Namespace> {
    let plain: Plain = decode(value, errors)?;
    plain.metadata.check_labels(errors);
    Some(Namespace { labels: plain.metadata.labels.unwrap_or_default() })
}

pub(super) fn service_account(value: &Value, errors: &mut Errors) -> Option<ServiceAccount> {
    let plain: Plain = decode(value, errors)?;
    plain.metadata.check_labels(errors);
    Some(ServiceAccount { labels: plain.metadata.labels.unwrap_or_default() })
}

#[derive(Deserialize)]
struct NodeDoc {
    metadata: Meta,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Deserialize, Default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

/// Of a node's `metadata` what [`Meta`] leaves out.
#[derive(Deserialize)]
struct NodeAnnotations {
    metadata: Annotated,
}

#[derive(Deserialize)]
struct Annotated {
    annotations: Option<annotations::Map>,
}

#[derive(Deserialize)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize)]
struct NodeAddress {
    r#type: String,
    address: String,
}

pub(super) fn node(value: &Value, errors: &mut Errors) -> Option<Node> {
    let doc: NodeDoc = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let status = At::root("status");
    let at = status.key("addresses");
    let mut addrs = Vec::new();
    for (i, address) in doc.status.and_then(|s| s.addresses).iter().flatten().enumerate() {
        if matches!(&*address.r#type, "InternalIP" | "ExternalIP") {
            addrs.extend(ip(&address.address, &at.index(i).key("address"), errors));
        }
    }
    let spec = At::root("spec");
    let at = spec.key("podCIDRs");
    let mut pod_cidrs = Vec::new();
    let NodeSpec { pod_cidr, pod_cidrs: several } = doc.spec.unwrap_or_default();
    // The API keeps the first of several under the old name too.
    for (i, text) in several.unwrap_or_else(|| pod_cidr.into_iter().collect()).iter().enumerate() {
        match text.parse::<IpNet>() {
            Ok(net) => pod_cidrs.push(net.trunc()),
            Err(_) => errors.syntax(&at.index(i), false, text, "range of addresses"),
        }
    }
    let NodeAnnotations { metadata } = decode(value, errors)?;
    let at = At::root("metadata");
    let flannel = match annotations::parse(&metadata.annotations.unwrap_or_default(), annotations::PREFIX) {
        Ok(flannel) => flannel,
        Err(err) => {
            errors.add(&at.key("annotations"), Reason::Shape(format!("{}{err}", annotations::PREFIX)));
            None
        }
    };
    Some(Node { labels: doc.metadata.labels.unwrap_or_default(), addrs, pod_cidrs, flannel })
}

#[derive(Deserialize)]
struct PodDoc {
    metadata: Meta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

pub(super) fn pod(value: &Value, errors: &mut Errors) -> Option<Pod> {
    let doc: PodDoc = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let (spec, status) = (doc.spec.unwrap_or_default(), doc.status.unwrap_or_default());
    let service_account = spec.service_account_name.filter(|name| !name.is_empty());
    let service_account = service_account.as_deref().unwrap_or("default");
    let at_spec = At::root("spec");
    let at_account = at_spec.key("serviceAccountName");
    errors.syntax(&at_account, is_dns_subdomain(service_account), service_account, "service account name");
    let mut ports = Vec::new();
    let at = at_spec.key("containers");
    for (i, container) in spec.containers.iter().flatten().enumerate() {
        named_ports(container, &at.index(i), &mut ports, errors);
    }
    // Of the init containers, sidecars go on running beside the others.
    let at = at_spec.key("initContainers");
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        if container.restart_policy.as_deref() == Some("Always") {
            named_ports(container, &at.index(i), &mut ports, errors);
        }
    }
    let at_status = At::root("status");
    let mut addrs = Vec::new();
    let at = at_status.key("podIPs");
    for (i, pod_ip) in status.pod_ips.iter().flatten().enumerate() {
        addrs.extend(ip(&pod_ip.ip, &at.index(i).key("ip"), errors));
    }
    if let Some(text) = status.pod_ip.filter(|text| !text.is_empty()) {
        addrs.extend(ip(&text, &at_status.key("podIP"), errors));
    }
    addrs.sort_unstable();
    addrs.dedup();
    let annotation = |name: &str| {
        let key = format!("cni.projectcalico.org/{name}");
        doc.metadata.annotation(&key).map(Arc::from)
    };
    let wishes = Wishes {
        addrs: annotation("ipAddrs"),
        pools4: annotation("ipv4pools"),
        pools6: annotation("ipv6pools"),
    };
    Some(Pod {
        wishes,
        labels: doc.metadata.labels.unwrap_or_default(),
        node: spec.node_name.filter(|name| !name.is_empty()).map(Arc::from),
        service_account: service_account.into(),
        host_network: spec.host_network.unwrap_or(false),
        ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        addrs,
        ports,
    })
}

fn named_ports(container: &Container, at: &At<'_>, ports: &mut Vec<NamedPort>, errors: &mut Errors) {
    let at = at.key("ports");
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let at = at.index(i);
        let number = port_number(port.container_port, &at.key("containerPort"), errors);
        let proto = protocol(port.protocol.as_deref(), &at.key("protocol"), errors);
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        errors.syntax(&at.key("name"), is_port_name(name), name, "port name");
        if let (Some(number), Some(proto)) = (number, proto) {
            ports.push(NamedPort { name: name.into(), proto, number });
        }
    }
}

/// `TCP` (also where absent), `UDP` or `SCTP`, as IP protocol number.
pub(super) fn protocol(name: Option<&str>, at: &At<'_>, errors: &mut Errors) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        other => {
            errors.add(at, Reason::Choice { value: other.to_owned(), allowed: "TCP, UDP, SCTP" });
            None
        }
    }
}

/// An address; an IPv4-mapped IPv6 one would be read in two ways, so it is none.
pub(super) fn ip(text: &str, at: &At<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let addr =
        text.parse().ok().filter(|addr| !matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()));
    errors.syntax(at, addr.is_some(), text, "IP address");
    addr
}
