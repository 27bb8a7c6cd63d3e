//! Networks of both families whose subnets come from etcd: real daemons and pods, every mode.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use vswitch::lab::ping;
use vswitch_tests::etcd::{LivePod, SUBNETS, attach, bed, start_all};
use vswitch_tests::routers::wait_for;
use vswitch_tests::serial::turn;

fn v6(pod: &LivePod) -> IpAddr {
    let ips = pod.result["ips"].as_array().unwrap();
    let all = ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    all.into_iter().find(IpAddr::is_ipv6).expect("it has an IPv6 address")
}

#[test]
fn pods_of_both_families_reach_each_other_in_every_mode() {
    let _turn = turn();
    for (backend, kind, via) in [
        (r#"{"Type":"vxlan"}"#, "vxlan", "vxlan"),
        (r#"{"Type":"host-gw"}"#, "host-gw", "direct"),
        (r#"{"Type":"ipip"}"#, "ipip", "ipip"),
        (r#"{"Type":"udp"}"#, "", "udp"),
    ] {
        let network = format!(
            r#"{{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetLen":64,"Backend":{backend}}}"#
        );
        let (etcd, mut lab) = bed(2, &network);
        start_all(&mut lab, &[0, 1], &etcd);
        let (a, b) = (attach(&lab, 0, "a"), attach(&lab, 1, "b"));
        for (from, to) in [(&a, b.v4), (&b, a.v4), (&a, v6(&b)), (&b, v6(&a))] {
            // Its wire has a form for IPv4 alone.
            if via == "udp" && to.is_ipv6() {
                let problems = lab.daemon(0).unwrap().status().unwrap().store_problems;
                assert!(problems.iter().any(|line| line.contains("udp carries no IPv6")), "{problems:?}");
                continue;
            }
            wait_for(&format!("{via}: {to} is reached"), Duration::from_secs(3), || {
                ping(&from.netns, to, 1, 10).unwrap().all()
            });
            assert!(ping(&from.netns, to, 20, 5).unwrap().all(), "{via}: {to}");
        }
        // One key holds both subnets, as flannel writes it.
        let keys = etcd.keys(SUBNETS);
        assert_eq!(keys.len(), 2, "{keys:?}");
        for i in 0..2 {
            let nets = lab.daemon(i).unwrap().status().unwrap().pod_cidrs;
            let name = |net: String| net.replace('/', "-");
            let key = format!("{SUBNETS}{}&{}", name(nets[0].to_string()), name(nets[1].to_string()));
            assert!(keys.contains(&key), "{key} is not in {keys:?}");
            let value: Value = serde_json::from_str(&etcd.get(&key)).unwrap();
            assert_eq!(value["PublicIP"], lab.bed.plan(i).address().to_string());
            assert_eq!(value["PublicIPv6"], lab.bed.plan(i).address6().to_string());
            assert_eq!(value.get("BackendType").and_then(Value::as_str).unwrap_or_default(), kind);
            let env = std::fs::read_to_string(lab.run_dir(i).join("subnet.env")).unwrap();
            for line in ["FLANNEL_NETWORK=10.244.0.0/16", "FLANNEL_IPV6_NETWORK=fd00:10:244::/48"] {
                assert!(env.lines().any(|have| have == line), "{env}");
            }
            let peers = lab.daemon(i).unwrap().peers().unwrap();
            assert!(!peers.is_empty() && peers.iter().all(|peer| peer.via == via), "{peers:?}");
        }
    }
}
