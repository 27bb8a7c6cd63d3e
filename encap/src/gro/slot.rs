//! One outgoing packet while its batch is read: a lone frame, or headers and a run of payload pieces.

use super::Span;
use super::shape::{Form, Shape};
use super::slices::{HEAD, Train};
use crate::checksum;
use crate::vnet::VnetHdr;

const _: () = assert!(HEAD >= 14 + 40 + 60);

/// Most TCP segments joined: with the headers they stay below the 1024 pieces a gathering write takes.
pub(super) const MAX_TCP: usize = 512;
/// Most UDP datagrams joined: what every kernel with UDP segmentation takes.
const MAX_UDP: u16 = 64;
/// Largest IP packet.
const MAX_IP: u32 = 65_535;

const PSH: u8 = 0x08;

#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The first frame, whole.
    pub(super) frame: Span,
    /// What to say about it when it stays alone.
    pub(super) vnet: VnetHdr,
    pub(super) source: u32,
    pub(super) first_piece: u32,
    pub(super) last_piece: u32,
    /// Frames joined.
    pub(super) count: u16,
    /// Of slices: its headers are here even when there is one.
    pub(super) sliced: bool,
    form: Form,
    sealed: bool,
    push: bool,
    /// What the IPv4 identification grows by; known from the second frame on.
    step: u16,
    id: u16,
    head_len: u16,
    /// Payload bytes of the first frame, and thereby of all but the last.
    size: u32,
    payload: u32,
    /// Sequence number the next segment must have.
    seq: u32,
    head: [u8; HEAD],
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            frame: Span::default(),
            vnet: VnetHdr::default(),
            source: 0,
            first_piece: 0,
            last_piece: 0,
            count: 0,
            sliced: false,
            form: Form::default(),
            sealed: false,
            push: false,
            step: 0,
            id: 0,
            head_len: 0,
            size: 0,
            payload: 0,
            seq: 0,
            head: [0; HEAD],
        }
    }
}

impl Slot {
    /// Becomes a packet of one frame. Everything an earlier batch left is overwritten here or in [`open`](Self::open).
    #[inline]
    pub(super) fn start(&mut self, frame: Span, vnet: VnetHdr, source: u32) {
        self.frame = frame;
        self.vnet = vnet;
        self.source = source;
        self.count = 1;
        self.sliced = false;
    }

    /// Gets ready for more frames of the flow; `piece` is the number of the first payload piece.
    #[inline]
    pub(super) fn open(&mut self, frame: &[u8], shape: &Shape, piece: u32) {
        let len = usize::from(shape.head).min(HEAD).min(frame.len());
        self.head[..len].copy_from_slice(&frame[..len]);
        self.head_len = len as u16;
        self.form = shape.form;
        self.sealed = false;
        self.push = false;
        self.step = 0;
        self.id = shape.id;
        self.size = shape.payload;
        self.payload = shape.payload;
        self.seq = shape.seq.wrapping_add(shape.payload);
        self.first_piece = piece;
        self.last_piece = piece;
    }

    /// True when `frame` continues this packet.
    #[inline]
    pub(super) fn takes(&self, source: u32, frame: &[u8], shape: &Shape) -> bool {
        let id_step = shape.id.wrapping_sub(self.id);
        let id_fits = match (self.form.is_v6(), self.count) {
            (true, _) => true,
            // Counting up, or not used because the packet may not be fragmented (RFC 6864).
            (false, 1) => id_step == 1 || (id_step == 0 && self.head[20] & 0x40 != 0),
            (false, _) => id_step == self.step,
        };
        let total = u32::from(self.head_len) - 14 + self.payload + shape.payload;
        shape.form == self.form
            && source == self.source
            && shape.head == self.head_len
            && (shape.seq == self.seq || !self.form.is_tcp())
            && id_fits
            && shape.payload <= self.size
            && total <= MAX_IP
            && self.form.same(&self.head, frame, usize::from(self.head_len))
    }

    /// Joins a frame that [fits](Self::takes). False when it is the last one.
    #[inline]
    pub(super) fn join(&mut self, shape: &Shape, piece: u32) -> bool {
        self.step = shape.id.wrapping_sub(self.id);
        self.id = shape.id;
        self.seq = self.seq.wrapping_add(shape.payload);
        self.payload += shape.payload;
        self.last_piece = piece;
        self.count += 1;
        self.push = shape.push;
        let limit = if self.form.is_tcp() { MAX_TCP as u16 } else { MAX_UDP };
        shape.payload == self.size && !shape.push && self.count < limit
    }

    /// Becomes a packet of slices: the first one's payload is `len` bytes, the piece of this number, and starts `offset`
    /// bytes into the train's. `push` says whether the super-frame pushes and this is its end.
    #[inline]
    pub(super) fn open_slices(&mut self, train: &Train, offset: u32, len: u32, piece: u32, push: bool) {
        train.write_head(&mut self.head, offset);
        self.head_len = train.head_len;
        self.form = train.form;
        self.sliced = true;
        self.sealed = false;
        self.push = push;
        self.size = u32::from(train.gso_size);
        self.payload = len;
        self.first_piece = piece;
        self.last_piece = piece;
    }

    /// Joins the next slice.
    #[inline]
    pub(super) fn join_slice(&mut self, len: u32, piece: u32, push: bool) {
        self.payload += len;
        self.last_piece = piece;
        self.count += 1;
        self.push = push;
    }

    /// Bytes of the joined packet.
    #[inline]
    pub(super) fn total_len(&self) -> usize {
        usize::from(self.head_len) + self.payload as usize
    }

    /// The headers of the joined packet.
    #[inline]
    pub(super) fn headers(&mut self) -> &mut [u8] {
        &mut self.head[..usize::from(self.head_len)]
    }

    /// Makes the headers those of the joined packet, once, and returns what to tell the device.
    pub(super) fn seal(&mut self) -> VnetHdr {
        let (form, l4) = (self.form, self.form.l4());
        if !self.sealed {
            self.sealed = true;
            let upper = (u32::from(self.head_len) - l4 as u32) + self.payload;
            let pseudo = form.pseudo(&self.head, upper).fold();
            if form.is_v6() {
                self.head[18..20].copy_from_slice(&(upper as u16).to_be_bytes());
            } else {
                self.head[16..18].copy_from_slice(&(upper as u16 + 20).to_be_bytes());
                self.head[24..26].fill(0);
                let check = checksum::sum(&self.head[14..34]).finish();
                self.head[24..26].copy_from_slice(&check.to_be_bytes());
            }
            if form.is_tcp() {
                self.head[l4 + 13] |= if self.push { PSH } else { 0 };
            } else {
                self.head[l4 + 4..l4 + 6].copy_from_slice(&(upper as u16).to_be_bytes());
            }
            self.head[l4 + form.field()..l4 + form.field() + 2].copy_from_slice(&pseudo.to_be_bytes());
        }
        // A packet of slices may be one segment.
        let cut = self.payload > self.size || !self.sliced;
        VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: match form {
                _ if !cut => VnetHdr::GSO_NONE,
                Form::Tcp4 => VnetHdr::GSO_TCPV4,
                Form::Tcp6 => VnetHdr::GSO_TCPV6,
                Form::Udp4 | Form::Udp6 => VnetHdr::GSO_UDP_L4,
            },
            hdr_len: self.head_len,
            gso_size: if cut { self.size as u16 } else { 0 },
            csum_start: l4 as u16,
            csum_offset: form.field() as u16,
        }
    }
}
