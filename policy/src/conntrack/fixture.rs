//! What the tests of this folder share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::tuple::{TCP, UDP};
use super::*;

pub(super) type Memory = Arc<[AtomicU64]>;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

pub(super) const EPOCH: fn(u64) -> Epoch = Epoch::of;

pub(super) fn memory(geometry: &Geometry) -> Memory {
    (0..geometry.words().unwrap()).map(|_| AtomicU64::new(0)).collect()
}

/// A table of that size with 8 ports and 4 rows for peers.
pub(super) fn table(capacity: u32) -> Table<Memory> {
    table_with(Config::new(Geometry { capacity, ports: 8, peers: 4 }))
}

pub(super) fn table_with(config: Config) -> Table<Memory> {
    let memory = memory(&config.geometry);
    let (table, adopted) = Table::open(memory, config, [1, 2], at(0), |opener, _| Some(opener)).unwrap();
    assert_eq!(adopted, Adopted { formatted: true, kept: 0, dropped: 0 });
    table
}

/// So many seconds after a start one minute before the clock wraps.
pub(super) fn at(seconds: u32) -> Tick {
    Tick((seconds * TICKS_PER_SECOND).wrapping_sub(64 * TICKS_PER_SECOND))
}

pub(super) fn host(n: u32) -> u128 {
    0xffff_0a00_0000 | u128::from(n)
}

pub(super) fn tcp(src: u32, dst: u32, sport: u16, dport: u16) -> Tuple {
    Tuple { src: host(src), dst: host(dst), sport, dport, proto: TCP }
}

pub(super) fn udp(src: u32, dst: u32, sport: u16, dport: u16) -> Tuple {
    Tuple { proto: UDP, ..tcp(src, dst, sport, dport) }
}

pub(super) fn back(t: &Tuple) -> Tuple {
    Tuple { src: t.dst, dst: t.src, sport: t.dport, dport: t.sport, proto: t.proto }
}

pub(super) fn flags(flags: u8) -> Transport {
    Transport::Tcp { flags }
}

pub(super) fn opening(port: u32) -> Opening {
    Opening { opener: Opener::Port(port), epoch: EPOCH(1), rules: Rules { egress: 7, ingress: 9 } }
}

/// Walks the whole table once.
pub(super) fn sweep_all(table: &Table<Memory>, now: Tick) -> (u32, u32) {
    let (mut from, mut freed, mut live) = (0, 0, 0);
    loop {
        let swept = table.sweep(from, 64, now);
        (from, freed, live) = (swept.next, freed + swept.freed, live + swept.live);
        if from == 0 {
            return (freed, live);
        }
    }
}
