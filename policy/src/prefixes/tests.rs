use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn arb_net() -> impl Strategy<Value = IpNet> {
    let bits = prop_oneof![Just(0u32), Just(u32::MAX), 0u32..64];
    (any::<bool>(), bits, 0u8..=32).prop_map(|(v4, b, len)| {
        let (address, len) = match v4 {
            true => (addr::bits(std::net::Ipv4Addr::from_bits(b.rotate_right(8)).into()), len),
            false => (u128::from(b).rotate_right(8), len * 4),
        };
        IpNet::new(addr::ip(address), len).expect("a length of the family").trunc()
    })
}

proptest! {
    #![proptest_config(crate::arbitrary::cases(2000))]

    #[test]
    fn every_containing_prefix_is_found(
        nets in prop::collection::btree_set(arb_net(), 0..40),
        near in prop::collection::vec((any::<prop::sample::Index>(), -1i8..=1, any::<bool>()), 1..40),
    ) {
        let nets: Vec<IpNet> = BTreeSet::into_iter(nets).collect();
        let prefixes = Prefixes::build(&nets);
        for (at, off, end) in near {
            let edge = nets.get(at.index(nets.len().max(1))).map_or(0, |n| {
                let (first, last, _) = addr::range(n);
                if end { last } else { first }
            });
            let a = edge.wrapping_add_signed(off.into());
            let mut want: Vec<u32> = (0u32..).zip(&nets).filter(|(_, n)| n.contains(&addr::ip(a))).map(|(i, _)| i).collect();
            want.sort_by_key(|i| std::cmp::Reverse(nets[*i as usize].prefix_len()));
            prop_assert_eq!(prefixes.containing(a).collect::<Vec<_>>(), want, "{}", addr::ip(a));
        }
    }
}

#[test]
fn many_prefixes_are_searched_from_their_upper_half() {
    let nets: Vec<IpNet> = (0..MANY as u32)
        .map(|i| std::net::Ipv4Addr::from_bits(0x0a00_0000 + i * 0x180))
        .map(|a| IpNet::new(a.into(), 25).expect("a length"))
        .chain(["10.0.0.0/8".parse().expect("a network")])
        .collect();
    let prefixes = Prefixes::build(&nets);
    assert!(!prefixes.before.is_empty());
    for a in (0x09ff_ff80..0x0a20_0000).step_by(0x3f).chain([0, u32::MAX]) {
        let a = addr::bits(std::net::Ipv4Addr::from_bits(a).into());
        let longest =
            (0u32..).zip(&nets).filter(|(_, n)| n.contains(&addr::ip(a))).max_by_key(|(_, n)| n.prefix_len());
        assert_eq!(prefixes.longest(a), longest.map(|(i, _)| i), "{}", addr::ip(a));
    }
}
