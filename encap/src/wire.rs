//! Typed views of the fixed headers, for everything that builds or reads a packet off the hot path: replies, tests,
//! tools.
//!
//! Each header is a `zerocopy` struct of network-order fields. Reading is [`view`]: total, bounds checked, no copy.
//! Writing is [`put`], or `as_bytes()` into a frame's headroom. A view says what the bytes are, not whether they are
//! sane; what a packet must satisfy to be forwarded is decided by [`parse`](crate::parse::parse), which also walks the
//! IPv6 extension chain.

pub mod arp;
pub mod eth;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header at the front of `bytes`, and what follows it; `None` when they are too short.
#[inline]
pub fn view<T>(bytes: &[u8]) -> Option<(&T, &[u8])>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(bytes).ok()
}

/// The header at the front of `bytes` to change it, and what follows it; `None` when they are too short.
#[inline]
pub fn view_mut<T>(bytes: &mut [u8]) -> Option<(&mut T, &mut [u8])>
where
    T: FromBytes + IntoBytes + KnownLayout + Unaligned,
{
    T::mut_from_prefix(bytes).ok()
}

/// Writes `header` to the front of `out` and returns what follows; `None`, and nothing written, when it does not fit.
#[inline]
pub fn put<'a, T: IntoBytes + Immutable>(header: &T, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let (front, rest) = out.split_at_mut_checked(size_of::<T>())?;
    front.copy_from_slice(header.as_bytes());
    Some(rest)
}

#[cfg(test)]
mod tests;
