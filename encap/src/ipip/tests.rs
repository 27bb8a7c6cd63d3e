use etherparse::{IpNumber, Ipv4Header, Ipv4HeaderSlice, PacketBuilder};
use proptest::prelude::*;

use super::*;

const SRC: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const DST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// An inner packet with this ECN.
fn inner(v6: bool, ecn: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if v6 {
        PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut out, payload).unwrap();
        out[1] = out[1] & 0x0f | (0xc0 | ecn << 4);
        out[0] |= 0x02;
    } else {
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 1], 9).udp(1, 2).write(&mut out, payload).unwrap();
        out[1] = 0x2c | ecn;
        fix(&mut out);
    }
    out
}

fn fix(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::sum(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn wrapped(inner: &[u8]) -> Vec<u8> {
    [&header(inner, inner.len(), SRC, DST).unwrap()[..], inner].concat()
}

#[test]
fn another_reader_sees_the_outer_header() {
    for (v6, df, payload) in [(false, false, 9), (false, true, 9), (true, false, 1232), (true, true, 1233)] {
        let mut packet = inner(v6, 1, &vec![7; payload]);
        if !v6 {
            packet[6] = if df { DF } else { 0 };
            fix(&mut packet);
        }
        let outer = wrapped(&packet);
        let read = Ipv4HeaderSlice::from_slice(&outer).unwrap();
        assert_eq!((read.source_addr(), read.destination_addr()), (SRC, DST));
        assert_eq!((read.ttl(), read.dont_fragment(), read.more_fragments()), (64, df, false));
        assert_eq!(usize::from(read.total_len()), outer.len());
        assert_eq!(read.protocol(), if v6 { IpNumber::IPV6 } else { IpNumber::IPV4 });
        assert_eq!((read.dcp().value(), read.ecn().value()), (0x0b, 1), "traffic class of the inner packet");
        assert_eq!(read.to_header().calc_header_checksum(), read.header_checksum());
        let ethertype = if v6 { 0x86dd } else { 0x0800 };
        assert_eq!(parse(&outer), Ok(Inner { at: 20, ethertype, mark: false }));
    }
}

#[test]
fn an_outer_header_with_options_is_passed_over() {
    let packet = inner(false, 0, b"x");
    let mut header =
        Ipv4Header::new(packet.len() as u16, 9, IpNumber::IPV4, SRC.octets(), DST.octets()).unwrap();
    header.options = [1, 1, 1, 0].into();
    let mut outer = Vec::new();
    header.write(&mut outer).unwrap();
    outer.extend_from_slice(&packet);
    assert_eq!(parse(&outer).map(|i| i.at), Ok(24));
}

#[test]
fn what_is_not_one_packet_in_one_is_refused() {
    let outer = wrapped(&inner(false, 0, b"payload"));
    assert_eq!(parse(&outer[..19]), Err(IpipError::Truncated));
    assert_eq!(parse(&outer[..20]), Err(IpipError::Inner(UdpError::Truncated)));
    assert_eq!(parse(&outer[..outer.len() - 1]), Err(IpipError::Inner(UdpError::Length)));
    assert_eq!(parse(&[&outer[..], &[0]].concat()), Err(IpipError::Inner(UdpError::Length)));
    let changed = |at: usize, to: u8| {
        let mut bytes = outer.clone();
        bytes[at] = to;
        parse(&bytes)
    };
    assert_eq!(changed(0, 0x65), Err(IpipError::NotIpv4));
    assert_eq!(changed(0, 0x44), Err(IpipError::NotIpv4));
    assert_eq!(changed(0, 0x4f), Err(IpipError::Truncated));
    assert_eq!(changed(9, PROTO_IPV6), Err(IpipError::Protocol(41)));
    assert_eq!(changed(20, 0x15), Err(IpipError::Inner(UdpError::Version(1))));
    assert_eq!(header(&[0x45; 19], 19, SRC, DST), None);
    assert_eq!(header(&[0x55; 20], 20, SRC, DST), None);
    assert_eq!(header(&[0x45; 20], 65_516, SRC, DST), None);
}

/// The table of RFC 6040, figure 4, as far as a tunnel that copies the field at its start can meet it.
#[test]
fn congestion_marks_go_on_to_the_inner_packet() {
    for v6 in [false, true] {
        for ecn in 0..4 {
            let mut outer = wrapped(&inner(v6, ecn, b"p"));
            assert_eq!(parse(&outer).map(|i| i.mark), Ok(false));
            outer[1] |= CE;
            let got = parse(&outer);
            match ecn {
                0 => assert_eq!(got, Err(IpipError::Congestion)),
                3 => assert_eq!(got.map(|i| i.mark), Ok(false)),
                _ => {
                    assert_eq!(got.map(|i| i.mark), Ok(true));
                    mark(&mut outer[20..]);
                    assert_eq!(outer[20..], inner(v6, 3, b"p"), "only the mark differs");
                }
            }
        }
    }
    mark(&mut [0; 3]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(found) = parse(&bytes) {
            prop_assert!(found.at >= IPIP_LEN && found.at < bytes.len());
            mark(&mut bytes.clone()[found.at..]);
        }
    }

    #[test]
    fn what_is_wrapped_is_found(payload in prop::collection::vec(any::<u8>(), 0..80), v6: bool, ecn in 0u8..4) {
        let packet = inner(v6, ecn, &payload);
        let outer = wrapped(&packet);
        let found = parse(&outer).unwrap();
        prop_assert_eq!(&outer[found.at..], &packet[..]);
    }
}
