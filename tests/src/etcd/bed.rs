//! Real daemons on a lab's nodes with nodes and objects from etcd, their pods, and `vsctl` beside them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;
use vswitch::lab::{Cni, Daemon, Lab, Netns, Options, PodName, Shape, Stop};

use super::Etcd;
use crate::programs::programs;

/// flannel's key of the network's configuration.
pub const CONFIG: &str = "/coreos.com/network/config";
/// Below it lie the leases.
pub const SUBNETS: &str = "/coreos.com/network/subnets/";

/// Nodes without a daemon yet, and an etcd beside them that has this configuration of the network.
///
/// # Panics
/// When they cannot be made.
#[must_use]
pub fn bed(nodes: usize, network: &str) -> (Etcd, Lab) {
    let shape = Shape { nodes, outside: true, ..Shape::default() };
    let options = Options { shape, ..Options::default() };
    let lab = Lab::bed_only(programs(), options, &Stop::default()).expect("a bed can be made");
    let outside = lab.bed.outside.as_ref().expect("it was asked for");
    let etcd = Etcd::inside(outside, std::net::Ipv4Addr::new(192, 168, 77, 254));
    etcd.put(CONFIG, network);
    (etcd, lab)
}

/// A node's lease as flannel's VXLAN backend writes it.
#[must_use]
pub fn vxlan_lease(address: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Writes the configuration of node `i` of a lab, which has nothing of ranges or peers; its path.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn config(lab: &Lab, i: usize, etcd: &Etcd) -> PathBuf {
    config_with(lab, i, etcd, "")
}

/// The same with these lines more.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn config_with(lab: &Lab, i: usize, etcd: &Etcd, more: &str) -> PathBuf {
    let plan = lab.bed.plan(i);
    let dir = lab.bed.dir().join(format!("n{}", plan.n));
    fs::create_dir_all(dir.join("run")).expect("a directory can be made");
    let text = format!(
        "[node]\nname = \"n{n}\"\nuplink = \"eth0\"\naddress = \"{v4}\"\naddress6 = \"{v6}\"\n\
         state-dir = \"{dir}/state\"\nrun-dir = \"{dir}/run\"\n\n[network]\nmasquerade = true\n\n\
         [store]\ntype = \"etcd\"\nendpoints = [\"{url}\"]\nsubnet-env = \"{dir}/run/subnet.env\"\n",
        n = plan.n,
        v4 = plan.address(),
        v6 = plan.address6(),
        dir = dir.display(),
        url = etcd.url(),
    );
    let path = dir.join("vswitch.toml");
    fs::write(&path, text + more).expect("a file can be written");
    path
}

/// Starts node `i`, again after it ended.
///
/// # Panics
/// When it is not ready within 10 s.
pub fn start(lab: &mut Lab, i: usize, etcd: &Etcd) {
    start_all(lab, &[i], etcd);
}

/// Starts these nodes at the same instant; all are ready when this returns.
///
/// # Panics
/// When one is not ready within 10 s.
pub fn start_all(lab: &mut Lab, nodes: &[usize], etcd: &Etcd) {
    start_with(lab, nodes, etcd, "");
}

/// The same with these lines more in their configurations.
///
/// # Panics
/// When one is not ready within 10 s.
pub fn start_with(lab: &mut Lab, nodes: &[usize], etcd: &Etcd, more: &str) {
    let started: Vec<(usize, Daemon)> = thread::scope(|scope| {
        let lab = &*lab;
        let start = |i: usize| {
            let config = config_with(lab, i, etcd, more);
            let (netns, run) = (&lab.bed.nodes[i], lab.run_dir(i));
            scope.spawn(move || {
                let started = Daemon::start(&lab.programs, netns, i + 1, &config, &run, &Stop::default());
                (i, started.unwrap_or_else(|err| panic!("node {}: {err}", i + 1)))
            })
        };
        let threads: Vec<_> = nodes.iter().map(|i| start(*i)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it is started")).collect()
    });
    for (i, daemon) in started {
        lab.daemons[i] = Some(daemon);
    }
}

/// A pod of a network of IPv4 alone or of both. Dropped: detached through the plugin, then deleted.
#[derive(Debug)]
pub struct LivePod {
    /// Its namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// What ADD printed.
    pub result: Value,
    cni: Cni,
}

/// Attaches the pod default/`name` to node `i` through the plugin.
///
/// # Panics
/// When the plugin refuses, or gives it no IPv4 address.
#[must_use]
pub fn attach(lab: &Lab, i: usize, name: &str) -> LivePod {
    let netns = Netns::new(&lab.bed.name(name)).expect("a namespace can be made");
    let cni = lab.cni(i);
    let pod = PodName::new("default", name);
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
        pod.namespace,
        pod.name,
        netns.name()
    );
    let path = netns.path().display().to_string();
    let reply = cni.must("ADD", netns.name(), &path, &args, &cni.config(&Value::Null));
    let result = reply.unwrap_or_else(|err| panic!("{err}")).json;
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    let mut addresses = ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    let v4 = addresses.find(IpAddr::is_ipv4).expect("it has an IPv4 address");
    LivePod { netns, v4, result, cni }
}

impl Drop for LivePod {
    fn drop(&mut self) {
        let path = self.netns.path().display().to_string();
        // DEL may fail when the daemon is gone; the namespace's end takes the interface with it.
        let _ = self.cni.call("DEL", self.netns.name(), &path, "", &self.cni.config(&Value::Null));
    }
}

/// Runs `vsctl` with these words against node `i`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn vsctl(lab: &Lab, i: usize, words: &[&str]) -> Output {
    let mut command = Command::new(lab.programs.vsctl());
    command.arg("--socket").arg(lab.run_dir(i).join("vswitchd.sock")).args(words);
    command.output().expect("vsctl runs")
}
