//! The packet that an ICMP error quotes (RFC 792, RFC 4443 section 3): whose flow the error is about.
//!
//! What is quoted may be cut after eight bytes behind its IP header, so only the ports are read. A quotation that does
//! not hold them, or that is a later fragment, names no flow.

use crate::checksum::{ICMP, ICMPV6, TCP, UDP};

use super::{DCCP, Frag, Parsed, SCTP, UDP_LITE};

/// Extension headers of a quoted IPv6 packet that are followed.
const MAX_HEADERS: usize = 4;

/// What an ICMP error says about the packet it quotes, in the conventions of [`Parsed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quoted {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Upper-layer protocol.
    pub proto: u8,
    /// Source port; ICMP: `type << 8 | code`; 0 when the protocol has none.
    pub sport: u16,
    /// Destination port; ICMP echo: the identifier; else 0.
    pub dport: u16,
    /// The MTU of "fragmentation needed" and "packet too big"; none for other errors.
    pub mtu: Option<u32>,
}

impl Parsed {
    /// True for an ICMP or ICMPv6 message that reports about another packet.
    #[inline]
    pub fn is_icmp_error(&self) -> bool {
        let kind = self.sport >> 8;
        self.frag != Frag::Later
            && match self.proto {
                ICMP if !self.v6 => matches!(kind, 3 | 4 | 11 | 12),
                ICMPV6 if self.v6 => kind < 128,
                _ => false,
            }
    }
}

/// The packet that the ICMP error `p`, parsed from `frame`, quotes; `None` when it names no flow.
pub fn quoted(frame: &[u8], p: &Parsed) -> Option<Quoted> {
    // What lies behind the packet is padding of the link, and says nothing.
    let end = frame.len().min(usize::from(p.l3) + p.ip_len as usize);
    let icmp = frame.get(usize::from(p.l4)..end)?;
    let head = icmp.first_chunk::<8>()?;
    let ip = &icmp[8..];
    let mtu = match (p.v6, head[0], head[1]) {
        (false, 3, 4) => Some(u32::from(u16::from_be_bytes([head[6], head[7]]))),
        (true, 2, _) => Some(u32::from_be_bytes([head[4], head[5], head[6], head[7]])),
        _ => None,
    };
    let (at, mut q) = if p.v6 { v6(ip)? } else { v4(ip)? };
    q.mtu = mtu;
    let upper = ip.get(at..)?;
    match q.proto {
        TCP | UDP | SCTP | DCCP | UDP_LITE => {
            let h = upper.first_chunk::<4>()?;
            q.sport = u16::from_be_bytes([h[0], h[1]]);
            q.dport = u16::from_be_bytes([h[2], h[3]]);
        }
        ICMP | ICMPV6 => {
            let h = upper.first_chunk::<8>()?;
            q.sport = u16::from_be_bytes([h[0], h[1]]);
            let echo = matches!((q.proto, h[0]), (ICMP, 0 | 8) | (ICMPV6, 128 | 129));
            q.dport = if echo { u16::from_be_bytes([h[4], h[5]]) } else { 0 };
        }
        _ => {}
    }
    Some(q)
}

fn v4(ip: &[u8]) -> Option<(usize, Quoted)> {
    let h = ip.first_chunk::<20>()?;
    let ihl = usize::from(h[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
    if h[0] >> 4 != 4 || ihl < 20 || later {
        return None;
    }
    let addr = |at: usize| super::mapped([h[at], h[at + 1], h[at + 2], h[at + 3]].into());
    Some((ihl, Quoted { src: addr(12), dst: addr(16), proto: h[9], ..Quoted::default() }))
}

fn v6(ip: &[u8]) -> Option<(usize, Quoted)> {
    let h = ip.first_chunk::<40>()?;
    if h[0] >> 4 != 6 {
        return None;
    }
    let addr = |at: usize| h[at..].first_chunk().map_or(0, |b| u128::from_be_bytes(*b));
    let (src, dst) = (addr(8), addr(24));
    // An IPv4 address in this form would name another flow than the packet's.
    if src >> 32 == 0xffff || dst >> 32 == 0xffff {
        return None;
    }
    let (mut at, mut proto) = (40, h[6]);
    for _ in 0..MAX_HEADERS {
        let ext = match proto {
            0 | 43 | 60 => ip.get(at..)?.first_chunk::<4>().map(|e| (e[0], usize::from(e[1]) * 8 + 8))?,
            44 => {
                let e = ip.get(at..)?.first_chunk::<4>()?;
                if u16::from_be_bytes([e[2], e[3]]) & 0xfff8 != 0 {
                    return None;
                }
                (e[0], 8)
            }
            _ => return Some((at, Quoted { src, dst, proto, ..Quoted::default() })),
        };
        proto = ext.0;
        at += ext.1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{mapped, parse};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn inner() -> Vec<u8> {
        let mut out = Vec::new();
        let udp = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1000, 2000);
        udp.write(&mut out, b"some payload").unwrap();
        out
    }

    fn error(payload: &[u8], unreachable_code: u8, mtu: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let kind = etherparse::Icmpv4Type::Unknown {
            type_u8: 3,
            code_u8: unreachable_code,
            bytes5to8: [0, 0, (mtu >> 8) as u8, mtu as u8],
        };
        let icmp =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], [10, 0, 0, 1], 64).icmpv4(kind);
        icmp.write(&mut out, payload).unwrap();
        out
    }

    #[test]
    fn a_quoted_datagram_names_its_flow() {
        let frame = error(&inner()[..28], 4, 1400);
        let p = parse(&frame, frame.len(), false).unwrap();
        assert!(p.is_icmp_error());
        let q = quoted(&frame, &p).unwrap();
        assert_eq!((q.sport, q.dport, q.proto, q.mtu), (1000, 2000, UDP, Some(1400)));
        assert_eq!(q.src, mapped(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(q.dst, mapped(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn a_cut_quotation_and_a_later_fragment_name_none() {
        for cut in 0..24 {
            let frame = error(&inner()[..cut], 1, 0);
            let p = parse(&frame, frame.len(), false).unwrap();
            assert_eq!(quoted(&frame, &p), None, "{cut} bytes");
            // Nor does it when the rest lies behind the packet, as a link's padding does.
            let padded = [&frame[..], &inner()[cut..]].concat();
            let p = parse(&padded, padded.len(), false).unwrap();
            assert_eq!(quoted(&padded, &p), None, "{cut} bytes and padding");
        }
        let mut later = inner();
        later[7] = 1;
        let frame = error(&later, 1, 0);
        let p = parse(&frame, frame.len(), false).unwrap();
        assert_eq!(quoted(&frame, &p), None);
    }

    #[test]
    fn packet_too_big_quotes_behind_extension_headers() {
        let (src, dst) =
            (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        let mut ip = Vec::new();
        let tcp = PacketBuilder::ipv6(src.octets(), dst.octets(), 9).tcp(40_000, 443, 7, 100);
        tcp.write(&mut ip, b"abc").unwrap();
        ip[6] = 60;
        ip.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        let mut frame = Vec::new();
        let kind = etherparse::Icmpv6Type::PacketTooBig { mtu: 1300 };
        let icmp = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(dst.octets(), src.octets(), 64).icmpv6(kind);
        icmp.write(&mut frame, &ip).unwrap();
        let p = parse(&frame, frame.len(), false).unwrap();
        let q = quoted(&frame, &p).unwrap();
        assert!(p.is_icmp_error());
        assert_eq!((q.sport, q.dport, q.proto, q.mtu), (40_000, 443, TCP, Some(1300)));
        assert_eq!((q.src, q.dst), (src.to_bits(), dst.to_bits()));
    }

    proptest! {
        #[test]
        fn any_quotation_is_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            let mut frame = error(&payload, 4, 600);
            let mut p = parse(&frame, frame.len(), false).unwrap();
            p.v6 = v6;
            let _ = quoted(&frame, &p);
            frame.truncate(usize::from(p.l4));
            prop_assert_eq!(quoted(&frame, &p), None);
        }
    }
}
