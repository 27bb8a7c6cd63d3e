//! SCTP as seen from the middle (RFC 9260, section 4), by the first chunk of each packet, without verification tags.
//!
//! ```text
//!  INIT ──► SctpInit ──INIT ACK──► SctpInitAck ──COOKIE ECHO──► SctpCookie ──COOKIE ACK──► SctpEstablished
//!  SctpEstablished ──SHUTDOWN──► SctpShutdown ──SHUTDOWN COMPLETE──► SctpClosed;   any ──ABORT──► SctpClosed
//!  SctpClosed ──INIT──► a new flow
//! ```

#[cfg(test)]
mod tests;

use super::state::State;
use super::transport::Next;
use super::tuple::Direction;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The state of an association that starts with `chunk`. With `pickup`, one that was under way before.
pub(super) fn first(chunk: u8, pickup: bool) -> Option<State> {
    match chunk {
        INIT => Some(State::SctpInit),
        INIT_ACK | ABORT | SHUTDOWN..=COOKIE_ACK | SHUTDOWN_COMPLETE => None,
        _ if pickup => Some(State::SctpMidway),
        _ => None,
    }
}

/// What a packet does to an association; `Invalid` for states that are not SCTP's.
pub(super) fn next(state: State, direction: Direction, chunk: u8) -> Next {
    use Direction::{Original, Reply};
    use Next::{Go, Invalid, Reopen, Stay};
    use State::*;
    match (state, direction, chunk) {
        (SctpInit | SctpInitAck | SctpCookie | SctpEstablished | SctpShutdown | SctpMidway, _, ABORT) => {
            Go(SctpClosed)
        }

        // Both ends may send INIT at once (RFC 9260, section 5.2.1).
        (SctpInit, _, INIT) => Stay,
        (SctpInit, Reply, INIT_ACK) => Go(SctpInitAck),
        (SctpInit, ..) => Invalid,

        (SctpInitAck, Original, INIT) | (SctpInitAck, Reply, INIT_ACK) => Stay,
        (SctpInitAck, Original, COOKIE_ECHO) => Go(SctpCookie),
        (SctpInitAck, ..) => Invalid,

        (SctpCookie, Original, COOKIE_ECHO) | (SctpCookie, Reply, INIT_ACK | ERROR) => Stay,
        (SctpCookie, Reply, COOKIE_ACK) => Go(SctpEstablished),
        (SctpCookie, ..) => Invalid,

        (SctpEstablished | SctpMidway, _, SHUTDOWN) => Go(SctpShutdown),
        (SctpMidway, Reply, _) => Go(SctpEstablished),
        (SctpMidway, Original, _) => Stay,
        (SctpEstablished, ..) => Stay,

        (SctpShutdown, _, SHUTDOWN_COMPLETE) => Go(SctpClosed),
        (SctpShutdown, _, INIT | INIT_ACK) => Invalid,
        (SctpShutdown, ..) => Stay,

        (SctpClosed, _, INIT) => Reopen,
        (SctpClosed, _, ABORT | SHUTDOWN_ACK | SHUTDOWN_COMPLETE) => Stay,
        (SctpClosed, ..) => Invalid,

        (
            SynSent | SynBoth | SynReceived | Midway | Established | FinOriginal | FinReply | Closing
            | TimeWait | Reset,
            ..,
        )
        | (
            UdpUnreplied | UdpReplied | IcmpUnreplied | IcmpReplied | OtherUnreplied | OtherReplied | Revoked,
            ..,
        ) => Invalid,
    }
}
