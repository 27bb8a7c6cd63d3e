use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::super::fixture::*;
use super::super::{Config, Direction, Geometry, Held, Limits, State, Tracked};
use super::*;

const OTHER: Transport = Transport::Other;

fn tiny(half_open: u32, total: u32) -> Table<Memory> {
    let mut config = Config::new(Geometry { capacity: 24, ports: 3, peers: 2 });
    config.port_limits = Limits { half_open, total };
    config.peer_limits = config.port_limits;
    table_with(config)
}

fn open(table: &Table<Memory>, t: &Tuple, port: u32, now: u32) -> Result<Opened, OpenError> {
    table.open_flow(t, OTHER, &opening(port), at(now))
}

/// Opens a UDP flow and answers it.
fn answered(table: &Table<Memory>, t: &Tuple, port: u32, now: u32) -> Result<Slot, OpenError> {
    let slot = open(table, t, port, now)?.found.slot;
    assert_eq!(table.packet(slot, Direction::Reply, OTHER, at(now)), Step::Pass);
    Ok(slot)
}

/// At rest: one entry a flow, a tag for each entry and none else, and counts that are what the entries say.
fn check_at_rest(table: &Table<Memory>) {
    let mut flows = HashSet::new();
    let mut held: HashMap<Opener, Held> = HashMap::new();
    for index in 0..table.slots() {
        let entry = table.entry(index).unwrap();
        let tag = table.tags(index / WAYS as u32).get(index as usize % WAYS);
        let Some((control, identity)) = entry.identity() else {
            assert!(entry.control().is_free() && tag == 0, "entry {index}");
            continue;
        };
        assert!(!control.is_pending(), "entry {index} is pending");
        assert_eq!(tag, table.home(&identity.key).tag);
        assert!(flows.insert(identity.key), "two entries for {:?}", identity.key);
        let held = held.entry(identity.opener).or_default();
        held.total += 1;
        held.half_open += u32::from(control.state().unwrap().half_open());
    }
    for opener in (0..3).map(Opener::Port).chain((0..2).map(Opener::Peer)) {
        assert_eq!(table.held(opener).unwrap(), held.remove(&opener).unwrap_or_default(), "{opener:?}");
    }
    assert!(held.is_empty());
}

#[test]
fn a_flood_meets_its_quota_and_nobody_elses() {
    let table = tiny(5, 8);
    for i in 0..5 {
        open(&table, &udp(1, 2, i, 53), 0, 0).unwrap();
    }
    assert_eq!(open(&table, &udp(1, 2, 9, 53), 0, 0), Err(OpenError::HalfOpen));
    assert!(open(&table, &udp(1, 2, 0, 53), 0, 0).is_ok(), "a flow that is there counts once");
    open(&table, &udp(3, 2, 9, 53), 1, 0).unwrap();
    for i in 0..5 {
        answered(&table, &udp(1, 2, i, 53), 0, 0).unwrap();
    }
    for i in 5..8 {
        answered(&table, &udp(1, 2, i, 53), 0, 0).unwrap();
    }
    assert_eq!(open(&table, &udp(1, 2, 9, 53), 0, 0), Err(OpenError::Total));
    assert_eq!(open(&table, &udp(1, 2, 9, 53), 3, 0), Err(OpenError::UnknownPort));
    assert_eq!(sweep_all(&table, at(61)), (9, 0));
    open(&table, &udp(1, 2, 9, 53), 0, 61).unwrap();
    check_at_rest(&table);
}

#[test]
fn peers_share_rows_and_do_not_run_out_of_them() {
    let table = tiny(5, 8);
    for peer in [0, 2, 4] {
        let opening = Opening { opener: Opener::Peer(peer), ..opening(0) };
        table.open_flow(&udp(peer, 9, 1, 53), OTHER, &opening, at(0)).unwrap();
    }
    assert_eq!(table.held(Opener::Peer(0)), Some(Held { half_open: 3, total: 3 }));
    assert_eq!(table.held(Opener::Peer(1)), Some(Held::default()));
    assert_eq!(table.iter(at(0)).filter(|flow| flow.opener == Opener::Peer(4)).count(), 1);
}

#[test]
fn a_full_table_gives_up_half_open_flows_and_never_established_ones() {
    let table = tiny(1000, 1000);
    let slots = table.slots();
    // Two buckets: every flow may stand anywhere.
    assert_eq!(slots, 32);
    let kept: Vec<Slot> =
        (0..slots as u16 - 2).map(|i| answered(&table, &udp(1, 2, i, 53), 0, 0).unwrap()).collect();
    let oldest = open(&table, &udp(1, 2, 100, 53), 0, 0).unwrap().found.slot;
    open(&table, &udp(1, 2, 101, 53), 0, 1).unwrap();
    open(&table, &udp(1, 2, 102, 53), 0, 2).unwrap();
    assert_eq!(table.packet(oldest, Direction::Original, OTHER, at(2)), Step::Gone);
    assert!(table.lookup(&udp(1, 2, 101, 53), at(2)).is_some());
    for i in 101..=102 {
        answered(&table, &udp(1, 2, i, 53), 0, 2).unwrap();
    }
    assert_eq!(open(&table, &udp(1, 2, 103, 53), 0, 2), Err(OpenError::Full));
    for slot in &kept {
        assert_eq!(table.packet(*slot, Direction::Original, OTHER, at(2)), Step::Pass);
    }
    assert!(table.revoke(kept[3], EPOCH(1), at(2)));
    open(&table, &udp(1, 2, 103, 53), 0, 2).unwrap();
    assert_eq!(
        table.packet(kept[3], Direction::Original, OTHER, at(2)),
        Step::Gone,
        "finished ones go first"
    );
    check_at_rest(&table);
    open(&table, &udp(1, 2, 104, 53), 0, 63).unwrap();
    assert_eq!(table.len(), u64::from(slots), "expired ones make room");
}

/// Another worker has announced the same flow, the other way, and not yet looked for rivals.
#[test]
fn of_two_pending_entries_the_lower_one_stays() {
    let t = udp(1, 2, 5000, 53);
    // The rival stands in one of the two buckets, so the new entry goes into the other.
    for (bucket, lower) in [(0, true), (1, false)] {
        let table = tiny(5, 8);
        let (key, from_b) = back(&t).key();
        let index = bucket * WAYS as u32 + 3;
        let rival = table.entry(index).unwrap();
        let pending = rival.claim(rival.control()).unwrap().pending(State::UdpUnreplied, from_b, EPOCH(1));
        quota::count(table.row(Opener::Port(1)).unwrap(), true);
        let identity = Identity { key, opener: Opener::Port(1) };
        rival.publish(&identity, Rules::default(), at(0), pending);
        table.tags(bucket).set(3, table.home(&key).tag);
        assert_eq!(table.lookup(&t, at(0)), None, "it is not there before it is live");

        let opened = open(&table, &t, 0, 0).unwrap();
        assert_eq!(opened.fresh, !lower);
        assert_eq!(opened.found.slot.index == index, lower);
        assert_eq!(opened.found.direction == Direction::Reply, lower);
        assert_eq!(rival.change(pending, pending.live()), lower, "a killed worker notices");
        assert_eq!(table.lookup(&t, at(0)), Some(opened.found));
        assert_eq!(table.held(Opener::Port(u32::from(lower))), Some(Held { half_open: 1, total: 1 }));
        check_at_rest(&table);
    }
}

/// Both directions of one flow, opened by several threads at the same moment: one entry, opened once.
#[test]
fn one_flow_opened_by_many_at_once_has_one_entry() {
    const THREADS: u32 = 3;
    const ROUNDS: u16 = 4000;
    let table = tiny(1 << 20, 1 << 20);
    let barrier = Barrier::new(THREADS as usize);
    let (fresh, ready, wrong) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    // Counted and not asserted: a thread that panics leaves the others at the barrier.
    let expect = |right: bool| {
        wrong.fetch_add(u32::from(!right), Relaxed);
    };
    let race = |id: u32| {
        for round in 0..ROUNDS {
            let t = udp(1, 2, round, 53);
            let t = if id.is_multiple_of(2) { t } else { back(&t) };
            barrier.wait();
            // A barrier wakes threads one by one, further apart than opening takes: meet by spinning.
            let met = u32::from(round + 1) * THREADS;
            ready.fetch_add(1, Relaxed);
            for _ in 0..10_000 {
                if ready.load(Relaxed) >= met {
                    break;
                }
                std::hint::spin_loop();
            }
            let opened = open(&table, &t, id % 3, 0);
            fresh.fetch_add(opened.map_or(0, |opened| u32::from(opened.fresh)), Relaxed);
            barrier.wait();
            let lives = table.lookup(&t, at(0)).map(|found| found.slot);
            expect(lives.is_some());
            expect(opened.is_ok_and(|Opened { found, .. }| {
                let step = table.packet(found.slot, found.direction, OTHER, at(0));
                (step == Step::Pass) == (Some(found.slot) == lives)
            }));
            barrier.wait();
            if id == 0 {
                expect(fresh.swap(0, Relaxed) == 1);
                expect(table.forget_addr(host(1)) == 1);
            }
        }
    };
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let race = &race;
            scope.spawn(move || race(id));
        }
    });
    assert_eq!(wrong.into_inner(), 0);
    assert!(table.is_empty());
    check_at_rest(&table);
}

/// Workers, a sweeper and a control thread over few flows and fewer entries, with time moving.
#[test]
fn nothing_is_lost_or_mixed_up_among_threads() {
    const WORKERS: u64 = 3;
    let table = tiny(20, 40);
    let seconds = AtomicU32::new(0);
    for round in 0..20_u64 {
        std::thread::scope(|scope| {
            for id in 0..WORKERS {
                let (table, seconds) = (&table, &seconds);
                scope.spawn(move || worker(table, seconds, round * WORKERS + id + 1));
            }
            scope.spawn(|| {
                for step in 0..200_u32 {
                    let now = seconds.fetch_add(1, Relaxed);
                    sweep_all(&table, at(now));
                    match step % 50 {
                        10 => drop(table.forget_addr(host(step % 4))),
                        20 => drop(table.forget_opener(Opener::Port(step % 3))),
                        30 => assert!(table.iter(at(now)).count() <= table.slots() as usize),
                        _ => {}
                    }
                }
            });
        });
        check_at_rest(&table);
    }
}

fn worker(table: &Table<Memory>, seconds: &AtomicU32, seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) % n
    };
    let mut remembered: Vec<(Tuple, Slot, Direction)> = Vec::new();
    for _ in 0..4000 {
        let (src, dst) = (draw(4) as u32, 4 + draw(2) as u32);
        let t =
            if draw(2) == 0 { udp(src, dst, draw(4) as u16, 53) } else { tcp(src, dst, draw(4) as u16, 80) };
        let transport = match t.proto {
            6 => flags([SYN, SYN, SYN | ACK, ACK, FIN | ACK, RST][draw(6) as usize]),
            _ => OTHER,
        };
        let t = if draw(2) == 0 { t } else { back(&t) };
        let now = at(seconds.load(Relaxed));
        let epoch = EPOCH(1 + draw(3));
        let found = match table.track(&t, transport, epoch, now) {
            Tracked::Known(found) => found,
            Tracked::New => {
                let opening = Opening { epoch, ..opening(draw(3) as u32) };
                match table.open_flow(&t, transport, &opening, now) {
                    Ok(opened) => opened.found,
                    Err(_) => continue,
                }
            }
            Tracked::Invalid | Tracked::Revoked => continue,
        };
        // The entry is this flow's, or another's generation.
        if let Some((control, identity)) = table.entry(found.slot.index).unwrap().identity()
            && control.generation() == found.slot.generation
        {
            assert_eq!(identity.key, t.key().0);
        }
        match draw(20) {
            0 => drop(table.revoke(found.slot, epoch, now)),
            1 => drop(table.judged(found.slot, epoch, Rules::default())),
            _ => remembered.push((t, found.slot, found.direction)),
        }
        if remembered.len() > 8 {
            let (_, slot, direction) = remembered.swap_remove(draw(8) as usize);
            table.packet(slot, direction, transport, now);
        }
    }
}
