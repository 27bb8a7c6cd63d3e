use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::as_path::AsPath;
use crate::attr::{Origin, Unknown};
use crate::community::{Community, LargeCommunity};
use crate::family::PerFamily;
use crate::frame::{self, Framer};
use crate::msg::update_out::{self, Encoded};

mod zettabgp;

pub(super) fn context(wide: bool) -> Context {
    Context {
        internal: true,
        wide,
        families: PerFamily::from_fn(|_| true),
        add_path: PerFamily::default(),
        extended_next_hop: true,
    }
}

prop_compose! {
    pub(super) fn v4_net()(addr: u32, length in 0u8..=32) -> IpNet {
        IpNet::V4(Ipv4Net::new(addr.into(), length).unwrap().trunc())
    }
}

prop_compose! {
    pub(super) fn v6_net()(addr: u128, length in 0u8..=128) -> IpNet {
        IpNet::V6(Ipv6Net::new(addr.into(), length).unwrap().trunc())
    }
}

pub(super) fn nets(family: Family) -> BoxedStrategy<Vec<IpNet>> {
    match family {
        Family::Ipv4 => prop::collection::vec(v4_net(), 1..2000).boxed(),
        Family::Ipv6 => prop::collection::vec(v6_net(), 1..1000).boxed(),
    }
}

prop_compose! {
    /// Any attributes a route may have. Next hops from 1.0.0.0/8 and 2001::/16.
    pub(super) fn attributes(family: Family)(
        origin in prop::sample::select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete]),
        path in prop::collection::vec(1u32.., 0..20),
        hop: u32,
        med: Option<u32>,
        local_pref: Option<u32>,
        atomic_aggregate: bool,
        aggregator in prop::option::of((1u32.., any::<u32>())),
        communities in prop::collection::vec(any::<u32>().prop_map(Community), 0..80),
        large in prop::collection::vec(any::<[u32; 3]>().prop_map(LargeCommunity), 0..5),
        extended in prop::collection::vec(any::<[u8; 8]>(), 0..5),
        (originator, clusters) in (any::<Option<u32>>(), prop::collection::vec(any::<u32>(), 0..5)),
        unknown in prop::option::of((100u8..=254, prop::collection::vec(any::<u8>(), 0..300))),
    ) -> Attributes {
        let next_hop: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::from_bits(0x0100_0000 | hop >> 8).into(),
            Family::Ipv6 => Ipv6Addr::from_bits(0x2001 << 112 | u128::from(hop)).into(),
        };
        Attributes {
            origin,
            as_path: AsPath::sequence(&path),
            next_hop: next_hop.into(),
            med,
            local_pref,
            atomic_aggregate,
            aggregator: aggregator.map(|(asn, id)| (asn, id.into())),
            communities: communities.into(),
            large_communities: large.into(),
            extended_communities: extended.into(),
            originator_id: originator.map(Ipv4Addr::from),
            cluster_list: clusters.into_iter().map(Ipv4Addr::from).collect(),
            unknown: unknown.map(|(code, value)| Unknown { code, value: value.into() }).into_iter().collect(),
        }
    }
}

pub(super) fn routes() -> impl Strategy<Value = (Family, Attributes, Vec<IpNet>)> {
    prop::sample::select(Family::ALL.to_vec())
        .prop_flat_map(|family| (Just(family), attributes(family), nets(family)))
}

fn body(message: &[u8]) -> &[u8] {
    &message[frame::HEADER..]
}

proptest! {
    #[test]
    fn what_is_announced_is_parsed((family, attributes, nets) in routes(), wide: bool, long: bool) {
        let most = if long { frame::MAX_EXTENDED } else { frame::MAX };
        let mut messages = Vec::new();
        Encoded::new(&attributes, family, wide, most).unwrap().announce(&nets, most, &mut messages);
        let mut got = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= most);
            let mut framer = Framer::default();
            framer.extended(long);
            framer.push(message);
            prop_assert!(framer.next().unwrap().is_some());
            let update = Update::parse(body(message), &context(wide)).unwrap();
            prop_assert_eq!((update.errors.len(), update.announced.len()), (0, 1));
            prop_assert_eq!(&update.announced[0].attributes, &attributes);
            got.extend(update.announced[0].prefixes.iter().map(|n| n.net));
        }
        prop_assert_eq!(&got, &nets);
        // As few as fit: no two neighbours could have been one.
        for pair in messages.windows(2) {
            prop_assert!(pair[0].len() + 60 > most, "{} of {most}", pair[0].len());
        }
    }

    #[test]
    fn what_is_withdrawn_is_parsed((family, _, nets) in routes()) {
        let mut messages = Vec::new();
        update_out::withdraw(family, &nets, frame::MAX, &mut messages);
        let mut got = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= frame::MAX);
            let update = Update::parse(body(message), &context(true)).unwrap();
            prop_assert!(update.announced.is_empty() && update.end_of_rib.is_none());
            got.extend(update.withdrawn[0].1.iter().map(|n| n.net));
        }
        prop_assert_eq!(got, nets);
    }

    #[test]
    fn random_bodies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), wide: bool) {
        let _ = Update::parse(&bytes, &context(wide));
    }

    /// Bytes changed in good messages reach deeper than random ones.
    #[test]
    fn spoilt_messages_never_panic_nor_grow(
        (family, attributes, nets) in routes(),
        spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
        add_path: bool,
    ) {
        let mut messages = Vec::new();
        Encoded::new(&attributes, family, true, frame::MAX).unwrap().announce(&nets, frame::MAX, &mut messages);
        let mut bytes = body(&messages[0]).to_vec();
        for (at, value) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut context = context(true);
        context.add_path = PerFamily::from_fn(|_| add_path);
        if let Ok(update) = Update::parse(&bytes, &context) {
            let prefixes: usize = update.announced.iter().map(|a| a.prefixes.len()).sum::<usize>()
                + update.withdrawn.iter().map(|w| w.1.len()).sum::<usize>();
            prop_assert!(prefixes <= bytes.len());
        }
    }
}

#[test]
fn end_of_rib_both_ways() {
    for family in Family::ALL {
        let update = Update::parse(body(&update_out::end_of_rib(family)), &context(true)).unwrap();
        assert_eq!(update, Update { end_of_rib: Some(family), ..Update::default() });
    }
}

#[test]
fn ipv4_with_an_ipv6_next_hop_lies_in_mp_reach() {
    let attributes = Attributes::new("2001:db8::9".parse().unwrap());
    let nets = ["10.0.0.0/8".parse().unwrap()];
    let mut messages = Vec::new();
    Encoded::new(&attributes, Family::Ipv4, true, frame::MAX).unwrap().announce(
        &nets,
        frame::MAX,
        &mut messages,
    );
    let update = Update::parse(body(&messages[0]), &context(true)).unwrap();
    assert_eq!((update.announced[0].family, &update.announced[0].attributes), (Family::Ipv4, &attributes));
}

#[test]
fn lengths_that_contradict_each_other_end_the_session() {
    for bytes in [&[][..], &[0, 9, 0, 0], &[0, 0, 0, 9], &[0, 0, 0], &[0, 1, 0, 0]] {
        assert_eq!(Update::parse(bytes, &context(true)), Err(UpdateError::Lengths), "{bytes:?}");
    }
    assert_eq!(Update::parse(&[0, 1, 8, 0, 0], &context(true)), Err(UpdateError::Prefixes));
    assert_eq!(Update::parse(&[0, 0, 0, 0, 40], &context(true)), Err(UpdateError::Prefixes));
    assert_eq!(Notification::from(UpdateError::Prefixes).subcode, 10);
}

#[test]
fn a_bad_attribute_withdraws_the_routes_it_came_with() {
    // ORIGIN 9, AS_PATH empty, NEXT_HOP, and 10.0.0.0/8; 11.0.0.0/8 is withdrawn anyway.
    let bytes = [0, 2, 8, 11, 0, 14, 0x40, 1, 1, 9, 0x40, 2, 0, 0x40, 3, 4, 1, 2, 3, 4, 8, 10];
    let update = Update::parse(&bytes, &context(true)).unwrap();
    assert!(update.announced.is_empty());
    let withdrawn: Vec<String> = update.withdrawn.iter().map(|(_, n)| n[0].net.to_string()).collect();
    assert_eq!(withdrawn, ["11.0.0.0/8", "10.0.0.0/8"]);
    assert_eq!(update.treated_as_withdrawn, 1);
    assert_eq!(update.errors[0].to_string(), "ORIGIN has an invalid value");
}

#[test]
fn attributes_that_leave_no_room_for_a_prefix_are_not_encoded() {
    let mut attributes = Attributes::new("10.0.0.1".parse().unwrap());
    attributes.unknown = [Unknown { code: 40, value: vec![0; 4030].into() }].into();
    assert!(Encoded::new(&attributes, Family::Ipv4, true, frame::MAX).is_none());
    assert!(Encoded::new(&attributes, Family::Ipv4, true, frame::MAX_EXTENDED).is_some());
}
