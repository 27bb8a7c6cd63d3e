use proptest::prelude::*;

use super::*;
use crate::flannel::{LeaseKey, LeaseValue};

fn entry(net: u32, len: u8, node: u8, kind: usize, revision: i64) -> Entry {
    let kinds =
        ["\"host-gw\"", "\"vxlan\",\"BackendData\":{\"VNI\":2,\"VtepMAC\":\"0e:00:00:00:00:02\"}", "\"x\""];
    let v4 = ipnet::Ipv4Net::new(std::net::Ipv4Addr::from_bits(0x0a05_0000 | net << 8), len).unwrap().trunc();
    let v6 = format!("fd00:5:0:{net:x}::/64").parse().unwrap();
    let text = format!(
        r#"{{"PublicIP":"192.168.77.{node}","PublicIPv6":"fd00:77::{node}","BackendType":{}}}"#,
        kinds[kind]
    );
    let value = LeaseValue::parse(text.as_bytes()).ok();
    let key = LeaseKey { v4, v6: node.is_multiple_of(2).then_some(v6) };
    Entry { key, value, created: revision, modified: revision, lease: 1 }
}

fn network() -> NetworkConfig {
    let text =
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"udp"}}"#;
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

fn own(subnet: Option<u8>) -> Own {
    Own {
        address: Some("192.168.77.1".parse().unwrap()),
        address6: Some("fd00:77::1".parse().unwrap()),
        key: subnet.map(|n| format!("10.5.{n}.0-24").parse().unwrap()),
    }
}

#[test]
fn one_change_makes_one_peer_anew() {
    let (network, own, mut leases) = (network(), own(Some(1)), Leases::default());
    for n in 2..102_u8 {
        leases.insert(n.to_string(), entry(n.into(), 24, n + 100, 0, n.into()));
    }
    let before = leases.roster(&network, &own).clone();
    assert_eq!(before.peers.len(), 150, "half of them have both families");
    let shared =
        |now: &Roster| now.peers.iter().filter(|p| before.peers.iter().any(|b| Arc::ptr_eq(p, b))).count();
    leases.insert("7".to_owned(), entry(7, 24, 107, 1, 300));
    leases.remove("8");
    let now = leases.roster(&network, &own);
    assert_eq!((now.peers.len(), shared(now)), (148, 147));
    // Written again as it was, and everything anew because two contradict each other: what stays is shared all the same.
    leases.insert("9".to_owned(), entry(9, 24, 109, 0, 301));
    assert_eq!(shared(leases.roster(&network, &own)), 147);
    leases.insert("10".to_owned(), entry(9, 24, 110, 0, 302));
    let now = leases.roster(&network, &own);
    assert!(now.named("192.168.77.110").is_none() && now.named("192.168.77.109").is_some());
    assert_eq!(
        (now.peers.len(), shared(now)),
        (147, 145),
        "but what changed: the end that has another range now"
    );
    assert_eq!(now.problems.len(), 1, "{:?}", now.problems);
}

proptest! {
    /// Whatever changes in whatever steps, the roster is the one that all leases make at once.
    #[test]
    fn patched_is_as_made_at_once(
        steps in proptest::collection::vec(
            (0_usize..24, 0_u32..200, 22_u8..26, 1_u8..250, 0_usize..3, any::<bool>(), 0_u8..8), 1..60
        )
    ) {
        let (network, mut leases) = (network(), Leases::default());
        let mut own = own(Some(1));
        for n in 0..40_u32 {
            leases.insert(format!("l{n}"), entry(n + 201, 24, 200 - n as u8, 0, 1));
        }
        for ((which, net, len, node, kind, gone, look), revision) in steps.into_iter().zip(2..) {
            let name = format!("l{which}");
            match gone {
                true => leases.remove(&name),
                false => leases.insert(name, entry(net, len, node, kind, revision)),
            }
            if look == 7 {
                own.key = if own.key.is_some() { None } else { Some("10.5.3.0-24".parse().unwrap()) };
            }
            if look > 2 {
                let at_once = Roster::of(&network, &own, &leases);
                prop_assert_eq!(leases.roster(&network, &own), &at_once);
            }
        }
    }
}
