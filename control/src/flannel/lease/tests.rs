use proptest::prelude::*;

use super::*;

#[test]
fn keys_are_flannels() {
    let key: LeaseKey = "10.5.34.0-24".parse().unwrap();
    assert_eq!(key, LeaseKey { v4: "10.5.34.0/24".parse().unwrap(), v6: None });
    assert_eq!(key.to_string(), "10.5.34.0-24");
    let key: LeaseKey = "10.5.34.0-24&2001:cafe:42:1::-64".parse().unwrap();
    assert_eq!(key.v6, Some("2001:cafe:42:1::/64".parse().unwrap()));
    assert_eq!(key.to_string(), "10.5.34.0-24&2001:cafe:42:1::-64");
}

#[test]
fn what_stands_before_the_address_is_ignored() {
    for text in ["junk/10.5.34.0-24", "x-10.5.34.0-24", "é10.5.34.0-24", "9.10.5.34.0-24", "7-8-10.5.34.0-24"]
    {
        assert_eq!(text.parse::<LeaseKey>().unwrap().to_string(), "10.5.34.0-24", "{text}");
    }
}

#[test]
fn other_names_are_no_subnets() {
    for text in [
        "",
        "config",
        "10.5.34.0",
        "10.5.34.0-",
        "10.5.34.0-32",
        "10.5.34.0-99",
        "10.5.34.0-+4",
        "10.5.34.0-24x",
        "10.5.34.0/24",
        "10.5.34.1-24",
        "1210.5.34.0-24",
        "10.5.34-24",
        "10.5.34.0-24&",
        "10.5.34.0-24&2001::1-64",
        "10.5.34.0-24&2001::-128",
        "10.5.34.0-24&zz::-64",
        "&2001::-64",
        "2001::-64",
    ] {
        assert_eq!(text.parse::<LeaseKey>(), Err(NotASubnet), "{text}");
    }
}

#[test]
fn values_are_written_byte_for_byte_as_flannel_does() {
    let public_ip = "192.168.77.1".parse().unwrap();
    let vtep = |last| Some(Vtep { vni: 1, mac: Mac([0x0e, 0xab, 0, 0, 0, last]) });
    let dual = Some("fd00:77::1".parse().unwrap());
    let text = |public_ipv6, backend| LeaseValue { public_ip, public_ipv6, backend }.encode();
    assert_eq!(text(None, LeaseBackend::None), r#"{"PublicIP":"192.168.77.1","PublicIPv6":null}"#);
    assert_eq!(
        text(None, LeaseBackend::HostGw),
        r#"{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"host-gw"}"#
    );
    assert_eq!(
        text(None, LeaseBackend::Vxlan { v4: vtep(1), v6: None }),
        r#"{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:ab:00:00:00:01"}}"#
    );
    assert_eq!(
        text(dual, LeaseBackend::Vxlan { v4: vtep(1), v6: vtep(2) }),
        r#"{"PublicIP":"192.168.77.1","PublicIPv6":"fd00:77::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:ab:00:00:00:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"0e:ab:00:00:00:02"}}"#
    );
}

#[test]
fn odd_values_are_read() {
    let read = |text: &str| LeaseValue::parse(text.as_bytes()).map_err(|err| err.to_string());
    // A reservation as flannel's documents have it, and other spellings.
    assert_eq!(read(r#"{"PublicIP":"10.37.7.195"}"#).unwrap().backend, LeaseBackend::None);
    let value = read(
        r#"{"publicip":"10.37.7.195","backendtype":"vxlan","BACKENDDATA":{"vni":3,"vtepmac":"0E:00:00:00:00:AB"},"x":{}}"#,
    );
    let vtep = Vtep { vni: 3, mac: Mac([14, 0, 0, 0, 0, 0xab]) };
    assert_eq!(value.unwrap().backend, LeaseBackend::Vxlan { v4: Some(vtep), v6: None });
    let value = read(
        r#"{"PublicIP":"10.37.7.195","BackendType":"wireguard","BackendData":{"PublicKey":"a","Port":0}}"#,
    );
    assert_eq!(value.unwrap().backend, LeaseBackend::Other("wireguard".to_owned()));
    let value = read(r#"{"PublicIP":"10.37.7.195","BackendType":"vxlan","BackendData":null}"#);
    assert_eq!(value.unwrap().backend, LeaseBackend::Vxlan { v4: None, v6: None });
}

#[test]
fn values_that_cannot_be_are_named() {
    for (text, error) in [
        ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        ("{}", "PublicIP is missing"),
        (r#"{"PublicIP":"127.0.0.1"}"#, r#"PublicIP = "127.0.0.1": cannot be the address of a node"#),
        (r#"{"PublicIP":"0.0.0.0"}"#, r#"PublicIP = "0.0.0.0": cannot be the address of a node"#),
        (r#"{"PublicIP":"1.2.3"}"#, r#"PublicIP = "1.2.3": is not an IPv4 address"#),
        (r#"{"PublicIP":"$(reboot)\n"}"#, r#"PublicIP = "$(reboot)\n": is not an IPv4 address"#),
        (r#"{"PublicIP":{}}"#, "PublicIP is no string"),
        (
            r#"{"PublicIP":"10.0.0.1","PublicIPv6":"fe80::1"}"#,
            r#"PublicIPv6 = "fe80::1": cannot be the address of a node"#,
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:00:00:00:01"}}"#,
            r#"VtepMAC = "01:00:00:00:00:01": is no unicast address"#,
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":{"VNI":0,"VtepMAC":"0e:00:00:00:00:01"}}"#,
            r#"VNI = "0": must be from 1 to 16777215"#,
        ),
        (
            r#"{"PublicIP":"10.0.0.1","BackendType":"vxlan","BackendData":"x"}"#,
            "BackendData is no JSON object",
        ),
    ] {
        assert_eq!(LeaseValue::parse(text.as_bytes()).unwrap_err().to_string(), error, "{text}");
    }
    let long = format!(r#"{{"PublicIP":"10.0.0.1","x":"{}"}}"#, "x".repeat(1 << 20));
    assert!(LeaseValue::parse(long.as_bytes()).unwrap_err().to_string().contains("at most 16384"));
}

fn vtep() -> impl Strategy<Value = Option<Vtep>> {
    let mac = any::<[u8; 6]>().prop_map(Mac).prop_filter("unicast", |mac| mac.is_unicast());
    proptest::option::of((1_u32..1 << 24, mac).prop_map(|(vni, mac)| Vtep { vni, mac }))
}

fn backend() -> impl Strategy<Value = LeaseBackend> {
    prop_oneof![
        Just(LeaseBackend::None),
        Just(LeaseBackend::Udp),
        Just(LeaseBackend::HostGw),
        Just(LeaseBackend::Ipip),
        "[a-z\"\\\\\n-]{1,20}"
            .prop_filter("another", |kind| !["udp", "vxlan", "ipip"].contains(&&**kind))
            .prop_map(LeaseBackend::Other),
        (vtep(), vtep()).prop_map(|(v4, v6)| LeaseBackend::Vxlan { v4, v6 }),
    ]
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_none(text in "[0-9a-f.:&x-]{0,40}|\\PC{0,40}") {
        if let Ok(key) = text.parse::<LeaseKey>() {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn keys_read_back(v4 in any::<u32>(), len in 0_u8..32, v6 in any::<u128>(), len6 in proptest::option::of(0_u8..128)) {
        let v4 = Ipv4Net::new(Ipv4Addr::from_bits(v4), len).unwrap().trunc();
        let v6 = len6.map(|len| Ipv6Net::new(Ipv6Addr::from_bits(v6), len).unwrap().trunc());
        // A mapped IPv4 address would be written with dots, which flannel does not read either.
        prop_assume!(v6.is_none_or(|v6| v6.addr().to_ipv4_mapped().is_none()));
        let key = LeaseKey { v4, v6 };
        prop_assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = LeaseValue::parse(&text);
        let _ = Vtep::parse(&text);
    }

    #[test]
    fn values_read_back(v4 in 0x0a00_0001_u32..0x0aff_ffff, v6 in proptest::option::of(any::<u64>()), backend in backend()) {
        let public_ipv6 = v6.map(|v6| Ipv6Addr::from_bits(0xfd << 120 | u128::from(v6)));
        let value = LeaseValue { public_ip: Ipv4Addr::from_bits(v4), public_ipv6, backend };
        prop_assert_eq!(LeaseValue::parse(value.encode().as_bytes()), Ok(value));
    }
}
