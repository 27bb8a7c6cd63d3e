//! The other nodes, as the static store has them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::check::{Errors, TUNNELS, is_node_name};
use super::nets::Named;
use super::{Node, Peer, PeerSection, Problem, Tunnel};
use crate::fleet::Backend;
use crate::mac::Mac;

/// What no two nodes may share, and the key it was first seen under.
struct Seen {
    names: HashMap<String, String>,
    addresses: HashMap<IpAddr, String>,
    macs: HashMap<Mac, String>,
}

pub(super) fn check(
    file: &[PeerSection],
    node: &Node,
    tunnel: &Tunnel,
    bgp: bool,
    pods: &mut Vec<Named>,
    errors: &mut Errors,
) -> Vec<Peer> {
    let mut seen = Seen { names: HashMap::new(), addresses: HashMap::new(), macs: HashMap::new() };
    if let Tunnel::Vxlan { vtep_mac: Some(mac), .. } = tunnel {
        seen.macs.insert(*mac, "tunnel.vtep-mac".to_owned());
    }
    let mut peers = Vec::with_capacity(file.len());
    for (i, section) in file.iter().enumerate() {
        // Peers are named by their name where they have one, else by their place.
        let label = match section.name.as_deref() {
            Some(name) if is_node_name(name) => format!("peer[{name}]"),
            _ => format!("peer[#{}]", i + 1),
        };
        peers.push(check_one(section, &label, i, node, tunnel, bgp, pods, &mut seen, errors));
    }
    peers
}

#[allow(clippy::too_many_arguments)] // one peer against everything known so far
fn check_one(
    file: &PeerSection,
    label: &str,
    index: usize,
    node: &Node,
    tunnel: &Tunnel,
    bgp: bool,
    pods: &mut Vec<Named>,
    seen: &mut Seen,
    errors: &mut Errors,
) -> Peer {
    let name = file.name.clone().unwrap_or_default();
    let key = format!("{label}.name");
    if file.name.is_none() {
        errors.absent(key, Problem::Missing);
    } else if !is_node_name(&name) {
        errors.add(key, name.as_str(), Problem::NodeName);
    } else if name == node.name {
        errors.add(key, name.as_str(), Problem::OwnName);
    } else if let Some(other) =
        seen.names.insert(name.clone(), format!("the name of peer number {}", index + 1))
    {
        errors.add(
            format!("peer[#{}].name", index + 1),
            name.as_str(),
            Problem::Duplicate { other_key: other },
        );
    }

    let key = format!("{label}.address");
    let address = file.address.as_deref().and_then(|text| errors.node_v4(&key, text));
    if let Some(v4) = address {
        check_address(&key, v4.into(), node.address == Some(v4), seen, errors);
    }
    let key6 = format!("{label}.address6");
    let address6 = file.address6.as_deref().and_then(|text| errors.node_v6(&key6, text));
    if let Some(v6) = address6 {
        check_address(&key6, v6.into(), node.address6 == Some(v6), seen, errors);
    }
    if file.address.is_none() && file.address6.is_none() {
        errors.absent(label, Problem::PeerWithoutAddress);
    }
    let backend = check_backend(file, label, tunnel, errors);
    let ipip = backend.unwrap_or_else(|| tunnel.backend()) == Backend::Ipip;
    let have = node.address.is_some() || node.address6.is_some();
    let common = (address.is_some() && node.address.is_some())
        || (!ipip && address6.is_some() && node.address6.is_some());
    if ipip && file.address.is_none() && file.address6.is_some() {
        errors.absent(format!("{label}.address"), Problem::IpipWantsIpv4);
    } else if have && !common && (address.is_some() || address6.is_some()) {
        errors.absent(label, Problem::NoCommonFamily);
    }

    let key = format!("{label}.pod-cidrs");
    let texts = file.pod_cidrs.as_deref().unwrap_or_default();
    // Where BGP is spoken, it may be left to tell them.
    if texts.is_empty() && !bgp {
        errors.absent(key.as_str(), Problem::Missing);
    }
    let pod_cidrs = errors.cidrs(&key, texts, pods);

    let key = format!("{label}.vtep-mac");
    let vtep_mac = file.vtep_mac.as_deref().and_then(|text| errors.mac(&key, text));
    if matches!(backend.unwrap_or_else(|| tunnel.backend()), Backend::Vxlan { .. }) {
        if file.vtep_mac.is_none() {
            errors.absent(key.as_str(), Problem::PeerWithoutVtepMac);
        }
        if let Some(mac) = vtep_mac
            && let Some(other) = seen.macs.insert(mac, key.clone())
        {
            errors.add(key, mac.to_string(), Problem::Duplicate { other_key: other });
        }
    }
    Peer { name, address, address6, pod_cidrs, vtep_mac, backend, cross_subnet: None }
}

/// A peer's own form. VXLAN is in the segment of `[tunnel]`, or in segment 1 where that is of another kind.
fn check_backend(file: &PeerSection, label: &str, tunnel: &Tunnel, errors: &mut Errors) -> Option<Backend> {
    let kind = file.tunnel.as_deref()?;
    let vni = match tunnel {
        Tunnel::Vxlan { vni, .. } => *vni,
        _ => 1,
    };
    match kind {
        "vxlan" => Some(Backend::Vxlan { vni }),
        "udp" => Some(Backend::Udp),
        "ipip" => Some(Backend::Ipip),
        "direct" => Some(Backend::Direct),
        _ => {
            errors.add(format!("{label}.tunnel"), kind, Problem::UnknownType { have: TUNNELS });
            None
        }
    }
}

fn check_address(key: &str, addr: IpAddr, own: bool, seen: &mut Seen, errors: &mut Errors) {
    if own {
        errors.add(key, addr.to_string(), Problem::OwnAddress);
    } else if let Some(other) = seen.addresses.insert(addr, key.to_owned()) {
        errors.add(key, addr.to_string(), Problem::Duplicate { other_key: other });
    }
}
