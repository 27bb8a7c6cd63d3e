//! Bare IP in UDP, as flannel's udp backend has it: one datagram is one IP packet, no header of any kind.
//!
//! The inner packet has no Ethernet header, so one is taken off on the way in and made up on the way out.

use crate::ETH_LEN;
use crate::frame::Frame;
use crate::mac::Mac;
use crate::parse::ethertype;

/// Why a datagram is not one IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UdpError {
    /// Shorter than an IP header.
    #[error("bare IP packet is cut off")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("bare IP packet has version {0}")]
    Version(u8),
    /// The IP length is not the datagram's.
    #[error("bare IP packet length differs from its datagram")]
    Length,
}

/// The ethertype of the packet in a datagram.
///
/// # Errors
/// When the datagram is not exactly one IP packet: flannel's own proxy never adds bytes, so other lengths are lies.
#[inline]
pub fn check(datagram: &[u8]) -> Result<u16, UdpError> {
    let version = datagram.first().ok_or(UdpError::Truncated)? >> 4;
    let (kind, min, total) = match (version, datagram) {
        (4, [_, _, a, b, ..]) => (ethertype::IPV4, 20, usize::from(u16::from_be_bytes([*a, *b]))),
        (6, [_, _, _, _, a, b, ..]) => (ethertype::IPV6, 40, usize::from(u16::from_be_bytes([*a, *b])) + 40),
        (4 | 6, _) => return Err(UdpError::Truncated),
        _ => return Err(UdpError::Version(version)),
    };
    if datagram.len() < min {
        return Err(UdpError::Truncated);
    }
    if total != datagram.len() {
        return Err(UdpError::Length);
    }
    Ok(kind)
}

/// Takes the Ethernet header off a frame. False, and nothing done, when the frame is not plain IP over Ethernet.
#[inline]
pub fn strip(frame: &mut Frame) -> bool {
    matches!(
        frame.data(),
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ..]
            | [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..]
    ) && frame.pull(ETH_LEN)
}

/// Puts an Ethernet header in front of a received packet.
///
/// # Errors
/// See [`check`].
pub fn restore(frame: &mut Frame, dst: Mac, src: Mac) -> Result<(), UdpError> {
    let kind = check(frame.data())?;
    frame.push(ETH_LEN).copy_from_slice(&ethernet(dst, src, kind));
    Ok(())
}

/// An Ethernet header.
#[inline]
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16) -> [u8; ETH_LEN] {
    let mut out = [0; ETH_LEN];
    out[..6].copy_from_slice(&dst.0);
    out[6..12].copy_from_slice(&src.0);
    out[12..].copy_from_slice(&ethertype.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(v6: bool) -> Vec<u8> {
        let eth = etherparse::PacketBuilder::ethernet2([4; 6], [2; 6]);
        let mut out = Vec::new();
        if v6 {
            eth.ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut out, b"hello").unwrap();
        } else {
            eth.ipv4([10, 0, 0, 1], [10, 0, 1, 1], 9).udp(1, 2).write(&mut out, b"hello").unwrap();
        }
        out
    }

    #[test]
    fn the_ethernet_header_goes_and_comes_back() {
        for v6 in [false, true] {
            let bytes = udp(v6);
            let mut frame = Frame::with_capacity(200);
            assert!(frame.copy_from(&bytes));
            assert!(strip(&mut frame));
            assert_eq!(frame.data(), &bytes[14..]);
            assert!(!strip(&mut frame));
            assert_eq!(restore(&mut frame, Mac([2; 6]), Mac([4; 6])), Ok(()));
            assert_eq!(frame.data(), bytes);
        }
    }

    #[test]
    fn lengths_must_agree_with_the_datagram() {
        let v4 = udp(false)[14..].to_vec();
        assert_eq!(check(&v4), Ok(0x0800));
        assert_eq!(check(&v4[..v4.len() - 1]), Err(UdpError::Length));
        assert_eq!(check(&[&v4[..], &[0]].concat()), Err(UdpError::Length));
        assert_eq!(check(&v4[..19]), Err(UdpError::Truncated));
        assert_eq!(check(&v4[..2]), Err(UdpError::Truncated));
        assert_eq!(check(&[]), Err(UdpError::Truncated));
        assert_eq!(check(&[0x50; 40]), Err(UdpError::Version(5)));
        let v6 = udp(true)[14..].to_vec();
        assert_eq!(check(&v6), Ok(0x86dd));
        assert_eq!(check(&v6[..39]), Err(UdpError::Truncated));
    }
}
