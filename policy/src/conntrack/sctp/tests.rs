use super::*;
use Direction::{Original, Reply};

const DATA: u8 = 0;

#[test]
fn an_association_from_first_to_last_chunk() {
    use State::*;
    let steps = [
        (Reply, INIT_ACK, SctpInitAck),
        (Original, COOKIE_ECHO, SctpCookie),
        (Reply, COOKIE_ACK, SctpEstablished),
        (Original, DATA, SctpEstablished),
        (Original, SHUTDOWN, SctpShutdown),
        (Reply, SHUTDOWN_ACK, SctpShutdown),
        (Original, SHUTDOWN_COMPLETE, SctpClosed),
    ];
    let mut state = first(INIT, false).unwrap();
    for (direction, chunk, after) in steps {
        match next(state, direction, chunk) {
            Next::Go(to) => state = to,
            Next::Stay => {}
            other => panic!("{state:?} {chunk}: {other:?}"),
        }
        assert_eq!(state, after);
    }
    assert_eq!(next(state, Original, INIT), Next::Reopen);
}

#[test]
fn only_init_opens_and_only_the_right_end_answers() {
    for chunk in 0..=u8::MAX {
        assert_eq!(first(chunk, false).is_some(), chunk == INIT);
    }
    assert_eq!(next(State::SctpInit, Original, INIT_ACK), Next::Invalid);
    assert_eq!(next(State::SctpInitAck, Reply, COOKIE_ECHO), Next::Invalid);
    assert_eq!(next(State::SctpInit, Reply, DATA), Next::Invalid);
    for state in [State::SctpInit, State::SctpInitAck, State::SctpCookie, State::SctpEstablished] {
        assert_eq!(next(state, Reply, ABORT), Next::Go(State::SctpClosed));
    }
}
