//! What the speaker is told, made of the configuration and of what the store says. Pure.
//!
//! No route is taken that could turn our own traffic: not our pods' ranges or parts of them, not the subnets we are on,
//! not a node's address, nothing that is not unicast; a default route only where somebody allowed it. To other
//! ASes only the cluster's ranges are told, so that a node does not become a way between two routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp::config::{
    Config, DynamicConfig, GracefulConfig, MaxPrefixes, NextHopMode, Password, PeerConfig, Ttl,
};
use bgp::family::{Family, PerFamily};
use bgp::policy::{Policy, PrefixList};
use control::config::{Bgp, BgpPeer, BgpRule, Neighbour, Node};
use control::fleet::Fleet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Neighbours that may come from one range.
const RANGE_LIMIT: usize = 1000;
/// A neighbour with too many prefixes is tried again after this time.
const TOO_MANY: Duration = Duration::from_secs(300);
/// Part of its limit at which a neighbour's prefixes are told about, percent.
const NEAR: u8 = 80;
/// Back after a restart, routes are chosen then at the latest.
const RESTARTING: Duration = Duration::from_secs(60);

/// The speaker's configuration, and what of its routes is the data path's affair.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) scope: Scope,
}

/// Which routes the data path needs; the kernel needs all others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Scope {
    /// Ranges of pods.
    pub(super) ranges: Vec<IpNet>,
    /// Addresses of nodes.
    pub(super) nodes: BTreeSet<IpAddr>,
}

impl Scope {
    /// Is a prefix, reached this way, the data path's?
    pub(super) fn has(&self, net: &IpNet, hops: impl IntoIterator<Item = IpAddr>) -> bool {
        self.ranges.iter().any(|range| range.contains(net))
            || hops.into_iter().any(|hop| self.nodes.contains(&hop))
    }
}

/// Policies made before: one that stays the same stays the same allocation, and its peers' routes are not judged again.
#[derive(Default)]
pub(super) struct Policies(BTreeMap<Inputs, Arc<Policy>>);

/// All that a policy depends on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Inputs {
    /// Refused with all that is in it, refused as it is, taken where any is named; then rules.
    Import { within: Vec<IpNet>, exact: Vec<IpNet>, allowed: Vec<IpNet>, rules: Vec<BgpRule> },
    /// Sent, with all that is in it; none = everything. Then rules, and our AS for what they put in front of paths.
    Export { allowed: Option<Vec<IpNet>>, rules: Vec<BgpRule> },
}

/// Makes the settings. `restarting`: routes of before are in force.
pub(super) fn settings(
    bgp: &Bgp,
    node: &Node,
    fleet: &Fleet,
    restarting: bool,
    policies: &mut Policies,
) -> Settings {
    let (v4, v6) = (node.address.map(IpAddr::V4), node.address6.map(IpAddr::V6));
    let own: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    let nodes: BTreeSet<IpAddr> = fleet
        .peers
        .iter()
        .flat_map(|p| p.address.map(IpAddr::V4).into_iter().chain(p.address6.map(IpAddr::V6)))
        .collect();
    let subnets = node.subnet.map(IpNet::V4).into_iter().chain(node.subnet6.map(IpNet::V6));
    let guard = Guard {
        within: fleet.pod_cidrs.iter().copied().chain(subnets).chain(martians()).collect(),
        exact: nodes.iter().chain(&own).map(|addr| IpNet::from(*addr)).collect(),
        ranges: fleet.cluster_cidrs.iter().chain(&fleet.pod_cidrs).copied().collect(),
    };
    let mut used = Policies::default();
    let mut peer = |address: IpAddr, asn: u32, told: Option<&BgpPeer>| {
        let internal = asn == bgp.asn;
        PeerConfig {
            local_address: own.iter().copied().find(|a| a.is_ipv6() == address.is_ipv6()),
            subnet: match address {
                IpAddr::V4(_) => node.subnet.map(IpNet::V4),
                IpAddr::V6(_) => node.subnet6.map(IpNet::V6),
            },
            import: Some(policies.keep(guard.import(told), bgp.asn, &mut used)),
            export: Some(policies.keep(guard.export(told, internal), bgp.asn, &mut used)),
            ..PeerConfig::new(address, asn)
        }
    };
    let mut config = Config::new(bgp.asn, bgp.router_id);
    config.cluster_id = bgp.cluster_id;
    config.addresses = own.clone();
    config.next_hop_self = PerFamily::from_fn(|family| if family == Family::Ipv4 { v4 } else { v6 });
    config.require_resolution = true;
    config.graceful =
        Some(GracefulConfig { restarting: restarting.then_some(RESTARTING), ..GracefulConfig::default() });
    for p in &bgp.peers {
        let address = match p.who {
            Neighbour::At(address) => address,
            Neighbour::In(range) => range.addr(),
        };
        let made = told(p, peer(address, p.asn, Some(p)));
        match p.who {
            Neighbour::At(_) => config.peers.push(made),
            Neighbour::In(range) => {
                config.dynamic.push(DynamicConfig { range, template: made, limit: RANGE_LIMIT });
            }
        }
    }
    let listed: BTreeSet<IpAddr> = config.peers.iter().map(|p| p.address).collect();
    for address in nodes.difference(&listed).filter(|_| bgp.mesh) {
        // A node of another family than ours cannot be dialled.
        if !own.iter().any(|a| a.is_ipv6() == address.is_ipv6()) {
            continue;
        }
        let mut made = peer(*address, bgp.asn, None);
        made.port = bgp.listen.map_or(179, |listen| listen.port());
        made.password = bgp.mesh_password.as_ref().map(|p| Password(p.0.clone()));
        config.peers.push(made);
    }
    *policies = used;
    Settings { config, scope: Scope { ranges: guard.ranges, nodes } }
}

/// What the configuration says about a neighbour.
fn told(p: &BgpPeer, made: PeerConfig) -> PeerConfig {
    PeerConfig {
        port: p.port,
        password: p.password.as_ref().map(|p| Password(p.0.clone())),
        ttl: match (p.ttl_security, p.multihop) {
            (Some(hops), _) => Ttl::Security(hops),
            (None, Some(hops)) => Ttl::Multihop(hops),
            (None, None) => Ttl::Default,
        },
        passive: p.passive,
        client: p.client,
        next_hop: if p.next_hop_self { NextHopMode::Own } else { NextHopMode::Auto },
        max_prefixes: p.max_prefixes.map(|limit| MaxPrefixes {
            limit,
            warn_percent: NEAR,
            warn_only: false,
            restart: Some(TOO_MANY),
        }),
        ..made
    }
}

struct Guard {
    within: Vec<IpNet>,
    exact: Vec<IpNet>,
    ranges: Vec<IpNet>,
}

impl Guard {
    fn import(&self, peer: Option<&BgpPeer>) -> Inputs {
        Inputs::Import {
            within: self.within.clone(),
            exact: self.exact.clone(),
            allowed: peer.map(|p| p.import.clone()).unwrap_or_default(),
            rules: peer.map(|p| p.import_rules.clone()).unwrap_or_default(),
        }
    }

    fn export(&self, peer: Option<&BgpPeer>, internal: bool) -> Inputs {
        Inputs::Export {
            allowed: match (peer.map_or(&[][..], |p| &p.export), internal) {
                ([], true) => None,
                ([], false) => Some(self.ranges.clone()),
                (some, _) => Some(some.to_vec()),
            },
            rules: peer.map(|p| p.export_rules.clone()).unwrap_or_default(),
        }
    }
}

impl Policies {
    fn keep(&mut self, inputs: Inputs, asn: u32, used: &mut Policies) -> Arc<Policy> {
        let made = self.0.get(&inputs).or_else(|| used.0.get(&inputs)).map(Arc::clone);
        let made = made.unwrap_or_else(|| Arc::new(policy(&inputs, asn)));
        used.0.insert(inputs, Arc::clone(&made));
        made
    }
}

fn policy(inputs: &Inputs, asn: u32) -> Policy {
    let longer = |nets: &[IpNet]| nets.iter().fold(PrefixList::default(), |list, net| list.or_longer(*net));
    match inputs {
        Inputs::Import { within, exact, allowed, rules } => {
            let mut refused = exact.iter().fold(longer(within), |list, net| list.exact(*net));
            for default in defaults().into_iter().filter(|net| !allowed.contains(net)) {
                refused = refused.exact(default);
            }
            let guard = std::iter::once(rules::refuse(refused));
            Policy {
                within: (!allowed.is_empty()).then(|| longer(allowed)),
                rules: guard.chain(rules.iter().map(|rule| rules::rule(rule, asn))).collect(),
                otherwise: true,
            }
        }
        Inputs::Export { allowed, rules } => Policy {
            within: allowed.as_deref().map(longer),
            rules: rules.iter().map(|rule| rules::rule(rule, asn)).collect(),
            otherwise: true,
        },
    }
}

fn defaults() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

/// What is never a route's destination (RFC 6890): "this network", loopback, link-local, multicast, reserved.
fn martians() -> impl Iterator<Item = IpNet> {
    let v4 = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([169, 254, 0, 0], 16), ([224, 0, 0, 0], 3)];
    let v6 = [(0, 8), (0xfe80, 10), (0xff00, 8)];
    let v4 = v4.map(|(a, len)| IpNet::new(Ipv4Addr::from(a).into(), len));
    let v6 = v6.map(|(first, len)| IpNet::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0).into(), len));
    v4.into_iter().chain(v6).flatten()
}

mod rules;
#[cfg(test)]
mod tests;
