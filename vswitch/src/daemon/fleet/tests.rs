//! A whole daemon in a network namespace of its own, without a keeper, whose fleet changes. What the kernel has is asked
//! of other people's programs.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::api::{Attach, PodId};
use control::config::Peer;
use crossbeam::channel::{Receiver, bounded};

use super::super::keeper_link::KeeperLink;
use super::super::{Event, start, uninstall};
use super::*;
use crate::sys::netns::{self, Netns};
use crate::sys::sysctl;

/// A daemon in the calling thread's namespace.
struct Bed {
    daemon: Daemon,
    dir: Dir,
    _events: Receiver<Event>,
    _there: Netns,
}

impl Bed {
    fn start(name: &str, tunnel: &str) -> Bed {
        let there = Netns::create().unwrap();
        run("ip link add u0 type veth peer name u1");
        run(&format!("ip link set u1 netns /proc/{}/fd/{}", std::process::id(), as_file(&there).as_raw_fd()));
        run("ip link set lo up");
        run("ip link set u0 up");
        run("ip addr add 192.168.77.1/24 dev u0");
        run("ip addr add fd77::1/64 dev u0 nodad");
        netns::run_in(&there, || {
            run("ip link set u1 up");
            run("ip addr add 192.168.77.2/24 dev u1");
        })
        .unwrap();
        let dir = std::env::temp_dir().join(format!("vsf{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("vswitch.toml");
        let text = format!(
            "[node]\nname = \"n1\"\nuplink = \"u0\"\nworkers = 2\nstate-dir = \"{d}/state\"\nrun-dir = \"{d}/run\"\n\
             [network]\npod-cidrs = [\"10.244.1.0/24\"]\n[tunnel]\n{tunnel}\n",
            d = dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let (tx, events) = bounded(1024);
        let (daemon, _) = start::start(&config, KeeperLink::new(None), &tx).unwrap();
        Bed { daemon, dir: Dir(dir), _events: events, _there: there }
    }

    /// The fleet in force, to be changed.
    fn fleet(&self) -> Fleet {
        Fleet::clone(&self.daemon.fleet)
    }

    fn set(&mut self, fleet: Fleet) {
        self.daemon.set_fleet(Arc::new(fleet)).unwrap();
        assert_eq!(self.daemon.problem_list(), Vec::<String>::new());
    }

    /// The kinds of the peers in the tables in force, by name.
    fn spoken(&self) -> Vec<(String, Option<Tunnel>)> {
        let snap = self.daemon.switch.snapshot();
        snap.peers.iter().map(|p| (p.name.to_string(), p.tunnel)).collect()
    }
}

/// A directory that goes with its owner.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A descriptor of the namespace that a child process can name.
fn as_file(ns: &Netns) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(ns)
}

fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// UDP ports with a socket, and how many raw sockets there are of IP in IP.
fn sockets() -> (Vec<u16>, usize) {
    let udp = run("ss -Huln src 192.168.77.1");
    let ports = udp.lines().filter_map(|l| l.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok());
    // Those that worker threads send VXLAN by have ports of the kernel's choosing.
    let mut ports: Vec<u16> = ports.filter(|p| *p < 30_000).collect();
    ports.sort_unstable();
    ports.dedup();
    let raw = std::fs::read_to_string("/proc/thread-self/net/raw").unwrap();
    (ports, raw.lines().filter(|l| l.contains("014DA8C0:0004") || l.contains("014DA8C0:0029")).count())
}

/// Sockets that were given up are closed a moment later, by the keeper too.
fn only(wanted: &(Vec<u16>, usize)) {
    let until = Instant::now() + Duration::from_secs(5);
    while sockets() != *wanted && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sockets(), *wanted);
}

fn routes() -> Vec<String> {
    run("ip route show proto 0x76").lines().map(|l| l.trim().to_owned()).collect()
}

fn peer(n: u8, backend: Option<Backend>) -> Peer {
    Peer {
        name: format!("n{n}"),
        address: Some([192, 168, 77, n].into()),
        address6: None,
        pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
        vtep_mac: Some(Mac([0x0e, 0, 0, 0, 0, n])),
        backend,
        cross_subnet: None,
    }
}

fn all(peers: impl IntoIterator<Item = Peer>) -> Vec<Arc<Peer>> {
    peers.into_iter().map(Arc::new).collect()
}

const OURS: &str = "10.244.0.0/16 via 169.254.1.1 dev vsw0 src 10.244.1.0 onlink mtu 1450";

#[test]
fn everything_follows_the_fleet() {
    netns::in_new(|| {
        let mut bed = Bed::start("follows", "type = \"vxlan\"");
        assert_eq!(sockets(), (vec![8472], 0));
        // What an earlier process left.
        run("ip route add 10.244.9.0/24 via 192.168.77.9 dev u0 proto 0x76");

        let vxlan = Tunnel::Vxlan { vni: 1 };
        let five = Backend::Vxlan { vni: 5 };
        let forms = [None, Some(Backend::Udp), Some(Backend::Ipip), Some(Backend::Direct), Some(five)];
        let mut fleet = bed.fleet();
        fleet.peers = all((2..).zip(forms).map(|(n, form)| peer(n, form)));
        bed.set(fleet);
        let tunnels =
            [Some(vxlan), Some(Tunnel::Udp), Some(Tunnel::Ipip), None, Some(Tunnel::Vxlan { vni: 5 })];
        let names = (2..7).map(|n| format!("n{n}"));
        assert_eq!(bed.spoken(), names.zip(tunnels).collect::<Vec<_>>());
        assert_eq!(sockets(), (vec![8285, 8472], 4), "two workers, two inner families");
        assert_eq!(routes().len(), 3, "{:?}", routes());
        assert!(
            routes().contains(&"10.244.5.0/24 via 192.168.77.5 dev u0 onlink".to_owned()),
            "{:?}",
            routes()
        );
        let snap = bed.daemon.switch.snapshot();
        let ends: Vec<_> = snap.peers.iter().map(|p| (p.endpoint.port(), p.vnis)).collect();
        let none = crate::snapshot::NO_VNI;
        assert_eq!(ends[..4], [(8472, [1, 1]), (8285, [1, none]), (0, [1, none]), (8472, [1, none])]);
        assert_eq!(ends[4], (8472, [1, 5]));
        let stats = Arc::clone(&snap.peers[0].stats);
        stats[0].tx_packets.add(7);

        // One changes its form, others go; the network grows.
        let mut fleet = bed.fleet();
        fleet.peers.retain(|p| ["n2", "n4"].contains(&p.name.as_str()));
        Arc::make_mut(&mut fleet.peers[0]).backend = Some(Backend::Direct);
        fleet.cluster_cidrs.push("10.250.0.0/16".parse().unwrap());
        bed.set(fleet.clone());
        assert_eq!(bed.spoken(), [("n2".to_owned(), None), ("n4".to_owned(), Some(Tunnel::Ipip))]);
        only(&(vec![8472], 4));
        let mut now = routes();
        now.sort();
        let added = OURS.replace("10.244.0.0", "10.250.0.0");
        let own = OURS.replace("10.244.0.0/16", "10.244.1.0/24");
        let direct = "10.244.2.0/24 via 192.168.77.2 dev u0 onlink";
        assert_eq!(now, [OURS, &own, direct, &added]);
        assert!(
            Arc::ptr_eq(&stats, &bed.daemon.switch.snapshot().peers[0].stats),
            "what was counted goes on"
        );
        assert!(run("nft list table inet vswitch").contains("10.250.0.0/16"));

        // Told again, nothing changes but the epoch; a route that somebody removed comes back.
        run("ip route del 10.244.2.0/24 proto 0x76");
        bed.set(fleet);
        let mut again = routes();
        again.sort();
        assert_eq!(again, now);

        // The whole network changes its form: sockets go, and pods' MTU grows.
        let mut fleet = bed.fleet();
        (fleet.tunnel, fleet.peers) = (TunnelConfig::Direct, all([peer(2, None), peer(3, None)]));
        bed.set(fleet);
        only(&(vec![], 0));
        assert_eq!(bed.spoken(), [("n2".to_owned(), None), ("n3".to_owned(), None)]);
        assert_eq!(bed.daemon.facts.mtu, 1500);
        assert!(run("ip -o link show vsw0").contains("mtu 1500"));
        // And back, with an outer family more.
        let mut fleet = bed.fleet();
        let six = Peer { address: None, address6: Some("fd77::7".parse().unwrap()), ..peer(7, None) };
        fleet.tunnel = TunnelConfig::Udp { port: 9999, cross_subnet: true };
        fleet.peers = all([peer(2, Some(five)), six]);
        bed.set(fleet);
        assert_eq!(bed.daemon.facts.mtu, 1500 - 70);
        assert!(run("ss -Huln").contains("[fd77::1]:9999"));
        // Both are on our own subnet.
        assert_eq!(bed.spoken(), [("n2".to_owned(), None), ("n7".to_owned(), None)]);
        assert_ne!(bed.daemon.facts.vtep_mac, encap::Mac::default(), "a peer sends VXLAN");
    })
    .unwrap();
}

#[test]
fn a_form_that_cannot_be_opened_hurts_nobody_else() {
    netns::in_new(|| {
        let mut bed = Bed::start("taken", "type = \"vxlan\"");
        let taken = std::net::UdpSocket::bind("192.168.77.1:8285").unwrap();
        let mut fleet = bed.fleet();
        fleet.peers = all([peer(2, Some(Backend::Udp)), peer(3, None), peer(4, Some(Backend::Direct))]);
        let err = bed.daemon.set_fleet(Arc::new(fleet)).unwrap_err();
        assert!(err.to_string().contains("8285 is taken"), "{err}");
        assert!(bed.daemon.problem_list()[0].contains("8285 is taken"), "{:?}", bed.daemon.problem_list());
        assert_eq!(bed.spoken().len(), 3);
        assert_eq!(routes().len(), 3);
        drop(taken);
        // A child process of another test may hold a copy of the socket for a moment.
        for _ in 0..100 {
            bed.daemon.restore_uplinks();
            if bed.daemon.problem_list().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((bed.daemon.problem_list(), sockets().0), (Vec::new(), vec![8285, 8472]));
        // A peer without an address that its form can use is left out, and nobody else.
        let mut fleet = bed.fleet();
        let six = Peer {
            address: None,
            address6: Some("fd77::7".parse().unwrap()),
            ..peer(7, Some(Backend::Ipip))
        };
        fleet.peers.push(Arc::new(six));
        bed.set(fleet);
        assert_eq!(bed.spoken().len(), 3);
    })
    .unwrap();
}

/// What a runtime asks for a pod in this namespace.
fn attach_request(i: usize, pod: &Netns) -> Attach {
    Attach {
        network: "vswitch".into(),
        container_id: format!("c{i}"),
        ifname: "eth0".into(),
        netns: format!("/proc/self/fd/{}", as_file(pod).as_raw_fd()),
        pod: PodId { namespace: "default".into(), name: format!("p{i}"), uid: String::new() },
        request: Default::default(),
        prev: None,
    }
}

/// What an uninstall did. A program that another test starts has all of this process's descriptors between its fork and exec,
/// the lock of the state directory too: for so long it looks as if a daemon ran.
fn uninstalled(config: &Config) -> uninstall::Report {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match uninstall::run(config) {
            Err(uninstall::Refusal::Runs(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.unwrap(),
        }
    }
}

#[test]
fn nothing_is_left_after_an_uninstall() {
    netns::in_new(|| {
        sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
        let before = sysctl::get("net/ipv4/ip_forward").unwrap();
        let mut bed = Bed::start("gone", "type = \"vxlan\"");
        let mut fleet = bed.fleet();
        fleet.peers = all([peer(2, None), peer(3, Some(Backend::Direct))]);
        bed.set(fleet);
        let pod = Netns::create().unwrap();
        bed.daemon.add(&attach_request(0, &pod)).unwrap();
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(sysctl::get("net/ipv4/conf/u0/rp_filter").unwrap(), "2");
        let config = bed.daemon.config.clone();
        let refused = uninstall::run(&config).unwrap_err();
        assert!(refused.to_string().contains("vswitchd runs"), "{refused}");
        assert_eq!(routes().len(), 3, "nothing was touched");

        let Bed { daemon, dir: _dir, _there, .. } = bed;
        drop(daemon);
        // Its listening thread would end with the process.
        std::fs::remove_file(config.node.socket()).unwrap();
        assert!(run("ip -o link").contains("vsw0"), "it waits for the next start");
        let report = uninstalled(&config);
        assert_eq!(report.failed, Vec::<String>::new());
        let removed = report.removed.join("\n");
        let ip_forward = format!("setting net/ipv4/ip_forward = 1 (it was {before})");
        for what in [
            "interface eth0 of pod default/p0",
            "record of pod default/p0",
            "route 10.244.3.0/24",
            "interface vsw0",
            "table inet vswitch",
            "setting net/ipv4/conf/u0/rp_filter = 2",
        ] {
            assert!(removed.contains(what), "{what}: {removed}");
        }
        assert_eq!(removed.contains(&ip_forward), before == "0", "{removed}");
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), before);
        assert_ne!(sysctl::get("net/ipv4/conf/u0/rp_filter").unwrap(), "2");
        assert_eq!(routes(), Vec::<String>::new());
        assert!(!run("ip -o link").contains("vsw"));
        assert!(!run("nft list ruleset").contains("vswitch"));
        netns::run_in(&pod, || assert!(!run("ip -o link").contains("eth0"))).unwrap();
        assert_eq!(uninstalled(&config).removed, Vec::<String>::new(), "nothing is left");
    })
    .unwrap();
}

#[test]
fn pods_outlive_their_range() {
    netns::in_new(|| {
        let mut bed = Bed::start("ranges", "type = \"udp\"");
        let pods = [Netns::create().unwrap(), Netns::create().unwrap()];
        let attach = |i: usize| attach_request(i, &pods[i]);
        let first = bed.daemon.add(&attach(0)).unwrap().ips[0].address.addr();
        assert_eq!(first, IpAddr::from([10, 244, 1, 2]));
        run(&format!("ping -n -c 1 -W 2 {first}"));

        let mut fleet = bed.fleet();
        fleet.cluster_cidrs = vec!["10.99.0.0/16".parse().unwrap()];
        fleet.pod_cidrs = vec!["10.99.3.0/24".parse().unwrap()];
        fleet.peers = all([Peer { pod_cidrs: vec!["10.99.4.0/24".parse().unwrap()], ..peer(2, None) }]);
        bed.set(fleet);
        let addresses = run("ip -o -4 addr show vsw0");
        assert!(addresses.contains("10.99.3.0/32") && !addresses.contains("10.244"), "{addresses}");
        run(&format!("ping -n -c 1 -W 2 {first}"));
        assert!(routes().iter().any(|r| r.starts_with("10.244.1.2 via")), "{:?}", routes());
        let rules = run("nft list table inet vswitch");
        assert!(rules.contains("10.244.1.2") && rules.contains("10.99.0.0/16"), "{rules}");
        let second = bed.daemon.add(&attach(1)).unwrap().ips[0].address.addr();
        assert_eq!(second, IpAddr::from([10, 99, 3, 2]), "new pods are in the new range");
        run(&format!("ping -n -c 1 -W 2 {second}"));
        let near = format!("ping -n -c 1 -W 2 {second}");
        netns::run_in(&pods[0], || run(&near)).unwrap();

        // With the pod its address goes.
        bed.daemon.del(&attach(0)).unwrap();
        assert!(!routes().iter().any(|r| r.starts_with("10.244")), "{:?}", routes());
        assert!(!run("nft list table inet vswitch").contains("10.244.1.2"));
        bed.daemon.del(&attach(1)).unwrap();
    })
    .unwrap();
}

#[test]
fn strict_filtering_of_sources_lets_direct_peers_in() {
    netns::in_new(|| {
        sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
        let mut bed = Bed::start("filter", "type = \"ipip\"");
        let filter = || sysctl::get("net/ipv4/conf/u0/rp_filter").unwrap();
        let far = |n| Peer { address: Some([10, 1, 1, n].into()), ..peer(n, None) };
        let mut fleet = bed.fleet();
        fleet.peers = all([far(2)]);
        bed.set(fleet);
        assert_ne!(filter(), "2", "nobody is near");
        let mut fleet = bed.fleet();
        fleet.peers = all([far(2), peer(3, None)]);
        bed.set(fleet);
        assert_eq!(filter(), "2");
    })
    .unwrap();
}

#[test]
fn a_range_of_several_direct_peers_is_one_route_of_the_host() {
    netns::in_new(|| {
        let mut bed = Bed::start("several", "type = \"vxlan\"");
        let policy = || sysctl::get("net/ipv4/fib_multipath_hash_policy").unwrap();
        let shared = |n, backend| {
            let mut peer = peer(n, backend);
            peer.pod_cidrs.push("10.244.9.0/24".parse().unwrap());
            peer
        };
        let direct = Some(Backend::Direct);
        let show = || run("ip route show 10.244.9.0/24").split_whitespace().collect::<Vec<_>>().join(" ");
        let over = |hops: &[u8]| match hops {
            [n] => format!("10.244.9.0/24 via 192.168.77.{n} dev u0 proto 118 onlink"),
            _ => hops.iter().fold("10.244.9.0/24 proto 118".to_owned(), |text, n| {
                text + &format!(" nexthop via 192.168.77.{n} dev u0 weight 1 onlink")
            }),
        };
        // One of them is reached through a tunnel: that is no way of the host's.
        for (peers, hops) in [
            (vec![shared(2, direct)], &[2][..]),
            (vec![shared(2, direct), shared(3, direct), shared(4, None)], &[2, 3]),
            (vec![shared(2, direct), shared(3, direct), shared(4, direct)], &[2, 3, 4]),
            (vec![shared(3, direct), shared(4, direct)], &[3, 4]),
            (vec![shared(4, direct)], &[4]),
            (vec![shared(3, direct), shared(4, direct)], &[3, 4]),
        ] {
            let before = policy();
            let mut fleet = bed.fleet();
            fleet.peers = all(peers);
            bed.set(fleet.clone());
            assert_eq!(show(), over(hops));
            assert_eq!(policy(), if hops.len() > 1 { "1" } else { &before });
            // Told again, nothing changes; what somebody changed is put right.
            bed.set(fleet.clone());
            assert_eq!(show(), over(hops));
            run("ip route replace 10.244.9.0/24 via 192.168.77.77 dev u0 proto 118 onlink");
            bed.set(fleet);
            assert_eq!(show(), over(hops));
        }
        let rows = bed.daemon.route_infos();
        let row = rows.iter().find(|r| r.dst.to_string() == "10.244.9.0/24").unwrap();
        assert_eq!(row.via, "n3, n4");
        // With the peers it goes, and what an earlier process left too.
        run("ip route add 10.244.8.0/24 proto 118 nexthop via 192.168.77.8 dev u0 nexthop via 192.168.77.9 dev u0");
        let mut fleet = bed.fleet();
        fleet.peers = all([peer(3, direct)]);
        bed.set(fleet);
        assert_eq!(show(), "");
        assert_eq!(run("ip route show 10.244.8.0/24"), "");
        // A policy of the host's own stays.
        sysctl::set("net/ipv4/fib_multipath_hash_policy", "2").unwrap();
        let mut fleet = bed.fleet();
        fleet.peers = all([shared(3, direct), shared(4, direct)]);
        bed.set(fleet);
        assert_eq!(policy(), "2");
    })
    .unwrap();
}
