//! The networks that are compared: ours, and what a user would pick instead. All real.
//!
//! * `kernel.rs`: bridge, veth, and the kernel's VXLAN or plain routes, as flannel sets them up.
//! * `ours.rs`: real daemons, pods attached by the real plugin.
//! * `flannel_udp.rs`: flannel's udp mode by shape, one packet for each system call.
//! * `ovs.rs`: Open vSwitch's userspace datapath and VXLAN.
//! * `wireguard.rs`: wireguard-go between the nodes.

mod flannel_udp;
mod kernel;
mod ours;
mod ovs;
mod process;
mod wireguard;

use std::net::IpAddr;

use anyhow::Result;
use vswitch::lab::{Bed, Netns, offloads_off};

use crate::cubic::Allowed;

pub use flannel_udp::FlannelUdp;
pub use kernel::Kernel;
pub use ours::Ours;
pub use ovs::Ovs;
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

impl Pair<'_> {
    /// Both pods use cubic from now on.
    ///
    /// # Errors
    /// When a namespace refuses.
    pub fn pin(&self, cubic: &Allowed) -> Result<()> {
        cubic.pin(self.from)?;
        cubic.pin(self.far)
    }
}

/// A network with four pods: two that are measured, and two that may be busy beside them. It is taken down when
/// dropped.
pub trait Network {
    /// The pods that are measured.
    fn pair(&self) -> Pair<'_>;

    /// Two other pods, one beside the sender, one beside the receiver.
    fn beside(&self) -> Pair<'_>;
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
