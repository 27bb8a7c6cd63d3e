//! Cutting a super-frame into the packets it stands for, and finishing checksums a kernel left open.
//!
//! A [`Segmenter`] belongs to one worker. It writes new headers into its arena and leaves the payload in the frame: a
//! segment is a range of each, for a gathering send. Every payload byte is read once, for the checksum. The arena grows
//! to the largest frame seen and stays; nothing is allocated after that.
//!
//! What changes from segment to segment, as the kernel does it: IP length and IPv4 identification (+1), TCP sequence
//! number, FIN and PSH on the last segment only, CWR on the first only (RFC 3168 section 6.1.2), UDP length, checksums.

mod slices;

use crate::checksum::{self, Sum, TCP};
use crate::parse::{self, ParseError, Parsed};
use crate::vnet::{VnetError, VnetHdr};

pub(crate) use slices::head_len;

/// Most segments one frame may be cut into; a 64 KiB frame of 48-byte segments stays below.
pub const MAX_SEGMENTS: usize = 2048;

const ARENA: usize = 128 * 128;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// One packet for the wire: `arena[head]` followed by `frame[body]`, both as (start, end).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seg {
    /// Prefix and headers, a range of the segmenter's arena.
    pub head: (u32, u32),
    /// Payload, a range of the frame.
    pub body: (u32, u32),
}

impl Seg {
    /// Bytes of the whole packet.
    #[inline]
    pub const fn len(&self) -> usize {
        (self.head.1 - self.head.0 + self.body.1 - self.body.0) as usize
    }

    /// True for a packet of no bytes.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a frame cannot be segmented or finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GsoError {
    /// The virtio header lies about the frame.
    #[error(transparent)]
    Vnet(#[from] VnetError),
    /// The headers cannot be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// More than [`MAX_SEGMENTS`].
    #[error("super-frame of {0} segments")]
    TooManySegments(usize),
    /// A segment would not fit an IP packet.
    #[error("segments of {0} bytes do not fit an IP packet")]
    SegmentSize(u16),
    /// A super-frame where a plain frame is needed.
    #[error("a super-frame has no checksum of its own")]
    SuperFrame,
    /// The frame is shorter than the headers to leave out.
    #[error("frame is cut off")]
    Truncated,
}

/// The segments of one or more frames.
#[derive(Debug)]
pub struct Segmenter {
    arena: Vec<u8>,
    segs: Vec<Seg>,
}

impl Segmenter {
    /// An empty segmenter with room for an ordinary 64 KiB frame.
    pub fn new() -> Self {
        Self { arena: Vec::with_capacity(ARENA), segs: Vec::with_capacity(128) }
    }

    /// Forgets all segments.
    #[inline]
    pub fn clear(&mut self) {
        self.arena.clear();
        self.segs.clear();
    }

    /// Replaces the segments by those of `frame`, with `prefix` before the headers of each.
    ///
    /// A super-frame is cut; a frame that needs a checksum gets it; any other frame is one segment without own headers.
    ///
    /// # Errors
    /// See [`GsoError`]; there are no segments then.
    pub fn split(&mut self, frame: &[u8], vnet: &VnetHdr, prefix: &[u8]) -> Result<(), GsoError> {
        self.clear();
        self.append(frame, vnet, prefix, 0)
    }

    /// Adds the segments of `frame` to those there are, leaving out the first `strip` bytes of it (the Ethernet header,
    /// for bare IP).
    ///
    /// # Errors
    /// See [`GsoError`]; no segment is added then.
    pub fn append(
        &mut self,
        frame: &[u8],
        vnet: &VnetHdr,
        prefix: &[u8],
        strip: usize,
    ) -> Result<(), GsoError> {
        if strip > frame.len() {
            return Err(GsoError::Truncated);
        }
        vnet.check(frame.len())?;
        if vnet.is_gso() {
            return self.cut(frame, vnet, prefix, strip);
        }
        let at = self.arena.len();
        self.arena.extend_from_slice(prefix);
        let mut body = strip;
        if vnet.needs_csum() {
            let (start, field) = checksum_field(vnet);
            if strip > start {
                self.arena.truncate(at);
                return Err(GsoError::Truncated);
            }
            body = field + 2;
            self.arena.extend_from_slice(&frame[strip..field]);
            self.arena.extend_from_slice(&open_checksum(frame, start).to_be_bytes());
        }
        self.seg(at, body, frame.len());
        Ok(())
    }

    /// The segments, in order.
    #[inline]
    pub fn segs(&self) -> &[Seg] {
        &self.segs
    }

    /// What [`Seg::head`] refers to.
    #[inline]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    #[inline]
    fn seg(&mut self, head: usize, body: usize, end: usize) {
        self.segs.push(Seg { head: (head as u32, self.arena.len() as u32), body: (body as u32, end as u32) });
    }

    fn cut(&mut self, frame: &[u8], vnet: &VnetHdr, prefix: &[u8], strip: usize) -> Result<(), GsoError> {
        let p = parse::parse(frame, frame.len(), true)?;
        vnet.agrees(&p)?;
        let headers = Headers::read(frame, &p, strip)?;
        let (start, end) = (headers.end, usize::from(p.l3) + p.ip_len as usize);
        let size = usize::from(vnet.gso_size);
        let count = (end - start).div_ceil(size).max(1);
        if count > MAX_SEGMENTS {
            return Err(GsoError::TooManySegments(count));
        }
        if start - usize::from(p.l3) + size.min(end - start) > 65_535 {
            return Err(GsoError::SegmentSize(vnet.gso_size));
        }
        let template = &frame[strip..start];
        for n in 0..count {
            let from = start + n * size;
            let to = (from + size).min(end);
            let at = self.arena.len();
            self.arena.extend_from_slice(prefix);
            self.arena.extend_from_slice(template);
            let out = &mut self.arena[at + prefix.len()..];
            headers.patch(out, n, n + 1 == count, (from - start) as u32, &frame[from..to]);
            self.seg(at, from, to);
        }
        Ok(())
    }
}

impl Default for Segmenter {
    fn default() -> Self {
        Self::new()
    }
}

/// The headers every segment repeats, and the sums of their parts that do not change.
struct Headers {
    v6: bool,
    tcp: bool,
    /// Offsets in the copied headers.
    l3: usize,
    l4: usize,
    /// Where the payload starts in the frame.
    end: usize,
    /// Bytes of IP payload in front of the upper-layer payload: extension headers and the upper-layer header.
    l4_len: usize,
    id: u16,
    seq: u32,
    flags: [u8; 2],
    /// IPv4 header without length, identification and checksum.
    ip: Sum,
    /// Pseudo-header and upper-layer header without what [`patch`](Self::patch) sets.
    upper: Sum,
}

impl Headers {
    fn read(frame: &[u8], p: &Parsed, strip: usize) -> Result<Self, GsoError> {
        let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
        let tcp = p.proto == TCP;
        let h = frame.get(l4..).ok_or(GsoError::Truncated)?;
        let len = if tcp { h.get(12).map_or(0, |b| usize::from(b >> 4) * 4) } else { 8 };
        let h = h.get(..len).ok_or(GsoError::Truncated)?;
        let ip = frame.get(l3..l4).ok_or(GsoError::Truncated)?;
        if strip > l3 || l4 + len > l3 + p.ip_len as usize {
            return Err(GsoError::Truncated);
        }
        let mut seg = Self {
            v6: p.v6,
            tcp,
            l3: l3 - strip,
            l4: l4 - strip,
            end: l4 + len,
            l4_len: len,
            id: p.frag_id as u16,
            seq: 0,
            flags: [0; 2],
            ip: Sum::ZERO,
            upper: checksum::pseudo(p, 0),
        };
        if let (false, Some(fixed)) = (p.v6, ip.first_chunk::<20>()) {
            let mut fixed = *fixed;
            fixed[2..6].fill(0);
            fixed[10..12].fill(0);
            seg.ip = checksum::sum20(&fixed).plus(checksum::sum(&ip[20..]));
        }
        if let (true, Some(fixed)) = (tcp, h.first_chunk::<20>()) {
            seg.seq = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
            seg.flags = [fixed[12], fixed[13]];
            let mut fixed = *fixed;
            fixed[4..8].fill(0);
            fixed[12..14].fill(0);
            fixed[16..18].fill(0);
            seg.upper = seg.upper.plus(checksum::sum20(&fixed)).plus(checksum::sum(&h[20..]));
        } else {
            seg.upper = seg.upper.plus(checksum::sum(&h[..4]));
        }
        Ok(seg)
    }

    /// Makes `out`, a copy of the headers, those of segment `n`, whose payload starts `offset` bytes into the stream.
    #[inline]
    fn patch(&self, out: &mut [u8], n: usize, last: bool, offset: u32, payload: &[u8]) {
        let upper_len = (self.l4_len + payload.len()) as u16;
        let ip_len = (self.l4 - self.l3) as u16 + upper_len;
        let ip = &mut out[self.l3..];
        if self.v6 {
            ip[4..6].copy_from_slice(&(ip_len - 40).to_be_bytes());
        } else {
            let id = self.id.wrapping_add(n as u16);
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].copy_from_slice(&self.ip.word(ip_len).word(id).finish().to_be_bytes());
        }
        let l4 = &mut out[self.l4..];
        let sum = self.upper.word(upper_len).plus(checksum::sum(payload));
        if self.tcp {
            let [offset_bits, mut flags] = self.flags;
            if n > 0 {
                flags &= !CWR;
            }
            if !last {
                flags &= !(FIN | PSH);
            }
            let seq = self.seq.wrapping_add(offset);
            let check = sum.long(seq).word(u16::from_be_bytes([offset_bits, flags])).finish();
            l4[4..8].copy_from_slice(&seq.to_be_bytes());
            l4[13] = flags;
            l4[16..18].copy_from_slice(&check.to_be_bytes());
        } else {
            let check = nonzero(sum.word(upper_len).finish());
            l4[4..6].copy_from_slice(&upper_len.to_be_bytes());
            l4[6..8].copy_from_slice(&check.to_be_bytes());
        }
    }
}

/// Completes the checksum of a frame that needs one, in place; other plain frames are left alone.
///
/// The field holds the folded pseudo-header sum, so summing from `csum_start` on takes it in (virtio 1.2 section
/// 5.1.6.2).
///
/// # Errors
/// A super-frame, or a field outside the frame; the frame is unchanged then.
pub fn finish_checksum(frame: &mut [u8], vnet: &VnetHdr) -> Result<(), GsoError> {
    vnet.check(frame.len())?;
    if vnet.is_gso() {
        return Err(GsoError::SuperFrame);
    }
    if vnet.needs_csum() {
        let (start, field) = checksum_field(vnet);
        let check = open_checksum(frame, start);
        frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
    }
    Ok(())
}

/// Offsets of the summed bytes and of the field; inside the frame once `check` passed.
#[inline]
fn checksum_field(vnet: &VnetHdr) -> (usize, usize) {
    let start = usize::from(vnet.csum_start);
    (start, start + usize::from(vnet.csum_offset))
}

#[inline]
fn open_checksum(frame: &[u8], start: usize) -> u16 {
    nonzero(checksum::sum(&frame[start..]).finish())
}

/// Zero means "no checksum" in UDP and the same as all ones anywhere else (RFC 768).
#[inline]
const fn nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

#[cfg(test)]
pub(crate) mod tests;
