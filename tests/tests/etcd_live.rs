//! Real daemons, real pods and a real etcd: nodes that come up, are joined by flannel's, and lose their store.

#![allow(clippy::print_stdout)] // the times measured are for people to read

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::api::{PeerInfo, Request, RouteInfo};
use rustix::process::Signal;
use serde_json::Value;
use vswitch::lab::{Daemon, KernelNode, Lab, Netns, PingRun, Wire, ping};
use vswitch_tests::etcd::{LivePod, SUBNETS, attach, bed, start, start_all, vsctl, vxlan_lease};
use vswitch_tests::live::{admit, netpol, pods};
use vswitch_tests::routers::{wait, wait_for};
use vswitch_tests::serial::turn;

fn reaches(from: &Netns, to: IpAddr) -> bool {
    ping(from, to, 1, 10).unwrap().all()
}

fn peers(lab: &Lab, i: usize) -> Vec<PeerInfo> {
    lab.daemon(i).unwrap().peers().unwrap()
}

fn routes(lab: &Lab, i: usize) -> Vec<RouteInfo> {
    lab.daemon(i).unwrap().ask(&Request::Routes).unwrap()
}

fn subnet(lab: &Lab, i: usize) -> String {
    lab.daemon(i).unwrap().status().unwrap().pod_cidrs[0].to_string()
}

/// The key of node `i`'s lease.
fn lease(lab: &Lab, i: usize) -> String {
    format!("{SUBNETS}{}", subnet(lab, i).replace('/', "-"))
}

fn told(lab: &Lab, i: usize, words: &[&str]) -> String {
    let out = vsctl(lab, i, words);
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn three_nodes_at_once_become_a_network() {
    let _turn = turn();
    for (backend, kind, via, data) in [
        (r#"{"Type":"vxlan"}"#, "vxlan", "vxlan", true),
        (r#"{"Type":"udp","Port":8285}"#, "", "udp", false),
        (r#"{"Type":"host-gw"}"#, "host-gw", "direct", false),
        (r#"{"Type":"ipip"}"#, "ipip", "ipip", false),
    ] {
        // The documents of flannel show a network like this.
        let network = format!(
            r#"{{ "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0", "Backend": {backend} }}"#
        );
        let (etcd, mut lab) = bed(3, &network);
        let began = Instant::now();
        start_all(&mut lab, &[0, 1, 2], &etcd);
        let ready = began.elapsed();
        let pods: Vec<LivePod> = (0..3).map(|i| attach(&lab, i, &format!("p{}", i + 1))).collect();
        let mut connected = Duration::ZERO;
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            wait_for(&format!("{backend}: {from} reaches {to}"), Duration::from_secs(3), || {
                reaches(&pods[from].netns, pods[to].v4)
            });
            connected = began.elapsed();
        }
        println!(
            "{via}: all three ready {ready:.2?} after the start, every pair of pods connected {connected:.2?} after it"
        );
        assert!(connected - ready <= Duration::from_secs(3));

        let subnets: BTreeSet<String> = (0..3).map(|i| subnet(&lab, i)).collect();
        assert_eq!(subnets.len(), 3, "{subnets:?}");
        assert_eq!(etcd.keys(SUBNETS).len(), 3);
        for i in 0..3 {
            // The words and their order are flannel's.
            let key = lease(&lab, i);
            let value = etcd.get(&key);
            let address = lab.bed.plan(i).address();
            let mut wanted = format!(r#"{{"PublicIP":"{address}","PublicIPv6":null"#);
            if !kind.is_empty() {
                wanted += &format!(r#","BackendType":"{kind}""#);
            }
            if data {
                let json: Value = serde_json::from_str(&value).unwrap();
                let mac = json["BackendData"]["VtepMAC"].as_str().unwrap().to_owned();
                wanted += &format!(r#","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#);
                let others = peers(&lab, (i + 1) % 3);
                let seen = others.iter().find(|p| p.address == Some(address.into())).unwrap();
                assert_eq!(seen.vtep_mac.as_deref(), Some(&*mac));
            }
            assert_eq!(value, wanted + "}");
            let ttl = etcd.ctl(&["lease", "timetolive", &format!("{:x}", etcd.lease_of(&key))]);
            assert!(ttl.contains("granted with TTL(86400s)"), "{ttl}");

            let mtu = lab.daemon(i).unwrap().status().unwrap().mtu;
            let net: ipnet::Ipv4Net = subnet(&lab, i).parse().unwrap();
            let first = u32::from(net.network()) + 1;
            let env = format!(
                "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET={}/20\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n",
                std::net::Ipv4Addr::from(first)
            );
            assert_eq!(std::fs::read_to_string(lab.run_dir(i).join("subnet.env")).unwrap(), env);

            let status = told(&lab, i, &["status"]);
            assert!(status.contains("etcd at http://192.168.77.254:2379, revision"), "{status}");
            let all = peers(&lab, i);
            assert!(all.len() == 2 && all.iter().all(|p| p.via == via), "{all:?}");
            let shown = told(&lab, i, &["peers"]);
            assert!(all.iter().all(|p| shown.contains(&p.name)), "{shown}");
        }
    }
}

/// Runs of ping both ways between two pods, 100 a second each.
fn pinging(a: &LivePod, b: &LivePod, count: u32) -> [PingRun; 2] {
    [(a, b), (b, a)].map(|(from, to)| PingRun::start(&from.netns, to.v4, count, 10).unwrap())
}

fn all_arrive(runs: [PingRun; 2], what: &str) {
    for run in runs {
        let pinged = run.finish().unwrap();
        assert!(pinged.all(), "{what}: {pinged:?}");
    }
}

const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

#[test]
fn nodes_move_from_flannel_one_by_one() {
    let _turn = turn();
    let (etcd, mut lab) = bed(3, VXLAN);
    let plans = lab.bed.plans();
    // Nodes 1 and 2 were flannel's; 1 is ours now, with the lease and the file that flannel left there.
    for plan in &plans[..2] {
        let key = format!("{SUBNETS}{}", plan.pod_cidr().replace('/', "-"));
        let granted = etcd.ctl(&["lease", "grant", "86400"]);
        let id = granted.split_whitespace().nth(1).unwrap();
        let value = vxlan_lease(&plan.address().to_string(), &plan.vtep_mac());
        etcd.ctl(&["put", &format!("--lease={id}"), "--", &key, &value]);
    }
    let wire = Wire::Vxlan { checksum: false };
    let mut kernel = KernelNode::new(&lab.bed.nodes[1], plans[1], wire, 1500, &plans[..2]).unwrap();
    let theirs = kernel.pod(&lab.bed.nodes[1]).unwrap();
    start(&mut lab, 0, &etcd);
    assert_eq!(subnet(&lab, 0), "10.244.1.0/24", "it keeps its subnet");
    assert!(etcd.get(&lease(&lab, 0)).contains(&plans[0].vtep_mac()), "and its MAC");
    assert_ne!(etcd.lease_of(&lease(&lab, 0)), 0);
    let ours = attach(&lab, 0, "p1");
    wait("ours reaches flannel's", || reaches(&ours.netns, theirs.v4));
    wait("flannel's reaches ours", || reaches(&theirs.netns, ours.v4));

    // A node that is new: flannel hears of it from etcd, and does this.
    start(&mut lab, 2, &etcd);
    let net: ipnet::Ipv4Net = subnet(&lab, 2).parse().unwrap();
    let value: Value = serde_json::from_str(&etcd.get(&lease(&lab, 2))).unwrap();
    let (mac, end) = (value["BackendData"]["VtepMAC"].as_str().unwrap(), value["PublicIP"].as_str().unwrap());
    let node = &lab.bed.nodes[1];
    node.ip(&format!("neigh replace {} lladdr {mac} dev flannel.1 nud permanent", net.network())).unwrap();
    node.run(&format!("bridge fdb replace {mac} dev flannel.1 dst {end} self permanent")).unwrap();
    node.ip(&format!("route add {net} via {} dev flannel.1 onlink", net.network())).unwrap();
    let fresh = attach(&lab, 2, "p3");
    wait("the new one reaches flannel's", || reaches(&fresh.netns, theirs.v4));
    wait("flannel's reaches the new one", || reaches(&theirs.netns, fresh.v4));
    wait("ours reach each other", || reaches(&ours.netns, fresh.v4));

    // flannel's node comes back with another MAC, and then at another address.
    let key = format!("{SUBNETS}10.244.2.0-24");
    let second = Duration::from_secs(1);
    let moved = |what: &str, address: &str, mac: &str| {
        let began = Instant::now();
        etcd.put_fast(&key, &vxlan_lease(address, mac));
        for i in [0, 2] {
            wait_for(what, second, || {
                peers(&lab, i).iter().any(|p| {
                    p.address == Some(address.parse().unwrap()) && p.vtep_mac.as_deref() == Some(mac)
                })
            });
        }
        println!("another {what} in etcd: known to both nodes {:.1?} after it was put", began.elapsed());
        wait_for(what, second, || reaches(&ours.netns, theirs.v4));
        wait_for(what, second, || reaches(&theirs.netns, fresh.v4));
    };
    node.ip("link set flannel.1 address 0e:00:00:00:00:92").unwrap();
    // The kernel forgets a device's neighbours with its address, permanent ones too.
    let first = plans[0].pod(0);
    for (end, mac) in [(first, plans[0].vtep_mac()), (net.network(), mac.to_owned())] {
        node.ip(&format!("neigh replace {end} lladdr {mac} dev flannel.1 nud permanent")).unwrap();
    }
    moved("MAC", "192.168.77.2", "0e:00:00:00:00:92");
    node.ip("addr add 192.168.77.102/24 dev eth0").unwrap();
    node.ip("link set flannel.1 type vxlan id 1 dev eth0 local 192.168.77.102").unwrap();
    moved("PublicIP", "192.168.77.102", "0e:00:00:00:00:92");
}

/// What node `i` does with packets, but for the time it takes: its table and the kernel's.
fn ways(lab: &Lab, i: usize) -> (Vec<RouteInfo>, String) {
    (routes(lab, i), lab.bed.nodes[i].ip("route show").unwrap())
}

fn age(lab: &Lab, i: usize) -> Option<u64> {
    let store = lab.daemon(i).unwrap().status().unwrap().store.unwrap();
    assert_eq!(store.connected, store.age_s.is_none(), "{store:?}");
    store.age_s
}

#[test]
fn nothing_is_lost_while_etcd_is_away() {
    let _turn = turn();
    let (mut etcd, mut lab) = bed(2, VXLAN);
    start_all(&mut lab, &[0, 1], &etcd);
    let (a, b) = (attach(&lab, 0, "a"), attach(&lab, 1, "b"));
    wait("they reach each other", || reaches(&a.netns, b.v4) && reaches(&b.netns, a.v4));
    // What was learned is kept a moment after it changed.
    std::thread::sleep(Duration::from_secs(1));
    let before = [ways(&lab, 0), ways(&lab, 1)];

    let running = pinging(&a, &b, 1200);
    etcd.kill();
    (0..2).for_each(|i| wait("the loss is told", || age(&lab, i).is_some()));
    lab.daemon(1).unwrap().children().into_iter().for_each(|pid| Daemon::signal(pid, Signal::KILL));
    std::thread::sleep(Duration::from_secs(2));
    for (i, before) in before.iter().enumerate() {
        assert!(age(&lab, i).unwrap() >= 2);
        let status = told(&lab, i, &["status"]);
        assert!(status.contains("etcd NOT REACHED, as it was "), "{status}");
        assert_eq!(ways(&lab, i), *before);
    }
    println!("{}", told(&lab, 0, &["status"]));
    // It comes back, out of node 1's reach; a third node has joined, and everything before is compacted.
    let out = lab.bed.outside.as_ref().unwrap();
    for line in [
        "nft add table inet cut",
        "nft add chain inet cut in { type filter hook input priority 0 ; }",
        "nft add rule inet cut in ip saddr 192.168.77.1 tcp dport 2379 drop",
    ] {
        out.run(line).unwrap();
    }
    etcd.resume();
    let new = "10.244.250.0/24";
    etcd.put(&format!("{SUBNETS}10.244.250.0-24"), &vxlan_lease("192.168.77.250", "0e:00:00:00:00:fa"));
    (0..50).for_each(|n| {
        etcd.put_fast(
            &format!("{SUBNETS}10.244.251.0-24"),
            &vxlan_lease(&format!("192.168.77.{}", n + 100), "0e:00:00:00:00:fb"),
        )
    });
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    let up = Instant::now();
    let knows =
        |i: usize| peers(&lab, i).iter().any(|p| p.pod_cidrs.iter().any(|net| net.to_string() == new));
    wait("node 2 has learned", || knows(1));
    println!("etcd back, compacted: node 2 knows {:.2?} after", up.elapsed());
    assert!(!knows(0) && age(&lab, 0).is_some());
    assert_eq!(ways(&lab, 0), before[0], "node 1 goes on as it was");
    out.run("nft delete table inet cut").unwrap();
    let up = Instant::now();
    wait("node 1 has learned", || knows(0));
    println!("node 1 in reach of etcd again: it knows {:.2?} after", up.elapsed());
    wait("it says so", || age(&lab, 0).is_none() && age(&lab, 1).is_none());
    all_arrive(running, "etcd away, the switch of node 2 killed");

    // Keeper and switch of node 2 end and start while etcd is away.
    std::thread::sleep(Duration::from_secs(1));
    let running = pinging(&a, &b, 400);
    etcd.kill();
    std::thread::sleep(Duration::from_millis(500));
    lab.daemons[1].as_mut().unwrap().end().unwrap();
    let began = Instant::now();
    start(&mut lab, 1, &etcd);
    println!("node 2 stopped and started without etcd: ready {:.1?} after it was started", began.elapsed());
    assert_eq!(age(&lab, 1).map(|age| age < 30), Some(true));
    for run in running {
        let pinged = run.finish().unwrap();
        println!(
            "its full stop and start: {} of {} round trips lost",
            pinged.sent - pinged.received,
            pinged.sent
        );
        assert!(pinged.received > 300, "{pinged:?}");
    }
    assert!(peers(&lab, 1).iter().any(|p| p.pod_cidrs.iter().any(|net| net.to_string() == new)));
    etcd.resume();
    wait("it is reached again", || age(&lab, 0).is_none() && age(&lab, 1).is_none());
    // What changes from now on is followed again.
    etcd.ctl(&["del", &format!("{SUBNETS}10.244.250.0-24")]);
    wait("the third node is gone", || {
        (0..2).all(|i| routes(&lab, i).iter().all(|r| r.dst.to_string() != new))
    });
}

#[test]
fn a_deleted_lease_and_hostile_keys_cost_no_packet() {
    let _turn = turn();
    let (etcd, mut lab) = bed(2, VXLAN);
    start_all(&mut lab, &[0, 1], &etcd);
    let (a, b) = (attach(&lab, 0, "a"), attach(&lab, 1, "b"));
    wait("they reach each other", || reaches(&a.netns, b.v4) && reaches(&b.netns, a.v4));
    let (key, mine) = (lease(&lab, 0), subnet(&lab, 0));
    let running = pinging(&a, &b, 400);
    let (before, began) = (etcd.get(&key), Instant::now());
    etcd.delete_fast(&key);
    wait("it is taken again", || etcd.get(&key) == before);
    println!("own lease deleted: the same again {:.0?} after", began.elapsed());
    let granted = etcd.lease_of(&key);
    assert_ne!(granted, 0);
    // As it is when it expires.
    etcd.ctl(&["lease", "revoke", &format!("{granted:x}")]);
    wait("it is taken once more", || etcd.get(&key) == before);

    let other = subnet(&lab, 1);
    let inner = format!("{}-26", other.trim_end_matches("/24"));
    for (name, value) in [
        ("10.244.240.0-24", "{broken".to_owned()),
        ("10.244.241.0-24", r#"{"PublicIP":"999.1.1.1"}"#.to_owned()),
        (&inner, vxlan_lease("192.168.77.66", "0e:00:00:00:00:66")),
        ("no subnet", "junk".to_owned()),
        ("10.99.0.0-24", vxlan_lease("192.168.77.68", "0e:00:00:00:00:68")),
    ] {
        etcd.put(&format!("{SUBNETS}{name}"), &value);
    }
    std::thread::sleep(Duration::from_millis(500));
    for i in 0..2 {
        let problems = lab.daemon(i).unwrap().status().unwrap().store_problems;
        for name in ["10.244.240.0-24", "10.244.241.0-24", &inner, "*", "10.99.0.0-24"] {
            assert!(
                problems.iter().any(|line| line.starts_with(&format!("{SUBNETS}{name}: "))),
                "node {}, {name}: {problems:#?}",
                i + 1
            );
        }
        let status = told(&lab, i, &["status"]);
        assert!(status.contains(&format!("{SUBNETS}10.244.240.0-24")), "{status}");
        if i == 0 {
            println!("{status}");
        }
    }
    assert_eq!([subnet(&lab, 0), subnet(&lab, 1)], [mine, other]);
    all_arrive(running, "a lease deleted, hostile keys");

    // Somebody says that node 1 is reached with another MAC: node 1 says again what is so.
    let running = pinging(&a, &b, 300);
    std::thread::sleep(Duration::from_millis(500));
    let lie = format!("{SUBNETS}10.244.243.0-24");
    etcd.put(&lie, &vxlan_lease("192.168.77.1", "0e:00:00:00:00:67"));
    let problem = |i: usize| {
        let all = lab.daemon(i).unwrap().status().unwrap().store_problems;
        all.into_iter()
            .find_map(|line| line.strip_prefix(&format!("{lie}: ")).map(str::to_owned))
            .unwrap_or_default()
    };
    wait("node 1 tells of it", || problem(0).contains("claims this node's address 192.168.77.1"));
    wait("node 2 does not believe it", || problem(1).contains("is replaced by"));
    all_arrive(running, "a lease that claims node 1's address");
}

#[test]
fn policy_by_labels_reaches_the_pods_of_other_nodes() {
    let _turn = turn();
    let (etcd, mut lab) = bed(2, VXLAN);
    start_all(&mut lab, &[0, 1], &etcd);
    let (client, other, server) =
        (attach(&lab, 0, "client"), attach(&lab, 0, "other"), attach(&lab, 1, "server"));
    wait("all reach it", || reaches(&client.netns, server.v4) && reaches(&other.netns, server.v4));
    let file = |name: &str, text: &str| {
        let path = lab.bed.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let objects =
        file("objects.yaml", &(pods(&["client", "other", "server"]) + &admit("server", &["client"])));
    let out = told(&lab, 0, &["apply", "-f", &objects]);
    assert_eq!(out.lines().filter(|line| line.ends_with(" applied")).count(), 5, "{out}");
    wait_for("the other is refused", Duration::from_secs(2), || !reaches(&other.netns, server.v4));
    assert!(reaches(&client.netns, server.v4), "who has the label passes");
    let listed = told(&lab, 1, &["get", "networkpolicies"]);
    assert!(listed.contains("default") && listed.contains("to-server"), "{listed}");

    let wrong = file("wrong.yaml", &netpol("to-server", "podSelector: {}, policyTypes: [Sideways]"));
    let out = vsctl(&lab, 0, &["apply", "-f", &wrong]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    println!("refused: {}", text.trim());
    assert_eq!(out.status.code(), Some(1));
    assert!(text.contains("policyTypes") && text.contains("Sideways"), "{text}");
    std::thread::sleep(Duration::from_millis(200));
    assert!(reaches(&client.netns, server.v4) && !reaches(&other.netns, server.v4), "nothing has changed");

    let published = "/vswitch/pods/default/other";
    assert!(etcd.get(published).contains(&other.v4.to_string()));
    drop(other);
    wait("DEL withdraws the pod", || etcd.get(published).is_empty());
    let other = attach(&lab, 0, "other");
    assert!(!reaches(&other.netns, server.v4));
    let out = told(&lab, 1, &["delete", "-f", &objects]);
    assert_eq!(out.lines().filter(|line| line.ends_with(" deleted")).count(), 5, "{out}");
    wait_for("all pass again", Duration::from_secs(2), || reaches(&other.netns, server.v4));
}
