//! BGP with other people's routers: BIRD, FRR and GoBGP, each as a neighbour of every kind.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use control::api::{BgpPeerInfo, BgpQuery, BgpReport, Request};
use rustix::process::Signal;
use vswitch::lab::{Daemon, Lab, Options, PingRun, Shape, Stop, TunnelKind, ping};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{Make, Router, wait, wait_for};
use vswitch_tests::serial::turn;

/// A bed with a bridge, so that routers can join; no daemon yet.
fn bed(nodes: usize, tunnel: TunnelKind) -> Lab {
    let shape = Shape { nodes, outside: true, ..Shape::default() };
    let options = Options { shape, tunnel, ..Options::default() };
    Lab::bed_only(programs(), options, &Stop::default()).unwrap()
}

fn router(lab: &Lab, make: Make, host: u8) -> Router {
    Router::new(&lab.bed.name(&format!("r{host}")), &lab.bed.name("wire"), make, host)
}

/// Starts node `i` with a `[bgp]` section; what peers hold is left to BGP.
fn start(lab: &mut Lab, i: usize, bgp: &str) {
    let config = lab.write_config(i).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let (node, peers) = text.split_once("[[peer]]").unwrap_or((&text, ""));
    let mut text = node.to_owned();
    for peer in peers.split("[[peer]]").filter(|peer| !peer.is_empty()) {
        text.push_str("[[peer]]");
        peer.lines().filter(|l| !l.starts_with("pod-cidrs")).for_each(|l| {
            let _ = writeln!(text, "{l}");
        });
    }
    text.push_str(bgp);
    std::fs::write(&config, text).unwrap();
    let run: &Path = &lab.run_dir(i);
    let daemon = Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, run, &Stop::default());
    lab.daemons[i] = Some(daemon.unwrap());
}

fn report(lab: &Lab, i: usize, query: BgpQuery) -> BgpReport {
    lab.daemon(i).unwrap().ask(&Request::Bgp { query }).unwrap()
}

fn peer(lab: &Lab, i: usize, address: &str) -> BgpPeerInfo {
    let all = report(lab, i, BgpQuery::Peers).peers;
    all.into_iter().find(|p| p.address.to_string() == address).unwrap()
}

fn up(lab: &Lab, i: usize, address: &str) {
    wait(&format!("session with {address}"), || peer(lab, i, address).state == "Established");
}

/// A BIRD that tells of what its loopback has, and takes everything.
fn bird(asn: u32, neighbours: &str) -> String {
    format!(
        "log stderr all;\nrouter id 192.168.77.9;\nprotocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; ipv6; interface \"lo\", \"eth0\"; }}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}\n\
         template bgp node {{\n  local as {asn};\n  hold time 6;\n  connect retry time 1;\n  error wait time 1, 2;\n\
         ipv4 {{ import all; export where net ~ [172.20.0.0/16+, 10.244.0.0/16+]; next hop self; }};\n\
         ipv6 {{ import all; export where net ~ [fd20::/32+, fd00:10:244::/48+]; next hop self; }};\n}}\n{neighbours}"
    )
}

/// Prefixes of its own behind a router.
fn behind(router: &Router) {
    router.netns.ip("addr add 172.20.0.1/16 dev lo").unwrap();
    router.netns.ip("-6 addr add fd20::1/64 dev lo").unwrap();
}

fn answers(from: &vswitch::lab::Netns, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    wait(&format!("{} reaches {to}", from.name()), || ping(from, to, 1, 20).is_ok_and(|p| p.all()));
}

#[test]
fn bird_inside_our_as_routes_to_pods_and_pods_to_it() {
    let _turn = turn();
    let mut lab = bed(1, TunnelKind::Direct);
    let mut r = router(&lab, Make::Bird, 9);
    behind(&r);
    let neighbours = "protocol bgp n1 from node { neighbor 192.168.77.1 as 64512; ipv6 { import none; export none; }; }\n\
                      protocol bgp n6 from node { neighbor fd77::1 as 64512; ipv4 { import none; export none; }; }\n";
    r.start(&bird(64_512, neighbours));
    start(
        &mut lab,
        0,
        "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 64512\n\
         [[bgp.peer]]\naddress = \"fd77::9\"\nasn = 64512\n",
    );
    up(&lab, 0, "192.168.77.9");
    up(&lab, 0, "fd77::9");
    let pod = lab.pod(0, "p").unwrap();
    let [v4, v6] = pod.addresses();
    for (to, from_router) in [("172.20.0.1", v4), ("fd20::1", v6)] {
        answers(&pod.netns, to);

        answers(&r.netns, &from_router.to_string());
    }
    let node = &lab.bed.nodes[0];
    assert!(node.ip("route show 172.20.0.0/16").unwrap().contains("via 192.168.77.9 dev eth0 proto 119"));
    assert!(r.netns.ip("route show 10.244.1.0/24").unwrap().contains("via 192.168.77.1"));
    let routes = report(&lab, 0, BgpQuery::Routes { within: Some("172.20.0.0/16".parse().unwrap()) }).routes;
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].why.as_deref(), Some("only path"));
    let announced = report(&lab, 0, BgpQuery::Announced { peer: "192.168.77.9".parse().unwrap() }).routes;
    assert_eq!(announced.iter().map(|r| r.net.to_string()).collect::<Vec<_>>(), ["10.244.1.0/24"]);

    // A route that is withdrawn is gone at once.
    r.netns.ip("addr del 172.20.0.1/16 dev lo").unwrap();
    wait("the withdrawn route is gone", || node.ip("route show 172.20.0.0/16").unwrap().is_empty());
    r.netns.ip("addr add 172.20.0.1/16 dev lo").unwrap();
    answers(&pod.netns, "172.20.0.1");

    // A router that falls silent is noticed by the hold time agreed, 6 s.
    r.signal(Signal::STOP);
    let took = wait_for("the silent router's routes are gone", Duration::from_secs(12), || {
        node.ip("route show 172.20.0.0/16").unwrap().is_empty()
    });
    assert!(took > Duration::from_secs(2), "by the timer, not before: {took:?}");
    wait("what ended it", || peer(&lab, 0, "192.168.77.9").last_error.is_some_and(|e| e.contains("old")));
    r.signal(Signal::CONT);
    up(&lab, 0, "192.168.77.9");
    answers(&pod.netns, "172.20.0.1");

    // The daemon ends: its routes go from the router, and the router's from the kernel.
    drop(pod);
    lab.daemons[0].as_mut().unwrap().end().unwrap();
    wait("our routes are withdrawn", || r.netns.ip("route show 10.244.1.0/24").unwrap().is_empty());
    assert!(node.ip("route show proto 119").unwrap().is_empty());
}
