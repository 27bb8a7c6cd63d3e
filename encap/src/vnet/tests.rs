use super::*;
use crate::gso::finish_checksum;
use crate::parse::parse;
use proptest::prelude::*;

const TSO: VnetHdr =
    VnetHdr { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1398, csum_start: 34, csum_offset: 16 };

#[test]
fn ten_bytes_little_endian() {
    let mut out = [0xaa; 12];
    TSO.emit(&mut out);
    assert_eq!(out, [1, 1, 54, 0, 0x76, 0x05, 34, 0, 16, 0, 0xaa, 0xaa]);
    assert_eq!(VnetHdr::parse(&out), Some(TSO));
    assert_eq!(VnetHdr::parse(&out[..9]), None);
}

#[test]
fn the_tunnel_form_has_its_offsets_at_the_end() {
    let hdr =
        VnetHdr { flags: 9, gso_type: 0x21, hdr_len: 104, gso_size: 1400, csum_start: 84, csum_offset: 16 };
    let mut out = [0xff; 24];
    hdr.emit_tunnel(34, 64, &mut out);
    assert_eq!(VnetHdr::parse(&out), Some(hdr));
    assert_eq!(out[10..20], [0; 10]);
    assert_eq!(out[20..], [34, 0, 64, 0]);
}

#[test]
fn honest_headers_pass() {
    assert_eq!(VnetHdr::default().check(0), Ok(()));
    assert_eq!(TSO.check(65_000), Ok(()));
    assert_eq!(VnetHdr { gso_type: VnetHdr::GSO_TCPV4 | VnetHdr::GSO_ECN, ..TSO }.check(65_000), Ok(()));
    assert_eq!(VnetHdr { gso_type: 5, csum_offset: 6, ..TSO }.check(9_000), Ok(()));
    assert_eq!(VnetHdr { gso_type: 0, gso_size: 0, ..TSO }.check(54), Ok(()));
    assert_eq!(VnetHdr { flags: VnetHdr::DATA_VALID, ..VnetHdr::default() }.check(60), Ok(()));
}

#[test]
fn every_lie_has_its_name() {
    let cases = [
        (VnetHdr { gso_size: 0, ..TSO }, VnetError::GsoSize(0)),
        (VnetHdr { gso_size: u16::MAX, ..TSO }, VnetError::GsoSize(u16::MAX)),
        (VnetHdr { gso_type: 2, ..TSO }, VnetError::GsoType(2)),
        (VnetHdr { gso_type: VnetHdr::GSO_UDP, ..TSO }, VnetError::GsoType(3)),
        (VnetHdr { gso_type: 0x21, ..TSO }, VnetError::GsoType(0x21)),
        (VnetHdr { gso_type: VnetHdr::GSO_ECN, ..TSO }, VnetError::GsoType(0x80)),
        (VnetHdr { flags: 0, ..TSO }, VnetError::GsoChecksum),
        (VnetHdr { flags: 0x41, ..TSO }, VnetError::Flags(0x41)),
        (VnetHdr { hdr_len: 13, ..TSO }, VnetError::HdrLen(13)),
        (VnetHdr { hdr_len: 2001, ..TSO }, VnetError::HdrLen(2001)),
        (VnetHdr { csum_start: 13, ..TSO }, VnetError::CsumField(13, 16)),
        (VnetHdr { csum_start: 1983, ..TSO }, VnetError::CsumField(1983, 16)),
        (
            VnetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..TSO },
            VnetError::CsumField(u16::MAX, u16::MAX),
        ),
        (VnetHdr { csum_offset: 6, ..TSO }, VnetError::CsumField(34, 6)),
        (VnetHdr { csum_start: 1981, ..TSO }, VnetError::CsumField(1981, 16)),
    ];
    for (hdr, error) in cases {
        assert_eq!(hdr.check(2000), Err(error), "{hdr:?}");
    }
}

#[test]
fn a_checksum_field_outside_the_packet_s_own_is_a_lie() {
    let p = Parsed { proto: 6, l3: 14, l4: 34, ip_len: 1000, ..Parsed::default() };
    let csum = VnetHdr { gso_type: 0, gso_size: 0, ..TSO };
    assert_eq!(csum.agrees(&p), Ok(()));
    assert_eq!(TSO.agrees(&p), Ok(()));
    // Would overwrite the destination port of the packet just judged.
    assert_eq!(VnetHdr { csum_offset: 2, ..csum }.agrees(&p), Err(VnetError::Mismatch));
    assert_eq!(VnetHdr { csum_start: 14, csum_offset: 22, ..csum }.agrees(&p), Err(VnetError::Mismatch));
    assert_eq!(TSO.agrees(&Parsed { v6: true, ..p }), Err(VnetError::Mismatch));
    assert_eq!(TSO.agrees(&Parsed { proto: 17, ..p }), Err(VnetError::Mismatch));
    assert_eq!(TSO.agrees(&Parsed { frag: Frag::First, ..p }), Err(VnetError::Mismatch));
    // A tunnel inside the pod: the inner checksum is behind the outer header.
    let inner = Parsed { proto: 17, ..p };
    assert_eq!(VnetHdr { csum_start: 84, ..csum }.agrees(&inner), Ok(()));
    assert_eq!(VnetHdr { csum_start: 38, ..csum }.agrees(&inner), Err(VnetError::Mismatch));
    assert_eq!(csum.agrees(&Parsed { proto: 0, l4: 14, ..p }), Err(VnetError::Mismatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A header that passed its checks cannot be used to change what policy judged.
    #[test]
    fn finishing_a_checksum_changes_nothing_that_was_parsed(
        wild: [u8; 10], start in 0u16..120, offset in prop::sample::select(vec![0u16, 2, 6, 16, 18]), kind in 0u8..3, is6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let wild = VnetHdr::parse(&wild).unwrap();
        let eth = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if is6 { eth.ipv6([1; 16], [2; 16], 9) } else { eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9) };
        let mut frame = Vec::new();
        match kind {
            0 => ip.tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap(),
            1 => ip.udp(1, 2).write(&mut frame, &payload).unwrap(),
            _ => ip.write(&mut frame, etherparse::IpNumber(253), &payload).unwrap(),
        }
        let hdr = VnetHdr { flags: 1, gso_type: 0, csum_start: start, csum_offset: offset, ..wild };
        for hdr in [hdr, wild, VnetHdr { hdr_len: 0, ..hdr }] {
            let p = parse(&frame, frame.len(), false).unwrap();
            if hdr.check(frame.len()).is_ok() && hdr.agrees(&p).is_ok() && finish_checksum(&mut frame, &hdr).is_ok() {
                prop_assert_eq!(parse(&frame, frame.len(), false), Ok(p));
            }
        }
    }
}
