//! Cutting a TCP super-frame into slices ([`crate::slice`]): nothing is copied but the slices' own headers.

use crate::checksum::TCP;
use crate::parse;
use crate::slice::{Layout, Part, SIZE_LEN};
use crate::vnet::VnetHdr;
use crate::vxlan::VXLAN_LEN;
use crate::{ETH_LEN, wire};

use super::{GsoError, Segmenter};

/// Segments below this many bytes are not worth it, and too small for a first slice.
const LEAST: u16 = 256;

impl Segmenter {
    /// Replaces the segments by slices of `frame`, a train of them with these numbers (index and count are set here).
    /// False, and there are none, when it is not a super-frame that travels in slices: TCP without IP options or
    /// extension headers, with no flag but ACK and PSH.
    ///
    /// # Errors
    /// See [`GsoError`]; there are no segments then.
    pub fn slice(&mut self, frame: &[u8], vnet: &VnetHdr, train: Part) -> Result<bool, GsoError> {
        self.clear();
        if !matches!(vnet.gso_type, VnetHdr::GSO_TCPV4 | VnetHdr::GSO_TCPV6) || vnet.gso_size < LEAST {
            return Ok(false);
        }
        vnet.check(frame.len())?;
        let p = parse::parse(frame, frame.len(), true)?;
        vnet.agrees(&p)?;
        let Some(head) = head_len(frame, &p) else { return Ok(false) };
        let total = ETH_LEN + p.ip_len as usize;
        let size = VXLAN_LEN + head + usize::from(vnet.gso_size);
        let Some(layout) = Layout::new(size, total) else { return Ok(false) };
        let count = layout.count();
        for index in 0..count {
            let at = self.arena.len();
            let part = Part { index: index as u8, count: count as u8, ..train };
            self.arena.extend_from_slice(&part.header());
            if index == 0 {
                let mut size = [0; SIZE_LEN];
                size[..2].copy_from_slice(&vnet.gso_size.to_be_bytes());
                self.arena.extend_from_slice(&size);
            }
            let (from, to) = layout.range(index);
            self.seg(at, from, to);
        }
        Ok(true)
    }
}

/// Bytes of all headers of a frame that may travel in slices; none when it may not.
pub(crate) fn head_len(frame: &[u8], p: &parse::Parsed) -> Option<usize> {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let plain = l3 == ETH_LEN && l4 - l3 == if p.v6 { 40 } else { 20 };
    let only = p.tcp_flags & !wire::tcp::PSH == wire::tcp::ACK;
    let head = l4 + usize::from(frame.get(l4 + 12)? >> 4) * 4;
    let fits = head >= l4 + 20 && head < ETH_LEN + p.ip_len as usize;
    (p.proto == TCP && p.frag == parse::Frag::None && plain && only && fits).then_some(head)
}
