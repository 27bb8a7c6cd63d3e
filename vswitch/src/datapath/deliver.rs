//! Writing a packet to a port, as whole as the port takes it.

use std::io::{self, IoSlice};

use encap::{Frame, Span, VnetHdr};

use super::{Core, Packet, is_host};
use crate::counters::DropReason;
use crate::snapshot::Port;

/// Pieces a packet may have: its headers, and up to this many payload spans.
const PIECES: usize = 96;

impl Core {
    /// Writes the packet `head` + `tail` (spans of `bufs`) to `to` and counts the outcome.
    pub(super) fn deliver(
        &mut self,
        to: &Port,
        pkt: &Packet<'_>,
        head: &[u8],
        tail: &[Span],
        bufs: &[Frame],
    ) {
        let written = self.write(to, &pkt.vnet, head, tail, bufs);
        let stats = self.stats(to);
        match written {
            Ok(()) => {
                let delivered = if is_host(to) { &self.counters.to_host } else { &self.counters.to_pods };
                delivered.add(pkt.count);
                stats.tx_packets.add(pkt.count);
                stats.tx_bytes.add(pkt.len as u64);
            }
            Err(e) => {
                self.counters.dropped(refusal(&e), pkt.count);
                stats.tx_dropped.add(pkt.count);
            }
        }
    }

    fn write(
        &mut self,
        to: &Port,
        vnet: &VnetHdr,
        head: &[u8],
        tail: &[Span],
        bufs: &[Frame],
    ) -> io::Result<()> {
        let can = to.tx.offloads();
        let whole = match vnet.gso_type & !VnetHdr::GSO_ECN {
            VnetHdr::GSO_TCPV4 => can.tso4,
            VnetHdr::GSO_TCPV6 => can.tso6,
            VnetHdr::GSO_NONE => !vnet.needs_csum() || can.csum,
            _ => can.uso,
        };
        if !whole {
            return self.write_split(to, vnet, head, tail, bufs);
        }
        if tail.is_empty() {
            return to.tx.tx(vnet, &[IoSlice::new(head)]);
        }
        if tail.len() >= PIECES {
            // Many small segments: cheaper to copy them than to have the kernel walk so many pieces.
            let joined = self.join(head, tail, bufs);
            let written = to.tx.tx(vnet, &[IoSlice::new(joined.data())]);
            self.pool.give(joined);
            return written;
        }
        let mut parts = [IoSlice::new(&[]); PIECES];
        parts[0] = IoSlice::new(head);
        let mut n = 1;
        for (slot, piece) in parts[1..].iter_mut().zip(tail.iter().map(|s| piece(bufs, s))) {
            *slot = IoSlice::new(piece);
            n += 1;
        }
        to.tx.tx(vnet, &parts[..n])
    }

    /// For a port that cannot take the frame as it is: the segments, each with its checksum.
    fn write_split(
        &mut self,
        to: &Port,
        vnet: &VnetHdr,
        head: &[u8],
        tail: &[Span],
        bufs: &[Frame],
    ) -> io::Result<()> {
        let mut joined = None;
        let frame: &[u8] = if tail.is_empty() {
            head
        } else {
            let f = joined.insert(self.join(head, tail, bufs));
            f.data()
        };
        let split = self.split.split(frame, vnet, &[]).map_err(|_| io::ErrorKind::InvalidData.into());
        let result = split.and_then(|()| {
            let arena = self.split.arena();
            self.split.segs().iter().try_for_each(|s| {
                let head = &arena[s.head.0 as usize..s.head.1 as usize];
                let body = &frame[s.body.0 as usize..s.body.1 as usize];
                to.tx.tx(&VnetHdr::default(), &[IoSlice::new(head), IoSlice::new(body)])
            })
        });
        if let Some(f) = joined {
            self.pool.give(f);
        }
        result
    }

    /// The packet in one piece, in a large frame.
    fn join(&mut self, head: &[u8], tail: &[Span], bufs: &[Frame]) -> Frame {
        let mut frame = self.pool.large();
        frame.reset();
        let room = frame.spare_mut();
        let mut at = 0;
        for part in std::iter::once(head).chain(tail.iter().map(|s| piece(bufs, s))) {
            if let Some(dst) = room.get_mut(at..at + part.len()) {
                dst.copy_from_slice(part);
                at += part.len();
            }
        }
        frame.set_len(at);
        frame
    }
}

/// The bytes of a span.
pub(super) fn piece<'a>(bufs: &'a [Frame], s: &Span) -> &'a [u8] {
    let (from, to) = (s.off as usize, s.off as usize + s.len as usize);
    bufs.get(usize::from(s.buf)).and_then(|b| b.data().get(from..to)).unwrap_or(&[])
}

/// The reason that goes with a failed write to a port.
fn refusal(e: &io::Error) -> DropReason {
    match e.kind() {
        io::ErrorKind::WouldBlock => DropReason::PortFull,
        io::ErrorKind::NetworkDown | io::ErrorKind::NotConnected => DropReason::PortDown,
        _ => DropReason::PortRejected,
    }
}
