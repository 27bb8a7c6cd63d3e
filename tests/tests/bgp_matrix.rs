//! BIRD, FRR and GoBGP in every role: neighbour inside our AS, of another AS, our route reflector, our client.
//!
//! Each in a network of its own, all at once. Every pair has two sessions: over IPv4 only the router dials, over IPv6
//! only the node, and each carries its own family. Routes go both ways in both, and packets follow them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::api::{BgpQuery, BgpReport, Request};
use vswitch::lab::{Attached, Daemon, Lab, Netns, Options, Shape, Stop, TunnelKind, ping};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{Make, Router, wait_for};
use vswitch_tests::serial::turn;

/// What the router is to our node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Internal,
    External,
    Reflector,
    Client,
}

const ROLES: [Role; 4] = [Role::Internal, Role::External, Role::Reflector, Role::Client];
const OURS: u32 = 64_512;
/// Twelve networks share the machine.
const PATIENCE: Duration = Duration::from_secs(40);

impl Role {
    fn asn(self) -> u32 {
        if self == Role::External { 65_010 } else { OURS }
    }

    /// Nodes of ours that the router has sessions with.
    fn neighbours(self) -> std::ops::RangeInclusive<usize> {
        if self == Role::Reflector { 1..=2 } else { 1..=1 }
    }

    fn nodes(self) -> usize {
        if matches!(self, Role::Reflector | Role::Client) { 2 } else { 1 }
    }
}

fn wait(what: &str, is_so: impl FnMut() -> bool) {
    wait_for(what, PATIENCE, is_so);
}

fn bird(role: Role) -> String {
    let mut text = "log stderr all;\nrouter id 192.168.77.9;\nprotocol device {}\n\
         protocol direct { ipv4; ipv6; interface \"lo\", \"eth0\"; }\n\
         protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n\
         protocol kernel { ipv6 { export where source = RTS_BGP; }; }\n"
        .to_owned();
    let (asn, client) = (role.asn(), if role == Role::Reflector { "rr client;" } else { "" });
    for i in role.neighbours() {
        for (name, node, how, family, told) in [
            ("four", format!("192.168.77.{i}"), "", "ipv4", "[172.20.0.0/16, 10.244.0.0/16+]"),
            ("six", format!("fd77::{i}"), "passive yes;", "ipv6", "[fd20::/64, fd00:10:244::/48+]"),
        ] {
            let _ = write!(
                text,
                "protocol bgp {name}{i} {{ local as {asn}; neighbor {node} as {OURS}; {how} {client}\n\
                 connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
                 {family} {{ import all; export where net ~ {told}; }}; }}\n"
            );
        }
    }
    text
}

fn frr(role: Role) -> String {
    let asn = role.asn();
    let mut text = format!(
        "hostname frr\nrouter bgp {asn}\n bgp router-id 192.168.77.9\n no bgp ebgp-requires-policy\n\
         no bgp default ipv4-unicast\n no bgp network import-check\n"
    );
    let mut families = [" network 172.20.0.0/16\n".to_owned(), " network fd20::/64\n".to_owned()];
    for i in role.neighbours() {
        let nodes = [format!("192.168.77.{i}"), format!("fd77::{i}")];
        for (node, family) in nodes.iter().zip(&mut families) {
            let _ = write!(text, " neighbor {node} remote-as {OURS}\n neighbor {node} timers connect 1\n");
            let _ = writeln!(family, "  neighbor {node} activate");
            if role == Role::Reflector {
                let _ = writeln!(family, "  neighbor {node} route-reflector-client");
            }
        }
        let _ = writeln!(text, " neighbor {} passive", nodes[1]);
    }
    for (name, family) in ["ipv4", "ipv6"].into_iter().zip(families) {
        let _ = write!(text, " address-family {name} unicast\n{family} exit-address-family\n");
    }
    text
}

fn gobgp(role: Role) -> String {
    let mut text = format!("[global.config]\n  as = {}\n  router-id = \"192.168.77.9\"\n", role.asn());
    for i in role.neighbours() {
        for (node, passive, family) in
            [(format!("192.168.77.{i}"), false, "ipv4-unicast"), (format!("fd77::{i}"), true, "ipv6-unicast")]
        {
            let _ = write!(
                text,
                "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{node}\"\n    peer-as = {OURS}\n\
                 [neighbors.timers.config]\n    connect-retry = 1\n    idle-hold-time-after-reset = 1\n\
                 [neighbors.transport.config]\n    passive-mode = {passive}\n"
            );
            if role == Role::Reflector {
                text.push_str(
                    "  [neighbors.route-reflector.config]\n    route-reflector-client = true\n\
                     route-reflector-cluster-id = \"192.168.77.9\"\n",
                );
            }
            let _ = write!(
                text,
                "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\"\n"
            );
        }
    }
    text
}

/// `[[bgp.peer]]` for both sessions with the router, or with a node of ours that dials over both.
fn peer(host: u8, asn: u32, dials: bool) -> String {
    format!(
        "[[bgp.peer]]\naddress = \"192.168.77.{host}\"\nasn = {asn}\npassive = {dials}\n\
         [[bgp.peer]]\naddress = \"fd77::{host}\"\nasn = {asn}\n"
    )
}

fn start(lab: &mut Lab, i: usize, bgp: &str) {
    let config = lab.write_config(i).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let kept: String = text.lines().filter(|l| !is_peers_range(&text, l)).flat_map(|l| [l, "\n"]).collect();
    std::fs::write(&config, kept + bgp).unwrap();
    let run = lab.run_dir(i);
    let daemon = Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, &run, &Stop::default());
    lab.daemons[i] = Some(daemon.unwrap());
}

/// Is this the line with another node's ranges? They are BGP's to tell.
fn is_peers_range(text: &str, line: &str) -> bool {
    let peers = text.find("[[peer]]").unwrap_or(text.len());
    line.starts_with("pod-cidrs") && text[peers..].contains(line)
}

fn answers(from: &Netns, to: IpAddr, what: &str) {
    wait(&format!("{what}: {} reaches {to}", from.name()), || ping(from, to, 1, 20).is_ok_and(|p| p.all()));
}

/// One router in one role.
fn meets(make: Make, role: Role) {
    let what = format!("{make:?} as {role:?}");
    let shape = Shape { nodes: role.nodes(), outside: true, ..Shape::default() };
    let options = Options { shape, tunnel: TunnelKind::Direct, ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    let mut router = Router::new(&lab.bed.name("r9"), &lab.bed.name("wire"), make, 9);
    router.netns.ip("addr add 172.20.0.1/16 dev lo").unwrap();
    router.netns.ip("-6 addr add fd20::1/64 dev lo").unwrap();
    router.start(&match make {
        Make::Bird => bird(role),
        Make::Frr => frr(role),
        Make::GoBgp => gobgp(role),
    });
    if make == Make::GoBgp {
        for route in ["172.20.0.0/16", "-a ipv6 fd20::/64"] {
            let (family, net) = route.rsplit_once(' ').unwrap_or(("", route));
            wait("GoBGP takes its own route", || {
                router.ask(&format!("global rib {family} add {net}")).is_empty()
            });
        }
    }
    let with_router = peer(9, role.asn(), true);
    let own = if role == Role::Client { "cluster-id = \"1.0.0.1\"\n" } else { "mesh = false\n" };
    let second = if role == Role::Client { peer(2, OURS, true) } else { String::new() };
    start(&mut lab, 0, &format!("[bgp]\nasn = {OURS}\n{own}{with_router}{second}"));
    if role.nodes() == 2 {
        let to = if role == Role::Client { peer(1, OURS, false) } else { with_router };
        start(&mut lab, 1, &format!("[bgp]\nasn = {OURS}\nmesh = false\n{to}"));
    }
    for i in 0..role.nodes() {
        wait(&format!("{what}: every session of node {}", i + 1), || {
            let query = BgpQuery::Peers;
            let report: BgpReport = lab.daemon(i).unwrap().ask(&Request::Bgp { query }).unwrap();
            report.peers.iter().all(|p| p.state == "Established")
        });
    }
    let pods: Vec<Attached> = (0..role.nodes()).map(|i| lab.pod(i, &format!("p{i}")).unwrap()).collect();
    if make == Make::GoBgp {
        // It puts no routes into the kernel: what it knows is put there for it.
        for i in 1..=role.nodes() {
            for (family, net, via) in [
                ("", format!("10.244.{i}.0/24"), format!("192.168.77.{i}")),
                ("-a ipv6", format!("fd00:10:244:{i}::/64"), format!("fd77::{i}")),
            ] {
                wait(&format!("{what}: it knows {net}"), || {
                    router.ask(&format!("global rib {family} {net}")).contains(&via)
                });
                router.netns.ip(&format!("route add {net} via {via}")).unwrap();
            }
        }
    }
    for pod in &pods {
        for (to, from_router) in ["172.20.0.1", "fd20::1"].into_iter().zip(pod.addresses()) {
            answers(&pod.netns, to.parse().unwrap(), &what);
            answers(&router.netns, from_router, &what);
        }
    }
    let node = &lab.bed.nodes[0];
    assert!(node.ip("route show 172.20.0.0/16").unwrap().contains("via 192.168.77.9"), "{what}");
    assert!(node.ip("-6 route show fd20::/64").unwrap().contains("via fd77::9"), "{what}");
    if let [a, b] = pods.as_slice() {
        // Through the reflector's word, but not through the reflector.
        b.addresses().into_iter().for_each(|to| answers(&a.netns, to, &what));
        assert!(node.ip("route show 10.244.2.0/24").unwrap().contains("via 192.168.77.2"), "{what}");
    }
    drop(pods);
}

#[test]
fn every_router_in_every_role() {
    let _turn = turn();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for make in [Make::Bird, Make::Frr, Make::GoBgp] {
            for role in ROLES {
                scope.spawn(move || meets(make, role));
            }
        }
    });
    assert!(began.elapsed() < Duration::from_secs(60), "all of them took {:?}", began.elapsed());
}
