use super::super::{Config, Machine};
use super::*;

const NODE: &str = r#"
[node]
name = "n1"
uplink = "eth0"
address = "192.168.77.1"
address6 = "fd77::1"
workers = 1
[network]
pod-cidrs = ["10.244.1.0/24"]
"#;

fn load(bgp: &str) -> Result<Bgp, String> {
    let text = format!("{NODE}{bgp}");
    Config::load(&text, &Machine::default()).map(|c| c.bgp.unwrap()).map_err(|err| err.to_string())
}

#[test]
fn little_is_needed() {
    let bgp = load("[bgp]\nasn = 64512").unwrap();
    assert_eq!((bgp.asn, bgp.router_id), (64_512, Ipv4Addr::new(192, 168, 77, 1)));
    assert!(bgp.mesh && bgp.peers.is_empty() && bgp.listen.is_none() && bgp.cluster_id.is_none());
    let reflector = load("[bgp]\nasn = 64512\ncluster-id = \"1.0.0.1\"").unwrap();
    assert!(!reflector.mesh, "a reflector's neighbours are named");
}

#[test]
fn everything_that_can_be_said_reads_back_the_same() {
    let text = format!(
        r#"{NODE}
[bgp]
asn = 4200000000
router-id = "1.2.3.4"
listen = "0.0.0.0:1179"
cluster-id = "1.0.0.1"
mesh = true
[[bgp.peer]]
address = "192.168.77.9"
asn = 4200000000
client = false
next-hop-self = true
import = ["10.0.0.0/8", "fd00::/8"]
[[bgp.peer]]
address = "fd77::9"
asn = 65000
port = 1790
ttl-security = 1
max-prefixes = 1000
export = ["10.244.0.0/16"]
[[bgp.peer.import-rule]]
prefixes = ["10.0.0.0/8 ge 16 le 24", "fd00::/8", "172.16.0.0/12 le 12"]
communities = ["65000:666", "4200000000:1:2", "no-export"]
from-as = [65000]
origin-as = [65001, 65002]
through-as = [4200000000]
as-path-at-least = 3
action = "reject"
[[bgp.peer.import-rule]]
local-pref = 200
remove-communities = ["65000:1"]
[[bgp.peer.export-rule]]
med = 0
add-communities = ["64512:1", "64512:1:1"]
prepend = 3
[[bgp.peer]]
prefix = "192.168.78.0/24"
asn = 65001
multihop = 3
"#
    );
    let config = Config::load(&text, &Machine::default()).unwrap();
    let bgp = config.bgp.clone().unwrap();
    assert_eq!(bgp.peers.len(), 3);
    let rules = &bgp.peers[1].import_rules;
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0].prefixes[0], "10.0.0.0/8 ge 16 le 24".parse().unwrap());
    assert_eq!((rules[0].prefixes[1].ge, rules[0].prefixes[1].le), (8, 128));
    assert_eq!(rules[0].communities[1], RouteTag::Large([4_200_000_000, 1, 2]));
    assert_eq!(rules[0].communities[2], RouteTag::Standard(0xffff_ff01));
    assert!(rules[0].accept.is_none());
    assert_eq!(rules[1].accept.as_ref().and_then(|change| change.local_pref), Some(200));
    assert_eq!(bgp.peers[1].export_rules[0].accept.as_ref().and_then(|change| change.prepend), Some(3));
    assert!(bgp.peers[2].passive, "whoever may come from a range must dial");
    assert_eq!(Config::load(&config.to_toml(), &Machine::default()).unwrap(), config, "{}", config.to_toml());
}

#[test]
fn secrets_are_kept_and_shown_nowhere() {
    let text = "[bgp]\nasn = 1\nmesh-password = \"s3cret\"\n[[bgp.peer]]\naddress = \"1.1.1.2\"\nasn = 1\npassword = \"s3cret\"";
    let bgp = load(text).unwrap();
    assert_eq!(bgp.peers[0].password, Some(Password("s3cret".into())));
    assert_eq!(bgp.mesh_password, bgp.peers[0].password);
    let config = Config::load(&format!("{NODE}{text}"), &Machine::default()).unwrap();
    assert!(!format!("{config:?}{}", config.to_toml()).contains("s3cret"));
    let long = "x".repeat(81);
    let err = load(&format!("[bgp]\nasn = 1\nmesh-password = \"{long}\"")).unwrap_err();
    assert_eq!(err, "bgp.mesh-password: must have 1 to 80 bytes");
}

#[test]
fn a_rule_that_cannot_be_is_named() {
    let rule = |list: &str, more: &str| {
        let peer = "[bgp]\nasn = 1\n[[bgp.peer]]\naddress = \"1.1.1.2\"\nasn = 2\n";
        load(&format!("{peer}[[bgp.peer.{list}]]\n[[bgp.peer.{list}]]\n{more}")).unwrap_err()
    };
    for (more, want) in [
        ("action = \"drop\"", "action = \"drop\": is unknown; there is accept, reject"),
        ("prefixes = []", "prefixes: is empty: leave it out to mean any"),
        ("from-as = []", "from-as: is empty: leave it out to mean any"),
        (
            "prefixes = [\"10.0.0.0/8 up 9\"]",
            "prefixes = \"10.0.0.0/8 up 9\": is not a prefix with lengths such as 10.0.0.0/8 ge 16 le 24",
        ),
        (
            "prefixes = [\"10.0.0.0/8 ge 9 ge 10\"]",
            "prefixes = \"10.0.0.0/8 ge 9 ge 10\": is not a prefix with lengths such as 10.0.0.0/8 ge 16 le 24",
        ),
        (
            "prefixes = [\"10.0.0.1/8\"]",
            "prefixes = \"10.0.0.1/8\": has bits set behind the prefix length: 10.0.0.0/8 is meant",
        ),
        (
            "prefixes = [\"10.0.0.0/8 le 33\"]",
            "prefixes = \"10.0.0.0/8 le 33\": needs lengths that rise, from 8 to 32",
        ),
        (
            "prefixes = [\"10.0.0.0/8 ge 24 le 16\"]",
            "prefixes = \"10.0.0.0/8 ge 24 le 16\": needs lengths that rise, from 8 to 32",
        ),
        (
            "communities = [\"65536:1\"]",
            "communities = \"65536:1\": is not a community such as 64512:100, 4200000000:1:2 or no-export",
        ),
        ("origin-as = [0]", "origin-as = 0: must be from 1 to 4294967295"),
        ("through-as = [23456]", "through-as = 23456: is reserved (AS_TRANS, RFC 6793)"),
        ("as-path-at-least = 256", "as-path-at-least = 256: must be from 1 to 255"),
        ("prepend = 17", "prepend = 17: must be from 1 to 16"),
        ("action = \"reject\"\nmed = 1", "med: cannot be together with action = \"reject\""),
    ] {
        for list in ["import-rule", "export-rule"] {
            assert_eq!(rule(list, more), format!("bgp.peer[1.1.1.2].{list}[#2].{want}"), "{more}");
        }
    }
    let told = "bgp.peer[1.1.1.2].export-rule[#2].local-pref: is told to no other AS";
    assert_eq!(rule("export-rule", "local-pref = 200"), told);
}

#[test]
fn what_cannot_be_is_named() {
    let peer = |more: &str| format!("[bgp]\nasn = 64512\n[[bgp.peer]]\n{more}");
    for (text, want) in [
        ("[bgp]".to_owned(), "bgp.asn: must be set"),
        ("[bgp]\nasn = 0".to_owned(), "bgp.asn = 0: must be from 1 to 4294967295"),
        ("[bgp]\nasn = 23456".to_owned(), "bgp.asn = 23456: is reserved (AS_TRANS, RFC 6793)"),
        (
            "[bgp]\nasn = 1\nrouter-id = \"0.0.0.0\"".to_owned(),
            "bgp.router-id = \"0.0.0.0\": is not written as an IPv4 address such as 192.168.77.1, or is 0.0.0.0",
        ),
        (
            "[bgp]\nasn = 1\nlisten = \"179\"".to_owned(),
            "bgp.listen = \"179\": is not an address and port such as 127.0.0.1:9470",
        ),
        (peer("asn = 1"), "bgp.peer[#1]: needs either address or prefix"),
        (peer("address = \"n2\"\nasn = 1"), "bgp.peer[n2].address = \"n2\": is not an IP address"),
        (
            peer("address = \"192.168.77.1\"\nasn = 1"),
            "bgp.peer[192.168.77.1].address = \"192.168.77.1\": is this node's own address: a node is not its own peer",
        ),
        (
            peer("address = \"224.0.0.1\"\nasn = 1"),
            "bgp.peer[224.0.0.1].address = \"224.0.0.1\": cannot be the address of a node (unspecified, loopback, link-local, multicast or broadcast)",
        ),
        (peer("address = \"1.1.1.2\""), "bgp.peer[1.1.1.2].asn: must be set"),
        (
            peer("prefix = \"1.1.1.2/24\"\nasn = 1"),
            "bgp.peer[1.1.1.2/24].prefix = \"1.1.1.2/24\": has bits set behind the prefix length: 1.1.1.0/24 is meant",
        ),
        (
            peer("address = \"1.1.1.2\"\nasn = 64512\nclient = true"),
            "bgp.peer[1.1.1.2].client: is for route reflectors: set bgp.cluster-id",
        ),
        (
            "[bgp]\nasn = 1\ncluster-id = \"1.1.1.1\"\n[[bgp.peer]]\naddress = \"1.1.1.2\"\nasn = 2\nclient = true"
                .to_owned(),
            "bgp.peer[1.1.1.2].client: must be of our own AS",
        ),
        (
            peer("address = \"1.1.1.2\"\nasn = 1\nttl-security = 1\nmultihop = 2"),
            "bgp.peer[1.1.1.2].multihop: cannot be together with ttl-security",
        ),
        (
            peer("address = \"1.1.1.2\"\nasn = 1\nttl-security = 256"),
            "bgp.peer[1.1.1.2].ttl-security = 256: must be from 1 to 255",
        ),
        (
            peer("address = \"1.1.1.2\"\nasn = 1\n[[bgp.peer]]\naddress = \"1.1.1.2\"\nasn = 2"),
            "bgp.peer[1.1.1.2]: is also an earlier bgp.peer",
        ),
    ] {
        assert_eq!(load(&text).unwrap_err(), want, "{text}");
    }
}
