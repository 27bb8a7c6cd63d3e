//! From what was written to what is true.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::quoted;
use super::nets::{self, Named};
use super::{
    Config, ConfigError, ConfigErrors, ConfigFile, Machine, Network, NetworkSection, Node, NodeSection,
    Problem, Store, Tunnel, TunnelSection, bgp, peers, store,
};
use crate::ipam;
use crate::mac::Mac;
use crate::names::check_ifname;

/// Largest MTU of a TAP: 65,535 less an Ethernet header.
const MOST_MTU: i64 = 65_521;
/// Most worker threads.
const MOST_WORKERS: i64 = 64;
/// Longest path of a Unix socket.
const MOST_SOCKET_PATH: usize = 107;

/// The forms that packets between nodes may have.
pub(super) const TUNNELS: &str = "vxlan, udp, ipip, direct";

/// The errors found so far.
#[derive(Default)]
pub(super) struct Errors(pub(super) Vec<ConfigError>);

impl Errors {
    /// A value as it stands in the file, and what is wrong with it.
    pub(super) fn add(&mut self, key: impl Into<String>, value: impl AsRef<str>, problem: Problem) {
        self.0.push(ConfigError { key: key.into(), value: quoted(value.as_ref()), problem });
    }

    /// A number as it stands in the file, and what is wrong with it.
    pub(super) fn add_number(&mut self, key: &str, value: i64, problem: Problem) {
        self.0.push(ConfigError { key: key.to_owned(), value: value.to_string(), problem });
    }

    /// Something that is not there.
    pub(super) fn absent(&mut self, key: impl Into<String>, problem: Problem) {
        self.0.push(ConfigError { key: key.into(), value: String::new(), problem });
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, key: &str, value: i64, least: i64, most: i64) -> i64 {
        if !(least..=most).contains(&value) {
            self.add_number(key, value, Problem::Range { least, most });
        }
        value.clamp(least, most)
    }

    /// A unicast MAC.
    pub(super) fn mac(&mut self, key: &str, text: &str) -> Option<Mac> {
        match text.parse::<Mac>() {
            Ok(mac) if mac.is_unicast() => return Some(mac),
            Ok(_) => self.add(key, text, Problem::NotUnicastMac),
            Err(_) => self.add(key, text, Problem::NotMac),
        }
        None
    }

    /// An IPv4 address of a node.
    pub(super) fn node_v4(&mut self, key: &str, text: &str) -> Option<Ipv4Addr> {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) if nets::is_node_address(v4.into()) => return Some(v4),
            Ok(IpAddr::V4(_)) => self.add(key, text, Problem::NotNodeAddress),
            Ok(IpAddr::V6(_)) => self.add(key, text, Problem::WantsIpv6Key { key: "address6" }),
            Err(_) => self.add(key, text, Problem::NotIpv4),
        }
        None
    }

    /// An IPv6 address of a node.
    pub(super) fn node_v6(&mut self, key: &str, text: &str) -> Option<Ipv6Addr> {
        match text.parse::<Ipv6Addr>() {
            Ok(v6) if nets::is_node_address(v6.into()) => return Some(v6),
            Ok(_) => self.add(key, text, Problem::NotNodeAddress),
            Err(_) => self.add(key, text, Problem::NotIpv6),
        }
        None
    }

    /// Ranges of pods, appended to `all` with their key.
    pub(super) fn cidrs(&mut self, key: &str, texts: &[String], all: &mut Vec<Named>) -> Vec<IpNet> {
        let mut nets = Vec::with_capacity(texts.len());
        for text in texts {
            match nets::parse(text) {
                Ok(net) => {
                    all.push(Named { net, key: key.to_owned(), order: all.len() });
                    nets.push(net);
                }
                Err(problem) => self.add(key, text.as_str(), problem),
            }
        }
        nets
    }

    /// An absolute path.
    pub(super) fn path(&mut self, key: &str, text: Option<&str>, default: &str) -> PathBuf {
        let text = text.unwrap_or(default);
        if !Path::new(text).is_absolute() || text.contains('\0') {
            self.add(key, text, Problem::NotAbsolute);
        }
        PathBuf::from(text)
    }
}

/// A Kubernetes node name: an RFC 1123 subdomain.
pub(super) fn is_node_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

pub(super) fn check(file: &ConfigFile, machine: &Machine) -> Result<Config, ConfigErrors> {
    let mut errors = Errors::default();
    let store = store::check(file, &mut errors);
    let is_static = matches!(store, Store::Static { .. });
    let ipam = super::ipam::check(file, &store, &mut errors);
    let node = check_node(&file.node, machine, &mut errors);
    let bgp = file.bgp.as_ref().map(|section| bgp::check(section, &node, &mut errors));
    let mut pods = Vec::new();
    let network = check_network(&file.network, is_static, &mut pods, &mut errors);
    let tunnel = check_tunnel(&file.tunnel, &mut errors);
    let peers = peers::check(&file.peer, &node, &tunnel, file.bgp.is_some(), &mut pods, &mut errors);
    let metrics = file.metrics.as_ref().and_then(|m| check_listen(m.listen.as_deref(), &mut errors));
    let config = Config { node, network, tunnel, store, peers, ipam, bgp, metrics };
    if matches!(config.tunnel, Tunnel::Ipip { .. }) && config.node.address.is_none() {
        errors.absent("node.address", Problem::IpipWantsIpv4);
    }
    check_pod_ranges(&config, &pods, &mut errors);
    if is_static {
        check_mtu(&config, machine, &mut errors);
    }
    if errors.0.is_empty() { Ok(config) } else { Err(ConfigErrors(errors.0)) }
}

fn check_node(file: &NodeSection, machine: &Machine, errors: &mut Errors) -> Node {
    let name = match (&file.name, &machine.hostname) {
        (Some(name), _) => name.clone(),
        (None, Some(host)) => host.to_lowercase(),
        (None, None) => {
            errors.absent("node.name", Problem::NoHostname);
            "unnamed".to_owned()
        }
    };
    if !is_node_name(&name) {
        errors.add("node.name", name.as_str(), Problem::NodeName);
    }
    let before = errors.0.len();
    let uplink = match (&file.uplink, &machine.default_uplink) {
        (Some(uplink), _) => uplink.clone(),
        (None, Some(uplink)) => uplink.clone(),
        (None, None) => {
            errors.absent("node.uplink", Problem::NoDefaultRoute);
            String::new()
        }
    };
    if let Some(written) = file.uplink.as_deref() {
        if check_ifname(written).is_err() {
            errors.add("node.uplink", written, Problem::Ifname);
        } else if machine.is_known() && !machine.links.contains_key(written) {
            let have = machine.links.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            errors.add("node.uplink", written, Problem::NoSuchLink { have });
        }
    }
    let uplink_good = errors.0.len() == before;

    let given4 = file.address.as_deref().map(|text| (text, errors.node_v4("node.address", text)));
    let given6 = file.address6.as_deref().map(|text| (text, errors.node_v6("node.address6", text)));
    let (mut address, mut address6) = (given4.and_then(|g| g.1), given6.and_then(|g| g.1));
    let link = machine.links.get(&uplink);
    for net in link.iter().flat_map(|l| &l.addresses).filter(|net| nets::is_node_address(net.addr())) {
        match net {
            IpNet::V4(v4) if given4.is_none() => address = address.or(Some(v4.addr())),
            IpNet::V6(v6) if given6.is_none() => address6 = address6.or(Some(v6.addr())),
            _ => {}
        }
    }
    if uplink_good && given4.is_none() && given6.is_none() && address.is_none() && address6.is_none() {
        errors.absent("node.address", Problem::NoAddress { uplink: uplink.clone() });
    }
    // The uplink's own addresses first: the same address may stand on another interface with another length.
    let on_machine: Vec<IpNet> =
        link.into_iter().chain(machine.links.values()).flat_map(|l| l.addresses.iter().copied()).collect();
    let mut subnet = None;
    let mut subnet6 = None;
    if let Some(v4) = address {
        subnet = on_machine.iter().find_map(|n| match n {
            IpNet::V4(n) if n.addr() == v4 => Some(n.trunc()),
            _ => None,
        });
        if machine.is_known() && subnet.is_none() {
            errors.add("node.address", v4.to_string(), Problem::NotOurAddress);
        }
    }
    if let Some(v6) = address6 {
        subnet6 = on_machine.iter().find_map(|n| match n {
            IpNet::V6(n) if n.addr() == v6 => Some(n.trunc()),
            _ => None,
        });
        if machine.is_known() && subnet6.is_none() {
            errors.add("node.address6", v6.to_string(), Problem::NotOurAddress);
        }
    }

    let state_dir = errors.path("node.state-dir", file.state_dir.as_deref(), "/var/lib/vswitch");
    let run_dir = errors.path("node.run-dir", file.run_dir.as_deref(), "/run/vswitch");
    let node = Node {
        name,
        uplink,
        address,
        address6,
        subnet,
        subnet6,
        state_dir,
        run_dir,
        workers: match errors.number("node.workers", file.workers.unwrap_or(0), 0, MOST_WORKERS) {
            0 => machine.cores.clamp(1, 4),
            n => usize::try_from(n).unwrap_or(1),
        },
        offload: file.offload.unwrap_or(true),
        without: file.without.iter().copied().collect(),
        probe_peers: file.probe_peers.unwrap_or(true),
    };
    if node.socket().as_os_str().len() > MOST_SOCKET_PATH {
        errors.add("node.run-dir", file.run_dir.as_deref().unwrap_or_default(), Problem::PathTooLong);
    }
    node
}

fn check_network(
    file: &NetworkSection,
    is_static: bool,
    pods: &mut Vec<Named>,
    errors: &mut Errors,
) -> Network {
    let default = ["10.244.0.0/16".to_owned()];
    let mut cluster = Vec::new();
    let default = if is_static { &default[..] } else { &[] };
    let texts = file.cluster_cidrs.as_deref().unwrap_or(default);
    if texts.is_empty() && is_static {
        errors.absent("network.cluster-cidrs", Problem::Missing);
    }
    let cluster_cidrs = errors.cidrs("network.cluster-cidrs", texts, &mut cluster);
    for (late, early) in nets::overlaps(&cluster) {
        let problem = Problem::Overlap { other_key: early.key.clone(), other: early.net };
        errors.add(late.key.as_str(), late.net.to_string(), problem);
    }
    let texts = file.pod_cidrs.as_deref().unwrap_or_default();
    if texts.is_empty() && is_static {
        errors.absent("network.pod-cidrs", Problem::Missing);
    }
    let pod_cidrs = errors.cidrs("network.pod-cidrs", texts, pods);
    for net in pod_cidrs.iter().filter(|net| ipam::usable(**net).is_none()) {
        errors.add("network.pod-cidrs", net.to_string(), Problem::RangeTooSmall);
    }
    let mtu = file.mtu.unwrap_or(0);
    let mtu = u32::try_from(errors.number("network.mtu", mtu, 0, MOST_MTU)).ok().filter(|&mtu| mtu != 0);
    Network { cluster_cidrs, pod_cidrs, mtu, masquerade: file.masquerade.unwrap_or(true) }
}

fn check_tunnel(file: &TunnelSection, errors: &mut Errors) -> Tunnel {
    let kind = file.kind.as_deref().unwrap_or("vxlan");
    let vni = errors.number("tunnel.vni", file.vni.unwrap_or(1), 1, (1 << 24) - 1);
    let default_port = if kind == "udp" { 8285 } else { 8472 };
    let port = errors.number("tunnel.port", file.port.unwrap_or(default_port), 1, i64::from(u16::MAX));
    // `number` has clamped both, so neither conversion can fail.
    let (vni, port) = (u32::try_from(vni).unwrap_or(1), u16::try_from(port).unwrap_or(8472));
    let vtep_mac = file.vtep_mac.as_deref().and_then(|text| errors.mac("tunnel.vtep-mac", text));
    let cross_subnet = file.cross_subnet.unwrap_or(false);
    match kind {
        "vxlan" => Tunnel::Vxlan { vni, port, vtep_mac, cross_subnet },
        "udp" => Tunnel::Udp { port, cross_subnet },
        "ipip" => Tunnel::Ipip { cross_subnet },
        "direct" => Tunnel::Direct,
        _ => {
            errors.add("tunnel.type", kind, Problem::UnknownType { have: TUNNELS });
            Tunnel::Direct
        }
    }
}

fn check_listen(text: Option<&str>, errors: &mut Errors) -> Option<SocketAddr> {
    let Some(text) = text else {
        errors.absent("metrics.listen", Problem::Missing);
        return None;
    };
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => Some(addr),
        _ => {
            errors.add("metrics.listen", text, Problem::NotSocketAddr);
            None
        }
    }
}

/// Our ranges and the peers': inside the cluster's, disjoint, without a node in them.
fn check_pod_ranges(config: &Config, pods: &[Named], errors: &mut Errors) {
    // Without a good cluster range there is an error already, and nothing to compare with.
    let cluster = &config.network.cluster_cidrs;
    for pod in pods.iter().filter(|_| !cluster.is_empty()) {
        if !cluster.iter().any(|net| net.contains(&pod.net)) {
            errors.add(pod.key.as_str(), pod.net.to_string(), Problem::OutsideCluster);
        }
    }
    for (late, early) in nets::overlaps(pods) {
        let problem = Problem::Overlap { other_key: early.key.clone(), other: early.net };
        errors.add(late.key.as_str(), late.net.to_string(), problem);
    }
    let mut nodes = Vec::new();
    let mut push = |key: String, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
        nodes.extend(v4.map(|v4| (format!("{key}.address"), IpAddr::V4(v4))));
        nodes.extend(v6.map(|v6| (format!("{key}.address6"), IpAddr::V6(v6))));
    };
    push("node".to_owned(), config.node.address, config.node.address6);
    for peer in &config.peers {
        push(format!("peer[{}]", peer.name), peer.address, peer.address6);
    }
    for pod in pods {
        if let Some((other_key, address)) = nodes.iter().find(|(_, address)| pod.net.contains(address)) {
            let problem = Problem::ContainsNode { address: *address, other_key: other_key.clone() };
            errors.add(pod.key.as_str(), pod.net.to_string(), problem);
        }
    }
}

fn check_mtu(config: &Config, machine: &Machine, errors: &mut Errors) {
    let least = config.least_mtu();
    if let Some(mtu) = config.network.mtu
        && mtu < least
    {
        errors.add_number("network.mtu", i64::from(mtu), Problem::MtuTooSmall { least });
        return;
    }
    let Some(link) = machine.links.get(&config.node.uplink) else { return };
    let uplink = config.node.uplink.clone();
    let overhead = config.overhead();
    match config.network.mtu {
        Some(mtu) if mtu.saturating_add(overhead) > link.mtu => {
            let problem = Problem::MtuTooLarge { uplink, uplink_mtu: link.mtu, overhead };
            errors.add_number("network.mtu", i64::from(mtu), problem);
        }
        None if config.pod_mtu(link.mtu) < least => {
            let problem = Problem::UplinkMtu { uplink, mtu: config.pod_mtu(link.mtu), least };
            errors.add_number("network.mtu", 0, problem);
        }
        _ => {}
    }
}
