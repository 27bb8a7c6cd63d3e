//! RFC 7606 section 7, attribute by attribute: what an error costs.

use std::net::IpAddr;

use super::code::*;
use super::*;
use crate::family::{Family, PerFamily};

const T: u8 = TRANSITIVE;
const O: u8 = OPTIONAL;

fn context(internal: bool, wide: bool) -> Context {
    Context {
        internal,
        wide,
        families: PerFamily::from_fn(|_| true),
        add_path: PerFamily::default(),
        extended_next_hop: false,
    }
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    [&[flags, code, u8::try_from(value.len()).unwrap()], value].concat()
}

/// The mandatory attributes, without those of `but`.
fn mandatory(but: u8) -> Vec<u8> {
    let all = [
        attribute(T, ORIGIN, &[0]),
        attribute(T, AS_PATH, &[2, 1, 0, 0, 0xfd, 0xe9]),
        attribute(T, NEXT_HOP, &[192, 0, 2, 1]),
    ];
    all.into_iter().filter(|a| a[1] != but).collect::<Vec<_>>().concat()
}

/// What this attribute beside the mandatory ones leads to, in an UPDATE with prefixes.
fn fate(internal: bool, flags: u8, code: u8, value: &[u8]) -> Option<Handling> {
    let bytes = [mandatory(code), attribute(flags, code, value)].concat();
    match parse(&bytes, &context(internal, true), true) {
        Ok(parsed) => parsed.worst,
        Err(error) => {
            assert_eq!((error.code, error.handling), (code, Handling::Reset));
            Some(Handling::Reset)
        }
    }
}

#[test]
fn a_good_one_costs_nothing() {
    for (flags, code, value) in [
        (T, ORIGIN, &[2][..]),
        (T, AS_PATH, &[]),
        (T, AS_PATH, &[1, 1, 0, 0, 0, 9, 2, 1, 0, 1, 0, 0]),
        (T, NEXT_HOP, &[10, 0, 0, 1]),
        (O, MULTI_EXIT_DISC, &[0; 4]),
        (T, LOCAL_PREF, &[0; 4]),
        (T, ATOMIC_AGGREGATE, &[]),
        (O | T, AGGREGATOR, &[0, 0, 0, 1, 1, 2, 3, 4]),
        (O | T | PARTIAL, COMMUNITIES, &[1; 8]),
        (O, ORIGINATOR_ID, &[1; 4]),
        (O, CLUSTER_LIST, &[1; 8]),
        (O | T, EXTENDED_COMMUNITIES, &[1; 16]),
        (O | T, LARGE_COMMUNITY, &[1; 24]),
        (O | T, 40, &[1; 5]),
        (O, 26, &[1; 5]),
    ] {
        assert_eq!(fate(true, flags, code, value), None, "{code} {value:?}");
    }
}

#[test]
fn what_is_wrong_costs_what_rfc_7606_says() {
    use Handling::{Discard, Reset, Withdraw};
    for (flags, code, value, handling) in [
        (T, ORIGIN, &[][..], Withdraw),
        (T, ORIGIN, &[3], Withdraw),
        (T, ORIGIN, &[0, 0], Withdraw),
        (O | T, ORIGIN, &[0], Withdraw),
        (T, AS_PATH, &[2], Withdraw),
        (T, AS_PATH, &[2, 0], Withdraw),
        (T, AS_PATH, &[2, 2, 0, 0, 0, 1], Withdraw),
        (T, AS_PATH, &[3, 1, 0, 0, 0, 1], Withdraw),
        (T, AS_PATH, &[2, 1, 0, 0, 0, 0], Withdraw),
        (T, NEXT_HOP, &[1, 2, 3], Withdraw),
        (T, NEXT_HOP, &[224, 0, 0, 1], Withdraw),
        (T, NEXT_HOP, &[0, 0, 0, 0], Withdraw),
        (T, NEXT_HOP, &[127, 0, 0, 1], Withdraw),
        (O, MULTI_EXIT_DISC, &[0; 3], Withdraw),
        (T, LOCAL_PREF, &[0; 5], Withdraw),
        (T, ATOMIC_AGGREGATE, &[0], Discard),
        (O | T, AGGREGATOR, &[0; 6], Discard),
        (O | T, AGGREGATOR, &[0, 0, 0, 0, 1, 2, 3, 4], Discard),
        (O | T, COMMUNITIES, &[], Withdraw),
        (O | T, COMMUNITIES, &[0; 7], Withdraw),
        (T, COMMUNITIES, &[0; 4], Withdraw),
        (O, ORIGINATOR_ID, &[0; 3], Withdraw),
        (O, CLUSTER_LIST, &[], Withdraw),
        (O, CLUSTER_LIST, &[0; 6], Withdraw),
        (O | T, EXTENDED_COMMUNITIES, &[0; 9], Withdraw),
        (O | T, LARGE_COMMUNITY, &[0; 11], Withdraw),
        (O | T, LARGE_COMMUNITY, &[], Withdraw),
        (O | T, AS4_PATH, &[2, 1, 0, 0, 0, 1], Discard),
        (O | T, AS4_AGGREGATOR, &[0; 3], Discard),
        (T, 99, &[1], Withdraw),
        // MP_REACH_NLRI: cut, next hops of wrong lengths, a next hop over the end, prefixes that cannot be.
        (O, MP_REACH_NLRI, &[0, 2], Reset),
        (O, MP_REACH_NLRI, &[0, 2, 1, 4, 1, 2, 3, 4, 0], Reset),
        (O, MP_REACH_NLRI, &[0, 2, 1, 200, 1, 2, 3, 4, 0], Reset),
        (O, MP_REACH_NLRI, &[0, 1, 1, 4, 1, 2, 3, 4, 0, 33, 1, 2, 3, 4, 5], Reset),
        (O, MP_REACH_NLRI, &[0, 1, 1, 4, 1, 2, 3, 4, 0, 24, 1], Reset),
        (O, MP_REACH_NLRI, &[0, 1, 1, 4, 224, 2, 3, 4, 0, 8, 10], Withdraw),
        (O | T, MP_REACH_NLRI, &[0, 1, 1, 4, 1, 2, 3, 4, 0, 8, 10], Withdraw),
        (O, MP_REACH_NLRI, &[0, 1, 128, 0], Discard),
        (O, MP_UNREACH_NLRI, &[0, 2, 1, 200], Reset),
        (O, MP_UNREACH_NLRI, &[0, 2], Reset),
        (O, MP_UNREACH_NLRI, &[64, 4, 71, 1, 2], Discard),
    ] {
        assert_eq!(fate(true, flags, code, value), Some(handling), "{flags:x} {code} {value:?}");
    }
}

#[test]
fn what_only_our_own_as_may_send_is_forgotten_unread() {
    for (flags, code, value) in [
        (T, LOCAL_PREF, &[0; 5][..]),
        (O, ORIGINATOR_ID, &[0; 3]),
        (O, CLUSTER_LIST, &[]),
        (O | T, LOCAL_PREF, &[0; 4]),
    ] {
        assert_eq!(fate(false, flags, code, value), Some(Handling::Discard), "{code}");
    }
}

#[test]
fn a_missing_mandatory_attribute_withdraws() {
    for code in [ORIGIN, AS_PATH, NEXT_HOP] {
        let parsed = parse(&mandatory(code), &context(true, true), true).unwrap();
        let error = AttributeError { code, fault: Fault::Missing, handling: Handling::Withdraw };
        assert_eq!(parsed.errors, [error]);
    }
    assert_eq!(parse(&mandatory(0), &context(true, true), true).unwrap().worst, None);
}

#[test]
fn the_second_of_two_is_forgotten_but_multiprotocol_ones_end_the_session() {
    let bytes = [mandatory(0), attribute(T, ORIGIN, &[2])].concat();
    let parsed = parse(&bytes, &context(true, true), true).unwrap();
    assert_eq!((parsed.attributes.origin, parsed.worst), (Origin::Igp, Some(Handling::Discard)));
    let unreach = attribute(O, MP_UNREACH_NLRI, &[0, 2, 1]);
    let error = parse(&[unreach.clone(), unreach].concat(), &context(true, true), false).unwrap_err();
    assert_eq!((error.fault, error.handling), (Fault::Duplicate, Handling::Reset));
}

#[test]
fn an_overrun_withdraws_where_prefixes_are_known_and_resets_where_not() {
    for tail in [&[T, MULTI_EXIT_DISC, 200, 1][..], &[T, MULTI_EXIT_DISC], &[T], &[T | EXTENDED, 9, 1]] {
        let bytes = [mandatory(0), tail.to_vec()].concat();
        assert_eq!(parse(&bytes, &context(true, true), true).unwrap().worst, Some(Handling::Withdraw));
        // RFC 7606 section 5.2: without prefixes nobody knows what would be withdrawn.
        let error = parse(&bytes, &context(true, true), false).unwrap_err();
        assert_eq!(error.handling, Handling::Reset);
    }
}

#[test]
fn many_errors_are_not_all_kept() {
    let bytes = [mandatory(0), attribute(T, ORIGIN, &[0]).repeat(1000)].concat();
    assert_eq!(parse(&bytes, &context(true, true), true).unwrap().errors.len(), 8);
}

#[test]
fn an_aggregator_that_is_not_as_trans_disproves_the_four_octet_attributes() {
    let path = attribute(T, AS_PATH, &[2, 2, 0xfc, 0, 0x5b, 0xa0]);
    let four = attribute(O | T, AS4_PATH, &[2, 1, 0, 1, 0x11, 0x70]);
    let four_aggregator = attribute(O | T, AS4_AGGREGATOR, &[0, 1, 0x11, 0x70, 9, 9, 9, 9]);
    let say = |aggregator: &[u8]| {
        let bytes =
            [mandatory(AS_PATH), path.clone(), aggregator.to_vec(), four.clone(), four_aggregator.clone()];
        let attributes = parse(&bytes.concat(), &context(true, false), true).unwrap().attributes;
        (attributes.as_path.to_string(), attributes.aggregator.map(|a| a.0))
    };
    assert_eq!(say(&[]), ("64512 70000".to_owned(), None));
    assert_eq!(
        say(&attribute(O | T, AGGREGATOR, &[0x5b, 0xa0, 9, 9, 9, 9])),
        ("64512 70000".to_owned(), Some(70_000))
    );
    assert_eq!(say(&attribute(O | T, AGGREGATOR, &[0, 7, 9, 9, 9, 9])), ("64512 23456".to_owned(), Some(7)));
}

#[test]
fn next_hops_of_ipv6_have_one_or_two_addresses() {
    let global: [u8; 16] = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let link: [u8; 16] = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
    let say = |afi: u8, hops: &[u8], extended: bool| {
        let value = [&[0, afi, 1, u8::try_from(hops.len()).unwrap()][..], hops, &[0, 0]].concat();
        let bytes = [mandatory(NEXT_HOP), attribute(O, MP_REACH_NLRI, &value)].concat();
        let context = Context { extended_next_hop: extended, ..context(true, true) };
        parse(&bytes, &context, false).map(|p| p.reach.map(|r| (r.family, r.next_hop)))
    };
    let addr = IpAddr::from(global);
    assert_eq!(say(2, &global, false).unwrap(), Some((Family::Ipv6, addr.into())));
    let both = NextHop { addr, link_local: Some(link.into()) };
    assert_eq!(say(2, &[global, link].concat(), false).unwrap(), Some((Family::Ipv6, both)));
    // RFC 8950, where it was agreed.
    assert_eq!(say(1, &global, true).unwrap(), Some((Family::Ipv4, addr.into())));
    assert_eq!(say(1, &global, false).unwrap_err().handling, Handling::Reset);
}

#[test]
fn long_values_take_a_longer_length() {
    let mut attributes = Attributes::new(IpAddr::from([192, 0, 2, 1]));
    attributes.communities = (0..100).map(Community).collect();
    attributes.unknown = [40, 200].map(|code| Unknown { code, value: vec![code; 300].into() }).into();
    let mut bytes = Vec::new();
    attributes.emit(true, true, &mut bytes);
    let parsed = parse(&bytes, &context(true, true), true).unwrap();
    let next_hop = parsed.next_hop.map(|a| IpAddr::V4(a).into()).unwrap();
    assert_eq!(Attributes { next_hop, ..parsed.attributes }, attributes);
    // Unknown ones go on with the partial bit set.
    let at = bytes.windows(2).position(|w| w[0] & PARTIAL != 0 && w[1] == 200).unwrap();
    assert_eq!(bytes[at] & (O | T | PARTIAL), O | T | PARTIAL);
}
