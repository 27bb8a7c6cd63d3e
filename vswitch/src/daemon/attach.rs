//! One pod's interface: made, taken up again, checked and removed in the pod's network namespace.
//!
//! All-or-nothing: whatever an attachment made is removed when a later step fails. The caller (the control thread)
//! keeps the records; nothing here does.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use control::api::Prev;
use control::attachments::{Attachment, NetnsId};
use ipnet::IpNet;

use crate::snapshot::{GATEWAY_V4, GATEWAY_V6};
use crate::sys::netlink::{LinkChange, Netlink, NetlinkError, Route};
use crate::sys::netns::{self, Netns};
use crate::sys::tun::{self, Tap, TapError, TapSpec};
use crate::uplink::udp;

/// Frames a pod's interface queues while nobody reads: at 500 a second, four seconds of a restart; at 100,000 a second, the 20 ms
/// for which a hypervisor may take a processor away. As many super-frames are 128 MiB, so it is not more.
const QUEUE: u32 = 2000;

/// An interface could not be made, taken up, checked or removed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The namespace is gone or is none.
    #[error("open network namespace {}", path.display())]
    OpenNetns {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The namespace is the node's own.
    #[error("network namespace {} is the node's own", path.display())]
    HostNetns {
        /// Its path.
        path: PathBuf,
    },
    /// The path names another namespace than at ADD.
    #[error("network namespace {} is another one than the pod was attached in", path.display())]
    OtherNetns {
        /// Its path.
        path: PathBuf,
    },
    /// Entering failed.
    #[error("enter network namespace {}", path.display())]
    EnterNetns {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The interface name is in use.
    #[error("interface {name} exists already in {}", netns.display())]
    Exists {
        /// The interface.
        name: String,
        /// Its namespace.
        netns: PathBuf,
    },
    /// The TAP could not be made or opened.
    #[error("TAP {name}")]
    Tap {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        err: TapError,
    },
    /// An interface without offloads could not be made.
    #[error("plain TAP {name}")]
    Plain {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Configuring it failed.
    #[error("configure {name}")]
    Configure {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        err: NetlinkError,
    },
    /// CHECK found a difference.
    #[error("{what} of {name} is not as it was made")]
    Changed {
        /// The interface.
        name: String,
        /// What differs.
        what: &'static str,
    },
}

/// An opened interface: with the virtio header, or plain.
pub enum Opened {
    /// Offload-capable.
    Tap(Tap),
    /// Through the tun-tap crate, one frame at a time, no offloads.
    Plain(OwnedFd),
}

/// The namespace at `path`, which must not be the node's own.
///
/// # Errors
/// See [`AttachError`].
pub fn open_netns(path: &Path) -> Result<(Netns, NetnsId), AttachError> {
    let err = |err| AttachError::OpenNetns { path: path.to_owned(), err };
    let ns = Netns::open(path).map_err(err)?;
    if ns.is_current().map_err(err)? {
        return Err(AttachError::HostNetns { path: path.to_owned() });
    }
    let id = ns.id().map_err(err)?;
    Ok((ns, NetnsId { dev: id.dev, ino: id.ino }))
}

/// The namespace of a recorded attachment, if it is still the same one.
///
/// # Errors
/// See [`AttachError`].
pub fn reopen_netns(a: &Attachment) -> Result<Netns, AttachError> {
    let (ns, id) = open_netns(&a.netns)?;
    if id == a.netns_id { Ok(ns) } else { Err(AttachError::OtherNetns { path: a.netns.clone() }) }
}

/// Makes the pod's interface and all that belongs to it. Nothing is left when this fails.
///
/// # Errors
/// See [`AttachError`].
pub fn create(ns: &Netns, a: &Attachment, offload: bool) -> Result<Opened, AttachError> {
    inside(ns, &a.netns, || {
        let name = || a.ifname.clone();
        let opened = open_new(a, offload)?;
        match configure(a) {
            Ok(()) => Ok(opened),
            Err(err) => {
                // The device is persistent; without this it would outlive the failed attempt.
                drop(opened);
                let _ = delete_link(&a.ifname);
                Err(AttachError::Configure { name: name(), err })
            }
        }
    })
}

/// Opens the interface of an attachment made earlier, after keeper and switch were both gone.
///
/// # Errors
/// See [`AttachError`].
pub fn reopen(ns: &Netns, a: &Attachment, offload: bool) -> Result<Opened, AttachError> {
    inside(ns, &a.netns, || {
        let mut nl = netlink(&a.ifname)?;
        // Opening by name would make a new, bare device where the old one is gone.
        nl.link(&a.ifname).map_err(|err| AttachError::Configure { name: a.ifname.clone(), err })?;
        open_tap(a, offload, false)
    })
}

/// Removes the interface; true when there was one.
///
/// # Errors
/// See [`AttachError`].
pub fn remove(ns: &Netns, netns: &Path, ifname: &str) -> Result<bool, AttachError> {
    inside(ns, netns, || {
        let configure = |err| AttachError::Configure { name: ifname.to_owned(), err };
        let mut nl = netlink(ifname)?;
        match nl.link(ifname) {
            // Only what can have been made here: a veth or another plugin's device of that name is not ours.
            Ok(link) if link.kind == "tun" => nl.delete_link(link.index).map(|()| true).map_err(configure),
            Ok(_) | Err(NetlinkError::Absent(_)) => Ok(false),
            Err(e) => Err(configure(e)),
        }
    })
}

/// Gives a pod's interface another MTU.
///
/// # Errors
/// See [`AttachError`].
pub fn set_mtu(ns: &Netns, netns: &Path, ifname: &str, mtu: u32) -> Result<(), AttachError> {
    inside(ns, netns, || {
        let configure = |err| AttachError::Configure { name: ifname.to_owned(), err };
        let mut nl = netlink(ifname)?;
        let index = nl.link(ifname).map_err(configure)?.index;
        let change = LinkChange { mtu: Some(mtu), gso_max: Some(super_frame(mtu)), ..LinkChange::default() };
        nl.set_link(index, &change).map_err(configure)
    })
}

/// CNI CHECK: is everything as ADD left it?
///
/// # Errors
/// [`AttachError::Changed`] names the first difference.
pub fn check(ns: &Netns, a: &Attachment, prev: Option<&Prev>) -> Result<(), AttachError> {
    inside(ns, &a.netns, || {
        let name = || a.ifname.clone();
        let configure = |err| AttachError::Configure { name: name(), err };
        let changed = |what| Err(AttachError::Changed { name: name(), what });
        let mut nl = netlink(&a.ifname)?;
        let link = match nl.link(&a.ifname) {
            Ok(link) => link,
            Err(NetlinkError::Absent(_)) => return changed("the interface itself"),
            Err(e) => return Err(configure(e)),
        };
        if !link.up {
            return changed("the up state");
        }
        if link.mac != a.mac.0 {
            return changed("the MAC address");
        }
        let have: Vec<IpAddr> =
            nl.addresses(Some(link.index)).map_err(configure)?.iter().map(|x| x.net.addr()).collect();
        if !a.addresses.iter().all(|x| have.contains(x)) {
            return changed("an address");
        }
        let gateways: Vec<IpAddr> = a.addresses.iter().map(|x| gateway_of(*x)).collect();
        for gateway in gateways {
            let default = nl.default_route(gateway.is_ipv6()).map_err(configure)?;
            if default.and_then(|r| r.via) != Some(gateway) {
                return changed("the default route");
            }
        }
        let Some(prev) = prev else { return Ok(()) };
        let ours = |i: Option<u32>| {
            i.and_then(|i| prev.interfaces.get(i as usize))
                .is_none_or(|x| x.name == a.ifname && !x.sandbox.is_empty())
        };
        if prev.ips.iter().any(|ip| ours(ip.interface) && !have.contains(&ip.address.addr())) {
            return changed("an address of the previous result");
        }
        Ok(())
    })
}

/// The gateway for an address of this family.
pub fn gateway_of(addr: IpAddr) -> IpAddr {
    if addr.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY_V4.into() }
}

fn inside<T: Send>(
    ns: &Netns,
    path: &Path,
    work: impl FnOnce() -> Result<T, AttachError> + Send,
) -> Result<T, AttachError> {
    netns::run_in(ns, work).map_err(|err| AttachError::EnterNetns { path: path.to_owned(), err })?
}

fn netlink(name: &str) -> Result<Netlink, AttachError> {
    Netlink::open().map_err(|err| AttachError::Configure { name: name.to_owned(), err })
}

fn open_new(a: &Attachment, offload: bool) -> Result<Opened, AttachError> {
    let mut nl = netlink(&a.ifname)?;
    match nl.link(&a.ifname) {
        Err(NetlinkError::Absent(_)) => {}
        Ok(_) => return Err(AttachError::Exists { name: a.ifname.clone(), netns: a.netns.clone() }),
        Err(err) => return Err(AttachError::Configure { name: a.ifname.clone(), err }),
    }
    open_tap(a, offload, true)
}

fn open_tap(a: &Attachment, offload: bool, exclusive: bool) -> Result<Opened, AttachError> {
    let name = || a.ifname.clone();
    if offload {
        let spec = TapSpec { exclusive, ..TapSpec::port(&a.ifname) };
        return Tap::open(&spec).map(Opened::Tap).map_err(|err| AttachError::Tap { name: name(), err });
    }
    let plain = |err| AttachError::Plain { name: name(), err };
    let iface = tun_tap::Iface::without_packet_info(&a.ifname, tun_tap::Mode::Tap).map_err(plain)?;
    let fd = tun::into_fd(iface);
    tun::set_persist(fd.as_fd(), true).map_err(plain)?;
    Ok(Opened::Plain(fd))
}

/// Addresses, routes, MAC, MTU: layer 3 only, everything through the gateway.
fn configure(a: &Attachment) -> Result<(), NetlinkError> {
    let mut nl = Netlink::open()?;
    let index = nl.link(&a.ifname)?.index;
    let change = LinkChange {
        mac: Some(a.mac.0),
        mtu: Some(a.mtu),
        txqueuelen: Some(QUEUE),
        gso_max: Some(super_frame(a.mtu)),
        ..LinkChange::default()
    };
    nl.set_link(index, &change)?;
    nl.set_up(index, true)?;
    for addr in &a.addresses {
        nl.add_address(index, IpNet::from(*addr), true, true)?;
    }
    for addr in &a.addresses {
        let gateway = gateway_of(*addr);
        let to_gateway = Route { oif: Some(index), link_scope: true, ..Route::to(IpNet::from(gateway)) };
        if gateway.is_ipv4() {
            nl.replace_route(&to_gateway)?;
        }
        let all = if addr.is_ipv6() {
            IpNet::V6(ipnet::Ipv6Net::default())
        } else {
            IpNet::V4(ipnet::Ipv4Net::default())
        };
        let default = Route { via: Some(gateway), oif: Some(index), onlink: true, ..Route::to(all) };
        nl.replace_route(&default)?;
    }
    Ok(())
}

/// The largest super-frame a pod with this MTU should send, as `gso_max_size` counts it: one whose segments, each with
/// its tunnel header, fill one train. With the kernel's own 64 KiB every super-frame would need a second train of two
/// or three segments, which costs nearly as much as the first.
pub(super) fn super_frame(mtu: u32) -> u32 {
    /// IPv4 and TCP headers with timestamps: a segment's payload is the MTU less these.
    const HEADERS: u32 = 52;
    /// What Linux takes off for headers to come (`MAX_TCP_HEADER`, 384 at most).
    const RESERVED: u32 = 385;
    let datagram = mtu + (encap::vxlan::VXLAN_LEN + encap::ETH_LEN) as u32;
    let segments = (udp::MAX_BYTES_V6 as u32 / datagram).clamp(1, udp::MAX_SEGMENTS as u32);
    (segments * mtu.saturating_sub(HEADERS) + RESERVED).min(65_536)
}

fn delete_link(name: &str) -> Result<(), NetlinkError> {
    let mut nl = Netlink::open()?;
    let index = nl.link(name)?.index;
    nl.delete_link(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_super_frame_is_one_full_train() {
        for (mtu, segments) in [(1280, 50), (1450, 44), (1478, 43), (8950, 7)] {
            // The kernel keeps some 300 bytes, and fills the rest with whole segments.
            for kept in [256, 385] {
                let payload = super_frame(mtu) - kept;
                assert_eq!(payload / (mtu - 52), segments, "MTU {mtu}, IPv4");
                assert!(payload / (mtu - 72) <= udp::MAX_BYTES_V6 as u32 / (mtu + 22), "MTU {mtu}, IPv6");
            }
        }
        assert!(super_frame(65_000) <= 65_536);
    }
}
