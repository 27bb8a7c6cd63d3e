//! Joining the packets of one receive batch into super-frames, without touching their payload.
//!
//! A batch is a set of buffers, each with one or many frames in it. Frames are offered one by one; those that follow
//! each other in a flow become one outgoing packet: the headers of the first, copied and patched once, and a list of
//! [`Span`]s that say where the payloads lie. Everything else goes out alone, in place. A flow keeps its order: what
//! cannot be joined closes the open packet of its flow, and packets leave in the order in which their first frame came.
//!
//! Joined are TCP segments with ACK (and PSH, which ends the packet) and UDP datagrams, over IPv4 without options and
//! IPv6 without extensions, when every header byte a receiver or a policy could look at is the same: see
//! `shape`. Because of that, deciding on the joined packet is deciding on each of them. Frames of
//! different [sources](Gro::source) are never joined, so one peer cannot ride on another's headers.
//!
//! A `Gro` belongs to one worker and is empty between batches. The flow index is a direct-mapped table: a collision
//! costs a join, never order. Nothing is allocated within `max_packets`.

mod shape;
mod slices;
mod slot;

use crate::checksum;
use crate::frame::Frame;
use crate::parse::{self, Frag};
use crate::vnet::VnetHdr;
use shape::Shape;
pub use slices::HEADS;
use slot::Slot;

const INDEX: usize = 256;
const NONE: u16 = u16::MAX;

/// A piece of a receive buffer: `bufs[buf].data()[off..off + len]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Index of the buffer.
    pub buf: u16,
    /// First byte.
    pub off: u32,
    /// Bytes.
    pub len: u32,
}

impl Span {
    /// The bytes; empty when the span does not lie in the buffers.
    #[inline]
    pub fn of<'a>(&self, bufs: &'a [Frame]) -> &'a [u8] {
        let data = bufs.get(usize::from(self.buf)).map_or(&[][..], Frame::data);
        data.get(self.off as usize..(self.off + self.len) as usize).unwrap_or_default()
    }

    /// The bytes, to rewrite them.
    #[inline]
    pub fn of_mut<'a>(&self, bufs: &'a mut [Frame]) -> &'a mut [u8] {
        let data = bufs.get_mut(usize::from(self.buf)).map_or(&mut [][..], Frame::data_mut);
        data.get_mut(self.off as usize..(self.off + self.len) as usize).unwrap_or_default()
    }
}

/// Where the headers of an outgoing packet are.
#[derive(Debug)]
pub enum GroHead<'a> {
    /// A packet that went alone: the whole frame, in its buffer.
    InPlace(Span),
    /// A joined packet: its headers; the payload follows in [`GroPacket::tail`].
    Merged(&'a mut [u8]),
}

impl GroHead<'_> {
    /// The headers, to parse and rewrite them.
    #[inline]
    pub fn bytes_mut<'b>(&'b mut self, bufs: &'b mut [Frame]) -> &'b mut [u8] {
        match self {
            Self::InPlace(span) => span.of_mut(bufs),
            Self::Merged(head) => head,
        }
    }

    /// The headers, to send them.
    #[inline]
    pub fn bytes<'b>(&'b self, bufs: &'b [Frame]) -> &'b [u8] {
        match self {
            Self::InPlace(span) => span.of(bufs),
            Self::Merged(head) => head,
        }
    }
}

/// One outgoing packet.
#[derive(Debug)]
pub struct GroPacket<'a> {
    /// The headers, or the whole frame.
    pub head: GroHead<'a>,
    /// The payload pieces behind the headers; empty when the packet went alone.
    pub tail: &'a [Span],
    /// Bytes of the packet, payload included.
    pub total_len: usize,
    /// What to tell the device.
    pub vnet: VnetHdr,
    /// Frames joined into it; 1 when it went alone.
    pub count: u32,
    /// The [source](Gro::source) its frames came from.
    pub source: u32,
    /// Where its first frame is.
    pub first: Span,
}

/// The packets of one receive batch.
#[derive(Debug)]
pub struct Gro {
    slots: Vec<Slot>,
    used: usize,
    index: [u16; INDEX],
    /// Payload pieces of all joined packets, each with the number of the next one of its packet.
    spans: Vec<Span>,
    next: Vec<u32>,
    scratch: Vec<Span>,
    source: u32,
    join: bool,
    udp: bool,
    open: bool,
    trains: slices::Trains,
}

impl Gro {
    /// Room for batches of `max_packets` frames; larger ones allocate. At most 65,534 packets are kept.
    pub fn new(max_packets: usize) -> Self {
        Self {
            slots: vec![Slot::default(); max_packets],
            used: 0,
            index: [NONE; INDEX],
            spans: Vec::with_capacity(max_packets),
            next: Vec::with_capacity(max_packets),
            scratch: Vec::with_capacity(slot::MAX_TCP.min(max_packets)),
            source: 0,
            join: true,
            udp: true,
            open: false,
            trains: slices::Trains::default(),
        }
    }

    /// Names where the frames offered from now on come from (a peer, a segment of it). Frames of different sources are
    /// never joined. Zero until told.
    #[inline]
    pub fn source(&mut self, source: u32) {
        self.source = source;
    }

    /// Says whether anything is joined. True until told.
    pub fn join(&mut self, on: bool) {
        self.join = on;
    }

    /// Says whether UDP datagrams are joined: only for devices that take UDP super-frames. True until told.
    pub fn merge_udp(&mut self, on: bool) {
        self.udp = on;
    }

    /// Says whether a checksum field that holds only the folded pseudo-header sum is taken for a checksum not yet
    /// computed even in frames that are not trusted. A kernel tunnel on the same host sends such frames one by one, with
    /// or without an outer checksum; over a wire this accepts one more of 65,536 values. False until told.
    pub fn accept_open(&mut self, on: bool) {
        self.open = on;
    }

    /// Offers the frame at `bufs[buf].data()[off..off + len]`.
    ///
    /// `trusted` says that an outer checksum covered it: its own is not verified again, and one that holds only the
    /// folded pseudo-header sum is taken for what it is, a checksum not yet computed. Otherwise a wrong checksum makes
    /// the frame go alone, unchanged, for the receiver to drop. See also [`accept_open`](Self::accept_open).
    #[inline]
    pub fn offer(&mut self, bufs: &[Frame], buf: u16, off: u32, len: u32, trusted: bool) {
        let span = Span { buf, off, len };
        let frame = span.of(bufs);
        let open = trusted || self.open;
        let Some(shape) = Shape::of(frame) else {
            let vnet = self.odd(frame, open);
            self.alone(span, vnet);
            return;
        };
        let entry = shape.hash as usize % INDEX;
        let joinable = self.join && shape.join && (self.udp || shape.form.is_tcp());
        if !joinable || !(trusted || shape.verify(frame) || (open && shape.open_vnet(frame).needs_csum())) {
            self.index[entry] = NONE;
            self.alone(span, if open { shape.open_vnet(frame) } else { VnetHdr::default() });
            return;
        }
        let piece = Span { buf, off: off + u32::from(shape.head), len: shape.payload };
        let at = usize::from(self.index[entry]);
        if at < self.used && self.slots[at].takes(self.source, frame, &shape) {
            let number = self.spans.len() as u32;
            let slot = &mut self.slots[at];
            self.next[slot.last_piece as usize] = number;
            self.spans.push(piece);
            self.next.push(number);
            if !slot.join(&shape, number) {
                self.index[entry] = NONE;
            }
            return;
        }
        let vnet = if open { shape.open_vnet(frame) } else { VnetHdr::default() };
        let Some(at) = self.alone(span, vnet) else { return };
        if shape.push {
            self.index[entry] = NONE;
        } else {
            let number = self.spans.len() as u32;
            self.spans.push(piece);
            self.next.push(number);
            self.slots[at].open(frame, &shape, number);
            self.index[entry] = at as u16;
        }
    }

    /// Adds a frame that is a super-frame already; it goes alone, with this header. All flows are closed, since its own
    /// is not looked up.
    pub fn offer_whole(&mut self, buf: u16, off: u32, len: u32, vnet: VnetHdr) {
        self.index.fill(NONE);
        self.alone(Span { buf, off, len }, vnet);
    }

    /// Outgoing packets.
    #[inline]
    pub fn len(&self) -> usize {
        self.used
    }

    /// True when nothing was offered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The `i`-th outgoing packet, in order of first arrival. The headers of a joined packet are patched at the first
    /// call; what the caller rewrites in them stays.
    ///
    /// # Panics
    /// When `i` is not below [`len`](Self::len).
    #[inline]
    pub fn packet(&mut self, i: usize) -> GroPacket<'_> {
        let slot = &mut self.slots[..self.used][i];
        let (source, first) = (slot.source, slot.frame);
        if slot.count < 2 && !slot.sliced {
            let total_len = first.len as usize;
            return GroPacket {
                head: GroHead::InPlace(first),
                tail: &[],
                total_len,
                vnet: slot.vnet,
                count: 1,
                source,
                first,
            };
        }
        let (total_len, count) = (slot.total_len(), u32::from(slot.count));
        let vnet = slot.seal();
        let tail = if slot.last_piece - slot.first_piece + 1 == count {
            &self.spans[slot.first_piece as usize..=slot.last_piece as usize]
        } else {
            self.scratch.clear();
            let mut piece = slot.first_piece as usize;
            for _ in 0..count {
                self.scratch.push(self.spans[piece]);
                piece = self.next[piece] as usize;
            }
            &self.scratch
        };
        GroPacket { head: GroHead::Merged(slot.headers()), tail, total_len, vnet, count, source, first }
    }

    /// Forgets the batch.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.batch += 1;
        self.index = [NONE; INDEX];
        self.spans.clear();
        self.next.clear();
    }

    /// A new outgoing packet of one frame; its number, unless there are too many.
    #[inline]
    fn alone(&mut self, frame: Span, vnet: VnetHdr) -> Option<usize> {
        let at = self.used;
        if at >= usize::from(NONE) {
            return None;
        }
        if at == self.slots.len() {
            self.slots.push(Slot::default());
        }
        self.slots[at].start(frame, vnet, self.source);
        self.used += 1;
        Some(at)
    }

    /// Handles a frame that is not plain TCP or UDP: closes all flows if it may belong to one, and asks for a checksum
    /// when the frame's is not computed yet.
    #[cold]
    fn odd(&mut self, frame: &[u8], open: bool) -> VnetHdr {
        let Ok(p) = parse::parse(frame, frame.len(), false) else { return VnetHdr::default() };
        if !matches!(p.proto, checksum::TCP | checksum::UDP) {
            return VnetHdr::default();
        }
        self.index.fill(NONE);
        match checksum::l4_field(p.proto) {
            Some(field) if open && p.frag == Frag::None => {
                shape::open_field(frame, usize::from(p.l4), field, checksum::pseudo(&p, p.l4_len()).fold())
            }
            _ => VnetHdr::default(),
        }
    }
}

#[cfg(test)]
mod tests;
