//! A packet that was half way through a router, made such that it can be taken in once more.
//!
//! Whoever had it in hand may have given it new MAC addresses and a lower TTL, filled in its checksum, or laid an Ethernet
//! header over a tunnel's. What the way in checks or counts on is set right here; that the TTL may be lower by one is all
//! that shows. Any bytes will do: what is no packet stays none.

use crate::vnet::VnetHdr;
use crate::{ETH_LEN, Frame, Mac};

const IPV4: [u8; 2] = [8, 0];

/// A frame as the device with the address `mac` sent it to `gateway`. `frame.vnet` is what came with it.
pub fn from_port(frame: &mut Frame, mac: Mac, gateway: Mac) {
    let vnet = frame.vnet;
    fill_inner_v4(frame.data_mut());
    let Ok(p) = crate::parse::parse(frame.data(), frame.len(), vnet.is_gso()) else { return };
    let data = frame.data_mut();
    if p.is_ip() && !Mac([data[0]; 6]).is_multicast() {
        crate::rewrite::set_macs(data, gateway, mac);
    }
    if vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
        // Only the pseudo-header's sum belongs there, whether or not the rest was added to it.
        let len = p.ip_len.saturating_sub(u32::from(p.l4 - p.l3));
        let sum = !crate::checksum::pseudo(&p, len).finish();
        let at = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
        if let Some(field) = data.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// VXLAN datagrams of `stride` bytes each (0 = there is one), as they came to the VTEP with the address `vtep`. Nothing is
/// changed in slices.
pub fn from_vxlan(frame: &mut Frame, stride: usize, vtep: Mac) {
    let stride = if stride == 0 { frame.len() } else { stride };
    let whole = |datagram: &&mut [u8]| !crate::slice::is_slice(datagram);
    for datagram in frame.data_mut().chunks_mut(stride.max(1)).filter(whole) {
        let Some(inner) = datagram.get_mut(crate::vxlan::VXLAN_LEN..) else { continue };
        if let Some(mac) = inner.first_chunk_mut() {
            *mac = vtep.0;
        }
        fill_inner_v4(inner);
    }
}

/// An outer IPv4 packet, over the end of whose header an Ethernet header was laid. Of that end, the protocol is looked at.
pub fn from_ipip(frame: &mut Frame) {
    let data = frame.data_mut();
    let inner = data.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let protocol = data.get(inner).map_or(0, |first| if first >> 4 == 6 { 41 } else { 4 });
    if let Some(field) = data.get_mut(9) {
        *field = protocol;
    }
    if protocol == 4 && data.len() > inner {
        fill_v4(&mut data[inner..]);
    }
}

/// Bare packets of flannel's form, which were laid out anew with Ethernet headers: they lose them.
pub fn from_bare(frame: &mut Frame) {
    if frame.data().first() != Some(&0) || frame.data().get(ETH_LEN - 2..ETH_LEN) != Some(&IPV4) {
        return;
    }
    let mut bytes = Vec::with_capacity(frame.len());
    let mut rest = frame.data();
    while let Some(&[high, low]) = rest.get(ETH_LEN + 2..ETH_LEN + 4) {
        let end = ETH_LEN + usize::from(u16::from_be_bytes([high, low]));
        let Some(packet) = rest.get(ETH_LEN..end) else { break };
        let at = bytes.len();
        bytes.extend_from_slice(packet);
        fill_v4(&mut bytes[at..]);
        rest = &rest[end..];
    }
    frame.copy_from(&bytes);
}

/// Fills in the checksum of an IPv4 header, which was right when the packet was read.
fn fill_v4(packet: &mut [u8]) {
    let len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = crate::checksum::sum(header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The same where an Ethernet header comes first.
fn fill_inner_v4(frame: &mut [u8]) {
    if frame.get(ETH_LEN - 2..ETH_LEN) == Some(&IPV4) {
        fill_v4(&mut frame[ETH_LEN..]);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::{LARGE, finish_checksum};

    const POD: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 2]);

    const VTEP: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);

    /// A UDP packet of a pod, as its kernel hands it over: only the pseudo-header is summed.
    fn sent(v6: bool) -> Frame {
        let eth = PacketBuilder::ethernet2(POD.0, GATEWAY.0);
        let mut bytes = Vec::new();
        let built = match v6 {
            false => eth.ipv4([10, 0, 0, 1], [10, 0, 1, 1], 64).udp(1, 2).write(&mut bytes, b"payload"),
            true => eth.ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut bytes, b"payload"),
        };
        built.unwrap();
        let mut frame = frame(&bytes);
        let p = crate::parse::parse(&bytes, bytes.len(), false).unwrap();
        let l4 = usize::from(p.l4);
        let sum = !crate::checksum::pseudo(&p, 15).finish();
        frame.data_mut()[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
        frame.vnet =
            VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: p.l4, csum_offset: 6, ..VnetHdr::default() };
        frame
    }

    fn frame(bytes: &[u8]) -> Frame {
        let mut frame = Frame::with_capacity(LARGE);
        assert!(frame.copy_from(bytes));
        frame
    }

    /// What the pipeline does to it on the way to a peer.
    fn carry(frame: &mut Frame) {
        let p = crate::parse::parse(frame.data(), frame.len(), false).unwrap();
        crate::rewrite::set_macs(frame.data_mut(), OTHER, VTEP);
        crate::rewrite::dec_ttl(frame.data_mut(), &p);
        let vnet = frame.vnet;
        finish_checksum(frame.data_mut(), &vnet).unwrap();
    }

    /// The bytes, but for the TTL that is one less and the IPv4 checksum that goes with it.
    fn but_for_ttl(frame: &Frame) -> Vec<u8> {
        let p = crate::parse::parse(frame.data(), frame.len(), false).unwrap();
        let mut bytes = frame.data().to_vec();
        let l3 = usize::from(p.l3);
        if p.v6 {
            bytes[l3 + 7] = 0;
        } else {
            assert_eq!(
                crate::checksum::sum(&bytes[l3..l3 + 20]).finish(),
                0,
                "the header's checksum is right"
            );
            bytes[l3 + 8] = 0;
            bytes[l3 + 10..l3 + 12].fill(0);
        }
        bytes
    }

    #[test]
    fn a_frame_that_was_half_way_is_as_it_was_read() {
        for v6 in [false, true] {
            let fresh = sent(v6);
            for steps in 0..3 {
                let mut again = sent(v6);
                let vnet = again.vnet;
                if steps > 0 {
                    carry(&mut again);
                }
                if steps > 1 && !v6 {
                    // Died between the TTL and its checksum.
                    again.data_mut()[14 + 8] -= 1;
                }
                again.vnet = vnet;
                from_port(&mut again, POD, GATEWAY);
                assert_eq!(but_for_ttl(&again), but_for_ttl(&fresh), "v6 {v6}, {steps}");
                let p = crate::parse::parse(again.data(), again.len(), false).unwrap();
                finish_checksum(again.data_mut(), &vnet).unwrap();
                assert!(crate::checksum::verify_l4(again.data(), &p));
            }
        }
    }

    #[test]
    fn what_was_never_rewritten_stays() {
        let arp = [&[0xff; 6][..], &POD.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 32]].concat();
        let mut again = frame(&arp);
        from_port(&mut again, POD, GATEWAY);
        assert_eq!(again.data(), arp);
        for len in 0..80 {
            for first in [0, 0x45, 0x60] {
                let mut junk = frame(&vec![first; len]);
                from_port(&mut junk, POD, GATEWAY);
                from_vxlan(&mut junk, len / 3, VTEP);
                from_ipip(&mut junk);
                from_bare(&mut junk);
            }
        }
    }

    #[test]
    fn every_datagram_of_a_vxlan_train_is_for_this_node_again() {
        let mut one = sent(false);
        crate::rewrite::set_macs(one.data_mut(), VTEP, OTHER);
        let datagram = [&[8, 0, 0, 0, 0, 0, 1, 0], one.data()].concat();
        let fresh = datagram.repeat(3);
        let mut train = fresh.clone();
        for datagram in train.chunks_mut(datagram.len()).take(2) {
            let inner = &mut datagram[8..];
            let p = crate::parse::parse(inner, inner.len(), false).unwrap();
            crate::rewrite::set_macs(inner, Mac([6; 6]), GATEWAY);
            crate::rewrite::dec_ttl(inner, &p);
        }
        let mut again = frame(&train);
        from_vxlan(&mut again, datagram.len(), VTEP);
        assert_eq!(again.len(), train.len());
        for datagram in again.data().chunks(datagram.len()) {
            assert_eq!(datagram[8..14], VTEP.0);
            let inner = frame(&datagram[8..]);
            assert_eq!(but_for_ttl(&inner)[12..], but_for_ttl(&one)[12..]);
        }
    }

    #[test]
    fn bare_packets_lose_the_headers_they_were_given() {
        let one = sent(false);
        let packet = &one.data()[ETH_LEN..];
        let fresh = packet.repeat(2);
        let laid_out = [&[0; 12][..], &IPV4, packet].concat().repeat(2);
        for bytes in [&fresh, &laid_out] {
            let mut again = frame(bytes);
            from_bare(&mut again);
            assert_eq!(again.data(), fresh);
        }
    }

    #[test]
    fn an_outer_header_that_was_laid_over_is_one_again() {
        let one = sent(false);
        let packet = &one.data()[ETH_LEN..];
        let mut outer = [0; 20];
        let (len, ends) = ((20 + packet.len()) as u16, [[192, 0, 2, 1], [192, 0, 2, 2]]);
        outer[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
        outer[8..10].copy_from_slice(&[64, 4]);
        outer[12..16].copy_from_slice(&ends[0]);
        outer[16..].copy_from_slice(&ends[1]);
        let fresh = [&outer[..], packet].concat();
        let mut laid_over = fresh.clone();
        laid_over[6..20].copy_from_slice(&crate::udp::ethernet(Mac([3; 6]), GATEWAY, 0x0800));
        let mut again = frame(&laid_over);
        from_ipip(&mut again);
        let inner = crate::ipip::parse(again.data()).unwrap();
        assert_eq!(&again.data()[inner.at..], packet);
    }
}
