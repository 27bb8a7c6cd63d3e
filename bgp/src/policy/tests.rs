use proptest::prelude::*;

use super::*;
use crate::as_path::AsPath;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn route() -> Attributes {
    let mut attributes = Attributes::new("192.0.2.1".parse().unwrap());
    attributes.as_path = AsPath::sequence(&[65_001, 65_002]);
    attributes.communities = [Community(7), Community(9)].into();
    attributes
}

#[test]
fn ge_and_le_bound_the_length() {
    let list = PrefixList::default().range(net("10.0.0.0/8"), 16, 24).unwrap().exact(net("192.168.0.0/16"));
    for (prefix, expected) in [
        ("10.1.0.0/16", true),
        ("10.1.2.0/24", true),
        ("10.0.0.0/8", false),
        ("10.1.2.0/25", false),
        ("11.1.0.0/16", false),
        ("192.168.0.0/16", true),
        ("192.168.0.0/17", false),
        ("::/16", false),
    ] {
        assert_eq!(list.contains(&net(prefix)), expected, "{prefix}");
    }
    for (ge, le) in [(7, 24), (20, 16), (8, 33)] {
        assert!(PrefixList::default().range(net("10.0.0.0/8"), ge, le).is_err());
    }
    assert!(!PrefixList::default().contains(&net("0.0.0.0/0")), "an empty list matches nothing");
}

#[test]
fn the_first_rule_that_applies_decides() {
    let reject = |when| Rule { when, then: None };
    let prefer = Set { local_pref: Some(200), ..Set::default() };
    let policy = Policy {
        rules: vec![
            reject(Match {
                prefixes: Some(PrefixList::default().or_longer(net("10.0.0.0/8"))),
                ..Match::default()
            }),
            Rule { when: Match { communities: vec![Community(9)], ..Match::default() }, then: Some(prefer) },
        ],
        otherwise: false,
        ..Policy::default()
    };
    assert_eq!(policy.verdict(&net("10.1.0.0/16"), &route()), Verdict::Reject);
    assert_eq!(policy.verdict(&net("11.0.0.0/8"), &route()), Verdict::Change(1));
    let plain = Attributes::new("192.0.2.1".parse().unwrap());
    assert_eq!(policy.verdict(&net("11.0.0.0/8"), &plain), Verdict::Reject);
    let mut changed = route();
    policy.change(Verdict::Change(1), &mut changed);
    assert_eq!(changed.local_pref, Some(200));
}

#[test]
fn every_condition_must_hold() {
    for (as_path, expected) in [
        (AsPathMatch::Empty, false),
        (AsPathMatch::Originates(65_002), true),
        (AsPathMatch::Originates(65_001), false),
        (AsPathMatch::Neighbor(65_001), true),
        (AsPathMatch::Contains(65_002), true),
        (AsPathMatch::Contains(1), false),
        (AsPathMatch::AtLeast(2), true),
        (AsPathMatch::AtLeast(3), false),
    ] {
        let when = Match {
            as_path: vec![as_path.clone()],
            next_hops: vec![net("192.0.2.0/24")],
            ..Match::default()
        };
        assert_eq!(when.applies(&net("10.0.0.0/8"), &route()), expected, "{as_path:?}");
    }
    let elsewhere = Match { next_hops: vec![net("198.51.100.0/24")], ..Match::default() };
    assert!(!elsewhere.applies(&net("10.0.0.0/8"), &route()));
}

#[test]
fn a_community_of_either_kind_is_enough() {
    let large = LargeCommunity([64_512, 1, 2]);
    let when = Match { communities: vec![Community(3)], large_communities: vec![large], ..Match::default() };
    let applies = |attributes: &Attributes| when.applies(&net("10.0.0.0/8"), attributes);
    assert!(!applies(&route()));
    let tagged = Attributes { large_communities: [large].into(), ..route() };
    assert!(applies(&tagged));
    let tagged = Attributes { communities: [Community(3)].into(), ..route() };
    assert!(applies(&tagged));
    let away = Set { remove_large_communities: vec![large], ..Set::default() };
    let mut tagged = Attributes { large_communities: [large, LargeCommunity([1, 1, 1])].into(), ..route() };
    away.apply(&mut tagged);
    assert_eq!(*tagged.large_communities, [LargeCommunity([1, 1, 1])]);
}

#[test]
fn what_is_not_within_is_rejected_before_any_rule() {
    let all = Rule { when: Match::default(), then: Some(Set::default()) };
    let within = Some(PrefixList::default().or_longer(net("10.0.0.0/8")));
    let policy = Policy { within, rules: vec![all], otherwise: true };
    assert_eq!(policy.verdict(&net("10.1.0.0/16"), &route()), Verdict::Accept);
    assert_eq!(policy.verdict(&net("11.0.0.0/8"), &route()), Verdict::Reject);
}

#[test]
fn one_of_several_ases_is_enough() {
    let any = |of: &[u32]| AsPathMatch::Any(of.iter().map(|asn| AsPathMatch::Contains(*asn)).collect());
    assert!(any(&[7, 65_002]).matches(&route()) && !any(&[7, 8]).matches(&route()));
}

#[test]
fn changes_keep_communities_sorted_and_single() {
    let set = Set {
        remove_communities: vec![Community(9)],
        add_communities: vec![Community(3), Community(7)],
        prepend: Some((64_512, 2)),
        med: Some(5),
        ..Set::default()
    };
    let mut attributes = route();
    set.apply(&mut attributes);
    assert_eq!(*attributes.communities, [Community(3), Community(7)]);
    assert_eq!(attributes.as_path.to_string(), "64512 64512 65001 65002");
    assert_eq!(attributes.med, Some(5));
}

proptest! {
    #[test]
    fn a_list_agrees_with_looking_at_each_entry(
        entries in prop::collection::vec((any::<u32>(), 0u8..=32, 0u8..=32, 0u8..=32), 0..20),
        addr: u32,
        length in 0u8..=32,
    ) {
        let small = |addr: u32, length| IpNet::new(std::net::Ipv4Addr::from(addr & 0xf000_000f).into(), length).unwrap();
        let mut list = PrefixList::default();
        let mut plain = Vec::new();
        for (addr, length, ge, le) in entries {
            if let Ok(longer) = list.clone().range(small(addr, length), ge, le) {
                list = longer;
                plain.push((small(addr, length).trunc(), ge, le));
            }
        }
        let net = small(addr, length).trunc();
        let expected = plain.iter().any(|(cover, ge, le)| cover.contains(&net) && (*ge..=*le).contains(&length));
        prop_assert_eq!(list.contains(&net), expected);
    }
}
