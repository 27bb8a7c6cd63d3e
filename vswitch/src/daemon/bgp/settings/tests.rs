use bgp::attr::Attributes;
use bgp::policy::Verdict;
use bgp::{AsPath, Community, LargeCommunity};
use control::config::{Config as NodeConfig, Machine};

use super::*;

fn node(bgp: &str) -> (NodeConfig, Fleet) {
    let text = format!(
        r#"
[node]
name = "n1"
uplink = "eth0"
address = "192.168.77.1"
address6 = "fd77::1"
workers = 1
[network]
cluster-cidrs = ["10.244.0.0/16", "fd00::/48"]
pod-cidrs = ["10.244.1.0/24", "fd00:0:0:1::/64"]
[tunnel]
type = "direct"
[[peer]]
name = "n2"
address = "192.168.77.2"
address6 = "fd77::2"
pod-cidrs = ["10.244.2.0/24"]
[[peer]]
name = "n3"
address = "192.168.77.3"
pod-cidrs = ["10.244.3.0/24"]
{bgp}"#
    );
    let mut config = NodeConfig::load(&text, &Machine::default()).unwrap();
    config.node.subnet = Some("192.168.77.0/24".parse().unwrap());
    let fleet = Fleet::of(&config);
    (config, fleet)
}

fn made(bgp: &str) -> Settings {
    let (config, fleet) = node(bgp);
    settings(config.bgp.as_ref().unwrap(), &config.node, &fleet, false, &mut Policies::default())
}

fn peer<'a>(settings: &'a Settings, addr: &str) -> &'a PeerConfig {
    settings.config.peers.iter().find(|p| p.address.to_string() == addr).unwrap()
}

fn takes(policy: &Policy, net: &str) -> bool {
    let attributes = Attributes::new("192.168.77.9".parse().unwrap());
    policy.verdict(&net.parse().unwrap(), &attributes) != Verdict::Reject
}

#[test]
fn every_node_is_a_neighbour_unless_it_is_listed() {
    let all = made(
        "[bgp]\nasn = 64512\nmesh-password = \"x\"\n[[bgp.peer]]\naddress = \"192.168.77.3\"\nasn = 64513",
    );
    let addrs: Vec<String> = all.config.peers.iter().map(|p| p.address.to_string()).collect();
    assert_eq!(addrs, ["192.168.77.3", "192.168.77.2", "fd77::2"]);
    assert_eq!((peer(&all, "192.168.77.3").asn, peer(&all, "192.168.77.2").asn), (64_513, 64_512));
    assert!(peer(&all, "192.168.77.3").password.is_none() && peer(&all, "fd77::2").password.is_some());
    assert_eq!(peer(&all, "fd77::2").local_address, Some("fd77::1".parse().unwrap()));
    assert!(all.config.check().is_ok());
    let none = made("[bgp]\nasn = 64512\nmesh = false");
    assert!(none.config.peers.is_empty());
}

#[test]
fn nobody_takes_our_traffic_away() {
    let all = made("[bgp]\nasn = 64512");
    let import = peer(&all, "192.168.77.2").import.clone().unwrap();
    for hijack in [
        "10.244.1.0/24",
        "10.244.1.7/32",
        "fd00:0:0:1::5/128",
        "192.168.77.0/24",
        "192.168.77.2/32",
        "192.168.77.128/25",
        "fd77::2/128",
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "127.1.2.3/32",
        "169.254.1.1/32",
        "224.0.0.0/4",
        "240.0.0.0/8",
        "0.0.0.0/8",
        "fe80::/64",
        "ff02::/16",
        "::1/128",
    ] {
        assert!(!takes(&import, hijack), "{hijack}");
    }
    for good in [
        "10.244.2.0/26",
        "10.244.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fd00:0:0:2::/64",
        "2001:db8::/32",
    ] {
        assert!(takes(&import, good), "{good}");
    }
}

#[test]
fn a_list_of_ranges_is_all_that_is_taken_and_sent() {
    let all = made(
        "[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 65000\n\
         import = [\"0.0.0.0/0\", \"10.0.0.0/8\"]\nexport = [\"10.244.1.0/24\"]\n\
         [[bgp.peer]]\naddress = \"192.168.77.8\"\nasn = 65000\nimport = [\"10.0.0.0/8\"]",
    );
    let (nine, eight) = (peer(&all, "192.168.77.9"), peer(&all, "192.168.77.8"));
    let (import, export) = (nine.import.clone().unwrap(), nine.export.clone().unwrap());
    assert!(takes(&import, "0.0.0.0/0") && takes(&import, "10.9.0.0/16"));
    assert!(!takes(&import, "10.244.1.0/24"), "ours all the same");
    assert!(takes(&export, "10.244.1.0/24") && !takes(&export, "10.244.2.0/24"));
    let import = eight.import.clone().unwrap();
    assert!(
        takes(&import, "10.9.0.0/16") && !takes(&import, "172.16.0.0/12") && !takes(&import, "0.0.0.0/0")
    );
}

#[test]
fn other_ases_hear_of_the_clusters_ranges_only() {
    let all = made("[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 65000");
    let export = peer(&all, "192.168.77.9").export.clone().unwrap();
    assert!(takes(&export, "10.244.2.0/24") && takes(&export, "fd00:0:0:2::/64"));
    assert!(!takes(&export, "172.16.0.0/12"));
    assert!(takes(peer(&all, "192.168.77.2").export.as_ref().unwrap(), "172.16.0.0/12"), "our own nodes do");
}

#[test]
fn a_policy_that_stays_the_same_is_the_same() {
    let (config, mut fleet) = node("[bgp]\nasn = 64512");
    let bgp = config.bgp.as_ref().unwrap();
    let mut policies = Policies::default();
    let before = settings(bgp, &config.node, &fleet, false, &mut policies);
    let again = settings(bgp, &config.node, &fleet, false, &mut policies);
    let import = |s: &Settings| peer(s, "192.168.77.2").import.clone().unwrap();
    assert!(Arc::ptr_eq(&import(&before), &import(&again)));
    fleet.pod_cidrs = vec!["10.244.7.0/24".parse().unwrap()];
    let other = settings(bgp, &config.node, &fleet, false, &mut policies);
    assert!(!Arc::ptr_eq(&import(&before), &import(&other)));
    assert_eq!(policies.0.len(), 2, "what nobody uses is forgotten");
}

#[test]
fn pods_routes_are_the_data_paths_and_others_the_kernels() {
    let scope = made("[bgp]\nasn = 64512").scope;
    let has = |net: &str, hop: &str| scope.has(&net.parse().unwrap(), [hop.parse().unwrap()]);
    assert!(has("10.244.9.0/26", "192.168.77.9"), "a pod range");
    assert!(has("172.16.0.0/12", "192.168.77.2"), "by way of a node");
    assert!(!has("172.16.0.0/12", "192.168.77.9"));
}

#[test]
fn rules_refine_what_is_taken_and_never_widen_it() {
    let all = made(
        "[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 65000\nimport = [\"10.0.0.0/8\"]\n\
         [[bgp.peer.import-rule]]\ncommunities = [\"65000:666\", \"65000:6:6\"]\naction = \"reject\"\n\
         [[bgp.peer.import-rule]]\nprefixes = [\"10.9.0.0/16 le 16\"]\nlocal-pref = 200\n\
         [[bgp.peer.import-rule]]\norigin-as = [65001]\naction = \"reject\"\n\
         [[bgp.peer.import-rule]]\n\
         [[bgp.peer.export-rule]]\nadd-communities = [\"64512:1\", \"64512:1:1\"]\nprepend = 2\n",
    );
    let nine = peer(&all, "192.168.77.9");
    let (import, export) = (nine.import.clone().unwrap(), nine.export.clone().unwrap());
    let plain = Attributes::new("192.168.77.9".parse().unwrap());
    let verdict = |net: &str, a: &Attributes| import.verdict(&net.parse().unwrap(), a);
    assert_eq!(verdict("10.8.0.0/16", &plain), Verdict::Accept);
    let tagged = Attributes { communities: [Community(65_000 << 16 | 666)].into(), ..plain.clone() };
    assert_eq!(verdict("10.8.0.0/16", &tagged), Verdict::Reject);
    let tagged = Attributes { large_communities: [LargeCommunity([65_000, 6, 6])].into(), ..plain.clone() };
    assert_eq!(verdict("10.8.0.0/16", &tagged), Verdict::Reject);
    let preferred = verdict("10.9.0.0/16", &plain);
    let mut changed = plain.clone();
    import.change(preferred, &mut changed);
    assert_eq!(changed.local_pref, Some(200));
    assert_eq!(verdict("10.9.1.0/24", &plain), Verdict::Accept, "only the prefix itself");
    let theirs = Attributes { as_path: AsPath::sequence(&[65_000, 65_001]), ..plain.clone() };
    assert_eq!(verdict("10.8.0.0/16", &theirs), Verdict::Reject);
    // The last rule accepts everything, and yet:
    for refused in ["172.16.0.0/12", "10.244.1.0/24", "0.0.0.0/0"] {
        assert_eq!(verdict(refused, &plain), Verdict::Reject, "{refused}");
    }
    assert!(!takes(&export, "172.16.0.0/12"), "no pods' prefix");
    let mut sent = plain.clone();
    export.change(export.verdict(&"10.244.1.0/24".parse().unwrap(), &sent), &mut sent);
    assert_eq!(*sent.communities, [Community(64_512 << 16 | 1)]);
    assert_eq!(*sent.large_communities, [LargeCommunity([64_512, 1, 1])]);
    assert_eq!(sent.as_path.to_string(), "64512 64512");
}
