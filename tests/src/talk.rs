//! Everything that two pods may say to each other.

use std::net::IpAddr;

use vswitch::lab::{Attached, KernelPod, Netns, ping, tcp_echo, transfer, udp_echo};

/// Bytes of each bulk transfer.
const BULK: u64 = 8 << 20;

/// A pod that talks: an `Echo` runs in it.
pub trait Talker {
    /// Its namespace.
    fn netns(&self) -> &Netns;
    /// Its addresses, IPv4 first.
    fn addresses(&self) -> Vec<IpAddr>;
}

impl Talker for Attached {
    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addresses(&self) -> Vec<IpAddr> {
        Attached::addresses(self).into_iter().collect()
    }
}

impl Talker for KernelPod {
    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v4, self.v6]
    }
}

/// Pings, TCP, datagrams up to fragments, and a checked bulk transfer between two pods, both ways; IPv6 too where `v6`.
///
/// # Panics
/// When something does not arrive, or not as it was sent.
pub fn talk(a: &dyn Talker, b: &dyn Talker, v6: bool) {
    for (from, to) in [(a, b), (b, a)] {
        for addr in to.addresses().into_iter().filter(|addr| v6 || addr.is_ipv4()) {
            let (from, to) = (from.netns(), to.netns());
            let what = format!("{} to {addr}", from.name());
            let pinged = ping(from, addr, 3, 20).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(pinged.all(), "{what}: {pinged:?}");
            tcp_echo(from.path(), addr).unwrap_or_else(|e| panic!("{what}: {e}"));
            for size in [1, 1200, 30_000] {
                udp_echo(from.path(), addr, size).unwrap_or_else(|e| panic!("{what}, {size} bytes: {e}"));
            }
            transfer(from.path(), to.path(), addr, BULK).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}
