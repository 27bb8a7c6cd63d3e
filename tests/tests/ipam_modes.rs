//! Pools that travel in ways of their own, as Calico's `ipipMode`, `vxlanMode`, `natOutgoing` and `disableBGPExport` have it:
//! real daemons with leases of each backend, counted by the kernel's nftables at the node that receives.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use vswitch::lab::{Daemon, Lab, Netns, Stop, ping, within};
use vswitch_tests::etcd::{LivePod, attach, bed, config_with, scratch, start_with, vsctl};
use vswitch_tests::routers::{behind_a_router, wait, wait_for};
use vswitch_tests::serial::turn;

const MORE: &str = "[ipam]\ntype = \"pools\"\n\n[bgp]\nasn = 64512\n";

/// Pools by name: what their spec says, and the form that node 2 must see packets of it in; none = that of the leases.
const POOLS: [(&str, &str, Option<&str>); 5] = [
    ("lease", "cidr: 10.50.0.0/24", None),
    ("never", "cidr: 10.51.0.0/24, ipipMode: Never, vxlanMode: Never", Some("plain")),
    ("always", "cidr: 10.52.0.0/24, ipipMode: Always, vxlanMode: Never, natOutgoing: true", Some("ipip")),
    ("across", "cidr: 10.53.0.0/24, ipipMode: CrossSubnet, disableBGPExport: true", Some("plain")),
    // Without a VTEP in the leases there is nowhere to send VXLAN to.
    ("vx", "cidr: 10.54.0.0/24, vxlanMode: Always", None),
];

fn told(lab: &Lab, i: usize, words: &[&str]) -> String {
    let said = vsctl(lab, i, words);
    String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
}

fn apply(lab: &Lab, pools: &[(&str, &str, Option<&str>)]) {
    let mut text = "{apiVersion: v1, kind: Namespace, metadata: {name: default}}\n".to_owned();
    for (name, spec, _) in pools {
        let api = "apiVersion: projectcalico.org/v3";
        text += &format!(
            "---\n{{{api}, kind: IPPool, metadata: {{name: {name}}}, spec: {{{spec}, assignmentMode: Manual}}}}\n"
        );
        for node in 1..=lab.bed.nodes.len() {
            let wish = format!(r#"cni.projectcalico.org/ipv4pools: '["{name}"]'"#);
            text += &format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}{node}, namespace: default, annotations: {{{wish}}}}}}}\n"
            );
        }
    }
    let dir = scratch("pools");
    fs::write(dir.join("all.yaml"), text).unwrap();
    let said = told(lab, 0, &["apply", "-f", dir.to_str().unwrap()]);
    let last = format!("{}2", pools.last().unwrap().0);
    assert!(said.contains(&last), "{said}");
    fs::remove_dir_all(dir).unwrap();
}

/// Counts what arrives for a pod of this node: in IP in IP, in VXLAN, and as it is.
fn count(node: &Netns, address: &str, pod: IpAddr) {
    let rules = format!(
        "table ip seen {{}}\ndelete table ip seen\ntable ip seen {{\n chain in {{\n  type filter hook prerouting priority raw;\n  \
         ip daddr {address} ip protocol 4 counter comment \"ipip\"\n  \
         ip daddr {address} udp dport 8472 counter comment \"vxlan\"\n  \
         ip daddr {address} udp dport 8285 counter comment \"udp\"\n  \
         iifname != \"vsw0\" ip daddr {pod} icmp type echo-request counter comment \"plain\"\n }}\n}}\n"
    );
    let file = scratch("nft").join("rules");
    fs::write(&file, rules).unwrap();
    let done = node.command("nft".as_ref()).arg("-f").arg(&file).status().unwrap();
    assert!(done.success());
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

/// The forms that were seen since.
fn seen(node: &Netns) -> Vec<&'static str> {
    let out = node.command("nft".as_ref()).args(["list", "table", "ip", "seen"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let packets = |line: &str| -> u64 {
        let mut words = line.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|n| n.parse().ok()).unwrap()
    };
    let forms = ["ipip", "vxlan", "udp", "plain"].into_iter();
    forms
        .filter(|form| {
            let line = text.lines().find(|line| line.contains(&format!("\"{form}\""))).unwrap();
            packets(line) >= 3
        })
        .collect()
}

/// Under which address a datagram of the pod arrives outside the cluster.
fn seen_as(lab: &Lab, pod: &LivePod) -> IpAddr {
    let outside = lab.bed.outside.as_ref().unwrap();
    let there = within(outside.path(), || UdpSocket::bind("192.168.77.254:7000")).unwrap().unwrap();
    there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    within(pod.netns.path(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"who am I", "192.168.77.254:7000").unwrap()
    })
    .unwrap();
    there.recv_from(&mut [0; 64]).unwrap().1.ip()
}

/// The whole of it, in a network whose leases are of this backend; and the form that its packets have.
fn travels(backend: &str, own: &str) {
    let _turn = turn();
    let network = format!(r#"{{"Network":"10.244.0.0/16","Backend":{{"Type":"{backend}"}}}}"#);
    let (etcd, mut lab) = bed(2, &network);
    start_with(&mut lab, &[0, 1], &etcd, MORE);
    apply(&lab, &POOLS);
    wait("pools are known", || (0..2).all(|i| told(&lab, i, &["ipam", "show"]).contains("10.54.0.0/24")));
    std::thread::sleep(Duration::from_millis(300));
    let pods: Vec<[LivePod; 2]> = POOLS
        .iter()
        .map(|(name, ..)| [attach(&lab, 0, &format!("{name}1")), attach(&lab, 1, &format!("{name}2"))])
        .collect();
    for ((name, spec, form), pair) in POOLS.iter().zip(&pods) {
        let range: ipnet::IpNet = spec.split([' ', ',']).nth(1).unwrap().parse().unwrap();
        assert!(pair.iter().all(|pod| range.contains(&pod.v4)), "{name}");
        let reaches = |from: &LivePod, to: &LivePod| ping(&from.netns, to.v4, 1, 10).unwrap().all();
        wait_for(&format!("{name}: both ways"), Duration::from_secs(5), || {
            reaches(&pair[0], &pair[1]) && reaches(&pair[1], &pair[0])
        });
        count(&lab.bed.nodes[1], "192.168.77.2", pair[1].v4);
        assert!(ping(&pair[0].netns, pair[1].v4, 4, 20).unwrap().all());
        assert_eq!(seen(&lab.bed.nodes[1]), [form.unwrap_or(own)], "{name}");
    }
    // From any pool into any other.
    for from in &pods {
        for to in &pods {
            assert!(ping(&from[0].netns, to[1].v4, 1, 10).unwrap().all(), "{} to {}", from[0].v4, to[1].v4);
            assert!(ping(&from[1].netns, to[0].v4, 1, 10).unwrap().all(), "{} to {}", from[1].v4, to[0].v4);
        }
    }
    // Only natOutgoing hides a pod behind its node.
    for ((name, spec, _), pair) in POOLS.iter().zip(&pods) {
        let expected: IpAddr =
            if spec.contains("natOutgoing") { "192.168.77.1".parse().unwrap() } else { pair[0].v4 };
        assert_eq!(seen_as(&lab, &pair[0]), expected, "{name}");
    }
    // BGP is told of all but one.
    let announced = || told(&lab, 0, &["bgp", "announced", "192.168.77.2"]);
    wait_for("blocks are announced", Duration::from_secs(20), || announced().contains("10.54.0."));
    let said = announced();
    assert!(said.contains("10.51.0.") && said.contains("10.52.0.") && !said.contains("10.53.0."), "{said}");
    // One node, each way to it by its own name.
    let peers = told(&lab, 0, &["peers"]);
    for (name, is_there) in [
        ("192.168.77.2 ", true),
        ("192.168.77.2-direct", own != "plain"),
        ("192.168.77.2-ipip ", own != "ipip"),
        ("192.168.77.2-ipip-cross-subnet", true),
    ] {
        assert_eq!(peers.contains(name), is_there, "{name}: {peers}");
    }
    let status = told(&lab, 0, &["status"]);
    assert_eq!(status.contains("10.54.0.0/24 wants VXLAN"), own != "vxlan", "{status}");
}

#[test]
fn pools_beside_vxlan_leases() {
    travels("vxlan", "vxlan");
}

#[test]
fn pools_beside_direct_leases() {
    travels("host-gw", "plain");
}

#[test]
fn pools_beside_ipip_leases() {
    travels("ipip", "ipip");
}

#[test]
fn pools_beside_udp_leases() {
    travels("udp", "udp");
}

/// Of three nodes the third is on another subnet.
#[test]
fn across_subnets_only_where_a_pool_says_so() {
    let pools = [
        ("ip", "cidr: 10.60.0.0/24, ipipMode: CrossSubnet", Some("ipip")),
        ("vx", "cidr: 10.61.0.0/24, vxlanMode: CrossSubnet", Some("vxlan")),
    ];
    let _turn = turn();
    let (etcd, mut lab) = bed(3, r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let _router = behind_a_router(&lab);
    lab.bed.outside.as_ref().unwrap().ip("route add 192.168.78.0/24 via 192.168.77.250").unwrap();
    for i in 0..3 {
        let path = config_with(&lab, i, &etcd, "[ipam]\ntype = \"pools\"\n");
        let text = fs::read_to_string(&path).unwrap().replace("192.168.77.3\"", "192.168.78.3\"");
        let kept: String =
            text.lines().filter(|line| !line.starts_with("address6")).flat_map(|line| [line, "\n"]).collect();
        fs::write(&path, kept).unwrap();
        let (node, run) = (&lab.bed.nodes[i], lab.run_dir(i));
        let daemon = Daemon::start(&lab.programs, node, i + 1, &path, &run, &Stop::default()).unwrap();
        lab.daemons[i] = Some(daemon);
    }
    apply(&lab, &pools);
    wait("pools are known", || (0..3).all(|i| told(&lab, i, &["ipam", "show"]).contains("10.61.0.0/24")));
    std::thread::sleep(Duration::from_millis(300));
    for (name, _, form) in pools {
        let pods: Vec<LivePod> = (0..3).map(|i| attach(&lab, i, &format!("{name}{}", i + 1))).collect();
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            let reaches = || ping(&pods[from].netns, pods[to].v4, 1, 10).unwrap().all();
            wait_for(&format!("{name}: {from} to {to}"), Duration::from_secs(5), reaches);
        }
        for (to, address, form) in [(1, "192.168.77.2", "plain"), (2, "192.168.78.3", form.unwrap())] {
            count(&lab.bed.nodes[to], address, pods[to].v4);
            assert!(ping(&pods[0].netns, pods[to].v4, 4, 20).unwrap().all());
            assert_eq!(seen(&lab.bed.nodes[to]), [form], "{name} to node {}", to + 1);
        }
    }
}
