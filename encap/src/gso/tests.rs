use super::*;
use crate::parse::Frag;
use etherparse::{PacketBuilder, SlicedPacket};
use proptest::prelude::*;

/// A super-frame as a TAP gives it: headers for the whole, the checksum field holding the folded pseudo-header sum.
pub(crate) fn super_frame(v6: bool, tcp: bool, flags: u8, payload: &[u8], size: u16) -> (Vec<u8>, VnetHdr) {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip =
        if v6 { eth.ipv6([0xfd; 16], [0xfc; 16], 64) } else { eth.ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64) };
    let mut frame = Vec::new();
    if tcp {
        let options = [1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4];
        ip.tcp(5000, 443, 0xffff_ff00, 500)
            .ack(77)
            .options_raw(&options)
            .unwrap()
            .write(&mut frame, payload)
            .unwrap();
    } else {
        ip.udp(5000, 443).write(&mut frame, payload).unwrap();
    }
    let p = parse::parse(&frame, frame.len(), true).unwrap();
    let (l4, offset) = (usize::from(p.l4), if tcp { 16 } else { 6 });
    if tcp {
        frame[l4 + 13] = flags;
    }
    let partial = checksum::pseudo(&p, p.l4_len()).fold();
    frame[l4 + offset..l4 + offset + 2].copy_from_slice(&partial.to_be_bytes());
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: match (tcp, v6) {
            (true, false) => VnetHdr::GSO_TCPV4,
            (true, true) => VnetHdr::GSO_TCPV6,
            (false, _) => VnetHdr::GSO_UDP_L4,
        },
        hdr_len: (frame.len() - payload.len()) as u16,
        gso_size: size,
        csum_start: p.l4,
        csum_offset: offset as u16,
    };
    (frame, vnet)
}

/// Glues the segments together again, each with its headers.
pub(crate) fn packets(seg: &Segmenter, frame: &[u8]) -> Vec<Vec<u8>> {
    let range = |(a, b): (u32, u32)| a as usize..b as usize;
    seg.segs().iter().map(|s| [&seg.arena()[range(s.head)], &frame[range(s.body)]].concat()).collect()
}

/// Somebody else's opinion on a packet: lengths and checksums of all layers. Returns the payload.
fn smoltcp_accepts(packet: &[u8]) -> &[u8] {
    use smoltcp::wire::*;
    let eth = EthernetFrame::new_checked(packet).unwrap();
    let (src, dst, proto, l4): (IpAddress, IpAddress, _, _) = match eth.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(&packet[14..]).unwrap();
            assert!(ip.verify_checksum(), "IPv4 header checksum");
            assert_eq!(usize::from(ip.total_len()), packet.len() - 14);
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), &packet[34..])
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(&packet[14..]).unwrap();
            assert_eq!(usize::from(ip.payload_len()), packet.len() - 54);
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), &packet[54..])
        }
        other => panic!("{other}"),
    };
    match proto {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(l4).unwrap();
            assert!(tcp.verify_checksum(&src, &dst), "TCP checksum");
            &l4[usize::from(tcp.header_len())..]
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(l4).unwrap();
            assert_ne!(udp.checksum(), 0);
            assert!(udp.verify_checksum(&src, &dst), "UDP checksum");
            assert_eq!(usize::from(udp.len()), l4.len());
            &l4[8..]
        }
        other => panic!("{other}"),
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_full_super_frame_of_each_kind() {
    for (v6, tcp, n) in
        [(false, true, 65_000), (true, true, 65_000), (false, false, 60_000), (true, false, 5_000)]
    {
        let payload = bytes(n);
        let (frame, vnet) = super_frame(v6, tcp, 0x99, &payload, 1398);
        let prefix = [8, 0, 0, 0, 0, 0, 1, 0];
        let mut seg = Segmenter::new();
        seg.split(&frame, &vnet, &prefix).unwrap();
        let out = packets(&seg, &frame);
        assert_eq!(out.len(), n.div_ceil(1398));
        let mut whole = Vec::new();
        for (i, packet) in out.iter().enumerate() {
            let (front, packet) = packet.split_at(8);
            assert_eq!(front, prefix);
            whole.extend_from_slice(smoltcp_accepts(packet));
            let p = parse::parse(packet, packet.len(), false).unwrap();
            assert_eq!((p.sport, p.dport, p.frag), (5000, 443, Frag::None));
            let last = i + 1 == out.len();
            if !v6 {
                assert_eq!(p.frag_id, i as u32);
            }
            if tcp {
                let l4 = &packet[usize::from(p.l4)..];
                let seq = u32::from_be_bytes(l4[4..8].try_into().unwrap());
                assert_eq!(seq, 0xffff_ff00u32.wrapping_add(i as u32 * 1398));
                let flags = 0x10 | if i == 0 { 0x80 } else { 0 } | if last { 0x09 } else { 0 };
                assert_eq!(p.tcp_flags, flags, "segment {i}");
                assert_eq!(l4[20..32], [1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
            }
        }
        assert_eq!(whole, payload);
    }
}

#[test]
fn options_and_extensions_are_repeated_in_every_segment() {
    let payload = bytes(5000);
    // Four bytes of IPv4 options.
    let (mut v4, mut vnet) = super_frame(false, true, 0x18, &payload, 1000);
    v4.splice(34..34, [1, 1, 1, 0]);
    v4[14] = 0x46;
    v4[16..18].copy_from_slice(&(56 + 5000u16).to_be_bytes());
    v4[24..26].fill(0);
    let check = checksum::sum(&v4[14..38]).finish();
    v4[24..26].copy_from_slice(&check.to_be_bytes());
    vnet.csum_start = 38;
    // A destination options header.
    let (mut v6, mut vnet6) = super_frame(true, false, 0, &payload, 1000);
    v6.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    v6[18..20].copy_from_slice(&(16 + 5000u16).to_be_bytes());
    v6[20] = 60;
    vnet6.csum_start = 62;
    for (frame, vnet) in [(v4, vnet), (v6, vnet6)] {
        let mut seg = Segmenter::new();
        seg.split(&frame, &vnet, &[]).unwrap();
        let out = packets(&seg, &frame);
        assert_eq!(out.len(), 5);
        for packet in &out {
            let p = parse::parse(packet, packet.len(), false).unwrap();
            assert_eq!((p.l4, p.dport), (vnet.csum_start, 443));
            assert!(checksum::verify_l4(packet, &p));
        }
        assert_eq!(
            seg.split(&frame, &VnetHdr { csum_start: vnet.csum_start - 4, ..vnet }, &[]),
            Err(VnetError::Mismatch.into())
        );
    }
}

#[test]
fn an_open_checksum_is_finished_in_place_and_in_a_copy() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let (mut frame, vnet) = super_frame(v6, tcp, 0x18, b"odd payload", 1400);
        let plain = VnetHdr { gso_type: 0, gso_size: 0, ..vnet };
        let mut seg = Segmenter::new();
        seg.append(&frame, &plain, b"pre", 0).unwrap();
        seg.append(&frame, &plain, &[], 14).unwrap();
        let out = packets(&seg, &frame);
        finish_checksum(&mut frame, &plain).unwrap();
        assert_eq!(smoltcp_accepts(&frame), b"odd payload");
        assert_eq!(out, [[&b"pre"[..], &frame].concat(), frame[14..].to_vec()]);
        assert_eq!(finish_checksum(&mut frame, &vnet), Err(GsoError::SuperFrame));
    }
}

#[test]
fn a_complete_frame_is_one_segment_in_place() {
    let mut seg = Segmenter::new();
    seg.split(b"anything", &VnetHdr::default(), b"").unwrap();
    assert_eq!(seg.segs(), [Seg { head: (0, 0), body: (0, 8) }]);
    seg.split(b"anything", &VnetHdr::default(), b"p").unwrap();
    assert_eq!((seg.segs()[0].len(), seg.segs()[0].is_empty()), (9, false));
    assert_eq!(seg.append(b"short", &VnetHdr::default(), b"", 6), Err(GsoError::Truncated));
    assert_eq!(seg.segs().len(), 1);
}

#[test]
fn the_arena_stays_where_it_is() {
    let (frame, vnet) = super_frame(true, true, 0x10, &bytes(65_000), 1398);
    let mut seg = Segmenter::new();
    let place = |s: &Segmenter| (s.arena.as_ptr(), s.arena.capacity(), s.segs.as_ptr(), s.segs.capacity());
    let before = place(&seg);
    for _ in 0..3 {
        seg.split(&frame, &vnet, b"12345678").unwrap();
    }
    assert_eq!((seg.segs().len(), place(&seg)), (47, before));
}

#[test]
fn bare_ip_leaves_the_ethernet_header_out() {
    let (frame, vnet) = super_frame(false, true, 0x10, &bytes(3000), 1400);
    let mut seg = Segmenter::new();
    seg.append(&frame, &vnet, &[], 14).unwrap();
    for packet in packets(&seg, &frame) {
        assert_eq!(crate::udp::check(&packet), Ok(0x0800));
        smoltcp_accepts(&[&frame[..14], &packet].concat());
    }
    assert_eq!(seg.append(&frame, &vnet, &[], 15), Err(GsoError::Truncated));
    assert_eq!(seg.segs().len(), 3);
}

#[test]
fn lies_are_named_and_leave_no_segment() {
    let (frame, vnet) = super_frame(false, true, 0x10, &bytes(3000), 1400);
    let mut seg = Segmenter::new();
    let mut refused = |frame: &[u8], vnet: VnetHdr| {
        let error = seg.split(frame, &vnet, &[]).unwrap_err();
        assert!(seg.segs().is_empty() && seg.arena().is_empty());
        error
    };
    assert_eq!(refused(&frame, VnetHdr { gso_size: 1, ..vnet }), GsoError::TooManySegments(3000));
    assert_eq!(refused(&frame, VnetHdr { gso_size: 0, ..vnet }), GsoError::Vnet(VnetError::GsoSize(0)));
    assert_eq!(refused(&frame, VnetHdr { gso_type: 4, ..vnet }), GsoError::Vnet(VnetError::Mismatch));
    assert_eq!(refused(&frame, VnetHdr { csum_start: 35, ..vnet }), GsoError::Vnet(VnetError::Mismatch));
    assert_eq!(refused(&frame[..100], vnet), GsoError::Parse(ParseError::BadLength));
    let plain = VnetHdr { gso_type: 0, gso_size: 0, csum_start: 3030, ..vnet };
    assert_eq!(
        refused(&frame, VnetHdr { csum_start: 3060, ..plain }),
        GsoError::Vnet(VnetError::CsumField(3060, 16))
    );
    assert_eq!(finish_checksum(&mut [0; 20], &plain), Err(GsoError::Vnet(VnetError::HdrLen(66))));
    // IPv6 with an open length may be longer than a segment can be.
    let (mut big, vnet) = super_frame(true, false, 0, &[0; 8], 65_534);
    big.resize(80_000, 0);
    big[18..20].fill(0);
    big[58..60].fill(0);
    assert_eq!(refused(&big, vnet), GsoError::SegmentSize(65_534));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn segments_carry_the_payload_whole(v6: bool, tcp: bool, n in 0usize..20_000, size in 20u16..3000) {
        let payload = bytes(n);
        let (frame, vnet) = super_frame(v6, tcp, 0x18, &payload, size);
        let mut seg = Segmenter::new();
        seg.split(&frame, &vnet, &[]).unwrap();
        let mut whole = Vec::new();
        for packet in packets(&seg, &frame) {
            whole.extend_from_slice(smoltcp_accepts(&packet));
            prop_assert!(SlicedPacket::from_ethernet(&packet).is_ok());
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn random_headers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), h: [u8; 10], strip in 0usize..40,
                                  is6: bool, tcp: bool, at in any::<prop::sample::Index>(), value: u8) {
        let mut seg = Segmenter::new();
        let wild = VnetHdr::parse(&h).unwrap();
        let _ = seg.append(&bytes, &wild, b"12345678", strip);
        let _ = finish_checksum(&mut bytes.clone(), &wild);
        // A good frame with one byte changed, and a good header with a wild one mixed in.
        let (mut frame, vnet) = super_frame(is6, tcp, 0x18, &bytes, 100);
        let len = frame.len();
        frame[at.index(len)] = value;
        let _ = seg.append(&frame, &vnet, b"12345678", strip);
        let _ = seg.append(&frame, &VnetHdr { csum_start: wild.csum_start % 100, ..vnet }, b"", strip);
        let _ = seg.append(&frame, &VnetHdr { gso_size: wild.gso_size, ..vnet }, b"", strip);
    }
}
