//! From peers: receive buffers become inner packets, merged where they belong together, and are delivered.
//!
//! How a buffer is read follows from the form of the socket it came in by, whatever we send its sender ourselves.
//! A buffer of a socket with `UDP_GRO` has one of two layouts: a train of equal datagrams, each with a tunnel header
//! of its own; or one tunnel header and one giant inner frame, as a kernel on the same host sends them. They are told
//! apart by the inner IP length, never by the control message alone.

use std::sync::atomic::Ordering::Relaxed;

use encap::ipip::IpipError;
use encap::slice;
use encap::udp::UdpError;
use encap::{Form, Frame, Mac, Parsed, VnetHdr};
use policy::FlowKey;

use super::{Datapath, Packet, Sight, rewrite};
use crate::counters::DropReason;
use crate::events::ELSEWHERE;
use crate::pipeline::{self, Action, Ingress, ethertype};
use crate::snapshot::{Peer, Snapshot};
use crate::uplink::{RecvMeta, UplinkTx};

const ETH: usize = 14;

impl Datapath {
    /// Takes every datagram of `bufs`, received by a socket of this form, to its end.
    pub fn from_uplink(
        &mut self,
        snap: &Snapshot,
        form: Form,
        bufs: &mut [Frame],
        meta: &[RecvMeta],
        up: &mut dyn UplinkTx,
        now_ms: u64,
    ) {
        // One run of buffers from the same peer at a time: merged packets then have one ingress.
        let mut from = 0;
        while from < meta.len() {
            let addr = encap::from_ip(meta[from].addr.ip());
            let run = meta[from..].iter().take_while(|m| encap::from_ip(m.addr.ip()) == addr).count();
            let to = from + run;
            match snap.peer_of.get(&addr).and_then(|&i| Some((i, snap.peers.get(i as usize)?))) {
                Some((i, peer)) => {
                    self.peer_batch(snap, form, (i, peer), &mut bufs[from..to], &meta[from..to], now_ms)
                }
                None => {
                    let n: usize = meta[from..to].iter().map(datagrams).sum();
                    self.core.counters.received.add(n as u64);
                    self.core.counters.dropped(DropReason::UnknownPeer, n as u64);
                    let stranger = FlowKey { src: addr, ingress: ELSEWHERE, ..FlowKey::default() };
                    self.core.events.dropped(DropReason::UnknownPeer, || stranger);
                }
            }
            from = to;
        }
        self.answer(snap, up);
        self.core.flush(snap, up, now_ms);
        self.merge.note_heads();
    }

    fn peer_batch(
        &mut self,
        snap: &Snapshot,
        form: Form,
        (index, peer): (u32, &Peer),
        bufs: &mut [Frame],
        meta: &[RecvMeta],
        now_ms: u64,
    ) {
        self.merge.clear();
        for (i, m) in meta.iter().enumerate() {
            let offered = match form {
                Form::Vxlan => self.offer_vxlan(snap, (index, peer), bufs, i, m, now_ms),
                Form::Udp => self.offer_bare(bufs, i, m),
                Form::Ipip => self.offer_ipip(bufs, i, m),
            };
            if let Err((reason, n)) = offered {
                self.core.counters.dropped(reason, n);
                let unread = FlowKey { ingress: Ingress::Peer(index).id(), ..FlowKey::default() };
                self.core.events.dropped(reason, || unread);
            }
        }
        let mut seen = std::mem::take(&mut self.core.seen);
        // As many at a time as a burst of a port has: what is fetched ahead must still be near when it is used.
        for first in (0..self.merge.len()).step_by(encap::BURST) {
            for i in first..self.merge.len().min(first + encap::BURST) {
                match self.core.look_at_peers(index, &self.merge.packet(i), bufs, i) {
                    Ok(sight) => seen.push(sight),
                    Err((reason, n)) => self.core.counters.dropped(reason, n),
                }
            }
            self.core.fetch_ahead(&mut seen);
            for sight in seen.drain(..) {
                let merged = self.merge.packet(sight.at);
                self.core.peer_packet(snap, index, merged, &sight, bufs, now_ms);
            }
        }
        self.core.seen = seen;
    }

    /// Offers the inner frames of one buffer of VXLAN datagrams.
    fn offer_vxlan(
        &mut self,
        snap: &Snapshot,
        (index, peer): (u32, &Peer),
        bufs: &[Frame],
        buf: usize,
        m: &RecvMeta,
        now_ms: u64,
    ) -> Result<(), (DropReason, u64)> {
        let data = &bufs[buf].data()[..m.len.min(bufs[buf].len())];
        let inner = |d: &[u8]| -> Result<usize, DropReason> {
            let (got, off) = encap::vxlan::parse(d).map_err(|_| DropReason::BadTunnelHeader)?;
            if !peer.vnis.contains(&got) {
                return Err(DropReason::WrongVni);
            }
            for_us(snap, &d[off..]).map(|()| off)
        };
        let takes_slices = self.core.slices;
        if !(takes_slices && slice::is_slice(data))
            && let Some(vnet) = giant(data, m, snap.node.mtu)
        {
            self.core.counters.received.incr();
            let off = inner(data).map_err(|r| (r, 1))?;
            let vnet = vnet.map_err(|r| (r, 1))?;
            self.merge.offer_whole(buf as u16, off as u32, (data.len() - off) as u32, vnet);
            return Ok(());
        }
        let stride = if m.stride == 0 { data.len() } else { m.stride };
        let trusted = m.stride != 0 && data.len() > m.stride;
        let mut at = 0;
        for d in data.chunks(stride.max(1)) {
            self.core.counters.received.incr();
            let span = (buf as u16, at as u32, d.len() as u32);
            let taken = if takes_slices && slice::is_slice(d) {
                self.offer_slice(snap, (index, peer), bufs, span, m.addr, now_ms)
            } else {
                inner(d).map(|off| {
                    let (buf, from, len) = span;
                    self.merge.offer(bufs, buf, from + off as u32, len - off as u32, trusted);
                })
            };
            if let Err(reason) = taken {
                self.core.counters.dropped(reason, 1);
            }
            at += d.len();
        }
        if data.is_empty() {
            self.core.counters.received.incr();
            return Err((DropReason::Truncated, 1));
        }
        Ok(())
    }

    /// Offers the packet in one outer IPv4 packet. Its Ethernet header takes the place of the outer header's last bytes.
    fn offer_ipip(&mut self, bufs: &mut [Frame], buf: usize, m: &RecvMeta) -> Result<(), (DropReason, u64)> {
        self.core.counters.received.incr();
        let data = bufs[buf].data_mut();
        let len = m.len.min(data.len());
        let data = &mut data[..len];
        let inner = encap::ipip::parse(data).map_err(|e| (ipip_drop(e), 1))?;
        if inner.mark {
            encap::ipip::mark(&mut data[inner.at..]);
        }
        let at = inner.at - ETH;
        data[at..inner.at].copy_from_slice(&encap::udp::ethernet(
            Mac::default(),
            Mac::default(),
            inner.ethertype,
        ));
        self.merge.offer(bufs, buf as u16, at as u32, (len - at) as u32, false);
        Ok(())
    }

    /// Offers the packets of one buffer of flannel's UDP form: bare IP. They get Ethernet headers on the way, so the
    /// train is laid out anew with room before each.
    fn offer_bare(&mut self, bufs: &mut [Frame], buf: usize, m: &RecvMeta) -> Result<(), (DropReason, u64)> {
        let len = m.len.min(bufs[buf].len());
        let n = datagrams(m);
        self.core.counters.received.add(n as u64);
        let stride = if m.stride == 0 { len } else { m.stride };
        if len == 0 {
            return Err((DropReason::Truncated, 1));
        }
        let trusted = m.stride != 0 && len > m.stride;
        let mut out = self.core.pool.large();
        out.reset();
        let room = out.spare_mut();
        let mut at = 0;
        let mut lost = 0;
        for d in bufs[buf].data()[..len].chunks(stride) {
            let ethertype = match d[0] >> 4 {
                4 => ethertype::IPV4,
                6 => ethertype::IPV6,
                _ => 0xffff,
            };
            // flannel's form has no length of its own: the datagram is the packet.
            let exact =
                d.len() >= 4 && (d[0] >> 4 != 4 || usize::from(u16::from_be_bytes([d[2], d[3]])) == d.len());
            match room.get_mut(at..at + ETH + d.len()) {
                Some(slot) if ethertype == ethertype::IPV4 && exact => {
                    slot[..12].fill(0);
                    slot[12..ETH].copy_from_slice(&ethertype.to_be_bytes());
                    slot[ETH..].copy_from_slice(d);
                    at += ETH + d.len();
                }
                _ => lost += 1,
            }
        }
        out.set_len(at);
        // The number stays with the place, not with the memory.
        out.take_number(&bufs[buf]);
        std::mem::swap(&mut bufs[buf], &mut out);
        // Each packet's own length, checked above, says where the next one lies.
        let mut from = 0;
        while let Some(&[high, low]) = bufs[buf].data().get(from + ETH + 2..from + ETH + 4) {
            let frame = ETH + usize::from(u16::from_be_bytes([high, low]));
            self.merge.offer(bufs, buf as u16, from as u32, frame as u32, trusted);
            from += frame;
        }
        self.core.pool.give(out);
        if lost > 0 { Err((DropReason::BadLength, lost)) } else { Ok(()) }
    }
}

impl super::Core {
    /// Takes a packet of a peer in, merged or not; or why not, and how many packets of the wire that concerns.
    #[inline]
    fn look_at_peers(
        &self,
        peer: u32,
        merged: &encap::GroPacket<'_>,
        bufs: &[Frame],
        at: usize,
    ) -> Result<Sight, (DropReason, u64)> {
        match inspect(merged.head.bytes(bufs), merged.total_len, merged.vnet) {
            Ok(p) => Ok(self.sight(Ingress::Peer(peer), p, at)),
            Err(reason) => Err((reason, u64::from(merged.count))),
        }
    }

    /// One packet from a peer to its end.
    fn peer_packet(
        &mut self,
        snap: &Snapshot,
        peer: u32,
        merged: encap::GroPacket<'_>,
        sight: &Sight,
        bufs: &mut [Frame],
        now_ms: u64,
    ) {
        let encap::GroPacket { mut head, tail, total_len: mut len, vnet, count, .. } = merged;
        let (count, p) = (u64::from(count), &sight.p);
        // What follows the packet is padding: it is not delivered.
        if let encap::GroHead::InPlace(span) = &mut head {
            span.len = span.len.min(u32::from(p.l3) + p.ip_len);
            len = span.len as usize;
        }
        let action = self.decide(snap, Ingress::Peer(peer), sight, head.bytes(bufs), (len, count), now_ms);
        let pkt = Packet { p, vnet, len, count, hash: sight.hash };
        if let Some(from) = snap.peers.get(peer as usize) {
            let stats = &from.stats[self.index];
            stats.rx_packets.add(count);
            stats.rx_bytes.add(len as u64);
            stats.heard.store(now_ms + 1, Relaxed);
        }
        let reason = match action {
            Action::Port(id) => match snap.port(id) {
                Some(to) => match self.forwardable(&pkt, head.bytes(bufs), to.mtu) {
                    Ok(()) => {
                        rewrite(head.bytes_mut(bufs), to, p);
                        return self.deliver(to, &pkt, head.bytes(bufs), tail, bufs);
                    }
                    Err(reason) => {
                        self.error_to_peer(snap, peer, head.bytes(bufs), &pkt, reason, to.mtu, now_ms);
                        reason
                    }
                },
                None => DropReason::PortDown,
            },
            Action::Peer(_) => DropReason::TunnelLoop,
            Action::Gateway => DropReason::NotLocal,
            Action::Drop(reason) => {
                self.error_to_peer(snap, peer, head.bytes(bufs), &pkt, reason, 0, now_ms);
                reason
            }
        };
        self.counters.dropped(reason, count);
        self.events.dropped(reason, || sight.key);
    }
}

/// What every packet of a peer must satisfy, `len` bytes of which `head` is the start.
#[inline]
fn inspect(head: &[u8], len: usize, vnet: VnetHdr) -> Result<Parsed, DropReason> {
    let wrong = |len| vnet != VnetHdr::default() && vnet.check(len).is_err();
    if wrong(len) {
        return Err(DropReason::BadOffload);
    }
    let p = encap::parse::parse(head, len, vnet.is_gso()).map_err(pipeline::parse_drop)?;
    if p.vlan {
        return Err(DropReason::Vlan);
    }
    if p.ethertype != ethertype::IPV4 && p.ethertype != ethertype::IPV6 {
        return Err(DropReason::UnknownEtherType);
    }
    // No checksum may claim to lie in the padding.
    let len = len.min(usize::from(p.l3) + p.ip_len as usize);
    if vnet != VnetHdr::default() && (wrong(len) || vnet.agrees(&p).is_err()) {
        return Err(DropReason::BadOffload);
    }
    Ok(p)
}

/// Is this inner frame for this node's VTEP?
pub(super) fn for_us(snap: &Snapshot, inner: &[u8]) -> Result<(), DropReason> {
    match inner.get(..6) {
        Some(mac) if mac == snap.node.vtep_mac.0 => Ok(()),
        Some(_) => Err(DropReason::ForeignMac),
        None => Err(DropReason::Truncated),
    }
}

/// The reason that goes with a packet that is none of IP in IP.
fn ipip_drop(e: IpipError) -> DropReason {
    match e {
        IpipError::Truncated | IpipError::Inner(UdpError::Truncated) => DropReason::Truncated,
        IpipError::NotIpv4 | IpipError::Protocol(_) => DropReason::BadTunnelHeader,
        IpipError::Inner(UdpError::Version(_)) => DropReason::BadIpHeader,
        IpipError::Inner(UdpError::Length) => DropReason::BadLength,
        IpipError::Congestion => DropReason::Congestion,
    }
}

/// How many datagrams a receive buffer holds.
fn datagrams(m: &RecvMeta) -> usize {
    if m.stride == 0 { 1 } else { m.len.div_ceil(m.stride).max(1) }
}

/// Is this one tunnel header with one giant frame? If so, the header that describes it, or why it cannot be carried.
fn giant(data: &[u8], m: &RecvMeta, mtu: u16) -> Option<Result<VnetHdr, DropReason>> {
    const L3: usize = encap::vxlan::VXLAN_LEN + ETH;
    let ip = data.get(L3..)?;
    let ethertype = u16::from_be_bytes([data[L3 - 2], data[L3 - 1]]);
    let (ip_len, min) = match ethertype {
        ethertype::IPV4 => (usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])), 20),
        ethertype::IPV6 => (40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])), 40),
        _ => return None,
    };
    if ip_len <= usize::from(mtu) || L3 + ip_len > data.len() || ip.len() < min {
        return None;
    }
    if m.stride != 0 && L3 + ip_len <= m.stride {
        return None;
    }
    let frame = data.get(encap::vxlan::VXLAN_LEN..L3 + ip_len)?;
    Some(encap::whole::describe(frame, m.stride, usize::from(mtu)).ok_or(DropReason::BadChecksum))
}
