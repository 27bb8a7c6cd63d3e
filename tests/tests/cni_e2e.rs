//! The CNI plugin against a real daemon, as a runtime drives it.

#![allow(clippy::print_stdout)] // figures for whoever runs with --nocapture

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use vswitch::lab::{Attached, Cni, Lab, Netns, Options, Shape, Stop, ping};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn one_node() -> Lab {
    let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
    Lab::start(programs(), options, &Stop::default()).unwrap()
}

fn path(netns: &Netns) -> String {
    netns.path().to_string_lossy().into_owned()
}

fn ports(lab: &Lab) -> usize {
    lab.daemon(0).unwrap().ask::<Value>(&control::api::Request::Ports).unwrap().as_array().unwrap().len()
}

#[test]
fn add_gives_a_working_interface_and_a_second_add_changes_nothing() {
    let _turn = turn();
    let lab = one_node();
    let pod = lab.pod(0, "a").unwrap();
    assert_eq!(pod.result["cniVersion"], "1.1.0");
    assert_eq!(pod.result["interfaces"][0]["name"], "eth0");
    assert_eq!(pod.result["interfaces"][0]["sandbox"], path(&pod.netns));
    assert_eq!(pod.result["ips"].as_array().unwrap().len(), 2);
    assert_eq!(pod.mtu(), 1450);
    let shown = pod.netns.ip("-o addr show dev eth0").unwrap();
    assert!(
        shown.contains(&format!("{}/32", pod.v4)) && shown.contains(&format!("{}/128", pod.v6)),
        "{shown}"
    );

    let cni = lab.cni(0);
    let again = cni.call("ADD", &pod.container, &path(&pod.netns), "", &cni.config(&Value::Null)).unwrap();
    assert!(again.ok(), "a runtime that did not hear the answer asks again: {}", again.text);
    assert_eq!(again.json, pod.result);
    assert_eq!(ports(&lab), 1);
    assert!(ping(&pod.netns, [169, 254, 1, 1].into(), 3, 10).unwrap().all(), "the pod works on");
}

#[test]
fn del_succeeds_however_often_and_however_little_is_left() {
    let _turn = turn();
    let lab = one_node();
    let (cni, pod) = (lab.cni(0), lab.pod(0, "a").unwrap());
    let (config, container, netns) = (cni.config(&Value::Null), pod.container.clone(), path(&pod.netns));
    let with_result = cni.config(&json!({"prevResult": pod.result}));
    cni.must("DEL", &container, &netns, "", &with_result).unwrap();
    assert_eq!(ports(&lab), 0);
    assert!(pod.netns.ip("link show eth0").is_err(), "the interface is gone");
    cni.must("DEL", &container, &netns, "", &config).unwrap();
    // containerd's second DEL: no namespace, no result.
    cni.must("DEL", &container, "", "", &config).unwrap();
    cni.must("DEL", "never-seen", "", "", &config).unwrap();
    drop(pod);
    cni.must("DEL", &container, &netns, "", &config).unwrap();
    assert_eq!(ports(&lab), 0);
}

#[test]
fn del_after_the_namespace_is_gone_frees_the_address() {
    let _turn = turn();
    let lab = one_node();
    let cni = lab.cni(0);
    let config = cni.config(&Value::Null);
    let netns = Netns::new(&lab.bed.name("gone")).unwrap();
    cni.must("ADD", "gone", &path(&netns), "", &config).unwrap();
    assert_eq!(ports(&lab), 1);
    drop(netns);
    cni.must("DEL", "gone", "", "", &config).unwrap();
    assert_eq!(ports(&lab), 0);
}

#[test]
fn check_notices_what_changed() {
    let _turn = turn();
    let lab = one_node();
    let (cni, pod) = (lab.cni(0), lab.pod(0, "a").unwrap());
    let config = cni.config(&json!({"prevResult": pod.result}));
    cni.must("CHECK", &pod.container, &path(&pod.netns), "", &config).unwrap();
    pod.netns.ip(&format!("addr del {}/32 dev eth0", pod.v4)).unwrap();
    let reply = cni.call("CHECK", &pod.container, &path(&pod.netns), "", &config).unwrap();
    assert!(!reply.ok(), "the address is gone");
    assert_eq!(reply.error(), Some(105), "{}", reply.text);
    assert!(reply.text.contains("eth0"), "the message names the interface: {}", reply.text);
    let unknown = cni.call("CHECK", "never-seen", &path(&pod.netns), "", &config).unwrap();
    assert!(!unknown.ok());
}

#[test]
fn gc_removes_what_is_not_listed() {
    let _turn = turn();
    let lab = one_node();
    let (cni, keep, lose) = (lab.cni(0), lab.pod(0, "keep").unwrap(), lab.pod(0, "lose").unwrap());
    let valid = json!([{"containerID": &*keep.container, "ifname": "eth0"}]);
    let config = cni.config(&json!({"cni.dev/valid-attachments": valid}));
    cni.must("GC", "", "", "", &config).unwrap();
    assert_eq!(ports(&lab), 1);
    assert!(lose.netns.ip("link show eth0").is_err());
    assert!(ping(&keep.netns, [169, 254, 1, 1].into(), 3, 10).unwrap().all());
}

#[test]
fn status_tells_whether_an_add_can_be_served() {
    let _turn = turn();
    let mut lab = one_node();
    let cni = lab.cni(0);
    let config = cni.config(&Value::Null);
    cni.must("STATUS", "", "", "", &config).unwrap();
    cni.must("VERSION", "", "", "", &json!({"cniVersion": "1.1.0"})).unwrap();
    drop(lab.daemons[0].take());
    let reply = cni.call("STATUS", "", "", "", &config).unwrap();
    assert!(!reply.ok());
    assert_eq!(reply.error(), Some(50), "{}", reply.text);
    let netns = Netns::new(&lab.bed.name("late")).unwrap();
    let reply = cni.call("ADD", "late", &path(&netns), "", &config).unwrap();
    assert!(!reply.ok());
    assert_eq!(reply.error(), Some(11), "a runtime may try again: {}", reply.text);
}

#[test]
fn a_failed_add_leaves_nothing() {
    let _turn = turn();
    let lab = one_node();
    let cni: Cni = lab.cni(0);
    let first = lab.pod(0, "a").unwrap();
    let netns = Netns::new(&lab.bed.name("b")).unwrap();
    let taken = cni.config(
        &json!({"runtimeConfig": {"ips": [format!("{}/32", first.v4)]}, "capabilities": {"ips": true}}),
    );
    let reply = cni.call("ADD", "b", &path(&netns), "", &taken).unwrap();
    assert!(!reply.ok(), "{}", reply.text);
    assert!(reply.text.contains(&first.v4.to_string()), "the message names the address: {}", reply.text);
    assert!(netns.ip("link show eth0").is_err());
    let missing = cni.call("ADD", "c", "/run/netns/does-not-exist", "", &cni.config(&Value::Null)).unwrap();
    assert!(!missing.ok());
    assert!(missing.text.contains("/run/netns/does-not-exist"), "{}", missing.text);
    assert_eq!(ports(&lab), 1);
}

/// What 250 pods cost while nothing happens.
#[test]
fn two_hundred_and_fifty_idle_pods_cost_next_to_nothing() {
    const PODS: u64 = 250;
    let _turn = turn();
    let lab = one_node();
    let memory_before = memory(&lab);
    let pods: Vec<Attached> = (0..PODS).map(|i| lab.pod(0, &format!("p{i}")).unwrap()).collect();
    let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(Attached::addresses).collect();
    assert_eq!(addresses.len() as u64, 2 * PODS, "no address is given twice");
    assert_eq!(ports(&lab) as u64, PODS);
    let last = pods.last().unwrap();
    assert!(ping(&pods[0].netns, last.v4, 3, 10).unwrap().all());

    // Neighbour and router solicitations of the new interfaces die down first.
    std::thread::sleep(Duration::from_secs(3));
    let (ticks, length) = (ticks(&lab), 10);
    std::thread::sleep(Duration::from_secs(length));
    let percent = (self::ticks(&lab) - ticks) as f64 / length as f64; // 100 ticks a second: ticks/s are percent
    let per_pod = memory(&lab).saturating_sub(memory_before) / PODS;
    println!("250 idle pods: {percent:.2} % of a core, {per_pod} KiB each");
    assert!(percent < 1.0, "{percent} % of a core");
    assert!(per_pod <= 64, "{per_pod} KiB for each pod");

    drop(pods);
    assert_eq!(ports(&lab), 0);
}

fn processes(lab: &Lab) -> Vec<u32> {
    let daemon = lab.daemon(0).unwrap();
    let mut pids = daemon.children();
    pids.push(daemon.pid());
    pids
}

/// Resident memory of keeper and switch, in KiB.
fn memory(lab: &Lab) -> u64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    processes(lab).into_iter().map(of).sum()
}

/// Processor time of keeper and switch, in hundredths of a second.
fn ticks(lab: &Lab) -> u64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    processes(lab).into_iter().map(of).sum()
}
