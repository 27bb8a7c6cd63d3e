//! Clusters of one family: IPv4 alone, and IPv6 alone over an IPv6 underlay.

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;
use vswitch::lab::{Cni, Daemon, Echo, Lab, Netns, Options, Stop, TunnelKind, ping, tcp_echo, udp_echo};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// The configuration of a two-family node with the other family's lines and ranges taken out.
fn only(text: &str, v6: bool) -> String {
    let keep = |range: &str| range.contains(':') == v6;
    let mut out = String::new();
    for line in text.lines() {
        match line.split_once(" = ") {
            Some(("address", _)) if v6 => {}
            Some(("address6", _)) if !v6 => {}
            Some((key, list)) if key.ends_with("cidrs") => {
                let ranges: Vec<&str> =
                    list.trim_matches(['[', ']']).split(", ").filter(|r| keep(r)).collect();
                out.push_str(&format!("{key} = [{}]\n", ranges.join(", ")));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// A pod of one family: `Attached` wants both.
struct Pod {
    netns: Netns,
    addr: IpAddr,
    cni: Cni,
    name: &'static str,
}

impl Pod {
    fn call(cni: &Cni, verb: &'static str, name: &str, netns: &Netns) -> Value {
        let path = netns.path().to_string_lossy().into_owned();
        let reply = cni.must(verb, name, &path, "", &cni.config(&Value::Null)).unwrap();
        reply.json
    }

    fn attach(lab: &Lab, node: usize, name: &'static str) -> Pod {
        let (cni, netns) = (lab.cni(node), Netns::new(&lab.bed.name(name)).unwrap());
        let result = Pod::call(&cni, "ADD", name, &netns);
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 1, "one family, one address: {result}");
        let addr = ips[0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        Pod { netns, addr, cni, name }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        Pod::call(&self.cni, "DEL", self.name, &self.netns);
    }
}

fn nodes_of_one_family(tunnel: TunnelKind, v6: bool) {
    let stop = Stop::default();
    let mut lab = Lab::bed_only(programs(), Options { tunnel, ..Options::default() }, &stop).unwrap();
    for i in 0..2 {
        let config = lab.write_config(i).unwrap();
        let text = only(&std::fs::read_to_string(&config).unwrap(), v6);
        std::fs::write(&config, text).unwrap();
        let run: &Path = &lab.run_dir(i);
        lab.daemons[i] =
            Some(Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, run, &stop).unwrap());
    }
    let pods = [Pod::attach(&lab, 0, "a"), Pod::attach(&lab, 0, "c"), Pod::attach(&lab, 1, "b")];
    for to in &pods {
        assert_eq!(to.addr.is_ipv6(), v6);
        let _echo = Echo::start(to.netns.path()).unwrap();
        for from in pods.iter().filter(|from| from.addr != to.addr) {
            assert!(
                ping(&from.netns, to.addr, 2, 10).unwrap().all(),
                "{tunnel}: {} to {}",
                from.addr,
                to.addr
            );
            tcp_echo(from.netns.path(), to.addr).unwrap();
            udp_echo(from.netns.path(), to.addr, 30_000).unwrap();
        }
    }
    // The node reaches its pod, and a pod the other node.
    assert!(ping(&lab.bed.nodes[0], pods[0].addr, 2, 10).unwrap().all());
    let [v4, addr6] = lab.node_addresses(1);
    assert!(ping(&pods[0].netns, if v6 { addr6 } else { v4 }, 2, 10).unwrap().all());
}

#[test]
fn ipv4_alone() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Direct] {
        nodes_of_one_family(tunnel, false);
    }
}

#[test]
fn ipv6_alone() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Direct] {
        nodes_of_one_family(tunnel, true);
    }
}
