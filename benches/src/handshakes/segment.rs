//! TCP segments without options or payload, as bytes behind and with an IPv4 header.

use std::net::Ipv4Addr;

use encap::checksum::{pseudo_v4, sum};

pub(super) const TCP: u8 = 6;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;
/// Where the flags are, from the start of an IPv4 header without options.
pub(super) const FLAGS_AT: u32 = 33;
/// Where the ports are, likewise.
pub(super) const SOURCE_AT: u32 = 20;
pub(super) const TARGET_AT: u32 = 22;

const LENGTH: usize = 40;

/// A packet.
pub(super) type Packet = [u8; LENGTH];

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) ports: [u16; 2],
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
}

impl Segment {
    /// The packet; the kernel fills in the IPv4 header's checksum.
    pub(super) fn packet(&self, from: Ipv4Addr, to: Ipv4Addr) -> Packet {
        let mut packet = [0; LENGTH];
        let (ip, tcp) = packet.split_at_mut(20);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
        ip[6] = 0x40; // not to be fragmented
        ip[8] = 64;
        ip[9] = TCP;
        ip[12..16].copy_from_slice(&from.octets());
        ip[16..20].copy_from_slice(&to.octets());
        tcp[..2].copy_from_slice(&self.ports[0].to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports[1].to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        let checksum = pseudo_v4(from, to, TCP, 20).plus(sum(tcp)).finish();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// What a packet of this kind says, and who sent it.
    pub(super) fn read(packet: &[u8]) -> Option<(Ipv4Addr, Segment)> {
        let packet: &Packet = packet.first_chunk()?;
        if packet[0] != 0x45 || packet[9] != TCP {
            return None;
        }
        let [a, b, c, d] = [packet[12], packet[13], packet[14], packet[15]];
        let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let word = |at: usize| (u32::from(half(at)) << 16) | u32::from(half(at + 2));
        let segment =
            Segment { ports: [half(20), half(22)], seq: word(24), ack: word(28), flags: packet[33] };
        Some((Ipv4Addr::new(a, b, c, d), segment))
    }

    /// An answer to it: back from where it came.
    pub(super) fn answer(&self, seq: u32, ack: u32, flags: u8) -> Segment {
        Segment { ports: [self.ports[1], self.ports[0]], seq, ack, flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);

    #[test]
    fn a_packet_says_what_it_was_made_of() {
        let syn = Segment { ports: [4097, 20_000], seq: 0xdead_beef, ack: 7, flags: SYN };
        assert_eq!(Segment::read(&syn.packet(A, B)), Some((A, syn)));
        assert_eq!(Segment::read(&syn.packet(A, B)[..39]), None);
        let answer = syn.answer(1, 2, SYN | ACK);
        assert_eq!((answer.ports, answer.flags), ([20_000, 4097], 0x12));
    }

    #[test]
    fn the_checksum_is_right_in_the_eyes_of_another() {
        let segment = Segment { ports: [4097, 20_000], seq: 1, ack: 0, flags: SYN };
        let packet = segment.packet(A, B);
        let header = etherparse::TcpHeader::from_slice(&packet[20..]).unwrap().0;
        assert_eq!(header.calc_checksum_ipv4_raw(A.octets(), B.octets(), &[]).unwrap(), header.checksum);
        assert!(header.syn && !header.ack && !header.rst);
    }
}
