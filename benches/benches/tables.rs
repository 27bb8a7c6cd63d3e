//! Looking things up: the forwarding table and the flow cache.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use encap::mapped;
use ipnet::{IpNet, Ipv4Net};
use policy::flow::{FlowKey, HashKey};
use prefix_trie::PrefixMap;
use vswitch::fib::{Fib, NextHop};
use vswitch::flow::FlowCache;

/// A /24 for each of `count` peers below 10.0.0.0/8 and above.
fn routes(count: u32) -> Vec<(Ipv4Net, u32)> {
    (0..count)
        .map(|i| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + (i << 8));
            (Ipv4Net::new(address, 24).expect("24 is a length"), i)
        })
        .collect()
}

fn forwarding(c: &mut Criterion) {
    let mut group = c.benchmark_group("route lookup");
    for count in [1_u32, 1000, 100_000] {
        let routes = routes(count);
        let fib = Fib::build(
            &routes.iter().map(|(net, i)| (IpNet::V4(*net), NextHop::Peer(*i))).collect::<Vec<_>>(),
        );
        let trie: PrefixMap<Ipv4Net, u32> = routes.iter().copied().collect();
        let mut at = 0_u32;
        let mut next = move || {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Ipv4Addr::from_bits(0x0a00_0000 + ((at % count) << 8) + (at >> 24))
        };
        group.bench_function(BenchmarkId::new("ours", count), |b| {
            b.iter(|| fib.lookup(mapped(black_box(next()))))
        });
        group.bench_function(BenchmarkId::new("prefix-trie", count), |b| {
            b.iter(|| {
                let host = Ipv4Net::new(black_box(next()), 32).expect("32 is a length");
                trie.get_lpm(&host).map(|(_, peer)| *peer)
            })
        });
    }
    group.finish();
}

fn flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow cache");
    let hasher = HashKey::new(1, 2);
    for count in [1_u32, 1000, 100_000] {
        let key = |i: u32| FlowKey {
            src: mapped(Ipv4Addr::from_bits(0x0af4_0102)),
            dst: mapped(Ipv4Addr::from_bits(0x0af4_0200 + (i & 0xff))),
            sport: (i >> 8) as u16,
            dport: 80,
            proto: 6,
            frag: 0,
            ingress: 1,
        };
        let mut cache: FlowCache<u32> = FlowCache::new(1 << 18);
        for i in 0..count {
            let key = key(i);
            cache.put(key, key.hash(&hasher), 1, i, 0);
        }
        let mut at = 0_u32;
        group.bench_function(BenchmarkId::new("hash and hit", count), |b| {
            b.iter(|| {
                at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let key = key(black_box(at % count));
                let hash = key.hash(&hasher);
                cache.get(&key, hash, 1).map(|flow| flow.action)
            })
        });
    }
    group.finish();
}

criterion_group!(benches, forwarding, flows);
criterion_main!(benches);
