//! Real daemons whose pods get addresses of pools in a real etcd, through the real plugin; `vsctl` beside them.

use std::fs;
use std::net::IpAddr;
use std::process::Output;
use std::time::Duration;

use control::api::{Request, RouteInfo};
use control::blocks::{Ask, PoolRange, assign};
use control::store::etcd::{Keys, Timing};
use ipnet::IpNet;
use rustix::process::Signal;
use serde_json::{Value, json};
use vswitch::lab::{Daemon, Lab, Netns, ping};
use vswitch_tests::etcd::{LivePod, attach, bed, scratch, start_with, vsctl};
use vswitch_tests::routers::{wait, wait_for};
use vswitch_tests::serial::turn;

const NETWORK: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan"}}"#;
const POOLS: &str = "[ipam]\ntype = \"pools\"\n";

const OBJECTS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pods}, spec: {cidr: 10.50.0.0/16}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pods6}, spec: {cidr: 'fd00:50::/64'}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: tiny}, spec: {cidr: 10.51.0.0/30, blockSize: 30, assignmentMode: Manual}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: tenant}, spec: {cidr: 10.52.0.0/24, namespaceSelector: tenant == 't'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fixed, namespace: default, annotations: {cni.projectcalico.org/ipAddrs: '["10.50.200.7"]'}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t1, namespace: default, annotations: {cni.projectcalico.org/ipv4pools: '["tiny"]'}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: t2, namespace: default, annotations: {cni.projectcalico.org/ipv4pools: '["tiny"]'}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: grab, namespace: default, annotations: {cni.projectcalico.org/ipv4pools: '["tenant"]'}}}
"#;

fn told(lab: &Lab, i: usize, words: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = vsctl(lab, i, words);
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().unwrap(), text)
}

fn apply(lab: &Lab, text: &str) {
    let dir = scratch("objects");
    fs::write(dir.join("all.yaml"), text).unwrap();
    let (code, said) = told(lab, 0, &["apply", "-f", dir.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    fs::remove_dir_all(dir).unwrap();
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

fn reaches(from: &LivePod, to: &LivePod) -> bool {
    addresses(&to.result).iter().all(|addr| ping(&from.netns, *addr, 1, 10).unwrap().all())
}

fn routes(lab: &Lab, i: usize) -> Vec<String> {
    let all: Vec<RouteInfo> = lab.daemon(i).unwrap().ask(&Request::Routes).unwrap();
    all.into_iter().map(|route| route.dst.to_string()).collect()
}

/// An ADD of the pod default/`name` on node `i`: the error's code and text.
fn refused(lab: &Lab, i: usize, name: &str, more: &str) -> (u64, String) {
    let netns = Netns::new(&lab.bed.name(name)).unwrap();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}{more}");
    let path = netns.path().display().to_string();
    let cni = lab.cni(i);
    let reply = cni.call("ADD", netns.name(), &path, &args, &cni.config(&Value::Null)).unwrap();
    assert!(!reply.ok(), "{}", reply.text);
    (
        reply.error().unwrap(),
        reply.json["msg"].as_str().unwrap_or_default().to_owned()
            + reply.json["details"].as_str().unwrap_or_default(),
    )
}

fn block_of(addr: IpAddr) -> IpNet {
    IpNet::new(addr, if addr.is_ipv4() { 26 } else { 122 }).unwrap().trunc()
}

#[test]
fn pods_of_three_nodes_share_pools() {
    let _turn = turn();
    let (mut etcd, mut lab) = bed(3, NETWORK);
    start_with(&mut lab, &[0, 1, 2], &etcd, POOLS);
    let (code, text) = refused_code(&lab);
    assert_eq!(code, 103, "{text}");
    apply(&lab, OBJECTS);
    wait("pools are known", || told(&lab, 2, &["ipam", "show"]).1.contains("tenant"));
    std::thread::sleep(Duration::from_millis(300));

    let pods: Vec<LivePod> = (0..3).map(|i| attach(&lab, i, &format!("p{}", i + 1))).collect();
    let blocks: Vec<Vec<IpNet>> =
        pods.iter().map(|pod| addresses(&pod.result).into_iter().map(block_of).collect()).collect();
    assert!(
        blocks.iter().all(|b| b.len() == 2) && blocks[0] != blocks[1] && blocks[1] != blocks[2],
        "{blocks:?}"
    );
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        wait_for(&format!("{from} reaches {to}"), Duration::from_secs(3), || reaches(&pods[from], &pods[to]));
    }
    wait("blocks are routes", || blocks[1].iter().all(|block| routes(&lab, 0).contains(&block.to_string())));
    // As Calico's tools would read them.
    let v4 = addresses(&pods[0].result)[0];
    let key = format!("/calico/ipam/v2/assignment/ipv4/block/{}", blocks[0][0].to_string().replace('/', "-"));
    let block: Value = serde_json::from_str(&etcd.get(&key)).unwrap();
    assert_eq!(
        (&block["affinity"], &block["attributes"][0]["secondary"]["pod"]),
        (&json!("host:n1"), &json!("p1"))
    );
    let handle = format!("vswitch.{}", pods[0].netns.name());
    assert!(etcd.get(&format!("/calico/ipam/v2/handle/{handle}")).contains(&blocks[0][0].to_string()));

    // By annotation: an address, and a pool whose one block node 1 has, so that node 2 borrows of it.
    let fixed = attach(&lab, 1, "fixed");
    assert_eq!(fixed.v4, "10.50.200.7".parse::<IpAddr>().unwrap());
    let (t1, t2) = (attach(&lab, 0, "t1"), attach(&lab, 1, "t2"));
    let tiny: IpNet = "10.51.0.0/30".parse().unwrap();
    assert!(tiny.contains(&t1.v4) && tiny.contains(&t2.v4) && t1.v4 != t2.v4);
    for (from, to) in
        [(&t1, &t2), (&t2, &t1), (&pods[2], &t1), (&pods[2], &t2), (&t2, &pods[2]), (&fixed, &pods[0])]
    {
        wait_for("borrowed and fixed addresses are reached", Duration::from_secs(3), || reaches(from, to));
    }
    wait("it is a route of its own", || routes(&lab, 2).contains(&format!("{}/32", t2.v4)));
    let (_, shown) = told(&lab, 2, &["ipam", "show", "--show-blocks"]);
    let line = shown.lines().find(|line| line.starts_with("10.51.0.0/30")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["10.51.0.0/30", "n1", "confirmed", "2", "1", "0", "2"]
    );
    let (code, shown) = told(&lab, 2, &["ipam", "show", "--ip", &t2.v4.to_string()]);
    assert!(
        code == 0 && shown.contains("held") && shown.contains("default/t2") && shown.contains("n2"),
        "{shown}"
    );
    for i in 0..3 {
        let (code, said) = told(&lab, i, &["ipam", "check"]);
        assert_eq!((code, said.contains(" 0 findings")), (0, true), "{said}");
    }

    // Nobody takes what is another's, or no pod's.
    for (more, code, what) in [
        (";IP=10.60.0.1".to_owned(), 102, "no enabled IPPool"),
        (";IP=192.168.77.1".to_owned(), 102, "node's own"),
        (";IP=169.254.1.1".to_owned(), 102, "no enabled IPPool"),
        (";IP=10.244.1.0".to_owned(), 102, "no enabled IPPool"),
        (";IP=10.52.0.1".to_owned(), 102, "no enabled IPPool"),
        (format!(";IP={v4}"), 101, "belongs to vswitch."),
    ] {
        let (found, text) = refused(&lab, 1, "thief", &more);
        assert!(found == code && text.contains(what), "{more}: {found} {text}");
    }
    let (code, text) = refused(&lab, 0, "grab", "");
    assert!(code == 102 && text.contains("tenant"), "{code} {text}");
    assert!(reaches(&pods[1], &pods[0]), "the owner is unaffected");

    // A switch that dies keeps its pods' addresses.
    lab.daemon(0).unwrap().children().into_iter().for_each(|pid| Daemon::signal(pid, Signal::KILL));
    wait("it is back", || lab.daemon(0).unwrap().status().is_ok());
    assert!(reaches(&pods[1], &pods[0]) && reaches(&t1, &t2));
    assert_eq!(told(&lab, 0, &["ipam", "check"]).0, 0);

    // While etcd is away nothing is given, and what is detached is given back later.
    etcd.kill();
    wait("the loss is told", || told(&lab, 1, &["status"]).1.contains("NOT REACHED"));
    let (code, text) = refused(&lab, 1, "late", "");
    assert!(code == 11 && text.contains("etcd is not reached"), "{code} {text}");
    let gone = t2.v4;
    drop(t2);
    assert!(reaches(&pods[0], &pods[1]), "packets go on");
    etcd.resume();
    let free = |lab: &Lab| {
        let shown = told(lab, 1, &["ipam", "show", "--ip", &gone.to_string()]).1;
        shown.contains("cooling") || shown.contains("free")
    };
    wait_for("it is given back", Duration::from_secs(15), || free(&lab));
    wait("its route goes", || !routes(&lab, 2).contains(&format!("{gone}/32")));

    // What a node that died left behind is found, reported and released.
    let ghost = Ask {
        handle: "vswitch.ghost".to_owned(),
        node: "n1".to_owned(),
        of: [("node", "n1"), ("by", "vswitch")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        fixed: Vec::new(),
        pools: vec![PoolRange { cidr: "10.50.0.0/16".parse().unwrap(), block_size: 26 }],
        never: Default::default(),
        reserved: Vec::new(),
    };
    let leaked = vswitch::lab::within(lab.bed.outside.as_ref().unwrap().path(), || {
        let give = async |keys: &Keys| assign(keys, &ghost, std::time::SystemTime::now()).await.unwrap()[0];
        Keys::with(etcd.settings(), Timing::default(), give).unwrap()
    })
    .unwrap();
    etcd.put("/calico/ipam/v2/handle/vswitch.nobody", r#"{"block":{"10.50.0.0/26":1},"deleted":false}"#);
    let (code, report) = told(&lab, 0, &["--json", "ipam", "check"]);
    assert!(
        code == 1 && report.contains(&leaked.to_string()) && report.contains("vswitch.nobody"),
        "{report}"
    );
    let (code, said) = told(&lab, 0, &["ipam", "check"]);
    assert!(code == 1 && said.contains(" 2 findings"), "{said}");
    let dir = scratch("report");
    let file = dir.join("report.json");
    fs::write(&file, &report).unwrap();
    let (code, said) = told(&lab, 0, &["ipam", "release", "--from-report", file.to_str().unwrap()]);
    assert!(code == 0 && said.matches("released: ").count() == 2, "{code} {said}");
    let (code, said) = told(&lab, 0, &["ipam", "release", "--from-report", file.to_str().unwrap()]);
    assert!(code == 1 && said.matches("it is not so any more").count() == 2, "{code} {said}");
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(told(&lab, 0, &["ipam", "check"]).0, 0);
    // By its number, but not while its pod runs here.
    let (code, said) = told(&lab, 0, &["ipam", "release", "--ip", &v4.to_string()]);
    assert!(code == 1 && said.contains("runs here"), "{said}");

    // A block that somebody deletes is written again by the node whose pods have addresses of it.
    etcd.ctl(&["del", &key]);
    wait_for("it is written again", Duration::from_secs(10), || etcd.get(&key).contains(&handle));
    wait("its pod is reached again", || reaches(&pods[1], &pods[0]));
    let (code, said) = told(&lab, 0, &["ipam", "check"]);
    assert_eq!(code, 0, "{said}");

    // Whoever is detached has nothing left in the store.
    drop((pods, fixed, t1));
    wait_for("all is given back", Duration::from_secs(10), || {
        etcd.keys("/calico/ipam/v2/handle/").is_empty()
    });
    assert_eq!(told(&lab, 1, &["ipam", "check"]).0, 0);
}

/// Before there are pools.
fn refused_code(lab: &Lab) -> (u64, String) {
    refused(lab, 0, "early", "")
}

#[test]
fn bgp_announces_blocks_as_they_are_and_borrowed_addresses_one_by_one() {
    let _turn = turn();
    let (etcd, mut lab) = bed(2, NETWORK);
    start_with(&mut lab, &[0, 1], &etcd, "[ipam]\ntype = \"pools\"\n\n[bgp]\nasn = 64512\n");
    apply(&lab, OBJECTS);
    wait("pools are known", || (0..2).all(|i| told(&lab, i, &["ipam", "show"]).1.contains("tiny")));
    std::thread::sleep(Duration::from_millis(300));
    let (p1, t1, t2) = (attach(&lab, 0, "p1"), attach(&lab, 0, "t1"), attach(&lab, 1, "t2"));
    let announced = |i: usize, to: &str| told(&lab, i, &["bgp", "announced", to]).1;
    let block = block_of(p1.v4).to_string();
    wait_for("node 1 announces its blocks", Duration::from_secs(20), || {
        let said = announced(0, "192.168.77.2");
        said.contains(&block) && said.contains("10.51.0.0/30") && !said.contains("/32")
    });
    let single = format!("{}/32", t2.v4);
    wait_for("node 2 announces what it borrowed", Duration::from_secs(20), || {
        let said = announced(1, "192.168.77.1");
        said.contains(&single) && !said.contains("10.51.0.0/30")
    });
    wait("they reach each other", || reaches(&t1, &t2) && reaches(&t2, &p1));
    drop(t2);
    wait_for("it is withdrawn", Duration::from_secs(10), || !announced(1, "192.168.77.1").contains(&single));
}
