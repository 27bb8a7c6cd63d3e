//! Several routers, real BIRDs, give the same range of pods: the flows of a pod are spread over them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{BgpQuery, BgpReport, Proto, Request, RouteInfo, Trace, TraceReport};
use serde_json::Value;
use vswitch::lab::{Attached, Daemon, Lab, Netns, Options, PodName, Shape, Stop, TunnelKind, within};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{Make, Router, wait};
use vswitch_tests::serial::turn;

/// Flows of the pod.
const FLOWS: u16 = 90;
/// Their first source port.
const FIRST: u16 = 41_000;
const SERVICE: u16 = 7000;
/// The address that every router has, in a range of pods.
const SHARED: [&str; 2] = ["10.244.50.1", "fd00:10:244:50::1"];
const RANGE: [&str; 2] = ["10.244.50.0/24", "fd00:10:244:50::/64"];

/// One node of ours and these routers beside it.
fn direct(hosts: &[u8]) -> (Lab, Vec<Router>, Attached) {
    let shape = Shape { nodes: 1, outside: true, ..Shape::default() };
    let options = Options { shape, tunnel: TunnelKind::Direct, ..Options::default() };
    let lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    let config = lab.write_config(0).unwrap();
    let wire = lab.bed.name("wire");
    let router = |host: &u8| Router::new(&lab.bed.name(&format!("r{host}")), &wire, Make::Bird, *host);
    let routers = hosts.iter().map(router).collect();
    start(lab, &config, routers, hosts)
}

/// One node of ours, and three nodes beside it, 2 to 4, that are kernels with VXLAN as flannel lays it out.
fn tunnelled() -> (Lab, Vec<Router>, Attached) {
    let options = Options { shape: Shape { nodes: 4, ..Shape::default() }, ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    let config = lab.write_config(0).unwrap();
    let plans = lab.bed.plans();
    let ours = plans[0].vtep_mac();
    let mut routers = Vec::new();
    for (netns, plan) in lab.bed.nodes.drain(1..).zip(&plans[1..]) {
        let device = "type vxlan id 1 dstport 8472 dev eth0 nolearning";
        for line in [
            format!("link add flannel.1 address {} {device} local {}", plan.vtep_mac(), plan.address()),
            "link set flannel.1 up".to_owned(),
            format!("neigh add 10.244.1.0 lladdr {ours} dev flannel.1"),
            "route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink".to_owned(),
        ] {
            netns.ip(&line).unwrap();
        }
        netns.run(&format!("bridge fdb append {ours} dev flannel.1 dst 192.168.77.1")).unwrap();
        routers.push(Router::inside(netns, Make::Bird));
    }
    start(lab, &config, routers, &[2, 3, 4])
}

/// Starts the routers and the node, all of one AS, with a session for each family to each.
fn start(
    mut lab: Lab,
    config: &Path,
    mut routers: Vec<Router>,
    hosts: &[u8],
) -> (Lab, Vec<Router>, Attached) {
    let mut text = std::fs::read_to_string(config).unwrap() + "[bgp]\nasn = 64512\nmesh = false\n";
    for (router, host) in routers.iter_mut().zip(hosts) {
        bird(router, *host);
        for address in [format!("192.168.77.{host}"), format!("fd77::{host}")] {
            let _ = write!(text, "[[bgp.peer]]\naddress = \"{address}\"\nasn = 64512\n");
        }
    }
    std::fs::write(config, text).unwrap();
    let run: &Path = &lab.run_dir(0);
    let daemon = Daemon::start(programs(), &lab.bed.nodes[0], 1, config, run, &Stop::default());
    lab.daemons[0] = Some(daemon.unwrap());
    established(&lab, hosts.len() * 2);
    let pod = lab.pod(0, "p").unwrap();
    (lab, routers, pod)
}

/// A BIRD that tells of the shared ranges.
fn bird(router: &mut Router, host: u8) {
    router.netns.ip(&format!("addr add {}/24 dev lo", SHARED[0])).unwrap();
    router.netns.ip(&format!("-6 addr add {}/64 dev lo nodad", SHARED[1])).unwrap();
    let session = |name: &str, node: &str, family: &str, range: &str| {
        format!(
            "protocol bgp {name} {{ local as 64512; neighbor {node} as 64512; connect retry time 1;\n\
             {family} {{ import all; export where net ~ [{range}]; next hop self; }}; }}\n"
        )
    };
    router.start(&format!(
        "log stderr all;\nrouter id 192.168.77.{host};\nprotocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; ipv6; interface \"lo\", \"eth0\"; }}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}\n{}{}",
        session("n4", "192.168.77.1", "ipv4", RANGE[0]),
        session("n6", "fd77::1", "ipv6", RANGE[1]),
    ));
}

fn established(lab: &Lab, count: usize) {
    wait("the sessions", || {
        let report: BgpReport = lab.daemon(0).unwrap().ask(&Request::Bgp { query: BgpQuery::Peers }).unwrap();
        report.peers.iter().filter(|p| p.state == "Established").count() == count
    });
}

/// What the switch's table has for a range.
fn via(lab: &Lab, range: &str) -> String {
    let routes: Vec<RouteInfo> = lab.daemon(0).unwrap().ask(&Request::Routes).unwrap();
    routes.into_iter().find(|r| r.dst.to_string() == range).map(|r| r.via).unwrap_or_default()
}

fn socket(netns: &Netns, address: SocketAddr) -> UdpSocket {
    let socket = within(netns.path(), || UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// One socket for each flow of the pod, and one service at each router.
struct Flows {
    to: SocketAddr,
    pod: Vec<UdpSocket>,
    services: Vec<UdpSocket>,
}

impl Flows {
    fn new(pod: &Attached, routers: &[Router], family: usize) -> Flows {
        let to = SocketAddr::new(SHARED[family].parse().unwrap(), SERVICE);
        let own: IpAddr = pod.addresses()[family];
        let ports = FIRST..FIRST + FLOWS;
        Flows {
            to,
            pod: ports.map(|port| socket(&pod.netns, SocketAddr::new(own, port))).collect(),
            services: routers.iter().map(|r| socket(&r.netns, to)).collect(),
        }
    }

    /// Sends a packet on every flow. Which router each reached, by the flow's source port, and how many were answered.
    fn send(&self) -> (BTreeMap<u16, usize>, usize) {
        for flow in &self.pod {
            flow.send_to(b"hello", self.to).unwrap();
        }
        let (mut reached, mut answered) = (BTreeMap::new(), 0);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) && answered < self.pod.len() {
            for (at, service) in self.services.iter().enumerate() {
                while let Some(from) = receive(service) {
                    reached.insert(from.port(), at);
                    // A router that does not know the way back yet is asked once more.
                    let _ = service.send_to(b"hello back", from);
                }
            }
            answered += self.pod.iter().filter(|flow| receive(flow).is_some()).count();
            std::thread::sleep(Duration::from_millis(5));
        }
        (reached, answered)
    }

    /// The same, when all of it arrives and is answered.
    fn all(&self, what: &str) -> BTreeMap<u16, usize> {
        let mut last = self.send();
        wait(what, || {
            last = self.send();
            last.1 == self.pod.len() && last.0.len() == self.pod.len()
        });
        last.0
    }
}

fn receive(socket: &UdpSocket) -> Option<SocketAddr> {
    let mut buffer = [0; 64];
    match socket.recv_from(&mut buffer) {
        Ok((_, from)) => Some(from),
        Err(err) if err.kind() == ErrorKind::WouldBlock => None,
        Err(err) => panic!("{err}"),
    }
}

fn shares(ways: &BTreeMap<u16, usize>, routers: usize) -> Vec<usize> {
    (0..routers).map(|router| ways.values().filter(|at| **at == router).count()).collect()
}

/// Every router got a good part of the flows.
fn spread(ways: &BTreeMap<u16, usize>, routers: usize) {
    let (shares, fair) = (shares(ways, routers), usize::from(FLOWS) / routers);
    assert!(shares.iter().all(|share| share * 2 > fair), "{shares:?}");
}

#[test]
fn the_switch_spreads_flows_over_tunnels_and_a_lost_router_moves_its_own_only() {
    let _turn = turn();
    let (lab, mut routers, pod) = tunnelled();
    wait("three ways", || via(&lab, RANGE[0]) == "n2, n3, n4");
    let flows = Flows::new(&pod, &routers, 0);
    let before = flows.all("every flow is answered");
    spread(&before, 3);
    for (router, share) in routers.iter().zip(shares(&before, 3)) {
        let shown = router.netns.ip("-j -s link show flannel.1").unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let packets = shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap();
        assert!(packets >= share as u64, "{packets} of {share} came through the tunnel");
    }
    assert_eq!(lab.drops(0, "peer-spoof").unwrap(), 0);
    // The decision is kept: nothing moves while the routers stay.
    assert_eq!(flows.all("every flow is answered"), before);

    // `vsctl trace` tells of the flow as it goes.
    let trace = Trace {
        from: PodName::new("default", "p").to_string(),
        to: SHARED[0].parse().unwrap(),
        port: Some(SERVICE),
        proto: Proto::Udp,
    };
    let told: TraceReport = lab.daemon(0).unwrap().ask(&Request::Trace(trace)).unwrap();
    let route = told.steps.iter().find(|step| step.stage == "route").unwrap();
    assert!(route.text.contains("behind nodes n2, n3, n4, equally good"), "{route:?}");
    let chosen = socket(&pod.netns, SocketAddr::new(pod.addresses()[0], 40_000));
    chosen.send_to(b"as traced", flows.to).unwrap();
    let mut at = None;
    wait("the traced packet", || {
        at = flows.services.iter().position(|service| receive(service).is_some());
        at.is_some()
    });
    let name = format!("node n{}", at.unwrap() + 2);
    assert!(route.text.contains(&format!("this flow goes to {name} ")), "{name}: {route:?}");

    // One router's sessions end.
    routers[1].stop(false);
    wait("two ways", || via(&lab, RANGE[0]) == "n2, n4");
    let after = flows.all("every flow is answered");
    let moved: BTreeMap<u16, usize> =
        after.iter().filter(|(port, _)| before[port] == 1).map(|(port, at)| (*port, *at)).collect();
    let [first, lost, last] = shares(&moved, 3)[..] else { panic!("three routers") };
    assert!(first > 3 && last > 3 && lost == 0, "{moved:?}");
    for (port, at) in &after {
        assert!(before[port] == 1 || before[port] == *at, "{port}: {} to {at}", before[port]);
    }
    routers[0].stop(false);
    wait("one way", || via(&lab, RANGE[0]) == "n4");
    assert_eq!(shares(&flows.all("every flow is answered"), 3), [0, 0, usize::from(FLOWS)]);
}

#[test]
fn the_hosts_kernel_spreads_flows_over_direct_routers() {
    let _turn = turn();
    let (lab, mut routers, pod) = direct(&[8, 9]);
    let node = &lab.bed.nodes[0];
    let names = ["192.168.77.8, 192.168.77.9", "fd77::8, fd77::9"];
    let flows: Vec<Flows> = (0..2).map(|family| Flows::new(&pod, &routers, family)).collect();
    for family in 0..2 {
        wait("two ways", || via(&lab, RANGE[family]) == names[family]);
        let shown = node.ip(&format!("{} route show {}", ["-4", "-6"][family], RANGE[family])).unwrap();
        for via in names[family].split(", ") {
            assert!(shown.contains(&format!("nexthop via {via} dev eth0 weight 1")), "{shown}");
        }
        let ways = flows[family].all("every flow is answered");
        spread(&ways, 2);
        assert_eq!(flows[family].all("every flow is answered"), ways);
    }
    routers[0].stop(false);
    for (family, [_, left]) in [["192.168.77.8", "192.168.77.9"], ["fd77::8", "fd77::9"]].iter().enumerate() {
        wait("one way", || via(&lab, RANGE[family]) == *left);
        let shown = node.ip(&format!("{} route show {}", ["-4", "-6"][family], RANGE[family])).unwrap();
        assert!(shown.contains(&format!("via {left} dev eth0")) && !shown.contains("nexthop"), "{shown}");
        assert_eq!(shares(&flows[family].all("every flow is answered"), 2), [0, usize::from(FLOWS)]);
    }
}
