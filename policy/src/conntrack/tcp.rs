//! TCP as seen from the middle (RFC 9293, section 3.3.2), without sequence numbers.
//!
//! ```text
//!  SYN ──► SynSent ──SYN/ACK──► SynReceived ──ACK──► Established ──FIN──► FinOriginal │ FinReply
//!             └──SYN (reply)──► SynBoth ──SYN/ACK──►─┘                          │ FIN of the other end
//!                                                        TimeWait ◄──ACK── Closing
//!  any ──RST──► Reset;   Closing, TimeWait, Reset ──SYN──► a new flow
//! ```
//!
//! Every packet of a flow passes here, so nothing that an end could not send yet is believed. A SYN on an established
//! connection passes and changes nothing: the receiver answers with a challenge ACK (RFC 5961, section 4) or ignores it.

#[cfg(test)]
mod tests;

use super::state::State;
use super::transport::Next;
use super::tuple::Direction;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the flags of a segment say; combinations that no stack sends are no segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

fn segment(flags: u8) -> Option<Segment> {
    match flags & (FIN | SYN | RST | ACK) {
        SYN => Some(Segment::Syn),
        f if f == SYN | ACK => Some(Segment::SynAck),
        ACK => Some(Segment::Ack),
        f if f == FIN | ACK => Some(Segment::Fin),
        f if f & !ACK == RST => Some(Segment::Rst),
        _ => None,
    }
}

/// The state of a connection that starts with `flags`. With `pickup`, one that was under way before.
pub(super) fn first(flags: u8, pickup: bool) -> Option<State> {
    match segment(flags)? {
        Segment::Syn => Some(State::SynSent),
        // Unanswered, it is as cheap for a flood as a SYN, and counts as one.
        Segment::Ack if pickup => Some(State::Midway),
        Segment::Ack | Segment::SynAck | Segment::Fin | Segment::Rst => None,
    }
}

/// What a segment does to a connection; `Invalid` for states that are not TCP's.
pub(super) fn next(state: State, direction: Direction, flags: u8) -> Next {
    use Direction::{Original, Reply};
    use Next::{Go, Invalid, Reopen, Stay};
    use Segment::{Ack, Fin, Rst, Syn, SynAck};
    use State::*;
    let Some(segment) = segment(flags) else { return Invalid };
    match (state, direction, segment) {
        (SynSent, Original, Syn) => Stay,
        (SynSent, Reply, Syn) => Go(SynBoth),
        (SynSent, Reply, SynAck) => Go(SynReceived),
        // Refused, or given up. The opener has nothing to acknowledge yet.
        (SynSent, Original | Reply, Rst) => Go(Reset),
        (SynSent, Original, SynAck | Ack | Fin) | (SynSent, Reply, Ack | Fin) => Invalid,

        (SynBoth, Original | Reply, Syn) => Stay,
        (SynBoth, Original | Reply, SynAck) => Go(SynReceived),
        (SynBoth, Original | Reply, Rst) => Go(Reset),
        (SynBoth, Original | Reply, Ack | Fin) => Invalid,

        (SynReceived, Original, Syn) | (SynReceived, Original | Reply, SynAck) => Stay,
        (SynReceived, Reply, Syn) => Invalid,
        (SynReceived, Original, Ack) => Go(Established),
        (SynReceived, Reply, Ack) => Stay,
        // Closing right after the handshake (RFC 9293, section 3.10.4: CLOSE in SYN-RECEIVED).
        (SynReceived, Original, Fin) => Go(FinOriginal),
        (SynReceived, Reply, Fin) => Go(FinReply),
        (SynReceived, Original | Reply, Rst) => Go(Reset),

        (Midway, Reply, Ack) => Go(Established),
        (Midway, Original, Fin) => Go(FinOriginal),
        (Midway, Reply, Fin) => Go(FinReply),
        (Midway, Original | Reply, Rst) => Go(Reset),
        (Midway, Original, Ack | Syn) | (Midway, Original | Reply, SynAck) | (Midway, Reply, Syn) => Stay,

        (Established, Original | Reply, Syn | SynAck | Ack) => Stay,
        (Established, Original, Fin) => Go(FinOriginal),
        (Established, Reply, Fin) => Go(FinReply),
        (Established, Original | Reply, Rst) => Go(Reset),

        (FinOriginal | FinReply, Original | Reply, Syn | SynAck | Ack) => Stay,
        (FinOriginal, Original, Fin) | (FinReply, Reply, Fin) => Stay,
        (FinOriginal, Reply, Fin) | (FinReply, Original, Fin) => Go(Closing),
        (FinOriginal | FinReply, Original | Reply, Rst) => Go(Reset),

        (Closing, Original | Reply, Ack) => Go(TimeWait),
        (Closing | TimeWait, Original | Reply, Fin) | (TimeWait, Original | Reply, Ack) => Stay,
        (Closing | TimeWait, Original | Reply, Rst) => Go(Reset),
        (Closing | TimeWait, Original | Reply, SynAck) => Invalid,
        // Without sequence numbers an RST outside the window looks like one inside: the ends decide, and data that
        // still flows keeps the entry alive.
        (Reset, Original | Reply, Rst | Ack | Fin) => Stay,
        (Reset, Original | Reply, SynAck) => Invalid,
        (Closing | TimeWait | Reset, Original | Reply, Syn) => Reopen,

        (UdpUnreplied | UdpReplied | IcmpUnreplied | IcmpReplied | OtherUnreplied | OtherReplied, ..)
        | (
            SctpInit | SctpInitAck | SctpCookie | SctpEstablished | SctpShutdown | SctpClosed | SctpMidway
            | Revoked,
            ..,
        ) => Invalid,
    }
}
