//! VXLAN (RFC 7348): eight bytes between the outer UDP header and the inner Ethernet frame.
//!
//! ```text
//!  0                   1                   2                   3
//!  ├ R R R R I R R R ──┼──────────────── reserved ──────────────┤
//!  ├──────────────────── VNI (24 bits) ─────────────┼ reserved ─┤
//! ```
//!
//! RFC 7348 section 5 says reserved bits are ignored on receipt. We drop such packets instead, as Linux does: a set bit
//! is a group policy (GBP) or next-protocol (GPE) extension, and then the bytes that follow mean something else.

use crate::frame::Frame;

/// Bytes of the header.
pub const VXLAN_LEN: usize = 8;
/// The largest VNI.
pub const MAX_VNI: u32 = 0x00ff_ffff;

const FLAG_VNI: u8 = 0x08;

/// Why a datagram is not a VXLAN packet we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum VxlanError {
    /// Fewer than eight bytes.
    #[error("VXLAN header is cut off")]
    Truncated,
    /// The I flag is clear: the VNI is not valid.
    #[error("VXLAN header without a VNI")]
    NoVni,
    /// A reserved bit is set: an extension we did not ask for.
    #[error("VXLAN header with reserved bits set")]
    Reserved,
}

/// The header of segment `vni`; bits above 24 are ignored.
#[inline]
pub const fn header(vni: u32) -> [u8; VXLAN_LEN] {
    let [_, a, b, c] = vni.to_be_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

/// Prepends the header to a frame.
///
/// # Panics
/// When the frame has no eight bytes of headroom left, see [`Frame::push`].
#[inline]
pub fn push(frame: &mut Frame, vni: u32) {
    frame.push(VXLAN_LEN).copy_from_slice(&header(vni));
}

/// The VNI of a datagram and the offset of the inner frame.
///
/// # Errors
/// See [`VxlanError`].
#[inline]
pub fn parse(datagram: &[u8]) -> Result<(u32, usize), VxlanError> {
    let [flags, r0, r1, r2, a, b, c, r3] =
        *datagram.first_chunk::<VXLAN_LEN>().ok_or(VxlanError::Truncated)?;
    if flags & FLAG_VNI == 0 {
        return Err(VxlanError::NoVni);
    }
    if flags != FLAG_VNI || r0 | r1 | r2 | r3 != 0 {
        return Err(VxlanError::Reserved);
    }
    Ok((u32::from_be_bytes([0, a, b, c]), VXLAN_LEN))
}

/// The outer source port for an inner flow: in 49152-65535 (RFC 7348 section 5), the same for every packet of the flow.
#[inline]
pub const fn source_port(flow_hash: u64) -> u16 {
    let folded = flow_hash ^ flow_hash >> 32;
    let folded = folded ^ folded >> 16;
    0xc000 | (folded & 0x3fff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::packet::vxlan::VxlanPacket;
    use proptest::prelude::*;

    #[test]
    fn headers_of_the_interop_list() {
        assert_eq!(header(1), [0x08, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(header(4096), [0x08, 0, 0, 0, 0, 0x10, 0, 0]);
        assert_eq!(parse(&header(4096)), Ok((4096, 8)));
        assert_eq!(header(MAX_VNI + 2), header(1));
    }

    #[test]
    fn what_we_refuse() {
        // VXLAN-GBP: group 0x1234; D and A set with group 5.
        assert_eq!(parse(&[0x88, 0, 0x12, 0x34, 0, 0, 1, 0]), Err(VxlanError::Reserved));
        assert_eq!(parse(&[0x88, 0x48, 0, 5, 0, 0, 1, 0]), Err(VxlanError::Reserved));
        // Geneve carrying Ethernet, VNI 1.
        assert_eq!(parse(&[0, 0, 0x65, 0x58, 0, 0, 1, 0]), Err(VxlanError::NoVni));
        // VXLAN-GPE: P flag and next protocol IPv4.
        assert_eq!(parse(&[0x0c, 0, 0, 1, 0, 0, 1, 0]), Err(VxlanError::Reserved));
        assert_eq!(parse(&[8, 0, 0, 0, 0, 0, 1, 1]), Err(VxlanError::Reserved));
        assert_eq!(parse(&header(1)[..7]), Err(VxlanError::Truncated));
    }

    proptest! {
        #[test]
        fn pnet_reads_what_we_push(vni in 0..=MAX_VNI, inner in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut frame = Frame::with_capacity(128);
            prop_assert!(frame.copy_from(&inner));
            push(&mut frame, vni);
            let packet = VxlanPacket::new(frame.data()).unwrap();
            prop_assert_eq!((packet.get_flags(), packet.get_vni()), (0x08, vni));
            prop_assert_eq!(pnet::packet::Packet::payload(&packet), &inner[..]);
            prop_assert_eq!(parse(frame.data()), Ok((vni, 8)));
        }

        #[test]
        fn only_our_own_eight_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok((vni, at)) = parse(&bytes) {
                prop_assert_eq!(&bytes[..at], &header(vni)[..]);
            }
        }

        #[test]
        fn source_ports_are_dynamic_ones(hash in any::<u64>()) {
            prop_assert!(source_port(hash) >= 49_152);
        }
    }
}
