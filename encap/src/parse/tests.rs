use super::*;
use crate::checksum;
use etherparse::{IpNumber, PacketBuilder};
use proptest::prelude::*;

fn v4_udp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
        .udp(1000, 53)
        .write(&mut out, payload)
        .unwrap();
    out
}

fn v4_tcp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
        .tcp(1000, 80, 7, 4096)
        .ack(9)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// An IPv6 packet: `next` as first header, `body` behind the fixed header.
fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(&[next, 64]);
    out.extend_from_slice(&[0xfd; 16]);
    out.extend_from_slice(&[0xfc; 16]);
    out.extend_from_slice(body);
    out
}

const TCP_SYN: [u8; 20] = [0, 99, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0];

fn all(frame: &[u8]) -> Result<Parsed, ParseError> {
    parse(frame, frame.len(), false)
}

/// Patches IPv4 bytes and makes the header checksum right again, so that only the lie itself can be found.
fn with_v4(mut frame: Vec<u8>, patch: impl FnOnce(&mut [u8])) -> Vec<u8> {
    patch(&mut frame[14..]);
    let ihl = (usize::from(frame[14] & 15) * 4).clamp(20, frame.len() - 14);
    frame[24..26].fill(0);
    let check = checksum::sum(&frame[14..14 + ihl]).finish();
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Inserts `options` (a multiple of four bytes) behind the fixed IPv4 header.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let out = [&frame[..34], options, &frame[34..]].concat();
    with_v4(out, |ip| {
        ip[0] += options.len() as u8 / 4;
        let total = u16::from_be_bytes([ip[2], ip[3]]) + options.len() as u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
    })
}

#[test]
fn a_plain_udp_packet() {
    let p = all(&v4_udp(b"hello")).unwrap();
    assert_eq!((p.l3, p.l4, p.proto, p.ttl, p.v6, p.frag), (14, 34, 17, 64, false, Frag::None));
    assert_eq!((to_ip(p.src).to_string(), to_ip(p.dst).to_string()), ("10.1.0.1".into(), "10.1.0.2".into()));
    assert_eq!((p.sport, p.dport, p.ip_len, p.l4_len()), (1000, 53, 33, 13));
    assert_eq!(p.src_mac, Mac([2, 0, 0, 0, 0, 1]));
}

#[test]
fn arp_and_strangers_have_no_network_header() {
    for kind in [ethertype::ARP, 0x88b5] {
        let mut frame = vec![2; 60];
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        let p = all(&frame).unwrap();
        assert_eq!((p.ethertype, p.proto, p.l3, p.l4, p.is_ip()), (kind, 0, 14, 14, false));
    }
}

#[test]
fn tags_are_reported_and_not_looked_behind() {
    for kind in [0x8100u16, 0x88a8, 0x9100] {
        let mut frame = v4_udp(b"x");
        frame.splice(12..12, [kind.to_be_bytes()[0], kind.to_be_bytes()[1], 0, 5]);
        let p = all(&frame).unwrap();
        assert_eq!((p.vlan, p.ethertype, p.proto), (true, kind, 0));
    }
}

#[test]
fn link_control_is_named() {
    let mut stp = vec![0; 60];
    stp[12..14].copy_from_slice(&38u16.to_be_bytes());
    assert_eq!(all(&stp), Err(ParseError::L2Control));
    let mut lldp = vec![0; 60];
    lldp[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0x0e]);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(all(&lldp), Err(ParseError::L2Control));
}

#[test]
fn every_prefix_of_a_packet_is_truncated_or_too_long() {
    for frame in [
        v4_tcp(b"abc"),
        v4_udp(b"abc"),
        v6(6, &TCP_SYN),
        v6(60, &[&[6, 0, 1, 4, 0, 0, 0, 0], &TCP_SYN[..]].concat()),
    ] {
        assert!(all(&frame).is_ok());
        for cut in 0..frame.len() {
            let short = all(&frame[..cut]);
            assert!(matches!(short, Err(ParseError::Truncated | ParseError::BadLength)), "{cut}: {short:?}");
            // The same bytes as the head of a longer frame: fine as soon as all headers are there.
            let head = parse(&frame[..cut], frame.len(), false);
            assert!(head == all(&frame) || head == Err(ParseError::Truncated), "{cut}: {head:?}");
        }
    }
}

#[test]
fn ipv4_header_lies() {
    let base = || v4_tcp(b"payload");
    let cases = [
        (with_v4(base(), |ip| ip[0] = 0x65), ParseError::BadVersion),
        (with_v4(base(), |ip| ip[0] = 0x44), ParseError::BadIhl),
        (with_v4(base(), |ip| ip[3] = 19), ParseError::BadLength),
        (with_v4(base(), |ip| ip[2] = 0xff), ParseError::BadLength),
        (with_v4(base(), |ip| ip[2..4].fill(0)), ParseError::BadLength),
        (with_v4(base(), |ip| ip[3] = 39), ParseError::Truncated),
        (with_v4(base(), |ip| ip[20 + 12] = 0x40), ParseError::BadTcpOffset),
        (with_v4(base(), |ip| ip[20 + 12] = 0xf0), ParseError::BadTcpOffset),
        (with_options(&base(), &[131, 7, 4, 10, 0, 0, 9, 0]), ParseError::SourceRoute),
        (with_options(&base(), &[1, 137, 7, 4, 10, 0, 0, 9]), ParseError::SourceRoute),
        (with_options(&base(), &[7, 1, 0, 0]), ParseError::BadLength),
        (with_options(&base(), &[7, 5, 0, 0]), ParseError::BadLength),
        (with_options(&base(), &[1, 1, 1, 7]), ParseError::BadLength),
    ];
    for (n, (frame, error)) in cases.iter().enumerate() {
        assert_eq!(all(frame), Err(*error), "case {n}");
    }
    let mut frame = base();
    frame[24] ^= 1;
    assert_eq!(all(&frame), Err(ParseError::BadChecksum));
}

#[test]
fn ports_are_read_behind_the_options() {
    // Forty option bytes that look like a packet to port 443.
    let mut bait = [1u8; 40];
    bait[2..4].copy_from_slice(&443u16.to_be_bytes());
    bait[0] = 0; // end of options
    let p = all(&with_options(&v4_tcp(b""), &bait)).unwrap();
    assert_eq!((p.l4, p.dport), (74, 80));
}

#[test]
fn udp_length_lies() {
    for (len, ok) in [(0u16, false), (7, false), (8, true), (13, true), (14, false), (65535, false)] {
        let mut frame = v4_udp(b"hello");
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        assert_eq!(all(&frame).err(), (!ok).then_some(ParseError::BadUdpLength), "length {len}");
    }
}

#[test]
fn padding_behind_the_packet_is_not_part_of_it() {
    let mut frame = v4_udp(b"");
    frame.resize(60, 0);
    assert_eq!(all(&frame).map(|p| p.ip_len), Ok(28));
}

#[test]
fn a_super_frame_may_leave_its_length_open() {
    let mut frame = with_v4(v4_udp(b"hello"), |ip| ip[2..4].fill(0));
    frame[38..40].fill(0);
    assert_eq!(parse(&frame, 70_000, true).map(|p| p.ip_len), Ok(69_986));
    assert_eq!(parse(&frame, 70_000, false), Err(ParseError::BadLength));
    let mut frame = v6(6, &TCP_SYN);
    frame[18..20].fill(0);
    assert_eq!(parse(&frame, 80_000, true).map(|p| p.ip_len), Ok(79_986));
}

#[test]
fn ipv4_fragments() {
    let piece = |word: u16, payload: &[u8]| {
        with_v4(v4_tcp(payload), |ip| ip[6..8].copy_from_slice(&word.to_be_bytes()))
    };
    let first = all(&piece(0x2000, &[0; 4])).unwrap();
    assert_eq!((first.frag, first.dport, first.df), (Frag::First, 80, false));
    let later = all(&piece(0x0005, b"")).unwrap();
    assert_eq!((later.frag, later.sport, later.dport, later.tcp_flags), (Frag::Later, 0, 0, 0));
    // RFC 3128: offset 8 would overwrite the TCP flags.
    assert_eq!(all(&piece(0x0001, b"")), Err(ParseError::TinyFragment));
    // RFC 1858: eight bytes of TCP in the first fragment.
    let mut tiny = piece(0x2000, b"");
    tiny.truncate(42);
    let tiny = with_v4(tiny, |ip| ip[3] = 28);
    assert_eq!(all(&tiny), Err(ParseError::TinyFragment));
    // A first fragment whose TCP options are in the second one.
    assert_eq!(all(&with_v4(piece(0x2000, &[0; 4]), |ip| ip[32] = 0xf0)), Err(ParseError::TinyFragment));
    // Reaches past 65,535; not a multiple of eight; empty.
    assert_eq!(all(&piece(0x1fff, &[0; 8])), Err(ParseError::BadLength));
    assert_eq!(all(&piece(0x2000, &[0; 3])), Err(ParseError::BadLength));
    let empty = with_v4(piece(0x0002, b""), |ip| ip[3] = 20);
    assert_eq!(all(&empty), Err(ParseError::TinyFragment));
}

#[test]
fn ipv6_extension_chains() {
    let opts = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let good = v6(0, &[&opts(60)[..], &opts(44), &[6, 0, 0, 0, 0, 0, 0, 9], &TCP_SYN].concat());
    let p = all(&good).unwrap();
    assert_eq!((p.proto, p.l4, p.dport, p.frag, p.frag_id), (6, 78, 80, Frag::None, 9));

    let twenty: Vec<u8> = (0..20).flat_map(|n| opts(if n == 19 { 6 } else { 60 })).chain(TCP_SYN).collect();
    let rh = |kind: u8, left: u8| [&[6, 2, kind, left][..], &[0; 20], &TCP_SYN].concat();
    let frag = |word: u16, next: u8| [next, 0, word.to_be_bytes()[0], word.to_be_bytes()[1], 0, 0, 0, 9];
    let huge = [&[6, 200, 1, 4][..], &[0; 2000]].concat();
    let cases = [
        (v6(60, &twenty), ParseError::BadExtension),
        (v6(60, &huge), ParseError::BadExtension),
        (v6(43, &rh(0, 1)), ParseError::BadExtension),
        (v6(43, &rh(0, 0)), ParseError::BadExtension),
        (v6(43, &rh(4, 1)), ParseError::SourceRoute),
        (v6(59, &[]), ParseError::BadExtension),
        (v6(60, &opts(59)), ParseError::BadExtension),
        (v6(60, &[&opts(0)[..], &opts(6), &TCP_SYN].concat()), ParseError::BadExtension),
        (v6(0, &[&[6, 0, 0xc2, 4, 0, 1, 0, 0][..], &TCP_SYN].concat()), ParseError::BadExtension),
        (v6(0, &[&[6, 0, 5, 9, 0, 0, 0, 0][..], &TCP_SYN].concat()), ParseError::BadExtension),
        (v6(60, &opts(6)[..7]), ParseError::Truncated),
        (v6(60, &[6, 3, 1, 4, 0, 0, 0, 0]), ParseError::Truncated),
        (v6(44, &[&frag(1, 44)[..], &frag(1, 6), &TCP_SYN, &[0; 4]].concat()), ParseError::BadExtension),
        (v6(44, &[&frag(1, 6)[..], &TCP_SYN].concat()), ParseError::BadExtension),
        (v6(44, &[&frag(0xfff8, 17)[..], &[0; 8]].concat()), ParseError::BadExtension),
        (v6(44, &frag(16, 17)), ParseError::TinyFragment),
        (v6(44, &[&frag(8, 6)[..], &[0; 8]].concat()), ParseError::TinyFragment),
        (v6(44, &[&frag(1, 6)[..], &[0; 8]].concat()), ParseError::TinyFragment),
        (v6(44, &frag(1, 60)[..]), ParseError::TinyFragment),
        (v6(44, &[&frag(1, 60)[..], &[6, 1, 1, 4, 0, 0, 0, 0]].concat()), ParseError::TinyFragment),
    ];
    for (n, (frame, error)) in cases.iter().enumerate() {
        assert_eq!(all(frame), Err(*error), "case {n}");
    }
    assert!(all(&v6(43, &rh(4, 0))).is_ok());
    let first = all(&v6(44, &[&frag(1, 6)[..], &TCP_SYN, &[0; 4]].concat())).unwrap();
    assert_eq!((first.frag, first.dport), (Frag::First, 80));
    let later = all(&v6(44, &[&frag(0x40, 60)[..], &[0xff; 8]].concat())).unwrap();
    assert_eq!((later.frag, later.proto, later.dport), (Frag::Later, 60, 0));
    let mut version = v6(6, &TCP_SYN);
    version[14] = 0x45;
    assert_eq!(all(&version), Err(ParseError::BadVersion));
    // An IPv6 packet that would pass for 10.0.0.1.
    let mut mapped = v6(6, &TCP_SYN);
    mapped[22..38].copy_from_slice(&from_ip(Ipv4Addr::new(10, 0, 0, 1).into()).to_be_bytes());
    assert_eq!(all(&mapped), Err(ParseError::BadVersion));
    let mut long = v6(6, &TCP_SYN);
    long[19] += 1;
    assert_eq!(all(&long), Err(ParseError::BadLength));
}

#[test]
fn icmp_is_told_by_type_and_echo_by_identifier() {
    let mut frame = Vec::new();
    let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
    builder().icmpv4_echo_request(77, 1).write(&mut frame, b"x").unwrap();
    assert_eq!(all(&frame).map(|p| (p.sport, p.dport)), Ok((0x0800, 77)));
    frame[34] = 3;
    frame[35] = 4;
    assert_eq!(all(&frame).map(|p| (p.sport, p.dport)), Ok((0x0304, 0)));
    assert_eq!(all(&v6(58, &[129, 0, 0, 0, 1, 2, 0, 0])).map(|p| (p.sport, p.dport)), Ok((0x8100, 0x0102)));
    assert_eq!(all(&v6(58, &[129, 0, 0, 0])), Err(ParseError::Truncated));
}

#[test]
fn sctp_has_ports_and_esp_has_none() {
    let body = [0, 5, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(all(&v6(132, &body)).map(|p| (p.sport, p.dport)), Ok((5, 6)));
    assert_eq!(all(&v6(132, &body[..11])), Err(ParseError::Truncated));
    for proto in [50, 51, 4, 41, 47] {
        assert_eq!(all(&v6(proto, &body)).map(|p| (p.proto, p.sport, p.dport)), Ok((proto, 0, 0)));
    }
}

#[test]
fn addresses_round_trip() {
    for text in ["10.0.0.1", "0.0.0.0", "fd00::1", "::", "::1"] {
        let ip: IpAddr = text.parse().unwrap();
        assert_eq!(to_ip(from_ip(ip)), ip);
    }
    // The mapped form is IPv4, whoever wrote it.
    assert_eq!(to_ip(from_ip("::ffff:10.0.0.1".parse().unwrap())).to_string(), "10.0.0.1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), total in 0usize..70_000, gso: bool,
                                kind in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100])) {
        let _ = parse(&bytes, total, gso);
        let mut bytes = bytes;
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            bytes[14] = if kind == 0x0800 { 0x40 | bytes[14] & 15 } else { 0x60 };
            if kind == 0x0800 && bytes.len() > 34 {
                bytes = with_v4(bytes, |_| {});
            }
            if let Ok(p) = parse(&bytes, bytes.len(), gso) {
                prop_assert!(p.l3 <= p.l4 && usize::from(p.l4) <= bytes.len());
                prop_assert!(usize::from(p.l3) + p.ip_len as usize <= bytes.len());
                let _ = checksum::verify_l4(&bytes, &p);
                let _ = checksum::fill_l4(&mut bytes, &p);
                crate::rewrite::dec_ttl(&mut bytes, &p);
            }
        }
    }

    #[test]
    fn etherparse_agrees(src: [u8; 4], dst: [u8; 4], src6: [u8; 16], dst6: [u8; 16], ttl: u8, sport: u16, dport: u16,
                         kind in 0u8..3, is6: bool, payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if is6 { eth.ipv6(src6, dst6, ttl) } else { eth.ipv4(src, dst, ttl) };
        let mut frame = Vec::new();
        match kind {
            0 => ip.udp(sport, dport).write(&mut frame, &payload).unwrap(),
            1 => ip.tcp(sport, dport, 1, 2).syn().write(&mut frame, &payload).unwrap(),
            _ => ip.write(&mut frame, IpNumber(253), &payload).unwrap(),
        }
        let p = all(&frame).unwrap();
        let ports = if kind == 2 { (0, 0) } else { (sport, dport) };
        let proto = [17, 6, 253][usize::from(kind)];
        prop_assert_eq!((p.v6, p.proto, p.ttl, (p.sport, p.dport)), (is6, proto, ttl, ports));
        let (s, d) = if is6 { (from_ip(src6.into()), from_ip(dst6.into())) } else { (mapped(src.into()), mapped(dst.into())) };
        prop_assert_eq!((p.src, p.dst), (s, d));
        prop_assert_eq!(usize::from(p.l3) + p.ip_len as usize, frame.len());
        prop_assert_eq!(p.tcp_flags, if kind == 1 { 2 } else { 0 });
        prop_assert!(checksum::verify_l4(&frame, &p));
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        prop_assert!(sliced.net.is_some());
    }

    #[test]
    fn etherparse_agrees_behind_options_and_extensions(
        words in 0usize..=10, chain in prop::collection::vec((0u8..2, 0usize..4), 0..5), fragment: Option<u32>, is6: bool,
        dport: u16, payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let udp = [&[0, 7][..], &dport.to_be_bytes(), &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], &payload].concat();
        let frame = if is6 {
            // Innermost first: each header names what was built so far.
            let (mut next, mut body) = (17u8, udp);
            if let Some(id) = fragment {
                body = [&[next, 0, 0, 0][..], &id.to_be_bytes(), &body].concat();
                next = 44;
            }
            for &(kind, len) in &chain {
                let mut header = vec![0; 8 + 8 * len];
                (header[0], header[1]) = (next, len as u8);
                if kind == 1 {
                    header[2] = 253; // a routing type nobody knows, with no segments left
                }
                body = [header, body].concat();
                next = [60, 43][usize::from(kind)];
            }
            v6(next, &body)
        } else {
            with_options(&v4_udp(&payload), &vec![1; words * 4])
        };
        let frame = if is6 { frame } else {
            let mut f = frame;
            f[36 + words * 4..38 + words * 4].copy_from_slice(&dport.to_be_bytes());
            f
        };
        let p = all(&frame).unwrap();
        let theirs = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = theirs.transport else { panic!("no UDP found") };
        prop_assert_eq!((p.sport, p.dport), (udp.source_port(), udp.destination_port()));
        prop_assert_eq!(usize::from(p.l4), frame.len() - udp.slice().len());
        prop_assert_eq!((p.frag, p.frag_id != 0), (Frag::None, is6 && fragment.unwrap_or(0) != 0));
    }
}
