use super::*;

fn machine() -> Machine {
    let link = |mtu, addresses: &[&str]| Link {
        mtu,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    };
    Machine {
        hostname: Some("N1.Example".into()),
        default_uplink: Some("eth0".into()),
        links: [
            ("lo".to_owned(), link(65_536, &["127.0.0.1/8", "::1/128"])),
            (
                "eth0".to_owned(),
                link(1500, &["192.168.77.1/24", "192.168.78.1/24", "fe80::1/64", "2001:db8::1/64"]),
            ),
            ("bare".to_owned(), link(1500, &["fe80::2/64"])),
            ("thin".to_owned(), link(600, &["192.168.80.1/24"])),
            ("four".to_owned(), link(1500, &["192.168.90.1/24"])),
            ("six".to_owned(), link(1500, &["2001:db8::1/64"])),
        ]
        .into(),
        cores: 16,
    }
}

const PEER: &str = r#"
[[peer]]
name = "n2"
address = "192.168.77.2"
pod-cidrs = ["10.244.2.0/24"]
vtep-mac = "0e:00:00:00:00:02"
"#;

const LEAST: &str = "[network]\npod-cidrs = [\"10.244.1.0/24\"]\n";

fn load(text: &str) -> Config {
    match Config::load(text, &machine()) {
        Ok(config) => config,
        Err(err) => panic!("{err}\nin\n{text}"),
    }
}

fn refused(text: &str) -> Vec<String> {
    match Config::load(text, &machine()) {
        Ok(config) => panic!("accepted as\n{}", config.to_toml()),
        Err(err) => err.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn every_default() {
    let config = load(LEAST);
    assert_eq!(
        config.to_toml(),
        r#"[node]
name = "n1.example"
uplink = "eth0"
address = "192.168.77.1"
address6 = "2001:db8::1"
state-dir = "/var/lib/vswitch"
run-dir = "/run/vswitch"
workers = 4
offload = true
without = []
probe-peers = true

[network]
cluster-cidrs = ["10.244.0.0/16"]
pod-cidrs = ["10.244.1.0/24"]
mtu = 0 # the MTU of eth0 less 50
masquerade = true

[tunnel]
type = "vxlan"
vni = 1
port = 8472
# vtep-mac: made once, kept in state-dir
cross-subnet = false

[store]
type = "static"

[ipam]
type = "node"
"#
    );
    assert_eq!(config.node.subnet, Some("192.168.77.0/24".parse().unwrap()));
    assert_eq!(config.node.subnet6, Some("2001:db8::/64".parse().unwrap()));
    assert_eq!(config.node.socket(), Path::new("/run/vswitch/vswitchd.sock"));
    assert_eq!(config.pod_mtu(1500), 1450);
}

/// Everything that can be written and that this version supports.
const FULL: &str = r#"
[node]
name = "n1"
uplink = "eth0"
address = "192.168.78.1"
address6 = "2001:db8::1"
state-dir = "/srv/with \"quote\" \\ \n \u0007 and 'tick'"
run-dir = "/run/vs"
workers = 2
offload = false
without = ["trains", "uplink-tap"]
probe-peers = false
[network]
cluster-cidrs = ["10.244.0.0/16", "fd00::/48"]
pod-cidrs = ["10.244.1.0/24", "fd00:0:0:1::/64"]
mtu = 1400
masquerade = false
[tunnel]
type = "vxlan"
vni = 77
port = 4789
vtep-mac = "0E:00:00:00:00:01"
cross-subnet = true
[store]
type = "static"
manifests = "/etc/vswitch/manifests"
endpoints = ["http://127.0.0.1:2379"]
prefix = "/coreos.com/network"
ca = "a"
cert = "b"
key = "c"
username = "d"
password = "e"
[[peer]]
name = "n2"
address = "192.168.78.2"
address6 = "2001:db8::2"
pod-cidrs = ["10.244.2.0/24", "fd00:0:0:2::/64"]
vtep-mac = "0e:00:00:00:00:02"
[[peer]]
name = "n3"
address6 = "2001:db8::3"
pod-cidrs = ["10.244.3.0/24"]
vtep-mac = "0e:00:00:00:00:03"
[metrics]
listen = "[::1]:9470"
"#;

#[test]
fn what_is_printed_reads_back_the_same() {
    let cases = [
        LEAST.to_owned(),
        format!("{LEAST}{PEER}"),
        FULL.to_owned(),
        FULL.replace("\"vxlan\"", "\"udp\""),
        FULL.replace("\"vxlan\"", "\"direct\"").replace("mtu = 1400", "mtu = 1500"),
        FULL.replace("\"vxlan\"", "\"ipip\"").replace("address6 = \"2001:db8::3\"", "address = \"10.1.1.1\""),
        ["vxlan", "udp", "ipip", "direct"]
            .iter()
            .fold(LEAST.to_owned(), |text, kind| format!("{text}{}", of_kind(kind))),
    ];
    for text in cases {
        let config = load(&text);
        assert_eq!(load(&config.to_toml()), config, "{}", config.to_toml());
    }
}

/// A peer with a form of its own, which is its name.
fn of_kind(kind: &str) -> String {
    let n = 2 + ["vxlan", "udp", "ipip", "direct"].iter().position(|k| *k == kind).unwrap();
    let peer = PEER.replace("\"n2\"", &format!("\"{kind}\"")).replace(":02\"", &format!(":{n:02}\""));
    peer.replace(".77.2\"", &format!(".77.{n}\"")).replace("244.2.", &format!("244.{n}."))
        + &format!("tunnel = \"{kind}\"\n")
}

#[test]
fn a_peer_may_have_a_form_of_its_own() {
    let of = |own: &str, peers: &[&str]| {
        let peers: String = peers.iter().map(|kind| of_kind(kind)).collect();
        load(&format!("{LEAST}[tunnel]\ntype = \"{own}\"\n{peers}"))
    };
    let config = of("udp", &["vxlan", "udp", "ipip", "direct"]);
    let backends: Vec<_> = config.peers.iter().map(|p| p.backend).collect();
    let [vxlan, udp, ipip, direct] =
        [Backend::Vxlan { vni: 1 }, Backend::Udp, Backend::Ipip, Backend::Direct];
    assert_eq!(backends, [Some(vxlan), Some(udp), Some(ipip), Some(direct)]);
    let fleet = Fleet::of(&config);
    assert_eq!(fleet.backends(), [vxlan, udp, ipip, direct]);
    // The longest outer headers leave the pods' MTU, so that a packet fits to every peer.
    assert_eq!((fleet.overhead(&config.node), config.pod_mtu(1500)), (50, 1450));
    assert_eq!(of("ipip", &["direct"]).pod_mtu(1500), 1480);
    assert_eq!(of("direct", &["direct"]).pod_mtu(1500), 1500);
    assert_eq!(of("direct", &["udp"]).pod_mtu(1500), 1472);
    let errors = refused(&format!("{LEAST}{}", of_kind("udp").replace("\"udp\"\n", "\"gre\"\n")));
    assert!(
        errors[0].contains(".tunnel = \"gre\": is unknown; there is vxlan, udp, ipip, direct"),
        "{errors:?}"
    );
    // Only a peer that is spoken to by VXLAN needs a VTEP.
    let bare = of_kind("ipip").replace("vtep-mac = \"0e:00:00:00:00:04\"\n", "");
    assert_eq!(load(&format!("{LEAST}{bare}")).peers[0].vtep_mac, None);
}

#[test]
fn ip_in_ip_needs_ipv4() {
    let text = format!("[node]\naddress6 = \"2001:db8::1\"\n{LEAST}[tunnel]\ntype = \"ipip\"\n");
    let errors = refused(&text.replace("[node]\n", "[node]\nuplink = \"six\"\n"));
    assert_eq!(errors, ["node.address: must be set: IP in IP travels over IPv4 only"]);
    let peer = of_kind("ipip").replace("address = \"192.168.77.4\"", "address6 = \"2001:db8::4\"");
    let errors = refused(&format!("{LEAST}{peer}"));
    assert_eq!(errors, ["peer[ipip].address: must be set: IP in IP travels over IPv4 only"]);
}

#[test]
fn takes_everything_it_is_told() {
    let config = load(FULL);
    assert_eq!(config.node.subnet, Some("192.168.78.0/24".parse().unwrap()));
    assert_eq!((config.node.workers, config.node.offload), (2, false));
    assert_eq!(config.node.without, [FastPath::UplinkTap, FastPath::Trains].into());
    assert_eq!(
        config.tunnel,
        Tunnel::Vxlan { vni: 77, port: 4789, vtep_mac: Some(Mac([0x0e, 0, 0, 0, 0, 1])), cross_subnet: true }
    );
    assert_eq!(config.manifests(), Some(Path::new("/etc/vswitch/manifests")));
    assert_eq!(config.node.reach(&config.peers[0]), Some("192.168.78.2".parse().unwrap()));
    assert_eq!(config.node.reach(&config.peers[1]), Some("2001:db8::3".parse().unwrap()));
    assert!(Fleet::of(&config).outer_v6(&config.node));
    assert_eq!(config.overhead(), 70);
    assert_eq!((config.pod_mtu(9000), config.least_mtu()), (1400, 1280));
    assert_eq!(config.metrics, Some("[::1]:9470".parse().unwrap()));
}

#[test]
fn overhead_follows_tunnel_and_family() {
    let kinds = [("vxlan", 50, 70), ("udp", 28, 48), ("ipip", 20, 20), ("direct", 0, 0)];
    for (kind, v4, v6) in kinds {
        let config = load(&format!("{LEAST}[tunnel]\ntype = \"{kind}\"\n"));
        assert_eq!(
            (config.tunnel.backend().overhead(false), config.tunnel.backend().overhead(true)),
            (v4, v6),
            "{kind}"
        );
    }
    let config = load(&format!("{LEAST}[tunnel]\ntype = \"udp\"\n"));
    assert!(matches!(config.tunnel, Tunnel::Udp { port: 8285, .. }));
}

#[test]
fn a_file_for_another_machine_must_say_everything() {
    let err = Config::load(LEAST, &Machine::unknown()).unwrap_err().to_string();
    assert!(err.contains("node.name: must be set: the machine has no host name"), "{err}");
    assert!(err.contains("node.uplink: must be set: the machine has no default route"), "{err}");
    let text = format!("[node]\nname = \"n9\"\nuplink = \"ens5\"\naddress = \"10.1.1.1\"\n{LEAST}");
    let config = Config::load(&text, &Machine::unknown()).unwrap();
    assert_eq!((config.node.subnet, config.node.workers), (None, 1));
}

/// Text put in place of the section's line, and the one error expected.
#[test]
fn every_error_names_key_and_value() {
    let node = |line: &str| format!("[node]\n{line}\n{LEAST}");
    let network = |line: &str| format!("[network]\n{line}\n");
    let tunnel = |line: &str| format!("{LEAST}[tunnel]\n{line}\n");
    let peer = |from: &str, to: &str| {
        assert!(PEER.contains(from), "{from}");
        format!("{LEAST}{}", PEER.replace(from, to))
    };
    let second = |lines: &str| format!("{LEAST}{PEER}[[peer]]\n{lines}");
    let pods = "pod-cidrs = [\"10.244.1.0/24\"]\n";
    let cases: Vec<(String, &str)> = vec![
        // [node]
        (
            node("name = \"N1\""),
            r#"node.name = "N1": must be lower-case letters, digits and '-', possibly several such words joined by dots, at most 253"#,
        ),
        (node("name = \"a;$(reboot)\\nb\""), "node.name = "),
        (
            node("uplink = \"eth9\""),
            r#"node.uplink = "eth9": this machine has no such interface; it has bare, eth0, four, lo, six, thin"#,
        ),
        (
            node("uplink = \"../eth0\""),
            r#"node.uplink = "../eth0": is no interface name (1 to 15 characters, no '/', ':' or blank)"#,
        ),
        (node("uplink = \"bare\""), "node.address: must be set: bare has no address to take"),
        (node("address = \"192.168.77\""), r#"node.address = "192.168.77": is not an IPv4 address"#),
        (
            node("address = \"2001:db8::1\""),
            r#"node.address = "2001:db8::1": is an IPv6 address: write it as address6"#,
        ),
        (
            node("address = \"127.0.0.1\""),
            r#"node.address = "127.0.0.1": cannot be the address of a node (unspecified, loopback, link-local, multicast or broadcast)"#,
        ),
        (
            node("address = \"192.168.77.9\""),
            r#"node.address = "192.168.77.9": no interface of this machine has this address"#,
        ),
        (node("address6 = \"192.168.77.1\""), r#"node.address6 = "192.168.77.1": is not an IPv6 address"#),
        (node("address6 = \"fe80::1\""), r#"node.address6 = "fe80::1": cannot be"#),
        (node("address6 = \"2001:db8::9\""), r#"node.address6 = "2001:db8::9": no interface"#),
        (node("state-dir = \"var\""), r#"node.state-dir = "var": must be an absolute path"#),
        (node(&format!("run-dir = \"/{}\"", "r".repeat(100))), "node.run-dir = "),
        (node("workers = 65"), "node.workers = 65: must be from 0 to 64"),
        (node("workers = -1"), "node.workers = -1: must be from 0 to 64"),
        // [network]
        (network(""), "network.pod-cidrs: must be set"),
        (network(&format!("{pods}cluster-cidrs = []")), "network.cluster-cidrs: must be set"),
        (
            network("pod-cidrs = [\"10.244.1.0\"]"),
            r#"network.pod-cidrs = "10.244.1.0": is not a range such as 10.244.1.0/24 or fd00:1::/64"#,
        ),
        (
            network("pod-cidrs = [\"10.244.1.7/24\"]"),
            r#"network.pod-cidrs = "10.244.1.7/24": has bits set behind the prefix length: 10.244.1.0/24 is meant"#,
        ),
        (
            network("pod-cidrs = [\"10.244.1.0/31\"]"),
            r#"network.pod-cidrs = "10.244.1.0/31": has no room for a pod: the longest prefix is /30 (IPv4) or /126 (IPv6)"#,
        ),
        (
            network("pod-cidrs = [\"10.99.1.0/24\"]"),
            r#"network.pod-cidrs = "10.99.1.0/24": is not inside network.cluster-cidrs"#,
        ),
        (
            network("pod-cidrs = [\"10.0.0.0/8\"]"),
            r#"network.pod-cidrs = "10.0.0.0/8": is not inside network.cluster-cidrs"#,
        ),
        (
            network("pod-cidrs = [\"10.244.1.0/24\", \"10.244.1.128/25\"]"),
            r#"network.pod-cidrs = "10.244.1.128/25": overlaps network.pod-cidrs = 10.244.1.0/24"#,
        ),
        (
            network(&format!("{pods}cluster-cidrs = [\"10.244.0.0/16\", \"10.0.0.0/8\"]")),
            r#"network.cluster-cidrs = "10.0.0.0/8": overlaps network.cluster-cidrs = 10.244.0.0/16"#,
        ),
        (
            network(&format!("{pods}cluster-cidrs = [\"0.0.0.0/0\", \"10.244.0.0/16\"]")),
            r#"network.cluster-cidrs = "0.0.0.0/0": overlaps 0.0.0.0/8, which is never used for pods"#,
        ),
        (
            network("pod-cidrs = [\"192.168.77.0/24\"]\ncluster-cidrs = [\"192.168.0.0/16\"]"),
            r#"network.pod-cidrs = "192.168.77.0/24": contains the node address 192.168.77.1 (node.address)"#,
        ),
        (network(&format!("{pods}mtu = 575")), "network.mtu = 575: is too small: pods need 576 bytes"),
        (
            network("pod-cidrs = [\"fd00::/64\"]\ncluster-cidrs = [\"fd00::/48\"]\nmtu = 1279"),
            "network.mtu = 1279: is too small: pods need 1280 bytes for IPv6",
        ),
        (
            network(&format!("{pods}mtu = 1451")),
            "network.mtu = 1451: does not fit: eth0 carries 1500 bytes, 50 of them taken by the tunnel",
        ),
        (network(&format!("{pods}mtu = -1")), "network.mtu = -1: must be from 0 to 65521"),
        (node("uplink = \"thin\""), "network.mtu = 0: leaves pods 550 bytes on thin, they need 576"),
        // [tunnel]
        (tunnel("type = \"gre\""), r#"tunnel.type = "gre": is unknown; there is vxlan, udp, ipip, direct"#),
        (tunnel("vni = 16777216"), "tunnel.vni = 16777216: must be from 1 to 16777215"),
        (tunnel("vni = 0"), "tunnel.vni = 0: must be from 1 to 16777215"),
        (tunnel("port = 0"), "tunnel.port = 0: must be from 1 to 65535"),
        (tunnel("port = 65536"), "tunnel.port = 65536: must be from 1 to 65535"),
        (
            tunnel("vtep-mac = \"01:00:5e:00:00:01\""),
            r#"tunnel.vtep-mac = "01:00:5e:00:00:01": is no unicast address"#,
        ),
        (
            tunnel("vtep-mac = \"00:00:00:00:00:00\""),
            r#"tunnel.vtep-mac = "00:00:00:00:00:00": is no unicast address"#,
        ),
        (
            tunnel("vtep-mac = \"0e-00-00-00-00-01\""),
            r#"tunnel.vtep-mac = "0e-00-00-00-00-01": is not an Ethernet address such as 0e:00:00:00:00:01"#,
        ),
        // [store], [ipam], [metrics]
        (
            format!("{LEAST}[ipam]\ntype = \"pools\""),
            "ipam.type = \"pools\": is for store.type = \"etcd\" only",
        ),
        (format!("{LEAST}[ipam]\ntype = \"whereabouts\""), "ipam.type = \"whereabouts\""),
        (format!("{LEAST}[store]\ntype = \"etcd\""), "network.pod-cidrs: comes from the store: remove it"),
        (
            format!("{LEAST}[store]\ntype = \"kubernetes\""),
            r#"store.type = "kubernetes": is not supported by this version; there is static, etcd"#,
        ),
        (
            format!("{LEAST}[store]\ntype = \"consul\""),
            r#"store.type = "consul": is unknown; there is static, etcd"#,
        ),
        (
            format!("{LEAST}[store]\nmanifests = \"manifests\""),
            r#"store.manifests = "manifests": must be an absolute path"#,
        ),
        (
            format!("{LEAST}[metrics]\nlisten = \"9470\""),
            r#"metrics.listen = "9470": is not an address and port such as 127.0.0.1:9470"#,
        ),
        (format!("{LEAST}[metrics]"), "metrics.listen: must be set"),
        // [[peer]]
        (peer("name = \"n2\"\n", ""), "peer[#1].name: must be set"),
        (peer("\"n2\"", "\"N2\""), r#"peer[#1].name = "N2": must be lower-case"#),
        (
            peer("\"n2\"", "\"n1.example\""),
            r#"peer[n1.example].name = "n1.example": is this node's own name"#,
        ),
        (
            peer("\"192.168.77.2\"", "\"192.168.77.1\""),
            r#"peer[n2].address = "192.168.77.1": is this node's own address: a node is not its own peer"#,
        ),
        (
            peer("\"192.168.77.2\"", "\"0.0.0.0\""),
            r#"peer[n2].address = "0.0.0.0": cannot be the address of a node"#,
        ),
        (peer("address = \"192.168.77.2\"\n", ""), "peer[n2]: needs address or address6"),
        (peer("pod-cidrs = [\"10.244.2.0/24\"]\n", ""), "peer[n2].pod-cidrs: must be set"),
        (
            peer("10.244.2.0/24", "10.244.0.0/16"),
            r#"peer[n2].pod-cidrs = "10.244.0.0/16": overlaps network.pod-cidrs = 10.244.1.0/24"#,
        ),
        (
            peer("10.244.2.0/24", "10.244.1.0/24"),
            r#"peer[n2].pod-cidrs = "10.244.1.0/24": overlaps network.pod-cidrs = 10.244.1.0/24"#,
        ),
        (
            peer("10.244.2.0/24", "10.9.2.0/24"),
            r#"peer[n2].pod-cidrs = "10.9.2.0/24": is not inside network.cluster-cidrs"#,
        ),
        (
            peer("10.244.2.0/24", "0.0.0.0/0"),
            r#"peer[n2].pod-cidrs = "0.0.0.0/0": overlaps 0.0.0.0/8, which is never used for pods"#,
        ),
        (
            peer("vtep-mac = \"0e:00:00:00:00:02\"\n", ""),
            r#"peer[n2].vtep-mac: must be set for a peer with tunnel.type = "vxlan": that node keeps it in the file vtep-mac of its state-dir"#,
        ),
        (
            peer("0e:00:00:00:00:02", "ff:ff:ff:ff:ff:ff"),
            r#"peer[n2].vtep-mac = "ff:ff:ff:ff:ff:ff": is no unicast address"#,
        ),
        (
            format!("{}[tunnel]\nvtep-mac = \"0e:00:00:00:00:02\"", peer("n2", "n2")),
            r#"peer[n2].vtep-mac = "0e:00:00:00:00:02": is also tunnel.vtep-mac"#,
        ),
        (
            second(
                "name = \"n2\"\naddress = \"192.168.77.3\"\npod-cidrs = [\"10.244.3.0/24\"]\nvtep-mac = \"0e:00:00:00:00:03\"",
            ),
            r#"peer[#2].name = "n2": is also the name of peer number 1"#,
        ),
        (
            second(
                "name = \"n3\"\naddress = \"192.168.77.2\"\npod-cidrs = [\"10.244.3.0/24\"]\nvtep-mac = \"0e:00:00:00:00:03\"",
            ),
            r#"peer[n3].address = "192.168.77.2": is also peer[n2].address"#,
        ),
        (
            second(
                "name = \"n3\"\naddress = \"192.168.77.3\"\npod-cidrs = [\"10.244.2.128/25\"]\nvtep-mac = \"0e:00:00:00:00:03\"",
            ),
            r#"peer[n3].pod-cidrs = "10.244.2.128/25": overlaps peer[n2].pod-cidrs = 10.244.2.0/24"#,
        ),
        (
            second(
                "name = \"n3\"\naddress = \"192.168.77.3\"\npod-cidrs = [\"10.244.3.0/24\"]\nvtep-mac = \"0e:00:00:00:00:02\"",
            ),
            r#"peer[n3].vtep-mac = "0e:00:00:00:00:02": is also peer[n2].vtep-mac"#,
        ),
        (
            format!(
                "[node]\nuplink = \"four\"\n{LEAST}{}",
                PEER.replace("address = \"192.168.77.2\"", "address6 = \"2001:db8::2\"")
            ),
            "peer[n2]: has no address of a family that this node has too",
        ),
        (
            format!(
                "[network]\npod-cidrs = [\"10.244.1.0/24\"]\ncluster-cidrs = [\"10.244.0.0/16\", \"192.168.0.0/16\"]\n{}",
                PEER.replace("10.244.2.0", "192.168.77.0")
            ),
            r#"peer[n2].pod-cidrs = "192.168.77.0/24": contains the node address 192.168.77.1 (node.address)"#,
        ),
    ];
    let mut wrong = String::new();
    for (text, expected) in &cases {
        let errors = refused(text);
        if errors.len() != 1 || !errors[0].starts_with(expected) {
            wrong += &format!("\n{errors:#?}\nbut expected\n{expected}\n{text}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_errors_are_told_at_once() {
    let errors = refused("[network]\npod-cidrs = [\"x\"]\nmtu = 9\n[tunnel]\nvni = -4\nport = 0\n");
    assert_eq!(errors.len(), 4, "{errors:#?}");
}

#[test]
fn unknown_keys_and_wrong_types_show_their_line() {
    for (text, word) in [
        ("[node]\nnmae = \"n1\"\n", "nmae"),
        ("[node]\nstate_dir = \"/x\"\n", "state_dir"),
        ("[nodes]\n", "nodes"),
        ("[[peer]]\nip = \"1.1.1.1\"\n", "ip"),
        ("[store]\npaswd = 1\n", "paswd"),
        ("[ipam]\npool = \"a\"\n", "pool"),
        ("[bgp]\n[[bgp.peer]]\nactive = true\n", "active"),
        ("[[bgp.peer]]\n[[bgp.peer.import-rule]]\nprefix = 1\n", "prefix"),
        ("[metrics]\nport = 1\n", "port"),
    ] {
        let err = Config::load(text, &machine()).unwrap_err();
        assert!(matches!(err, LoadError::Syntax { .. }), "{err}");
        let err = err.to_string();
        assert!(err.contains("line ") && err.contains(&format!("unknown field `{word}`")), "{err}");
    }
    let err = Config::load("[network]\nmtu = \"1500\"\n", &machine()).unwrap_err().to_string();
    assert!(err.contains("line 2") && err.contains("expected i64"), "{err}");
    let err = Config::load("[network\n", &machine()).unwrap_err().to_string();
    assert!(err.contains("line 1"), "{err}");
}

#[test]
fn a_thousand_peers_are_checked_at_once() {
    use std::fmt::Write as _;
    let mut text =
        "[network]\ncluster-cidrs = [\"10.0.0.0/8\"]\npod-cidrs = [\"10.255.0.0/24\"]\n".to_owned();
    for n in 0..1000 {
        let (hi, lo) = (n / 250, n % 250);
        let _ = write!(
            text,
            "[[peer]]\nname = \"p{n}\"\naddress = \"172.16.{hi}.{}\"\npod-cidrs = [\"10.{hi}.{lo}.0/24\"]\nvtep-mac = \"0e:00:00:01:{hi:02x}:{lo:02x}\"\n",
            lo + 1
        );
    }
    assert_eq!(load(&text).peers.len(), 1000);
}

/// The file that is installed, and the same with every commented key switched on.
#[test]
fn the_installed_example_is_valid() {
    let text = include_str!("../../../deploy/vswitch.toml");
    assert_eq!(load(text), load(LEAST), "what it sets and shows are the defaults");
    let is_key =
        |line: &&str| line.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| !c.is_whitespace()));
    let on: String =
        text.lines().map(|l| if is_key(&l) { &l[1..] } else { l }).flat_map(|l| [l, "\n"]).collect();
    let all = load(&on.replace("fd77::1", "2001:db8::1").replace("fd77::2", "2001:db8::2"));
    assert_eq!((all.peers.len(), all.metrics), (1, Some("127.0.0.1:9470".parse().unwrap())));
    // Every key that the configuration prints, the example explains.
    for line in all.to_toml().lines().filter(|l| !l.is_empty()) {
        let key = line.split(" =").next().unwrap_or(line);
        assert!(on.lines().any(|l| l.split(" =").next() == Some(key)), "{key} is not in deploy/vswitch.toml");
    }
}

/// With etcd, and these lines more of `[store]`.
fn with_etcd(more: &str) -> Result<Config, String> {
    let text = format!(
        "[node]\nname = \"n1\"\nuplink = \"eth0\"\naddress = \"10.0.0.1\"\n[store]\ntype = \"etcd\"\n{more}"
    );
    Config::load(&text, &Machine::unknown()).map_err(|err| err.to_string())
}

#[test]
fn etcd_needs_no_more_than_its_name() {
    let config = with_etcd("").unwrap();
    let expected = EtcdSettings {
        subnet_env: Some(PathBuf::from("/run/flannel/subnet.env")),
        ..EtcdSettings::plain("http://127.0.0.1:2379")
    };
    assert_eq!(config.store, Store::Etcd(expected));
    let without = with_etcd("subnet-env = \"\"").unwrap();
    assert_eq!(without.store, Store::Etcd(EtcdSettings::plain("http://127.0.0.1:2379")));
    assert_eq!(config.manifests(), None);
    assert_eq!(config.network.pod_cidrs, []);
    let again = Config::load(&config.to_toml(), &Machine::unknown()).unwrap();
    assert_eq!(again, config, "{}", config.to_toml());
}

#[test]
fn a_password_is_kept_and_not_shown() {
    let config = with_etcd(
        "endpoints = [\"https://10.0.0.1:2379\", \"https://[fd00::1]:2379\"]\nprefix = \"/net/\"\nca = \"/ca.pem\"\n\
         cert = \"/c.pem\"\nkey = \"/k.pem\"\nusername = \"root\"\npassword = \"s3cret\"\n",
    )
    .unwrap();
    let Store::Etcd(settings) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!(settings.user, Some(("root".to_owned(), "s3cret".to_owned())));
    assert_eq!(settings.prefix, "/net");
    assert_eq!(settings.identity, Some(("/c.pem".into(), "/k.pem".into())));
    assert!(!config.to_toml().contains("s3cret") && !format!("{config:?}").contains("s3cret"));
}

#[test]
fn errors_of_etcd_name_their_key() {
    for (more, error) in [
        ("manifests = \"/m\"", r#"store.manifests = "/m": is for store.type = "static" only"#),
        ("endpoints = []", "store.endpoints: must be set"),
        (
            "endpoints = [\"10.0.0.1:2379\"]",
            r#"store.endpoints = "10.0.0.1:2379": is not a member's URL such as https://10.0.0.1:2379"#,
        ),
        (
            "endpoints = [\"http://a/b\"]",
            r#"store.endpoints = "http://a/b": is not a member's URL such as https://10.0.0.1:2379"#,
        ),
        (
            "endpoints = [\"http://a\", \"https://b\"]\nca = \"/ca\"",
            "store.endpoints: must all be http, or all https",
        ),
        ("endpoints = [\"https://a\"]", "store.ca: must be set for https: whose certificates are believed"),
        ("ca = \"/ca\"", "store.ca: has no use without https endpoints"),
        ("endpoints = [\"https://a\"]\nca = \"/ca\"\ncert = \"/c\"", "store.key: must be set"),
        ("username = \"root\"", "store.password: must be set"),
        ("password = \"x\"", "store.username: must be set"),
        ("prefix = \"/\"", r#"store.prefix = "/": must begin with '/', and name more than that"#),
        ("[network]\npod-cidrs = [\"10.244.1.0/24\"]", "network.pod-cidrs: comes from the store: remove it"),
        (
            "[network]\ncluster-cidrs = [\"10.244.0.0/16\"]",
            "network.cluster-cidrs: comes from the store: remove it",
        ),
        ("[tunnel]\ntype = \"vxlan\"", "tunnel.type: comes from the store: remove it"),
    ] {
        assert_eq!(with_etcd(more).unwrap_err(), error, "{more}");
    }
    assert!(with_etcd("[tunnel]\nvtep-mac = \"0e:00:00:00:00:01\"\n[network]\nmtu = 1400").is_ok());
    let peer = "[[peer]]\nname = \"n2\"\naddress = \"10.0.0.2\"\npod-cidrs = [\"10.244.2.0/24\"]\nvtep-mac = \"0e:00:00:00:00:02\"";
    assert!(with_etcd(peer).unwrap_err().starts_with("[[peer]]: comes from the store: remove it"));
}
