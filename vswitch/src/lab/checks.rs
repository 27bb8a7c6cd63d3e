//! What `vsctl lab` checks: everybody reaches everybody, and what must not pass does not.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use control::api::{DropInfo, Proto, Request};
use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::attach::Attached;
use super::bed::Bed;
use super::daemon::Lab;
use super::enter::within;
use super::error::LabError;
use super::netns::Netns;
use super::ping::{ping, ping_error};
use super::plan::TunnelKind;
use super::probe::{Echo, PATIENCE, blast, tcp_echo, tcp_echo_in, udp_echo_in, udp_silence};
use super::report::{Check, Report};
use super::stop::Stop;

/// Names of the table's rows for one place of a pair.
struct Rows {
    ping: [&'static str; 2],
    tcp: [&'static str; 2],
    udp: [&'static str; 2],
    stream: [&'static str; 2],
}

const SAME: Rows = Rows {
    ping: ["pod to pod, same node: ping IPv4", "pod to pod, same node: ping IPv6"],
    tcp: ["pod to pod, same node: TCP IPv4", "pod to pod, same node: TCP IPv6"],
    udp: ["pod to pod, same node: UDP IPv4", "pod to pod, same node: UDP IPv6"],
    stream: ["pod to pod, same node: stream IPv4", "pod to pod, same node: stream IPv6"],
};
const ACROSS: Rows = Rows {
    ping: ["pod to pod, across nodes: ping IPv4", "pod to pod, across nodes: ping IPv6"],
    tcp: ["pod to pod, across nodes: TCP IPv4", "pod to pod, across nodes: TCP IPv6"],
    udp: ["pod to pod, across nodes: UDP IPv4", "pod to pod, across nodes: UDP IPv6"],
    stream: ["pod to pod, across nodes: stream IPv4", "pod to pod, across nodes: stream IPv6"],
};
const NO_V6: &str = "pod to pod, across nodes: IPv6 not carried by this tunnel";
const GATEWAY: &str = "pod to its gateway";
const HOST: [&str; 2] = ["node to its pod", "pod to its node"];
const OUTSIDE: [&str; 2] = ["pod to outside (masqueraded) IPv4", "pod to outside (masqueraded) IPv6"];
const SPOOF: &str = "spoofed source is dropped and counted";
const UNKNOWN: &str = "unknown pod address is answered unreachable";
const STRANGER: &str = "tunnel packet from a stranger is dropped";

/// How long an answer that policy denies is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// A run over one lab.
pub(crate) struct Checks<'a> {
    lab: &'a Lab,
    pods: &'a [(usize, Attached)],
    tunnel: TunnelKind,
    stop: &'a Stop,
    report: Report,
}

impl<'a> Checks<'a> {
    /// Over `pods`, each with its node's index.
    pub(crate) fn new(
        lab: &'a Lab,
        pods: &'a [(usize, Attached)],
        tunnel: TunnelKind,
        stop: &'a Stop,
    ) -> Self {
        Checks { lab, pods, tunnel, stop, report: Report::default() }
    }

    /// All of them. A check that fails is in the report; an error is a lab that cannot go on.
    pub(crate) fn all(mut self) -> Result<Report, LabError> {
        let _echoes =
            self.pods.iter().map(|(_, pod)| Echo::start(pod.netns.path())).collect::<Result<Vec<_>, _>>()?;
        self.pairs()?;
        self.streams()?;
        self.gateway()?;
        self.host()?;
        self.outside()?;
        self.refused()?;
        for (i, daemon) in self.lab.daemons.iter().enumerate() {
            let Some(daemon) = daemon else { continue };
            let reasons: Vec<DropInfo> = daemon.ask(&Request::Drops)?;
            let counted = reasons.iter().filter(|drop| drop.count > 0);
            let counted: Vec<String> =
                counted.map(|drop| format!("{} {}", drop.count, drop.reason)).collect();
            self.report.drops.push(format!("n{} dropped: {}", i + 1, counted.join(", ")));
        }
        Ok(self.report)
    }

    fn pairs(&mut self) -> Result<(), LabError> {
        for (i, (node, from)) in self.pods.iter().enumerate() {
            for (far_node, to) in
                self.pods.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, pod)| (pod.0, &pod.1))
            {
                self.stop.check()?;
                let rows = if *node == far_node { &SAME } else { &ACROSS };
                for (family, address) in to.addresses().into_iter().enumerate() {
                    if *node != far_node && family == 1 && !self.tunnel.carries_v6() {
                        self.unreachable(NO_V6, &from.netns, address)?;
                        continue;
                    }
                    let pod = (*node, from);
                    self.ping_from(rows.ping[family], pod, address)?;
                    self.talk(rows.tcp[family], pod, address, Proto::Tcp)?;
                    self.talk(rows.udp[family], pod, address, Proto::Udp)?;
                }
            }
        }
        Ok(())
    }

    /// One-second streams between the first pair of each place.
    fn streams(&mut self) -> Result<(), LabError> {
        let Some((node, from)) = self.pods.first() else { return Ok(()) };
        let rest = || self.pods.iter().skip(1);
        let same = rest().find(|(n, _)| n == node).map(|(_, to)| (&SAME, to, true));
        let across = rest().find(|(n, _)| n != node).map(|(_, to)| (&ACROSS, to, self.tunnel.carries_v6()));
        for (rows, to, v6) in same.into_iter().chain(across) {
            let families = if v6 { 2 } else { 1 };
            for (family, address) in to.addresses().into_iter().enumerate().take(families) {
                self.stop.check()?;
                if !self.expected(*node, from, address, Proto::Tcp)? {
                    continue;
                }
                let got = blast(from.netns.path(), to.netns.path(), address, Duration::from_secs(1));
                let (ok, detail, gbit_s) = match got {
                    Ok(blast) => {
                        (blast.bytes > 0, format!("{:.2} Gbit/s", blast.gbit_s()), Some(blast.gbit_s()))
                    }
                    Err(error) => (false, error.to_string(), None),
                };
                self.add(rows.stream[family], &from.netns, address, ok, detail, None, gbit_s);
            }
        }
        Ok(())
    }

    fn gateway(&mut self) -> Result<(), LabError> {
        for (_, pod) in self.pods {
            self.ping(GATEWAY, &pod.netns, IpAddr::from([169, 254, 1, 1]))?;
        }
        Ok(())
    }

    fn host(&mut self) -> Result<(), LabError> {
        for (i, node) in self.lab.bed.nodes.iter().enumerate() {
            self.stop.check()?;
            let _echo = Echo::start(node.path())?;
            for (_, pod) in self.pods.iter().filter(|(n, _)| *n == i) {
                for address in pod.addresses() {
                    self.ping(HOST[0], node, address)?;
                    self.probe(HOST[0], node, address, tcp_echo(node.path(), address));
                }
                for address in self.lab.node_addresses(i) {
                    self.ping_from(HOST[1], (i, pod), address)?;
                    self.talk(HOST[1], (i, pod), address, Proto::Tcp)?;
                }
            }
        }
        Ok(())
    }

    fn outside(&mut self) -> Result<(), LabError> {
        let Some(outside) = &self.lab.bed.outside else { return Ok(()) };
        let _echo = Echo::start(outside.path())?;
        for (node, pod) in self.pods {
            self.stop.check()?;
            for (row, address) in OUTSIDE.into_iter().zip([Bed::OUTSIDE, Bed::OUTSIDE6]) {
                let Ok(address) = address.parse::<IpAddr>() else { continue };
                let pod = (*node, pod);
                self.ping_from(row, pod, address)?;
                self.talk(row, pod, address, Proto::Tcp)?;
                self.talk(row, pod, address, Proto::Udp)?;
            }
        }
        Ok(())
    }

    fn refused(&mut self) -> Result<(), LabError> {
        let Some((node, from)) = self.pods.first() else { return Ok(()) };
        let unknown = self.lab.bed.plan(*node);
        self.stop.check()?;
        self.unreachable(UNKNOWN, &from.netns, unknown.pod(251).into())?;
        self.unreachable(UNKNOWN, &from.netns, unknown.pod6(251).into())?;
        self.unreachable(UNKNOWN, &from.netns, IpAddr::from([10, 244, 222, 5]))?;
        if let Some((_, to)) = self.pods.get(1) {
            self.spoof(*node, from, to)?;
            self.stranger(*node, from, to.v4)?;
        }
        Ok(())
    }

    /// A pod gives itself one more address and sends from it.
    fn spoof(&mut self, node: usize, from: &Attached, to: &Attached) -> Result<(), LabError> {
        let plan = self.lab.bed.plan(node);
        let others: [(IpAddr, u8, IpAddr); 2] =
            [(plan.pod(250).into(), 32, to.v4), (plan.pod6(250).into(), 128, to.v6)];
        for (source, length, target) in others {
            from.netns.ip(&format!("addr add {source}/{length} dev eth0 {}", nodad(source)))?;
            let before = self.lab.drops(node, "spoofed-address")?;
            let silent = udp_silence(from.netns.path(), source, to.netns.path(), target)?;
            let counted = self.lab.drops(node, "spoofed-address")?.saturating_sub(before);
            from.netns.ip(&format!("addr del {source}/{length} dev eth0"))?;
            let detail =
                format!("source {source}: arrived {}, drops counted {counted}", if silent { 0 } else { 1 });
            self.add(SPOOF, &from.netns, target, silent && counted >= 3, detail, None, None);
        }
        Ok(())
    }

    /// The outside namespace, which is no peer, sends a well-formed tunnel packet for a pod.
    fn stranger(&mut self, node: usize, to: &Attached, inner_source: IpAddr) -> Result<(), LabError> {
        let (Some(outside), IpAddr::V4(source), IpAddr::V4(target)) =
            (&self.lab.bed.outside, inner_source, to.v4)
        else {
            return Ok(());
        };
        let mut inner = Vec::new();
        let builder = PacketBuilder::ipv4(source.octets(), target.octets(), 64).udp(9009, 9009);
        if builder.write(&mut inner, b"stranger").is_err() {
            return Ok(());
        }
        let (port, datagram) = match self.tunnel {
            TunnelKind::Udp => (8285, inner),
            TunnelKind::Vxlan => {
                let vtep = self.lab.bed.plan(node).n;
                let mut frame =
                    vec![0x08, 0, 0, 0, 0, 0, 1, 0, 0x0e, 0, 0, 0, 0, vtep, 0x0e, 0, 0, 0, 0, 9, 8, 0];
                frame.extend_from_slice(&inner);
                (8472, frame)
            }
            // A raw socket has no ports.
            TunnelKind::Ipip => (0, inner),
            TunnelKind::Direct => return Ok(()),
        };
        let far = SocketAddr::new(self.lab.bed.plan(node).address().into(), port);
        let receiver = within(to.netns.path(), || UdpSocket::bind(("0.0.0.0", 9009)))?
            .map_err(LabError::socket("UDP receiver"))?;
        receiver
            .set_read_timeout(Some(Duration::from_millis(300)))
            .map_err(LabError::socket("UDP receiver"))?;
        let before = self.lab.drops(node, "unknown-peer")?;
        within(outside.path(), || match port {
            0 => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4)))
                .and_then(|s| s.send_to(&datagram, &far.into())),
            port => UdpSocket::bind(("0.0.0.0", port)).and_then(|s| s.send_to(&datagram, far)),
        })?
        .map_err(LabError::socket("tunnel packet"))?;
        let silent = receiver.recv(&mut [0; 64]).is_err();
        let counted = self.lab.drops(node, "unknown-peer")?.saturating_sub(before);
        let detail = format!("arrived {}, drops counted {counted}", u8::from(!silent));
        self.add(STRANGER, outside, to.v4, silent && counted == 1, detail, None, None);
        Ok(())
    }

    /// Whether a packet of `from` on node `node` should arrive: always without policy, else as `vsctl trace` says.
    fn expected(&self, node: usize, from: &Attached, to: IpAddr, proto: Proto) -> Result<bool, LabError> {
        if self.lab.manifests.is_none() {
            return Ok(true);
        }
        let port = (proto != Proto::Icmp).then_some(Echo::PORT);
        self.lab.trace(node, &from.name, to, proto, port)
    }

    /// As [`Checks::ping`], where policy may deny it.
    fn ping_from(
        &mut self,
        group: &'static str,
        (node, from): (usize, &Attached),
        to: IpAddr,
    ) -> Result<(), LabError> {
        if self.expected(node, from, to, Proto::Icmp)? {
            return self.ping(group, &from.netns, to);
        }
        let pinged = ping(&from.netns, to, 1, 10)?;
        let detail = format!("policy denies it; {} of {} answered", pinged.received, pinged.sent);
        self.add(group, &from.netns, to, pinged.received == 0, detail, None, None);
        Ok(())
    }

    /// One exchange with the echo server at `to`, where policy may deny it.
    fn talk(
        &mut self,
        group: &'static str,
        (node, from): (usize, &Attached),
        to: IpAddr,
        proto: Proto,
    ) -> Result<(), LabError> {
        let expected = self.expected(node, from, to, proto)?;
        let patience = if expected { PATIENCE } else { SILENCE };
        let got = match proto {
            Proto::Udp => udp_echo_in(from.netns.path(), to, 1200, patience),
            _ => tcp_echo_in(from.netns.path(), to, patience),
        };
        match got {
            Ok(_) if !expected => {
                self.add(group, &from.netns, to, false, "policy denies it; answered".into(), None, None);
            }
            Err(_) if !expected => {
                self.add(group, &from.netns, to, true, "policy denies it; no answer".into(), None, None);
            }
            got => self.probe(group, &from.netns, to, got),
        }
        Ok(())
    }

    fn ping(&mut self, group: &'static str, from: &Netns, to: IpAddr) -> Result<(), LabError> {
        let pinged = ping(from, to, 3, 10)?;
        let detail = format!("{} of {} answered, {:.3} ms", pinged.received, pinged.sent, pinged.mean_ms);
        let rtt = (pinged.received > 0).then_some(pinged.mean_ms);
        self.add(group, from, to, pinged.all(), detail, rtt, None);
        Ok(())
    }

    fn unreachable(&mut self, group: &'static str, from: &Netns, to: IpAddr) -> Result<(), LabError> {
        let error = ping_error(from, to)?;
        let ok = error.as_deref().is_some_and(|line| line.to_ascii_lowercase().contains("unreachable"));
        self.add(group, from, to, ok, error.unwrap_or_else(|| "no ICMP error came".into()), None, None);
        Ok(())
    }

    fn probe(&mut self, group: &'static str, from: &Netns, to: IpAddr, got: Result<Duration, LabError>) {
        match got {
            Ok(time) => {
                let detail = format!("answered in {:.3} ms", time.as_secs_f64() * 1e3);
                self.add(group, from, to, true, detail, None, None);
            }
            Err(error) => self.add(group, from, to, false, error.to_string(), None, None),
        }
    }

    #[allow(clippy::too_many_arguments)] // one call site's worth of a row
    fn add(
        &mut self,
        group: &'static str,
        from: &Netns,
        to: IpAddr,
        ok: bool,
        detail: String,
        rtt_ms: Option<f64>,
        gbit_s: Option<f64>,
    ) {
        let from = from.name().rsplit('-').next().unwrap_or_default();
        self.report.checks.push(Check {
            name: format!("{group}: {from} to {to}"),
            ok,
            detail,
            group,
            rtt_ms,
            gbit_s,
        });
    }
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}
