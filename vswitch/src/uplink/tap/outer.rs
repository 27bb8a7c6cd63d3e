//! The outer headers of a VXLAN super-frame, and the virtio header that describes all of it.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use encap::checksum::{self, pseudo_v4, pseudo_v6};
use encap::vxlan::{self, VXLAN_LEN};
use encap::{ETH_LEN, VnetHdr};

use super::{MAC, MAX_PACKET, NEIGHBOUR};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;
const TTL: u8 = 64;
/// The longest: virtio, Ethernet, IPv6, UDP, VXLAN.
const ROOM: usize = VnetHdr::TUNNEL_LEN + ETH_LEN + IPV6_LEN + UDP_LEN + VXLAN_LEN;

/// Where a VXLAN packet goes and comes from; both ends of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// This node's address and the source port: the one of the flow's UDP socket, so that both ways out look the same.
    pub src: SocketAddr,
    /// The peer and the tunnel's port.
    pub dst: SocketAddr,
    /// The VXLAN segment.
    pub vni: u32,
}

/// Headers in a row.
pub(super) struct Headers {
    bytes: [u8; ROOM],
    len: usize,
}

impl Headers {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Outer {
    /// All headers before the inner frame in `parts`; none when it is no super-frame or too large.
    pub(super) fn headers(&self, inner: &VnetHdr, parts: &[IoSlice<'_>], id: u16) -> Option<Headers> {
        let inner_len: usize = parts.iter().map(|part| part.len()).sum();
        let v6 = self.dst.is_ipv6();
        let ip_len = if v6 { IPV6_LEN } else { IPV4_LEN };
        let total = ip_len + UDP_LEN + VXLAN_LEN + inner_len;
        if total > MAX_PACKET || !inner.is_gso() || !inner.needs_csum() {
            return None;
        }
        let udp_len = u16::try_from(total - ip_len).ok()?;
        let mut headers = Headers { bytes: [0; ROOM], len: 0 };
        headers.put(&virtio(inner, parts, v6)?);
        headers.put(&MAC);
        headers.put(&NEIGHBOUR);
        let pseudo = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                headers.put(&[0x08, 0x00]);
                let mut ip = [0; IPV4_LEN];
                ip[..2].copy_from_slice(&[0x45, 0]);
                ip[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
                ip[4..6].copy_from_slice(&id.to_be_bytes());
                ip[8..10].copy_from_slice(&[TTL, UDP]);
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..].copy_from_slice(&dst.octets());
                let sum = checksum::sum20(&ip).finish();
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                headers.put(&ip);
                pseudo_v4(src, dst, UDP, udp_len)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                headers.put(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                headers.put(&udp_len.to_be_bytes());
                headers.put(&[UDP, TTL]);
                headers.put(&src.octets());
                headers.put(&dst.octets());
                pseudo_v6(src, dst, UDP, u32::from(udp_len))
            }
            _ => return None,
        };
        headers.put(&self.src.port().to_be_bytes());
        headers.put(&self.dst.port().to_be_bytes());
        headers.put(&udp_len.to_be_bytes());
        // Partial, as the virtio flag says: the sum of the pseudo-header, for whoever segments to finish.
        headers.put(&pseudo.fold().to_be_bytes());
        headers.put(&vxlan::header(self.vni));
        Some(headers)
    }
}

/// The virtio header in its tunnel form: the inner one's numbers, moved behind the outer headers.
fn virtio(inner: &VnetHdr, parts: &[IoSlice<'_>], v6: bool) -> Option<[u8; VnetHdr::TUNNEL_LEN]> {
    let outer_th = ETH_LEN + if v6 { IPV6_LEN } else { IPV4_LEN };
    let inner_start = outer_th + UDP_LEN + VXLAN_LEN;
    let moved = |offset: u16| u16::try_from(usize::from(offset) + inner_start).ok();
    // A header length that the pod's kernel reported is only a hint; here it becomes the packet's linear part.
    let l4_len = match inner.gso_type & !VnetHdr::GSO_ECN {
        VnetHdr::GSO_TCPV4 | VnetHdr::GSO_TCPV6 => {
            let offset = parts.first()?.get(usize::from(inner.csum_start) + 12)?;
            u16::from(offset >> 4) * 4
        }
        VnetHdr::GSO_UDP_L4 => UDP_LEN as u16,
        _ => return None,
    };
    let tunnel = if v6 { VnetHdr::GSO_UDP_TUNNEL_IPV6 } else { VnetHdr::GSO_UDP_TUNNEL_IPV4 };
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM | VnetHdr::UDP_TUNNEL_CSUM,
        gso_type: inner.gso_type | tunnel,
        hdr_len: moved(inner.csum_start.checked_add(l4_len)?)?,
        gso_size: inner.gso_size,
        csum_start: moved(inner.csum_start)?,
        csum_offset: inner.csum_offset,
    };
    let mut out = [0; VnetHdr::TUNNEL_LEN];
    header.emit_tunnel(outer_th as u16, (inner_start + ETH_LEN) as u16, &mut out);
    Some(out)
}
