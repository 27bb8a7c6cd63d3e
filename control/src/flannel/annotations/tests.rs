use proptest::prelude::*;

use super::*;
use crate::mac::Mac;

fn value() -> LeaseValue {
    let vtep = |last| Some(Vtep { vni: 1, mac: Mac([14, 0, 0, 0, 0, last]) });
    LeaseValue {
        public_ip: "192.168.77.1".parse().unwrap(),
        public_ipv6: Some("fd00:77::1".parse().unwrap()),
        backend: LeaseBackend::Vxlan { v4: vtep(1), v6: vtep(2) },
    }
}

#[test]
fn what_is_written_is_read_back_with_its_macs() {
    let map = emit(&value(), &Orders::default(), PREFIX);
    assert_eq!(map["flannel.alpha.coreos.com/backend-data"], r#"{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}"#);
    assert_eq!(map["flannel.alpha.coreos.com/kube-subnet-manager"], "true");
    assert_eq!(parse(&map, PREFIX), Ok(Some(value())));
    assert_eq!(parse(&map, "other.example/"), Ok(None));
}

#[test]
fn a_kind_without_data_writes_null() {
    let plain = LeaseValue { public_ipv6: None, backend: LeaseBackend::HostGw, ..value() };
    let map = emit(&plain, &Orders::default(), PREFIX);
    assert_eq!(map["flannel.alpha.coreos.com/backend-data"], "null");
    assert!(!map.contains_key("flannel.alpha.coreos.com/backend-v6-data"));
    assert_eq!(parse(&map, PREFIX), Ok(Some(plain)));
}

#[test]
fn an_operators_orders_go_before() {
    let mut map = Map::new();
    let mut put = |name: &str, value: &str| drop(map.insert(format!("{PREFIX}{name}"), value.to_owned()));
    put("public-ip-overwrite", "203.0.113.7");
    put("public-ipv6-overwrite", "2001:db8::7");
    put("node-public-ip", "192.168.77.9");
    let orders = orders(&map, PREFIX).unwrap();
    assert_eq!(orders.node_public_ip, Some("192.168.77.9".parse().unwrap()));
    let written = emit(&value(), &orders, PREFIX);
    let read = parse(&written, PREFIX).unwrap().unwrap();
    assert_eq!(read.public_ip.to_string(), "203.0.113.7");
    assert_eq!(read.public_ipv6.unwrap().to_string(), "2001:db8::7");
}

#[test]
fn a_strangers_nonsense_is_named() {
    let plain = LeaseValue { backend: LeaseBackend::None, ..value() };
    let with = |name: &str, value: &str| {
        let mut map = emit(&plain, &Orders::default(), PREFIX);
        map.insert(format!("{PREFIX}{name}"), value.to_owned());
        parse(&map, PREFIX)
    };
    assert_eq!(with("kube-subnet-manager", "True"), Ok(None));
    let text = |result: Result<Option<LeaseValue>, FormatError>| result.unwrap_err().to_string();
    assert_eq!(text(with("public-ip", "")), "public-ip is missing");
    assert_eq!(
        text(with("public-ip", "1.2.3.4; reboot")),
        r#"public-ip = "1.2.3.4; reboot": is no address of this family"#
    );
    assert_eq!(
        text(with("public-ip", "224.0.0.1")),
        r#"public-ip = "224.0.0.1": cannot be the address of a node"#
    );
    let mut map = emit(&value(), &Orders::default(), PREFIX);
    map.insert(format!("{PREFIX}backend-data"), r#"{"VNI":1}"#.to_owned());
    assert_eq!(text(parse(&map, PREFIX)), "VtepMAC is missing");
    map.insert(format!("{PREFIX}public-ip-overwrite"), "::1".to_owned());
    assert!(orders(&map, PREFIX).is_err());
}

proptest! {
    #[test]
    fn any_annotations_are_a_value_or_an_error(values in proptest::collection::vec("\\PC{0,60}", 6)) {
        let names = ["public-ip", "public-ipv6", "backend-type", "backend-data", "backend-v6-data", "public-ip-overwrite"];
        let mut map: Map = names.iter().map(|name| format!("{PREFIX}{name}")).zip(values).collect();
        map.insert(format!("{PREFIX}kube-subnet-manager"), "true".to_owned());
        let _ = (parse(&map, PREFIX), orders(&map, PREFIX));
    }
}
