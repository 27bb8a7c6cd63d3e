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

/// FRR of this AS with one neighbour, telling of 172.21.0.0/16.
fn frr(asn: u32, neighbour: &str, remote: u32, more: &str) -> String {
    format!(
        "hostname frr\nrouter bgp {asn}\n bgp router-id 192.168.77.8\n no bgp ebgp-requires-policy\n\
         no bgp network import-check\n neighbor {neighbour} remote-as {remote}\n neighbor {neighbour} timers 2 6\n\
         neighbor {neighbour} timers connect 1\n{more} address-family ipv4 unicast\n  network 172.21.0.0/16\n\
         exit-address-family\n"
    )
}

#[test]
fn frr_of_another_as_needs_the_right_key_and_is_on_our_link() {
    let _turn = turn();
    let mut lab = bed(1, TunnelKind::Direct);
    let mut r = router(&lab, Make::Frr, 8);
    r.netns.ip("addr add 172.21.0.1/16 dev lo").unwrap();
    let key = " neighbor 192.168.77.1 password s3cret\n neighbor 192.168.77.1 ttl-security hops 1\n";
    r.start(&frr(65_010, "192.168.77.1", 64_512, key));
    let config = |password: &str| {
        format!(
            "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.8\"\nasn = 65010\n\
             password = \"{password}\"\nttl-security = 1\n"
        )
    };
    start(&mut lab, 0, &config("wr0ng"));
    std::thread::sleep(Duration::from_secs(3));
    assert_ne!(peer(&lab, 0, "192.168.77.8").state, "Established");
    lab.daemons[0].as_mut().unwrap().end().unwrap();
    start(&mut lab, 0, &config("s3cret"));
    up(&lab, 0, "192.168.77.8");
    let pod = lab.pod(0, "p").unwrap();
    answers(&pod.netns, "172.21.0.1");
    answers(&r.netns, &pod.addresses()[0].to_string());
    let routes = report(&lab, 0, BgpQuery::Routes { within: Some("172.21.0.0/16".parse().unwrap()) }).routes;
    assert_eq!(routes[0].paths[0].as_path, "65010");
    let seen = r.ask("show bgp ipv4 unicast 10.244.1.0/24");
    assert!(seen.contains("64512") && seen.contains("192.168.77.1"), "{seen}");

    // It dies: the kernel resets its connection, and its routes go.
    r.stop(true);
    let node = &lab.bed.nodes[0];
    let gone = || node.ip("route show 172.21.0.0/16").unwrap().is_empty();
    // FRR speaks no graceful restart unless told to, so nothing is held for it.
    wait("the dead router's routes are gone", gone);
}

/// GoBGP as a reflector of our AS for these clients.
fn gobgp(clients: &[&str]) -> String {
    let mut text = "[global.config]\n  as = 64512\n  router-id = \"192.168.77.7\"\n".to_owned();
    for client in clients {
        let _ = write!(
            text,
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{client}\"\n    peer-as = 64512\n\
             [neighbors.route-reflector.config]\n    route-reflector-client = true\n\
             route-reflector-cluster-id = \"192.168.77.7\"\n\
             [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"ipv4-unicast\"\n"
        );
    }
    text
}

#[test]
fn gobgp_reflects_between_our_nodes() {
    let _turn = turn();
    for tunnel in [TunnelKind::Direct, TunnelKind::Ipip, TunnelKind::Vxlan] {
        let mut lab = bed(2, tunnel);
        let mut r = router(&lab, Make::GoBgp, 7);
        r.start(&gobgp(&["192.168.77.1", "192.168.77.2"]));
        let bgp = "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.7\"\nasn = 64512\n";
        (0..2).for_each(|i| start(&mut lab, i, bgp));
        (0..2).for_each(|i| up(&lab, i, "192.168.77.7"));
        let pods = [0, 1].map(|i| lab.pod(i, &format!("p{i}")).unwrap());
        answers(&pods[0].netns, &pods[1].addresses()[0].to_string());
        answers(&pods[1].netns, &pods[0].addresses()[0].to_string());
        let via: Vec<String> = lab.daemon(0).unwrap().peers().unwrap().into_iter().map(|p| p.via).collect();
        assert_eq!(via, [tunnel.name()], "the next hop is the node, not the reflector");
        let inside = Some("10.244.2.0/24".parse().unwrap());
        let path = report(&lab, 0, BgpQuery::Routes { within: inside }).routes[0].paths[0].clone();
        assert_eq!(path.originator_id.map(|id| id.to_string()).as_deref(), Some("192.168.77.2"));
        assert_eq!(path.cluster_list.len(), 1);
        assert_eq!(path.next_hop.map(|a| a.to_string()).as_deref(), Some("192.168.77.2"));
    }
}

#[test]
fn we_reflect_between_bird_frr_and_a_node() {
    let _turn = turn();
    let mut lab = bed(2, TunnelKind::Direct);
    let (mut b, mut f) = (router(&lab, Make::Bird, 9), router(&lab, Make::Frr, 8));
    behind(&b);
    f.netns.ip("addr add 172.21.0.1/16 dev lo").unwrap();
    b.start(&bird(
        64_512,
        "protocol bgp n1 from node { neighbor 192.168.77.1 as 64512; ipv6 { import none; export none; }; }\n",
    ));
    f.start(&frr(64_512, "192.168.77.1", 64_512, ""));
    let mut reflector = "[bgp]\nasn = 64512\ncluster-id = \"1.0.0.1\"\n".to_owned();
    for client in [2, 8, 9] {
        let _ = write!(reflector, "[[bgp.peer]]\naddress = \"192.168.77.{client}\"\nasn = 64512\n");
    }
    start(&mut lab, 0, &reflector);
    start(
        &mut lab,
        1,
        "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.1\"\nasn = 64512\n",
    );
    for client in ["192.168.77.2", "192.168.77.8", "192.168.77.9"] {
        up(&lab, 0, client);
    }
    let pods = [0, 1].map(|i| lab.pod(i, &format!("p{i}")).unwrap());
    for pod in &pods {
        answers(&pod.netns, "172.20.0.1");
        answers(&pod.netns, "172.21.0.1");
        for r in [&b, &f] {
            answers(&r.netns, &pod.addresses()[0].to_string());
        }
    }
    answers(&pods[0].netns, &pods[1].addresses()[0].to_string());
    // Each by its own next hop, not through the reflector.
    assert!(f.netns.ip("route show 10.244.2.0/24").unwrap().contains("via 192.168.77.2"));
    assert!(f.netns.ip("route show 172.20.0.0/16").unwrap().contains("via 192.168.77.9"));
    assert!(lab.bed.nodes[1].ip("route show 172.21.0.0/16").unwrap().contains("via 192.168.77.8"));
    let seen = f.ask("show bgp ipv4 unicast 172.20.0.0/16");
    assert!(seen.contains("Originator: 192.168.77.9") && seen.contains("Cluster list: 1.0.0.1"), "{seen}");
}

#[test]
fn rules_refuse_by_community_and_as_and_tag_what_is_sent() {
    let _turn = turn();
    let mut lab = bed(1, TunnelKind::Direct);
    let mut r = router(&lab, Make::Bird, 9);
    r.start(
        "log stderr all;\nrouter id 192.168.77.9;\nprotocol device {}\nprotocol static told { ipv4;\n\
         route 172.22.0.0/16 blackhole { bgp_community.add((65010,666)); };\n\
         route 172.23.0.0/16 blackhole { bgp_large_community.add((65010,6,6)); };\n\
         route 172.24.0.0/16 blackhole { bgp_path.prepend(65099); };\n\
         route 172.25.0.0/16 blackhole;\nroute 172.25.9.0/24 blackhole;\n}\n\
         protocol bgp n1 { local as 65010; neighbor 192.168.77.1 as 64512; connect retry time 1;\n\
         ipv4 { import all; export all; }; }\n",
    );
    start(
        &mut lab,
        0,
        "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 65010\n\
         [[bgp.peer.import-rule]]\ncommunities = [\"65010:666\", \"65010:6:6\"]\naction = \"reject\"\n\
         [[bgp.peer.import-rule]]\norigin-as = [65099]\naction = \"reject\"\n\
         [[bgp.peer.import-rule]]\nprefixes = [\"172.25.0.0/16 le 16\"]\nlocal-pref = 200\n\
         [[bgp.peer.export-rule]]\nadd-communities = [\"64512:7\", \"64512:1:2\"]\nprepend = 2\n",
    );
    up(&lab, 0, "192.168.77.9");
    let routes =
        || report(&lab, 0, BgpQuery::Routes { within: Some("172.16.0.0/12".parse().unwrap()) }).routes;
    wait("five routes", || routes().len() == 5);
    for route in routes() {
        let path = &route.paths[0];
        let (net, preference) = (route.net.to_string(), path.local_pref);
        let refused = !net.starts_with("172.25.");
        assert_eq!((path.used, path.rejected.is_some()), (!refused, refused), "{route:?}");
        assert_eq!(preference, (net == "172.25.0.0/16").then_some(200), "{route:?}");
    }
    let node = &lab.bed.nodes[0];
    wait("both are in the kernel", || node.ip("route show proto 119").unwrap().lines().count() == 2);
    let wanted = ["BGP.as_path: 64512 64512 64512", "(64512,7)", "(64512, 1, 2)"];
    wait("BIRD has ours with the tags", || {
        let seen = r.ask("show route 10.244.1.0/24 all");
        wanted.iter().all(|text| seen.contains(text))
    });
}

#[test]
fn a_next_hop_that_is_not_reached_is_not_used() {
    let _turn = turn();
    let mut lab = bed(1, TunnelKind::Direct);
    let mut r = router(&lab, Make::Bird, 9);
    let node = &lab.bed.nodes[0];
    node.ip("link add far type veth peer name end").unwrap();
    node.ip("link set far up").unwrap();
    node.ip("link set end up").unwrap();
    node.ip("addr add 192.168.98.1/24 dev far").unwrap();
    r.start(
        "log stderr all;\nrouter id 192.168.77.9;\nprotocol device {}\nprotocol static told { ipv4;\n\
         route 172.20.0.0/16 blackhole;\nroute 172.21.0.0/16 blackhole;\nroute 192.168.99.0/24 blackhole;\n}\n\
         filter elsewhere { bgp_next_hop = 192.168.99.5; if net = 172.21.0.0/16 then bgp_next_hop = 192.168.98.5; accept; }\n\
         protocol bgp n1 { local as 64512; neighbor 192.168.77.1 as 64512; connect retry time 1;\n\
         ipv4 { import none; export filter elsewhere; }; }\n",
    );
    start(
        &mut lab,
        0,
        "[bgp]\nasn = 64512\nmesh = false\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 64512\n",
    );
    up(&lab, 0, "192.168.77.9");
    let node = &lab.bed.nodes[0];
    let learned = |net: &str| node.ip(&format!("route show {net} proto 119")).unwrap();
    wait("the one on a link is used", || learned("172.21.0.0/16").contains("via 192.168.98.5 dev far"));
    // Of the two others, one covers the next hop of both: it is not the way to itself.
    let rejected = || -> Vec<Option<String>> {
        let within = Some("0.0.0.0/0".parse().unwrap());
        let routes = report(&lab, 0, BgpQuery::Routes { within }).routes;
        let others =
            routes.iter().filter(|r| ["172.20.0.0/16", "192.168.99.0/24"].contains(&&*r.net.to_string()));
        others.map(|r| r.paths[0].rejected.clone()).collect()
    };
    wait("two that are not", || {
        rejected() == [Some("next hop unreachable".to_owned()), Some("next hop unreachable".to_owned())]
    });
    assert!(learned("172.20.0.0/16").is_empty() && learned("192.168.99.0/24").is_empty());

    node.ip("route add 192.168.99.4/30 via 192.168.77.9").unwrap();
    wait("a route there appears", || learned("172.20.0.0/16").contains("via 192.168.77.9 dev eth0"));
    wait("for both", || learned("192.168.99.0/24").contains("via 192.168.77.9 dev eth0"));
    node.ip("route replace 192.168.99.4/30 via 192.168.77.8").unwrap();
    wait("it changes", || learned("172.20.0.0/16").contains("via 192.168.77.8 dev eth0"));
    node.ip("route del 192.168.99.4/30").unwrap();
    wait("it goes, and the route over itself with it", || {
        learned("172.20.0.0/16").is_empty() && learned("192.168.99.0/24").is_empty()
    });

    node.ip("link set end down").unwrap();
    wait("its carrier goes", || learned("172.21.0.0/16").is_empty());
    node.ip("link set end up").unwrap();
    wait("and comes", || learned("172.21.0.0/16").contains("dev far"));
    node.ip("link set far down").unwrap();
    wait("the link goes", || learned("172.21.0.0/16").is_empty());
    node.ip("link set far up").unwrap();
    wait("and comes", || learned("172.21.0.0/16").contains("dev far"));
}

#[test]
fn no_packet_is_lost_when_either_side_restarts() {
    let _turn = turn();
    let mut lab = bed(2, TunnelKind::Direct);
    let mut r = router(&lab, Make::Bird, 9);
    behind(&r);
    let neighbours = "protocol bgp n1 from node { neighbor 192.168.77.1 as 64512; graceful restart on; ipv6 { import none; export none; }; }\n\
                      protocol bgp n2 from node { neighbor 192.168.77.2 as 64512; graceful restart on; ipv6 { import none; export none; }; }\n";
    let config = bird(64_512, neighbours)
        .replace("{ export where", "{ import none; export where")
        .replace("protocol kernel {", "protocol kernel { persist;");
    r.start(&config);
    let bgp = "[bgp]\nasn = 64512\n[[bgp.peer]]\naddress = \"192.168.77.9\"\nasn = 64512\n";
    (0..2).for_each(|i| start(&mut lab, i, bgp));
    for (i, other) in [(0, "192.168.77.2"), (1, "192.168.77.1")] {
        up(&lab, i, other);
        up(&lab, i, "192.168.77.9");
    }
    let pods = [0, 1].map(|i| lab.pod(i, &format!("p{i}")).unwrap());
    let (v4, v6) = (pods[1].addresses()[0], pods[1].addresses()[1]);
    for to in [v4, v6, "172.20.0.1".parse().unwrap()] {
        answers(&pods[0].netns, &to.to_string());
    }
    // What was learned is kept a moment after it changed.
    std::thread::sleep(Duration::from_secs(2));

    let to: Vec<IpAddr> = vec![v4, v6, "172.20.0.1".parse().unwrap()];
    let runs = |to: &[IpAddr]| -> Vec<PingRun> {
        to.iter().map(|to| PingRun::start(&pods[0].netns, *to, 600, 10).unwrap()).collect()
    };
    let whole = |runs: Vec<PingRun>, what: &str| {
        for run in runs {
            let pinged = run.finish().unwrap();
            assert!(pinged.all(), "{what}: {pinged:?}");
        }
    };
    // Our switch dies, on either end of the pings.
    let running = runs(&to);
    for i in [0, 1] {
        std::thread::sleep(Duration::from_secs(1));
        let daemon = lab.daemon(i).unwrap();
        daemon.children().into_iter().for_each(|child| Daemon::signal(child, Signal::KILL));
    }
    whole(running, "a switch killed");
    for i in [0, 1] {
        up(&lab, i, "192.168.77.9");
        let stale = |r: &BgpReport| r.routes.iter().any(|r| r.paths.iter().any(|p| p.stale));
        wait("no route is from before", || !stale(&report(&lab, i, BgpQuery::Routes { within: None })));
    }
    // The router dies, and comes back.
    let running = runs(&to);
    std::thread::sleep(Duration::from_secs(1));
    r.stop(true);
    std::thread::sleep(Duration::from_secs(1));
    r.recover(&config);
    whole(running, "the router killed");
    (0..2).for_each(|i| up(&lab, i, "192.168.77.9"));
    for to in &to {
        answers(&pods[0].netns, &to.to_string());
    }
}
