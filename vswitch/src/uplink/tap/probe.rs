//! The start-up probe: does a VXLAN super-frame leave the uplink device whole?
//!
//! Where it does not, after software segmentation the receiver's kernel joins nothing, and the uplink TAP is three
//! times slower than UDP sockets. So features are asked for first, and then one packet is sent and looked for.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};

use encap::VnetHdr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Outer, UplinkTap, UplinkTapError};
use crate::sys::ethtool;
use crate::sys::netlink::Netlink;
use crate::sys::packet::PacketSocket;

/// What a device must be able to do, as ethtool names it.
const FEATURES: [&str; 2] = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];
/// The discard service: the probe's UDP port.
const DISCARD: u16 = 9;
/// TCP payload of the probe in bytes.
const PAYLOAD: u16 = 4000;
/// Looks at the uplink per try, and how long each lasts at most.
const LOOKS: u32 = 20;
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// The first packet may be lost to an unknown neighbour.
const TRIES: u32 = 2;

/// What the probe found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The super-frame left whole: send this way.
    Usable,
    /// The device lacks this feature, or it is off.
    Lacks(&'static str),
    /// The way to the peer is another interface.
    OtherWay,
    /// It left in pieces; the first had this many bytes.
    Cut(usize),
    /// It did not leave: forwarding or the host's firewall stops it, or the peer does not answer ARP.
    Lost,
}

/// Sends a VXLAN super-frame of about 4,000 bytes from `node` to UDP port 9 of `peer` and watches the interface
/// `uplink` for up to 0.4 s. Blocks; for start-up, in the host's network namespace.
///
/// # Errors
/// [`UplinkTapError::Probe`] and [`UplinkTapError::Link`] when it cannot look.
pub fn probe(tap: &UplinkTap, uplink: &str, node: IpAddr, peer: IpAddr) -> Result<Verdict, UplinkTapError> {
    let failed = |err| UplinkTapError::Probe { interface: uplink.into(), err };
    let mut netlink = Netlink::open().map_err(UplinkTapError::Link)?;
    let index = netlink.link(uplink).map_err(UplinkTapError::Link)?.index;
    if netlink.route_to(peer).map_err(UplinkTapError::Link)?.oif != Some(index) {
        return Ok(Verdict::OtherWay);
    }
    for name in FEATURES {
        match ethtool::feature(uplink, name) {
            Ok(true) => {}
            Ok(false) => return Ok(Verdict::Lacks(name)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Lacks(name)),
            Err(err) => return Err(failed(err)),
        }
    }
    let listener = PacketSocket::listener(index).map_err(failed)?;
    listener.only_udp_to(peer.is_ipv6(), DISCARD).map_err(failed)?;
    let outer = Outer { src: SocketAddr::new(node, 0xc000), dst: SocketAddr::new(peer, DISCARD), vni: 0 };
    let (frame, vnet) = super_frame();
    for _ in 0..TRIES {
        tap.send(&vnet, &outer, &[IoSlice::new(&frame)]).map_err(failed)?;
        for _ in 0..LOOKS {
            let mut wait = [PollFd::new(&listener, PollFlags::IN)];
            poll(&mut wait, Some(&LOOK)).map_err(|err| failed(err.into()))?;
            match listener.recv(&mut [0; 64]) {
                Ok(seen) if seen.outgoing && seen.len > usize::from(PAYLOAD) => return Ok(Verdict::Usable),
                Ok(seen) if seen.outgoing => return Ok(Verdict::Cut(seen.len)),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(failed(err)),
            }
        }
    }
    Ok(Verdict::Lost)
}

/// A TCP super-frame between two addresses for documentation (RFC 5737), to be cut into segments of 1,000 bytes.
fn super_frame() -> ([u8; 54 + PAYLOAD as usize], VnetHdr) {
    let mut frame = [0u8; 54 + PAYLOAD as usize];
    frame[..14].copy_from_slice(&[2, 0xff, 0, 0, 0, 1, 2, 0xff, 0, 0, 0, 2, 8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(40 + PAYLOAD).to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    let sum = encap::checksum::sum(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    let pseudo = encap::checksum::pseudo_v4([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 6, 20 + PAYLOAD);
    frame[50..52].copy_from_slice(&pseudo.fold().to_be_bytes());
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
    };
    (frame, vnet)
}
