//! What a router changes in a frame it forwards, in place.
//!
//! Infallible on frames [`parse`](crate::parse::parse) accepted; on any other bytes nothing is written outside them.

use crate::checksum::update16;
use crate::mac::Mac;
use crate::parse::Parsed;

/// Writes the Ethernet addresses.
#[inline]
pub fn set_macs(head: &mut [u8], dst: Mac, src: Mac) {
    if let Some(out) = head.first_chunk_mut::<12>() {
        out[..6].copy_from_slice(&dst.0);
        out[6..].copy_from_slice(&src.0);
    }
}

/// Lowers TTL or hop limit by one; an IPv4 header checksum is updated with it (RFC 1624). A TTL of zero stays zero.
#[inline]
pub fn dec_ttl(head: &mut [u8], p: &Parsed) {
    let Some(ip) = head.get_mut(usize::from(p.l3)..) else { return };
    if p.v6 {
        if let Some(limit) = ip.get_mut(7) {
            *limit = limit.saturating_sub(1);
        }
    } else if p.is_ip() {
        let Some(h) = ip.first_chunk_mut::<20>() else { return };
        if h[8] == 0 {
            return;
        }
        let (old, new) = (u16::from_be_bytes([h[8], h[9]]), u16::from_be_bytes([h[8] - 1, h[9]]));
        let check = update16(u16::from_be_bytes([h[10], h[11]]), old, new);
        h[8] -= 1;
        h[10..12].copy_from_slice(&check.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ttl_falls_to_zero_and_the_checksum_stays_right(ttl in 1u8.., id in any::<u16>(), src in any::<[u8; 4]>()) {
            let mut frame = Vec::new();
            let mut header = etherparse::Ipv4Header::new(8, ttl, etherparse::IpNumber(253), src, [10, 0, 0, 1]).unwrap();
            header.identification = id;
            header.header_checksum = header.calc_header_checksum();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
                .write(&mut frame, etherparse::IpNumber(253), &[0; 8])
                .unwrap();
            for left in (0..ttl).rev() {
                let p = parse(&frame, frame.len(), false).unwrap();
                dec_ttl(&mut frame, &p);
                prop_assert_eq!(parse(&frame, frame.len(), false).map(|p| p.ttl), Ok(left));
            }
            let before = frame.clone();
            dec_ttl(&mut frame, &parse(&before, before.len(), false).unwrap());
            prop_assert_eq!(before, frame);
        }
    }

    #[test]
    fn hop_limit_and_addresses() {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 7)
            .udp(1, 2)
            .write(&mut frame, b"x")
            .unwrap();
        let p = parse(&frame, frame.len(), false).unwrap();
        dec_ttl(&mut frame, &p);
        set_macs(&mut frame, Mac([6; 6]), Mac([8; 6]));
        let q = parse(&frame, frame.len(), false).unwrap();
        assert_eq!((q.ttl, q.dst_mac, q.src_mac), (6, Mac([6; 6]), Mac([8; 6])));
    }

    #[test]
    fn a_frame_that_is_not_ip_keeps_its_bytes() {
        let mut arp = [0u8; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        let p = parse(&arp, arp.len(), false).unwrap();
        let before = arp;
        dec_ttl(&mut arp, &p);
        assert_eq!(before, arp);
        set_macs(&mut [], Mac::BROADCAST, Mac::BROADCAST);
    }
}
