use proptest::prelude::*;

use super::*;

fn network(backend: &str) -> NetworkConfig {
    let text = format!(
        r#"{{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{{"Type":"{backend}"}}}}"#
    );
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

fn own() -> Own {
    Own {
        address: Some("192.168.77.1".parse().unwrap()),
        address6: Some("fd00:77::1".parse().unwrap()),
        key: Some("10.5.1.0-24&fd00:5:0:1::-64".parse().unwrap()),
    }
}

fn vxlan(ip: &str, v6: Option<&str>, mac: u8) -> String {
    let v6 = v6.map_or("null".to_owned(), |v6| format!("\"{v6}\""));
    let data = |second| format!(r#"{{"VNI":1,"VtepMAC":"0e:00:00:00:{second:02x}:{mac:02x}"}}"#);
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":{v6},"BackendType":"vxlan","BackendData":{},"BackendV6Data":{}}}"#,
        data(4),
        data(6)
    )
}

/// Leases in the order they were made.
fn roster(backend: &str, leases: &[(&str, &str)]) -> Roster {
    let entries = leases.iter().zip(10..).map(|((name, value), revision)| {
        let entry = Entry {
            key: name.parse().unwrap(),
            value: LeaseValue::parse(value.as_bytes()).ok(),
            created: revision,
            modified: revision,
            lease: 7,
        };
        ((*name).to_owned(), entry)
    });
    Roster::of(&network(backend), &own(), &entries.collect())
}

fn brief(roster: &Roster) -> Vec<String> {
    let nets = |peer: &Arc<Peer>| peer.pod_cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>().join("+");
    let mac = |peer: &Arc<Peer>| peer.vtep_mac.map_or("-".to_owned(), |mac| mac.to_string());
    roster
        .peers
        .iter()
        .map(|p| format!("{} {} {} {:?}", p.name, nets(p), mac(p), p.backend.unwrap()))
        .collect()
}

fn problem(roster: &Roster, name: &str) -> String {
    roster.problems.get(name).cloned().unwrap_or_default()
}

#[test]
fn raw_ip_has_one_end_for_both_families() {
    let roster = roster(
        "ipip",
        &[("10.5.4.0-24&fd00:5:0:4::-64", r#"{"PublicIP":"192.168.77.4","BackendType":"ipip"}"#)],
    );
    assert_eq!(brief(&roster), ["192.168.77.4 10.5.4.0/24+fd00:5:0:4::/64 - Ipip"]);
    assert_eq!(roster.problems.len(), 0);
}

#[test]
fn a_dual_stack_lease_is_two_peers() {
    let roster = roster(
        "vxlan",
        &[
            ("10.5.1.0-24&fd00:5:0:1::-64", &vxlan("192.168.77.1", Some("fd00:77::1"), 1)),
            ("10.5.2.0-24&fd00:5:0:2::-64", &vxlan("192.168.77.2", Some("fd00:77::2"), 2)),
        ],
    );
    assert_eq!(
        brief(&roster),
        [
            "192.168.77.2 10.5.2.0/24 0e:00:00:00:04:02 Vxlan { vni: 1 }",
            "fd00:77::2 fd00:5:0:2::/64 0e:00:00:00:06:02 Vxlan { vni: 1 }",
        ]
    );
    assert_eq!(roster.problems, BTreeMap::new());
}

#[test]
fn every_kind_keeps_its_own_way() {
    let roster = roster(
        "vxlan",
        &[
            ("10.5.2.0-24", r#"{"PublicIP":"192.168.77.2"}"#),
            ("10.5.3.0-24", r#"{"PublicIP":"192.168.77.3","BackendType":"host-gw"}"#),
            ("10.5.4.0-24", r#"{"PublicIP":"192.168.77.4","BackendType":"ipip"}"#),
            ("10.5.5.0-24", r#"{"PublicIP":"192.168.77.5","BackendType":"wireguard"}"#),
            ("10.5.6.0-24", r#"{"PublicIP":"192.168.77.6","BackendType":"vxlan"}"#),
        ],
    );
    assert_eq!(
        brief(&roster),
        [
            "192.168.77.2 10.5.2.0/24 - Udp",
            "192.168.77.3 10.5.3.0/24 - Direct",
            "192.168.77.4 10.5.4.0/24 - Ipip",
        ]
    );
    assert_eq!(problem(&roster, "10.5.5.0-24"), r#"BackendType "wireguard" is not supported"#);
    assert_eq!(problem(&roster, "10.5.6.0-24"), "BackendData is missing");
}

#[test]
fn a_lie_costs_only_the_liar() {
    let honest = vxlan("192.168.77.2", None, 2);
    let roster = roster(
        "vxlan",
        &[
            ("10.5.2.0-24", &honest),
            ("10.5.0.0-16", &vxlan("192.168.77.3", None, 3)),
            ("10.5.2.128-25", &vxlan("192.168.77.4", None, 4)),
            ("10.5.0.0-20", &vxlan("192.168.77.5", None, 5)),
            ("10.6.0.0-24", &vxlan("192.168.77.6", None, 6)),
            ("10.5.7.0-24", &vxlan("192.168.77.1", None, 7)),
            ("10.5.1.128-25", &vxlan("192.168.77.8", None, 8)),
            ("10.5.9.0-24", &vxlan("10.5.9.9", None, 9)),
            ("10.5.10.0-24&fd00:5:0:a::-64", &vxlan("192.168.77.10", None, 10)),
            ("10.5.1.0-24&fd00:5:0:1::-64", &vxlan("192.168.77.11", None, 11)),
        ],
    );
    assert_eq!(
        brief(&roster),
        [
            "192.168.77.10 10.5.10.0/24 0e:00:00:00:04:0a Vxlan { vni: 1 }",
            "192.168.77.2 10.5.2.0/24 0e:00:00:00:04:02 Vxlan { vni: 1 }",
        ]
    );
    for (name, text) in [
        ("10.5.0.0-16", "10.5.0.0/16 is more than a quarter of the network, which no node is given"),
        ("10.5.2.128-25", "10.5.2.128/25 overlaps 10.5.2.0-24 subnet 10.5.2.0/24"),
        ("10.5.0.0-20", "10.5.0.0/20 overlaps 10.5.2.0-24 subnet 10.5.2.0/24"),
        ("10.6.0.0-24", "10.6.0.0/24 is not inside the network"),
        ("10.5.7.0-24", "10.5.7.0/24 claims this node's address 192.168.77.1"),
        ("10.5.1.128-25", "10.5.1.128/25 overlaps this node's subnet 10.5.1.0/24"),
        ("10.5.9.0-24", "the node's address 10.5.9.9 is inside the network of pods"),
        ("10.5.10.0-24&fd00:5:0:a::-64", "fd00:5:0:a::/64 is without PublicIPv6"),
        ("10.5.1.0-24&fd00:5:0:1::-64", "192.168.77.11 says that it has this node's subnet"),
    ] {
        assert_eq!(problem(&roster, name), text);
    }
}

#[test]
fn what_a_node_wrote_last_counts() {
    let roster = roster(
        "vxlan",
        &[
            ("10.5.2.0-24", &vxlan("192.168.77.2", None, 2)),
            ("10.5.3.0-24", &vxlan("192.168.77.2", None, 9)),
            ("10.5.4.0-24", &vxlan("192.168.77.2", None, 9)),
        ],
    );
    assert_eq!(brief(&roster), ["192.168.77.2 10.5.3.0/24+10.5.4.0/24 0e:00:00:00:04:09 Vxlan { vni: 1 }"]);
    assert_eq!(problem(&roster, "10.5.2.0-24"), "10.5.2.0/24 is replaced by 10.5.4.0-24 of the same node");
}

#[test]
fn a_reservation_is_no_peer_until_its_node_has_come() {
    let entry = |lease| Entry {
        key: "10.5.2.0-24".parse().unwrap(),
        value: LeaseValue::parse(br#"{"PublicIP":"192.168.77.2"}"#).ok(),
        created: 1,
        modified: 1,
        lease,
    };
    let of = |backend, lease| Roster::of(&network(backend), &own(), &[("k".to_owned(), entry(lease))].into());
    assert_eq!(of("vxlan", 0), Roster::default());
    assert_eq!(of("udp", 0).peers.len(), 1);
    assert_eq!(of("vxlan", 5).peers.len(), 1);
}

proptest! {
    /// Whatever lies there: peers are disjoint, inside the network, apart from us, and each lease is either used or
    /// told of.
    #[test]
    fn peers_never_contradict(
        leases in proptest::collection::vec((0_u32..1 << 16, 15_u8..32, 1_u8..6, 0_u8..4, 0_i64..9, 0_i64..2), 0..40)
    ) {
        let kinds = ["\"host-gw\"", "null", "\"vxlan\",\"BackendData\":{\"VNI\":2,\"VtepMAC\":\"0e:00:00:00:00:02\"}", "\"x\""];
        let mut entries = BTreeMap::new();
        for (i, (addr, len, node, kind, modified, lease)) in leases.iter().enumerate() {
            let v4 = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(0x0a05_0000 | addr), *len).unwrap().trunc();
            let text = format!(r#"{{"PublicIP":"192.168.77.{node}","BackendType":{}}}"#, kinds[usize::from(*kind)]);
            let entry = Entry {
                key: LeaseKey { v4, v6: None },
                value: LeaseValue::parse(text.as_bytes()).ok(),
                created: (*modified).min(3),
                modified: *modified,
                lease: *lease,
            };
            entries.insert(format!("{i}/{}", entry.key), entry);
        }
        let (network, own) = (network("udp"), own());
        let roster = Roster::of(&network, &own, &entries);
        let nets: Vec<IpNet> = roster.peers.iter().flat_map(|p| p.pod_cidrs.clone()).collect();
        let own_net: IpNet = "10.5.1.0/24".parse().unwrap();
        for (i, net) in nets.iter().enumerate() {
            prop_assert!(network.v4.network.contains(net) && !nets::overlap(net, &own_net));
            prop_assert!(nets[..i].iter().all(|other| !nets::overlap(net, other)));
        }
        let used: usize = nets.len() + roster.problems.len();
        prop_assert_eq!(used, entries.len());
        let names: Vec<&String> = roster.peers.iter().map(|peer| &peer.name).collect();
        prop_assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", names);
    }

    /// The short way for leases that agree comes to what the long way does.
    #[test]
    fn leases_that_agree_need_not_be_settled(
        leases in proptest::collection::vec((0_u32..300, 1_u8..250, 0_usize..3), 0..12)
    ) {
        let kinds = ["\"host-gw\"", "null", "\"vxlan\",\"BackendData\":{\"VNI\":2,\"VtepMAC\":\"0e:00:00:00:00:02\"}"];
        let entries: BTreeMap<String, Entry> = leases.iter().zip(1..).map(|((net, node, kind), revision)| {
            let v4 = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(0x0a05_0000 | net << 8 & 0xffff), 24).unwrap();
            let text = format!(r#"{{"PublicIP":"192.168.77.{node}","BackendType":{}}}"#, kinds[*kind]);
            let value = LeaseValue::parse(text.as_bytes()).ok();
            let entry = Entry { key: LeaseKey { v4, v6: None }, value, created: revision, modified: revision, lease: 1 };
            (entry.key.to_string(), entry)
        }).collect();
        let (network, own) = (network("udp"), own());
        let mut settled = Roster::default();
        let halves = settled.collect(&network, &own, &entries);
        settled.settle(&own, halves);
        settled.peers.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(Roster::of(&network, &own, &entries), settled);
    }
}
