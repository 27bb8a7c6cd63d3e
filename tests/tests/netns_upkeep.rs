//! What changes around a running node: the uplink's MTU, what others remove, pods that vanish. And what it tells.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use vswitch::lab::{Attached, Daemon, Lab, Netns, Options, PingRun, Stop, ping, run_words, within};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::metrics::{self, METRICS, get, metric};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn lab() -> Lab {
    Lab::start(programs(), Options { extra: metrics::config(), ..Options::default() }, &Stop::default())
        .unwrap()
}

/// Waits until `seen` gives `wanted`.
fn eventually<T: PartialEq + std::fmt::Debug>(patience: Duration, wanted: &T, mut seen: impl FnMut() -> T) {
    let deadline = Instant::now() + patience;
    loop {
        let now = seen();
        if now == *wanted {
            return;
        }
        assert!(Instant::now() < deadline, "still {now:?} after {patience:?}, not {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mtu(netns: &Netns, link: &str) -> u32 {
    let line = netns.ip(&format!("-o link show dev {link}")).unwrap();
    let mut words = line.split_whitespace().skip_while(|w| *w != "mtu");
    words.nth(1).unwrap().parse().unwrap()
}

/// Sends one packet of `size` bytes with "do not fragment" set.
fn fits(a: &Attached, b: &Attached, size: u32) -> bool {
    let line = format!("ping -n -M do -c 1 -W 1 -s {} {}", size - 28, b.v4);
    a.netns.run(&line).is_ok()
}

#[test]
fn pods_follow_the_uplinks_mtu() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let lab = lab();
        let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
        let nodes = &lab.bed.nodes;
        assert_eq!((mtu(&a.netns, "eth0"), fits(&a, &b, 1450), fits(&a, &b, 1451)), (1450, true, false));

        for (uplink, pods) in [(1400, 1350), (1600, 1550)] {
            for node in nodes {
                node.ip(&format!("link set eth0 mtu {uplink}")).unwrap();
            }
            let status = |i: usize| lab.daemon(i).unwrap().status().unwrap().mtu;
            eventually(Duration::from_secs(3), &[pods; 6], || {
                let links = [mtu(&nodes[0], "vsw0"), mtu(&nodes[1], "vsw0")];
                let of_pods = [mtu(&a.netns, "eth0"), mtu(&b.netns, "eth0")];
                [links[0], links[1], of_pods[0], of_pods[1], status(0), status(1)]
            });
            assert!(fits(&a, &b, pods), "{pods} bytes");
            assert!(!fits(&a, &b, pods + 1), "{} bytes", pods + 1);
            let routes = nodes[0].ip("route show proto 0x76").unwrap();
            assert!(routes.contains(&format!("mtu {pods}")), "{routes}");
            assert_eq!(metric(&nodes[0], "vswitch_pod_mtu_bytes"), Some(f64::from(pods)));
        }
        // A pod attached now has it from the start.
        let c = lab.pod(0, "c").unwrap();
        assert_eq!((c.mtu(), mtu(&c.netns, "eth0")), (1550, 1550));

        // Pods have IPv6, which needs 1,280: nothing is changed, and the node says why it is not ready.
        nodes[0].ip("link set eth0 mtu 1300").unwrap();
        let problems = || lab.daemon(0).unwrap().status().unwrap().problems;
        let said = "uplink eth0 has MTU 1300, which leaves pods 1250: they need 1280".to_owned();
        eventually(Duration::from_secs(3), &vec![said.clone()], problems);
        assert_eq!(mtu(&a.netns, "eth0"), 1550);
        assert_eq!(get(&nodes[0], "/readyz"), (503, said + "\n"));
        assert_eq!(get(&nodes[0], "/healthz").0, 200);
        assert_eq!(metric(&nodes[0], "vswitch_ready"), Some(0.0));
        let refused = lab.pod(0, "d").unwrap_err().to_string();
        assert!(refused.contains("which leaves pods 1250"), "{refused}");

        nodes[0].ip("link set eth0 mtu 1500").unwrap();
        eventually(Duration::from_secs(3), &Vec::new(), problems);
        assert_eq!(mtu(&a.netns, "eth0"), 1450);
        assert!(fits(&a, &b, 1450));
        assert_eq!(get(&nodes[0], "/readyz"), (200, "ok\n".to_owned()));
    }
    before.assert_same();
}

/// Processor time of a process so far, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    after.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_pod_that_vanished_is_cleared_away() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let lab = lab();
        let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(0, "b").unwrap());
        let node = &lab.bed.nodes[0];
        assert!(ping(&b.netns, a.v4, 1, 10).unwrap().all());
        let used = || lab.daemon(0).unwrap().status().unwrap().addresses_used;
        assert_eq!(used(), 4);
        run_words(&format!("ip netns del {}", a.netns.name())).unwrap();

        eventually(Duration::from_secs(12), &2, used);
        assert_eq!(metric(node, "vswitch_pods"), Some(1.0));
        let state = lab.run_dir(0).with_file_name("state").join("ports");
        assert_eq!(std::fs::read_dir(state).unwrap().count(), 1, "the record is gone too");
        assert!(!ping(&b.netns, a.v4, 1, 10).unwrap().all());

        let switch = lab.daemon(0).unwrap().children()[0];
        let (cpu, wakeups) = (ticks(switch), metric(node, "vswitch_worker_wakeups_total").unwrap());
        std::thread::sleep(Duration::from_secs(2));
        let spent = ticks(switch) - cpu;
        assert!(spent <= 4, "{spent}0 ms of processor time in 2 s for nothing");
        let woken = metric(node, "vswitch_worker_wakeups_total").unwrap() - wakeups;
        assert!(woken < 50.0, "{woken} wakeups in 2 s for nothing");
        // The address is free for the next pod that asks for it by name.
        let c = lab.pod(0, "c").unwrap();
        assert!(ping(&c.netns, b.v4, 3, 10).unwrap().all());
    }
    before.assert_same();
}

#[test]
fn what_others_removed_is_put_back() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let lab = lab();
        let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
        let node = &lab.bed.nodes[0];
        let table = || node.run("nft list table inet vswitch").unwrap_or_default();
        let routes = || node.ip("route show proto 0x76").unwrap();
        let (rules, wanted) = (table(), routes());
        assert!(rules.contains("masquerade") && wanted.contains("10.244.0.0/16"), "{rules}{wanted}");
        node.run("nft flush ruleset").unwrap();
        node.ip("route flush proto 0x76").unwrap();
        node.sysctl("ipv4.ip_forward", "0").unwrap();
        // The table is back before anybody can look.
        assert_eq!(routes(), "");
        eventually(Duration::from_secs(35), &(rules.clone(), wanted), || (table(), routes()));
        // A removed or changed table alone is heard of.
        for tampering in ["delete table inet vswitch", "flush chain inet vswitch postrouting"] {
            node.run(&format!("nft {tampering}")).unwrap();
            eventually(Duration::from_secs(4), &rules, table);
        }
        assert_eq!(node.run("cat /proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
        assert!(lab.daemon(0).unwrap().log().contains("somebody removed or changed our nftables table"));

        // Without its interface toward the host the switch starts anew, which makes one.
        assert!(ping(node, a.v4, 1, 10).unwrap().all());
        node.ip("link del vsw0").unwrap();
        eventually(Duration::from_secs(10), &true, || ping(node, a.v4, 1, 10).unwrap().all());
        assert!(ping(node, b.v4, 3, 10).unwrap().all() && ping(&a.netns, b.v4, 3, 10).unwrap().all());

        // The uplink's end takes the routes along and is told; its return heals.
        let peer = &lab.bed.nodes[1];
        node.ip("link set eth0 down").unwrap();
        let problems = || lab.daemon(0).unwrap().status().unwrap().problems;
        eventually(Duration::from_secs(3), &vec!["uplink eth0 is down".to_owned()], problems);
        node.ip("link set eth0 up").unwrap();
        eventually(Duration::from_secs(3), &Vec::new(), problems);
        eventually(Duration::from_secs(3), &true, || ping(&a.netns, b.v4, 1, 10).unwrap().all());
        assert!(ping(peer, b.v4, 1, 10).unwrap().all());
    }
    before.assert_same();
}

#[test]
fn a_reload_hands_everything_over() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let lab = lab();
        let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
        let daemon = lab.daemon(0).unwrap();
        let old = daemon.children();
        let pinging = PingRun::start(&a.netns, b.v4, 500, 2).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        Daemon::signal(daemon.pid(), Signal::HUP);
        // The control socket is there all the while: whoever asks is answered by the old switch or by the new one.
        let deadline = Instant::now() + Duration::from_secs(5);
        while daemon.children() == old || daemon.status().is_ok_and(|s| s.ports != 1) {
            assert!(daemon.socket().exists() && Instant::now() < deadline);
        }
        let pinged = pinging.finish().unwrap();
        assert_eq!((pinged.sent, pinged.received), (500, 500), "packets were lost");
        assert_eq!(daemon.status().unwrap().ports, 1);
        assert_eq!(get(&lab.bed.nodes[0], "/readyz").0, 200);
        // A reload takes over another tunnel port and another number of workers.
        let rewrite = |from: &str, to: &str| {
            for daemon in lab.daemons.iter().flatten() {
                let text = std::fs::read_to_string(daemon.config()).unwrap();
                assert!(text.contains(from), "{text}");
                std::fs::write(daemon.config(), text.replace(from, to)).unwrap();
                Daemon::signal(daemon.pid(), Signal::HUP);
            }
        };
        rewrite("[tunnel]\n", "[tunnel]\nport = 4789\n");
        let sockets = || lab.bed.nodes[0].run("ss -Huln").unwrap();
        eventually(Duration::from_secs(5), &(true, false), || {
            (sockets().contains(":4789 "), sockets().contains(":8472 "))
        });
        eventually(Duration::from_secs(5), &true, || ping(&a.netns, b.v4, 1, 10).unwrap().all());
        rewrite("[node]\n", "[node]\nworkers = 3\n");
        eventually(Duration::from_secs(5), &3, || sockets().matches("192.168.77.1:4789 ").count());
        eventually(Duration::from_secs(5), &true, || ping(&a.netns, b.v4, 1, 10).unwrap().all());
        // A socket whose name somebody removed is made again by the next switch.
        std::fs::remove_file(daemon.socket()).unwrap();
        Daemon::signal(daemon.pid(), Signal::HUP);
        eventually(Duration::from_secs(5), &true, || daemon.status().is_ok_and(|s| s.ports == 1));
        assert!(lab.pod(0, "c").is_ok());
    }
    before.assert_same();
}

#[test]
fn a_metrics_address_in_use_stops_the_start_before_anything_is_made() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let options = Options { extra: metrics::config(), ..Options::default() };
        let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
        let taken =
            within(lab.bed.nodes[0].path(), || std::net::TcpListener::bind(METRICS).unwrap()).unwrap();
        let error = lab.start_node(0).unwrap_err().to_string();
        assert!(error.contains("metrics.listen = \"127.0.0.1:9470\""), "{error}");
        assert!(lab.bed.nodes[0].ip("link show dev vsw0").is_err(), "the host's interface was made");
        assert!(!lab.run_dir(0).join("vswitchd.sock").exists());
        drop(taken);
        lab.start_node(0).unwrap();
        assert_eq!(get(&lab.bed.nodes[0], "/healthz").0, 200);
    }
    before.assert_same();
}
