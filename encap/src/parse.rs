//! The one-pass parser of the hot path: every header a decision depends on, read once, bounds checked.
//!
//! Total: any bytes in, a [`Parsed`] or a named reason out. What it returns is what the receiving host will see:
//! upper-layer ports are read behind options and extension headers, lengths are the header's own after they were checked
//! against the frame, and a packet whose ports could differ for another reader is an error, not a guess.
//! Never done here: decisions, counters, allocation.

mod quoted;
mod v4;
mod v6;

pub use quoted::{Quoted, quoted};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ETH_LEN;
use crate::checksum::{ICMP, ICMPV6, TCP, UDP};
use crate::mac::Mac;

/// Ethertypes the parser tells apart.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

/// Which part of an IP datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Frag {
    /// The whole of it, IPv6 atomic fragments (RFC 6946) included.
    #[default]
    None,
    /// The first fragment, with the upper-layer header.
    First,
    /// Any other fragment: no ports.
    Later,
}

/// What one pass over the headers found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethertype; for tagged frames the tag's.
    pub ethertype: u16,
    /// The frame carries an 802.1Q or 802.1ad tag; nothing behind it was read.
    pub vlan: bool,
    /// Offset of the network header.
    pub l3: u16,
    /// Offset of the upper-layer header; equals `l3` when the frame is not IP.
    pub l4: u16,
    /// The packet is IPv6.
    pub v6: bool,
    /// Source address, IPv4 as `::ffff:a.b.c.d`; 0 when not IP.
    pub src: u128,
    /// Destination address, likewise.
    pub dst: u128,
    /// Upper-layer protocol: the last next-header value; 0 when not IP.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Fragment position.
    pub frag: Frag,
    /// IPv4 Don't Fragment; true for IPv6.
    pub df: bool,
    /// Identification of the datagram's fragments; 0 for unfragmented IPv6.
    pub frag_id: u32,
    /// Of a fragment: where its bytes lie in the datagram, a multiple of 8.
    pub frag_offset: u16,
    /// Of a fragment: how many bytes of the datagram it carries.
    pub frag_len: u16,
    /// Of a fragment: others follow.
    pub frag_more: bool,
    /// Bytes of IP header and payload as the header says.
    pub ip_len: u32,
    /// Source port; ICMP: `type << 8 | code`; 0 when there is none.
    pub sport: u16,
    /// Destination port; ICMP echo: the identifier; else 0.
    pub dport: u16,
    /// The TCP flag byte (CWR … FIN).
    pub tcp_flags: u8,
    /// SCTP: the type of the first chunk; 255 (reserved by RFC 9260) when there is none.
    pub sctp_chunk: u8,
}

impl Parsed {
    /// Bytes of the packet behind the IP headers.
    #[inline]
    pub fn l4_len(&self) -> u32 {
        (u32::from(self.l3) + self.ip_len).saturating_sub(u32::from(self.l4))
    }

    /// True when the frame carries IPv4 or IPv6.
    #[inline]
    pub fn is_ip(&self) -> bool {
        self.l4 != self.l3
    }
}

/// Why a frame is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// A header is cut off.
    #[error("a header is cut off")]
    Truncated,
    /// The version nibble contradicts the ethertype, or an IPv6 packet carries an IPv4-mapped address.
    #[error("IP version contradicts the ethertype or the addresses")]
    BadVersion,
    /// IPv4 header length below 20 bytes.
    #[error("IPv4 header length below 20")]
    BadIhl,
    /// An IP length, or an IPv4 option or fragment, that does not fit.
    #[error("IP length does not fit")]
    BadLength,
    /// An IPv6 extension chain that is over the limit, deprecated, jumbo, or nonsense.
    #[error("IPv6 extension header refused")]
    BadExtension,
    /// IPv4 LSRR/SSRR, or an IPv6 routing header with segments left.
    #[error("source-routed packet")]
    SourceRoute,
    /// UDP length below 8 or beyond the packet.
    #[error("UDP length does not fit")]
    BadUdpLength,
    /// TCP data offset below 20 or beyond the packet.
    #[error("TCP data offset does not fit")]
    BadTcpOffset,
    /// RFC 1858, RFC 3128, RFC 7112: a fragment that hides or rewrites the upper-layer header.
    #[error("fragment hides the upper-layer header")]
    TinyFragment,
    /// The IPv4 header checksum is wrong.
    #[error("IPv4 header checksum is wrong")]
    BadChecksum,
    /// Bridge control (01:80:c2:00:00:xx) or an 802.3 LLC frame.
    #[error("link-layer control frame")]
    L2Control,
}

/// Parses the frame whose first bytes are `head` and whose whole length is `total_len` (payload behind `head` may lie
/// elsewhere). `gso` says the frame is a super-frame: an IP or UDP length of zero then means "to the end of the frame".
///
/// # Errors
/// See [`ParseError`]; ARP and unknown ethertypes are no error (`proto` 0, `l4 == l3`).
#[inline]
pub fn parse(head: &[u8], total_len: usize, gso: bool) -> Result<Parsed, ParseError> {
    let head = &head[..head.len().min(total_len)];
    let eth = head.first_chunk::<ETH_LEN>().ok_or(ParseError::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *eth;
    let mut p = Parsed {
        dst_mac: Mac([d0, d1, d2, d3, d4, d5]),
        src_mac: Mac([s0, s1, s2, s3, s4, s5]),
        ethertype: u16::from_be_bytes([t0, t1]),
        l3: ETH_LEN as u16,
        l4: ETH_LEN as u16,
        ..Parsed::default()
    };
    let rest = &head[ETH_LEN..];
    let room = (total_len - ETH_LEN).min(u32::MAX as usize) as u32;
    match p.ethertype {
        ethertype::IPV4 => v4::parse(rest, room, gso, &mut p)?,
        ethertype::IPV6 => v6::parse(rest, room, gso, &mut p)?,
        ethertype::VLAN | ethertype::QINQ | 0x9100 | 0x9200 => p.vlan = true,
        0..0x0600 => return Err(ParseError::L2Control),
        _ if matches!(p.dst_mac.0, [0x01, 0x80, 0xc2, 0, 0, _]) => return Err(ParseError::L2Control),
        _ => {}
    }
    Ok(p)
}

/// Reads the upper-layer header. `at` is its offset in `ip`, the bytes from the network header on; `len` the bytes the
/// IP header grants it. A first fragment must hold the whole header (RFC 1858, RFC 7112).
#[inline]
fn upper(ip: &[u8], at: usize, len: u32, gso: bool, p: &mut Parsed) -> Result<(), ParseError> {
    p.l4 = p.l3 + at as u16;
    let first = p.frag == Frag::First;
    let short = if first { ParseError::TinyFragment } else { ParseError::Truncated };
    if p.frag == Frag::Later {
        return Ok(());
    }
    let b = &ip[at.min(ip.len())..];
    let need = match p.proto {
        TCP => 20,
        SCTP | DCCP => 12,
        UDP | ICMP | ICMPV6 | UDP_LITE => 8,
        _ => return Ok(()),
    };
    if len < need {
        return Err(short);
    }
    let h = b.first_chunk::<8>().ok_or(ParseError::Truncated)?;
    p.sport = u16::from_be_bytes([h[0], h[1]]);
    p.dport = u16::from_be_bytes([h[2], h[3]]);
    match p.proto {
        TCP => {
            let h = b.first_chunk::<20>().ok_or(ParseError::Truncated)?;
            let offset = u32::from(h[12] >> 4) * 4;
            if offset < 20 || (offset > len && !first) {
                return Err(ParseError::BadTcpOffset);
            }
            if offset > len {
                return Err(ParseError::TinyFragment);
            }
            p.tcp_flags = h[13];
        }
        UDP => {
            let udp_len = u32::from(u16::from_be_bytes([h[4], h[5]]));
            let open = gso && udp_len == 0;
            if !open && (udp_len < 8 || (udp_len > len && !first)) {
                return Err(ParseError::BadUdpLength);
            }
        }
        SCTP => p.sctp_chunk = b.get(12).filter(|_| len > 12).copied().unwrap_or(u8::MAX),
        ICMP | ICMPV6 => {
            // A message is told by type and code; echo also by its identifier (RFC 792, RFC 4443).
            let echo = matches!((p.proto, h[0]), (ICMP, 0 | 8) | (ICMPV6, 128 | 129));
            p.dport = if echo { u16::from_be_bytes([h[4], h[5]]) } else { 0 };
        }
        _ => {}
    }
    Ok(())
}

const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// An IPv4 address as the 128-bit form used everywhere: `::ffff:a.b.c.d`.
#[inline]
pub const fn mapped(v4: Ipv4Addr) -> u128 {
    0xffff_0000_0000 | v4.to_bits() as u128
}

/// The address behind the 128-bit form.
#[inline]
pub const fn to_ip(addr: u128) -> IpAddr {
    if addr >> 32 == 0xffff {
        IpAddr::V4(Ipv4Addr::from_bits(addr as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(addr))
    }
}

/// The 128-bit form of an address.
#[inline]
pub const fn from_ip(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => mapped(v4),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests;
