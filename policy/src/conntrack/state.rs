//! The states a flow can be in, and what they mean to timeouts, quotas and eviction.
//!
//! A state implies its protocol. Values are part of the memory layout: never renumber, only append.

use super::timeouts::Timeouts;

/// Where a flow stands.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// TCP: the opener's SYN was seen.
    SynSent = 2,
    /// TCP: both ends sent a SYN (simultaneous open).
    SynBoth = 3,
    /// TCP: SYN and ACK of the other end were seen.
    SynReceived = 4,
    /// TCP: the handshake is complete.
    Established = 5,
    /// TCP: the opener closed its half.
    FinOriginal = 6,
    /// TCP: the other end closed its half.
    FinReply = 7,
    /// TCP: both halves are closed, the last acknowledgement is out.
    Closing = 8,
    /// TCP: over; late segments still belong to it.
    TimeWait = 9,
    /// TCP: an end sent RST.
    Reset = 10,
    /// UDP: only the opener spoke.
    UdpUnreplied = 11,
    /// UDP: both spoke.
    UdpReplied = 12,
    /// ICMP: only the opener spoke.
    IcmpUnreplied = 13,
    /// ICMP: both spoke.
    IcmpReplied = 14,
    /// Any other protocol: only the opener spoke.
    OtherUnreplied = 15,
    /// Any other protocol: both spoke.
    OtherReplied = 16,
    /// SCTP: INIT was seen.
    SctpInit = 17,
    /// SCTP: INIT ACK was seen.
    SctpInitAck = 18,
    /// SCTP: COOKIE ECHO was seen.
    SctpCookie = 19,
    /// SCTP: the association is up.
    SctpEstablished = 20,
    /// SCTP: an end began to close.
    SctpShutdown = 21,
    /// SCTP: over, by SHUTDOWN COMPLETE or ABORT.
    SctpClosed = 22,
    /// A policy change ended it: packets of both directions are refused until the tombstone expires.
    Revoked = 23,
    /// TCP: taken up in the middle, by a segment of the opener; the other end has not spoken since.
    Midway = 24,
    /// SCTP: the same.
    SctpMidway = 25,
}

/// Every state, in the order of their values.
pub(super) const STATES: [State; 24] = [
    State::SynSent,
    State::SynBoth,
    State::SynReceived,
    State::Established,
    State::FinOriginal,
    State::FinReply,
    State::Closing,
    State::TimeWait,
    State::Reset,
    State::UdpUnreplied,
    State::UdpReplied,
    State::IcmpUnreplied,
    State::IcmpReplied,
    State::OtherUnreplied,
    State::OtherReplied,
    State::SctpInit,
    State::SctpInitAck,
    State::SctpCookie,
    State::SctpEstablished,
    State::SctpShutdown,
    State::SctpClosed,
    State::Revoked,
    State::Midway,
    State::SctpMidway,
];

impl State {
    /// The state with that value. Values below the first one are an entry's, not a flow's.
    #[inline]
    pub(super) fn from_value(value: u8) -> Option<Self> {
        STATES.get(usize::from(value).wrapping_sub(Self::SynSent as usize)).copied()
    }

    /// Not answered yet: counts toward the half-open quota, and may be evicted from a full bucket.
    #[must_use]
    pub fn half_open(self) -> bool {
        match self {
            Self::SynSent | Self::SynBoth | Self::SynReceived => true,
            Self::UdpUnreplied | Self::IcmpUnreplied | Self::OtherUnreplied => true,
            Self::SctpInit | Self::SctpInitAck | Self::SctpCookie => true,
            Self::Midway | Self::SctpMidway => true,
            Self::Established | Self::FinOriginal | Self::FinReply | Self::UdpReplied => false,
            Self::IcmpReplied | Self::OtherReplied | Self::SctpEstablished => false,
            Self::Closing | Self::TimeWait | Self::Reset => false,
            Self::SctpShutdown | Self::SctpClosed | Self::Revoked => false,
        }
    }

    /// Over: kept for late packets only, and the first to be evicted from a full bucket.
    #[must_use]
    pub fn finished(self) -> bool {
        matches!(self, Self::Closing | Self::TimeWait | Self::Reset | Self::SctpClosed | Self::Revoked)
    }

    /// Both ends have spoken, so either may be the quoted sender of an ICMP error.
    pub(super) fn two_way(self) -> bool {
        !matches!(
            self,
            Self::SynSent
                | Self::UdpUnreplied
                | Self::IcmpUnreplied
                | Self::OtherUnreplied
                | Self::SctpInit
                | Self::Midway
                | Self::SctpMidway
        )
    }

    /// Whether a flow of protocol `proto` can be in it.
    pub(super) fn belongs_to(self, proto: u8) -> bool {
        use super::tuple::{ICMP, ICMPV6, SCTP, TCP, UDP};
        match self {
            Self::SynSent | Self::SynBoth | Self::SynReceived | Self::Established | Self::Midway => {
                proto == TCP
            }
            Self::FinOriginal | Self::FinReply | Self::Closing | Self::TimeWait | Self::Reset => proto == TCP,
            Self::UdpUnreplied | Self::UdpReplied => proto == UDP,
            Self::IcmpUnreplied | Self::IcmpReplied => matches!(proto, ICMP | ICMPV6),
            Self::OtherUnreplied | Self::OtherReplied => !matches!(proto, TCP | UDP | ICMP | ICMPV6 | SCTP),
            Self::SctpInit | Self::SctpInitAck | Self::SctpCookie | Self::SctpMidway => proto == SCTP,
            Self::SctpEstablished | Self::SctpShutdown | Self::SctpClosed => proto == SCTP,
            Self::Revoked => true,
        }
    }

    /// How long it lasts without a packet.
    pub(super) fn timeout(self, t: &Timeouts) -> u32 {
        match self {
            Self::SynSent | Self::SynBoth | Self::SynReceived => t.handshake,
            Self::SctpInit | Self::SctpInitAck | Self::SctpCookie => t.handshake,
            Self::Midway | Self::SctpMidway => t.handshake,
            Self::Established | Self::FinOriginal | Self::FinReply => t.established,
            Self::Closing | Self::TimeWait | Self::Reset => t.closing,
            Self::SctpShutdown | Self::SctpClosed => t.closing,
            Self::UdpUnreplied | Self::UdpReplied => t.udp,
            Self::IcmpUnreplied | Self::IcmpReplied => t.icmp,
            Self::OtherUnreplied | Self::OtherReplied | Self::SctpEstablished => t.other,
            Self::Revoked => t.revoked,
        }
    }
}
