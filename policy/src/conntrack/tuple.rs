//! What a packet says about the flow it belongs to, and the one form in which both directions are stored.
//!
//! Plain values. Never done here: decisions about whether a packet fits the flow's state.

#[cfg(test)]
mod tests;

use crate::flow::{FlowKey, HashKey};

/// ICMP for IPv4.
pub(super) const ICMP: u8 = 1;
/// TCP.
pub(super) const TCP: u8 = 6;
/// UDP.
pub(super) const UDP: u8 = 17;
/// ICMP for IPv6.
pub(super) const ICMPV6: u8 = 58;
/// SCTP.
pub(super) const SCTP: u8 = 132;

/// The smallest IPv4 MTU that a "fragmentation needed" may teach (Linux's `min_pmtu`); below it, the message is forged
/// or broken.
pub const MTU_FLOOR_V4: u32 = 552;
/// The smallest IPv6 MTU there is (RFC 8200, section 5).
pub const MTU_FLOOR_V6: u32 = 1280;

/// Addresses, protocol and ports of one packet, in the conventions of [`FlowKey`]: IPv4 mapped, ports in host order,
/// ICMP with `type << 8 | code` as source port and the identifier of an echo as destination port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Final IP protocol number.
    pub proto: u8,
}

impl From<&FlowKey> for Tuple {
    fn from(key: &FlowKey) -> Self {
        Self { src: key.src, dst: key.dst, sport: key.sport, dport: key.dport, proto: key.proto }
    }
}

/// Which way a packet goes in its flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// As the packet that opened the flow.
    Original,
    /// Against it.
    Reply,
}

/// What an ICMP message is to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Icmp {
    EchoRequest,
    EchoReply,
    /// Reports about another packet (RFC 792, RFC 4443 section 2.1): belongs to that packet's flow, has none itself.
    Error,
    Other,
}

/// Both directions of a flow in one form: end `a` is the smaller (address, port).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) a: u128,
    pub(super) b: u128,
    pub(super) a_port: u16,
    pub(super) b_port: u16,
    pub(super) proto: u8,
    /// An echo asked by end `b`. Two hosts that ping each other with one identifier have two flows.
    pub(super) b_asks: bool,
}

impl Tuple {
    /// What the message is; `None` when the protocol is not ICMP.
    pub(super) fn icmp(&self) -> Option<Icmp> {
        let kind = self.sport >> 8;
        match self.proto {
            ICMP => Some(match kind {
                8 => Icmp::EchoRequest,
                0 => Icmp::EchoReply,
                3 | 4 | 5 | 11 | 12 => Icmp::Error,
                _ => Icmp::Other,
            }),
            ICMPV6 => Some(match kind {
                128 => Icmp::EchoRequest,
                129 => Icmp::EchoReply,
                0..128 => Icmp::Error,
                _ => Icmp::Other,
            }),
            _ => None,
        }
    }

    /// The stored form, and whether this packet was sent by end `b`.
    ///
    /// An echo has its identifier at both ends, so that request and reply meet; any other ICMP message its type and
    /// code at one and their complement at the other, so that it never meets an echo.
    pub(super) fn key(&self) -> (Key, bool) {
        let icmp = self.icmp();
        let from_b = match icmp {
            Some(_) => self.src > self.dst,
            None => (self.src, self.sport) > (self.dst, self.dport),
        };
        let (a, b) = if from_b { (self.dst, self.src) } else { (self.src, self.dst) };
        let (a_port, b_port) = match icmp {
            Some(Icmp::EchoRequest | Icmp::EchoReply) => (self.dport, self.dport),
            Some(Icmp::Error | Icmp::Other) => (self.sport, !self.sport),
            None if from_b => (self.dport, self.sport),
            None => (self.sport, self.dport),
        };
        let b_asks = match icmp {
            Some(Icmp::EchoRequest) => from_b,
            Some(Icmp::EchoReply) => self.dst > self.src,
            _ => false,
        };
        (Key { a, b, a_port, b_port, proto: self.proto, b_asks }, from_b)
    }
}

impl Key {
    /// Keyed hash, the same for both directions.
    pub(super) fn hash(&self, secret: &HashKey) -> u64 {
        FlowKey {
            src: self.a,
            dst: self.b,
            sport: self.a_port,
            dport: self.b_port,
            proto: self.proto,
            frag: u8::from(self.b_asks),
            ingress: 0,
        }
        .hash(secret)
    }

    /// The tuple of the packets that end `b` (`from_b`) or `a` sends.
    pub(super) fn tuple(&self, from_b: bool) -> Tuple {
        let (src, dst) = if from_b { (self.b, self.a) } else { (self.a, self.b) };
        let (sport, dport) = match self.proto {
            ICMP | ICMPV6 if self.a_port == self.b_port => {
                let kind = match (self.proto, self.b_asks == from_b) {
                    (ICMP, true) => 8,
                    (ICMP, false) => 0,
                    (_, true) => 128,
                    (_, false) => 129,
                };
                (kind << 8, self.a_port)
            }
            ICMP | ICMPV6 => (self.a_port, 0),
            _ if from_b => (self.b_port, self.a_port),
            _ => (self.a_port, self.b_port),
        };
        Tuple { src, dst, sport, dport, proto: self.proto }
    }
}
