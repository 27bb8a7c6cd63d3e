//! IP in IP: an IPv4 header before the inner packet, and nothing else (RFC 2003; IPv6 inside as RFC 4213 has it).
//!
//! The outer header is a function of the inner packet and the two nodes' addresses. TTL is 64; DF and the traffic class
//! are the inner packet's (RFC 2003 section 3.1, RFC 6040 section 4.1; IPv6 has DF above 1,280 bytes), so that a path that is too narrow is told, and
//! congestion marks are carried through. The identification is left to the kernel: zero with DF (RFC 6864), its choice
//! without.

use std::net::Ipv4Addr;

use crate::checksum::{self, update16};
use crate::parse::ethertype;
use crate::udp::{self, UdpError};

/// Bytes of the outer header we write; one that is received may have options.
pub const IPIP_LEN: usize = 20;
/// IP protocol number of IPv4 in IP.
pub const PROTO_IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const PROTO_IPV6: u8 = 41;

const TTL: u8 = 64;
/// What every link carries of IPv6, if need be in fragments of the layer below (RFC 4213 section 3.2.2).
const IPV6_LEAST: usize = 1280;
const DF: u8 = 0x40;
/// The two bits of explicit congestion notification, and "congestion experienced" among them (RFC 3168 section 5).
const ECN: u8 = 0x03;
const CE: u8 = 0x03;

/// Why a packet is not one of IP in IP that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IpipError {
    /// The outer header is cut off.
    #[error("outer IPv4 header is cut off")]
    Truncated,
    /// The outer header is not one of IPv4.
    #[error("outer header is not one of IPv4")]
    NotIpv4,
    /// The outer protocol is neither 4 nor 41, or not the inner packet's.
    #[error("outer protocol {0} is not the inner packet's")]
    Protocol(u8),
    /// The inner packet is not exactly one IP packet.
    #[error(transparent)]
    Inner(#[from] UdpError),
    /// The network marked congestion on a packet that cannot carry the mark: it must be dropped (RFC 6040 section 4.2).
    #[error("congestion mark on a packet that cannot carry it")]
    Congestion,
}

/// What is in an outer packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Where the inner packet starts.
    pub at: usize,
    /// Its ethertype.
    pub ethertype: u16,
    /// The outer header carries a congestion mark that the inner packet lacks: see [`mark`].
    pub mark: bool,
}

/// The outer header for the inner packet that starts with `inner` and has `len` bytes. Length and checksum are filled
/// in; none when `inner` is no IP header or the whole would pass 65,535 bytes.
#[inline]
pub fn header(inner: &[u8], len: usize, src: Ipv4Addr, dst: Ipv4Addr) -> Option<[u8; IPIP_LEN]> {
    let first = inner.first_chunk::<IPIP_LEN>()?;
    let (tos, fragment, protocol) = match first[0] >> 4 {
        4 => (first[1], first[6] & DF, PROTO_IPV4),
        // IPv6 routers never fragment, so the outer ones may not either; but 1,280 bytes must pass everywhere.
        6 => (first[0] << 4 | first[1] >> 4, if len > IPV6_LEAST { DF } else { 0 }, PROTO_IPV6),
        _ => return None,
    };
    let [high, low] = u16::try_from(len.checked_add(IPIP_LEN)?).ok()?.to_be_bytes();
    let mut out = [0x45, tos, high, low, 0, 0, fragment, 0, TTL, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out[12..16].copy_from_slice(&src.octets());
    out[16..].copy_from_slice(&dst.octets());
    let sum = checksum::sum20(&out).finish();
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(out)
}

/// Finds the inner packet of an outer one, as a raw socket hands it up: reassembled, its header checked by the kernel.
///
/// # Errors
/// See [`IpipError`].
#[inline]
pub fn parse(packet: &[u8]) -> Result<Inner, IpipError> {
    let outer = packet.first_chunk::<IPIP_LEN>().ok_or(IpipError::Truncated)?;
    let at = usize::from(outer[0] & 0x0f) * 4;
    if outer[0] >> 4 != 4 || at < IPIP_LEN {
        return Err(IpipError::NotIpv4);
    }
    let inner = packet.get(at..).ok_or(IpipError::Truncated)?;
    let protocol = outer[9];
    let ethertype = udp::check(inner)?;
    let (wanted, ecn) = match ethertype {
        ethertype::IPV4 => (PROTO_IPV4, inner.get(1).map_or(0, |tos| tos & ECN)),
        _ => (PROTO_IPV6, inner.get(1).map_or(0, |b| b >> 4 & ECN)),
    };
    if protocol != wanted {
        return Err(IpipError::Protocol(protocol));
    }
    let marked = outer[1] & ECN == CE;
    if marked && ecn == 0 {
        return Err(IpipError::Congestion);
    }
    Ok(Inner { at, ethertype, mark: marked && ecn != CE })
}

/// Puts the mark "congestion experienced" on an IP packet, and its header checksum right (RFC 1624).
#[inline]
pub fn mark(inner: &mut [u8]) {
    let Some(head) = inner.first_chunk_mut::<IPIP_LEN>() else { return };
    match head[0] >> 4 {
        4 => {
            let old = u16::from_be_bytes([head[0], head[1]]);
            head[1] |= CE;
            let check = u16::from_be_bytes([head[10], head[11]]);
            let check = update16(check, old, u16::from_be_bytes([head[0], head[1]]));
            head[10..12].copy_from_slice(&check.to_be_bytes());
        }
        6 => head[1] |= CE << 4,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
