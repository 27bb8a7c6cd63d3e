//! Subnets from a real etcd: taken without a clash, kept over everything, written as flannel writes them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use control::config::EtcdSettings;
use control::store::etcd::{NodeFacts, Timing};
use vswitch_tests::etcd::{Etcd, Node, Proxy, quick, wait};

const CONFIG: &str = "/coreos.com/network/config";
const SUBNETS: &str = "/coreos.com/network/subnets/";

fn network(etcd: &Etcd, more: &str) {
    etcd.put(CONFIG, &format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"vxlan"}}{more}}}"#));
}

/// 10.5.1.0/24 as a lease's key has it.
fn key_of(subnet: &str) -> String {
    format!("{SUBNETS}{}", subnet.replace('/', "-"))
}

#[test]
fn what_is_written_is_flannels_byte_for_byte() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let node = Node::start(1, &etcd.settings());
    let first = node.first();
    let key = key_of(&node.subnet());
    assert_eq!(etcd.keys(SUBNETS), [key.as_str()]);
    assert_eq!(
        etcd.get(&key),
        r#"{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}}"#
    );
    assert_eq!(first.fleet.cluster_cidrs[0].to_string(), "10.5.0.0/16");
    assert_eq!(first.fleet.tunnel.kind(), "vxlan");
    // Its life is what was asked for.
    let lease = etcd.lease_of(&key);
    let text = etcd.ctl(&["lease", "timetolive", &format!("{lease:x}")]);
    assert!(text.contains("granted with TTL(30s)"), "{text}");
    let health = node.store().health();
    assert!(health.connected && health.error.is_none(), "{health:?}");
    assert_eq!(health.lease.unwrap().key, node.subnet().replace('/', "-"));
}

#[test]
fn every_kind_and_dual_stack() {
    for (backend, value) in [
        (r#""udp""#, r#"{"PublicIP":"192.168.0.1","PublicIPv6":"fd00:77::1"}"#),
        (r#""host-gw""#, r#"{"PublicIP":"192.168.0.1","PublicIPv6":"fd00:77::1","BackendType":"host-gw"}"#),
        (
            r#""vxlan","VNI":9,"DirectRouting":true"#,
            r#"{"PublicIP":"192.168.0.1","PublicIPv6":"fd00:77::1","BackendType":"vxlan","BackendData":{"VNI":9,"VtepMAC":"0e:00:00:00:00:01"},"BackendV6Data":{"VNI":9,"VtepMAC":"0e:00:00:00:00:01"}}"#,
        ),
    ] {
        let etcd = Etcd::start();
        let config =
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"#;
        etcd.put(CONFIG, &format!("{config}{backend}}}}}"));
        let (one, two) = (Node::start(1, &etcd.settings()), Node::start(2, &etcd.settings()));
        let fleet = one.first().fleet;
        let nets: Vec<String> = fleet.pod_cidrs.iter().map(ToString::to_string).collect();
        let key = format!("{SUBNETS}{}&{}", nets[0].replace('/', "-"), nets[1].replace('/', "-"));
        assert_eq!(etcd.get(&key), value, "{backend}");
        // The other node has one peer for each family; udp carries IPv4 alone.
        let families = if backend.contains("udp") { 1 } else { 2 };
        let _ = two.first();
        two.wait("the first is a peer", |heard| {
            let peers = &heard.fleet.as_ref().unwrap().peers;
            let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
            let ranges: Vec<_> =
                peers.iter().flat_map(|peer| &peer.pod_cidrs).map(ToString::to_string).collect();
            names == ["192.168.0.1", "fd00:77::1"][..families] && ranges == nets[..families]
        });
    }
}

#[test]
fn a_backend_that_is_not_spoken_is_said() {
    let etcd = Etcd::start();
    etcd.put(CONFIG, r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#);
    let node = Node::start(1, &etcd.settings());
    wait("a problem", || {
        node.problem(&format!("{SUBNETS}(this node's)")).is_some_and(|p| p.contains("wireguard"))
    });
    let err = node.store().wait_first(Duration::from_millis(100)).unwrap_err().to_string();
    assert!(err.contains(r#"Backend.Type = "wireguard" is not supported"#), "{err}");
    assert_eq!(etcd.keys(SUBNETS), [""; 0]);
}

#[test]
fn fifty_nodes_at_once_do_not_clash() {
    let etcd = Etcd::start();
    // Room for 63: most choices collide, and every lost race is tried again.
    etcd.put(CONFIG, r#"{"Network":"10.5.0.0/20","SubnetLen":26,"Backend":{"Type":"vxlan"}}"#);
    let began = Instant::now();
    let nodes: Vec<Node> = (1..=50).map(|number| Node::start(number, &etcd.settings())).collect();
    let subnets: BTreeSet<String> = nodes
        .iter()
        .map(|node| {
            let _ = node.first();
            node.subnet()
        })
        .collect();
    eprintln!("50 nodes had their subnets after {:?}", began.elapsed());
    assert_eq!(subnets.len(), 50, "{subnets:?}");
    assert_eq!(etcd.keys(SUBNETS).len(), 50, "nobody left a second one");
    for node in &nodes {
        node.wait("all others are peers", |heard| heard.fleet.as_ref().unwrap().peers.len() == 49);
        assert_eq!(node.with(|heard| heard.problems.clone()), []);
    }
}

#[test]
fn a_deleted_lease_is_taken_again() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let (subnet, key) = (node.subnet(), key_of(&node.subnet()));
    for _ in 0..3 {
        etcd.ctl(&["del", &key]);
        wait("it is back", || etcd.keys(SUBNETS) == [key.as_str()]);
    }
    // The lease itself gone, keys and all.
    etcd.ctl(&["lease", "revoke", &format!("{:x}", etcd.lease_of(&key))]);
    wait("it is back", || etcd.keys(SUBNETS) == [key.as_str()]);
    assert_eq!(node.subnet(), subnet);
    assert_eq!(node.with(|heard| heard.fleets), 1, "nothing changed for packets");
}

#[test]
fn a_subnet_that_another_took_meanwhile_is_left_to_it() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let proxy = Proxy::start(etcd.port());
    let node = Node::start(1, &EtcdSettings::plain(&proxy.url()));
    let _ = node.first();
    let (subnet, key) = (node.subnet(), key_of(&node.subnet()));
    proxy.silence(true);
    let other = r#"{"PublicIP":"192.168.9.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
    etcd.ctl(&["lease", "revoke", &format!("{:x}", etcd.lease_of(&key))]);
    etcd.put(&key, other);
    proxy.silence(false);
    node.wait("another subnet", |heard| heard.fleet.as_ref().unwrap().pod_cidrs[0].to_string() != subnet);
    assert_eq!(etcd.get(&key), other);
    assert_eq!(node.peer("192.168.9.9").unwrap().pod_cidrs[0].to_string(), subnet);
}

#[test]
fn an_overwritten_lease_is_written_again() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let key = key_of(&node.subnet());
    let ours = etcd.get(&key);
    etcd.put(&key, "{}");
    wait("it is ours again", || etcd.get(&key) == ours);
    assert_ne!(etcd.lease_of(&key), 0, "with a lease");
}

#[test]
fn a_reservation_stays_one() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let key = format!("{SUBNETS}10.5.77.0-24");
    etcd.put(&key, r#"{"PublicIP":"192.168.0.1"}"#);
    let mut node = Node::start(1, &etcd.settings());
    let _ = node.first();
    assert_eq!(node.subnet(), "10.5.77.0/24");
    wait("it says how we are reached", || etcd.get(&key).contains("0e:00:00:00:00:01"));
    assert_eq!(etcd.lease_of(&key), 0);
    assert_eq!(node.store().health().lease.unwrap().expires, None);
    node.stop(true);
    node.resume();
    let _ = node.first();
    assert_eq!((node.subnet(), etcd.lease_of(&key)), ("10.5.77.0/24".to_owned(), 0));
}

#[test]
fn a_node_finds_its_subnet_again() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let mut node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let subnet = node.subnet();
    // By its address, though its directory is lost.
    node.stop(false);
    std::fs::remove_dir_all(&node.dir).unwrap();
    std::fs::create_dir(&node.dir).unwrap();
    node.resume();
    let _ = node.first();
    assert_eq!(node.subnet(), subnet);
    // By its directory, though etcd has forgotten it.
    node.stop(true);
    assert_eq!(etcd.keys(SUBNETS), [""; 0], "the lease was given back");
    node.resume();
    let _ = node.first();
    assert_eq!(node.subnet(), subnet);
    // By flannel's file, if that is all there is.
    let dir = vswitch_tests::etcd::scratch("env");
    let env = dir.join("subnet.env");
    let lines =
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.200.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    std::fs::write(&env, lines).unwrap();
    let facts = NodeFacts {
        name: "old".to_owned(),
        address: Some("192.168.3.3".parse().unwrap()),
        address6: None,
        vtep_mac: None,
        subnet_env: Some(env),
        pools: false,
    };
    let old = Node::start_as(facts, &etcd.settings(), quick());
    let _ = old.first();
    assert_eq!(old.subnet(), "10.5.200.0/24");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_node_without_a_mac_takes_up_the_one_its_peers_know() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let value = r#"{"PublicIP":"192.168.4.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:12:34:56:78:9a"}}"#;
    etcd.put(&format!("{SUBNETS}10.5.44.0-24"), value);
    let address = Some("192.168.4.4".parse().unwrap());
    let facts = NodeFacts {
        name: "n".to_owned(),
        address,
        address6: None,
        vtep_mac: None,
        subnet_env: None,
        pools: false,
    };
    let node = Node::start_as(facts, &etcd.settings(), quick());
    let tunnel = node.first().fleet.tunnel.clone();
    assert!(format!("{tunnel:?}").contains("0e:12:34:56:78:9a"), "{tunnel:?}");
}

#[test]
fn a_lease_is_renewed_before_it_ends() {
    let etcd = Etcd::start();
    network(&etcd, "");
    let timing = Timing { ttl: Duration::from_secs(2), ..quick() };
    let node = Node::start_with(1, &etcd.settings(), timing);
    let _ = node.first();
    let key = key_of(&node.subnet());
    let (lease, revision) = (etcd.lease_of(&key), etcd.revision());
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(etcd.lease_of(&key), lease, "the same lease lives on");
    assert_eq!(etcd.revision(), revision, "and nothing was written for it");
}

#[test]
fn a_lease_that_no_longer_fits_is_replaced() {
    let etcd = Etcd::start();
    network(&etcd, r#","SubnetLen":25"#);
    let old = format!("{SUBNETS}10.5.9.0-24");
    etcd.put(&old, r#"{"PublicIP":"192.168.0.1"}"#);
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    assert!(node.subnet().ends_with("/25"), "{}", node.subnet());
    assert_eq!(etcd.keys(SUBNETS), [key_of(&node.subnet())]);
}
