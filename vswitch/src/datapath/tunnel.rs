//! Toward peers: staged frames become trains of datagrams.
//!
//! A super-frame becomes one `UDP_SEGMENT` train (headers and payload pieces alternate, the payload is not copied), of
//! segments or, to a peer that takes them, of slices;
//! frames of one size for one pod of a peer and of one source port become a train too (`lanes.rs`). The kernel writes
//! the outer IP and UDP headers; VXLAN's eight bytes go into the frame's headroom.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use encap::slice::Part;
use encap::{Form, Tunnel, vxlan::VXLAN_LEN};

use super::lanes::{self, Order};
use super::{Core, Staged};
use crate::counters::DropReason;
use crate::snapshot::{Peer, Snapshot};
use crate::uplink::{Train, UplinkTx, steer};

const ETH: usize = 14;
/// Segments a super-frame may have in one train (`UDP_MAX_SEGMENTS` of Linux, which is 64 on older kernels; the uplink
/// says less if it takes less).
const SEGMENTS: usize = 128;
/// Frames gathered for one `sendmmsg`.
const GATHER: usize = encap::BURST;

impl Core {
    /// Puts a frame with finished inner headers aside until the end of the burst.
    pub(super) fn stage(&mut self, s: Staged) {
        self.staged.push(s);
    }

    /// Sends what was put aside, in order.
    pub(super) fn flush(&mut self, snap: &Snapshot, up: &mut dyn UplinkTx, now_ms: u64) {
        if self.staged.is_empty() {
            return;
        }
        let mut staged = std::mem::take(&mut self.staged);
        let mut plain = 0;
        for i in 0..staged.len() {
            if staged[i].frame.vnet.is_gso() {
                self.send_plain(snap, &mut staged[plain..i], up);
                self.send_super(snap, &mut staged[i], up, now_ms);
                plain = i + 1;
            } else if staged[i].tunnel != staged[plain].tunnel {
                self.send_plain(snap, &mut staged[plain..i], up);
                plain = i;
            }
        }
        self.send_plain(snap, &mut staged[plain..], up);
        for s in staged.drain(..) {
            self.pool.give(s.frame);
        }
        self.staged = staged;
    }

    /// Ordinary frames, all for the same tunnel: finish their checksums, put the tunnel header before each, group them
    /// into trains.
    fn send_plain(&mut self, snap: &Snapshot, staged: &mut [Staged], up: &mut dyn UplinkTx) {
        let Some(tunnel) = staged.first().map(|s| s.tunnel) else { return };
        for chunk in staged.chunks_mut(GATHER) {
            for s in chunk.iter_mut() {
                let vnet = s.frame.vnet;
                if vnet.needs_csum() && encap::finish_checksum(s.frame.data_mut(), &vnet).is_err() {
                    s.frame.truncate(0);
                    if !s.made {
                        self.counters.dropped(DropReason::BadOffload, 1);
                    }
                    continue;
                }
                match tunnel {
                    Tunnel::Vxlan { vni } => encap::vxlan::push(&mut s.frame, vni),
                    Tunnel::Udp | Tunnel::Ipip => {
                        s.frame.pull(ETH);
                    }
                }
            }
            self.send_gathered(snap, tunnel.form(), chunk, up);
        }
    }

    fn send_gathered(&mut self, snap: &Snapshot, form: Form, chunk: &mut [Staged], up: &mut dyn UplinkTx) {
        let mut iov = [IoSlice::new(&[]); GATHER];
        let mut spans = [(0usize, 0usize); GATHER];
        let mut n = 0;
        let (max_segs, max_bytes) = up.max_train(form);
        let order = Order::new(chunk, |hash| up.port(form, hash));
        if self.trains && form == Form::Vxlan && max_segs > 1 {
            order.pad(chunk, |hash| up.port(form, hash));
        }
        let chunk = &*chunk;
        let live = || order.iter().map(|number| &chunk[number]);
        for (slot, s) in iov.iter_mut().zip(live()) {
            *slot = IoSlice::new(s.frame.data());
            n += 1;
        }
        if n == 0 {
            return;
        }
        // Consecutive frames that may share a train: [from, to) over the live ones.
        let mut trains = 0;
        let (mut from, mut bytes) = (0, 0);
        let mut prev: Option<&Staged> = None;
        for (i, s) in live().enumerate() {
            let joins = prev.is_some_and(|p| {
                let first = iov[from].len();
                self.trains
                    && lanes::same_lane(p, s, |hash| up.port(form, hash))
                    && p.frame.len() == first
                    && s.frame.len() <= first
                    && i - from < max_segs
                    && bytes + s.frame.len() <= max_bytes
            });
            if !joins && i > 0 {
                spans[trains] = (from, i);
                trains += 1;
                (from, bytes) = (i, 0);
            }
            bytes += s.frame.len();
            prev = Some(s);
        }
        spans[trains] = (from, n);
        trains += 1;

        let nowhere = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let empty = Train { dst: &nowhere, flow_hash: 0, seg: 0, total: 0, parts: &[] };
        let mut out: [Train<'_>; GATHER] = [empty; GATHER];
        for (slot, (from, to)) in out.iter_mut().zip(spans[..trains].iter().copied()) {
            let Some((dst, hash)) =
                live().nth(from).and_then(|s| Some((&snap.peers.get(s.peer as usize)?.endpoint, s.hash)))
            else {
                continue;
            };
            let parts = &iov[from..to];
            *slot = Train {
                dst,
                flow_hash: hash,
                seg: parts[0].len(),
                total: parts.iter().map(|p| p.len()).sum(),
                parts,
            };
        }
        let report = up.send(form, &out[..trains]);
        for s in live() {
            if let Some(peer) = snap.peers.get(s.peer as usize) {
                peer.stats[self.index].tx_packets.incr();
                peer.stats[self.index].tx_bytes.add(s.frame.len() as u64);
            }
        }
        let offered = live().filter(|s| !s.made).count() as u64;
        self.count_sent(offered, u64::from(report.dropped), u64::from(report.errors));
    }

    /// One super-frame: its slices or segments, built in place, as one or more trains.
    fn send_super(&mut self, snap: &Snapshot, s: &mut Staged, up: &mut dyn UplinkTx, now_ms: u64) {
        let Some(peer) = snap.peers.get(s.peer as usize) else {
            return self.counters.dropped(DropReason::NoRoute, 1);
        };
        let tunnel = s.tunnel;
        if let (true, Tunnel::Vxlan { vni }) = (peer.whole, tunnel)
            && up.send_whole(&s.frame, &peer.endpoint, vni, s.hash)
        {
            return self.sent(peer, s.frame.len());
        }
        let header;
        let (prefix, skip): (&[u8], usize) = match tunnel {
            Tunnel::Vxlan { vni } => {
                header = encap::vxlan::header(vni);
                (&header, 0)
            }
            Tunnel::Udp | Tunnel::Ipip => (&[], ETH),
        };
        debug_assert_eq!(VXLAN_LEN, 8);
        let vnet = s.frame.vnet;
        let cut = match tunnel {
            Tunnel::Vxlan { vni } if self.takes_slices(peer, vni, s.hash, up, now_ms) => {
                self.train = self.train.wrapping_add(1);
                let to = steer::word(s.dst);
                let part = Part { vni, train: self.train, index: 0, count: 0, to };
                self.split.slice(s.frame.data(), &vnet, part)
            }
            _ => Ok(false),
        };
        if cut == Ok(true) {
            peer.stats[self.index].tx_slices.incr();
        }
        let cut = match cut {
            Ok(false) => self.split.split(s.frame.data(), &vnet, prefix),
            other => other.map(drop),
        };
        if cut.is_err() {
            return self.counters.dropped(DropReason::BadOffload, 1);
        }
        let failed = self.send_segments(peer, s, skip, up);
        // One frame in, one frame accounted for, however many datagrams it became.
        match failed {
            None => self.sent(peer, s.frame.len()),
            Some(reason) => self.counters.dropped(reason, 1),
        }
    }

    /// Sends the segments in the splitter's arena; the first kind of failure, if any.
    fn send_segments(
        &self,
        peer: &Peer,
        staged: &Staged,
        skip: usize,
        up: &mut dyn UplinkTx,
    ) -> Option<DropReason> {
        let (form, frame, hash) = (staged.tunnel.form(), &staged.frame, staged.hash);
        let (max_segs, max_bytes) = up.max_train(form);
        let arena = self.split.arena();
        let segs = self.split.segs();
        let size = |s: &encap::Seg| s.len() - skip;
        let mut failed = None;
        let mut rest = segs;
        while let Some(first) = rest.first() {
            let seg = size(first).max(1);
            let n = (max_bytes / seg).clamp(1, max_segs.clamp(1, SEGMENTS)).min(rest.len());
            let mut iov = [IoSlice::new(&[]); 2 * SEGMENTS];
            let mut total = 0;
            for (pair, s) in iov.chunks_exact_mut(2).zip(&rest[..n]) {
                let (h, b) = (s.head.0 as usize, s.body.0 as usize);
                pair[0] = IoSlice::new(&arena[h + skip..s.head.1 as usize]);
                pair[1] = IoSlice::new(&frame.data()[b..s.body.1 as usize]);
                total += size(s);
            }
            let train = Train { dst: &peer.endpoint, flow_hash: hash, seg, total, parts: &iov[..2 * n] };
            let report = up.send(form, &[train]);
            if report.dropped > 0 {
                failed = failed.or(Some(DropReason::UplinkFull));
            } else if report.errors > 0 {
                failed = failed.or(Some(DropReason::UplinkError));
            }
            rest = &rest[n..];
        }
        failed
    }

    /// One frame is on its way to this peer.
    fn sent(&self, peer: &Peer, len: usize) {
        self.counters.to_peers.incr();
        let stats = &peer.stats[self.index];
        stats.tx_packets.incr();
        stats.tx_bytes.add(len as u64);
    }

    fn count_sent(&self, offered: u64, full: u64, errors: u64) {
        let full = full.min(offered);
        let errors = errors.min(offered - full);
        self.counters.dropped(DropReason::UplinkFull, full);
        self.counters.dropped(DropReason::UplinkError, errors);
        self.counters.to_peers.add(offered - full - errors);
    }
}
