use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<NetworkConfig, String> {
    NetworkConfig::parse(text.as_bytes()).map_err(|err| err.to_string())
}

fn pool(network: &str, subnet_len: u8, min: &str, max: &str) -> Pool {
    Pool {
        network: network.parse().unwrap(),
        subnet_len,
        min: min.parse().unwrap(),
        max: max.parse().unwrap(),
    }
}

#[test]
fn defaults_are_those_of_the_code() {
    let config = parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    assert_eq!(config.v4, pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"));
    assert_eq!(config.v6, None);
    assert_eq!(config.backend, BackendConfig::Udp { port: 8285 });
    // Host bits of the network are of no account.
    assert_eq!(parse(r#"{"Network":"10.5.9.9/16"}"#).unwrap().v4, config.v4);
    for (network, len, min, max) in [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.1.0.0/22", 24, "10.1.1.0", "10.1.3.0"),
        ("10.1.0.0/23", 25, "10.1.0.128", "10.1.1.128"),
        ("10.1.0.0/28", 30, "10.1.0.4", "10.1.0.12"),
    ] {
        let config = parse(&format!(r#"{{"Network":"{network}"}}"#)).unwrap();
        assert_eq!(config.v4, pool(network, len, min, max));
    }
}

#[test]
fn case_is_of_no_account_and_null_is_absent() {
    let text = r#"{"network":"10.5.0.0/16","SUBNETLEN":20,"subnetMin":"10.5.16.0","subnetmax":"10.5.32.0",
        "enableipv6":true,"ipv6network":"fd00:5::/48","IPv6SubnetLen":null,"Unknown":[1],
        "backend":{"type":"vxlan","vni":7,"port":0,"directrouting":true,"Learning":false}}"#;
    let config = parse(text).unwrap();
    assert_eq!(config.v4, pool("10.5.0.0/16", 20, "10.5.16.0", "10.5.32.0"));
    assert_eq!(config.v6, Some(pool("fd00:5::/48", 64, "fd00:5:0:1::", "fd00:5:0:ffff::")));
    assert_eq!(config.backend, BackendConfig::Vxlan { vni: 7, port: 8472, direct_routing: true });
    let mac = Mac([14, 0, 0, 0, 0, 1]);
    let tunnel = Tunnel::Vxlan { vni: 7, port: 8472, vtep_mac: Some(mac), cross_subnet: true };
    assert_eq!(config.backend.tunnel(mac), Ok(tunnel));
}

#[test]
fn every_backend_is_known_by_its_name() {
    let of = |backend: &str| parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#));
    assert_eq!(of(r#"{"Type":"udp","Port":9000}"#).unwrap().backend, BackendConfig::Udp { port: 9000 });
    assert_eq!(of(r#"{"Type":"host-gw"}"#).unwrap().backend, BackendConfig::HostGw);
    assert_eq!(of(r#"{"Type":"ipip"}"#).unwrap().backend, BackendConfig::Ipip { direct_routing: false });
    assert_eq!(of("{}").unwrap_err(), "Backend.Type is missing");
    let other = of(r#"{"Type":"wireguard","PSK":"x"}"#).unwrap().backend;
    assert_eq!(
        other.tunnel(Mac([2; 6])).unwrap_err().to_string(),
        r#"Backend.Type = "wireguard" is not supported; there is vxlan, udp, host-gw, ipip"#
    );
}

#[test]
fn what_cannot_be_is_named() {
    for (text, error) in [
        ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "not a JSON object"),
        ("{}", "Network is missing"),
        (r#"{"Network":5}"#, "Network is no string"),
        (r#"{"Network":"10.5.0.0"}"#, r#"Network = "10.5.0.0": is not a range such as 10.244.0.0/16"#),
        (r#"{"Network":"10.5.0.0/16","network":"10.6.0.0/16"}"#, "Network is given twice"),
        (r#"{"Network":"0.0.0.0/0"}"#, r#"Network = "0.0.0.0/0": overlaps a range that pods never have"#),
        (r#"{"Network":"10.5.0.0/29"}"#, r#"Network = "29": too small to be divided"#),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#,
            r#"SubnetLen = "17": must leave two bits to the network, and two to pods"#,
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#,
            r#"SubnetLen = "31": must leave two bits to the network, and two to pods"#,
        ),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":-1}"#, "SubnetLen is no whole number from 0"),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}"#,
            r#"SubnetMin = "10.6.0.0": is not inside the network"#,
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.7.1"}"#,
            r#"SubnetMax = "10.5.7.1": is no subnet's first address"#,
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.7.0"}"#,
            r#"SubnetMin = "10.5.9.0": is behind the last subnet"#,
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#,
            r#"EnableIPv4 = "false": a lease's key has no form without an IPv4 subnet"#,
        ),
        (r#"{"Network":"10.5.0.0/16","EnableIPv6":true}"#, "IPv6Network is missing"),
        (
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/125"}"#,
            r#"IPv6Network = "125": too small to be divided"#,
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
            r#"VNI = "16777216": must be from 1 to 16777215"#,
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{text}");
    }
    let long = format!(r#"{{"Network":"10.5.0.0/16","X":"{}"}}"#, "x".repeat(MOST_TEXT));
    assert!(parse(&long).unwrap_err().ends_with("bytes: at most 65536 are read"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_configuration_or_an_error(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = NetworkConfig::parse(&text);
    }

    #[test]
    fn every_accepted_configuration_can_be_divided(
        addr in any::<u32>(), len in 0_u8..=32, subnet in 0_u64..40, min in any::<u32>(),
        addr6 in any::<u128>(), len6 in 0_u8..=128, subnet6 in 0_u64..140,
    ) {
        let text = format!(
            r#"{{"Network":"{}/{len}","SubnetLen":{subnet},"SubnetMin":"{}","EnableIPv6":true,
            "IPv6Network":"{}/{len6}","IPv6SubnetLen":{subnet6}}}"#,
            Ipv4Addr::from_bits(addr),
            Ipv4Addr::from_bits((addr & 0xffff_0000) | min >> 16 << 8),
            Ipv6Addr::from_bits(addr6 | 0xfd << 120),
        );
        if let Ok(config) = parse(&text) {
            for pool in std::iter::once(config.v4).chain(config.v6) {
                for first in [pool.min, pool.max] {
                    prop_assert!(pool.fits(&IpNet::new(first, pool.subnet_len).unwrap()), "{text} {pool:?}");
                }
            }
        }
    }
}
