//! `[bgp]`: who we are to other routers, and who they are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::check::Errors;
use super::nets;
use super::{BgpPeerSection, BgpSection, Node, Problem};

mod rule;

pub use rule::{BgpRule, PrefixRange, RouteChange, RouteTag};

/// Most hops between neighbours of different ASes, and most bytes of a TCP MD5 key (RFC 2385, Linux).
const MOST_HOPS: i64 = 255;
const MOST_PASSWORD: usize = 80;
/// AS_TRANS (RFC 6793): nobody's.
const AS_TRANS: i64 = 23_456;

/// The speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Our AS, 1 to 2^32 - 1 but for 23456.
    pub asn: u32,
    /// Our identifier: not 0.0.0.0. Default: the node's IPv4 address.
    pub router_id: Ipv4Addr,
    /// Where neighbours find us; none = port 179 of the node's addresses.
    pub listen: Option<SocketAddr>,
    /// We are a route reflector of this cluster.
    pub cluster_id: Option<Ipv4Addr>,
    /// Every other node of the store is a neighbour in our AS. Default: unless we are a reflector.
    pub mesh: bool,
    /// Key of the mesh's sessions.
    pub mesh_password: Option<Password>,
    /// Neighbours by address or range; no two the same.
    pub peers: Vec<BgpPeer>,
}

/// A neighbour, or a range that neighbours may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its address, or where it may come from.
    pub who: Neighbour,
    /// Its AS.
    pub asn: u32,
    /// Its TCP port. Default: 179.
    pub port: u16,
    /// Key of TCP MD5 signatures (RFC 2385).
    pub password: Option<Password>,
    /// Packets must come from so many hops away at most (RFC 5082): 1 is our link. None = no such check.
    pub ttl_security: Option<u8>,
    /// A neighbour of another AS may be so many hops away. None = on our link.
    pub multihop: Option<u8>,
    /// Only it dials.
    pub passive: bool,
    /// It is our client (RFC 4456); needs `cluster-id`. Default: a neighbour of our AS of a reflector is.
    pub client: bool,
    /// Routes we pass on to it have us as their next hop.
    pub next_hop_self: bool,
    /// The session ends when it sends more prefixes than this of a family. None = any number.
    pub max_prefixes: Option<u32>,
    /// Only prefixes inside these are taken from it; empty = every prefix that is nobody's pod range of ours.
    pub import: Vec<IpNet>,
    /// Only prefixes inside these are sent to it; empty = all.
    pub export: Vec<IpNet>,
    /// Rules about those that are inside, in order: the first that a route fits decides; one that fits none is taken.
    pub import_rules: Vec<BgpRule>,
    /// The same about routes sent to it.
    pub export_rules: Vec<BgpRule>,
}

/// Where a neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Neighbour {
    /// Here.
    At(IpAddr),
    /// Somewhere in here; it dials.
    In(IpNet),
}

/// A secret that does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Neighbour::At(addr) => addr.fmt(f),
            Neighbour::In(net) => net.fmt(f),
        }
    }
}

pub(super) fn check(file: &BgpSection, node: &Node, errors: &mut Errors) -> Bgp {
    let router_id = match file.router_id.as_deref() {
        Some(text) => identifier("bgp.router-id", text, errors),
        None => node.address.or_else(|| {
            errors.absent("bgp.router-id", Problem::RouterIdWithoutIpv4);
            None
        }),
    };
    let listen = file.listen.as_deref().and_then(|text| {
        let good = text.parse::<SocketAddr>().ok().filter(|addr| addr.port() != 0);
        if good.is_none() {
            errors.add("bgp.listen", text, Problem::NotSocketAddr);
        }
        good
    });
    let cluster_id = file.cluster_id.as_deref().and_then(|text| identifier("bgp.cluster-id", text, errors));
    let asn = asn("bgp.asn", file.asn, errors);
    let mesh_password =
        file.mesh_password.as_deref().and_then(|text| password("bgp.mesh-password", text, errors));
    let mut seen = BTreeSet::new();
    let mut peers = Vec::with_capacity(file.peer.len());
    for (i, section) in file.peer.iter().enumerate() {
        let name = section.address.as_deref().or(section.prefix.as_deref());
        let label = name.map_or_else(|| format!("bgp.peer[#{}]", i + 1), |name| format!("bgp.peer[{name}]"));
        if let Some(peer) = check_peer(section, &label, node, asn, cluster_id.is_some(), errors) {
            if !seen.insert(peer.who) {
                errors.absent(label.as_str(), Problem::Duplicate { other_key: "an earlier bgp.peer".into() });
            }
            peers.push(peer);
        }
    }
    Bgp {
        asn,
        router_id: router_id.unwrap_or(Ipv4Addr::UNSPECIFIED),
        listen,
        cluster_id,
        mesh: file.mesh.unwrap_or(cluster_id.is_none()),
        mesh_password,
        peers,
    }
}

fn check_peer(
    file: &BgpPeerSection,
    label: &str,
    node: &Node,
    own_asn: u32,
    reflector: bool,
    errors: &mut Errors,
) -> Option<BgpPeer> {
    let key = |name: &str| format!("{label}.{name}");
    let who = match (file.address.as_deref(), file.prefix.as_deref()) {
        (Some(text), None) => match text.parse::<IpAddr>() {
            Ok(addr) if !nets::is_node_address(addr) => {
                errors.add(key("address"), text, Problem::NotNodeAddress);
                None
            }
            Ok(addr)
                if node.address.map(IpAddr::V4) == Some(addr)
                    || node.address6.map(IpAddr::V6) == Some(addr) =>
            {
                errors.add(key("address"), text, Problem::OwnAddress);
                None
            }
            Ok(addr) => Some(Neighbour::At(addr)),
            Err(_) => {
                errors.add(key("address"), text, Problem::NotAddress);
                None
            }
        },
        (None, Some(text)) => match text.parse::<IpNet>() {
            Ok(net) if net == net.trunc() => Some(Neighbour::In(net)),
            Ok(net) => {
                errors.add(key("prefix"), text, Problem::HostBits { network: net.trunc() });
                None
            }
            Err(_) => {
                errors.add(key("prefix"), text, Problem::NotCidr);
                None
            }
        },
        _ => {
            errors.absent(label, Problem::AddressOrPrefix);
            None
        }
    };
    let asn = asn(&key("asn"), file.asn, errors);
    let mut small = |name: &str, value: Option<i64>, most: i64| {
        value.map(|value| errors.number(&key(name), value, 1, most))
    };
    let ttl_security = small("ttl-security", file.ttl_security, MOST_HOPS);
    let multihop = small("multihop", file.multihop, MOST_HOPS);
    let max_prefixes = small("max-prefixes", file.max_prefixes, i64::from(u32::MAX));
    let port = small("port", file.port, i64::from(u16::MAX));
    if ttl_security.is_some() && multihop.is_some() {
        errors.absent(key("multihop"), Problem::TtlTwice);
    }
    let client = file.client.unwrap_or(reflector && asn == own_asn);
    if client && !reflector {
        errors.absent(key("client"), Problem::ClientWithoutCluster);
    }
    if client && asn != own_asn {
        errors.absent(key("client"), Problem::ClientOfOtherAs);
    }
    let password = file.password.as_deref().and_then(|text| password(&key("password"), text, errors));
    let mut list = |name: &str, texts: &Option<Vec<String>>| {
        let mut nets = Vec::new();
        for text in texts.iter().flatten() {
            match text.parse::<IpNet>() {
                Ok(net) if net == net.trunc() => nets.push(net),
                Ok(net) => errors.add(key(name), text, Problem::HostBits { network: net.trunc() }),
                Err(_) => errors.add(key(name), text, Problem::NotCidr),
            }
        }
        nets
    };
    let (import, export) = (list("import", &file.import), list("export", &file.export));
    let import_rules = rule::check(&file.import_rule, &key("import-rule"), false, errors);
    let export_rules = rule::check(&file.export_rule, &key("export-rule"), asn != own_asn, errors);
    // The numbers are within bounds, so no conversion can fail.
    Some(BgpPeer {
        who: who?,
        asn,
        port: port.and_then(|n| u16::try_from(n).ok()).unwrap_or(179),
        password,
        ttl_security: ttl_security.and_then(|n| u8::try_from(n).ok()),
        multihop: multihop.and_then(|n| u8::try_from(n).ok()),
        passive: file.passive.unwrap_or(matches!(who, Some(Neighbour::In(_)))),
        client,
        next_hop_self: file.next_hop_self.unwrap_or(false),
        max_prefixes: max_prefixes.and_then(|n| u32::try_from(n).ok()),
        import,
        export,
        import_rules,
        export_rules,
    })
}

fn asn(key: &str, value: Option<i64>, errors: &mut Errors) -> u32 {
    let Some(value) = value else {
        errors.absent(key, Problem::Missing);
        return 0;
    };
    if value == AS_TRANS {
        errors.add_number(key, value, Problem::ReservedAs);
    }
    u32::try_from(errors.number(key, value, 1, i64::from(u32::MAX))).unwrap_or(0)
}

fn identifier(key: &str, text: &str, errors: &mut Errors) -> Option<Ipv4Addr> {
    match text.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Some(id),
        _ => {
            errors.add(key, text, Problem::NotIdentifier);
            None
        }
    }
}

fn password(key: &str, text: &str, errors: &mut Errors) -> Option<Password> {
    if !(1..=MOST_PASSWORD).contains(&text.len()) {
        // Not quoted: a secret belongs in no message.
        errors.absent(key, Problem::PasswordLength { most: MOST_PASSWORD });
        return None;
    }
    Some(Password(text.to_owned()))
}

#[cfg(test)]
mod tests;
