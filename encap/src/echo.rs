//! ICMP echo for asking a path how long it takes and how large a packet passes (RFC 792, RFC 4443 section 4).
//!
//! Requests of ours, and what comes back about them: answers, and routers' "too big" that quote them. Messages are as a
//! raw socket has them: IPv4 with its IP header when received, IPv6 without.

use crate::checksum;

/// Bytes of an echo's header.
pub const ECHO_LEN: usize = 8;

/// Where ICMP and ICMPv6 differ: type numbers.
const REQUEST: [u8; 2] = [8, 128];
const ANSWER: [u8; 2] = [0, 129];
const TOO_BIG: [u8; 2] = [3, 2];
/// "Fragmentation needed" among the codes of type 3 (RFC 1191).
const NEEDS_FRAGMENTS: u8 = 4;
const ICMP: [u8; 2] = [1, 58];

/// What a received message says about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo<'a> {
    /// It answers one.
    Answer {
        /// The identifier of the request.
        id: u16,
        /// Its sequence number.
        number: u16,
        /// Its data.
        data: &'a [u8],
    },
    /// Somebody on the way says that one is too large.
    TooBig {
        /// The identifier of the request.
        id: u16,
        /// Its sequence number.
        number: u16,
        /// Where it was going.
        to: std::net::IpAddr,
        /// What fits, bytes; 0 = it does not say.
        mtu: u16,
    },
}

/// The types of messages that [`read`] understands.
#[must_use]
pub const fn types(v6: bool) -> [u8; 2] {
    [ANSWER[v6 as usize], TOO_BIG[v6 as usize]]
}

/// Writes a request into `message`, whose bytes behind the header are its data and stay. False when there is no room. The
/// checksum is written for IPv4; the kernel writes that of ICMPv6.
pub fn request(message: &mut [u8], v6: bool, id: u16, number: u16) -> bool {
    let Some(header) = message.first_chunk_mut::<ECHO_LEN>() else { return false };
    let ([a, b], [c, d]) = (id.to_be_bytes(), number.to_be_bytes());
    *header = [REQUEST[usize::from(v6)], 0, 0, 0, a, b, c, d];
    if !v6 {
        let sum = checksum::sum(message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// Reads a message; none for what is neither an answer nor a "too big" about a request.
#[must_use]
pub fn read(message: &[u8], v6: bool) -> Option<Echo<'_>> {
    let family = usize::from(v6);
    let icmp = if v6 { message } else { message.get(usize::from(message.first()? & 15) * 4..)? };
    let (&[kind, code, _, _, a, b, c, d], data) = icmp.split_first_chunk::<ECHO_LEN>()?;
    if kind == ANSWER[family] {
        return Some(Echo::Answer {
            id: u16::from_be_bytes([a, b]),
            number: u16::from_be_bytes([c, d]),
            data,
        });
    }
    if kind != TOO_BIG[family] || (!v6 && code != NEEDS_FRAGMENTS) {
        return None;
    }
    let mtu = if v6 {
        u16::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(u16::MAX)
    } else {
        u16::from_be_bytes([c, d])
    };
    let (to, proto, at): (std::net::IpAddr, u8, usize) = if v6 {
        let ip = data.first_chunk::<40>()?;
        (ip[24..].first_chunk::<16>().copied()?.into(), ip[6], 40)
    } else {
        let ip = data.first_chunk::<20>()?;
        (ip[16..].first_chunk::<4>().copied()?.into(), ip[9], usize::from(ip[0] & 15) * 4)
    };
    let &[kind, _, _, _, a, b, c, d] = data.get(at..)?.first_chunk::<ECHO_LEN>()?;
    if proto != ICMP[family] || kind != REQUEST[family] || at < 20 {
        return None;
    }
    Some(Echo::TooBig { id: u16::from_be_bytes([a, b]), number: u16::from_be_bytes([c, d]), to, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn sent(v6: bool) -> Vec<u8> {
        let mut message = vec![7; 40];
        assert!(request(&mut message, v6, 0x1234, 0x5678));
        message
    }

    #[test]
    fn another_writer_writes_the_same_request() {
        let mut frame = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 9)
            .icmpv4_echo_request(0x1234, 0x5678)
            .write(&mut frame, &[7; 32])
            .unwrap();
        assert_eq!(sent(false), frame[20..]);
        assert!(!request(&mut [0; 7], false, 1, 2));
    }

    #[test]
    fn answers_and_too_big_are_read() {
        let mut answer = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 9)
            .icmpv4_echo_reply(0x1234, 0x5678)
            .write(&mut answer, b"data")
            .unwrap();
        assert_eq!(read(&answer, false), Some(Echo::Answer { id: 0x1234, number: 0x5678, data: b"data" }));
        let mut six = sent(true);
        six[0] = 129;
        assert_eq!(read(&six, true), Some(Echo::Answer { id: 0x1234, number: 0x5678, data: &[7; 32] }));

        for v6 in [false, true] {
            let mut quoted = Vec::new();
            let proto = etherparse::IpNumber(ICMP[usize::from(v6)]);
            if v6 {
                PacketBuilder::ipv6([1; 16], [2; 16], 9).write(&mut quoted, proto, &sent(true)).unwrap();
            } else {
                PacketBuilder::ipv4([1; 4], [2; 4], 9).write(&mut quoted, proto, &sent(false)).unwrap();
            }
            let to = if v6 { [2u8; 16].into() } else { [2u8; 4].into() };
            let head: [u8; 8] = if v6 { [2, 0, 0, 0, 0, 0, 5, 0] } else { [3, 4, 0, 0, 0, 0, 5, 0] };
            let mut message = if v6 { Vec::new() } else { vec![0x45; 20] };
            message.extend_from_slice(&head);
            message.extend_from_slice(&quoted);
            let expected = Echo::TooBig { id: 0x1234, number: 0x5678, to, mtu: 1280 };
            assert_eq!(read(&message, v6), Some(expected));
            let ip = if v6 { 0 } else { 20 };
            message[ip + 1] ^= 1;
            assert_eq!(read(&message, v6).is_some(), v6, "another code of type 3");
            message[ip + 1] ^= 1;
            let at = message.len() - 40;
            message[at] ^= 1;
            assert_eq!(read(&message, v6), None, "it quotes something else");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..100), v6: bool) {
            let _ = read(&bytes, v6);
        }
    }
}
