use super::*;

fn flow(i: u32) -> FlowKey {
    FlowKey { src: 1, dst: 2, sport: 40_000 + i as u16, dport: 80, proto: 17, ..FlowKey::default() }
}

/// Where each of a thousand flows goes.
fn picks(groups: &Groups, group: u32) -> Vec<u32> {
    (0..1000).map(|i| groups.pick(group, &flow(i)).unwrap()).collect()
}

fn share(picks: &[u32], peer: u32) -> usize {
    picks.iter().filter(|p| **p == peer).count()
}

#[test]
fn flows_are_spread_evenly() {
    for count in 2..=4u32 {
        let mut groups = Groups::default();
        let group = groups.add((0..count).map(|i| (i, 0xffff_c0a8_4d08 + u128::from(i))));
        let picks = picks(&groups, group);
        for peer in 0..count {
            let (share, fair) = (share(&picks, peer), 1000 / count as usize);
            assert!(share * 10 > fair * 8 && share * 10 < fair * 12, "{share} of 1000 to {peer} of {count}");
        }
    }
}

#[test]
fn flows_that_differ_in_one_place_are_spread_too() {
    let mut groups = Groups::default();
    let group = groups.add([(0, 0xffff_c0a8_4d08), (1, 0xffff_c0a8_4d09)]);
    let vary: [fn(u32) -> FlowKey; 3] = [
        |i| FlowKey { src: u128::from(i), ..flow(0) },
        |i| FlowKey { dst: u128::from(i), ..flow(0) },
        |i| FlowKey { dport: i as u16, ..flow(0) },
    ];
    for (at, key) in vary.into_iter().enumerate() {
        let first = (0..1000).filter(|i| groups.pick(group, &key(*i)) == Some(0)).count();
        assert!((400..600).contains(&first), "{first} of 1000, field {at}");
    }
}

#[test]
fn a_member_that_goes_moves_its_own_flows_only() {
    let mut groups = Groups::default();
    let three = groups.add([(0, 10), (1, 11), (2, 12)]);
    // The one in the middle goes, and the last has another index now.
    let two = groups.add([(0, 10), (1, 12)]);
    let (before, after) = (picks(&groups, three), picks(&groups, two));
    let mut moved = [0; 2];
    for (before, after) in before.into_iter().zip(after) {
        match before {
            0 => assert_eq!(after, 0),
            2 => assert_eq!(after, 1),
            _ => moved[after as usize] += 1,
        }
    }
    assert!(moved.iter().all(|count| *count > 100), "{moved:?}");
}

#[test]
fn fragments_go_by_their_addresses_alone() {
    let mut groups = Groups::default();
    let group = groups.add([(0, 10), (1, 11)]);
    let first = |i: u32| FlowKey { frag: 2, ..flow(i) };
    let later = |i: u32| FlowKey { frag: 1, sport: 0, dport: 0, proto: 60, ..flow(i) };
    let way = groups.pick(group, &later(0));
    assert!((0..1000).all(|i| groups.pick(group, &first(i)) == way));
    let by_source = |i: u32| groups.pick(group, &FlowKey { src: u128::from(i), ..first(0) });
    assert!((400..600).contains(&(0..1000).filter(|i| by_source(*i) == Some(0)).count()));
}

#[test]
fn equal_groups_are_one_and_unknown_ones_are_empty() {
    let mut groups = Groups::default();
    let group = groups.add([(4, 10), (7, 11)]);
    assert_eq!(groups.add([(4, 10), (7, 11)]), group);
    assert_ne!(groups.add([(4, 10), (8, 12)]), group);
    assert_eq!(groups.members(group).collect::<Vec<_>>(), [4, 7]);
    assert_eq!((groups.members(9).count(), groups.pick(9, &flow(0))), (0, None));
    // Where it came in does not count.
    let from = |ingress| groups.pick(group, &FlowKey { ingress, ..flow(3) });
    assert!((0..100).all(|ingress| from(ingress) == from(0)));
}
