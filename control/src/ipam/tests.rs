use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn owner(n: u32) -> AttachmentId {
    AttachmentId { container_id: format!("c{n}"), ifname: "eth0".into() }
}

fn ipam(nets: &[&str]) -> Ipam {
    Ipam::new(&nets.iter().map(|n| n.parse().unwrap()).collect::<Vec<_>>())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn gives_one_address_of_each_family() {
    let mut ipam = ipam(&["10.244.1.0/24", "fd00:1::/64"]);
    assert_eq!(ipam.allocate(&owner(1), &[]).unwrap(), [ip("10.244.1.2"), ip("fd00:1::2")]);
    assert_eq!(ipam.allocate(&owner(2), &[]).unwrap(), [ip("10.244.1.3"), ip("fd00:1::3")]);
    assert_eq!(ipam.used(), 4);
    assert_eq!(ipam.holder(ip("10.244.1.3")), Some(&owner(2)));
    assert_eq!(ipam.allocate(&owner(1), &[]), Err(IpamError::Held { owner: owner(1) }));
}

#[test]
fn goes_round_before_it_gives_an_address_again() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    assert_eq!(ipam.total(), 5);
    assert_eq!(ipam.allocate(&owner(1), &[]).unwrap(), [ip("10.0.0.2")]);
    ipam.release(&owner(1));
    let given: Vec<_> = (2..7).map(|n| ipam.allocate(&owner(n), &[]).unwrap()[0]).collect();
    assert_eq!(given, [ip("10.0.0.3"), ip("10.0.0.4"), ip("10.0.0.5"), ip("10.0.0.6"), ip("10.0.0.2")]);
    let err = ipam.allocate(&owner(9), &[]).unwrap_err();
    assert_eq!(err.to_string(), "no IPv4 address is left in 10.0.0.0/29");
    ipam.release(&owner(4));
    assert_eq!(ipam.allocate(&owner(9), &[]).unwrap(), [ip("10.0.0.5")]);
}

#[test]
fn a_second_range_follows_a_full_first() {
    let mut ipam = ipam(&["10.0.0.0/30", "10.9.0.0/30"]);
    assert_eq!(ipam.allocate(&owner(1), &[]).unwrap(), [ip("10.0.0.2")]);
    assert_eq!(ipam.allocate(&owner(2), &[]).unwrap(), [ip("10.9.0.2")]);
    assert_eq!(
        ipam.allocate(&owner(3), &[]).unwrap_err().to_string(),
        "no IPv4 address is left in 10.0.0.0/30, 10.9.0.0/30"
    );
}

#[test]
fn honours_a_request_or_says_why_not() {
    let mut ipam = ipam(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(ipam.allocate(&owner(1), &[ip("fd00::77")]).unwrap(), [ip("10.0.0.2"), ip("fd00::77")]);
    let cases: &[(&[&str], &str)] = &[
        (&["fd00::77"], "address fd00::77 belongs to eth0 of c1"),
        (&["10.0.1.4"], "address 10.0.1.4 is outside this node's pod ranges"),
        (&["10.0.0.0"], "address 10.0.0.0 is reserved (network, gateway or broadcast address of its range)"),
        (&["10.0.0.1"], "address 10.0.0.1 is reserved (network, gateway or broadcast address of its range)"),
        (
            &["10.0.0.255"],
            "address 10.0.0.255 is reserved (network, gateway or broadcast address of its range)",
        ),
        (&["fd00::1"], "address fd00::1 is reserved (network, gateway or broadcast address of its range)"),
        (&["10.0.0.7", "10.0.0.8"], "two IPv4 addresses were requested; a pod has one of each family"),
    ];
    for (wishes, why) in cases {
        let wishes: Vec<_> = wishes.iter().map(|w| ip(w)).collect();
        assert_eq!(ipam.allocate(&owner(2), &wishes).unwrap_err().to_string(), *why);
        assert_eq!(ipam.used(), 2, "a refused request leaves nothing behind");
    }
    assert_eq!(ipam.allocate(&owner(2), &[]).unwrap()[0], ip("10.0.0.3"));
}

#[test]
fn v6_uses_its_last_address_and_v4_does_not() {
    assert_eq!(usable("fd00::/126".parse().unwrap()), Some((ip("fd00::2"), ip("fd00::3"))));
    assert_eq!(usable("10.0.0.0/30".parse().unwrap()), Some((ip("10.0.0.2"), ip("10.0.0.2"))));
    for tiny in ["10.0.0.0/31", "10.0.0.0/32", "255.255.255.254/31", "fd00::/127", "fd00::/128"] {
        assert_eq!(usable(tiny.parse().unwrap()), None, "{tiny}");
    }
    let mut top = ipam(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"]);
    assert!(top.allocate(&owner(1), &[]).is_ok());
    assert!(top.allocate(&owner(2), &[]).is_ok());
    assert!(top.allocate(&owner(3), &[]).is_err());
}

#[test]
fn restores_what_an_earlier_run_gave() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    ipam.restore(&owner(1), &[ip("10.0.0.9")]).unwrap();
    ipam.restore(&owner(2), &[ip("192.168.5.5")]).unwrap();
    assert_eq!(
        ipam.restore(&owner(3), &[ip("10.0.0.9")]),
        Err(IpamError::Taken { addr: ip("10.0.0.9"), owner: owner(1) })
    );
    assert_eq!(ipam.restore(&owner(1), &[]), Err(IpamError::Held { owner: owner(1) }));
    assert_eq!(ipam.allocate(&owner(4), &[]).unwrap(), [ip("10.0.0.10")]);
    assert_eq!(ipam.release(&owner(2)), [ip("192.168.5.5")]);
    assert_eq!(ipam.release(&owner(2)), [] as [IpAddr; 0]);
}

#[derive(Debug, Clone)]
enum Op {
    Any(u32),
    Wish(u32, u32),
    Release(u32),
    Restore(u32, u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..24u32).prop_map(Op::Any),
        2 => (0..24u32, 0..40u32).prop_map(|(o, a)| Op::Wish(o, a)),
        3 => (0..24u32).prop_map(Op::Release),
        1 => (0..24u32, 0..40u32).prop_map(|(o, a)| Op::Restore(o, a)),
    ]
}

proptest! {
    /// Against a plain set: never an address twice, never a reserved one, full exactly when the set is full.
    #[test]
    fn agrees_with_a_plain_set(ops in proptest::collection::vec(op(), 1..200)) {
        let base = u32::from_be_bytes([10, 0, 0, 0]);
        let mut ipam = ipam(&["10.0.0.0/28"]);
        let pool: BTreeSet<u32> = (2..15).collect();
        let mut model: BTreeMap<u32, u32> = BTreeMap::new(); // owner -> host part
        for op in ops {
            match op {
                Op::Any(o) => match ipam.allocate(&owner(o), &[]) {
                    Ok(addrs) => {
                        prop_assert_eq!(addrs.len(), 1);
                        let IpAddr::V4(v4) = addrs[0] else { panic!("{addrs:?}") };
                        let host = v4.to_bits() - base;
                        prop_assert!(pool.contains(&host));
                        prop_assert!(!model.values().any(|h| *h == host));
                        prop_assert!(model.insert(o, host).is_none());
                    }
                    Err(IpamError::Held { .. }) => prop_assert!(model.contains_key(&o)),
                    Err(IpamError::Exhausted { .. }) => {
                        let used: BTreeSet<u32> = model.values().copied().filter(|h| pool.contains(h)).collect();
                        prop_assert_eq!(&used, &pool);
                    }
                    Err(other) => prop_assert!(false, "{}", other),
                },
                Op::Wish(o, host) => {
                    let addr = IpAddr::V4((base + host).into());
                    let free = pool.contains(&host) && !model.contains_key(&o) && !model.values().any(|h| *h == host);
                    let got = ipam.allocate(&owner(o), &[addr]);
                    prop_assert_eq!(got.is_ok(), free, "{:?}", got);
                    if free { model.insert(o, host); }
                }
                Op::Release(o) => {
                    let gone = model.remove(&o).map(|h| IpAddr::V4((base + h).into()));
                    prop_assert_eq!(ipam.release(&owner(o)), gone.into_iter().collect::<Vec<_>>());
                }
                Op::Restore(o, host) => {
                    let free = !model.contains_key(&o) && !model.values().any(|h| *h == host);
                    let got = ipam.restore(&owner(o), &[IpAddr::V4((base + host).into())]);
                    prop_assert_eq!(got.is_ok(), free, "{:?}", got);
                    if free { model.insert(o, host); }
                }
            }
            prop_assert_eq!(ipam.used(), model.len() as u64);
        }
    }
}
