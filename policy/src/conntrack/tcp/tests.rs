use super::*;
use Direction::{Original, Reply};
use proptest::prelude::*;

const PSH: u8 = 8;

/// The states that a sequence of segments leads through; `None` where a segment is refused.
fn run(segments: &[(Direction, u8)]) -> Vec<Option<State>> {
    let mut state = first(segments[0].1, false);
    let mut states = vec![state];
    for (direction, flags) in &segments[1..] {
        let Some(at) = state else { break };
        let next = next(at, *direction, *flags);
        if let Next::Go(to) = next {
            state = Some(to);
        }
        states.push(if next == Next::Invalid { None } else { state });
    }
    states
}

#[test]
fn handshake_and_close() {
    use State::*;
    let (syn, syn_ack, fin) = (SYN, SYN | ACK, FIN | ACK);
    let lifetime = [
        (Original, syn),
        (Original, syn),
        (Reply, syn_ack),
        (Original, ACK),
        (Reply, ACK | PSH),
        (Original, fin),
        (Reply, ACK),
        (Reply, fin),
        (Original, ACK),
        (Reply, fin),
    ];
    let states = [
        SynSent,
        SynSent,
        SynReceived,
        Established,
        Established,
        FinOriginal,
        FinOriginal,
        Closing,
        TimeWait,
        TimeWait,
    ];
    assert_eq!(run(&lifetime), states.map(Some));
}

#[test]
fn simultaneous_open() {
    use State::*;
    let both = [(Original, SYN), (Reply, SYN), (Original, SYN | ACK), (Reply, SYN | ACK), (Original, ACK)];
    assert_eq!(run(&both), [SynSent, SynBoth, SynReceived, SynReceived, Established].map(Some));
}

#[test]
fn a_reset_ends_every_state_and_a_syn_reopens_only_what_is_over() {
    use State::*;
    for state in [SynSent, SynBoth, SynReceived, Established, FinOriginal, FinReply, Closing, TimeWait] {
        for direction in [Original, Reply] {
            assert_eq!(next(state, direction, RST), Next::Go(Reset));
            assert_eq!(next(state, direction, RST | ACK), Next::Go(Reset));
        }
    }
    for state in super::super::state::STATES {
        let over = matches!(state, Closing | TimeWait | Reset);
        assert_eq!(next(state, Original, SYN) == Next::Reopen, over, "{state:?}");
    }
}

#[test]
fn only_a_plain_syn_opens() {
    for flags in 0..=u8::MAX {
        let plain = flags & (SYN | ACK | RST | FIN) == SYN;
        assert_eq!(first(flags, false), plain.then_some(State::SynSent), "{flags:#x}");
        let middle = flags & (SYN | ACK | RST | FIN) == ACK;
        assert_eq!(first(flags, true).is_some(), plain || middle, "{flags:#x}");
    }
}

proptest! {
    /// Established needs a SYN, then a SYN/ACK, then an ACK of the opener; and what was half-open never is again.
    #[test]
    fn nothing_is_established_without_a_handshake(
        segments in proptest::collection::vec((prop_oneof![Just(Original), Just(Reply)], 0u8..32), 1..12),
    ) {
        let mut state = State::SynSent;
        let (mut answered, mut acknowledged) = (false, false);
        for (direction, flags) in segments {
            if let Next::Go(to) = next(state, direction, flags) {
                prop_assert!(state.half_open() || !to.half_open(), "{state:?} to {to:?}");
                state = to;
            }
            answered |= flags & (SYN | ACK | RST | FIN) == SYN | ACK;
            acknowledged |= answered && direction == Original && flags & (ACK | RST | SYN) == ACK;
            if matches!(state, State::Established | State::FinOriginal) {
                prop_assert!(acknowledged);
            }
        }
    }
}
