//! What the gateway says itself: ARP and neighbour discovery, pings of the gateway, ICMP errors.

use encap::{Frame, Parsed};

use super::{Core, Packet, Staged};
use crate::counters::DropReason;
use crate::reply::{self, IcmpError, NoReply, Origin};
use crate::snapshot::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, Port, PortKind, Snapshot};

/// Small frames hold every reply but that to a large ping.
const SMALL_ECHO: usize = encap::SMALL;

impl Core {
    /// An ARP packet from `port`: pods may ask for the gateway, the host for anything.
    pub(super) fn arp(&mut self, port: &Port, frame: Frame) {
        let mut out = self.pool.small();
        let host = port.kind == PortKind::Host;
        let made = match encap::parse::parse(frame.data(), frame.len(), false) {
            Ok(p) => reply::arp(GATEWAY_MAC, frame.data(), &p, |a| host || a == GATEWAY_V4, &mut out).is_ok(),
            Err(_) => false,
        };
        self.answered(port, frame, out, made, DropReason::ArpIgnored);
    }

    /// A neighbour or router discovery message from `port`.
    pub(super) fn nd(&mut self, port: &Port, frame: Frame, p: &Parsed) {
        let mut out = self.pool.small();
        let host = port.kind == PortKind::Host;
        let solicitation = p.sport >> 8 == 135;
        let reason = if solicitation || p.sport >> 8 == 136 {
            DropReason::NdIgnored
        } else {
            DropReason::RouterDiscovery
        };
        // A pod asks from its address, a link-local one, or none (duplicate address detection).
        let own = |v6: u128| p.src == v6 || p.src == 0 || p.src >> 118 == 0xfe80 >> 6;
        let made = solicitation
            && (host || port.v6.is_some_and(own))
            && reply::neighbor(GATEWAY_MAC, frame.data(), p, |a| host || a == GATEWAY_V6, &mut out).is_ok();
        self.answered(port, frame, out, made, reason);
    }

    /// A packet to the gateway's own address: it answers pings.
    pub(super) fn gateway(&mut self, port: &Port, frame: Frame, pkt: &Packet<'_>) {
        let mut out = if pkt.len <= SMALL_ECHO { self.pool.small() } else { self.pool.large() };
        let made = reply::echo(GATEWAY_MAC, frame.data(), pkt.p, &mut out);
        let reason = match made {
            Err(NoReply::Malformed) => DropReason::BadChecksum,
            _ => DropReason::GatewayRefused,
        };
        self.answered(port, frame, out, made.is_ok(), reason);
    }

    /// Sends the answer `out` back to `port`, or counts why there is none.
    fn answered(&mut self, port: &Port, frame: Frame, out: Frame, made: bool, reason: DropReason) {
        if made {
            self.counters.answered.incr();
            self.pool.give(frame);
            self.emit(port, out);
        } else {
            self.pool.give(out);
            self.drop_frame(port, frame, reason);
        }
    }

    /// Writes a frame the switch made.
    fn emit(&mut self, port: &Port, out: Frame) {
        self.counters.generated.incr();
        let stats = self.stats(port);
        if port.tx.tx(&out.vnet, &[std::io::IoSlice::new(out.data())]).is_ok() {
            stats.tx_packets.incr();
            stats.tx_bytes.add(out.len() as u64);
        } else {
            stats.tx_dropped.incr();
        }
        self.pool.give(out);
    }

    /// Drops a frame from `port` and tells the sender, where the reason is one that senders are told.
    pub(super) fn refuse(
        &mut self,
        port: &Port,
        frame: Frame,
        pkt: &Packet<'_>,
        reason: DropReason,
        mtu: u16,
        now_ms: u64,
    ) {
        let addr = if pkt.p.v6 { u128::from(GATEWAY_V6) } else { encap::mapped(GATEWAY_V4) };
        if let Some(what) = told(pkt, reason, mtu) {
            if self.limit.allow(now_ms) {
                let mut out = self.pool.small();
                let from = Origin { mac: GATEWAY_MAC, addr };
                if reply::icmp_error(from, frame.data(), pkt.p, &pkt.vnet, what, &mut out).is_ok() {
                    self.emit(port, out);
                } else {
                    self.pool.give(out);
                }
            } else {
                self.counters.errors_limited.incr();
            }
        }
        self.drop_frame(port, frame, reason);
    }

    /// Tells a pod of another node why its packet went no further; from our router's address, which the peer accepts
    /// as ours. The caller counts the drop.
    pub(super) fn error_to_peer(
        &mut self,
        snap: &Snapshot,
        peer: u32,
        head: &[u8],
        pkt: &Packet<'_>,
        reason: DropReason,
        mtu: u16,
        now_ms: u64,
    ) {
        let router = if pkt.p.v6 { snap.node.router6 } else { snap.node.router4 };
        let (Some(what), Some(addr), Some(to)) =
            (told(pkt, reason, mtu), router, snap.peers.get(peer as usize))
        else {
            return;
        };
        // A peer that is reached directly and sent this through the tunnel takes the answer by the same way.
        let Some(tunnel) = to.tunnel.or(snap.node.tunnel) else { return };
        if !self.limit.allow(now_ms) {
            return self.counters.errors_limited.incr();
        }
        let mut out = self.pool.small();
        let from = Origin { mac: snap.node.vtep_mac, addr };
        if reply::icmp_error(from, head, pkt.p, &pkt.vnet, what, &mut out).is_ok() {
            encap::rewrite::set_macs(out.data_mut(), to.vtep_mac, snap.node.vtep_mac);
            self.counters.generated.incr();
            self.stage(Staged { frame: out, peer, tunnel, hash: pkt.hash, dst: pkt.p.src, made: true });
        } else {
            self.pool.give(out);
        }
    }
}

/// The ICMP error for a reason; most drops are silent.
fn told(pkt: &Packet<'_>, reason: DropReason, mtu: u16) -> Option<IcmpError> {
    match reason {
        DropReason::TtlExceeded => Some(IcmpError::TimeExceeded),
        DropReason::NoRoute | DropReason::NotLocal => Some(IcmpError::HostUnreachable),
        // Without DF the sender asked for fragmentation, which we do not do; an MTU would mean nothing to it.
        DropReason::TooBig if pkt.p.df => Some(IcmpError::TooBig { mtu }),
        _ => None,
    }
}
