//! `vsctl lab` itself: every check passes with each tunnel, and nothing is left behind, also after a signal.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vswitch::lab::{Daemon, Lab, Options, Shape, Stop, ping, run_words, transfer};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn spawn(args: &str) -> Child {
    let vsctl = programs().vsctl();
    Command::new(&vsctl)
        .env("VSWITCH_BIN_DIR", vsctl.parent().unwrap())
        .arg("lab")
        .args(args.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lab(args: &str) -> (Output, u32) {
    let child = spawn(args);
    let pid = child.id();
    (child.wait_with_output().unwrap(), pid)
}

/// Runs `vsctl lab --json` and fails with the checks that failed.
fn passes(args: &str) -> Value {
    let _turn = turn();
    let before = Leftovers::now();
    let (out, pid) = lab(&format!("--json {args}"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    let report: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {stderr}"));
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(out.status.success(), "{stderr}");
    assert_eq!(report["ok"], true);
    before.assert_same_for(pid);
    report
}

fn count(report: &Value, word: &str) -> usize {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|check| check["name"].as_str().unwrap().contains(word)).count()
}

#[test]
fn vxlan_carries_everything() {
    let report = passes("--tunnel vxlan");
    // Two nodes with two pods: eight ordered pairs across, in two families.
    assert_eq!(count(&report, "across nodes: ping"), 16);
    assert_eq!(count(&report, "same node: TCP"), 8);
    assert_eq!(count(&report, "spoofed"), 2);
    assert_eq!(count(&report, "stranger"), 1);
    assert!(report["measurements"].as_array().unwrap().iter().any(|m| m["unit"] == "Gbit/s"));
}

#[test]
fn flannel_udp_carries_ipv4_and_says_that_it_does_not_carry_ipv6() {
    let report = passes("--tunnel udp");
    assert_eq!(count(&report, "across nodes: ping IPv4"), 8);
    assert_eq!(count(&report, "across nodes: ping IPv6"), 0);
    assert_eq!(count(&report, "IPv6 not carried"), 8);
}

#[test]
fn ip_in_ip_carries_everything() {
    let report = passes("--tunnel ipip");
    assert_eq!(count(&report, "across nodes: ping"), 16);
    assert_eq!(count(&report, "stranger"), 1);
}

#[test]
fn plain_routes_carry_everything() {
    let report = passes("--tunnel direct");
    assert_eq!(count(&report, "across nodes: ping"), 16);
}

#[test]
fn three_nodes_meet_on_a_bridge() {
    let report = passes("--nodes 3 --pods 1");
    assert_eq!(count(&report, "across nodes: ping IPv4"), 6);
}

#[test]
fn a_signal_takes_everything_down() {
    let _turn = turn();
    let before = Leftovers::now();
    for delay in [200, 900] {
        let child = spawn("--nodes 3");
        let pid = child.id();
        std::thread::sleep(Duration::from_millis(delay));
        Daemon::signal(pid, Signal::INT);
        let out = child.wait_with_output().unwrap();
        assert!(!out.status.success());
        assert!(String::from_utf8_lossy(&out.stderr).contains("interrupted"), "{out:?}");
        before.assert_same_for(pid);
    }
}

#[test]
fn what_it_cannot_do_is_said() {
    let _turn = turn();
    let before = Leftovers::now();
    for (args, message) in [
        ("--policy /does-not-exist", "/does-not-exist: No such file or directory"),
        ("--nodes 0", "--nodes 0: must lie between 1 and 50"),
        ("--pods 51", "--pods 51: must lie between 1 and 50"),
        ("--tunnel gre", "must be vxlan, udp, ipip or direct"),
    ] {
        let (out, pid) = lab(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{args}");
        assert!(stderr.contains(message), "{args}: {stderr}");
        before.assert_same_for(pid);
    }
}

#[test]
fn a_kept_lab_stays_until_its_script_removes_it() {
    let _turn = turn();
    let before = Leftovers::now();
    let (out, pid) = lab("--keep --pods 1");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    let kept = Leftovers::of(pid);
    assert!(kept.namespaces.len() >= 4 && kept.processes.len() >= 2, "{kept:#?}");
    let script = stderr.split_whitespace().find(|word| word.ends_with("down.sh")).unwrap();
    run_words(&format!("sh {script}")).unwrap();
    before.assert_same_for(pid);
}

/// As somebody who is not root sees it: a user of no name, and /dev/net/tun with the given mode.
fn as_nobody(mode: &str) -> (Output, u32) {
    // The build directory may lie where only root may look.
    let dir = std::env::temp_dir().join(format!("vsl{}-programs", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let programs = programs();
    for program in [programs.vswitchd(), programs.cni(), programs.vsctl()] {
        fs::copy(&program, dir.join(program.file_name().unwrap())).unwrap();
    }
    let prepare = format!(
        "mount -t tmpfs tmpfs /dev/net && mknod -m {mode} /dev/net/tun c 10 200 && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups {}/vsctl lab --pods 1",
        dir.display()
    );
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &prepare])
        .env_remove("VSWITCH_BIN_DIR")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let out = child.wait_with_output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    (out, pid)
}

#[test]
fn it_works_without_root_where_tun_is_open_to_users() {
    let _turn = turn();
    let before = Leftovers::now();
    let (out, pid) = as_nobody("666");
    let (report, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{report}{errors}");
    assert!(report.contains("pod to pod, across nodes: ping IPv6"), "{report}");
    before.assert_same_for(pid);
    let (out, pid) = as_nobody("600");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(errors.contains("/dev/net/tun that users may open"), "{errors}");
    before.assert_same_for(pid);
}

#[test]
fn received_is_delivered_plus_dropped() {
    let _turn = turn();
    let lab = Lab::start(programs(), Options::default(), &Stop::default()).unwrap();
    let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
    assert!(ping(&a.netns, b.v4, 20, 2).unwrap().all());
    ping(&a.netns, [10, 244, 1, 249].into(), 5, 2).unwrap();
    transfer(a.netns.path(), b.netns.path(), b.v4, 8 << 20).unwrap();
    for i in 0..2 {
        let balanced = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(40));
            let status = lab.daemon(i).unwrap().status().unwrap();
            status.received > 0 && status.received == status.delivered + status.dropped
        });
        assert!(balanced, "{:#?}", lab.daemon(i).unwrap().status());
    }
}

#[test]
fn one_node_is_a_network_too() {
    let _turn = turn();
    let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
    let lab = Lab::start(programs(), options, &Stop::default()).unwrap();
    let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(0, "b").unwrap());
    assert!(ping(&a.netns, b.v6, 3, 10).unwrap().all());
}
