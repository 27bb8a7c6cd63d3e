//! Three nodes in two subnets with a router between: each tells the others of its pods by BGP.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{BgpQuery, BgpReport, Request};
use vswitch::lab::{Attached, Daemon, Lab, Options, Shape, Stop, TunnelKind, ping};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{Make, Router, behind_a_router, wait};
use vswitch_tests::serial::turn;

fn bed(tunnel: TunnelKind) -> (Lab, Router) {
    let options = Options { tunnel, shape: Shape { nodes: 3, ..Shape::default() }, ..Options::default() };
    let lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    let router = Router::inside(behind_a_router(&lab), Make::Bird);
    (lab, router)
}

/// Starts node `i` over IPv4, node 3 at its new place, knowing of nobody's pods.
fn start(lab: &mut Lab, i: usize, tunnel: &str, bgp: &str) {
    let config = lab.write_config(i).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let (node, peers) = text.split_once("[[peer]]").unwrap();
    let kept = |text: &str, without: &str| -> String {
        let lines = text.lines().filter(|l| !l.starts_with("address6") && !l.starts_with(without));
        lines.flat_map(|l| [l, "\n"]).collect()
    };
    let text = kept(node, "-") + "[[peer]]\n" + &kept(peers, "pod-cidrs") + "[bgp]\nasn = 64512\n" + bgp;
    let text = text
        .replace("192.168.77.3\"", "192.168.78.3\"")
        .replace("[tunnel]\n", &format!("[tunnel]\n{tunnel}"));
    std::fs::write(&config, text).unwrap();
    let run: &Path = &lab.run_dir(i);
    let daemon = Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, run, &Stop::default());
    lab.daemons[i] = Some(daemon.unwrap());
}

fn established(lab: &Lab, i: usize, count: usize) {
    wait("its sessions", || {
        let query = BgpQuery::Peers;
        let report: BgpReport = lab.daemon(i).unwrap().ask(&Request::Bgp { query }).unwrap();
        report.peers.iter().filter(|p| p.state == "Established").count() == count
    });
}

fn all_pairs(pods: &[Attached]) {
    for from in pods {
        for to in pods.iter().map(|to| to.addresses()[0]) {
            wait(&format!("{} reaches {to}", from.netns.name()), || {
                ping(&from.netns, to, 1, 20).is_ok_and(|p| p.all())
            });
        }
    }
}

fn vias(lab: &Lab, i: usize) -> Vec<(String, String)> {
    lab.daemon(i).unwrap().peers().unwrap().into_iter().map(|p| (p.name, p.via)).collect()
}

#[test]
fn direct_inside_a_subnet_and_a_tunnel_across() {
    let _turn = turn();
    for tunnel in [TunnelKind::Ipip, TunnelKind::Vxlan] {
        let (mut lab, _router) = bed(tunnel);
        (0..3).for_each(|i| start(&mut lab, i, "cross-subnet = true\n", ""));
        (0..3).for_each(|i| established(&lab, i, 2));
        let pods: Vec<Attached> = (0..3).map(|i| lab.pod(i, &format!("p{i}")).unwrap()).collect();
        all_pairs(&pods);
        let via = |name: &str, via: &str| (name.to_owned(), via.to_owned());
        assert_eq!(vias(&lab, 0), [via("n2", "direct"), via("n3", tunnel.name())]);
        assert_eq!(vias(&lab, 2), [via("n1", tunnel.name()), via("n2", tunnel.name())]);
    }
}

#[test]
fn no_tunnel_at_all_when_the_router_knows_the_pods() {
    let _turn = turn();
    let (mut lab, mut router) = bed(TunnelKind::Direct);
    let mut bird =
        "log stderr all;\nrouter id 192.168.77.250;\nprotocol device {}\nprotocol direct { ipv4; }\n\
                    protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n"
            .to_owned();
    for (i, (own, node)) in [
        ("192.168.77.250", "192.168.77.1"),
        ("192.168.77.250", "192.168.77.2"),
        ("192.168.78.1", "192.168.78.3"),
    ]
    .into_iter()
    .enumerate()
    {
        bird += &format!(
            "protocol bgp n{i} {{ local {own} as 64512; neighbor {node} as 64512; rr client; connect retry time 1;\n\
             ipv4 {{ import all; export where source = RTS_BGP; }}; }}\n"
        );
    }
    router.start(&bird);
    for (i, own) in ["192.168.77.250", "192.168.77.250", "192.168.78.1"].into_iter().enumerate() {
        let bgp = format!("mesh = false\n[[bgp.peer]]\naddress = \"{own}\"\nasn = 64512\n");
        start(&mut lab, i, "", &bgp);
    }
    (0..3).for_each(|i| established(&lab, i, 1));
    let pods: Vec<Attached> = (0..3).map(|i| lab.pod(i, &format!("p{i}")).unwrap()).collect();
    all_pairs(&pods);
    let node = &lab.bed.nodes[0];
    assert!(node.ip("route show 10.244.2.0/24").unwrap().contains("via 192.168.77.2 dev eth0"));
    assert!(node.ip("route show 10.244.3.0/24").unwrap().contains("via 192.168.77.250 dev eth0"));

    // A node that leaves takes its routes along: packets for its pods are refused at once.
    let to: IpAddr = pods[2].addresses()[0];
    lab.daemons[2].as_mut().unwrap().end().unwrap();
    let began = Instant::now();
    wait("its routes are gone", || node.ip("route show 10.244.3.0/24").unwrap().is_empty());
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(!ping(&pods[0].netns, to, 1, 20).unwrap().all());
}
