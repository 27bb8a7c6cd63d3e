//! Real daemons, real pods and a real etcd: nodes that come up, are joined by flannel's, and lose their store.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::api::{PeerInfo, Request, RouteInfo};
use rustix::process::Signal;
use serde_json::Value;
use vswitch::lab::{Daemon, KernelNode, Lab, Netns, Options, PingRun, Shape, Stop, Wire, ping};
use vswitch_tests::etcd::{Etcd, LivePod, attach, start, start_all, vsctl};
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{wait, wait_for};
use vswitch_tests::serial::turn;

const CONFIG: &str = "/coreos.com/network/config";
const SUBNETS: &str = "/coreos.com/network/subnets/";

/// Nodes without a daemon yet, and an etcd beside them that has this configuration.
fn bed(nodes: usize, network: &str) -> (Etcd, Lab) {
    let shape = Shape { nodes, outside: true, ..Shape::default() };
    let options = Options { shape, ..Options::default() };
    let lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    let etcd = Etcd::inside(lab.bed.outside.as_ref().unwrap(), "192.168.77.254".parse().unwrap());
    etcd.put(CONFIG, network);
    (etcd, lab)
}

fn reaches(from: &Netns, to: IpAddr) -> bool {
    ping(from, to, 1, 10).unwrap().all()
}

fn peers(lab: &Lab, i: usize) -> Vec<PeerInfo> {
    lab.daemon(i).unwrap().peers().unwrap()
}

fn routes(lab: &Lab, i: usize) -> Vec<RouteInfo> {
    lab.daemon(i).unwrap().ask(&Request::Routes).unwrap()
}

fn subnet(lab: &Lab, i: usize) -> String {
    lab.daemon(i).unwrap().status().unwrap().pod_cidrs[0].to_string()
}

/// The key of node `i`'s lease.
fn lease(lab: &Lab, i: usize) -> String {
    format!("{SUBNETS}{}", subnet(lab, i).replace('/', "-"))
}

fn told(lab: &Lab, i: usize, words: &[&str]) -> String {
    let out = vsctl(lab, i, words);
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn three_nodes_at_once_become_a_network() {
    let _turn = turn();
    for (backend, kind, via, data) in [
        (r#"{"Type":"vxlan"}"#, "vxlan", "vxlan", true),
        (r#"{"Type":"udp","Port":8285}"#, "", "udp", false),
        (r#"{"Type":"host-gw"}"#, "host-gw", "direct", false),
        (r#"{"Type":"ipip"}"#, "ipip", "ipip", false),
    ] {
        // The documents of flannel show a network like this.
        let network = format!(
            r#"{{ "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0", "Backend": {backend} }}"#
        );
        let (etcd, mut lab) = bed(3, &network);
        let began = Instant::now();
        start_all(&mut lab, &[0, 1, 2], &etcd);
        let ready = began.elapsed();
        let pods: Vec<LivePod> = (0..3).map(|i| attach(&lab, i, &format!("p{}", i + 1))).collect();
        let mut connected = Duration::ZERO;
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            wait_for(&format!("{backend}: {from} reaches {to}"), Duration::from_secs(3), || {
                reaches(&pods[from].netns, pods[to].v4)
            });
            connected = began.elapsed();
        }
        println!(
            "{via}: all three ready {ready:.2?} after the start, every pair of pods connected {connected:.2?} after it"
        );
        assert!(connected - ready <= Duration::from_secs(3));

        let subnets: BTreeSet<String> = (0..3).map(|i| subnet(&lab, i)).collect();
        assert_eq!(subnets.len(), 3, "{subnets:?}");
        assert_eq!(etcd.keys(SUBNETS).len(), 3);
        for i in 0..3 {
            // The words and their order are flannel's.
            let key = lease(&lab, i);
            let value = etcd.get(&key);
            let address = lab.bed.plan(i).address();
            let mut wanted = format!(r#"{{"PublicIP":"{address}","PublicIPv6":null"#);
            if !kind.is_empty() {
                wanted += &format!(r#","BackendType":"{kind}""#);
            }
            if data {
                let json: Value = serde_json::from_str(&value).unwrap();
                let mac = json["BackendData"]["VtepMAC"].as_str().unwrap().to_owned();
                wanted += &format!(r#","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#);
                let others = peers(&lab, (i + 1) % 3);
                let seen = others.iter().find(|p| p.address == Some(address.into())).unwrap();
                assert_eq!(seen.vtep_mac.as_deref(), Some(&*mac));
            }
            assert_eq!(value, wanted + "}");
            let ttl = etcd.ctl(&["lease", "timetolive", &format!("{:x}", etcd.lease_of(&key))]);
            assert!(ttl.contains("granted with TTL(86400s)"), "{ttl}");

            let mtu = lab.daemon(i).unwrap().status().unwrap().mtu;
            let net: ipnet::Ipv4Net = subnet(&lab, i).parse().unwrap();
            let first = u32::from(net.network()) + 1;
            let env = format!(
                "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET={}/20\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n",
                std::net::Ipv4Addr::from(first)
            );
            assert_eq!(std::fs::read_to_string(lab.run_dir(i).join("subnet.env")).unwrap(), env);

            let status = told(&lab, i, &["status"]);
            assert!(status.contains("etcd at http://192.168.77.254:2379, revision"), "{status}");
            let all = peers(&lab, i);
            assert!(all.len() == 2 && all.iter().all(|p| p.via == via), "{all:?}");
            let shown = told(&lab, i, &["peers"]);
            assert!(all.iter().all(|p| shown.contains(&p.name)), "{shown}");
        }
    }
}
