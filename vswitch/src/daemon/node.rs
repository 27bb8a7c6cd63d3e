//! The node's own side of the network: the host's TAP `vsw0`, its routes, and what the kernel must allow.
//!
//! The host reaches pods through `vsw0`: one route for each cluster range via the gateway's address, whose MAC is a
//! permanent neighbour entry, so that the host's neighbour table stays at one entry for any number of pods. The host's
//! own address inside its pod range (the range's first, as flannel does it) is the source of what it sends to pods of
//! other nodes. Peers reached without encapsulation have a route through the uplink. All our routes carry route protocol
//! 0x76 and are reconciled: what an earlier process left and nobody wants now is removed.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use control::config::{Link, Machine};
use encap::Mac;
use ipnet::IpNet;

use super::settings;
use crate::snapshot::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use crate::sys::netlink::{LinkChange, Netlink, NetlinkError, Route, RouteFilter};
use crate::sys::tun::{OFFLOAD_PORT, Tap, TapError, TapSpec, VNET_LEN};

/// The host's interface.
pub const HOST_IF: &str = "vsw0";
/// Its MAC address: the same on every node, since it is seen by nobody else.
pub const HOST_MAC: Mac = Mac([0x0a, 0x58, 0xff, 0xff, 0xff, 0x01]);
/// Frames it queues while nobody reads.
const QUEUE: u32 = 2000;

/// The node could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The TAP could not be opened.
    #[error("open host interface {HOST_IF}: {}", hint(err))]
    Tap {
        /// Why.
        #[source]
        err: TapError,
    },
    /// Netlink refused.
    #[error("set up the host's side")]
    Netlink(#[from] NetlinkError),
    /// A kernel setting could not be written.
    #[error("write {value} to {}", path.display())]
    Sysctl {
        /// The setting.
        path: PathBuf,
        /// Its value.
        value: &'static str,
        /// Why.
        #[source]
        err: io::Error,
    },
}

fn hint(err: &TapError) -> &'static str {
    match err {
        TapError::Open(e) if e.kind() == io::ErrorKind::NotFound => {
            "/dev/net/tun is missing (load the tun module)"
        }
        TapError::Open(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            "no permission for /dev/net/tun (run as root, or give the process CAP_NET_ADMIN and access to the device)"
        }
        TapError::Attach { .. } => {
            "the kernel refused it (CAP_NET_ADMIN missing, or another process holds the interface)"
        }
        _ => "the kernel refused it",
    }
}

/// What this machine is, for the defaults of the configuration.
///
/// # Errors
/// When netlink fails.
pub fn machine() -> Result<Machine, NetlinkError> {
    let mut nl = Netlink::open()?;
    let mut links = std::collections::BTreeMap::new();
    let mut names = std::collections::BTreeMap::new();
    for link in nl.links()? {
        names.insert(link.index, link.name.clone());
        links.insert(link.name, Link { mtu: link.mtu, addresses: Vec::new() });
    }
    for a in nl.addresses(None)? {
        if let Some(link) = names.get(&a.index).and_then(|n| links.get_mut(n)) {
            link.addresses.push(a.net);
        }
    }
    let default = match nl.default_route(false)? {
        Some(r) => Some(r),
        None => nl.default_route(true)?,
    };
    Ok(Machine {
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|h| h.trim().to_owned()),
        default_uplink: default.and_then(|r| r.oif).and_then(|i| names.get(&i).cloned()),
        links,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Opens `vsw0`, or takes up the descriptor kept from before.
///
/// # Errors
/// See [`NodeError`].
pub fn open_host_tap(kept: Option<std::os::fd::OwnedFd>) -> Result<Tap, NodeError> {
    if let Some(fd) = kept {
        match Tap::adopt(fd, VNET_LEN, OFFLOAD_PORT) {
            Ok(tap) => return Ok(tap),
            Err(err) => {
                tracing::warn!(%err, "the kept descriptor of {HOST_IF} is of no use; opening it anew")
            }
        }
    }
    Tap::open(&TapSpec { exclusive: false, ..TapSpec::port(HOST_IF) }).map_err(|err| NodeError::Tap { err })
}

/// The host's side as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The interface towards the other nodes.
    pub uplink: String,
    /// Where what the host's settings were is kept.
    pub state_dir: PathBuf,
    /// MTU of `vsw0` and of the routes through it, bytes.
    pub mtu: u32,
    /// The host's own addresses in the pod ranges.
    pub routers: Vec<IpAddr>,
    /// Ranges of pods that the host reaches through `vsw0`.
    pub ranges: Vec<IpNet>,
    /// Ranges of peers that are reached without encapsulation, and the peer's address; of peers that are equally good, all.
    pub direct: Vec<(IpNet, Vec<IpAddr>)>,
    /// A peer may send without encapsulation although we do not: its packets come in by another interface than the one
    /// we would send by, which strict reverse path filtering takes for spoofing. It is made loose on the uplink.
    pub loose: bool,
}

/// Configures `vsw0`, the host's routes and its forwarding; with `prune`, addresses and routes of ours that are not wanted
/// are removed.
///
/// # Errors
/// See [`NodeError`].
pub fn configure(plan: &Plan, prune: bool) -> Result<(), NodeError> {
    let Plan { mtu, ref routers, .. } = *plan;
    let mut nl = Netlink::open()?;
    let link = nl.link(HOST_IF)?;
    let index = link.index;
    let v6 = routers.iter().any(IpAddr::is_ipv6);
    if v6 {
        settings::set(&plan.state_dir, &format!("net/ipv6/conf/{HOST_IF}/accept_ra"), "0")?;
    }
    // Setting a MAC, even the same, empties the neighbour table: what is right already is left alone.
    if link.mac != HOST_MAC.0 || link.mtu != mtu || link.txqueuelen != QUEUE {
        let change = LinkChange {
            mac: (link.mac != HOST_MAC.0).then_some(HOST_MAC.0),
            mtu: Some(mtu),
            txqueuelen: Some(QUEUE),
            gso_max: Some(super::attach::super_frame(mtu)),
            no_link_local: true,
            ..LinkChange::default()
        };
        nl.set_link(index, &change)?;
    }
    if !link.up {
        nl.set_up(index, true)?;
    }
    let sysctl = |name: &str, value| settings::set(&plan.state_dir, name, value);
    sysctl(&format!("net/ipv4/conf/{HOST_IF}/rp_filter"), "0")?;
    sysctl("net/ipv4/ip_forward", "1")?;
    sysctl(&format!("net/ipv4/conf/{HOST_IF}/forwarding"), "1")?;
    if v6 {
        sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    if plan.loose {
        loosen(plan)?;
    }
    let addresses = nl.addresses(Some(index))?;
    for a in addresses.iter().filter(|_| prune) {
        if !a.link_scope && !routers.contains(&a.net.addr()) {
            nl.del_address(index, a.net)?;
        }
    }
    for r in routers {
        if !addresses.iter().any(|a| a.net == IpNet::from(*r)) {
            nl.add_address(index, IpNet::from(*r), true, true)?;
        }
        nl.add_neighbour(index, gateway(r), GATEWAY_MAC.0)?;
    }
    let wanted = routes(&mut nl, plan, index)?;
    let whole = |r: &Route| (r.dst, r.oif, r.via, r.hops.clone(), r.source, r.mtu);
    let have: HashSet<_> = nl.routes(RouteFilter::OURS)?.iter().map(whole).collect();
    for route in wanted.iter().filter(|w| !have.contains(&whole(w))) {
        nl.replace_route(route)?;
    }
    if prune {
        remove_others(&mut nl, &wanted)?;
    }
    by_flow(plan, &wanted)
}

/// Removes routes of ours that are not wanted.
fn remove_others(nl: &mut Netlink, wanted: &[Route]) -> Result<(), NetlinkError> {
    let way = |r: &Route| (r.dst, r.oif, r.via, r.hops.clone());
    let wanted: HashSet<_> = wanted.iter().map(way).collect();
    for old in nl.routes(RouteFilter::OURS)? {
        if !wanted.contains(&way(&old)) {
            // Gone between the listing and now is as good as removed.
            match nl.del_route(&old) {
                Err(e) if !e.is_absent() => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where a range has several direct peers, the kernel spreads flows over them, not pairs of addresses only. A choice of
/// the host's own (another policy than the default, 0) stays.
fn by_flow(plan: &Plan, wanted: &[Route]) -> Result<(), NodeError> {
    for (v6, name) in
        [(false, "net/ipv4/fib_multipath_hash_policy"), (true, "net/ipv6/fib_multipath_hash_policy")]
    {
        let several = |r: &Route| !r.hops.is_empty() && r.dst.addr().is_ipv6() == v6;
        if wanted.iter().any(several) && crate::sys::sysctl::get(name).is_ok_and(|v| v == "0") {
            settings::set(&plan.state_dir, name, "1")?;
        }
    }
    Ok(())
}

fn routes(nl: &mut Netlink, plan: &Plan, host: u32) -> Result<Vec<Route>, NetlinkError> {
    let mut wanted: Vec<Route> = Vec::new();
    for net in &plan.ranges {
        let Some(router) = plan.routers.iter().find(|r| r.is_ipv6() == matches!(net, IpNet::V6(_))) else {
            continue;
        };
        wanted.push(Route {
            via: Some(gateway(router)),
            oif: Some(host),
            onlink: true,
            source: Some(*router),
            mtu: Some(plan.mtu),
            ..Route::to(net.trunc())
        });
    }
    if !plan.direct.is_empty() {
        let uplink = nl.link(&plan.uplink)?.index;
        let near: Vec<IpNet> = nl.addresses(Some(uplink))?.into_iter().map(|a| a.net).collect();
        for (net, vias) in &plan.direct {
            // Behind a router that knows the way (by BGP, say) a peer is reached as the kernel reaches its address.
            let mut way = |via: &IpAddr| {
                let beyond = match near.iter().any(|subnet| subnet.contains(via)) {
                    true => None,
                    false => nl.route_to(*via).ok().and_then(|route| Some((route.via?, route.oif?))),
                };
                beyond.unwrap_or((*via, uplink))
            };
            let mut hops: Vec<(IpAddr, u32)> = vias.iter().map(&mut way).collect();
            hops.sort_unstable();
            hops.dedup();
            let route = Route { onlink: true, ..Route::to(net.trunc()) };
            wanted.push(match *hops {
                [(via, oif)] => Route { via: Some(via), oif: Some(oif), ..route },
                _ => Route { hops, ..route },
            });
        }
    }
    Ok(wanted)
}

/// Makes strict reverse path filtering of an interface loose; the larger of its setting and that for all counts.
fn loosen(plan: &Plan) -> Result<(), NodeError> {
    let interface = &plan.uplink;
    let own = format!("net/ipv4/conf/{interface}/rp_filter");
    let get = |name: &str| crate::sys::sysctl::get(name).unwrap_or_default();
    let strict = [get("net/ipv4/conf/all/rp_filter"), get(&own)];
    if strict.iter().any(|v| v == "1") && strict.iter().all(|v| v != "2") {
        tracing::info!(interface, "reverse path filtering made loose: peers may send without encapsulation");
        settings::set(&plan.state_dir, &own, "2")?;
    }
    Ok(())
}

fn gateway(router: &IpAddr) -> IpAddr {
    if router.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY_V4.into() }
}
