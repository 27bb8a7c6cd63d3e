//! Super-frames that came in slices ([`crate::slice`]), put together again: the headers of the first, the payload where it
//! lies.
//!
//! Slices that follow each other become one packet. After a gap there is another, with the headers of the first and the
//! sequence number of its place. The headers of each outer flow's latest train are kept over batches, since a train may
//! be received in parts; in memory that outlives the process, if there is any, so that the rest of a train may be received
//! by the next one.

use std::net::SocketAddr;
use std::sync::atomic::{Ordering, compiler_fence};

use super::shape::Form;
use super::{Gro, NONE, Span};
use crate::ETH_LEN;
use crate::frame::Frame;
use crate::gso::head_len;
use crate::parse;
use crate::slice::{self, Layout, Part, SIZE_LEN, SLICE_LEN, Slice, SliceError};
use crate::vnet::VnetHdr;
use crate::wire::tcp;

/// Outer flows whose trains are followed at the same time: sets, a power of two, of some places each. A flow has one sender,
/// a socket of a peer's worker; where more meet in a set than it has places, the one that was silent longest is forgotten.
const SETS: usize = 64;
const WAYS: usize = 4;
const TRAINS: usize = SETS * WAYS;
/// Ethernet, IPv6 and the longest TCP header, rounded up.
pub(super) const HEAD: usize = 128;

/// Bytes of memory for the headers of all trains.
pub const HEADS: usize = TRAINS * KEPT;
/// For one: whether it is there, sender, length of the first slice, and how much of that follows.
const KEPT: usize = 192;
/// First slices between two deliveries that wait to be noted; with more, those before them are noted at once.
const FRESH: usize = 64;
const BEGIN: usize = SLICE_LEN + SIZE_LEN + HEAD;
const PREFIX: usize = 32;
const _: () = assert!(PREFIX + BEGIN <= KEPT);

/// The latest train of an outer flow.
#[derive(Clone, Debug)]
pub(super) struct Train {
    from: Option<SocketAddr>,
    /// How many trains had begun when it did.
    begun: u64,
    number: u16,
    count: u8,
    layout: Layout,
    pub(super) form: Form,
    /// Payload bytes of each segment.
    pub(super) gso_size: u16,
    pub(super) head_len: u16,
    pub(super) head: [u8; HEAD],
    /// The packet under way: in which batch, which one, and the index of the slice it ends before.
    run: (u64, u16, u8),
}

impl Default for Train {
    fn default() -> Self {
        Train {
            from: None,
            begun: 0,
            number: 0,
            count: 0,
            layout: Layout::default(),
            form: Form::default(),
            gso_size: 0,
            head_len: 0,
            head: [0; HEAD],
            run: (0, NONE, 0),
        }
    }
}

/// The trains under way.
#[derive(Debug)]
pub(super) struct Trains {
    trains: Box<[Train]>,
    /// Where the headers are kept too.
    kept: &'static mut [u8],
    /// What to write there, place by place, when what was received has been delivered: until then the next process may
    /// need the headers that lie there for the datagrams it finds.
    fresh: Vec<(usize, [u8; KEPT])>,
    /// Counts batches.
    pub(super) batch: u64,
    /// Counts trains.
    begun: u64,
}

impl Default for Trains {
    fn default() -> Self {
        Trains {
            trains: vec![Train::default(); TRAINS].into(),
            kept: &mut [],
            fresh: Vec::with_capacity(FRESH),
            batch: 1,
            begun: 0,
        }
    }
}

impl Trains {
    /// The place of an outer flow's train.
    #[inline]
    fn find(&self, from: SocketAddr) -> Option<usize> {
        let set = set(&from);
        (set..set + WAYS).find(|at| self.trains[*at].from == Some(from))
    }

    /// The place for a train of an outer flow: where its last one was, or else one that is free or longest silent.
    #[inline]
    fn room(&mut self, from: SocketAddr) -> usize {
        self.begun += 1;
        let at = self.find(from).unwrap_or_else(|| {
            let set = set(&from);
            let age = |at: &usize| self.trains[*at].from.map_or(0, |_| self.trains[*at].begun);
            (set..set + WAYS).min_by_key(age).unwrap_or(set)
        });
        self.trains[at].begun = self.begun;
        at
    }

    /// Takes down the beginning of a first slice, for whoever will find the memory.
    fn keep(&mut self, at: usize, from: SocketAddr, data: &[u8]) {
        if self.kept.is_empty() {
            return;
        }
        if self.fresh.len() == FRESH {
            self.note();
        }
        let begin = &data[..data.len().min(BEGIN)];
        let mut record = [0; KEPT];
        record[2..4].copy_from_slice(&from.port().to_be_bytes());
        record[4..20].copy_from_slice(&parse::from_ip(from.ip()).to_be_bytes());
        record[20..24].copy_from_slice(&(data.len() as u32).to_be_bytes());
        record[24] = begin.len() as u8;
        record[PREFIX..PREFIX + begin.len()].copy_from_slice(begin);
        self.fresh.push((at, record));
    }

    /// Writes what was taken down. The first byte of a place says whether the rest is whole.
    fn note(&mut self) {
        for (at, record) in self.fresh.drain(..) {
            let Some(place) = self.kept.get_mut(at * KEPT..(at + 1) * KEPT) else { continue };
            place[0] = 0;
            compiler_fence(Ordering::SeqCst);
            place[1..].copy_from_slice(&record[1..]);
            compiler_fence(Ordering::SeqCst);
            place[0] = 1;
        }
    }

    /// The train whose beginning was noted there.
    fn recall(&mut self, at: usize) -> Option<()> {
        let place = self.kept.get(at * KEPT..(at + 1) * KEPT)?;
        let [1, _, p0, p1, rest @ ..] = place else { return None };
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let begin = place.get(PREFIX..PREFIX + usize::from(*rest.first()?))?;
        let from = SocketAddr::new(parse::to_ip(u128::from_be_bytes(*ip)), u16::from_be_bytes([*p0, *p1]));
        let Ok((_, Slice::Part(part))) = slice::parse(begin) else { return None };
        let size = u32::from_be_bytes(*size) as usize;
        self.trains[at].begin(from, &part, begin, size).ok()
    }
}

impl Train {
    /// Becomes the train whose first slice is of `size` bytes and begins with `data`: its headers at least.
    fn begin(&mut self, from: SocketAddr, part: &Part, data: &[u8], size: usize) -> Result<(), SliceError> {
        self.from = None;
        let first = data.get(SLICE_LEN..).ok_or(SliceError::Truncated)?;
        let ([high, low, zero @ ..], frame) =
            first.split_first_chunk::<SIZE_LEN>().ok_or(SliceError::Truncated)?;
        if zero != &[0; 2] {
            return Err(SliceError::Header);
        }
        let total = match frame.get(ETH_LEN - 2..ETH_LEN + 6) {
            Some(&[8, 0, _, _, a, b, ..]) => ETH_LEN + usize::from(u16::from_be_bytes([a, b])),
            Some(&[0x86, 0xdd, _, _, _, _, a, b]) => ETH_LEN + 40 + usize::from(u16::from_be_bytes([a, b])),
            _ => return Err(SliceError::Inner),
        };
        let gso_size = u16::from_be_bytes([*high, *low]);
        let layout = Layout::new(size, total).ok_or(SliceError::Length)?;
        if layout.count() != usize::from(part.count) {
            return Err(SliceError::Length);
        }
        let p = parse::parse(frame, total, true).map_err(|_| SliceError::Inner)?;
        let head = head_len(frame, &p).ok_or(SliceError::Inner)?;
        let headers =
            frame.get(..head).filter(|h| h.len() <= HEAD && gso_size > 0).ok_or(SliceError::Inner)?;
        self.head[..head].copy_from_slice(headers);
        self.head_len = head as u16;
        self.form = if p.v6 { Form::Tcp6 } else { Form::Tcp4 };
        self.gso_size = gso_size;
        self.layout = layout;
        self.number = part.train;
        self.count = part.count;
        self.run = (0, NONE, 0);
        self.from = Some(from);
        Ok(())
    }

    /// Makes `head` the headers of a packet whose payload starts `offset` bytes into the train's.
    pub(super) fn write_head(&self, head: &mut [u8; HEAD], offset: u32) {
        *head = self.head;
        let l4 = self.form.l4();
        let add = |field: &mut [u8], n: u32| {
            if let Some(field) = field.first_chunk_mut() {
                *field = u32::from_be_bytes(*field).wrapping_add(n).to_be_bytes();
            }
        };
        add(&mut head[l4 + 4..l4 + 8], offset);
        head[l4 + 13] &= !tcp::PSH;
        if !self.form.is_v6() {
            let id = u16::from_be_bytes([head[18], head[19]]);
            let id = id.wrapping_add((offset / u32::from(self.gso_size)) as u16);
            head[18..20].copy_from_slice(&id.to_be_bytes());
        }
    }

    /// Does the super-frame end with PSH?
    pub(super) fn pushes(&self) -> bool {
        self.head[self.form.l4() + 13] & tcp::PSH != 0
    }
}

impl Gro {
    /// Keeps the headers of trains in this memory, [`HEADS`] bytes, too, and takes up those that the last owner left there.
    pub fn keep_heads(&mut self, memory: &'static mut [u8]) {
        self.trains.kept = memory;
        for at in 0..TRAINS {
            self.trains.recall(at);
        }
    }

    /// Everything offered so far has been delivered: the heads among it are written to the memory of [`Gro::keep_heads`].
    #[inline]
    pub fn note_heads(&mut self) {
        if !self.trains.fresh.is_empty() {
            self.trains.note();
        }
    }

    /// Offers the slice at `bufs[buf].data()[off..off + len]`, which `part` describes and which came `from` there.
    ///
    /// # Errors
    /// When it has no place in its train; see [`SliceError`].
    pub fn offer_slice(
        &mut self,
        bufs: &[Frame],
        (buf, off, len): (u16, u32, u32),
        part: &Part,
        from: SocketAddr,
    ) -> Result<(), SliceError> {
        let data = Span { buf, off, len }.of(bufs);
        let trains = &mut self.trains;
        let home = if part.index == 0 {
            let home = trains.room(from);
            trains.trains[home].begin(from, part, data, data.len())?;
            trains.keep(home, from, data);
            home
        } else {
            trains.find(from).ok_or(SliceError::Headless)?
        };
        let train = &mut trains.trains[home];
        if (train.number, train.count) != (part.train, part.count) {
            return Err(SliceError::Headless);
        }
        let index = usize::from(part.index);
        let (start, end) = train.layout.range(index);
        let header = SLICE_LEN + if index == 0 { SIZE_LEN } else { 0 };
        if data.len() != header + end - start {
            return Err(SliceError::Length);
        }
        let head = usize::from(train.head_len);
        let skip = header + if index == 0 { head } else { 0 };
        let piece = Span { buf, off: off + skip as u32, len: (data.len() - skip) as u32 };
        let last = part.index + 1 == part.count && train.pushes();
        let number = self.spans.len() as u32;
        let (batch, at, next) = train.run;
        if batch == trains.batch && next == part.index && usize::from(at) < self.used {
            train.run.2 += 1;
            let slot = &mut self.slots[usize::from(at)];
            self.next[slot.last_piece as usize] = number;
            slot.join_slice(piece.len, number, last);
        } else {
            let batch = trains.batch;
            let offset = start.saturating_sub(head) as u32;
            let Some(at) = self.alone(piece, VnetHdr::default()) else { return Ok(()) };
            let train = &mut self.trains.trains[home];
            train.run = (batch, at as u16, part.index + 1);
            self.slots[at].open_slices(train, offset, piece.len, number, last);
        }
        self.spans.push(piece);
        self.next.push(number);
        Ok(())
    }
}

/// The first place of an outer flow's set.
#[inline]
fn set(from: &SocketAddr) -> usize {
    let ip = match from {
        SocketAddr::V4(v4) => v4.ip().to_bits(),
        SocketAddr::V6(v6) => (v6.ip().to_bits() ^ v6.ip().to_bits() >> 64) as u32,
    };
    let mixed = (ip ^ u32::from(from.port()) << 16).wrapping_mul(0x9e37_79b1);
    (mixed as usize >> 20 & (SETS - 1)) * WAYS
}

#[cfg(test)]
mod tests;
