//! UPDATEs, sent: as few as the prefixes fit into.
//!
//! IPv4 prefixes with an IPv4 next hop lie where RFC 4271 puts them; all others in MP_REACH_NLRI and MP_UNREACH_NLRI,
//! which stand first (RFC 7606 section 5.1).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::attr::Attributes;
use crate::attr::code::{EXTENDED, MP_REACH_NLRI, MP_UNREACH_NLRI, OPTIONAL};
use crate::family::Family;
use crate::frame::{self, Kind};
use crate::nlri;

/// A whole message, shared by all who are sent it.
pub(crate) type Bytes = Arc<[u8]>;

/// What a message has besides attributes and prefixes, at most: header, both lengths, MP_REACH_NLRI up to its
/// prefixes, and the longest prefix.
const OVERHEAD: usize = frame::HEADER + 4 + (4 + 4 + 16 + 1) + 17;

/// The encoded attributes of routes about to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    next_hop: IpAddr,
    family: Family,
}

impl Encoded {
    /// Encodes; `None` when not even one prefix would fit into a message of `most` bytes beside them.
    pub(crate) fn new(attributes: &Attributes, family: Family, wide: bool, most: usize) -> Option<Encoded> {
        let next_hop = attributes.next_hop.addr;
        let mut bytes = Vec::new();
        attributes.emit(wide, family == Family::Ipv4 && next_hop.is_ipv4(), &mut bytes);
        (bytes.len() + OVERHEAD <= most).then_some(Encoded { bytes, next_hop, family })
    }

    /// Writes messages of at most `most` bytes that announce all prefixes.
    pub(crate) fn announce(&self, prefixes: &[IpNet], most: usize, out: &mut Vec<Bytes>) {
        let multiprotocol = self.family == Family::Ipv6 || self.next_hop.is_ipv6();
        let mut field = Vec::with_capacity(most);
        let mut flush = |field: &mut Vec<u8>| {
            if !field.is_empty() {
                out.push(if multiprotocol { self.reach(field) } else { self.plain(field) });
                field.clear();
            }
        };
        // The overhead counts the longest prefix in.
        let room = most - OVERHEAD - self.bytes.len() + 17;
        for net in prefixes {
            if field.len() + nlri::wire_len(net) > room {
                flush(&mut field);
            }
            nlri::emit(net, &mut field);
        }
        flush(&mut field);
    }

    fn plain(&self, field: &[u8]) -> Bytes {
        message(&[&[0, 0], &length(self.bytes.len()), &self.bytes, field])
    }

    fn reach(&self, field: &[u8]) -> Bytes {
        let mut value = family_bytes(self.family).to_vec();
        match self.next_hop {
            IpAddr::V4(addr) => {
                value.push(4);
                value.extend(addr.octets());
            }
            IpAddr::V6(addr) => {
                value.push(16);
                value.extend(addr.octets());
            }
        }
        value.push(0);
        let inner = value.len() + field.len();
        let head = attribute_head(MP_REACH_NLRI, inner);
        let total = head.len() + inner + self.bytes.len();
        message(&[&[0, 0], &length(total), &head, &value, field, &self.bytes])
    }
}

/// Writes messages of at most `most` bytes that withdraw all prefixes.
pub(crate) fn withdraw(family: Family, prefixes: &[IpNet], most: usize, out: &mut Vec<Bytes>) {
    let room = most - OVERHEAD;
    let mut field = Vec::new();
    let mut flush = |field: &mut Vec<u8>| {
        if !field.is_empty() {
            out.push(match family {
                Family::Ipv4 => message(&[&length(field.len()), field, &[0, 0]]),
                Family::Ipv6 => unreach(family, field),
            });
            field.clear();
        }
    };
    for net in prefixes {
        if field.len() + nlri::wire_len(net) > room {
            flush(&mut field);
        }
        nlri::emit(net, &mut field);
    }
    flush(&mut field);
}

/// End-of-RIB (RFC 4724 section 2).
pub(crate) fn end_of_rib(family: Family) -> Bytes {
    match family {
        Family::Ipv4 => message(&[&[0; 4]]),
        Family::Ipv6 => unreach(family, &[]),
    }
}

fn unreach(family: Family, field: &[u8]) -> Bytes {
    let inner = 3 + field.len();
    let head = attribute_head(MP_UNREACH_NLRI, inner);
    message(&[&[0, 0], &length(head.len() + inner), &head, &family_bytes(family), field])
}

fn family_bytes(family: Family) -> [u8; 3] {
    let [a, b] = family.afi().to_be_bytes();
    [a, b, Family::SAFI]
}

/// Flags, code and length of an attribute with this many bytes.
fn attribute_head(code: u8, inner: usize) -> Vec<u8> {
    match u8::try_from(inner) {
        Ok(short) => vec![OPTIONAL, code, short],
        Err(_) => {
            let [high, low] = length(inner);
            vec![OPTIONAL | EXTENDED, code, high, low]
        }
    }
}

/// A length in two bytes. Callers keep to the longest message, so it fits.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn message(parts: &[&[u8]]) -> Bytes {
    let total = frame::HEADER + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Vec::with_capacity(total);
    frame::emit_header(Kind::Update, total, &mut out);
    parts.iter().for_each(|part| out.extend(*part));
    out.into()
}
