//! The network's configuration: key `config` in etcd, `net-conf.json` beside the Kubernetes API.
//!
//! The defaults and bounds are those of flannel's code where its documents say otherwise: without `Backend` the type is
//! `udp`, and a `Backend` without `Type` is an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::field::{Fields, FormatError, bad};
use crate::config::Tunnel;
use crate::config::nets;
use crate::mac::Mac;

/// Longest text that is read, in bytes.
pub const MOST_TEXT: usize = 64 << 10;

/// The network of all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The IPv4 network; the lease's format has no form without one.
    pub v4: Pool,
    /// The IPv6 network, where there is one.
    pub v6: Option<Pool>,
    /// How packets travel between nodes.
    pub backend: BackendConfig,
}

/// One family's network, and which part of it is given to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// All of it, host bits zero.
    pub network: IpNet,
    /// Prefix length of a node's subnet.
    pub subnet_len: u8,
    /// Address of the first subnet that is given out.
    pub min: IpAddr,
    /// Address of the last one.
    pub max: IpAddr,
}

/// `Backend`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendConfig {
    /// `udp`
    Udp {
        /// UDP port.
        port: u16,
    },
    /// `vxlan`
    Vxlan {
        /// Segment, 1 to 2^24 - 1.
        vni: u32,
        /// UDP port; flannel's 0 is the kernel's default, 8472.
        port: u16,
        /// Peers on our own subnet are reached without the tunnel.
        direct_routing: bool,
    },
    /// `host-gw`
    HostGw,
    /// `ipip`
    Ipip {
        /// Peers on our own subnet are reached without the tunnel.
        direct_routing: bool,
    },
    /// Any other, by its name.
    Other(String),
}

/// A backend that is not spoken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Backend.Type = {0:?} is not supported; there is vxlan, udp, host-gw, ipip")]
pub struct UnsupportedBackend(pub String);

impl BackendConfig {
    /// `BackendType` in leases: flannel's `udp` writes none.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            BackendConfig::Udp { .. } => "udp",
            BackendConfig::Vxlan { .. } => "vxlan",
            BackendConfig::HostGw => "host-gw",
            BackendConfig::Ipip { .. } => "ipip",
            BackendConfig::Other(kind) => kind,
        }
    }

    /// The tunnel that speaks it. `vtep_mac` is the MAC of our end.
    ///
    /// # Errors
    /// [`UnsupportedBackend`].
    pub fn tunnel(&self, vtep_mac: Mac) -> Result<Tunnel, UnsupportedBackend> {
        match *self {
            BackendConfig::Udp { port } => Ok(Tunnel::Udp { port, cross_subnet: false }),
            BackendConfig::Vxlan { vni, port, direct_routing: cross_subnet } => {
                Ok(Tunnel::Vxlan { vni, port, vtep_mac: Some(vtep_mac), cross_subnet })
            }
            BackendConfig::HostGw => Ok(Tunnel::Direct),
            BackendConfig::Ipip { direct_routing: cross_subnet } => Ok(Tunnel::Ipip { cross_subnet }),
            BackendConfig::Other(_) => Err(UnsupportedBackend(self.kind().chars().take(100).collect())),
        }
    }
}

impl NetworkConfig {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &[u8]) -> Result<NetworkConfig, FormatError> {
        let fields = Fields::parse(text, MOST_TEXT)?;
        // Documents show `Network` without the switches, so IPv4 is on unless it is turned off.
        if !fields.flag("EnableIPv4")?.unwrap_or(true) {
            return Err(bad("EnableIPv4", "false", "a lease's key has no form without an IPv4 subnet"));
        }
        let v4 = v4(&fields)?;
        let v6 = if fields.flag("EnableIPv6")?.unwrap_or(false) { Some(v6(&fields)?) } else { None };
        Ok(NetworkConfig { v4, v6, backend: backend(&fields)? })
    }

    /// The networks of both families.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        std::iter::once(&self.v4).chain(&self.v6).map(|pool| pool.network).collect()
    }
}

impl Pool {
    /// Is this a subnet that a node may be given?
    #[must_use]
    pub fn fits(&self, subnet: &IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len
            && subnet.addr() == subnet.network()
            && self.network.contains(subnet)
            && (self.min..=self.max).contains(&subnet.network())
    }
}

/// Family independent: `bits` is 32 or 128, `longest` the longest prefix that has a default length of subnets.
struct Rules {
    bits: u8,
    most_len: u8,
    longest: u8,
    usual_up_to: u8,
    usual: u8,
    len: &'static str,
    network: &'static str,
}

impl Rules {
    fn subnet_len(&self, given: Option<u64>, network: u8) -> Result<u8, FormatError> {
        match given.unwrap_or(0) {
            0 if network > self.longest => Err(bad(self.network, network, "too small to be divided")),
            0 if network <= self.usual_up_to => Ok(self.usual),
            0 => Ok(network + 2),
            len => match u8::try_from(len) {
                Ok(len) if len <= self.most_len && len >= network.saturating_add(2) => Ok(len),
                _ => Err(bad(self.len, len, "must leave two bits to the network, and two to pods")),
            },
        }
    }

    /// Size of a subnet and the network's last address, from its first.
    fn bounds(&self, first: u128, network: u8, len: u8) -> (u128, u128) {
        let span = |len: u8| 1_u128.checked_shl(u32::from(self.bits - len)).unwrap_or(0);
        (span(len), first.wrapping_add(span(network).wrapping_sub(1)))
    }

    fn pick(
        &self,
        field: &'static str,
        given: Option<u128>,
        text: Option<&str>,
        default: u128,
        (first, last, size): (u128, u128, u128),
    ) -> Result<u128, FormatError> {
        let picked = given.unwrap_or(default);
        if !(first..=last).contains(&picked) {
            return Err(bad(field, text.unwrap_or_default(), "is not inside the network"));
        }
        if picked & (size - 1) != 0 {
            return Err(bad(field, text.unwrap_or_default(), "is no subnet's first address"));
        }
        Ok(picked)
    }
}

fn checked(field: &'static str, net: IpNet, text: &str) -> Result<IpNet, FormatError> {
    let net = net.trunc();
    match nets::special(&net) {
        Some(_) => Err(bad(field, text, "overlaps a range that pods never have")),
        None => Ok(net),
    }
}

fn v4(fields: &Fields) -> Result<Pool, FormatError> {
    let rules = Rules {
        bits: 32,
        most_len: 30,
        longest: 28,
        usual_up_to: 22,
        usual: 24,
        len: "SubnetLen",
        network: "Network",
    };
    let net: Ipv4Net = fields
        .parsed("Network", "is not a range such as 10.244.0.0/16")?
        .ok_or(FormatError::Missing { field: "Network" })?;
    let net = checked("Network", net.into(), &net.to_string())?;
    let number = |a: Ipv4Addr| u128::from(a.to_bits());
    let min: Option<Ipv4Addr> = fields.parsed("SubnetMin", "is not an IPv4 address")?;
    let max: Option<Ipv4Addr> = fields.parsed("SubnetMax", "is not an IPv4 address")?;
    let first = if let IpAddr::V4(first) = net.network() { number(first) } else { 0 };
    let (len, min, max) =
        divide(&rules, fields, net, first, min.map(number), max.map(number), ["SubnetMin", "SubnetMax"])?;
    let addr = |n: u128| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap_or(u32::MAX)));
    Ok(Pool { network: net, subnet_len: len, min: addr(min), max: addr(max) })
}

fn v6(fields: &Fields) -> Result<Pool, FormatError> {
    let rules = Rules {
        bits: 128,
        most_len: 126,
        longest: 124,
        usual_up_to: 62,
        usual: 64,
        len: "IPv6SubnetLen",
        network: "IPv6Network",
    };
    let net: Ipv6Net = fields
        .parsed("IPv6Network", "is not a range such as fd00:1::/48")?
        .ok_or(FormatError::Missing { field: "IPv6Network" })?;
    let net = checked("IPv6Network", net.into(), &net.to_string())?;
    let min: Option<Ipv6Addr> = fields.parsed("IPv6SubnetMin", "is not an IPv6 address")?;
    let max: Option<Ipv6Addr> = fields.parsed("IPv6SubnetMax", "is not an IPv6 address")?;
    let first = if let IpAddr::V6(first) = net.network() { first.to_bits() } else { 0 };
    let (min, max) = (min.map(Ipv6Addr::to_bits), max.map(Ipv6Addr::to_bits));
    let (len, min, max) = divide(&rules, fields, net, first, min, max, ["IPv6SubnetMin", "IPv6SubnetMax"])?;
    let addr = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(n));
    Ok(Pool { network: net, subnet_len: len, min: addr(min), max: addr(max) })
}

/// Length of a subnet, the first and the last one.
fn divide(
    rules: &Rules,
    fields: &Fields,
    net: IpNet,
    first: u128,
    min: Option<u128>,
    max: Option<u128>,
    [min_field, max_field]: [&'static str; 2],
) -> Result<(u8, u128, u128), FormatError> {
    let len = rules.subnet_len(fields.number(rules.len)?, net.prefix_len())?;
    let (size, last) = rules.bounds(first, net.prefix_len(), len);
    let within = (first, last, size);
    // The first subnet is not given out: its first address is the network's.
    let min = rules.pick(min_field, min, fields.text(min_field)?, first + size, within)?;
    let max = rules.pick(max_field, max, fields.text(max_field)?, last - (size - 1), within)?;
    if min > max {
        return Err(bad(
            min_field,
            fields.text(min_field)?.unwrap_or("(default)"),
            "is behind the last subnet",
        ));
    }
    Ok((len, min, max))
}

fn backend(fields: &Fields) -> Result<BackendConfig, FormatError> {
    let Some(backend) = fields.object("Backend")? else { return Ok(BackendConfig::Udp { port: 8285 }) };
    let port = |default: u16| match backend.number("Port")? {
        None | Some(0) => Ok(default),
        Some(port) => u16::try_from(port).map_err(|_| bad("Port", port, "must be at most 65535")),
    };
    let direct_routing = || Ok(backend.flag("DirectRouting")?.unwrap_or(false));
    Ok(match backend.text("Type")?.unwrap_or_default() {
        "" => return Err(FormatError::Missing { field: "Backend.Type" }),
        "udp" => BackendConfig::Udp { port: port(8285)? },
        "vxlan" => BackendConfig::Vxlan {
            vni: vni(backend.number("VNI")?.unwrap_or(1))?,
            port: port(8472)?,
            direct_routing: direct_routing()?,
        },
        "host-gw" => BackendConfig::HostGw,
        "ipip" => BackendConfig::Ipip { direct_routing: direct_routing()? },
        other => BackendConfig::Other(other.to_owned()),
    })
}

/// A VXLAN segment.
pub(super) fn vni(number: u64) -> Result<u32, FormatError> {
    match u32::try_from(number) {
        Ok(vni) if (1..1 << 24).contains(&vni) => Ok(vni),
        _ => Err(bad("VNI", number, "must be from 1 to 16777215")),
    }
}

#[cfg(test)]
mod tests;
