//! What was in a dead worker's hands, made such that it can be taken in once more.
//!
//! A packet may have been on its way through the pipeline already, with new MAC addresses, a lower TTL and its checksum
//! filled in. What the way in checks or counts on is set right here; that the TTL may be lower by one is all that shows.
//! Whose a frame is was noted when it was read, so nothing is believed that was not checked then.

use encap::{ETH_LEN, Form, Frame, Mac, VnetHdr};

use crate::snapshot::{GATEWAY_MAC, Port};
use crate::uplink::RecvMeta;

const IPV4: [u8; 2] = [8, 0];

/// The number that stands for a port: its interface's MAC address, which it keeps over restarts.
#[must_use]
pub fn source(port: &Port) -> u64 {
    let [a, b, c, d, e, f] = port.mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// A frame of `port`, as it was when it was read. `frame.vnet` is what came with it.
pub fn from_port(port: &Port, frame: &mut Frame) {
    let vnet = frame.vnet;
    fill_inner_v4(frame.data_mut());
    let Ok(p) = encap::parse::parse(frame.data(), frame.len(), vnet.is_gso()) else { return };
    let data = frame.data_mut();
    if p.is_ip() && !Mac([data[0]; 6]).is_multicast() {
        encap::rewrite::set_macs(data, GATEWAY_MAC, port.mac);
    }
    if vnet.flags & VnetHdr::NEEDS_CSUM != 0 {
        // Only the pseudo-header's sum belongs there, whether or not the rest was added to it.
        let len = p.ip_len.saturating_sub(u32::from(p.l4 - p.l3));
        let sum = !encap::checksum::pseudo(&p, len).finish();
        let at = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
        if let Some(field) = data.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// The buffer of a socket of this form, as it was when it was received; `vtep` is this node's.
pub fn from_uplink(form: Form, frame: &mut Frame, meta: &mut RecvMeta, vtep: Mac) {
    let len = frame.len();
    let data = frame.data_mut();
    match form {
        Form::Vxlan => {
            let stride = if meta.stride == 0 { len } else { meta.stride };
            for datagram in data.chunks_mut(stride.max(1)) {
                let Some(inner) = datagram.get_mut(encap::vxlan::VXLAN_LEN..) else { continue };
                if let Some(mac) = inner.first_chunk_mut() {
                    *mac = vtep.0;
                }
                fill_inner_v4(inner);
            }
        }
        Form::Udp => bare(frame, meta),
        Form::Ipip => {
            // An Ethernet header lies over the end of the outer header; of that, the protocol is looked at.
            let inner = data.first().map_or(0, |first| usize::from(first & 0xf) * 4);
            let protocol = data.get(inner).map_or(0, |first| if first >> 4 == 6 { 41 } else { 4 });
            if let Some(field) = data.get_mut(9) {
                *field = protocol;
            }
            if protocol == 4 && data.len() > inner {
                fill_v4(&mut data[inner..]);
            }
        }
    }
}

/// Packets of flannel's form are laid out anew with Ethernet headers; here they lose them.
fn bare(frame: &mut Frame, meta: &mut RecvMeta) {
    let laid_out = frame.data().get(ETH_LEN - 2..ETH_LEN) == Some(&IPV4) && frame.data()[0] == 0;
    let mut bytes = Vec::with_capacity(frame.len());
    let mut rest = frame.data();
    while laid_out && let Some(&[high, low]) = rest.get(ETH_LEN + 2..ETH_LEN + 4) {
        let end = ETH_LEN + usize::from(u16::from_be_bytes([high, low]));
        let Some(packet) = rest.get(ETH_LEN..end) else { break };
        let at = bytes.len();
        bytes.extend_from_slice(packet);
        fill_v4(&mut bytes[at..]);
        rest = &rest[end..];
    }
    if laid_out {
        frame.copy_from(&bytes);
        meta.len = bytes.len();
    }
}

/// Fills in the checksum of an IPv4 header, which was right when the packet was read.
fn fill_v4(packet: &mut [u8]) {
    let len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = encap::checksum::sum(header).finish();
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
    use std::sync::Arc;

    use encap::{LARGE, finish_checksum};
    use etherparse::PacketBuilder;

    use super::*;
    use crate::counters::port_stats;
    use crate::port::Offloads;
    use crate::port::mem::pair;
    use crate::snapshot::PortKind;

    const VTEP: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn port() -> Port {
        Port {
            id: 1,
            name: "ns/pod".to_owned(),
            kind: PortKind::Pod,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            v4: None,
            v6: None,
            mtu: 1500,
            tx: Arc::new(pair(Offloads::default(), 1).1),
            stats: port_stats(1),
        }
    }

    /// A UDP packet of the port's, as its pod's kernel hands it over: only the pseudo-header is summed.
    fn sent(port: &Port, v6: bool) -> Frame {
        let eth = PacketBuilder::ethernet2(port.mac.0, GATEWAY_MAC.0);
        let mut bytes = Vec::new();
        let built = match v6 {
            false => eth.ipv4([10, 0, 0, 1], [10, 0, 1, 1], 64).udp(1, 2).write(&mut bytes, b"payload"),
            true => eth.ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut bytes, b"payload"),
        };
        built.unwrap();
        let mut frame = frame(&bytes);
        let p = encap::parse::parse(&bytes, bytes.len(), false).unwrap();
        let l4 = usize::from(p.l4);
        let sum = !encap::checksum::pseudo(&p, 15).finish();
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
        let p = encap::parse::parse(frame.data(), frame.len(), false).unwrap();
        encap::rewrite::set_macs(frame.data_mut(), OTHER, VTEP);
        encap::rewrite::dec_ttl(frame.data_mut(), &p);
        let vnet = frame.vnet;
        finish_checksum(frame.data_mut(), &vnet).unwrap();
    }

    /// The bytes, but for the TTL that is one less and the IPv4 checksum that goes with it.
    fn but_for_ttl(frame: &Frame) -> Vec<u8> {
        let p = encap::parse::parse(frame.data(), frame.len(), false).unwrap();
        let mut bytes = frame.data().to_vec();
        let l3 = usize::from(p.l3);
        if p.v6 {
            bytes[l3 + 7] = 0;
        } else {
            assert_eq!(
                encap::checksum::sum(&bytes[l3..l3 + 20]).finish(),
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
        let port = port();
        for v6 in [false, true] {
            let fresh = sent(&port, v6);
            for steps in 0..3 {
                let mut again = sent(&port, v6);
                let vnet = again.vnet;
                if steps > 0 {
                    carry(&mut again);
                }
                if steps > 1 && !v6 {
                    // Died between the TTL and its checksum.
                    again.data_mut()[14 + 8] -= 1;
                }
                again.vnet = vnet;
                from_port(&port, &mut again);
                assert_eq!(but_for_ttl(&again), but_for_ttl(&fresh), "v6 {v6}, {steps}");
                let p = encap::parse::parse(again.data(), again.len(), false).unwrap();
                finish_checksum(again.data_mut(), &vnet).unwrap();
                assert!(encap::checksum::verify_l4(again.data(), &p));
            }
        }
    }

    #[test]
    fn what_was_never_rewritten_stays() {
        let arp = [&[0xff; 6][..], &port().mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 32]].concat();
        let mut again = frame(&arp);
        from_port(&port(), &mut again);
        assert_eq!(again.data(), arp);
        for len in 0..80 {
            from_port(&port(), &mut frame(&vec![0x45; len]));
            for form in Form::ALL {
                let mut meta = RecvMeta { len, ..RecvMeta::default() };
                from_uplink(form, &mut frame(&vec![0x45; len]), &mut meta, VTEP);
            }
        }
    }

    #[test]
    fn every_datagram_of_a_vxlan_train_is_for_this_node_again() {
        let mut one = sent(&port(), false);
        encap::rewrite::set_macs(one.data_mut(), VTEP, OTHER);
        let datagram = [&[8, 0, 0, 0, 0, 0, 1, 0], one.data()].concat();
        let fresh = datagram.repeat(3);
        let mut train = fresh.clone();
        for datagram in train.chunks_mut(datagram.len()).take(2) {
            let inner = &mut datagram[8..];
            let p = encap::parse::parse(inner, inner.len(), false).unwrap();
            encap::rewrite::set_macs(inner, Mac([6; 6]), GATEWAY_MAC);
            encap::rewrite::dec_ttl(inner, &p);
        }
        let mut again = frame(&train);
        let mut meta = RecvMeta { len: train.len(), stride: datagram.len(), ..RecvMeta::default() };
        from_uplink(Form::Vxlan, &mut again, &mut meta, VTEP);
        assert_eq!((again.len(), meta.len), (train.len(), train.len()));
        for datagram in again.data().chunks(datagram.len()) {
            assert_eq!(datagram[8..14], VTEP.0);
            let inner = frame(&datagram[8..]);
            assert_eq!(but_for_ttl(&inner)[12..], but_for_ttl(&one)[12..]);
        }
    }

    #[test]
    fn bare_packets_lose_the_headers_they_were_given() {
        let one = sent(&port(), false);
        let packet = &one.data()[ETH_LEN..];
        let fresh = packet.repeat(2);
        let laid_out = [&[0; 12][..], &IPV4, packet].concat().repeat(2);
        for bytes in [&fresh, &laid_out] {
            let mut again = frame(bytes);
            let mut meta = RecvMeta { len: fresh.len(), stride: packet.len(), ..RecvMeta::default() };
            from_uplink(Form::Udp, &mut again, &mut meta, VTEP);
            assert_eq!((again.data(), meta.len), (&fresh[..], fresh.len()));
        }
    }

    #[test]
    fn an_outer_header_that_was_laid_over_is_one_again() {
        let one = sent(&port(), false);
        let packet = &one.data()[ETH_LEN..];
        let mut outer = [0; 20];
        let (len, ends) = ((20 + packet.len()) as u16, [[192, 0, 2, 1], [192, 0, 2, 2]]);
        outer[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
        outer[8..10].copy_from_slice(&[64, 4]);
        outer[12..16].copy_from_slice(&ends[0]);
        outer[16..].copy_from_slice(&ends[1]);
        let fresh = [&outer[..], packet].concat();
        let mut laid_over = fresh.clone();
        laid_over[6..20].copy_from_slice(&encap::udp::ethernet(Mac([3; 6]), GATEWAY_MAC, 0x0800));
        let mut again = frame(&laid_over);
        let mut meta = RecvMeta { len: fresh.len(), ..RecvMeta::default() };
        from_uplink(Form::Ipip, &mut again, &mut meta, VTEP);
        let inner = encap::ipip::parse(again.data()).unwrap();
        assert_eq!(&again.data()[inner.at..], packet);
    }
}
