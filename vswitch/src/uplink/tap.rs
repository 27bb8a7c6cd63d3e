//! The uplink TAP: VXLAN super-frames handed to the host's stack as one packet.
//!
//! A frame written here enters the host as if it had come from a neighbour: outer Ethernet, IP, UDP and VXLAN headers
//! and a whole inner super-frame behind a 24-byte virtio header. The host forwards it to the uplink, whose device
//! (or the kernel, last thing) segments inside the tunnel; a veth passes it on whole. That saves the inner headers and
//! checksums of every segment. It only pays where the uplink device takes tunnel super-frames, which [`probe`] finds
//! out at start-up; elsewhere UDP sockets are the faster way. Receiving stays with the UDP sockets.
//!
//! Any worker may send at any time. The device ends with its descriptor. Nothing is read from it: what the host might
//! send into it is dropped by its queue.

mod outer;
mod probe;

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use encap::VnetHdr;
use ipnet::Ipv4Net;

use crate::sys::netlink::{LinkChange, Netlink, NetlinkError};
use crate::sys::tun::{self, Tap, TapError, TapSpec};
use crate::sys::{device, sysctl};

pub use self::outer::Outer;
pub use self::probe::{Verdict, probe};

/// The interface's usual name.
pub const NAME: &str = "vsw-up0";
/// Bytes an outer IP packet may have: more, and a device on the way takes the super-frame for too large.
pub const MAX_PACKET: usize = 65_495;

/// `TUN_F_UDP_TUNNEL_GSO_CSUM`: outer UDP checksums of tunnel super-frames.
const F_TUNNEL_CSUM: u32 = 0x100;
/// The device's own MAC.
const MAC: [u8; 6] = [0x02, 0x76, 0x73, 0x77, 0x75, 0x70];
/// Its IPv4 address where the host filters by source, which it never does right on an interface without one.
const ADDRESS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 118, 112), 32);
/// The neighbour that frames pretend to come from.
const NEIGHBOUR: [u8; 6] = [0x02, 0x76, 0x73, 0x77, 0x75, 0x71];

/// Why there is no uplink TAP.
#[derive(Debug, thiserror::Error)]
pub enum UplinkTapError {
    /// The device could not be made.
    #[error("open the uplink TAP")]
    Tap(#[source] TapError),
    /// The kernel is older than 6.17.
    #[error("the kernel has no tunnel super-frames on TAPs (it offers {taken:#05x})")]
    NoTunnelOffload {
        /// The offloads it took.
        taken: u32,
    },
    /// The link could not be set up or looked at.
    #[error("set up the uplink TAP")]
    Link(#[source] NetlinkError),
    /// A kernel setting could not be made.
    #[error("set {name} to {value}")]
    Sysctl {
        /// The setting.
        name: Box<str>,
        /// The value wanted.
        value: &'static str,
        /// Why not.
        #[source]
        err: io::Error,
    },
    /// IPv6 forwarding is off, this kernel can only switch it for all interfaces, and we may not.
    #[error("IPv6 forwarding is off, and switching it on for the whole host is not allowed")]
    Forwarding,
    /// The start-up probe could not look at the uplink.
    #[error("probe the uplink {interface}")]
    Probe {
        /// The uplink.
        interface: Box<str>,
        /// Why not.
        #[source]
        err: io::Error,
    },
}

/// The sending end of the uplink TAP.
#[derive(Debug)]
pub struct UplinkTap {
    tap: Tap,
    next_id: AtomicU16,
}

impl UplinkTap {
    /// Makes the device in the calling thread's network namespace (the host's) and sets it up: frames with this
    /// node's own source address are taken and forwarded. IPv6 is off on it unless `v6`; the host's IPv6 forwarding is
    /// switched on only with `allow_forwarding`, and only where the kernel cannot do it for one interface (before
    /// 6.17). IPv4 forwarding is switched on for this interface alone.
    ///
    /// # Errors
    /// See [`UplinkTapError`]; the device is gone again then.
    pub fn open(name: &str, v6: bool, allow_forwarding: bool) -> Result<Self, UplinkTapError> {
        let spec = TapSpec {
            header: tun::VNET_TUNNEL_LEN,
            offload: tun::OFFLOAD_TUNNEL,
            persist: false,
            exclusive: false,
            ..TapSpec::port(name)
        };
        let tap = Tap::open(&spec).map_err(UplinkTapError::Tap)?;
        // Without outer checksums the peer's kernel would join nothing.
        if tap.offload() & (tun::F_TUNNEL | F_TUNNEL_CSUM) != tun::F_TUNNEL | F_TUNNEL_CSUM {
            return Err(UplinkTapError::NoTunnelOffload { taken: tap.offload() });
        }
        let filtered = settings(tap.name(), v6, allow_forwarding)?;
        let mut netlink = Netlink::open().map_err(UplinkTapError::Link)?;
        let index = netlink.link(tap.name()).map_err(UplinkTapError::Link)?.index;
        let change = LinkChange {
            up: Some(true),
            mac: Some(MAC),
            mtu: Some(65_521),
            no_link_local: v6,
            ..LinkChange::default()
        };
        netlink.set_link(index, &change).map_err(UplinkTapError::Link)?;
        if filtered {
            netlink.add_address(index, ADDRESS.into(), true, true).map_err(UplinkTapError::Link)?;
        }
        Ok(Self { tap, next_id: AtomicU16::new(0) })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.tap.name()
    }

    /// Sends one inner Ethernet super-frame, given in pieces, whose first piece holds all its headers. `vnet` describes
    /// the inner frame, with offsets from its own start, as read from a pod's TAP; the checksum must be partial.
    ///
    /// # Errors
    /// `InvalidInput` for a frame that is no super-frame, whose families differ from `outer`'s rules, or that is
    /// larger than [`MAX_PACKET`] with its outer headers: send it through a UDP socket. Else by kind, as
    /// [`device`] says.
    pub fn send(&self, vnet: &VnetHdr, outer: &Outer, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // Every segment gets an identification of its own; a super-frame has at most 128.
        let id = self.next_id.fetch_add(128, Relaxed);
        let headers = outer.headers(vnet, parts, id).ok_or(io::ErrorKind::InvalidInput)?;
        device::write(&self.tap, headers.bytes(), parts)
    }
}

/// What the host must allow for its own packets to come in by this interface and be sent on. Says whether it filters
/// by source address.
fn settings(name: &str, v6: bool, allow_forwarding: bool) -> Result<bool, UplinkTapError> {
    let set = |name: String, value: &'static str| {
        sysctl::set(&name, value).map_err(|err| UplinkTapError::Sysctl { name: name.into(), value, err })
    };
    // The larger of the two settings counts, and loose (2) is above strict (1): where the host filters at all, loose
    // lets our own source address in, if the interface has some address; 0 is faster.
    let filter = sysctl::get("net/ipv4/conf/all/rp_filter").is_ok_and(|value| value != "0");
    set(format!("net/ipv4/conf/{name}/rp_filter"), if filter { "2" } else { "0" })?;
    set(format!("net/ipv4/conf/{name}/accept_local"), "1")?;
    set(format!("net/ipv4/conf/{name}/forwarding"), "1")?;
    if !v6 {
        // A host without IPv6 has nothing to switch off.
        let _ = sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
        return Ok(filter);
    }
    set(format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    let forced = sysctl::set(&format!("net/ipv6/conf/{name}/force_forwarding"), "1").is_ok();
    if forced || sysctl::get("net/ipv6/conf/all/forwarding").is_ok_and(|value| value == "1") {
        return Ok(filter);
    }
    if !allow_forwarding {
        return Err(UplinkTapError::Forwarding);
    }
    set("net/ipv6/conf/all/forwarding".into(), "1")?;
    Ok(filter)
}

#[cfg(test)]
mod tests;
