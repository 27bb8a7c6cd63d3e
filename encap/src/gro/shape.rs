//! What the headers of one frame say about joining it, and which of their bytes must be the same in all frames joined.
//!
//! The comparison is a masked one over the fixed headers, as a whole: no field is named twice and none can be
//! forgotten. Not compared are lengths, IPv4 identification, checksums, the TCP sequence number (each checked by its own
//! rule) and PSH.

use crate::checksum::{self, Sum, TCP, UDP};
use crate::vnet::VnetHdr;

/// Address family and protocol of a frame that may be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Form {
    #[default]
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// All bits of `N` header bytes but those of the given ranges; `psh` is the TCP flag byte.
const fn mask<const N: usize>(holes: &[(usize, usize)], psh: usize) -> [u8; N] {
    let mut out = [0xff; N];
    let mut i = 0;
    while i < holes.len() {
        let (mut at, end) = holes[i];
        while at < end {
            out[at] = 0;
            at += 1;
        }
        i += 1;
    }
    if psh < N {
        out[psh] = !PSH;
    }
    out
}

const TCP4: [u8; 54] = mask(&[(16, 20), (24, 26), (38, 42), (50, 52)], 47);
const TCP6: [u8; 74] = mask(&[(18, 20), (58, 62), (70, 72)], 67);
const UDP4: [u8; 42] = mask(&[(16, 20), (24, 26), (38, 42)], usize::MAX);
const UDP6: [u8; 62] = mask(&[(18, 20), (58, 62)], usize::MAX);

#[inline(always)]
fn alike<const N: usize>(a: &[u8], b: &[u8], mask: &[u8; N]) -> bool {
    let (Some(a), Some(b)) = (a.first_chunk::<N>(), b.first_chunk::<N>()) else { return false };
    let mut differ = 0;
    for i in 0..N {
        differ |= (a[i] ^ b[i]) & mask[i];
    }
    differ == 0
}

impl Form {
    #[inline]
    pub(super) const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    #[inline]
    pub(super) const fn is_v6(self) -> bool {
        matches!(self, Self::Tcp6 | Self::Udp6)
    }

    /// Offset of the upper-layer header.
    #[inline]
    pub(super) const fn l4(self) -> usize {
        if self.is_v6() { 54 } else { 34 }
    }

    /// Offset of the checksum field in the upper-layer header.
    #[inline]
    pub(super) const fn field(self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// True when the headers, `len` bytes in both frames, may belong to one joined packet.
    #[inline]
    pub(super) fn same(self, a: &[u8], b: &[u8], len: usize) -> bool {
        match self {
            Self::Tcp4 => alike(a, b, &TCP4) && a.get(54..len) == b.get(54..len),
            Self::Tcp6 => alike(a, b, &TCP6) && a.get(74..len) == b.get(74..len),
            Self::Udp4 => alike(a, b, &UDP4),
            Self::Udp6 => alike(a, b, &UDP6),
        }
    }

    /// The pseudo-header sum for `len` bytes of upper layer, from a frame of this form.
    #[inline]
    pub(super) fn pseudo(self, frame: &[u8], len: u32) -> Sum {
        let (addresses, proto) = if self.is_v6() { (22..54, 20) } else { (26..34, 23) };
        let proto = frame.get(proto).copied().unwrap_or_default();
        checksum::sum(frame.get(addresses).unwrap_or_default()).long(len).word(u16::from(proto))
    }
}

/// One frame that is plain TCP or UDP: its measures, and whether it may be joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) form: Form,
    /// Bytes of all headers.
    pub(super) head: u16,
    /// Bytes of payload, by the IP length.
    pub(super) payload: u32,
    /// Flow hash; its low bits index.
    pub(super) hash: u64,
    /// Nothing in the headers forbids joining.
    pub(super) join: bool,
    /// TCP PSH: the last of its packet.
    pub(super) push: bool,
    /// TCP sequence number.
    pub(super) seq: u32,
    /// IPv4 identification.
    pub(super) id: u16,
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd6e8_feb8_6659_fd93);
    (m ^ (m >> 64)) as u64
}

#[inline]
fn long(b: &[u8]) -> u64 {
    b.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b))
}

impl Shape {
    /// Reads the headers; `None` for anything but whole TCP or UDP packets behind plain IP headers.
    #[inline]
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let h = frame.first_chunk::<42>()?;
        match (h[12], h[13], h[14]) {
            (0x08, 0x00, 0x45) => {
                // More fragments, or an offset; a wrong header checksum.
                let ip = h[14..].first_chunk::<20>()?;
                if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 || checksum::sum20(ip).fold() != 0xffff {
                    return None;
                }
                let end = 14 + usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                let ports = u32::from_ne_bytes([h[34], h[35], h[36], h[37]]);
                let hash = mix(long(&h[26..]), u64::from(ports) << 8 | u64::from(ip[9]));
                let form = match ip[9] {
                    TCP => Form::Tcp4,
                    UDP => Form::Udp4,
                    _ => return None,
                };
                Self::upper(form, frame, end, hash, u16::from_be_bytes([ip[4], ip[5]]))
            }
            (0x86, 0xdd, 0x60..=0x6f) => {
                let h = frame.first_chunk::<62>()?;
                let end = 54 + usize::from(u16::from_be_bytes([h[18], h[19]]));
                let ports =
                    u64::from(u32::from_ne_bytes([h[54], h[55], h[56], h[57]])) << 8 | u64::from(h[20]);
                let hash =
                    mix(mix(long(&h[22..]), long(&h[30..])) ^ ports, mix(long(&h[38..]), long(&h[46..])));
                let form = match h[20] {
                    TCP => Form::Tcp6,
                    UDP => Form::Udp6,
                    _ => return None,
                };
                Self::upper(form, frame, end, hash, 0)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn upper(form: Form, frame: &[u8], end: usize, hash: u64, id: u16) -> Option<Self> {
        let upper = frame.get(form.l4()..end)?;
        if form.is_tcp() {
            let t = upper.first_chunk::<20>()?;
            let len = usize::from(t[12] >> 4) * 4;
            if len < 20 || len > upper.len() {
                return None;
            }
            let payload = (upper.len() - len) as u32;
            Some(Self {
                form,
                head: (form.l4() + len) as u16,
                payload,
                hash,
                join: t[13] & !PSH == ACK && payload > 0,
                push: t[13] & PSH != 0,
                seq: u32::from_be_bytes([t[4], t[5], t[6], t[7]]),
                id,
            })
        } else {
            let u = upper.first_chunk::<8>()?;
            let payload = (upper.len() - 8) as u32;
            let whole = usize::from(u16::from_be_bytes([u[4], u[5]])) == upper.len();
            // RFC 768: no checksum is fine; RFC 8200 section 8.1: not over IPv6.
            let summed = !form.is_v6() || u[6..8] != [0, 0];
            let head = (form.l4() + 8) as u16;
            Some(Self {
                form,
                head,
                payload,
                hash,
                join: whole && summed && payload > 0,
                push: false,
                seq: 0,
                id,
            })
        }
    }

    /// True when the upper-layer checksum is right, or absent where that is allowed.
    pub(super) fn verify(&self, frame: &[u8]) -> bool {
        let l4 = self.form.l4();
        let end = usize::from(self.head) + self.payload as usize;
        let Some(upper) = frame.get(l4..end) else { return false };
        if self.form == Form::Udp4 && upper.get(6..8) == Some(&[0, 0]) {
            return true;
        }
        self.form.pseudo(frame, upper.len() as u32).plus(checksum::sum(upper)).fold() == 0xffff
    }

    /// The virtio header of a trusted frame that goes alone.
    #[inline]
    pub(super) fn open_vnet(&self, frame: &[u8]) -> VnetHdr {
        let l4 = self.form.l4();
        let len = u32::from(self.head) - l4 as u32 + self.payload;
        open_field(frame, l4, self.form.field(), self.form.pseudo(frame, len).fold())
    }
}

/// Asks for a checksum when the field at `l4 + field` holds only `pseudo`, the folded pseudo-header sum.
#[inline]
pub(super) fn open_field(frame: &[u8], l4: usize, field: usize, pseudo: u16) -> VnetHdr {
    if frame.get(l4 + field..l4 + field + 2) != Some(&pseudo.to_be_bytes()) {
        return VnetHdr::default();
    }
    let len = match field {
        16 => frame.get(l4 + 12).map_or(20, |b| usize::from(b >> 4) * 4),
        _ => 8,
    };
    VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        hdr_len: (l4 + len) as u16,
        csum_start: l4 as u16,
        csum_offset: field as u16,
        ..VnetHdr::default()
    }
}
