use proptest::prelude::*;

use std::net::IpAddr;

use ipnet::IpNet;

use super::plan::{CANDIDATES, candidates};
use super::*;
use crate::config::nets::overlap;
use crate::flannel::Pool;
use crate::store::etcd::wire::KeyValue;

const CONFIG: &str = r#"{"Network":"10.5.0.0/20","Backend":{"Type":"vxlan"}}"#;

/// flannel's keys with these leases, at the revision of the last one.
fn nodes(config: &str, leases: &[(&str, &str, i64)]) -> Nodes {
    let mut nodes = Nodes::new("/net");
    let kv = |name: &str, value: &str, revision: i64, lease: i64| KeyValue {
        key: format!("/net/{name}").into_bytes(),
        create_revision: revision,
        mod_revision: revision,
        value: value.as_bytes().to_vec(),
        lease,
    };
    nodes.listing();
    nodes.put(&kv("config", config, 1, 0));
    for ((name, value, lease), revision) in leases.iter().zip(2..) {
        nodes.put(&kv(&format!("subnets/{name}"), value, revision, *lease));
    }
    nodes.listed(1 + leases.len() as i64);
    nodes
}

fn keeper() -> Keeper {
    let own = Own { address: Some("192.168.77.1".parse().unwrap()), address6: None, key: None };
    Keeper::new(Timing::default(), own, None, Some(Mac([14, 0, 0, 0, 0, 1])), Mac([2; 6]))
}

const OURS: &str = r#"{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}}"#;
const OTHER: &str = r#"{"PublicIP":"192.168.77.2","PublicIPv6":null,"BackendType":"host-gw"}"#;

fn claim(call: Option<Call>) -> Claim {
    match call {
        Some(Call::Claim(claim)) => claim,
        other => panic!("a claim, not {other:?}"),
    }
}

/// After the times that a claim may be held off.
fn later(now: Instant) -> Instant {
    now + Duration::from_secs(10)
}

#[test]
fn nothing_is_done_before_the_network_is_known() {
    let mut keeper = keeper();
    let now = Instant::now();
    assert_eq!(keeper.step(&Nodes::new("/net"), now, &mut |_| 0), None);
    let mut listing = nodes(CONFIG, &[]);
    listing.listing();
    assert_eq!(keeper.step(&listing, now, &mut |_| 0), None);
}

#[test]
fn one_of_the_free_subnets_is_chosen_by_lot() {
    let taken =
        nodes(CONFIG, &[("10.5.1.0-24", OTHER, 7), ("10.5.3.0-24", "junk", 7), ("10.5.0.0-20", OTHER, 7)]);
    let chosen = |lot: usize| claim(keeper().step(&taken, Instant::now(), &mut |_| lot)).key.to_string();
    assert_eq!(chosen(0), "10.5.2.0-24");
    assert_eq!(chosen(1), "10.5.4.0-24");
    // Fifteen, but for two that are taken; a claim to everything counts for nothing.
    let mut count = 0;
    keeper().step(&taken, Instant::now(), &mut |n| std::mem::replace(&mut count, n));
    assert_eq!(count, 13);
}

#[test]
fn a_full_network_is_said() {
    let full = nodes(
        CONFIG,
        &[
            ("10.5.0.0-22", OTHER, 7),
            ("10.5.4.0-22", OTHER, 7),
            ("10.5.8.0-22", OTHER, 7),
            ("10.5.12.0-22", OTHER, 7),
        ],
    );
    let mut keeper = keeper();
    assert_eq!(keeper.step(&full, Instant::now(), &mut |_| 0), None);
    assert_eq!(keeper.note.as_deref(), Some("no subnet is free in 10.5.0.0/20"));
}

#[test]
fn what_is_ours_already_is_written_over() {
    let have = nodes(CONFIG, &[("10.5.9.0-24", r#"{"PublicIP":"192.168.77.1"}"#, 0)]);
    let first = claim(keeper().step(&have, Instant::now(), &mut |_| 0));
    assert_eq!((first.key.to_string(), first.over, first.reservation), ("10.5.9.0-24".to_owned(), 2, true));
    assert_eq!(first.value.encode(), OURS);
    // Of the wrong size it is replaced.
    let have = nodes(CONFIG, &[("10.5.9.0-25", OURS, 7)]);
    let first = claim(keeper().step(&have, Instant::now(), &mut |_| 0));
    assert_eq!(
        (first.key.to_string(), first.remove),
        ("10.5.1.0-24".to_owned(), Some(("10.5.9.0-25".to_owned(), 2)))
    );
}

#[test]
fn a_held_lease_is_renewed_in_time_and_looked_after() {
    let (mut keeper, now) = (keeper(), Instant::now());
    let first = claim(keeper.step(&nodes(CONFIG, &[]), now, &mut |_| 4));
    let name = first.key.to_string();
    let ttl = Duration::from_secs(86_400);
    keeper.claimed(first, Claimed::Yes { revision: 2, lease: 7, ttl }, now);
    let have = nodes(CONFIG, &[(&name, OURS, 7)]);
    assert_eq!(keeper.step(&have, later(now), &mut |_| 0), None);
    assert_eq!(keeper.own().key.unwrap().to_string(), name);
    // An hour before its end; and each minute when that fails.
    let due = now + ttl - Duration::from_secs(3600);
    assert_eq!(keeper.step(&have, due - Duration::from_secs(1), &mut |_| 0), None);
    assert_eq!(keeper.step(&have, due, &mut |_| 0), Some(Call::Renew { lease: 7 }));
    keeper.renewed(None, due);
    assert_eq!(keeper.step(&have, due + Duration::from_secs(59), &mut |_| 0), None);
    assert_eq!(keeper.step(&have, due + Duration::from_secs(60), &mut |_| 0), Some(Call::Renew { lease: 7 }));
    keeper.renewed(Some(ttl), due);
    assert_eq!(keeper.step(&have, due + Duration::from_secs(60), &mut |_| 0), None);
    // What somebody overwrites is written again, what somebody deletes is taken again.
    let odd = nodes(CONFIG, &[(&name, "{}", 0)]);
    assert_eq!(claim(keeper.step(&odd, later(due), &mut |_| 0)).over, 2);
    let again = claim(keeper.step(&nodes(CONFIG, &[("10.5.8.0-24", OTHER, 7)]), later(due), &mut |_| 0));
    assert_eq!((again.key.to_string(), again.over), (name.clone(), 0));
    assert_eq!(keeper.own().key.unwrap().to_string(), name, "packets go on");
}

#[test]
fn a_lease_that_ran_out_is_sought_again() {
    let (mut keeper, now) = (keeper(), Instant::now());
    let first = claim(keeper.step(&nodes(CONFIG, &[]), now, &mut |_| 4));
    let name = first.key.to_string();
    keeper.claimed(first, Claimed::Yes { revision: 2, lease: 7, ttl: Duration::from_secs(10) }, now);
    keeper.renewed(Some(Duration::ZERO), now);
    let again = claim(keeper.step(&nodes(CONFIG, &[("10.5.8.0-24", OTHER, 7)]), later(now), &mut |_| 0));
    assert_eq!(again.key.to_string(), name);
    // Another node had it meanwhile.
    let lost = nodes(CONFIG, &[("10.5.8.0-24", OTHER, 7), (&name, OTHER, 8)]);
    assert_ne!(claim(keeper.step(&lost, later(now), &mut |_| 0)).key.to_string(), name);
}

#[test]
fn of_two_that_overlap_the_later_one_yields() {
    let (mut keeper, fresh, now) = (keeper(), keeper(), Instant::now());
    let first = claim(keeper.step(&nodes(CONFIG, &[]), now, &mut |_| 0));
    let (key, name) = (first.key, first.key.to_string());
    keeper.claimed(first, Claimed::Yes { revision: 3, lease: 7, ttl: Duration::from_secs(100) }, now);
    // Written before ours, seen only now.
    let both = nodes(CONFIG, &[("10.5.1.0-24&fd00:1::-64", OTHER, 7), (&name, OURS, 7)]);
    assert_eq!(keeper.step(&both, later(now), &mut |_| 0), Some(Call::Yield { key, modified: 3 }));
    keeper.yielded(true, now);
    assert_ne!(claim(keeper.step(&both, later(now), &mut |_| 0)).key, key);
    // The other way round it is not ours to yield.
    let mut keeper = fresh;
    let first = claim(keeper.step(&nodes(CONFIG, &[]), now, &mut |_| 0));
    keeper.claimed(first, Claimed::Yes { revision: 2, lease: 7, ttl: Duration::from_secs(100) }, now);
    let both = nodes(CONFIG, &[(&name, OURS, 7), ("10.5.1.0-24&fd00:1::-64", OTHER, 7)]);
    assert_eq!(keeper.step(&both, later(now), &mut |_| 0), None);
}

#[test]
fn what_a_node_lacks_is_said() {
    for (config, note) in [
        (
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#,
            "this node has no IPv6 address (node.address6)",
        ),
        (
            r#"{"Network":"192.168.0.0/16","Backend":{"Type":"vxlan"}}"#,
            "this node's address 192.168.77.1 is inside the network of pods",
        ),
    ] {
        let mut keeper = keeper();
        assert_eq!(keeper.step(&nodes(config, &[]), Instant::now(), &mut |_| 0), None);
        assert_eq!(keeper.note.as_deref(), Some(note));
    }
}

proptest! {
    /// Beside a walk over every subnet.
    #[test]
    fn candidates_are_the_first_free_ones(
        taken in proptest::collection::vec((0_u32..1 << 16, 18_u8..=32), 0..60),
        len in 18_u8..=28,
        six in any::<bool>(),
    ) {
        let shift = if six { 96 } else { 0 };
        let place = |offset: u32, len: u8| -> IpNet {
            let addr: IpAddr = match six {
                true => std::net::Ipv6Addr::from_bits(0xfd00_0005 << 96 | u128::from(offset)).into(),
                false => std::net::Ipv4Addr::from_bits(0x0a05_0000 | offset).into(),
            };
            IpNet::new(addr, len + shift).unwrap().trunc()
        };
        let network = place(0, 16);
        let all: Vec<IpNet> = (0..1_u32 << (len - 16)).map(|i| place(i << (32 - len), len)).collect();
        let pool = Pool { network, subnet_len: len + shift, min: all[1].addr(), max: all[all.len() - 1].addr() };
        let taken: Vec<IpNet> = taken.into_iter().map(|(offset, len)| place(offset, len)).collect();
        let free = |net: &&IpNet| !taken.iter().any(|other| overlap(other, net));
        let expected: Vec<IpNet> = all[1..].iter().filter(free).take(CANDIDATES).copied().collect();
        prop_assert_eq!(candidates(&pool, &taken), expected);
    }
}
