//! A node's annotations beside the Kubernetes API: what a lease says there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{FormatError, bad};
use super::lease::{LeaseBackend, LeaseValue, Vtep, node_address};

/// What the names begin with, unless flannel was told otherwise.
pub const PREFIX: &str = "flannel.alpha.coreos.com/";

/// Name to value.
pub type Map = BTreeMap<String, String>;

/// What an operator wrote for a node to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    /// `public-ip-overwrite`: published instead of the node's own address.
    pub overwrite: Option<Ipv4Addr>,
    /// `public-ipv6-overwrite`
    pub overwrite6: Option<Ipv6Addr>,
    /// `node-public-ip`: which of the node's addresses is its own, read at start.
    pub node_public_ip: Option<Ipv4Addr>,
    /// `node-public-ipv6`
    pub node_public_ip6: Option<Ipv6Addr>,
}

/// Reads what a node published; none = flannel does not manage it.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(annotations: &Map, prefix: &str) -> Result<Option<LeaseValue>, FormatError> {
    let get = |name: &str| annotations.get(&format!("{prefix}{name}")).map(String::as_str);
    if get("kube-subnet-manager") != Some("true") {
        return Ok(None);
    }
    let public_ip =
        address(annotations, prefix, "public-ip")?.ok_or(FormatError::Missing { field: "public-ip" })?;
    let vtep = |name| get(name).map_or(Ok(None), |text| Vtep::parse(text.as_bytes()));
    let backend = match get("backend-type").unwrap_or_default() {
        "" => LeaseBackend::None,
        "udp" => LeaseBackend::Udp,
        "vxlan" => LeaseBackend::Vxlan { v4: vtep("backend-data")?, v6: vtep("backend-v6-data")? },
        "host-gw" => LeaseBackend::HostGw,
        "ipip" => LeaseBackend::Ipip,
        other => LeaseBackend::Other(other.chars().take(100).collect()),
    };
    Ok(Some(LeaseValue { public_ip, public_ipv6: address(annotations, prefix, "public-ipv6")?, backend }))
}

/// What our own node's annotations have to be. An overwritten address goes before the one in `value`.
#[must_use]
pub fn emit(value: &LeaseValue, orders: &Orders, prefix: &str) -> Map {
    let data = |vtep: Option<Vtep>| vtep.map_or_else(|| "null".to_owned(), |vtep| vtep.encode());
    let (v4, v6) = match value.backend {
        LeaseBackend::Vxlan { v4, v6 } => (v4, v6),
        _ => (None, None),
    };
    let mut map = Map::new();
    let mut put = |name: &str, value: String| map.insert(format!("{prefix}{name}"), value);
    put("kube-subnet-manager", "true".to_owned());
    put("backend-type", value.backend.kind().to_owned());
    put("backend-data", data(v4));
    put("public-ip", orders.overwrite.unwrap_or(value.public_ip).to_string());
    if let Some(own) = value.public_ipv6 {
        put("backend-v6-data", data(v6));
        put("public-ipv6", orders.overwrite6.unwrap_or(own).to_string());
    }
    map
}

/// What an operator wrote on our own node.
///
/// # Errors
/// The first thing that is wrong.
pub fn orders(annotations: &Map, prefix: &str) -> Result<Orders, FormatError> {
    Ok(Orders {
        overwrite: address(annotations, prefix, "public-ip-overwrite")?,
        overwrite6: address(annotations, prefix, "public-ipv6-overwrite")?,
        node_public_ip: address(annotations, prefix, "node-public-ip")?,
        node_public_ip6: address(annotations, prefix, "node-public-ipv6")?,
    })
}

fn address<A>(annotations: &Map, prefix: &str, name: &'static str) -> Result<Option<A>, FormatError>
where
    A: std::str::FromStr + Into<IpAddr> + Copy,
{
    let Some(text) = annotations.get(&format!("{prefix}{name}")).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let addr: A = text.parse().map_err(|_| bad(name, text, "is no address of this family"))?;
    node_address(name, addr.into()).map(|()| Some(addr))
}

#[cfg(test)]
mod tests;
