//! Frames written by hand (by etherparse, that is: not by the code under test), for what no stack would send.

use std::net::IpAddr;

use encap::{Mac, VnetHdr, parse::parse};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, PacketBuilder, PacketBuilderStep,
};
use vswitch::snapshot::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};

use super::host::Identity;

/// Ports of a crafted packet: source, destination.
pub type Ports = (u16, u16);

fn ethernet(src: Mac, dst: Mac) -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(src.0, dst.0)
}

/// The IP step of a builder, of the family of the addresses.
macro_rules! ip {
    ($src:expr, $dst:expr, $from:expr, $to:expr, $ttl:expr) => {
        match ($from, $to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet($src, $dst).ipv4(from.octets(), to.octets(), $ttl),
            (from, to) => ethernet($src, $dst).ipv6(six(from), six(to), $ttl),
        }
    };
}

fn six(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Source MAC address.
    pub src: Mac,
    /// Destination MAC address.
    pub dst: Mac,
    /// Source address.
    pub from: IpAddr,
    /// Destination address, of the same family.
    pub to: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Way {
    /// From a pod through its gateway.
    #[must_use]
    pub fn routed(pod: &Identity, to: IpAddr) -> Self {
        Self { src: pod.mac, dst: GATEWAY_MAC, from: pod.addr(to.is_ipv6()), to, ttl: 64 }
    }

    /// A UDP datagram of `len` bytes.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn udp(&self, ports: Ports, len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let step = ip!(self.src, self.dst, self.from, self.to, self.ttl).udp(ports.0, ports.1);
        step.write(&mut frame, &vec![0x55; len]).expect("it fits");
        frame
    }

    /// A TCP segment with ACK and PSH and `len` bytes.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn tcp(&self, ports: Ports, seq: u32, len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let step =
            ip!(self.src, self.dst, self.from, self.to, self.ttl).tcp(ports.0, ports.1, seq, 1000).ack(1);
        step.psh().write(&mut frame, &vec![0x66; len]).expect("it fits");
        frame
    }

    /// A TCP segment with this flag byte and no payload. Its checksum is wrong.
    ///
    /// # Panics
    /// Never: it fits.
    #[must_use]
    pub fn tcp_flags(&self, ports: Ports, flags: u8) -> Vec<u8> {
        let mut frame = self.tcp(ports, 1000, 0);
        let at = frame.len() - 20 + 13;
        frame[at] = flags;
        frame
    }

    /// An SCTP packet with one chunk of this type.
    #[must_use]
    pub fn sctp(&self, ports: Ports, chunk: u8) -> Vec<u8> {
        let ports = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        self.proto(132, &[&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, chunk, 0, 0, 4]].concat())
    }

    /// A TCP super-frame of `len` bytes to be cut at `gso_size`, as a pod with offloads sends it.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn super_tcp(&self, ports: Ports, seq: u32, len: usize, gso_size: u16) -> (VnetHdr, Vec<u8>) {
        let mut frame = self.tcp(ports, seq, len);
        let p = parse(&frame, frame.len(), true).expect("etherparse writes what we parse");
        let field = usize::from(p.l4) + 16;
        let partial = encap::checksum::pseudo(&p, p.l4_len()).fold();
        frame[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        let vnet = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: if p.v6 { VnetHdr::GSO_TCPV6 } else { VnetHdr::GSO_TCPV4 },
            hdr_len: p.l4 + 20,
            gso_size,
            csum_start: p.l4,
            csum_offset: 16,
        };
        (vnet, frame)
    }

    /// An echo request of `len` bytes.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn ping(&self, len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let step = ip!(self.src, self.dst, self.from, self.to, self.ttl);
        let payload = vec![0x77; len];
        match self.to {
            IpAddr::V4(_) => step.icmpv4_echo_request(1, 2).write(&mut frame, &payload),
            IpAddr::V6(_) => step.icmpv6_echo_request(1, 2).write(&mut frame, &payload),
        }
        .expect("it fits");
        frame
    }

    /// Any message of the family's ICMP.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let step = ip!(self.src, self.dst, self.from, self.to, self.ttl);
        match self.to {
            IpAddr::V4(_) => step.icmpv4_raw(kind, code, rest).write(&mut frame, payload),
            IpAddr::V6(_) => step.icmpv6_raw(kind, code, rest).write(&mut frame, payload),
        }
        .expect("it fits");
        frame
    }

    /// A packet of any other protocol, IPv6 extension headers included: `payload` follows the IP header as it is.
    ///
    /// # Panics
    /// When it would be longer than IP allows.
    #[must_use]
    pub fn proto(&self, number: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let step = ip!(self.src, self.dst, self.from, self.to, self.ttl);
        // 253 is for experiments (RFC 3692): etherparse wants to understand the numbers it knows.
        step.write(&mut frame, 253.into(), payload).expect("it fits");
        match self.to {
            IpAddr::V4(_) => {
                frame[23] = number;
                frame[24..26].fill(0);
                let sum = encap::checksum::sum(&frame[14..34]).finish();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(_) => frame[20] = number,
        }
        frame
    }
}

/// A pod asks who has an IPv4 address.
///
/// # Panics
/// Never: an ARP packet fits.
#[must_use]
pub fn arp_request(pod: &Identity, target: std::net::Ipv4Addr) -> Vec<u8> {
    arp(pod, ArpOperation::REQUEST, pod.v4, target)
}

/// A pod sends an ARP packet of its choice, in its own hardware address's name.
///
/// # Panics
/// Never: an ARP packet fits.
#[must_use]
pub fn arp(
    pod: &Identity,
    operation: ArpOperation,
    sender: std::net::Ipv4Addr,
    target: std::net::Ipv4Addr,
) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: pod.mac.0,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    let mut frame = Vec::new();
    ethernet(pod.mac, Mac::BROADCAST).arp(packet.into()).write(&mut frame).expect("a vector takes all");
    frame
}

/// A pod asks for the gateway's MAC address by IPv6.
#[must_use]
pub fn solicit_gateway(pod: &Identity) -> Vec<u8> {
    let way = Way {
        src: pod.mac,
        dst: Mac([0x33, 0x33, 0xff, 0, 0, 1]),
        from: pod.v6.into(),
        to: "ff02::1:ff00:1".parse().expect("an address"),
        ttl: 255,
    };
    let option = [&[1, 1][..], &pod.mac.0].concat();
    way.icmp(135, 0, [0; 4], &[&GATEWAY_V6.octets()[..], &option].concat())
}

/// A pod asks for the gateway's MAC address by IPv4.
#[must_use]
pub fn who_has_gateway(pod: &Identity) -> Vec<u8> {
    arp_request(pod, GATEWAY_V4)
}

/// The same frame with an 802.1Q tag.
#[must_use]
pub fn tagged(frame: &[u8], tag: EtherType) -> Vec<u8> {
    [&frame[..12], &tag.0.to_be_bytes(), &[0, 5], &frame[12..]].concat()
}

/// The frame with its IPv4 header changed by hand and its header checksum right again.
#[must_use]
pub fn patched(frame: &[u8], patch: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    patch(&mut frame);
    let header = 14 + usize::from(frame[14] & 15) * 4;
    if frame[12..14] == [8, 0] && header <= frame.len() {
        frame[24..26].fill(0);
        let sum = encap::checksum::sum(&frame[14..header]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// The frame with IPv4 options between header and payload.
#[must_use]
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let longer = [&frame[..34], options, &frame[34..]].concat();
    let total = (longer.len() - 14) as u16;
    patched(&longer, |f| {
        f[14] = 0x45 + (options.len() / 4) as u8;
        f[16..18].copy_from_slice(&total.to_be_bytes());
    })
}
