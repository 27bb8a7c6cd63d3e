//! What a packet does to its flow: one total function over (state, direction, packet).
//!
//! TCP is in `tcp.rs`, SCTP in `sctp.rs`, protocols without connections here. Pure: the table carries the answer out.

use super::state::State;
use super::tuple::{Direction, Icmp, SCTP, TCP, Tuple, UDP};
use super::{sctp, tcp};

/// What the table must know of a packet besides its tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP with its flag byte (CWR … FIN).
    Tcp {
        /// The flag byte.
        flags: u8,
    },
    /// SCTP with the type of its first chunk.
    Sctp {
        /// The chunk type.
        chunk: u8,
    },
    /// Everything else; the tuple says it all (ICMP's type included).
    Other,
}

/// What follows from a packet in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// It belongs; the state stays.
    Stay,
    /// It belongs, and moves the flow on.
    Go(State),
    /// It opens a new flow in place of this one.
    Reopen,
    /// It cannot belong.
    Invalid,
}

/// The state of a flow that starts with this packet, or `None` when such a packet starts nothing. `pickup` lets the
/// middle of a connection start one.
pub(super) fn first(tuple: &Tuple, transport: Transport, pickup: bool) -> Option<State> {
    match (tuple.proto, transport) {
        (TCP, Transport::Tcp { flags }) => tcp::first(flags, pickup),
        (SCTP, Transport::Sctp { chunk }) => sctp::first(chunk, pickup),
        (TCP | SCTP, _) | (_, Transport::Tcp { .. } | Transport::Sctp { .. }) => None,
        (UDP, Transport::Other) => Some(State::UdpUnreplied),
        (_, Transport::Other) => match tuple.icmp() {
            None => Some(State::OtherUnreplied),
            Some(Icmp::EchoRequest | Icmp::Other) => Some(State::IcmpUnreplied),
            Some(Icmp::EchoReply | Icmp::Error) => None,
        },
    }
}

/// What `transport` does to a flow in `state`.
pub(super) fn next(state: State, direction: Direction, transport: Transport) -> Next {
    use State::*;
    match (state, transport) {
        (
            SynSent | SynBoth | SynReceived | Midway | Established | FinOriginal | FinReply | Closing
            | TimeWait | Reset,
            Transport::Tcp { flags },
        ) => tcp::next(state, direction, flags),
        (
            SctpInit | SctpInitAck | SctpCookie | SctpMidway | SctpEstablished | SctpShutdown | SctpClosed,
            Transport::Sctp { chunk },
        ) => sctp::next(state, direction, chunk),
        (UdpUnreplied, Transport::Other) => replied(direction, UdpReplied),
        (IcmpUnreplied, Transport::Other) => replied(direction, IcmpReplied),
        (OtherUnreplied, Transport::Other) => replied(direction, OtherReplied),
        (UdpReplied | IcmpReplied | OtherReplied, Transport::Other) => Next::Stay,
        (Revoked, Transport::Tcp { flags }) if tcp::first(flags, false).is_some() => Next::Reopen,
        (Revoked, Transport::Sctp { chunk }) if sctp::first(chunk, false).is_some() => Next::Reopen,
        (Revoked, _) => Next::Invalid,
        // The tuple's protocol and the transport contradict each other.
        (
            SynSent | SynBoth | SynReceived | Midway | Established | FinOriginal | FinReply | Closing
            | TimeWait | Reset | SctpInit | SctpInitAck | SctpCookie | SctpMidway | SctpEstablished
            | SctpShutdown | SctpClosed | UdpUnreplied | UdpReplied | IcmpUnreplied | IcmpReplied
            | OtherUnreplied | OtherReplied,
            Transport::Tcp { .. } | Transport::Sctp { .. } | Transport::Other,
        ) => Next::Invalid,
    }
}

fn replied(direction: Direction, state: State) -> Next {
    match direction {
        Direction::Original => Next::Stay,
        Direction::Reply => Next::Go(state),
    }
}
