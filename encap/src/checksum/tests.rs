use super::*;
use proptest::prelude::*;

/// RFC 1071 word by word, as slow and plain as it can be.
fn naive(bytes: &[u8]) -> u16 {
    let mut acc = 0u32;
    for pair in bytes.chunks(2) {
        acc += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        acc = (acc & 0xffff) + (acc >> 16);
    }
    acc as u16
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&bytes).fold(), 0xddf2);
    assert_eq!(sum(&bytes).finish(), 0x220d);
}

#[test]
fn all_ones_do_not_lose_a_carry() {
    for len in [2, 20, 64, 1400, 65_536] {
        assert_eq!(sum(&vec![0xff; len]).fold(), 0xffff, "{len} bytes of ff");
    }
    assert_eq!(Sum(u64::MAX).plus(Sum(u64::MAX)).fold(), 0xffff);
    assert_eq!(sum(&[]).fold(), 0);
}

#[test]
fn update16_agrees_with_a_fresh_sum_for_every_field_value() {
    let header = |v: u16| [0x45, 0, 0x05, 0xdc, v.to_be_bytes()[0], v.to_be_bytes()[1]];
    for (old, new) in [(0, 0xffff), (0xffff, 0), (0x4006, 0x3f06), (1, 2), (0x8000, 0x7fff)] {
        let check = sum(&header(old)).finish();
        assert_eq!(update16(check, old, new), sum(&header(new)).finish(), "{old:#x} to {new:#x}");
    }
}

proptest! {
    #[test]
    fn wide_sum_agrees_with_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(sum(&bytes).fold(), naive(&bytes));
    }

    #[test]
    fn pieces_add_up_at_any_cut(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>()) {
        let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
        let tail = if a.len() % 2 == 1 { sum(b).odd() } else { sum(b) };
        prop_assert_eq!(sum(a).plus(tail).fold(), naive(&bytes));
    }

    #[test]
    fn the_short_header_sum_is_the_general_one(bytes in any::<[u8; 20]>()) {
        prop_assert_eq!(sum20(&bytes).fold(), sum(&bytes).fold());
    }

    #[test]
    fn update16_agrees_with_smoltcp(bytes in any::<[u8; 20]>(), ttl in any::<u8>()) {
        let mut bytes = bytes;
        (bytes[0], bytes[2], bytes[3]) = (0x45, 0, 20);
        let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(bytes);
        packet.fill_checksum();
        let (check, old) = (packet.checksum(), u16::from_be_bytes([packet.hop_limit(), bytes[9]]));
        packet.set_hop_limit(ttl);
        packet.set_checksum(update16(check, old, u16::from_be_bytes([ttl, bytes[9]])));
        prop_assert!(packet.verify_checksum());
    }
}
