//! A long time without etcd, with restarts inside: no verdict and no route changes, and then ten thousand objects at once.
//!
//! `VSWITCH_OUTAGE_S` says how many seconds it lasts (20 by default); what took how long is printed.

#![allow(clippy::print_stdout)] // the times measured are for people to read

use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::api::RouteInfo;
use rustix::process::Signal;
use vswitch::lab::{Daemon, Lab, Netns, PingRun, ping};
use vswitch_tests::etcd::{LivePod, attach, bed, start, start_all};
use vswitch_tests::live::{Listener, PORT, Sender};
use vswitch_tests::routers::{wait, wait_for};
use vswitch_tests::serial::turn;

const NETWORK: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const OBJECTS: &str = "/vswitch/objects/";
/// Objects in the store, of which the last pod by name is the one that matters.
const MANY: usize = 10_000;

fn reaches(from: &Netns, to: IpAddr) -> bool {
    ping(from, to, 1, 10).unwrap().all()
}

/// A pod's object: key and value.
fn pod(name: &str, app: &str) -> (String, String) {
    let value = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default","labels":{{"app":"{app}"}}}}}}"#
    );
    (format!("{OBJECTS}Pod/default/{name}"), value)
}

/// Who may reach the server, beside ten thousand others. The label that admits is in the last object of the list.
fn objects(client: &str, other: &str, round: usize) -> Vec<(String, String)> {
    let namespace = (
        format!("{OBJECTS}Namespace/_/default"),
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}"#.to_owned(),
    );
    let policy = (
        format!("{OBJECTS}NetworkPolicy/default/to-server"),
        r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"to-server","namespace":"default"},"spec":{"podSelector":{"matchLabels":{"app":"server"}},"policyTypes":["Ingress"],"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"good"}}}]}]}}"#.to_owned(),
    );
    let own = [pod("server", "server"), pod("zz-client", client), pod("zz-other", other)];
    let others = (0..MANY - 5).map(|n| pod(&format!("p{n}"), &format!("a{}", (n + round) % 100)));
    [namespace, policy].into_iter().chain(own).chain(others).collect()
}

/// What node `i` does with packets, but for the time it takes: its table and the kernel's.
fn ways(lab: &Lab, i: usize) -> (Vec<RouteInfo>, String) {
    let routes: Vec<RouteInfo> = lab.daemon(i).unwrap().ask(&control::api::Request::Routes).unwrap();
    (routes, lab.bed.nodes[i].ip("route show").unwrap())
}

fn is_away(lab: &Lab, i: usize) -> bool {
    !lab.daemon(i).unwrap().status().unwrap().store.unwrap().connected
}

/// New flows as policy has them.
fn verdicts(client: &LivePod, other: &LivePod, server: &LivePod) -> [bool; 2] {
    [client, other].map(|from| reaches(&from.netns, server.v4))
}

/// Nothing passes between etcd's namespace and the nodes any more, and nobody is told.
fn cut(out: &Netns, addresses: &str) {
    for line in [
        "nft add table inet cut",
        "nft add chain inet cut in { type filter hook input priority 0 ; }",
        &format!("nft add rule inet cut in ip saddr {{ {addresses} }} tcp dport 2379 drop"),
    ] {
        out.run(line).unwrap();
    }
}

#[test]
fn no_verdict_and_no_route_changes_while_etcd_is_away() {
    let _turn = turn();
    let lasts = std::env::var("VSWITCH_OUTAGE_S").map_or(20, |text| text.parse::<u64>().unwrap());
    let (mut etcd, mut lab) = bed(2, NETWORK);
    etcd.put_many(objects("good", "bad", 0));
    start_all(&mut lab, &[0, 1], &etcd);
    let (client, other) = (attach(&lab, 0, "zz-client"), attach(&lab, 0, "zz-other"));
    let server = attach(&lab, 1, "server");
    wait("the policy is in force", || verdicts(&client, &other, &server) == [true, false]);
    // What was learned is kept a moment after it changed: each pod as an object and as it is published.
    for i in 0..2 {
        let copy = lab.run_dir(i).with_file_name("state").join("etcd.json");
        wait("it is kept", || {
            let text = std::fs::read_to_string(&copy).unwrap_or_default();
            ["server", "zz-client", "zz-other"]
                .iter()
                .all(|name| text.matches(&format!("Pod/default/{name}\"")).count() == 2)
        });
    }
    let before = [ways(&lab, 0), ways(&lab, 1)];

    // Node 1 is cut off in silence, then etcd is gone.
    let began = Instant::now();
    let out = lab.bed.outside.as_ref().unwrap();
    cut(out, "192.168.77.1");
    let listener = Listener::start(server.netns.path(), PORT);
    let pace = Duration::from_millis(20);
    let admitted = Sender::start(client.netns.path(), 0, server.v4, 1, pace);
    let refused = Sender::start(other.netns.path(), 0, server.v4, 2, pace);
    let count = u32::try_from(lasts * 10).unwrap();
    let pinging = PingRun::start(&client.netns, server.v4, count, 100).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    etcd.kill();
    wait("node 2 tells of it", || is_away(&lab, 1));
    // Both switches die, one after the other.
    let half = Duration::from_secs(lasts / 2);
    for i in [1, 0] {
        lab.daemon(i).unwrap().children().into_iter().for_each(|pid| Daemon::signal(pid, Signal::KILL));
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut looks = 0;
    while began.elapsed() < half.max(Duration::from_secs(10)) {
        assert_eq!(verdicts(&client, &other, &server), [true, false]);
        for (i, before) in before.iter().enumerate() {
            assert_eq!(ways(&lab, i), *before, "node {}", i + 1);
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    wait("node 1 tells of it too", || is_away(&lab, 0));
    while began.elapsed() < Duration::from_secs(lasts) {
        assert_eq!(verdicts(&client, &other, &server), [true, false]);
        looks += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    let pinged = pinging.finish().unwrap();
    let (sent, denied) = (admitted.stop(), refused.stop());
    let (arrived, leaked) = (listener.count(1, sent), listener.of(2).len());
    println!(
        "{lasts} s without etcd, both switches killed inside: {looks} looks the same, {} of {} pings lost, \
         {} of {sent} datagrams lost, {leaked} of {denied} refused ones delivered",
        pinged.sent - pinged.received,
        pinged.sent,
        sent - arrived
    );
    assert!(pinged.all(), "{pinged:?}");
    assert_eq!((arrived, leaked), (sent, 0));

    // Keeper and switch of node 1 end and start.
    lab.daemons[0].as_mut().unwrap().end().unwrap();
    let restart = Instant::now();
    start(&mut lab, 0, &etcd);
    println!("node 1 stopped and started without etcd: ready {:.1?} after", restart.elapsed());
    assert_eq!(verdicts(&client, &other, &server), [true, false], "from the first packet on");
    assert_eq!(ways(&lab, 0), before[0]);
    assert!(is_away(&lab, 0) && is_away(&lab, 1));

    // It is back behind the cut with every object changed, its history erased, and who is admitted exchanged.
    let out = lab.bed.outside.as_ref().unwrap();
    out.run("nft delete table inet cut").unwrap();
    cut(out, "192.168.77.1, 192.168.77.2");
    etcd.resume();
    etcd.put_many(objects("bad", "good", 1));
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(verdicts(&client, &other, &server), [true, false]);
    let probing = Sender::start(other.netns.path(), 0, server.v4, 3, Duration::from_millis(5));
    std::thread::sleep(Duration::from_millis(200));
    assert!(listener.of(3).is_empty());
    let back = Instant::now();
    out.run("nft delete table inet cut").unwrap();
    wait_for("the other is admitted", Duration::from_secs(20), || !listener.of(3).is_empty());
    let first = listener.of(3)[0].at;
    println!("{MANY} objects, all changed: in force {:.2?} after etcd was back", first - back);
    let _ = probing.stop();
    wait("and the first is refused", || verdicts(&client, &other, &server) == [false, true]);
    wait("node 1 is up to date", || !is_away(&lab, 0));
    for i in 0..2 {
        wait("nothing is wrong", || lab.daemon(i).unwrap().status().unwrap().store_problems.is_empty());
    }
}
