//! Open vSwitch without its kernel module: the userspace ("netdev") datapath, with VXLAN in userspace too.
//!
//! Laid out as its guide "Connecting VMs Using Tunnels (Userspace)" says. Each node has daemons and a database of its
//! own, all inside the node's namespace and the bed's directory:
//!
//! ```text
//!   pod ── veth ──┐
//!   pod ── veth ──┤ br-int ── vxlan0      br-phy ── eth0
//!                 └───────────── routes and neighbours of br-phy's own port, which has the node's address
//! ```
//!
//! The pods share one IPv4 subnet, as there is no router.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use vswitch::lab::{Bed, Netns, NodePlan, Shape, run_args, run_words};

use super::process::{Process, answers};
use super::{Network, Pair};

/// The underlay's 1500 bytes without VXLAN over IPv4: 20 + 8 + 8, and 14 of the inner Ethernet header.
const MTU: u16 = 1450;

/// Pods on Open vSwitch; fields drop in order: pods, switches, then what they hang on.
#[derive(Debug)]
pub struct Ovs {
    pods: Vec<Pod>,
    switches: [Switch; 2],
    bed: Bed,
}

/// A namespace with a veth `eth0`.
#[derive(Debug)]
struct Pod {
    netns: Netns,
    v4: IpAddr,
}

impl Ovs {
    /// Two nodes; returns when the pods answer each other. `tso` sets `userspace-tso-enable`, with which ports carry
    /// checksums and super-frames through the virtio header.
    ///
    /// Open vSwitch 3.1 (Debian 12) with `tso` drops a packet in front of a tunnel that still needs its checksum or
    /// segmenting; its documentation calls tunnels not supported. So pods send finished packets in both cases, and what
    /// `tso` changes between nodes is only how ports are read and written.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn nodes(tso: bool) -> Result<Ovs> {
        let bed = Bed::build(Shape::default())?;
        let switch = |i: usize| Switch::start(&bed.nodes[i], bed.plan(i), bed.plan(1 - i), bed.dir(), tso);
        let switches = [switch(0)?, switch(1)?];
        let mut pods = Vec::new();
        for i in 2..4 {
            for (n, switch) in switches.iter().enumerate() {
                pods.push(switch.pod(&bed.nodes[n], bed.plan(n), i)?);
            }
        }
        let network = Ovs { pods, switches, bed };
        let [near, far] = &network.switches;
        answers(&network, &[&near.vswitchd, &far.vswitchd])?;
        Ok(network)
    }

    /// The nodes.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }
}

impl Network for Ovs {
    fn two(&self, from: usize) -> Pair<'_> {
        let [near, far] = [&self.pods[from], &self.pods[from + 1]];
        Pair { from: &near.netns, far: &far.netns, to: far.v4 }
    }

    fn underlay(&self) -> Option<&Netns> {
        super::one_of_many(&self.bed)
    }
}

/// A node's daemons; the switch ends before its database.
#[derive(Debug)]
struct Switch {
    vswitchd: Process,
    database: Process,
    socket: PathBuf,
}

impl Switch {
    /// Starts both and builds the two bridges and the tunnel to `peer`.
    fn start(node: &Netns, plan: NodePlan, peer: NodePlan, dir: &Path, tso: bool) -> Result<Switch> {
        let dir = dir.join(format!("ovs{}", plan.n));
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let at = |name: &str| dir.join(name);
        let word = |option: &str, name: &str| format!("{option}{}", at(name).display());
        // Whatever is not named below would be looked for where the machine's own Open vSwitch has it.
        let env =
            ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"].map(|name| (name, dir.as_path()));

        let file = word("", "conf.db");
        run_args(&["ovsdb-tool", "create", &file])?;
        let (remote, control) = (word("--remote=punix:", "db.sock"), word("--unixctl=", "ovsdb-server.ctl"));
        let words = ["ovsdb-server", &file, &remote, &control];
        let mut database = Process::start(node, "ovsdb-server", &words, &env, at("ovsdb-server.log"))?;
        let socket = at("db.sock");
        database.wait_for(&socket)?;
        vsctl(&socket, "--no-wait init").with_context(|| database.last_words())?;
        if tso {
            // Read once, when the switch starts.
            vsctl(&socket, "--no-wait set Open_vSwitch . other_config:userspace-tso-enable=true")?;
        }

        let (remote, control) = (word("unix:", "db.sock"), word("--unixctl=", "ovs-vswitchd.ctl"));
        let words = ["ovs-vswitchd", &remote, &control];
        let mut vswitchd = Process::start(node, "ovs-vswitchd", &words, &env, at("ovs-vswitchd.log"))?;
        vswitchd.wait_for(&at("ovs-vswitchd.ctl"))?;
        let switch = Switch { vswitchd, database, socket };
        switch.bridges(node, plan, peer).with_context(|| switch.last_words())?;
        Ok(switch)
    }

    fn bridges(&self, node: &Netns, plan: NodePlan, peer: NodePlan) -> Result<()> {
        self.vsctl(&format!(
            "add-br br-phy -- set bridge br-phy datapath_type=netdev fail-mode=standalone other_config:hwaddr=\"{}\" \
             -- add-port br-phy eth0",
            mac(node)?
        ))?;
        node.ip("addr flush dev eth0")?;
        node.ip(&format!("addr add {}/24 dev br-phy", plan.address()))?;
        node.ip("link set br-phy up")?;
        // The kernel sees each packet of eth0 as well, and would refuse the tunnel's UDP port by ICMP. Open vSwitch's
        // installation guide has these two rules for it.
        for chain in ["INPUT", "FORWARD"] {
            node.run(&format!("iptables -A {chain} -i eth0 -j DROP"))?;
        }
        self.vsctl(&format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev fail-mode=standalone \
             -- add-port br-int vxlan0 -- set interface vxlan0 type=vxlan options:remote_ip={} options:key=1",
            peer.address()
        ))
    }

    /// Attaches pod number `i` of the node's subnet.
    fn pod(&self, node: &Netns, plan: NodePlan, i: u8) -> Result<Pod> {
        let netns = Netns::new(&format!("{}p{i}", node.name()))?;
        netns.without_dad()?;
        let v4 = plan.pod(i);
        run_words(&format!(
            "ip link add veth{i} netns {} type veth peer name eth0 netns {}",
            node.name(),
            netns.name()
        ))?;
        node.ip(&format!("link set veth{i} mtu {MTU} up"))?;
        netns.ip(&format!("link set eth0 mtu {MTU} up"))?;
        netns.ip(&format!("addr add {v4}/16 dev eth0"))?;
        // A veth leaves checksums and segmenting to whoever reads it. A packet socket does not finish them, so receivers
        // would drop what is sent; with `userspace-tso-enable` the tunnel would (see `Ovs::nodes`). Off, the pod's own
        // kernel does both.
        netns.run("ethtool -K eth0 tx off")?;
        self.vsctl(&format!("add-port br-int veth{i}")).with_context(|| self.last_words())?;
        Ok(Pod { netns, v4: v4.into() })
    }

    /// Changes the configuration and waits until the switch has followed.
    fn vsctl(&self, line: &str) -> Result<()> {
        vsctl(&self.socket, line)
    }

    fn last_words(&self) -> String {
        format!("{}; {}", self.vswitchd.last_words(), self.database.last_words())
    }
}

fn vsctl(socket: &Path, line: &str) -> Result<()> {
    run_words(&format!("ovs-vsctl --db=unix:{} --timeout=10 {line}", socket.display()))?;
    Ok(())
}

fn mac(node: &Netns) -> Result<String> {
    let text = node.ip("-o link show eth0")?;
    let address = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    Ok(address.context("eth0 has an address")?.to_owned())
}
