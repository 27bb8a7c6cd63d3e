//! What may lie in a store: flannel's keys of every age, junk, and lies. Each is read, or told of by its key.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control::fleet::Backend;
use vswitch_tests::etcd::{Etcd, Node, PATIENCE, wait};

/// Two of these tests measure this process: one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const CONFIG: &str = "/coreos.com/network/config";
const SUBNETS: &str = "/coreos.com/network/subnets/";

fn network(etcd: &Etcd) {
    etcd.put(CONFIG, r#"{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","Backend":{"Type":"vxlan"}}"#);
}

#[test]
fn keys_that_flannel_writes_odd_ones_too() {
    let _alone = alone();
    let etcd = Etcd::start();
    // Another case of every field, as some documents have it; a `null`; an unknown field.
    etcd.put(
        CONFIG,
        r#"{"network":"10.0.0.0/8","SUBNETLEN":24,"subnetMin":"10.200.0.0","enableIPv6":null,"x":1,"Backend":{"type":"vxlan","vni":1}}"#,
    );
    let put = |name: &str, value: &str| etcd.put(&format!("{SUBNETS}{name}"), value);
    put(
        "10.1.1.0-24",
        r#"{"PublicIP":"192.168.1.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:01"}}"#,
    );
    put(
        "10.1.2.0-24",
        r#"{"PublicIP":"192.168.1.2","BackendType":"vxlan","BackendData":{"vni":7,"vtepmac":"AA:BB:CC:DD:EE:02"}}"#,
    );
    put("10.1.3.0-24", r#"{"PublicIP":"192.168.1.3","PublicIPv6":null,"BackendType":"host-gw"}"#);
    put("10.1.4.0-24", r#"{"PublicIP":"192.168.1.4","PublicIPv6":null}"#);
    put(
        "10.1.5.0-24&fd00:5::-64",
        r#"{"PublicIP":"192.168.1.5","PublicIPv6":"fd00::5","BackendType":"host-gw"}"#,
    );
    put("older/10.1.6.0-24", r#"{"PublicIP":"192.168.1.6","BackendType":"host-gw"}"#);
    put(
        "10.1.7.0-24",
        r#"{"PublicIP":"192.168.1.7","BackendType":"wireguard","BackendData":{"PublicKey":"x","Port":51820}}"#,
    );
    put(
        "10.1.8.0-24",
        r#"{"PublicIP":"192.168.1.8","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}}"#,
    );
    put("10.1.9.0-24", r#"{"PublicIP":"192.168.1.9;reboot"}"#);
    put("10.0.0.0-8", r#"{"PublicIP":"192.168.1.10","BackendType":"host-gw"}"#);
    put("11.1.1.0-24", r#"{"PublicIP":"192.168.1.11","BackendType":"host-gw"}"#);
    put("10.1.1.128-25", r#"{"PublicIP":"192.168.1.12","BackendType":"host-gw"}"#);
    put("10.1.13.0-24", r#"{"PublicIP":"192.168.0.1","BackendType":"host-gw"}"#);
    put("10.1.14.0-32", r#"{"PublicIP":"192.168.1.14"}"#);
    put("10.1.15.0-24", "");
    let large = format!(r#"{{"PublicIP":"192.168.1.16","x":"{}"}}"#, "x".repeat(1 << 20));
    etcd.put_many([(format!("{SUBNETS}10.1.16.0-24"), large)]);
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    node.wait("five peers", |heard| heard.fleet.as_ref().unwrap().peers.len() == 5);
    let way = |name: &str| {
        let peer = node.peer(name).unwrap_or_else(|| panic!("{name} is a peer"));
        (peer.backend.unwrap(), peer.vtep_mac.map(|mac| mac.to_string()).unwrap_or_default())
    };
    assert_eq!(way("192.168.1.1"), (Backend::Vxlan { vni: 1 }, "aa:bb:cc:dd:ee:01".to_owned()));
    assert_eq!(way("192.168.1.2"), (Backend::Vxlan { vni: 7 }, "aa:bb:cc:dd:ee:02".to_owned()));
    assert_eq!(way("192.168.1.3").0, Backend::Direct);
    // A key without a lease, a kind or data is a reservation here: no peer yet, and nobody else's subnet.
    assert!(node.peer("192.168.1.4").is_none());
    assert_eq!(way("192.168.1.5").0, Backend::Direct);
    assert_eq!(way("192.168.1.6").0, Backend::Direct);
    for (name, problem) in [
        ("10.1.7.0-24", r#"BackendType "wireguard" is not supported"#),
        ("10.1.8.0-24", r#"VtepMAC = "01:00:5e:00:00:01": is no unicast address"#),
        ("10.1.9.0-24", r#"PublicIP = "192.168.1.9;reboot": is not an IPv4 address"#),
        ("10.0.0.0-8", "10.0.0.0/8 is more than a quarter of the network, which no node is given"),
        ("11.1.1.0-24", "11.1.1.0/24 is not inside the network"),
        ("10.1.1.128-25", "10.1.1.128/25 overlaps 10.1.1.0-24 subnet 10.1.1.0/24"),
        ("10.1.15.0-24", "not JSON: EOF while parsing a value at line 1 column 0"),
        ("10.1.16.0-24", "1048610 bytes: at most 16384 are read"),
        ("*", "1 keys mean nothing here, and are ignored"),
    ] {
        assert_eq!(node.problem(&format!("{SUBNETS}{name}")).unwrap_or_default(), problem, "{name}");
    }
    // A lease of our own address that cannot be kept was taken over, not left to lie.
    assert!(!etcd.keys(SUBNETS).contains(&format!("{SUBNETS}10.1.13.0-24")));
}

/// Resident memory of this process, in KiB.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `VSWITCH_JUNK` says how many; to write a million takes etcd a minute.
#[test]
fn a_hundred_thousand_keys_of_junk_take_no_memory() {
    let many = std::env::var("VSWITCH_JUNK").map_or(100_000, |text| text.parse::<usize>().unwrap());
    let etcd = Etcd::start();
    network(&etcd);
    let _alone = alone();
    let began = Instant::now();
    let text = "x".repeat(100);
    // Below the prefix, in the place of leases, and such as are leases with something before them.
    etcd.put_many((0..many).map(|i| match i % 3 {
        0 => (format!("/coreos.com/network/junk/{i}"), text.clone()),
        1 => (format!("{SUBNETS}junk-{i}"), text.clone()),
        _ => (format!("{SUBNETS}x{i}-10.1.{}.0-24", i % 250), text.clone()),
    }));
    etcd.put(&format!("{SUBNETS}10.1.1.0-24"), r#"{"PublicIP":"192.168.1.1","BackendType":"host-gw"}"#);
    eprintln!("{many} keys were written after {:?}", began.elapsed());
    let before = memory();
    let node = Node::start(1, &etcd.settings());
    let began = Instant::now();
    let _ = node.first();
    eprintln!("a list of {} keys took {:?}", many + 3, began.elapsed());
    wait("the peer", || node.peer("192.168.1.1").is_some());
    let more = memory().saturating_sub(before);
    eprintln!("memory grew by {more} KiB");
    assert!(more < 24 << 10, "{more} KiB for junk");
    assert!(
        node.problem(&format!("{SUBNETS}*"))
            .unwrap()
            .starts_with(&format!("{} keys mean nothing", many - many / 3))
    );
    assert!(node.with(|heard| heard.problems.len()) < 300);
}

#[test]
fn values_as_large_as_etcd_takes_are_listed_one_by_one() {
    let etcd = Etcd::start();
    network(&etcd);
    let _alone = alone();
    let text = "x".repeat(1_400_000);
    for i in 0..6 {
        etcd.put_many([(format!("{SUBNETS}10.2.{i}.0-24"), text.clone())]);
        etcd.put_many([(format!("/vswitch/objects/NetworkPolicy/a/p{i}"), text.clone())]);
        etcd.put_many([(format!("/vswitch/pods/a/p{i}"), text.clone())]);
    }
    etcd.put(&format!("{SUBNETS}10.1.1.0-24"), r#"{"PublicIP":"192.168.1.1","BackendType":"host-gw"}"#);
    let before = memory();
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    wait("the peer", || node.peer("192.168.1.1").is_some());
    assert!(node.problem(&format!("{SUBNETS}10.2.3.0-24")).unwrap().contains("at most 16384 are read"));
    assert!(node.problem("/vswitch/pods/a/p3").unwrap().contains("at most 65536 are read"));
    assert!(
        node.problem("/vswitch/objects/NetworkPolicy/a/p3").unwrap().contains("at most 1048576 are read")
    );
    let more = memory().saturating_sub(before);
    assert!(more < 48 << 10, "{more} KiB");
}

#[test]
fn five_thousand_leases() {
    let _alone = alone();
    let etcd = Etcd::start();
    network(&etcd);
    etcd.put_many((0_u32..5000).map(|i| {
        let (high, low) = (i / 250, i % 250);
        let value = format!(
            r#"{{"PublicIP":"192.168.{}.{low}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:{high:02x}:{low:02x}"}}}}"#,
            100 + high
        );
        (format!("{SUBNETS}10.{}.{low}.0-24", 50 + high), value)
    }));
    let node = Node::start(1, &etcd.settings());
    let began = Instant::now();
    let fleet = node.first().fleet;
    eprintln!("5,000 leases were a fleet after {:?}", began.elapsed());
    assert_eq!(fleet.peers.len(), 5000);
    let names: BTreeSet<&str> = fleet.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names.len(), 5000);
    assert!(fleet.peers.windows(2).all(|pair| pair[0].name < pair[1].name), "in order of their names");
    let began = Instant::now();
    etcd.put_many([(
        format!("{SUBNETS}10.1.1.0-24"),
        r#"{"PublicIP":"192.168.1.1","BackendType":"host-gw"}"#.to_owned(),
    )]);
    wait("one more", || node.peer("192.168.1.1").is_some());
    eprintln!("one more was told after {:?}", began.elapsed());
    assert!(began.elapsed() < PATIENCE / 4 + Duration::from_secs(1));
}
