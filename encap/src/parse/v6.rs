//! IPv6 header and its extension chain (RFC 8200 sections 3 and 4).
//!
//! The walk is bounded in headers and in bytes. AH and ESP end it: what they protect is not ours to read, and a rule for
//! ports must not match through them.

use super::{Frag, ParseError, Parsed, upper};
use crate::checksum::TCP;

/// Most extension headers followed.
const MAX_HEADERS: usize = 8;
/// Most bytes of extension headers followed.
const MAX_BYTES: usize = 512;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NO_NEXT: u8 = 59;
const DEST_OPTIONS: u8 = 60;
const JUMBO_OPTION: u8 = 0xc2;

#[inline]
pub(super) fn parse(ip: &[u8], room: u32, gso: bool, p: &mut Parsed) -> Result<(), ParseError> {
    let h = ip.first_chunk::<40>().ok_or(ParseError::Truncated)?;
    if h[0] >> 4 != 6 {
        return Err(ParseError::BadVersion);
    }
    let payload = u32::from(u16::from_be_bytes([h[4], h[5]]));
    let total = if gso && payload == 0 { room } else { payload + 40 };
    if total > room {
        return Err(ParseError::BadLength);
    }
    let (src, dst) = h[8..40].split_at(16);
    p.v6 = true;
    p.df = true;
    p.ip_len = total;
    p.ttl = h[7];
    p.proto = h[6];
    p.src = src.first_chunk().map_or(0, |b| u128::from_be_bytes(*b));
    p.dst = dst.first_chunk().map_or(0, |b| u128::from_be_bytes(*b));
    // ::ffff:a.b.c.d never travels (RFC 4291 section 2.5.5.2); here it would pass for the IPv4 address.
    if p.src >> 32 == 0xffff || p.dst >> 32 == 0xffff {
        return Err(ParseError::BadVersion);
    }
    let at = match p.proto {
        HOP_BY_HOP | ROUTING | FRAGMENT | NO_NEXT | DEST_OPTIONS => walk(ip, total, p)?,
        _ => 40,
    };
    upper(ip, at, total - at as u32, gso, p)
}

/// Follows the extension chain; returns the offset of the upper-layer header.
#[cold]
fn walk(ip: &[u8], total: u32, p: &mut Parsed) -> Result<usize, ParseError> {
    let mut at = 40;
    let mut fragmented = false;
    for n in 0..=MAX_HEADERS {
        match p.proto {
            HOP_BY_HOP if n != 0 => return Err(ParseError::BadExtension),
            NO_NEXT => return Err(ParseError::BadExtension),
            HOP_BY_HOP | ROUTING | FRAGMENT | DEST_OPTIONS => {}
            _ => return Ok(at),
        }
        if n == MAX_HEADERS {
            break;
        }
        let cut = if p.frag == Frag::First { ParseError::TinyFragment } else { ParseError::Truncated };
        if at as u32 + 8 > total {
            return Err(cut);
        }
        let h = ip.get(at..).and_then(<[u8]>::first_chunk::<8>).ok_or(ParseError::Truncated)?;
        let len = if p.proto == FRAGMENT { 8 } else { usize::from(h[1]) * 8 + 8 };
        if at + len > 40 + MAX_BYTES {
            return Err(ParseError::BadExtension);
        }
        if (at + len) as u32 > total {
            return Err(cut);
        }
        let body = ip.get(at..at + len).ok_or(ParseError::Truncated)?;
        match p.proto {
            HOP_BY_HOP => refuse_jumbo(&body[2..])?,
            // RFC 5095 deprecates type 0; any other type with hops left still lets the sender choose the path.
            ROUTING if h[2] == 0 => return Err(ParseError::BadExtension),
            ROUTING if h[3] != 0 => return Err(ParseError::SourceRoute),
            FRAGMENT => {
                if fragmented {
                    return Err(ParseError::BadExtension);
                }
                fragmented = true;
                fragment(h, total - (at + len) as u32, p)?;
            }
            _ => {}
        }
        at += len;
        p.proto = h[0];
        if p.frag == Frag::Later {
            // What follows is payload; the chain cannot be read on.
            return Ok(at);
        }
    }
    Err(ParseError::BadExtension)
}

/// The fragment header (RFC 8200 section 4.5); `len` bytes follow it.
fn fragment(h: &[u8; 8], len: u32, p: &mut Parsed) -> Result<(), ParseError> {
    let word = u16::from_be_bytes([h[2], h[3]]);
    let (offset, more) = (u32::from(word & 0xfff8), word & 1 != 0);
    p.frag_id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    if offset == 0 && !more {
        return Ok(()); // RFC 6946: an atomic fragment is a whole packet
    }
    if offset + len > 65_535 || (more && !len.is_multiple_of(8)) {
        return Err(ParseError::BadExtension);
    }
    if len == 0 || (offset == 8 && h[0] == TCP) {
        return Err(ParseError::TinyFragment);
    }
    p.frag = if offset == 0 { Frag::First } else { Frag::Later };
    (p.frag_offset, p.frag_len, p.frag_more) = (offset as u16, len as u16, more);
    Ok(())
}

/// Walks the options of a hop-by-hop header: well formed, and no jumbo payload (RFC 2675).
fn refuse_jumbo(mut bytes: &[u8]) -> Result<(), ParseError> {
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            0 => bytes = rest,
            JUMBO_OPTION => return Err(ParseError::BadExtension),
            _ => {
                let len = usize::from(*rest.first().ok_or(ParseError::BadExtension)?);
                bytes = rest.get(1 + len..).ok_or(ParseError::BadExtension)?;
            }
        }
    }
    Ok(())
}
