//! What the daemon tells about itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use control::api::{DropInfo, FlowInfo, PeerInfo, PortInfo, RouteInfo, RouteKind, StatusReport};
use encap::to_ip;

use super::Daemon;
use crate::compile::PeerFacts;
use crate::counters::DropReason;
use crate::datapath::opened_by;
use crate::events::ELSEWHERE;
use crate::fib::NextHop;
use crate::judge::Ends;
use crate::pipeline::{Action, PEER_BIT};
use crate::snapshot::Snapshot;
use crate::worker::FlowRow;

/// Flows told of each worker at most.
const FLOWS: usize = 10_000;

impl Daemon {
    pub(super) fn status(&self) -> StatusReport {
        let totals = self.switch.totals();
        let snapshot = self.switch.snapshot();
        let node = &self.config.node;
        let mut peer_mtus: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for peer in &snapshot.peers {
            peer_mtus.entry(peer.mtu).or_default().push(peer.name.to_string());
        }
        StatusReport {
            ok: self.problems.is_empty(),
            problems: self.problem_list(),
            node: node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            restarts: self.restarts,
            epoch: snapshot.epoch,
            workers: self.switch.workers() as u32,
            uplink: node.uplink.clone(),
            address: node.address,
            address6: node.address6,
            tunnel: self.fleet.tunnel.kind().to_owned(),
            mtu: u32::from(self.facts.mtu),
            pod_cidrs: self.facts.pod_cidrs.clone(),
            addresses_used: self.ipam.used(),
            addresses_total: self.ipam.total(),
            ports: self.attached.len() as u32,
            peers: self.peers.len() as u32,
            peer_mtus,
            flows: self.switch.flows(FLOWS).len() as u64,
            received: totals.received,
            delivered: totals.to_pods + totals.to_host + totals.to_peers + totals.answered,
            dropped: totals.dropped(),
            policies: self.guard.world().policies.len() as u64,
            policy_problems: self.guard.problems(),
            connections: self.switch.conntrack().len(),
            store: self.etcd.as_ref().map(super::etcd::Etcd::info),
            store_problems: self.guard.store_problems().to_vec(),
        }
    }

    pub(super) fn port_infos(&self) -> Vec<PortInfo> {
        let infos = self.attached.values().filter_map(|a| {
            let port = self.ports.get(a.port as usize)?.as_ref()?;
            let sum =
                |f: fn(&crate::counters::PortStats) -> u64| port.stats.iter().map(|s| f(s)).sum::<u64>();
            Some(PortInfo {
                index: a.port,
                pod: port.name.clone(),
                container_id: a.record.container_id.clone(),
                ifname: a.record.ifname.clone(),
                addresses: a.record.addresses.clone(),
                mac: a.record.mac.to_string(),
                mtu: a.record.mtu,
                netns: a.record.netns.display().to_string(),
                worker: self.switch.reader(a.port).unwrap_or(0) as u32,
                // As the pod sees it: what we read from its interface is what it sent.
                tx_packets: sum(|s| s.rx_packets.get()),
                tx_bytes: sum(|s| s.rx_bytes.get()),
                rx_packets: sum(|s| s.tx_packets.get()),
                rx_bytes: sum(|s| s.tx_bytes.get()),
                dropped: sum(|s| s.rx_dropped.get() + s.tx_dropped.get()),
            })
        });
        infos.collect()
    }

    pub(super) fn route_infos(&self) -> Vec<RouteInfo> {
        let snap = self.switch.snapshot();
        let mut rows: Vec<RouteInfo> = snap
            .fib
            .routes()
            .iter()
            .map(|(dst, hop)| {
                let (kind, via) = describe(&snap, *hop);
                RouteInfo { dst: *dst, kind, via }
            })
            .collect();
        rows.sort_by_key(|r| (r.dst.addr(), r.dst.prefix_len()));
        rows
    }

    pub(super) fn peer_infos(&self) -> Vec<PeerInfo> {
        self.peers.iter().map(|p| self.peer_info(p)).collect()
    }

    fn peer_info(&self, p: &PeerFacts) -> PeerInfo {
        let sum = |f: fn(&crate::snapshot::PeerStats) -> u64| p.stats.iter().map(|s| f(s)).sum::<u64>();
        let heard =
            p.stats.iter().map(|s| s.heard.load(std::sync::atomic::Ordering::Relaxed)).max().unwrap_or(0);
        let health =
            self.paths.as_ref().zip(p.addresses.first()).and_then(|(paths, addr)| paths.health(*addr));
        let health = health.unwrap_or_default();
        PeerInfo {
            mtu: u32::from(self.facts.mtu.min(p.path_mtu)),
            rtt_us: health.rtt_us.map(u64::from),
            echoes_lost: health.lost,
            echoes: health.of,
            name: p.name.to_string(),
            address: p.addresses.first().copied(),
            pod_cidrs: p.pod_cidrs.clone(),
            via: p.tunnel.map_or("direct", |t| t.form().name()).to_owned(),
            vtep_mac: matches!(p.tunnel, Some(encap::Tunnel::Vxlan { .. })).then(|| p.vtep_mac.to_string()),
            tx_packets: sum(|s| s.tx_packets.get()),
            tx_bytes: sum(|s| s.tx_bytes.get()),
            tx_slices: sum(|s| s.tx_slices.get()),
            rx_packets: sum(|s| s.rx_packets.get()),
            rx_bytes: sum(|s| s.rx_bytes.get()),
            last_heard_ms: (heard > 0)
                .then(|| (self.started.elapsed().as_millis() as u64).saturating_sub(heard - 1)),
        }
    }

    /// The rules that decided about a flow: for a reply, those of the flow it answers.
    fn flow_rules(&self, snap: &Snapshot, f: &FlowRow) -> [Option<String>; 2] {
        let from = (f.key.ingress & PEER_BIT == 0).then_some(f.key.ingress);
        let to = match f.remembered.action {
            Action::Port(id) => Some(id),
            _ => None,
        };
        let ends = Ends { from, to };
        match f.remembered.track {
            Some((_, policy::conntrack::Direction::Reply)) => {
                self.deciding(snap, ends.reversed(), &opened_by(&f.key))
            }
            _ => self.deciding(snap, ends, &f.key),
        }
    }

    pub(super) fn drop_infos(&self) -> Vec<DropInfo> {
        let happened = self.switch.totals().drops;
        let row = |reason: &DropReason| DropInfo {
            reason: reason.code().to_owned(),
            count: happened.iter().find(|(r, _)| r == reason).map_or(0, |(_, count)| *count),
            help: reason.help().to_owned(),
        };
        DropReason::ALL.iter().map(row).collect()
    }

    pub(super) fn flow_infos(&self) -> Vec<FlowInfo> {
        let snap = self.switch.snapshot();
        let addr = |a: u128| -> Option<IpAddr> { Some(to_ip(a)) };
        self.switch
            .flows(FLOWS)
            .iter()
            .map(|f| (f, self.flow_rules(&snap, f)))
            .map(|(f, [egress, ingress_rule])| FlowInfo {
                egress,
                ingress_rule,
                worker: f.worker as u32,
                ingress: ingress(&snap, f.key.ingress),
                src: addr(f.key.src),
                dst: addr(f.key.dst),
                proto: f.key.proto,
                sport: f.key.sport,
                dport: f.key.dport,
                action: action(&snap, f.remembered.action),
                packets: f.packets,
                bytes: f.bytes,
                idle_ms: f.idle_ms,
            })
            .collect()
    }
}

pub(super) fn port_name(snap: &Snapshot, id: u32) -> String {
    snap.port(id).map_or_else(|| format!("port {id}"), |p| p.name.clone())
}

fn peer_name(snap: &Snapshot, i: u32) -> String {
    snap.peers.get(i as usize).map_or_else(|| format!("peer {i}"), |p| p.name.to_string())
}

pub(super) fn ingress(snap: &Snapshot, id: u32) -> String {
    if id == ELSEWHERE {
        return "the uplink".to_owned();
    }
    if id & PEER_BIT == 0 { port_name(snap, id) } else { format!("node {}", peer_name(snap, id & !PEER_BIT)) }
}

/// An action in words.
pub(super) fn action(snap: &Snapshot, action: Action) -> String {
    match action {
        Action::Port(id) => format!("to {}", port_name(snap, id)),
        Action::Peer(i) => format!("to node {}", peer_name(snap, i)),
        Action::Gateway => "to the gateway".to_owned(),
        Action::Drop(reason) => format!("drop {}", reason.code()),
    }
}

fn describe(snap: &Snapshot, hop: NextHop) -> (RouteKind, String) {
    match hop {
        NextHop::Port(id) => (RouteKind::Pod, port_name(snap, id)),
        NextHop::Peer(i) => (RouteKind::Peer, peer_name(snap, i)),
        NextHop::Group(g) => {
            let names: Vec<String> = snap.groups.members(g).map(|i| peer_name(snap, i)).collect();
            (RouteKind::Peer, names.join(", "))
        }
        NextHop::Host => (RouteKind::Host, super::node::HOST_IF.to_owned()),
        NextHop::Gateway => (RouteKind::Gateway, String::new()),
        NextHop::Blackhole => (RouteKind::Blackhole, String::new()),
    }
}
