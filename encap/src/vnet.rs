//! `struct virtio_net_hdr`: what a TAP says about a frame it gives, and is told about a frame it takes.
//!
//! ```text
//!  0       1          2          4           6            8             10
//!  ├ flags ┼ gso_type ┼ hdr_len  ┼ gso_size  ┼ csum_start ┼ csum_offset ┤   little endian
//! ```
//!
//! Layout and rules: virtio 1.2 section 5.1.6. The header comes from whoever wrote the frame, a pod included, so
//! [`VnetHdr::check`] looks for every lie about the frame's length and [`VnetHdr::agrees`] for every lie about its
//! content, before any byte is written through it.

use crate::parse::{Frag, Parsed};
use crate::{ETH_LEN, checksum};

/// Offload metadata of one frame; the default means "a plain frame with complete checksums".
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VnetHdr {
    /// [`NEEDS_CSUM`](Self::NEEDS_CSUM), [`DATA_VALID`](Self::DATA_VALID), …
    pub flags: u8,
    /// `GSO_*`, maybe with [`GSO_ECN`](Self::GSO_ECN).
    pub gso_type: u8,
    /// Bytes of all headers; on reads only a hint.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the upper-layer header starts, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum field is, from `csum_start`.
    pub csum_offset: u16,
}

/// How a virtio header contradicts the frame it describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Flags we did not ask for.
    #[error("virtio flags {0:#04x} are unknown")]
    Flags(u8),
    /// A GSO type we did not offer.
    #[error("virtio GSO type {0:#04x} is unknown")]
    GsoType(u8),
    /// A super-frame cut into pieces of nothing.
    #[error("virtio GSO size {0} is out of range")]
    GsoSize(u16),
    /// A super-frame whose checksum is said to be complete already.
    #[error("virtio GSO frame without a checksum request")]
    GsoChecksum,
    /// `hdr_len` longer than the frame, or shorter than Ethernet.
    #[error("virtio header length {0} does not fit the frame")]
    HdrLen(u16),
    /// The checksum field lies outside the frame.
    #[error("virtio checksum field {0}+{1} does not fit the frame")]
    CsumField(u16, u16),
    /// The checksum field or GSO type is not the one of the packet's headers.
    #[error("virtio header does not describe the packet")]
    Mismatch,
}

impl VnetHdr {
    /// Bytes on the wire.
    pub const LEN: usize = 10;
    /// Bytes of the form with tunnel offsets (`virtio_net_hdr_v1_hash_tunnel`).
    pub const TUNNEL_LEN: usize = 24;

    /// Flag: the checksum field holds the folded pseudo-header sum only.
    pub const NEEDS_CSUM: u8 = 1;
    /// Flag: the checksum was verified (reads only).
    pub const DATA_VALID: u8 = 2;
    /// Flag: the outer UDP checksum is wanted as well (tunnel form).
    pub const UDP_TUNNEL_CSUM: u8 = 8;

    /// Not a super-frame.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation; never offered.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation, both families.
    pub const GSO_UDP_L4: u8 = 5;
    /// The super-frame sits in a UDP tunnel over IPv4.
    pub const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
    /// The super-frame sits in a UDP tunnel over IPv6.
    pub const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
    /// The TCP header carries CWR for the first segment only.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the ten bytes; `None` when there are fewer.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes.first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            csum_start: u16::from_le_bytes([e, f]),
            csum_offset: u16::from_le_bytes([g, h]),
        })
    }

    /// The ten bytes.
    #[inline]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Writes the ten bytes to the front of `out`; an `out` that is too short stays as it is.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        if let Some(out) = out.first_chunk_mut() {
            *out = self.bytes();
        }
    }

    /// Writes the tunnel form: `outer_th` is the offset of the outer UDP header, `inner_nh` of the inner IP header.
    pub fn emit_tunnel(&self, outer_th: u16, inner_nh: u16, out: &mut [u8; Self::TUNNEL_LEN]) {
        *out = [0; Self::TUNNEL_LEN];
        self.emit(out);
        out[20..22].copy_from_slice(&outer_th.to_le_bytes());
        out[22..24].copy_from_slice(&inner_nh.to_le_bytes());
    }

    /// True when the checksum field is not complete.
    #[inline]
    pub const fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// True for a super-frame.
    #[inline]
    pub const fn is_gso(&self) -> bool {
        self.gso_type & !Self::GSO_ECN != Self::GSO_NONE
    }

    /// The GSO type without the ECN bit.
    #[inline]
    pub const fn kind(&self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }

    /// Finds every lie the header can tell about a frame of `frame_len` bytes.
    #[inline]
    pub fn check(&self, frame_len: usize) -> Result<(), VnetError> {
        if *self == Self::default() {
            return Ok(());
        }
        if self.flags & !(Self::NEEDS_CSUM | Self::DATA_VALID) != 0 {
            return Err(VnetError::Flags(self.flags));
        }
        let short = self.hdr_len != 0 && usize::from(self.hdr_len) < ETH_LEN;
        if short || usize::from(self.hdr_len) > frame_len {
            return Err(VnetError::HdrLen(self.hdr_len));
        }
        let field = usize::from(self.csum_start) + usize::from(self.csum_offset);
        let outside = usize::from(self.csum_start) < ETH_LEN || field + 2 > frame_len;
        if self.needs_csum() && outside {
            return Err(VnetError::CsumField(self.csum_start, self.csum_offset));
        }
        let min_header = match self.kind() {
            Self::GSO_NONE if self.gso_type == 0 => return Ok(()),
            Self::GSO_TCPV4 | Self::GSO_TCPV6 => 20,
            Self::GSO_UDP_L4 => 8,
            _ => return Err(VnetError::GsoType(self.gso_type)),
        };
        if self.gso_size == 0 || self.gso_size == u16::MAX {
            return Err(VnetError::GsoSize(self.gso_size));
        }
        if !self.needs_csum() {
            return Err(VnetError::GsoChecksum);
        }
        let right = if min_header == 20 { 16 } else { 6 };
        if self.csum_offset != right || usize::from(self.csum_start) + min_header > frame_len {
            return Err(VnetError::CsumField(self.csum_start, self.csum_offset));
        }
        Ok(())
    }

    /// Finds every lie about the packet itself: a super-frame must be of the parsed kind, and the checksum field must be
    /// the packet's own or lie wholly behind its upper-layer header (a tunnel inside the pod). Without this, completing
    /// the checksum would rewrite header bytes that policy has already judged.
    #[inline]
    pub fn agrees(&self, p: &Parsed) -> Result<(), VnetError> {
        if !self.needs_csum() && !self.is_gso() {
            return Ok(());
        }
        let own = checksum::l4_field(p.proto) == Some(usize::from(self.csum_offset))
            && self.csum_start == p.l4
            && p.frag == Frag::None;
        if self.is_gso() {
            let kind = match (p.proto, p.v6) {
                (checksum::TCP, false) => Self::GSO_TCPV4,
                (checksum::TCP, true) => Self::GSO_TCPV6,
                (checksum::UDP, _) => Self::GSO_UDP_L4,
                _ => return Err(VnetError::Mismatch),
            };
            return if own && kind == self.kind() { Ok(()) } else { Err(VnetError::Mismatch) };
        }
        let header = match p.proto {
            checksum::TCP => 60,
            checksum::UDP | checksum::ICMP | checksum::ICMPV6 => 8,
            0 => return Err(VnetError::Mismatch),
            _ => 12,
        };
        let behind = self.csum_start >= p.l4.saturating_add(header) && p.frag == Frag::None;
        if own || behind { Ok(()) } else { Err(VnetError::Mismatch) }
    }
}

#[cfg(test)]
mod tests;
