//! Agreement with another codec, both ways. It knows no large messages, no partial bit and no AS4_PATH merge, so the
//! attributes are narrowed to what both speak.

use std::collections::BTreeMap;

use ::zettabgp::prelude::*;

use super::*;

fn session() -> BgpSessionParams {
    let mode = BgpTransportMode::IPv4;
    let caps = vec![BgpCapability::CapASN32(64_512)];
    let mut session = BgpSessionParams::new(64_512, 90, mode, Ipv4Addr::new(1, 1, 1, 1), caps);
    session.fuzzy_pathid = false;
    session
}

fn narrowed(attributes: Attributes) -> Attributes {
    Attributes { unknown: Box::default(), extended_communities: Box::default(), ..attributes }
}

/// The attributes by what they are called there; lists as sets, for that is how it keeps them.
fn theirs(message: &BgpUpdateMessage) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for item in &message.attrs {
        let (name, value) = match item {
            BgpAttrItem::Origin(o) => ("origin", format!("{:?}", o.value)),
            BgpAttrItem::ASPath(p) => {
                let mut numbers = Vec::new();
                for segment in &p.value {
                    let BgpASitem::Seq(sequence) = segment else { panic!("a set") };
                    numbers.extend(sequence.value.iter().map(|a| a.value.to_string()));
                }
                ("path", numbers.join(" "))
            }
            BgpAttrItem::NextHop(h) => ("next hop", h.value.to_string()),
            BgpAttrItem::MED(m) => ("med", m.value.to_string()),
            BgpAttrItem::LocalPref(p) => ("local pref", p.value.to_string()),
            BgpAttrItem::AtomicAggregate(_) => ("atomic", String::new()),
            BgpAttrItem::AggregatorAS(a) => ("aggregator", format!("{} {}", a.asn, a.addr)),
            BgpAttrItem::CommunityList(c) => {
                let mut list: Vec<u32> = c.value.iter().map(|c| c.value).collect();
                list.sort_unstable();
                list.dedup();
                ("communities", format!("{list:?}"))
            }
            BgpAttrItem::LargeCommunityList(c) => {
                let mut list: Vec<[u32; 3]> = c.value.iter().map(|c| [c.ga, c.ldp1, c.ldp2]).collect();
                list.sort_unstable();
                list.dedup();
                ("large", format!("{list:?}"))
            }
            BgpAttrItem::OriginatorID(o) => ("originator", o.value.to_string()),
            BgpAttrItem::ClusterList(c) => ("clusters", format!("{:?}", c.value)),
            BgpAttrItem::MPUpdates(m) => ("next hop", m.nexthop.to_string()),
            other => panic!("{other:?}"),
        };
        found.insert(name, value);
    }
    found
}

fn ours(a: &Attributes) -> BTreeMap<&'static str, String> {
    let mut communities: Vec<u32> = a.communities.iter().map(|c| c.0).collect();
    communities.sort_unstable();
    communities.dedup();
    let mut large: Vec<[u32; 3]> = a.large_communities.iter().map(|c| c.0).collect();
    large.sort_unstable();
    large.dedup();
    let clusters: Vec<IpAddr> = a.cluster_list.iter().map(|c| (*c).into()).collect();
    [
        Some(("origin", format!("{:?}", a.origin))),
        Some(("path", a.as_path.to_string())),
        Some(("next hop", a.next_hop.addr.to_string())),
        a.med.map(|m| ("med", m.to_string())),
        a.local_pref.map(|p| ("local pref", p.to_string())),
        a.atomic_aggregate.then(|| ("atomic", String::new())),
        a.aggregator.map(|(asn, id)| ("aggregator", format!("{asn} {id}"))),
        (!communities.is_empty()).then(|| ("communities", format!("{communities:?}"))),
        (!large.is_empty()).then(|| ("large", format!("{large:?}"))),
        a.originator_id.map(|o| ("originator", o.to_string())),
        (!clusters.is_empty()).then(|| ("clusters", format!("{clusters:?}"))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn their_prefixes(message: &BgpUpdateMessage) -> Vec<IpNet> {
    let of = |addrs: &BgpAddrs| -> Vec<IpNet> {
        match addrs {
            BgpAddrs::IPV4U(list) => {
                list.iter().map(|a| IpNet::V4(Ipv4Net::new(a.addr, a.prefixlen).unwrap())).collect()
            }
            BgpAddrs::IPV6U(list) => {
                list.iter().map(|a| IpNet::V6(Ipv6Net::new(a.addr, a.prefixlen).unwrap())).collect()
            }
            BgpAddrs::None => Vec::new(),
            other => panic!("{other:?}"),
        }
    };
    let multiprotocol = message.get_mpupdates().map(|m| of(&m.addrs));
    [of(&message.updates), multiprotocol.unwrap_or_default()].concat()
}

proptest! {
    #[test]
    fn they_read_what_we_write((family, attributes, nets) in routes()) {
        let attributes = narrowed(attributes);
        let mut messages = Vec::new();
        Encoded::new(&attributes, family, true, frame::MAX).unwrap().announce(&nets, frame::MAX, &mut messages);
        let mut prefixes = Vec::new();
        for message in &messages {
            let mut read = BgpUpdateMessage::new();
            read.decode_from(&session(), body(message)).unwrap();
            prop_assert_eq!(theirs(&read), ours(&attributes));
            prefixes.extend(their_prefixes(&read));
        }
        prop_assert_eq!(prefixes, nets);
    }

    #[test]
    fn we_read_what_they_write((family, attributes, nets) in routes()) {
        let mut attributes = narrowed(attributes);
        // Its encoder swaps the types of segments, which its decoder does not; the other direction covers paths.
        attributes.as_path = AsPath::default();
        // Its sets have no order and no duplicates.
        let mut communities = attributes.communities.to_vec();
        communities.sort_unstable();
        communities.dedup();
        attributes.communities = communities.into();
        let nets = &nets[..nets.len().min(100)];
        let mut message = BgpUpdateMessage::new();
        message.attrs = vec![
            BgpAttrItem::Origin(BgpOrigin::new(match attributes.origin {
                Origin::Igp => BgpAttrOrigin::Igp,
                Origin::Egp => BgpAttrOrigin::Egp,
                Origin::Incomplete => BgpAttrOrigin::Incomplete,
            })),
            BgpAttrItem::ASPath(BgpASpath { value: Vec::new() }),
        ];
        match family {
            Family::Ipv4 => {
                message.attrs.push(BgpAttrItem::NextHop(BgpNextHop { value: attributes.next_hop.addr }));
                let list = nets.iter().map(|n| match n.addr() {
                    IpAddr::V4(a) => BgpAddrV4::new(a, n.prefix_len()),
                    IpAddr::V6(_) => unreachable!(),
                });
                message.updates = BgpAddrs::IPV4U(list.collect());
            }
            Family::Ipv6 => {
                let IpAddr::V6(hop) = attributes.next_hop.addr else { unreachable!() };
                let list = nets.iter().map(|n| match n.addr() {
                    IpAddr::V6(a) => BgpAddrV6::new(a, n.prefix_len()),
                    IpAddr::V4(_) => unreachable!(),
                });
                let addrs = BgpAddrs::IPV6U(list.collect());
                message.attrs.push(BgpAttrItem::MPUpdates(BgpMPUpdates { nexthop: BgpAddr::V6(hop), addrs }));
            }
        }
        if let Some(med) = attributes.med {
            message.attrs.push(BgpAttrItem::MED(BgpMED { value: med }));
        }
        if let Some(preference) = attributes.local_pref {
            message.attrs.push(BgpAttrItem::LocalPref(BgpLocalpref { value: preference }));
        }
        if !attributes.communities.is_empty() {
            let value = attributes.communities.iter().map(|c| BgpCommunity { value: c.0 }).collect();
            message.attrs.push(BgpAttrItem::CommunityList(BgpCommunityList { value }));
        }
        if let Some(id) = attributes.originator_id {
            message.attrs.push(BgpAttrItem::OriginatorID(BgpOriginatorID { value: id.into() }));
        }
        let mut buffer = [0; 8192];
        let length = message.encode_to(&session(), &mut buffer).unwrap();
        let update = Update::parse(&buffer[..length], &context(true)).unwrap();
        prop_assert_eq!(&update.errors[..], &[]);
        let announced = &update.announced[0];
        prop_assert_eq!(announced.prefixes.iter().map(|n| n.net).collect::<Vec<_>>(), nets);
        let expected = Attributes {
            large_communities: Box::default(),
            cluster_list: Box::default(),
            aggregator: None,
            atomic_aggregate: false,
            ..attributes
        };
        prop_assert_eq!(&announced.attributes, &expected);
    }
}
