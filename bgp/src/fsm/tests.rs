//! Properties of the whole table, and the paths a session takes through it.

use super::*;

const STATES: [State; 6] =
    [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];

const EVENTS: [Event; 20] = [
    Event::Start,
    Event::StartPassive,
    Event::Stop,
    Event::ConnectRetryExpired,
    Event::HoldExpired,
    Event::KeepaliveExpired,
    Event::DelayOpenExpired,
    Event::SendHoldExpired,
    Event::Connected { delay: false },
    Event::Connected { delay: true },
    Event::Closed,
    Event::Open,
    Event::HeaderError,
    Event::OpenError,
    Event::CollisionDump,
    Event::Notification,
    Event::Keepalive,
    Event::Update,
    Event::UpdateError,
    Event::RouteRefresh,
];

fn pairs() -> impl Iterator<Item = (State, Event, State, &'static [Action])> {
    STATES.into_iter().flat_map(|state| {
        EVENTS.into_iter().map(move |event| {
            let (next, actions) = step(state, event);
            (state, event, next, actions)
        })
    })
}

#[test]
fn who_goes_idle_lets_go_of_everything() {
    for (state, event, next, actions) in pairs() {
        if state != State::Idle && next == State::Idle {
            assert!(actions.contains(&Action::TearDown), "{state:?} {event:?}");
            let by_itself = actions.contains(&Action::HoldIdle);
            assert_eq!(by_itself, event != Event::Stop, "{state:?} {event:?}: only a stop is for good");
        }
    }
}

#[test]
fn only_stop_and_errors_leave_established() {
    for (_, event, next, actions) in pairs().filter(|p| p.0 == State::Established) {
        if next == State::Established {
            assert!(!actions.contains(&Action::TearDown), "{event:?}");
        } else {
            assert_eq!(next, State::Idle, "{event:?}");
        }
    }
}

#[test]
fn established_is_reached_by_one_way() {
    let ways: Vec<_> = pairs().filter(|p| p.2 == State::Established && p.0 != State::Established).collect();
    assert_eq!(ways.len(), 1);
    assert_eq!((ways[0].0, ways[0].1), (State::OpenConfirm, Event::Keepalive));
}

#[test]
fn a_notification_is_never_answered() {
    for (state, event, _, actions) in pairs().filter(|p| p.1 == Event::Notification) {
        assert!(!actions.iter().any(|a| matches!(a, Action::Notify(_))), "{state:?} {event:?}");
    }
}

#[test]
fn routes_are_heard_in_established_alone() {
    for (state, event, _, actions) in pairs() {
        if actions.contains(&Action::Deliver) {
            assert_eq!(state, State::Established);
            assert!(matches!(event, Event::Update | Event::RouteRefresh));
        }
    }
}

#[test]
fn every_state_is_left_on_stop() {
    for state in STATES {
        assert_eq!(step(state, Event::Stop).0, State::Idle, "{state:?}");
    }
}

#[test]
fn the_way_up() {
    let mut state = State::Idle;
    for (event, expected) in [
        (Event::Start, State::Connect),
        (Event::Closed, State::Active),
        (Event::ConnectRetryExpired, State::Connect),
        (Event::Connected { delay: false }, State::OpenSent),
        (Event::Open, State::OpenConfirm),
        (Event::KeepaliveExpired, State::OpenConfirm),
        (Event::Keepalive, State::Established),
        (Event::Update, State::Established),
        (Event::HoldExpired, State::Idle),
    ] {
        state = step(state, event).0;
        assert_eq!(state, expected, "{event:?}");
    }
}

#[test]
fn a_delayed_open_waits_for_the_peers() {
    let (state, actions) = step(State::Active, Event::Connected { delay: true });
    assert_eq!((state, actions), (State::Active, &[Action::StopConnectRetry, Action::StartDelayOpen][..]));
    assert_eq!(step(state, Event::Open).0, State::OpenConfirm);
    assert_eq!(step(state, Event::DelayOpenExpired).0, State::OpenSent);
}

#[test]
fn unexpected_messages_are_named_by_state() {
    for (state, subcode) in [(State::OpenSent, 1), (State::OpenConfirm, 2), (State::Established, 3)] {
        let event = if state == State::Established { Event::Open } else { Event::Update };
        assert!(step(state, event).1.contains(&Action::Notify(Reason::Unexpected(subcode))));
    }
}
