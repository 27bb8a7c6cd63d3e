//! The networks that are compared: ours, and what a user would pick instead. All real.
//!
//! * `kernel.rs`: bridge, veth, and the kernel's VXLAN or plain routes, as flannel sets them up.
//! * `ours.rs`: real daemons, pods attached by the real plugin.
//! * `flannel_udp.rs`: flannel's udp mode by shape, one packet for each system call.
//! * `ovs.rs`: Open vSwitch's userspace datapath and VXLAN.
//! * `wireguard.rs`: wireguard-go between the nodes.
//! * `slirp.rs`, `to_node.rs`: from a pod to its node, by slirp4netns and by us.

mod flannel_udp;
mod kernel;
mod ours;
mod ovs;
mod process;
mod slirp;
mod to_node;
mod wireguard;

use std::net::IpAddr;

use anyhow::Result;
use vswitch::lab::{Bed, KernelPod, Netns, offloads_off};

use crate::cubic::Allowed;
use crate::offloads::Offloads;

pub use flannel_udp::FlannelUdp;
pub use kernel::Kernel;
pub use ours::Ours;
pub use ovs::Ovs;
pub use slirp::Slirp;
pub use to_node::ToNode;
pub use wireguard::WireGuard;

/// Two pods between which packets are sent.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The sender's namespace.
    pub from: &'a Netns,
    /// The receiver's.
    pub far: &'a Netns,
    /// The receiver's IPv4 address.
    pub to: IpAddr,
}

impl<'a> Pair<'a> {
    /// The pod with this number and the next one.
    fn of(pods: &'a [KernelPod], from: usize) -> Pair<'a> {
        let [near, far] = [&pods[from], &pods[from + 1]];
        Pair { from: &near.netns, far: &far.netns, to: far.v4 }
    }

    /// Both pods use cubic from now on.
    ///
    /// # Errors
    /// When a namespace refuses.
    pub fn pin(&self, cubic: &Allowed) -> Result<()> {
        cubic.pin(self.from)?;
        cubic.pin(self.far)
    }
}

/// A network with four pods: two that are measured, and two that may be busy beside them. Where pods talk to their node,
/// that is the second of each two. It is taken down when dropped.
pub trait Network {
    /// The pods with this number (0 to 2) and the next one.
    fn two(&self, from: usize) -> Pair<'_>;

    /// A node whose `eth0` is the underlay, where there is more than one node.
    fn underlay(&self) -> Option<&Netns>;

    /// What its devices do for the kernel.
    ///
    /// # Errors
    /// When one is gone.
    fn offloads(&self) -> Result<Offloads> {
        Offloads::of(self.underlay(), self.pair().from)
    }

    /// The pods that are measured.
    fn pair(&self) -> Pair<'_> {
        self.two(0)
    }

    /// Two other pods, one beside the sender, one beside the receiver.
    fn beside(&self) -> Pair<'_> {
        self.two(2)
    }
}

/// The first node, if there is another.
fn one_of_many(bed: &Bed) -> Option<&Netns> {
    (bed.nodes.len() > 1).then(|| &bed.nodes[0])
}

/// Makes the underlay of `bed` one that takes no super-frames, as NICs without tunnel offload are.
fn segment(bed: &Bed, segmented: bool) -> Result<()> {
    if segmented {
        for node in &bed.nodes {
            offloads_off(node, "eth0")?;
        }
    }
    Ok(())
}
