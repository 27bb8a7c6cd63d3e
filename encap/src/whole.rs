//! A super-frame that came through a tunnel in one piece, without the virtio header that would describe it.
//!
//! A kernel VXLAN sender on the same host (or a host that hands tunnel super-frames through) delivers one tunnel header
//! and one giant inner frame. What the lost header said is derived again: from the frame's own headers, the segment size
//! the socket told (UDP), or the path's MTU (TCP).

use crate::checksum::{l4_field, pseudo};
use crate::parse::{Frag, parse};
use crate::vnet::VnetHdr;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The header for `frame` (Ethernet), cut into IP packets of at most `mtu` bytes, or into `segment` payload bytes where
/// the socket told (0 = it did not). `None` for what is no TCP or UDP super-frame, and where the checksum field is not
/// the folded pseudo-header sum: then nobody has vouched for the bytes, and no header may claim it.
pub fn describe(frame: &[u8], segment: usize, mtu: usize) -> Option<VnetHdr> {
    let p = parse(frame, frame.len(), true).ok()?;
    if p.frag != Frag::None || p.vlan {
        return None;
    }
    let l4 = usize::from(p.l4);
    let (gso_type, header, offset) = match p.proto {
        TCP => {
            let kind = if p.v6 { VnetHdr::GSO_TCPV6 } else { VnetHdr::GSO_TCPV4 };
            (kind, usize::from(*frame.get(l4 + 12)? >> 4) * 4, 16)
        }
        UDP => (VnetHdr::GSO_UDP_L4, 8, 6),
        _ => return None,
    };
    let field = l4 + l4_field(p.proto)?;
    let stored = u16::from_be_bytes([*frame.get(field)?, *frame.get(field + 1)?]);
    if stored != pseudo(&p, p.l4_len()).fold() {
        return None;
    }
    let size = match (p.proto, segment) {
        (UDP, 0) => return None,
        (UDP, told) => told,
        _ => mtu.checked_sub(l4 - usize::from(p.l3) + header)?,
    };
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type,
        hdr_len: u16::try_from(l4 + header).ok()?,
        gso_size: u16::try_from(size).ok().filter(|s| *s != 0)?,
        csum_start: p.l4,
        csum_offset: offset,
    };
    (vnet.check(frame.len()).is_ok() && vnet.agrees(&p).is_ok()).then_some(vnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn giant(payload: usize) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4);
        let mut out = Vec::new();
        builder.write(&mut out, &vec![7; payload]).unwrap();
        let p = parse(&out, out.len(), true).unwrap();
        let sum = pseudo(&p, p.l4_len()).fold();
        out[50..52].copy_from_slice(&sum.to_be_bytes());
        out
    }

    #[test]
    fn a_partial_giant_is_described() {
        let vnet = describe(&giant(20_000), 0, 1450).unwrap();
        let expected = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: VnetHdr::GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1410,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(vnet, expected);
    }

    #[test]
    fn a_giant_nobody_vouches_for_is_not() {
        let mut frame = giant(20_000);
        frame[50] ^= 1;
        assert_eq!(describe(&frame, 0, 1450), None);
    }
}
