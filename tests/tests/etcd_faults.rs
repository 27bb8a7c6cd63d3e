//! What goes wrong with a store: it is away, it is slow, it forgets, it lies. Nothing is taken back for that.

use std::time::{Duration, Instant, SystemTime};

use control::config::EtcdSettings;
use control::store::etcd::Timing;
use vswitch_tests::etcd::{Etcd, Node, Proxy, certificates, quick, scratch, wait};

const CONFIG: &str = "/coreos.com/network/config";
const SUBNETS: &str = "/coreos.com/network/subnets/";

/// Nodes take what lies above; the subnets below are the tests' own to write, and nobody's by chance.
const NETWORK: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.128.0","Backend":{"Type":"vxlan"}}"#;

fn network(etcd: &Etcd) {
    etcd.put(CONFIG, NETWORK);
}

/// What a flannel node writes.
fn vxlan(ip: &str, mac: u8) -> String {
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:ff:{mac:02x}"}}}}"#
    )
}

fn mac_of(node: &Node, peer: &str) -> String {
    node.peer(peer).and_then(|peer| peer.vtep_mac).map(|mac| mac.to_string()).unwrap_or_default()
}

#[test]
fn a_restart_of_etcd_is_not_noticed_by_packets() {
    let mut etcd = Etcd::start();
    network(&etcd);
    etcd.put(&format!("{SUBNETS}10.5.8.0-24"), &vxlan("192.168.8.8", 8));
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    node.wait("a peer", |heard| heard.fleet.as_ref().unwrap().peers.len() == 1);
    let before = node.with(|heard| heard.fleets);
    etcd.kill();
    wait("it is noticed", || !node.store().health().connected);
    let health = node.store().health();
    assert!(health.error.is_some() && health.since.is_some(), "{health:?}");
    std::thread::sleep(Duration::from_millis(500));
    etcd.resume();
    wait("it is reached again", || node.store().health().connected);
    assert_eq!(node.with(|heard| heard.fleets), before, "nothing was taken back or told again");
    // And it is followed again.
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    wait("the new peer", || node.peer("192.168.9.9").is_some());
}

/// A lease that is gone is told of a little later. Many that go one after the other may not put off everything else.
#[test]
fn leases_that_go_one_after_the_other_hold_nothing_up() {
    let etcd = Etcd::start();
    network(&etcd);
    let lease = |n: u8| format!("{SUBNETS}10.5.{n}.0-24");
    for n in 100..160 {
        etcd.put_fast(&lease(n), &vxlan(&format!("192.168.{n}.1"), n));
    }
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    node.wait("all peers", |heard| heard.fleet.as_ref().unwrap().peers.len() == 60);
    let began = Instant::now();
    let mut told = None;
    for n in 100..160 {
        etcd.delete_fast(&lease(n));
        if n == 105 {
            etcd.put_fast(&lease(60), &vxlan("192.168.60.1", 60));
        }
        std::thread::sleep(Duration::from_millis(20));
        told = told.or_else(|| node.peer("192.168.60.1").map(|_| began.elapsed()));
    }
    let all = began.elapsed();
    let told = told.unwrap_or_else(|| panic!("not told while leases went, for {all:?}"));
    assert!(told < Duration::from_millis(700), "told after {told:?} of {all:?}");
    wait("they are gone", || node.with(|heard| heard.fleet.as_ref().unwrap().peers.len() == 1));
}

#[test]
fn what_a_compaction_hides_is_learnt_all_the_same() {
    let mut etcd = Etcd::start();
    network(&etcd);
    for (subnet, ip, mac) in [("10.5.7.0-24", "192.168.7.7", 7), ("10.5.8.0-24", "192.168.8.8", 8)] {
        etcd.put(&format!("{SUBNETS}{subnet}"), &vxlan(ip, mac));
    }
    let proxy = Proxy::start(etcd.port());
    let timing = Timing { ping: Duration::from_secs(6), pong: Duration::from_secs(1), ..quick() };
    let node = Node::start_with(1, &EtcdSettings::plain(&proxy.url()), timing);
    let _ = node.first();
    node.wait("two peers", |heard| heard.fleet.as_ref().unwrap().peers.len() == 2);
    // While nothing passes: one peer goes, one gets another MAC under the same subnet, one comes, and the past is erased.
    proxy.silence(true);
    etcd.ctl(&["del", &format!("{SUBNETS}10.5.7.0-24")]);
    etcd.put(&format!("{SUBNETS}10.5.8.0-24"), &vxlan("192.168.8.8", 0x88));
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    etcd.ctl(&["compact", "--physical", &etcd.revision().to_string()]);
    etcd.kill();
    etcd.resume();
    proxy.silence(false);
    wait("the new MAC", || mac_of(&node, "192.168.8.8") == "0e:00:00:00:ff:88");
    wait("the new peer", || node.peer("192.168.9.9").is_some());
    wait("the old one is gone", || node.peer("192.168.7.7").is_none());
    assert_eq!(node.subnet(), node.first().fleet.pod_cidrs[0].to_string(), "our own stayed");
}

#[test]
fn with_three_members_any_one_may_go() {
    let mut members = Etcd::members(3);
    let etcd = |members: &[Etcd], i: usize, key: &str, value: &str| {
        wait("the members have a leader", || members[i].try_put(key, value));
    };
    etcd(&members, 0, CONFIG, NETWORK);
    let endpoints: Vec<String> = members.iter().map(Etcd::url).collect();
    let settings = EtcdSettings { endpoints: endpoints.clone(), ..members[0].settings() };
    let node = Node::start(1, &settings);
    let _ = node.first();
    // Each in turn, the one in use first: what is written through another one is heard of.
    for round in 0..3_u8 {
        let used = node.store().health().endpoint;
        let at = endpoints.iter().position(|url| *url == used).unwrap();
        members[at].kill();
        let began = Instant::now();
        let ip = format!("192.168.9.{round}");
        etcd(&members, (at + 1) % 3, &format!("{SUBNETS}10.5.{}.0-24", 100 + round), &vxlan(&ip, round));
        wait("it is heard of", || node.peer(&ip).is_some());
        eprintln!("member {at}, in use, killed: a change is heard of {:?} after", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_ne!(node.store().health().endpoint, used);
        members[at].resume();
    }
    // Two of three gone: the third one knows nothing for sure, and says so.
    let fleets = node.with(|heard| heard.fleets);
    members[0].kill();
    members[1].kill();
    wait("it is noticed", || !node.store().health().connected);
    assert_eq!(node.with(|heard| heard.fleets), fleets, "nothing is taken back");
    members[0].resume();
    wait("a majority is enough", || node.store().health().connected);
}

#[test]
fn a_partition_is_noticed() {
    let etcd = Etcd::start_with(&["--grpc-keepalive-min-time", "200ms"], "http");
    network(&etcd);
    let proxy = Proxy::start(etcd.port());
    let timing = Timing { ping: Duration::from_millis(500), pong: Duration::from_millis(500), ..quick() };
    let node = Node::start_with(1, &EtcdSettings::plain(&proxy.url()), timing);
    let _ = node.first();
    proxy.silence(true);
    let began = Instant::now();
    wait("it is noticed", || !node.store().health().connected);
    eprintln!("a silent network was noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(node.with(|heard| heard.fleet.is_some()));
    proxy.silence(false);
    wait("it is reached again", || node.store().health().connected);
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    wait("a new peer", || node.peer("192.168.9.9").is_some());
}

#[test]
fn another_member_takes_over() {
    let (mut one, two) = (Etcd::start(), Etcd::start());
    // Not one cluster: so it is seen which of them a node is on. The dead port is never an obstacle.
    network(&one);
    network(&two);
    two.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    let endpoints = vec!["http://127.0.0.1:1".to_owned(), one.url()];
    let node = Node::start(1, &EtcdSettings { endpoints, ..one.settings() });
    let _ = node.first();
    assert_eq!(node.store().health().endpoint, one.url());
    drop(node);
    one.kill();
    let endpoints = vec![one.url(), two.url()];
    let node = Node::start(1, &EtcdSettings { endpoints, ..two.settings() });
    let _ = node.first();
    wait("the second one's peer", || node.peer("192.168.9.9").is_some());
}

#[test]
fn a_start_without_etcd_comes_up_with_what_was_kept() {
    let mut etcd = Etcd::start();
    network(&etcd);
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    let policy = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p","namespace":"a"},"spec":{"podSelector":{}}}"#;
    etcd.put("/vswitch/objects/NetworkPolicy/a/p", policy);
    let mut node = Node::start(1, &etcd.settings());
    let before = node.first().fleet;
    node.stop(false);
    etcd.kill();
    let stopped = SystemTime::now();
    node.resume();
    let began = Instant::now();
    let first = node.store().wait_first(Duration::from_millis(300)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300), "etcd was given the time");
    let age = stopped.duration_since(first.kept.expect("it is what was kept")).unwrap_or_default();
    assert!(age < Duration::from_secs(5), "{age:?}");
    assert_eq!(first.fleet, before);
    assert_eq!(
        node.with(|heard| heard.objects.keys().map(ToString::to_string).collect::<Vec<_>>()),
        ["NetworkPolicy a/p"]
    );
    assert!(!node.store().health().connected);
    // etcd comes back with something else.
    etcd.resume();
    etcd.ctl(&["del", "/vswitch/objects/NetworkPolicy/a/p"]);
    etcd.put(&format!("{SUBNETS}10.5.8.0-24"), &vxlan("192.168.8.8", 8));
    wait("the new peer", || node.peer("192.168.8.8").is_some());
    node.wait("the policy is gone", |heard| heard.objects.keys().next().is_none());
    assert_eq!(node.subnet(), before.pod_cidrs[0].to_string());
    // A damaged copy is told of, and no obstacle.
    node.stop(false);
    etcd.kill();
    std::fs::write(node.dir.join("etcd.json"), "{").unwrap();
    node.resume();
    let told = || node.problem(&node.dir.display().to_string());
    wait("it is told", || told().is_some_and(|text| text.contains("damaged, and ignored")));
    etcd.resume();
    let _ = node.first();
    wait("a new copy is kept", || told().is_none());
}

#[test]
fn nothing_known_is_said_with_the_reason() {
    let node = Node::start(1, &EtcdSettings::plain("http://127.0.0.1:1"));
    let err = node.store().wait_first(Duration::from_millis(500)).unwrap_err().to_string();
    assert!(err.contains("http://127.0.0.1:1") && err.contains("refused"), "{err}");
    let etcd = Etcd::start();
    let node = Node::start(1, &etcd.settings());
    wait("the problem", || node.problem(CONFIG).is_some());
    let err = node.store().wait_first(Duration::from_millis(100)).unwrap_err().to_string();
    assert!(err.contains("/coreos.com/network/config: it is not there"), "{err}");
    // As soon as it is there, all goes on.
    network(&etcd);
    let _ = node.first();
}

#[test]
fn a_wiped_store_takes_nothing_back() {
    let mut etcd = Etcd::start();
    network(&etcd);
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    etcd.put(
        "/vswitch/objects/Namespace/_/a",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#,
    );
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let subnet = node.subnet();
    node.wait("all is known", |heard| heard.objects.keys().count() == 1);
    etcd.kill();
    etcd.wipe();
    etcd.resume();
    wait("it is seen", || node.problem(CONFIG).is_some_and(|text| text.contains("it is gone")));
    assert!(node.peer("192.168.9.9").is_some());
    assert_eq!(node.with(|heard| heard.objects.keys().count()), 1);
    // Restored by hand: what it says counts again, and our lease is there again.
    network(&etcd);
    wait("our lease", || etcd.keys(SUBNETS) == [format!("{SUBNETS}{}", subnet.replace('/', "-"))]);
    wait("the peer is gone", || node.peer("192.168.9.9").is_none());
}

#[test]
fn another_configuration_waits_for_the_next_start() {
    let etcd = Etcd::start();
    network(&etcd);
    let mut node = Node::start(1, &etcd.settings());
    let _ = node.first();
    for (text, problem) in [
        (
            r#"{"Network":"10.9.0.0/16","Backend":{"Type":"udp"}}"#,
            "the change is in force after the next start",
        ),
        ("nonsense", "not JSON"),
        (r#"{"Network":"0.0.0.0/0"}"#, "overlaps a range that pods never have"),
    ] {
        etcd.put(CONFIG, text);
        wait("it is told", || node.problem(CONFIG).is_some_and(|told| told.contains(problem)));
    }
    assert_eq!(node.with(|heard| heard.fleets), 1);
    node.stop(false);
    etcd.put(CONFIG, r#"{"Network":"10.9.0.0/16","Backend":{"Type":"udp"}}"#);
    node.resume();
    let fleet = node.first().fleet;
    assert_eq!((fleet.tunnel.kind(), fleet.cluster_cidrs[0].to_string()), ("udp", "10.9.0.0/16".to_owned()));
}

#[test]
fn tls_with_client_certificates_users_and_permissions() {
    let dir = scratch("tls");
    certificates(&dir);
    let file = |name: &str| dir.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let mut etcd = Etcd::start_with(
        &[
            "--cert-file",
            &cert,
            "--key-file",
            &key,
            "--trusted-ca-file",
            &ca,
            "--client-cert-auth",
            "--auth-token-ttl",
            "1",
        ],
        "https",
    );
    let login =
        ["--cacert", &ca, "--cert", &file("client.pem"), "--key", &file("client.key")].map(str::to_owned);
    etcd.login = login.to_vec();
    network(&etcd);
    etcd.ctl(&["user", "add", "root:root-password"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", "node:a secret"]);
    etcd.ctl(&["role", "add", "network"]);
    for prefix in ["/coreos.com/network/", "/vswitch/"] {
        etcd.ctl(&["role", "grant-permission", "--prefix=true", "network", "readwrite", prefix]);
    }
    etcd.ctl(&["user", "grant-role", "node", "network"]);
    etcd.ctl(&["auth", "enable"]);
    etcd.login.extend(["--user".to_owned(), "root:root-password".to_owned()]);
    let settings = EtcdSettings {
        ca: Some(ca.clone().into()),
        identity: Some((file("client.pem").into(), file("client.key").into())),
        user: Some(("node".to_owned(), "a secret".to_owned())),
        ..etcd.settings()
    };
    let node = Node::start(1, &settings);
    let _ = node.first();
    // The token is long gone, and after a restart nobody knows it at all.
    std::thread::sleep(Duration::from_millis(2500));
    etcd.ctl(&["del", "--prefix", SUBNETS]);
    wait("it writes again", || etcd.keys(SUBNETS).len() == 1);
    etcd.kill();
    etcd.resume();
    etcd.put(&format!("{SUBNETS}10.5.9.0-24"), &vxlan("192.168.9.9", 9));
    wait("it reads again", || node.peer("192.168.9.9").is_some());

    let refused = |settings: &EtcdSettings, what: &str| {
        let node = Node::start(2, settings);
        let why = || node.store().wait_first(Duration::from_millis(20)).unwrap_err().to_string();
        wait(what, || why().contains(what));
    };
    let wrong = EtcdSettings { user: Some(("node".to_owned(), "wrong".to_owned())), ..settings.clone() };
    refused(&wrong, "authentication failed, invalid user ID or password");
    let stranger = EtcdSettings { identity: None, user: None, ..settings.clone() };
    refused(&stranger, &etcd.url());
    let absent = EtcdSettings { ca: Some("/nowhere/ca.pem".into()), ..settings.clone() };
    refused(&absent, "store.ca = /nowhere/ca.pem: No such file or directory");
    let other = scratch("tls");
    certificates(&other);
    let distrusted = EtcdSettings { ca: Some(other.join("ca.pem")), ..settings.clone() };
    refused(&distrusted, "invalid peer certificate");
    // What may not be read is said; without it nobody knows what is denied.
    etcd.ctl(&["role", "revoke-permission", "network", "--prefix", "/vswitch/"]);
    refused(&settings, "/vswitch/objects/: ");
    // The node that runs goes on; with new certificates in the same place it comes back.
    certificates(&dir);
    etcd.kill();
    etcd.resume();
    etcd.ctl(&["role", "grant-permission", "--prefix=true", "network", "readwrite", "/vswitch/"]);
    etcd.put(&format!("{SUBNETS}10.5.8.0-24"), &vxlan("192.168.8.8", 8));
    let soon = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        node.peer("192.168.8.8").is_some()
    });
    assert!(
        soon,
        "new certificates: {:?} {:?}",
        node.store().health(),
        node.with(|heard| heard.problems.clone())
    );
    for dir in [dir, other] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}
