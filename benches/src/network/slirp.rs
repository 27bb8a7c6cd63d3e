//! slirp4netns: what rootless containers use to reach the outside, a TCP/IP stack in userspace behind a TAP device.
//!
//! Each pod has one of its own, which speaks for it from the node's sockets. It carries what pods begin, so the measured
//! receiver is a program on the node.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use vswitch::lab::{Bed, Netns, Shape};

use super::process::{Process, answers};
use super::{Network, Pair};

/// The address under which slirp4netns shows a pod the node's loopback.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// As large as ours in the same row.
const MTU: &str = "--mtu=1500";

/// Two pods of one node; fields drop in order: programs, pods, then the node.
#[derive(Debug)]
pub struct Slirp {
    programs: [Process; 2],
    pods: [Netns; 2],
    bed: Bed,
}

impl Slirp {
    /// One node; returns when it answers both pods.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn node() -> Result<Slirp> {
        let bed = Bed::build(Shape { nodes: 1, ..Shape::default() })?;
        let pod = |name: &str| Netns::new(&bed.name(name));
        let pods = [pod("slirp-a")?, pod("slirp-b")?];
        let start = |pod: &Netns| {
            let path = pod.path().display().to_string();
            let words = ["slirp4netns", "--configure", MTU, "--netns-type=path", &path, "eth0"];
            let log = bed.dir().join(format!("{}.log", pod.name()));
            Process::start(&bed.nodes[0], "slirp4netns", &words, &[], log)
        };
        let programs = [start(&pods[0])?, start(&pods[1])?];
        let network = Slirp { programs, pods, bed };
        answers(&network, &network.programs.each_ref())?;
        Ok(network)
    }
}

impl Network for Slirp {
    fn two(&self, from: usize) -> Pair<'_> {
        let pod = &self.pods[usize::from(from > 1)];
        Pair { from: pod, far: &self.bed.nodes[0], to: IpAddr::V4(NODE) }
    }

    fn underlay(&self) -> Option<&Netns> {
        None
    }
}
