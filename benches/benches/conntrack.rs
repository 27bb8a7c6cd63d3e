//! The table of flows, in a memfd as the switch has it.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::mapped;
use policy::conntrack::{
    Config, Direction, Epoch, Geometry, Limits, Opener, Opening, Rules, Slot, Table, Tick, Transport, Tuple,
};
use vswitch::sys::memory::{self, Mapping};

const UDP: Transport = Transport::Other;
const RATED: u32 = 1 << 20;
const UNLIMITED: Limits = Limits { half_open: u32::MAX, total: u32::MAX };

fn table() -> Table<Mapping> {
    let geometry = Geometry { capacity: RATED, ports: 256, peers: 256 };
    let words = geometry.words().expect("the geometry is possible");
    let fd = memory::create("bench", words).expect("memfds can be made");
    let mapping = Mapping::new(fd, words).expect("there is memory");
    let config = Config { port_limits: UNLIMITED, ..Config::new(geometry) };
    Table::open(mapping, config, [3, 5], Tick(0), |opener, _| Some(opener))
        .expect("the memory is large enough")
        .0
}

/// Flow number `i` of a node's pods.
fn flow(i: u32) -> Tuple {
    Tuple {
        src: mapped(Ipv4Addr::from_bits(0x0af4_0100 + (i & 0x7f))),
        dst: mapped(Ipv4Addr::from_bits(0x0af4_0200 + (i >> 7 & 0xff))),
        sport: 1024 + (i >> 15) as u16,
        dport: 53,
        proto: 17,
    }
}

fn opening(i: u32) -> Opening {
    Opening { opener: Opener::Port(i & 0x7f), epoch: Epoch::of(1), rules: Rules::default() }
}

fn fill(table: &Table<Mapping>, count: u32) -> Vec<Slot> {
    (0..count)
        .map(|i| {
            let opened =
                table.open_flow(&flow(i), UDP, &opening(i), Tick(0)).expect("the table is rated for it");
            let slot = opened.found.slot;
            // Answered, as most flows are: none may be evicted.
            table.packet(slot, Direction::Reply, UDP, Tick(0));
            slot
        })
        .collect()
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    for count in [1000, RATED] {
        let table = table();
        let slots = fill(&table, count);
        let mut at = 0_u32;
        let mut next = move || {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((u64::from(at) * u64::from(count)) >> 32) as u32
        };
        group.bench_function(BenchmarkId::new("hash and find", count), |b| {
            b.iter(|| table.track(black_box(&flow(next())), UDP, Epoch::of(1), Tick(0)));
        });
        group.bench_function(BenchmarkId::new("packet by slot", count), |b| {
            b.iter(|| table.packet(slots[next() as usize], Direction::Original, UDP, Tick(0)));
        });
        let mut from = 0;
        group.throughput(Throughput::Elements(4096));
        group.bench_function(BenchmarkId::new("sweep of 4096 entries", count), |b| {
            b.iter(|| from = table.sweep(from, 4096, Tick(0)).next);
        });
    }
    group.finish();
}

/// New flows without end, at a rate at which as many expire as the table is rated for: entries are reclaimed.
fn opens(c: &mut Criterion) {
    let table = table();
    let per_tick = RATED / (table.config().timeouts.udp + 1);
    let mut i = 0_u32;
    c.bench_function("conntrack/open", |b| {
        b.iter(|| {
            i = i.wrapping_add(1);
            table
                .open_flow(black_box(&flow(i)), UDP, &opening(i), Tick(i / per_tick))
                .map(|opened| opened.fresh)
        });
    });
}

criterion_group!(benches, hits, opens);
criterion_main!(benches);
