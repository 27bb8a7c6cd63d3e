use super::*;
use policy::HashKey;
use proptest::prelude::*;
use std::collections::HashMap;

fn key(n: u32) -> FlowKey {
    FlowKey { src: u128::from(n), proto: 6, ..FlowKey::default() }
}

fn hash(n: u32) -> u64 {
    key(n).hash(&HashKey::new(1, 2))
}

#[test]
fn hit_needs_key_and_epoch() {
    let mut cache = FlowCache::new(64);
    cache.put(key(1), hash(1), 7, 'a', 10).unwrap().packets = 3;
    assert_eq!(cache.get(&key(1), hash(1), 7).map(|f| f.action), Some('a'));
    assert!(cache.get(&key(1), hash(1), 8).is_none(), "another epoch");
    assert!(cache.get(&key(1), hash(1), 7 + 256).is_none(), "another epoch with the same low byte");
    assert!(cache.get(&key(2), hash(1), 7).is_none(), "another key with the same hash");
    let again = cache.put(key(1), hash(1), 8, 'b', 20).unwrap();
    assert_eq!((again.action, again.packets, again.last_ms), ('b', 3, 20));
    assert_eq!(cache.iter().count(), 1, "the same flow is not held twice");
}

#[test]
fn what_is_fetched_ahead_is_what_is_found() {
    let mut cache = FlowCache::new(64);
    assert!(cache.likely(hash(1)).is_none());
    cache.put(key(1), hash(1), 7, 'a', 10);
    let _ = cache.bucket_of(hash(1));
    assert_eq!(cache.likely(hash(1)).map(|f| (f.key, f.action)), Some((key(1), 'a')));
}

#[test]
fn a_flood_does_not_evict_flows_in_use() {
    let mut cache = FlowCache::new(8); // one bucket
    for n in 0..4 {
        cache.put(key(n), hash(n), 1, n, 0);
    }
    for n in 100..10_000 {
        for busy in 0..4 {
            assert!(cache.get(&key(busy), hash(busy), 1).is_some(), "flow {busy} lost after {n}");
        }
        cache.put(key(n), hash(n), 1, n, 0);
    }
    assert_eq!(cache.iter().count(), 8);
}

#[test]
fn only_a_flow_that_comes_back_displaces_another() {
    let mut cache = FlowCache::new(8); // one bucket
    for n in 0..8 {
        assert!(cache.put(key(n), hash(n), 1, n, 0).is_some(), "there is room for flow {n}");
    }
    for n in 100..1000 {
        assert!(cache.put(key(n), hash(n), 1, n, 0).is_none(), "flow {n} is new");
    }
    assert!((0..8).all(|n| cache.get(&key(n), hash(n), 1).is_some()), "a scan displaces nothing");
    for n in [100, 998, 999] {
        let soon = n != 100;
        assert_eq!(cache.put(key(n), hash(n), 1, n, 0).is_some(), soon, "flow {n}");
        assert_eq!(cache.get(&key(n), hash(n), 1).is_some(), soon, "flow {n}");
    }
    assert!(cache.put(key(0), hash(0), 2, 0, 0).is_some(), "a known flow is decided anew in its place");
    assert!(cache.put(key(5000), hash(5000), 2, 0, 0).is_some(), "one of another epoch is missed by nobody");
}

#[test]
fn stale_ways_go_first() {
    let mut cache = FlowCache::new(8);
    for n in 0..8 {
        cache.put(key(n), hash(n), if n % 2 == 0 { 1 } else { 2 }, n, 0);
        cache.get(&key(n), hash(n), 1);
    }
    for n in 10..14 {
        cache.put(key(n), hash(n), 2, n, 0);
    }
    for n in [1, 3, 5, 7, 10, 11, 12, 13] {
        assert!(cache.get(&key(n), hash(n), 2).is_some(), "flow {n}");
    }
}

#[test]
fn capacity_is_rounded_up_and_never_exceeded() {
    for (asked, given) in [(0, 8), (1, 8), (8, 8), (9, 16), (1000, 1024)] {
        let mut cache = FlowCache::new(asked);
        assert_eq!(cache.capacity(), given);
        let reserved = cache.flows.capacity();
        for n in 0..4 * given as u32 {
            cache.put(key(n), hash(n), 1, (), 0);
        }
        assert!(cache.iter().count() <= given);
        assert_eq!(cache.flows.capacity(), reserved, "grew");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Get(u32),
    Put(u32, u32),
    Epoch,
}

fn arb_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u32..40).prop_map(Op::Get),
        8 => (0u32..40, any::<u32>()).prop_map(|(n, action)| Op::Put(n, action)),
        1 => Just(Op::Epoch),
    ]
}

proptest! {
    /// Against a map that forgets nothing: a hit is always the latest decision of this epoch, and what was put last
    /// is there unless it was turned away. `narrow` makes tags and buckets collide.
    #[test]
    fn never_wrong(ops in prop::collection::vec(arb_op(), 0..400), capacity in 1usize..64, narrow: bool) {
        let hash = |n: u32| if narrow { u64::from(n % 3) << 48 } else { hash(n) };
        let mut cache = FlowCache::new(capacity);
        let mut model: HashMap<u32, (u64, u32)> = HashMap::new();
        let mut epoch = 250;
        for op in ops {
            match op {
                Op::Get(n) => {
                    if let Some(flow) = cache.get(&key(n), hash(n), epoch) {
                        prop_assert_eq!(flow.key, key(n));
                        prop_assert_eq!(model.get(&n), Some(&(flow.epoch, flow.action)));
                        prop_assert_eq!(flow.epoch, epoch);
                    } else if !narrow && capacity >= 64 {
                        prop_assert!(model.get(&n).is_none_or(|&(e, _)| e != epoch));
                    }
                }
                Op::Put(n, action) => {
                    let put = cache.put(key(n), hash(n), epoch, action, 0).is_some();
                    model.insert(n, (epoch, action));
                    let want = put.then_some(action);
                    prop_assert_eq!(cache.get(&key(n), hash(n), epoch).map(|f| f.action), want);
                }
                Op::Epoch => epoch += 1,
            }
            let mut seen: Vec<u128> = cache.iter().map(|f| f.key.src).collect();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), cache.iter().count(), "a key held twice");
            prop_assert!(seen.len() <= cache.capacity());
        }
    }

    /// With room for all, nothing is forgotten inside an epoch.
    #[test]
    fn forgets_nothing_while_a_bucket_has_room(n in prop::collection::btree_set(0u32..1000, 0..8)) {
        let mut cache = FlowCache::new(8);
        for &n in &n {
            cache.put(key(n), hash(n), 1, n, 0);
        }
        for &n in &n {
            prop_assert_eq!(cache.get(&key(n), hash(n), 1).map(|f| f.action), Some(n));
        }
    }
}
