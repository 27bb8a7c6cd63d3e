use proptest::prelude::*;

use super::super::fixture::*;
use super::super::{Direction, Geometry, Held, Opening, Rules, Step, Tracked, Transport};
use super::*;

const OTHER: Transport = Transport::Other;
const GEOMETRY: Geometry = Geometry { capacity: 200, ports: 8, peers: 4 };

fn again(memory: &Memory, now: u32) -> (Table<Memory>, Adopted) {
    Table::open(Memory::clone(memory), Config::new(GEOMETRY), [3, 4], at(now), |opener, _| Some(opener))
        .unwrap()
}

/// 20 flows of four ports, half of them answered.
fn filled() -> Table<Memory> {
    let table = table_with(Config::new(GEOMETRY));
    for i in 0..20 {
        let found =
            table.open_flow(&udp(1, 2, i, 53), OTHER, &opening(u32::from(i % 4)), at(0)).unwrap().found;
        if i < 10 {
            assert_eq!(table.packet(found.slot, Direction::Reply, OTHER, at(0)), Step::Pass);
        }
    }
    table
}

#[test]
fn flows_survive_and_are_judged_again() {
    let table = filled();
    let slots: Vec<_> =
        table.iter(at(0)).map(|flow| (flow.slot, flow.tuple, flow.state, flow.rules)).collect();
    let held = (0..8).map(|port| table.held(Opener::Port(port))).collect::<Vec<_>>();
    let (next, adopted) = again(&table.memory, 1);
    assert_eq!(adopted, Adopted { formatted: false, kept: 20, dropped: 0 });
    let taken: Vec<_> =
        next.iter(at(1)).map(|flow| (flow.slot, flow.tuple, flow.state, flow.rules)).collect();
    assert_eq!(taken, slots);
    assert_eq!((0..8).map(|port| next.held(Opener::Port(port))).collect::<Vec<_>>(), held);
    assert!(
        next.iter(at(1))
            .all(|flow| flow.epoch == Epoch::UNJUDGED && flow.rules == Rules { egress: 7, ingress: 9 })
    );
    match next.track(&udp(1, 2, 3, 53), OTHER, EPOCH(1), at(1)) {
        Tracked::Known(found) => assert!(EPOCH(1).newer(found.epoch)),
        other => panic!("{other:?}"),
    }
    assert_eq!(again(&table.memory, 61).1, Adopted { formatted: false, kept: 1, dropped: 19 });
}

#[test]
fn openers_are_found_again_or_their_flows_dropped() {
    let table = filled();
    let whose = |opener, tuple: &Tuple| match opener {
        Opener::Port(0) => None,
        Opener::Port(1) => Some(Opener::Port(99)),
        Opener::Port(2) if tuple.src == host(1) => Some(Opener::Peer(3)),
        other => Some(other),
    };
    let (next, adopted) =
        Table::open(Memory::clone(&table.memory), Config::new(GEOMETRY), [3, 4], at(0), whose).unwrap();
    assert_eq!(adopted, Adopted { formatted: false, kept: 10, dropped: 10 });
    let held = [0, 1, 2, 3].map(|port| next.held(Opener::Port(port)).unwrap().total);
    assert_eq!((held, next.held(Opener::Peer(3)).unwrap()), ([0, 0, 0, 5], Held { half_open: 3, total: 5 }));
}

#[test]
fn another_geometry_or_a_broken_header_is_a_new_table() {
    for word in 0..9 {
        let table = filled();
        table.memory[word].fetch_xor(1 << 17, Relaxed);
        let (next, adopted) = again(&table.memory, 0);
        assert_eq!(adopted, Adopted { formatted: true, kept: 0, dropped: 0 }, "word {word}");
        assert!(next.is_empty() && next.iter(at(0)).next().is_none());
        assert_eq!(again(&table.memory, 0).1, Adopted::default());
    }
    let table = filled();
    let smaller = Config::new(Geometry { capacity: 150, ..GEOMETRY });
    let (next, adopted) =
        Table::open(Memory::clone(&table.memory), smaller, [3, 4], at(0), |o, _| Some(o)).unwrap();
    assert!(adopted.formatted && next.iter(at(0)).next().is_none());
}

#[test]
fn formatting_that_was_cut_short_is_done_again() {
    let table = filled();
    // What a process leaves that died after wiping the header and before wiping the rest.
    for word in &table.memory[..16] {
        word.store(0, Relaxed);
    }
    table.memory[0].store(0x7673_7720_6374_0000, Relaxed);
    let (next, adopted) = again(&table.memory, 0);
    assert!(adopted.formatted && next.is_empty());
    assert!((0..next.slots()).all(|index| next.entry(index).unwrap().control().is_free()));
}

#[test]
fn what_a_dying_process_left_half_done_is_dropped() {
    let table = filled();
    let flows: Vec<_> = table.iter(at(0)).collect();
    let entry = |i: usize| table.entry(flows[i].slot.index).unwrap();
    assert!(entry(0).seize(entry(0).control()));
    let control = entry(1).control();
    entry(1).restore(control.pending(State::UdpUnreplied, false, EPOCH(1)));
    assert!(table.revoke(flows[3].slot, EPOCH(2), at(0)));
    let (next, adopted) = again(&table.memory, 0);
    assert_eq!(adopted, Adopted { formatted: false, kept: 17, dropped: 3 });
    assert_eq!(next.len(), 17);
    let free = (0..next.slots()).filter(|&i| next.entry(i).unwrap().control().is_free()).count();
    assert_eq!(free, next.slots() as usize - 17);
}

#[test]
fn an_entry_without_its_tag_is_nobodys_flow() {
    let table = filled();
    let lost = table.iter(at(0)).next().unwrap();
    let slot = lost.slot.index;
    table.tags(slot / WAYS as u32).clear(slot as usize % WAYS);
    let (next, adopted) = again(&table.memory, 0);
    assert_eq!((adopted.kept, next.len(), next.iter(at(0)).count()), (19, 19, 19));
    assert_eq!(next.lookup(&lost.tuple, at(0)), None);
    // It opens again, in another place where its own is not free.
    let opening = Opening { opener: lost.opener, epoch: EPOCH(1), rules: lost.rules };
    assert!(next.open_flow(&lost.tuple, OTHER, &opening, at(0)).is_ok_and(|opened| opened.fresh));
}

#[test]
fn too_little_memory_and_impossible_sizes_are_errors() {
    let words = GEOMETRY.words().unwrap();
    let short: Memory = (1..words).map(|_| AtomicU64::new(0)).collect();
    let open =
        |memory, geometry| Table::open(memory, Config::new(geometry), [1, 2], at(0), |o, _| Some(o)).err();
    assert_eq!(
        open(Memory::clone(&short), GEOMETRY),
        Some(TableError::Short { need: words, have: words - 1 })
    );
    for (geometry, error) in [
        (Geometry { capacity: 0, ..GEOMETRY }, TableError::Capacity(0)),
        (Geometry { capacity: u32::MAX, ..GEOMETRY }, TableError::Capacity(u32::MAX)),
        (Geometry { ports: u32::MAX, ..GEOMETRY }, TableError::Openers(u32::MAX)),
        (Geometry { peers: 0, ..GEOMETRY }, TableError::Openers(0)),
    ] {
        assert_eq!(open(Memory::clone(&short), geometry), Some(error));
    }
}

#[test]
fn a_flow_costs_at_most_96_bytes() {
    for capacity in [1 << 16, 1 << 20, 1 << 22] {
        let words = Geometry { capacity, ports: 1024, peers: 1024 }.words().unwrap();
        assert!(
            words * 8 <= 96 * capacity as usize,
            "{capacity}: {} bytes a flow",
            words * 8 / capacity as usize
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever is in the memory, the table taken over is sound: counts are those of its flows, it goes on, and a flow
    /// that was not hit is still there.
    #[test]
    fn damage_costs_flows_and_nothing_else(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 0..60),
    ) {
        let table = filled();
        let before: Vec<_> = table.iter(at(0)).collect();
        let entries = table.layout.entry(0);
        let mut hit = std::collections::HashSet::new();
        for (at, value, used) in damage {
            // Beyond the header: its damage is another test's.
            let word = if used {
                table.layout.entry(before[at.index(before.len())].slot.index) + at.index(8)
            } else {
                16 + at.index(table.memory.len() - 16)
            };
            table.memory[word].store(value, Relaxed);
            if word >= entries {
                hit.insert(((word - entries) / 8) as u32);
            } else {
                // Tags: any entry of that word may go.
                let first = (word.saturating_sub(table.layout.tags_of(0))) as u32 * 4;
                hit.extend(first..first + 4);
            }
        }
        let (next, adopted) = again(&table.memory, 0);
        prop_assert!(!adopted.formatted);
        let flows: Vec<_> = next.iter(at(0)).collect();
        prop_assert_eq!(flows.len() as u64, adopted.kept);
        for flow in before.iter().filter(|flow| !hit.contains(&flow.slot.index)) {
            prop_assert!(flows.iter().any(|other| (other.slot, other.tuple) == (flow.slot, flow.tuple)));
        }
        for opener in (0..8).map(Opener::Port).chain((0..4).map(Opener::Peer)) {
            let of = |flow: &&super::super::Flow| match (opener, flow.opener) {
                (Opener::Peer(row), Opener::Peer(peer)) => row == peer % 4,
                (row, other) => row == other,
            };
            let held = Held {
                total: flows.iter().filter(of).count() as u32,
                half_open: flows.iter().filter(of).filter(|flow| flow.state.half_open()).count() as u32,
            };
            prop_assert_eq!(next.held(opener), Some(held));
        }
        let opening = Opening { opener: Opener::Port(7), ..opening(0) };
        prop_assert!(next.open_flow(&tcp(8, 9, 1, 2), flags(SYN), &opening, at(0)).unwrap().fresh);
        sweep_all(&next, at(7200));
        prop_assert!(next.is_empty());
    }
}
