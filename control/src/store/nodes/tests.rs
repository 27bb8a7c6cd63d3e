use super::*;
use crate::config::Machine;
use crate::objects::{Item, read};

const CONFIG: &str = r#"
[node]
name = "n1"
uplink = "eth0"
address = "192.168.77.1"
address6 = "fd77::1"
[network]
cluster-cidrs = ["10.244.0.0/16", "fd00:244::/48"]
pod-cidrs = ["10.244.1.0/24", "fd00:244:0:1::/64"]
[[peer]]
name = "file"
address = "192.168.77.9"
pod-cidrs = ["10.244.9.0/24"]
vtep-mac = "0e:00:00:00:00:09"
"#;

fn config() -> Config {
    Config::load(CONFIG, &Machine::unknown()).unwrap()
}

fn node(name: &str, cidrs: &str, annotations: &str) -> String {
    let annotations: Vec<String> = annotations
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, value)| format!("'flannel.alpha.coreos.com/{name}': '{value}'"))
        .collect();
    format!(
        "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, annotations: {{{}}}}}, spec: {{podCIDRs: [{cidrs}]}}}}\n",
        annotations.join(", ")
    )
}

fn vxlan(address: &str, mac: u8) -> String {
    format!(
        "kube-subnet-manager: true\nbackend-type: vxlan\nbackend-data: {{\"VNI\":1,\"VtepMAC\":\"0e:00:00:00:00:{mac:02x}\"}}\npublic-ip: {address}"
    )
}

fn put(objects: &mut Objects, text: &str) {
    for item in read(text.as_bytes()).unwrap() {
        let Item::Known { key, source, object } = item else { panic!("{item:?}") };
        objects.put(key, source, object);
    }
}

fn of(text: &str) -> (Vec<Peer>, Vec<String>) {
    let mut objects = Objects::new();
    put(&mut objects, text);
    let (fleet, problems) = objects.fleet(&config());
    let mut all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    all.extend(objects.problems().iter().map(ToString::to_string));
    (fleet.peers.iter().map(|peer| Peer::clone(peer)).collect(), all)
}

#[test]
fn a_node_is_as_its_annotations_say() {
    let both = "kube-subnet-manager: true\nbackend-type: vxlan\n\
        backend-data: {\"VNI\":1,\"VtepMAC\":\"0e:00:00:00:00:02\"}\n\
        backend-v6-data: {\"VNI\":7,\"VtepMAC\":\"0e:00:00:00:06:02\"}\npublic-ip: 192.168.77.2\npublic-ipv6: fd77::2";
    let (peers, problems) = of(&[
        node("n2", "10.244.2.0/24, 'fd00:244:0:2::/64'", both),
        node(
            "n3",
            "10.244.3.0/24",
            "kube-subnet-manager: true\nbackend-type: host-gw\npublic-ip: 192.168.77.3",
        ),
        node("n4", "10.244.4.0/24", "kube-subnet-manager: true\nbackend-type: udp\npublic-ip: 192.168.77.4"),
        node("n5", "10.244.5.0/24", "backend-type: udp\npublic-ip: 192.168.77.5"),
        node(
            "n6",
            "10.244.6.0/24, 'fd00:244:0:6::/64'",
            "kube-subnet-manager: true\nbackend-type: ipip\npublic-ip: 192.168.77.6",
        ),
        node("n1", "10.244.1.0/24", &vxlan("192.168.77.1", 1)),
        node("file", "10.244.8.0/24", &vxlan("192.168.77.8", 8)),
    ]
    .concat());
    assert_eq!(problems, Vec::<String>::new());
    let shown: Vec<String> = peers
        .iter()
        .map(|p| {
            let ends: Vec<String> = ends_of(p).map(|end| end.to_string()).collect();
            let mac = p.vtep_mac.map_or(String::new(), |mac| mac.to_string());
            let nets: Vec<String> = p.pod_cidrs.iter().map(IpNet::to_string).collect();
            format!("{} {} {} {:?} {mac}", p.name, ends.join("+"), nets.join("+"), p.backend)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "file 192.168.77.9 10.244.9.0/24 None 0e:00:00:00:00:09",
            "n2 192.168.77.2 10.244.2.0/24 Some(Vxlan { vni: 1 }) 0e:00:00:00:00:02",
            "n2-v6 fd77::2 fd00:244:0:2::/64 Some(Vxlan { vni: 7 }) 0e:00:00:00:06:02",
            "n3 192.168.77.3 10.244.3.0/24 Some(Direct) ",
            "n4 192.168.77.4 10.244.4.0/24 Some(Udp) ",
            "n6 192.168.77.6 10.244.6.0/24+fd00:244:0:6::/64 Some(Ipip) ",
        ]
    );
}

#[test]
fn what_cannot_be_a_peer_is_told_of_and_the_others_are_peers() {
    let (peers, problems) = of(&[
        node("a", "10.244.1.128/25", &vxlan("192.168.77.21", 1)),
        node("b", "10.244.9.0/25", &vxlan("192.168.77.22", 2)),
        node("c", "10.1.0.0/24", &vxlan("192.168.77.23", 3)),
        node("d", "10.244.10.0/24", &vxlan("192.168.77.1", 4)),
        node("e", "10.244.11.0/24", &vxlan("10.244.11.1", 5)),
        node("f", "", &vxlan("192.168.77.26", 6)),
        node("g", "'fd00:244:0:7::/64'", &vxlan("192.168.77.27", 7)),
        node(
            "h",
            "10.244.12.0/24",
            "kube-subnet-manager: true\nbackend-type: wireguard\npublic-ip: 192.168.77.28",
        ),
        node(
            "i",
            "10.244.13.0/24",
            "kube-subnet-manager: true\nbackend-type: vxlan\npublic-ip: 192.168.77.29",
        ),
        node("j", "10.244.14.0/24", "kube-subnet-manager: true\nbackend-type: vxlan\npublic-ip: $(reboot)"),
        node("k", "10.244.15.0/24", &vxlan("192.168.77.31", 11)),
        node("l", "10.244.15.0/24", &vxlan("192.168.77.32", 12)),
        node("m", "10.244.16.0/24", &vxlan("192.168.77.31", 13)),
    ]
    .concat());
    let names: Vec<&str> = peers.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["file", "k"]);
    let wanted = [
        "Node a: no peer is made of it: 10.244.1.128/25 overlaps 10.244.1.0/24 of this node",
        "Node b: no peer is made of it: 10.244.9.0/25 overlaps 10.244.9.0/24 of file",
        "Node c: no peer is made of it: 10.1.0.0/24 is not inside network.cluster-cidrs",
        "Node d: no peer is made of it: 192.168.77.1 is the address of this node already",
        "Node e: no peer is made of it: the node's address 10.244.11.1 is inside the network of pods",
        "Node f: no peer is made of it: spec.podCIDRs is missing",
        "Node g: no peer is made of it: public-ipv6 is missing, which spec.podCIDRs wants",
        "Node h: no peer is made of it: backend-type \"wireguard\" is not supported",
        "Node i: no peer is made of it: backend-data is missing",
        "Node l: no peer is made of it: 10.244.15.0/24 overlaps 10.244.15.0/24 of k",
        "Node m: no peer is made of it: 192.168.77.31 is the address of k already",
    ];
    assert_eq!(problems[..wanted.len()], wanted);
    assert_eq!(problems.len(), wanted.len() + 1);
    assert!(
        problems[wanted.len()]
            .starts_with("Node j: metadata.annotations: flannel.alpha.coreos.com/public-ip")
    );
}

#[test]
fn a_version_that_cannot_be_read_leaves_the_peer_as_it_was() {
    let mut objects = Objects::new();
    put(&mut objects, &node("n2", "10.244.2.0/24", &vxlan("192.168.77.2", 2)));
    let (before, version) = (objects.fleet(&config()).0, objects.nodes_version());
    put(
        &mut objects,
        &node("n2", "10.244.2.0/24", "kube-subnet-manager: true\nbackend-type: vxlan\npublic-ip: x"),
    );
    assert_eq!((objects.fleet(&config()).0, objects.nodes_version()), (before, version));
    assert_eq!(objects.problems().len(), 1);
    put(&mut objects, &node("n2", "10.244.2.0/24", &vxlan("192.168.77.2", 3)));
    assert_ne!(objects.nodes_version(), version);
    assert_eq!(objects.fleet(&config()).0.peers[1].vtep_mac.unwrap().to_string(), "0e:00:00:00:00:03");
}
