use super::*;
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn addr(text: &str) -> u128 {
    match text.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        std::net::IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn most_specific_wins_in_both_families() {
    let fib = Fib::build(&[
        (net("0.0.0.0/0"), NextHop::Host),
        (net("10.244.0.0/16"), NextHop::Blackhole),
        (net("10.244.2.0/24"), NextHop::Peer(2)),
        (net("10.244.1.7/32"), NextHop::Port(7)),
        (net("255.255.255.255/32"), NextHop::Blackhole),
        (net("fd00::/16"), NextHop::Blackhole),
        (net("fd00:2::/64"), NextHop::Peer(2)),
        (net("fd00:1::7/128"), NextHop::Port(7)),
        (net("fe80::1/128"), NextHop::Gateway),
    ]);
    for (address, hop) in [
        ("1.1.1.1", Some(NextHop::Host)),
        ("10.243.255.255", Some(NextHop::Host)),
        ("10.244.0.0", Some(NextHop::Blackhole)),
        ("10.244.1.6", Some(NextHop::Blackhole)),
        ("10.244.1.7", Some(NextHop::Port(7))),
        ("10.244.1.8", Some(NextHop::Blackhole)),
        ("10.244.2.0", Some(NextHop::Peer(2))),
        ("10.244.2.255", Some(NextHop::Peer(2))),
        ("10.244.3.0", Some(NextHop::Blackhole)),
        ("10.245.0.0", Some(NextHop::Host)),
        ("255.255.255.254", Some(NextHop::Host)),
        ("255.255.255.255", Some(NextHop::Blackhole)),
        ("fd00:1::6", Some(NextHop::Blackhole)),
        ("fd00:1::7", Some(NextHop::Port(7))),
        ("fd00:2::ffff", Some(NextHop::Peer(2))),
        ("fe80::1", Some(NextHop::Gateway)),
        ("fe80::2", None),
        ("::", None),
    ] {
        assert_eq!(fib.lookup(addr(address)), hop, "{address}");
    }
}

#[test]
fn an_empty_table_knows_nothing_and_families_do_not_mix() {
    let empty = Fib::default();
    assert_eq!(empty.lookup(addr("10.0.0.1")), None);
    assert_eq!(empty.lookup(addr("fd00::1")), None);
    let six = Fib::build(&[(net("::/0"), NextHop::Host)]);
    assert_eq!(six.lookup(addr("10.0.0.1")), None);
    assert_eq!(six.lookup(addr("::ffff:10.0.0.1")), None);
    assert_eq!(six.lookup(u128::MAX), Some(NextHop::Host));
}

#[test]
fn a_later_route_replaces_an_equal_prefix_and_host_bits_are_ignored() {
    let fib = Fib::build(&[(net("10.1.2.3/24"), NextHop::Port(1)), (net("10.1.2.0/24"), NextHop::Port(2))]);
    assert_eq!(fib.routes(), [(net("10.1.2.0/24"), NextHop::Port(2))]);
    assert_eq!(fib.lookup(addr("10.1.2.200")), Some(NextHop::Port(2)));
}

fn arb_hop() -> impl Strategy<Value = NextHop> {
    prop_oneof![
        (0u32..4).prop_map(NextHop::Port),
        (0u32..4).prop_map(NextHop::Peer),
        (0u32..4).prop_map(NextHop::Group),
        Just(NextHop::Host),
        Just(NextHop::Gateway),
        Just(NextHop::Blackhole),
    ]
}

/// Dense in a few corners of the address space, so that prefixes nest and touch.
fn arb_v4() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..1024).prop_map(|low| 0x0af4_0000 | low),
        (0u32..4).prop_map(|low| u32::MAX - low),
        (0u32..4),
        (0u32..4, 0u32..4).prop_map(|(net, low)| 0x0af3_fffe_u32.wrapping_add(net << 16).wrapping_add(low)),
    ]
}

fn arb_v6() -> impl Strategy<Value = u128> {
    prop_oneof![
        any::<u128>(),
        (0u128..1024).prop_map(|low| 0xfd00_0010_0244 << 80 | low),
        (0u128..64).prop_map(|net| (0xfd00_0010_0244 << 16 | net) << 64),
        (0u128..4).prop_map(|low| u128::MAX - low),
        (0u128..4),
    ]
}

fn arb_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (arb_v4(), 0u8..=32)
            .prop_map(|(bits, len)| IpNet::from(Ipv4Net::new(Ipv4Addr::from_bits(bits), len).unwrap())),
        (arb_v6(), 0u8..=128)
            .prop_map(|(bits, len)| IpNet::from(Ipv6Net::new(Ipv6Addr::from_bits(bits), len).unwrap())),
    ]
}

fn scan(routes: &[(IpNet, NextHop)], addr: std::net::IpAddr) -> Option<NextHop> {
    let holds = routes.iter().filter(|(net, _)| net.contains(&addr));
    // `max_by_key` keeps the last of equals, as the table does.
    holds.max_by_key(|(net, _)| net.prefix_len()).map(|&(_, hop)| hop)
}

proptest! {
    #[test]
    fn agrees_with_a_trie_and_a_scan(
        routes in prop::collection::vec((arb_net(), arb_hop()), 0..60),
        v4 in prop::collection::vec(arb_v4(), 40),
        v6 in prop::collection::vec(arb_v6(), 40),
    ) {
        let fib = Fib::build(&routes);
        let mut trie4 = PrefixMap::<Ipv4Net, NextHop>::new();
        let mut trie6 = PrefixMap::<Ipv6Net, NextHop>::new();
        for (net, hop) in &routes {
            match net.trunc() {
                IpNet::V4(net) => drop(trie4.insert(net, *hop)),
                IpNet::V6(net) => drop(trie6.insert(net, *hop)),
            }
        }
        let edges4 = routes.iter().filter_map(|(net, _)| match net {
            IpNet::V4(net) => Some([net.network().to_bits(), net.broadcast().to_bits()]),
            IpNet::V6(_) => None,
        });
        for bits in v4.into_iter().chain(edges4.flatten().flat_map(|b| [b, b.wrapping_add(1), b.wrapping_sub(1)])) {
            let ip = Ipv4Addr::from_bits(bits);
            let got = fib.lookup(ip.to_ipv6_mapped().to_bits());
            let host = Ipv4Net::new(ip, 32).unwrap();
            prop_assert_eq!(got, trie4.get_lpm(&host).map(|(_, hop)| *hop), "{}", ip);
            prop_assert_eq!(got, scan(&routes, ip.into()), "{}", ip);
        }
        let edges6 = routes.iter().filter_map(|(net, _)| match net {
            IpNet::V6(net) => Some([net.network().to_bits(), net.broadcast().to_bits()]),
            IpNet::V4(_) => None,
        });
        for bits in v6.into_iter().chain(edges6.flatten().flat_map(|b| [b, b.wrapping_add(1), b.wrapping_sub(1)])) {
            let ip = Ipv6Addr::from_bits(bits);
            if ip.to_ipv4_mapped().is_some() {
                continue;
            }
            let got = fib.lookup(bits);
            let host = Ipv6Net::new(ip, 128).unwrap();
            prop_assert_eq!(got, trie6.get_lpm(&host).map(|(_, hop)| *hop), "{}", ip);
            prop_assert_eq!(got, scan(&routes, ip.into()), "{}", ip);
        }
    }
}

/// Ranges stay bounded by the routes, whatever their shape: 100,000 routes are a few megabytes.
#[test]
fn memory_is_linear_in_routes() {
    let routes: Vec<(IpNet, NextHop)> = (0..100_000u32)
        .map(|i| {
            let bits = i.wrapping_mul(0x9e37_79b1);
            (Ipv4Net::new(Ipv4Addr::from_bits(bits), 8 + (i % 25) as u8).unwrap().into(), NextHop::Peer(i))
        })
        .collect();
    let fib = Fib::build(&routes);
    assert!(fib.start4.len() <= 2 * fib.routes().len() + 1);
    assert_eq!(fib.start4.len(), fib.hop4.len());
}
