//! IPv4 header (RFC 791 section 3.1): lengths, checksum, options, fragments.

use super::{Frag, ParseError, Parsed, upper};
use crate::checksum::{self, TCP};

const LSRR: u8 = 131;
const SSRR: u8 = 137;

#[inline]
pub(super) fn parse(ip: &[u8], room: u32, gso: bool, p: &mut Parsed) -> Result<(), ParseError> {
    let h = ip.first_chunk::<20>().ok_or(ParseError::Truncated)?;
    if h[0] >> 4 != 4 {
        return Err(ParseError::BadVersion);
    }
    let ihl = usize::from(h[0] & 0x0f) * 4;
    if ihl < 20 {
        return Err(ParseError::BadIhl);
    }
    let mut sum = checksum::sum20(h);
    if ihl > 20 {
        let options = ip.get(20..ihl).ok_or(ParseError::Truncated)?;
        sum = sum.plus(checksum::sum(options));
    }
    let mut total = u32::from(u16::from_be_bytes([h[2], h[3]]));
    if gso && total == 0 {
        total = room;
    }
    if total < ihl as u32 || total > room {
        return Err(ParseError::BadLength);
    }
    if sum.fold() != 0xffff {
        return Err(ParseError::BadChecksum);
    }
    if ihl > 20 {
        options(&ip[20..ihl])?;
    }
    let flags = u16::from_be_bytes([h[6], h[7]]);
    let len = total - ihl as u32;
    p.ip_len = total;
    p.ttl = h[8];
    p.proto = h[9];
    p.df = flags & 0x4000 != 0;
    p.frag_id = u32::from(u16::from_be_bytes([h[4], h[5]]));
    p.src = super::mapped([h[12], h[13], h[14], h[15]].into());
    p.dst = super::mapped([h[16], h[17], h[18], h[19]].into());
    if flags & 0x3fff != 0 {
        let (offset, more) = (u32::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        p.frag = if offset == 0 { Frag::First } else { Frag::Later };
        (p.frag_offset, p.frag_len, p.frag_more) = (offset as u16, len as u16, more);
        if offset + len > 65_535 || (more && !len.is_multiple_of(8)) {
            return Err(ParseError::BadLength);
        }
        // RFC 1858 section 3.2.2, RFC 3128: a second fragment at offset 8 rewrites the flags of the TCP header.
        if len == 0 || (offset == 8 && p.proto == TCP) {
            return Err(ParseError::TinyFragment);
        }
    }
    upper(ip, ihl, len, gso, p)
}

/// Walks the options: each must lie inside the header, none may choose the route.
fn options(mut bytes: &[u8]) -> Result<(), ParseError> {
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            0 => return Ok(()),
            1 => bytes = rest,
            LSRR | SSRR => return Err(ParseError::SourceRoute),
            _ => {
                let len = usize::from(*rest.first().ok_or(ParseError::BadLength)?);
                if len < 2 {
                    return Err(ParseError::BadLength);
                }
                bytes = bytes.get(len..).ok_or(ParseError::BadLength)?;
            }
        }
    }
    Ok(())
}
