//! Connections in a list: what the node's connection table should say, with no index, no slots and no threads.

use encap::Parsed;
use policy::conntrack::State::{self, *};
use policy::model::Packet;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// Sixteenths of a second.
const SECOND: u64 = 16;

/// What a packet says about its own place in a connection: TCP's flags, SCTP's first chunk, or nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// TCP's flag byte.
    Flags(u8),
    /// SCTP's first chunk.
    Chunk(u8),
    /// Nothing.
    None,
}

impl Word {
    /// That of a packet.
    #[must_use]
    pub fn of(p: &Parsed) -> Word {
        match p.proto {
            TCP if p.frag != encap::Frag::Later => Word::Flags(p.tcp_flags),
            SCTP if p.frag != encap::Frag::Later => Word::Chunk(p.sctp_chunk),
            _ => Word::None,
        }
    }
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its first packet.
    pub opened: Packet,
    /// Where it stands.
    pub state: State,
    /// When it was judged last.
    pub epoch: u64,
    created: u64,
    last: u64,
}

/// What a packet is to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A part of it.
    Pass,
    /// It cannot be.
    Invalid,
    /// The start of the next one.
    Reopen,
}

/// The connections.
#[derive(Debug, Default)]
pub struct Flows(Vec<Flow>);

fn is_icmp(p: &Packet) -> bool {
    matches!(p.proto, ICMP | ICMPV6)
}

fn is_request(p: &Packet) -> bool {
    matches!((p.proto, p.sport >> 8), (ICMP, 8) | (ICMPV6, 128))
}

fn is_answer(p: &Packet) -> bool {
    matches!((p.proto, p.sport >> 8), (ICMP, 0) | (ICMPV6, 129))
}

/// Does the packet go the way of the one that opened the connection?
fn same(opened: &Packet, p: &Packet) -> bool {
    let ports = if is_request(opened) {
        is_request(p) && opened.dport == p.dport
    } else {
        (opened.sport, opened.dport) == (p.sport, p.dport)
    };
    (opened.src, opened.dst, opened.proto) == (p.src, p.dst, p.proto) && ports
}

/// Does it go the other way?
fn back(opened: &Packet, p: &Packet) -> bool {
    let ports = if is_request(opened) {
        is_answer(p) && opened.dport == p.dport
    } else if is_icmp(opened) {
        !is_answer(p) && opened.sport == p.sport
    } else {
        (opened.sport, opened.dport) == (p.dport, p.sport)
    };
    (opened.src, opened.dst, opened.proto) == (p.dst, p.src, p.proto) && ports
}

impl Flows {
    /// The connection a packet is of, and whether it goes the way of the first packet.
    pub fn find(&mut self, p: &Packet, now: u64) -> Option<(&mut Flow, bool)> {
        let alive = |flow: &Flow| {
            now - flow.last <= lifetime(flow.state) * SECOND || now - flow.created <= 10 * SECOND
        };
        self.0.retain(alive);
        let at = self.0.iter().position(|flow| same(&flow.opened, p) || back(&flow.opened, p))?;
        let flow = &mut self.0[at];
        let original = same(&flow.opened, p);
        Some((flow, original))
    }

    /// Opens one, in place of any that is there.
    pub fn open(&mut self, p: &Packet, state: State, epoch: u64, now: u64) {
        self.0.retain(|flow| !same(&flow.opened, p) && !back(&flow.opened, p));
        self.0.push(Flow { opened: *p, state, epoch, created: now, last: now });
    }

    /// How many there are, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Flow {
    /// Takes a packet's step.
    pub fn step(&mut self, original: bool, word: Word, now: u64) -> Step {
        match next(self.state, original, word) {
            Ok(state) => {
                self.state = state;
                self.last = now;
                Step::Pass
            }
            Err(step) => step,
        }
    }

    /// Ends it.
    pub fn revoke(&mut self, epoch: u64, now: u64) {
        (self.state, self.epoch, self.last) = (Revoked, epoch, now);
    }

    /// Have both ends spoken, as far as an error about either's packets goes?
    #[must_use]
    pub fn two_way(&self) -> bool {
        let one_way =
            matches!(self.state, SynSent | UdpUnreplied | IcmpUnreplied | OtherUnreplied | SctpInit);
        !one_way && !matches!(self.state, Midway | SctpMidway)
    }
}

fn lifetime(state: State) -> u64 {
    match state {
        SynSent | SynBoth | SynReceived | SctpInit | SctpInitAck | SctpCookie | Midway | SctpMidway => 20,
        Established | FinOriginal | FinReply => 3600,
        Closing | TimeWait | Reset | SctpShutdown | SctpClosed => 40,
        UdpUnreplied | UdpReplied => 60,
        IcmpUnreplied | IcmpReplied => 5,
        OtherUnreplied | OtherReplied | SctpEstablished => 600,
        Revoked => 10,
    }
}

/// The flags that matter, of combinations that stacks send.
fn segment(flags: u8) -> Option<&'static str> {
    match flags & 0x17 {
        0x02 => Some("syn"),
        0x12 => Some("synack"),
        0x10 => Some("ack"),
        0x11 => Some("fin"),
        0x04 | 0x14 => Some("rst"),
        _ => None,
    }
}

/// The state of a connection that starts with this packet. `fresh` rules out what could only be the middle of one.
#[must_use]
pub fn first(p: &Packet, word: Word, fresh: bool) -> Option<State> {
    match (p.proto, word) {
        (TCP, Word::Flags(flags)) => match segment(flags)? {
            "syn" => Some(SynSent),
            "ack" if !fresh => Some(Midway),
            _ => None,
        },
        (SCTP, Word::Chunk(chunk)) => match chunk {
            1 => Some(SctpInit),
            2 | 6..=11 | 14 => None,
            _ if fresh => None,
            _ => Some(SctpMidway),
        },
        (TCP | SCTP, _) => None,
        (UDP, _) => Some(UdpUnreplied),
        (ICMP | ICMPV6, _) if is_answer(p) => None,
        (ICMP, _) if matches!(p.sport >> 8, 3 | 4 | 5 | 11 | 12) => None,
        (ICMPV6, _) if p.sport >> 8 < 128 => None,
        (ICMP | ICMPV6, _) => Some(IcmpUnreplied),
        _ => Some(OtherUnreplied),
    }
}

/// The state after a packet, or why it is none of the connection's.
fn next(state: State, original: bool, word: Word) -> Result<State, Step> {
    match (state, word) {
        (Revoked, Word::Flags(flags)) if segment(flags) == Some("syn") => Err(Step::Reopen),
        (Revoked, Word::Chunk(1)) => Err(Step::Reopen),
        (Revoked, _) => Err(Step::Invalid),
        (UdpUnreplied, Word::None) => Ok(if original { state } else { UdpReplied }),
        (IcmpUnreplied, Word::None) => Ok(if original { state } else { IcmpReplied }),
        (OtherUnreplied, Word::None) => Ok(if original { state } else { OtherReplied }),
        (UdpReplied | IcmpReplied | OtherReplied, Word::None) => Ok(state),
        (_, Word::Flags(flags)) => tcp(state, original, segment(flags).ok_or(Step::Invalid)?),
        (_, Word::Chunk(chunk)) => sctp(state, original, chunk),
        _ => Err(Step::Invalid),
    }
}

fn tcp(state: State, original: bool, segment: &str) -> Result<State, Step> {
    Ok(match (state, segment) {
        (Closing | TimeWait | Reset, "syn") => return Err(Step::Reopen),
        (Closing | TimeWait | Reset, "synack") => return Err(Step::Invalid),
        (Reset, _)
        | (
            SynSent | SynBoth | SynReceived | Midway | Established | FinOriginal | FinReply | Closing
            | TimeWait,
            "rst",
        ) => Reset,
        (SynSent, "syn") => {
            if original {
                SynSent
            } else {
                SynBoth
            }
        }
        (SynSent, "synack") if !original => SynReceived,
        (SynBoth, "syn") => SynBoth,
        (SynBoth, "synack") => SynReceived,
        (SynReceived, "syn") if original => SynReceived,
        (SynReceived, "synack") => SynReceived,
        (SynReceived, "ack") => {
            if original {
                Established
            } else {
                SynReceived
            }
        }
        (Midway, "ack") => {
            if original {
                Midway
            } else {
                Established
            }
        }
        (Midway, "syn" | "synack") => Midway,
        (SynReceived | Midway | Established, "fin") => {
            if original {
                FinOriginal
            } else {
                FinReply
            }
        }
        (Established | FinOriginal | FinReply, "syn" | "synack" | "ack") => state,
        (FinOriginal, "fin") => {
            if original {
                FinOriginal
            } else {
                Closing
            }
        }
        (FinReply, "fin") => {
            if original {
                Closing
            } else {
                FinReply
            }
        }
        (Closing, "ack") => TimeWait,
        (Closing | TimeWait, "fin") | (TimeWait, "ack") => state,
        _ => return Err(Step::Invalid),
    })
}

fn sctp(state: State, original: bool, chunk: u8) -> Result<State, Step> {
    Ok(match (state, chunk) {
        (SctpClosed, 1) => return Err(Step::Reopen),
        (SctpClosed, 6 | 8 | 14) => SctpClosed,
        (SctpInit | SctpInitAck | SctpCookie | SctpMidway | SctpEstablished | SctpShutdown, 6) => SctpClosed,
        (SctpInit, 1) => SctpInit,
        (SctpInit, 2) if !original => SctpInitAck,
        (SctpInitAck, 1) if original => SctpInitAck,
        (SctpInitAck, 2) if !original => SctpInitAck,
        (SctpInitAck, 10) if original => SctpCookie,
        (SctpCookie, 10) if original => SctpCookie,
        (SctpCookie, 2 | 9) if !original => SctpCookie,
        (SctpCookie, 11) if !original => SctpEstablished,
        (SctpMidway | SctpEstablished, 7) => SctpShutdown,
        (SctpMidway, _) if original => SctpMidway,
        (SctpMidway, _) => SctpEstablished,
        (SctpEstablished, _) => SctpEstablished,
        (SctpShutdown, 14) => SctpClosed,
        (SctpShutdown, 1 | 2) => return Err(Step::Invalid),
        (SctpShutdown, _) => SctpShutdown,
        _ => return Err(Step::Invalid),
    })
}
