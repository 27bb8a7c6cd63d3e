//! `vsctl trace`: the production pipeline on a packet made for the purpose, each decision written down.
//!
//! The packet is built by etherparse, not by our own writers, and parsed by the data path's own parser; admission and
//! decision are the data path's own functions over the snapshot in force. Nothing is sent.

use std::net::IpAddr;

use control::api::{ApiError, Proto, Trace, TraceReport, TraceStep, code};
use encap::Parsed;
use etherparse::PacketBuilder;

use super::policy_report::Denied;
use super::{Daemon, report};
use crate::datapath::asked_of;
use crate::judge::Ends;
use crate::pipeline::{self, Action, Admit, Explain, Ingress};
use crate::snapshot::{GATEWAY_MAC, Port, PortKind, Snapshot};

/// A source port as a pod's kernel might choose it.
const SOURCE_PORT: u16 = 40_000;

/// Writes the steps down.
#[derive(Default)]
struct Steps(Vec<TraceStep>);

impl Explain for Steps {
    fn step(&mut self, stage: &'static str, text: impl FnOnce() -> String) {
        self.0.push(TraceStep { stage: stage.to_owned(), text: text() });
    }
}

impl Daemon {
    pub(super) fn trace(&self, t: &Trace) -> Result<TraceReport, ApiError> {
        let snap = self.switch.snapshot();
        let Some(port) = snap.ports.iter().flatten().find(|p| p.kind == PortKind::Pod && p.name == t.from)
        else {
            return Err(ApiError::new(code::UNKNOWN_CONTAINER, format!("no pod {:?} on this node", t.from)));
        };
        self.explain(&snap, port, t)
    }

    /// What would happen to the packet `t` describes when the pod behind `port` sends it.
    fn explain(&self, snap: &Snapshot, port: &Port, t: &Trace) -> Result<TraceReport, ApiError> {
        let family = if t.to.is_ipv6() { "IPv6" } else { "IPv4" };
        let Some(src) = (if t.to.is_ipv6() { port.v6 } else { port.v4 }) else {
            let text = format!("{} has no {family} address", port.name);
            return Err(ApiError::new(code::UNSUPPORTED_FIELD, text));
        };
        let bytes = packet(port, encap::to_ip(src), t)?;
        let p = encap::parse::parse(&bytes, bytes.len(), false)
            .map_err(|e| ApiError::new(code::INTERNAL, format!("the packet made for the trace: {e:?}")))?;
        let mut steps = Steps::default();
        steps.step("packet", || describe(&p, t, bytes.len()));
        let action = match pipeline::admit(port, &p) {
            Admit::Route => {
                steps.step("admit", || format!("from {}: MAC {} is its own", port.name, p.src_mac));
                pipeline::resolve(snap, Ingress::Port(port), &p, &mut steps)
            }
            Admit::Arp | Admit::Nd => Action::Gateway,
            Admit::Drop(reason) => Action::Drop(reason),
        };
        let ends = Ends::of(Ingress::Port(port), action);
        let denied = match action {
            Action::Port(_) | Action::Peer(_) => self.explain_policy(snap, ends, &asked_of(&p), &mut steps),
            Action::Gateway | Action::Drop(_) => None,
        };
        if let (Action::Peer(i), None | Some(Denied::There)) = (action, denied)
            && let Some(peer) = snap.peers.get(i as usize)
        {
            steps.step("tunnel", || match peer.tunnel {
                Some(encap::Tunnel::Vxlan { vni }) => {
                    format!("VXLAN, VNI {vni}, to {} (VTEP {})", peer.endpoint, peer.vtep_mac)
                }
                Some(encap::Tunnel::Udp) => format!("UDP to {}", peer.endpoint),
                Some(encap::Tunnel::Ipip) => format!("IP in IP to {}", peer.endpoint.ip()),
                None => "no encapsulation".to_owned(),
            });
        }
        let verdict = match (action, denied) {
            (Action::Drop(reason), _) | (_, Some(Denied::Here(reason))) => {
                format!("dropped ({}): {}", reason.code(), reason.help())
            }
            (other, Some(Denied::There)) => {
                let there = report::action(snap, other);
                format!("delivered {there}, which drops it (policy-ingress)")
            }
            (other, None) => format!("delivered {}", report::action(snap, other)),
        };
        let delivered = !matches!(action, Action::Drop(_)) && denied.is_none();
        Ok(TraceReport { steps: steps.0, delivered, verdict })
    }
}

fn describe(p: &Parsed, t: &Trace, len: usize) -> String {
    let proto = match t.proto {
        Proto::Tcp => "TCP SYN",
        Proto::Udp => "UDP",
        Proto::Sctp => "SCTP",
        Proto::Icmp => "ICMP echo request",
    };
    let port = t.port.map_or_else(String::new, |port| format!(" port {port}"));
    format!("{proto} {} to {}{port}, {len} bytes", encap::to_ip(p.src), encap::to_ip(p.dst))
}

/// The frame that the pod's kernel would send.
fn packet(port: &Port, src: IpAddr, t: &Trace) -> Result<Vec<u8>, ApiError> {
    let eth = PacketBuilder::ethernet2(port.mac.0, GATEWAY_MAC.0);
    let ip = match (src, t.to) {
        (IpAddr::V4(s), IpAddr::V4(d)) => eth.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => eth.ipv6(s.octets(), d.octets(), 64),
        _ => return Err(ApiError::new(code::INTERNAL, "addresses of two families")),
    };
    let dport = || {
        t.port.ok_or_else(|| ApiError::new(code::UNSUPPORTED_FIELD, "--to needs a port for this protocol"))
    };
    let mut out = Vec::with_capacity(128);
    let written = match t.proto {
        Proto::Tcp => ip.tcp(SOURCE_PORT, dport()?, 0, 64_240).syn().write(&mut out, &[]),
        Proto::Udp => ip.udp(SOURCE_PORT, dport()?).write(&mut out, b"vsctl trace"),
        Proto::Icmp if t.to.is_ipv6() => ip.icmpv6_echo_request(1, 1).write(&mut out, b"vsctl trace"),
        Proto::Icmp => ip.icmpv4_echo_request(1, 1).write(&mut out, b"vsctl trace"),
        Proto::Sctp => {
            // INIT without its checksum: the decision looks at the ports only.
            let mut init = [0u8; 32];
            init[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
            init[2..4].copy_from_slice(&dport()?.to_be_bytes());
            init[12] = 1;
            init[15] = 20;
            ip.write(&mut out, etherparse::IpNumber::SCTP, &init)
        }
    };
    written.map_err(|e| ApiError::new(code::INTERNAL, format!("build the packet: {e}")))?;
    Ok(out)
}
