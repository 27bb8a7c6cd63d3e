//! Fleets in which not everybody is spoken to in the same form: peers with forms of their own, each direction decided by
//! its sender; and `cross-subnet`, with a router between two subnets, beside flannel's direct routing.

use std::path::Path;

use vswitch::lab::{
    Attached, Daemon, Echo, KernelNode, Lab, Netns, Options, Shape, Stop, TunnelKind, Wire, ping, tcp_echo,
    transfer, udp_echo,
};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::behind_a_router;
use vswitch_tests::serial::turn;
use vswitch_tests::talk::talk;

/// Starts node `i`'s daemon with its configuration changed.
fn start(lab: &mut Lab, i: usize, change: impl Fn(String) -> String) {
    let config = lab.write_config(i).unwrap();
    let text = change(std::fs::read_to_string(&config).unwrap());
    std::fs::write(&config, text).unwrap();
    let run: &Path = &lab.run_dir(i);
    let daemon = Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, run, &Stop::default());
    lab.daemons[i] = Some(daemon.unwrap());
}

/// How each of four nodes speaks to each other one: `FORMS[from][to]`. Some pairs differ in the two directions.
const FORMS: [[&str; 4]; 4] = [
    ["", "ipip", "udp", "direct"],
    ["ipip", "", "vxlan", "vxlan"],
    ["udp", "ipip", "", "vxlan"],
    ["vxlan", "direct", "vxlan", ""],
];

#[test]
fn every_pair_of_nodes_has_its_own_form() {
    let _turn = turn();
    let options = Options { shape: Shape { nodes: 4, ..Shape::default() }, ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    for (i, forms) in FORMS.iter().enumerate() {
        start(&mut lab, i, |text| {
            forms.iter().enumerate().fold(text, |text, (to, form)| {
                let section = format!("[[peer]]\nname = \"n{}\"\n", to + 1);
                text.replace(&section, &format!("{section}tunnel = \"{form}\"\n"))
            })
        });
    }
    let pods: Vec<Attached> = (0..4).map(|i| lab.pod(i, &format!("p{i}")).unwrap()).collect();
    let _echoes: Vec<Echo> = pods.iter().map(|pod| Echo::start(pod.netns.path()).unwrap()).collect();
    assert!(pods.iter().all(|pod| pod.mtu() == 1450), "what fits to every peer");
    for a in 0..4 {
        for b in a + 1..4 {
            let udp = [FORMS[a][b], FORMS[b][a]].contains(&"udp");
            talk(&pods[a], &pods[b], !udp);
        }
        let via: Vec<String> = lab.daemon(a).unwrap().peers().unwrap().into_iter().map(|p| p.via).collect();
        let expected: Vec<&str> = FORMS[a].iter().copied().filter(|form| !form.is_empty()).collect();
        assert_eq!(via, expected);
    }
    for i in 0..4 {
        assert_eq!(lab.drops(i, "unknown-peer").unwrap() + lab.drops(i, "peer-spoof").unwrap(), 0);
    }
}

/// Counts what comes in at a node: packets in a tunnel, and packets of pods as they are.
struct Count<'a>(&'a Netns);

impl<'a> Count<'a> {
    fn start(node: &'a Netns) -> Count<'a> {
        for rule in [
            "add table ip seen",
            "add chain ip seen in { type filter hook prerouting priority raw; }",
            "add counter ip seen tunnel",
            "add counter ip seen plain",
            "add rule ip seen in iifname eth0 udp dport { 8472, 8285 } counter name tunnel",
            "add rule ip seen in iifname eth0 ip protocol 4 counter name tunnel",
            "add rule ip seen in iifname eth0 ip saddr 10.244.0.0/16 counter name plain",
        ] {
            node.run_args(&["nft", rule]).unwrap();
        }
        Count(node)
    }

    /// (in a tunnel, as they are)
    fn get(&self) -> (u64, u64) {
        let one = |name: &str| {
            let text = self.0.run(&format!("nft list counter ip seen {name}")).unwrap();
            let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
            words.nth(1).unwrap().parse().unwrap()
        };
        (one("tunnel"), one("plain"))
    }
}

/// A configuration for the bed behind the router: IPv4 underlay, node 3 at its new place.
fn moved(text: &str) -> String {
    let four = text.lines().filter(|line| !line.starts_with("address6"));
    let text: String = four.flat_map(|line| [line, "\n"]).collect();
    text.replace("192.168.77.3\"", "192.168.78.3\"")
}

#[test]
fn direct_within_a_subnet_and_encapsulated_across() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Udp, TunnelKind::Ipip] {
        let options = Options { tunnel, shape: Shape { nodes: 3, ..Shape::default() }, ..Options::default() };
        let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
        let _router = behind_a_router(&lab);
        for i in 0..3 {
            start(&mut lab, i, |text| moved(&text).replace("[tunnel]\n", "[tunnel]\ncross-subnet = true\n"));
        }
        let pods: Vec<Attached> = (0..3).map(|i| lab.pod(i, &format!("p{i}")).unwrap()).collect();
        let _echoes: Vec<Echo> = pods.iter().map(|pod| Echo::start(pod.netns.path()).unwrap()).collect();
        let [near, far] = [1, 2].map(|i| Count::start(&lab.bed.nodes[i]));
        talk(&pods[0], &pods[1], false);
        let (in_tunnel, plain) = near.get();
        assert!(
            in_tunnel == 0 && plain > 100,
            "{tunnel} within a subnet: {in_tunnel} in a tunnel, {plain} plain"
        );
        talk(&pods[0], &pods[2], false);
        talk(&pods[2], &pods[1], false);
        let (in_tunnel, plain) = far.get();
        assert!(plain == 0 && in_tunnel > 100, "{tunnel} across: {in_tunnel} in a tunnel, {plain} plain");
        let via: Vec<String> = lab.daemon(0).unwrap().peers().unwrap().into_iter().map(|p| p.via).collect();
        assert_eq!(via, ["direct", tunnel.name()]);
    }
}

/// Whether each side prefers the direct way is its own affair. The kernel's node has flannel's `DirectRouting` on or off;
/// ours `cross-subnet`. The host filters sources strictly, as some distributions have it.
#[test]
fn a_flannel_node_may_route_directly_or_not() {
    let _turn = turn();
    for (ours_direct, flannel_direct) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("ours direct: {ours_direct}, flannel's direct: {flannel_direct}");
        let mut lab = Lab::bed_only(programs(), Options::default(), &Stop::default()).unwrap();
        lab.bed.nodes[0].sysctl("ipv4.conf.all.rp_filter", "1").unwrap();
        let cross = format!("[tunnel]\ncross-subnet = {ours_direct}\n");
        start(&mut lab, 0, |text| text.replace("[tunnel]\n", &cross));
        let (node, plan, own) = (&lab.bed.nodes[1], lab.bed.plan(1), lab.bed.plan(0));
        let wire = Wire::Vxlan { checksum: true };
        let mut kernel = KernelNode::new(node, plan, wire, 1500, &lab.bed.plans()).unwrap();
        if flannel_direct {
            node.ip(&format!("route replace {} via {} dev eth0", own.pod_cidr(), own.address())).unwrap();
            node.ip(&format!("-6 route replace {} via {} dev eth0", own.pod_cidr6(), own.address6()))
                .unwrap();
        }
        let flannel = kernel.pod(node).unwrap();
        let ours = lab.pod(0, "ours").unwrap();
        let _echoes = [&ours.netns, &flannel.netns].map(|netns| Echo::start(netns.path()).unwrap());
        let [here, there] = [0, 1].map(|i| Count::start(&lab.bed.nodes[i]));
        for (from, to) in [(&ours.netns, [flannel.v4, flannel.v6]), (&flannel.netns, ours.addresses())] {
            for addr in to {
                assert!(ping(from, addr, 5, 10).unwrap().all(), "{what}: {} to {addr}", from.name());
                tcp_echo(from.path(), addr).unwrap_or_else(|e| panic!("{what}: {addr}: {e}"));
                udp_echo(from.path(), addr, 30_000).unwrap_or_else(|e| panic!("{what}: {addr}: {e}"));
            }
        }
        transfer(ours.netns.path(), flannel.netns.path(), flannel.v4, 16 << 20).unwrap();
        transfer(flannel.netns.path(), ours.netns.path(), ours.v4, 16 << 20).unwrap();
        for (count, direct) in [(there, ours_direct), (here, flannel_direct)] {
            let (in_tunnel, plain) = count.get();
            assert_eq!(
                (in_tunnel > 0, plain > 0),
                (!direct, direct),
                "{what}: {in_tunnel} in a tunnel, {plain} plain"
            );
        }
    }
}
