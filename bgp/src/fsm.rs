//! The state machine of RFC 4271 section 8 as a function: state and event in, state and actions out. Nothing is done
//! here; [`session`](crate::session) does it.
//!
//! ```text
//!              Start                Connected              Open              Keepalive
//!   Idle ───────────────► Connect ────────────► OpenSent ───────► OpenConfirm ─────────► Established
//!    ▲  └─StartPassive─►  Active  ────────────►    │                   │                      │
//!    │                    ▲   │ Closed, retry      │ Closed            │                      │
//!    │                    └───┴────────────────────┘                   │                      │
//!    └── Stop, errors ──────────────────────────────────────────────────┴──────────────────────┘
//! ```
//!
//! One machine drives one connection: a peer has one that dials and at most one more for a connection that came in
//! meanwhile. Deviations from the RFC: a dial that fails leads to Active, not to Idle, so that the peer's own dial is
//! still welcome.

#[cfg(test)]
mod tests;

/// The states of section 8.2.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum State {
    /// Nothing is tried, nobody is let in.
    #[default]
    Idle,
    /// A connection is being made.
    Connect,
    /// Waiting for the peer's connection, or for the next try.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// What can happen. The numbers are those of section 8.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// 1, 3, 13: begin by dialling.
    Start,
    /// 4, 5: begin by waiting for the peer.
    StartPassive,
    /// 2, 8: end it; the session has the reason.
    Stop,
    /// 9.
    ConnectRetryExpired,
    /// 10.
    HoldExpired,
    /// 11.
    KeepaliveExpired,
    /// 12.
    DelayOpenExpired,
    /// RFC 9687: the peer has taken no byte for too long.
    SendHoldExpired,
    /// 16, 17: there is a connection; `delay`: wait for the peer's OPEN first.
    Connected {
        /// DelayOpen is configured.
        delay: bool,
    },
    /// 18: the connection failed or the peer closed it.
    Closed,
    /// 19, 20: an acceptable OPEN.
    Open,
    /// 21: the byte stream cannot be followed.
    HeaderError,
    /// 22: an OPEN that is not acceptable.
    OpenError,
    /// 23: another connection to the same peer wins.
    CollisionDump,
    /// 24, 25: a NOTIFICATION.
    Notification,
    /// 26.
    Keepalive,
    /// 27.
    Update,
    /// 28: an UPDATE that RFC 7606 does not save.
    UpdateError,
    /// A ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
}

/// Why a NOTIFICATION is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// The reason came with the event.
    Given,
    /// Hold timer expired.
    HoldTimer,
    /// Send hold timer expired (RFC 9687).
    SendHoldTimer,
    /// A message the state does not expect, with the subcode of RFC 6608.
    Unexpected(u8),
}

/// What is to be done, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Ask for a connection.
    Dial,
    /// Give the connection up, or the try to make one.
    Close,
    /// ConnectRetryTimer, with back-off; not when passive.
    StartConnectRetry,
    StopConnectRetry,
    StartDelayOpen,
    StopDelayOpen,
    SendOpen,
    /// HoldTimer with a large value, until the peer's OPEN names one.
    StartOpenHold,
    /// HoldTimer and KeepaliveTimer as negotiated.
    StartTimers,
    RestartHold,
    SendKeepalive,
    Notify(Reason),
    /// Routes may flow.
    Establish,
    /// The message is for the routing tables.
    Deliver,
    /// The session is over: stop every timer, close, let the routes go.
    TearDown,
    /// Start again by itself after a while.
    HoldIdle,
}

/// One step. Every pair is written: a new state or event does not compile until somebody has thought about it.
pub(crate) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::*;
    use Reason::*;
    use State::*;
    match (state, event) {
        (Idle, Event::Start) => (Connect, &[StartConnectRetry, Dial]),
        (Idle, Event::StartPassive) => (Active, &[StopConnectRetry]),
        // Nobody is let in while Idle.
        (Idle, Event::Connected { .. }) => (Idle, &[Close]),
        // What was still on its way when the session ended.
        (
            Idle,
            Event::Stop
            | Event::ConnectRetryExpired
            | Event::HoldExpired
            | Event::KeepaliveExpired
            | Event::DelayOpenExpired
            | Event::SendHoldExpired
            | Event::Closed
            | Event::Open
            | Event::HeaderError
            | Event::OpenError
            | Event::CollisionDump
            | Event::Notification
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError
            | Event::RouteRefresh,
        ) => (Idle, &[]),

        (Connect | Active, Event::Start | Event::StartPassive) => (state, &[]),
        (Connect | Active, Event::Stop) => (Idle, &[TearDown]),
        (Connect, Event::ConnectRetryExpired) => (Connect, &[Close, StartConnectRetry, Dial]),
        (Active, Event::ConnectRetryExpired) => (Connect, &[StartConnectRetry, Dial]),
        (Connect | Active, Event::Connected { delay: true }) => (state, &[StopConnectRetry, StartDelayOpen]),
        (Connect | Active, Event::Connected { delay: false }) => {
            (OpenSent, &[StopConnectRetry, SendOpen, StartOpenHold])
        }
        (Connect | Active, Event::DelayOpenExpired) => (OpenSent, &[StopDelayOpen, SendOpen, StartOpenHold]),
        (Connect | Active, Event::Closed) => (Active, &[StopDelayOpen, Close, StartConnectRetry]),
        // The peer was faster than DelayOpenTimer.
        (Connect | Active, Event::Open) => {
            (OpenConfirm, &[StopConnectRetry, StopDelayOpen, SendOpen, SendKeepalive, StartTimers])
        }
        (Connect | Active, Event::HeaderError | Event::OpenError | Event::CollisionDump) => {
            (Idle, &[Notify(Given), TearDown, HoldIdle])
        }
        (
            Connect | Active,
            Event::HoldExpired
            | Event::KeepaliveExpired
            | Event::SendHoldExpired
            | Event::Notification
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError
            | Event::RouteRefresh,
        ) => (Idle, &[TearDown, HoldIdle]),

        (OpenSent | OpenConfirm | Established, Event::Start | Event::StartPassive) => (state, &[]),
        (OpenSent | OpenConfirm | Established, Event::Stop) => (Idle, &[Notify(Given), TearDown]),
        // Another connection is another machine's.
        (OpenSent | OpenConfirm | Established, Event::Connected { .. }) => (state, &[]),
        (OpenSent | OpenConfirm | Established, Event::HoldExpired) => {
            (Idle, &[Notify(HoldTimer), TearDown, HoldIdle])
        }
        (OpenSent | OpenConfirm | Established, Event::SendHoldExpired) => {
            (Idle, &[Notify(SendHoldTimer), TearDown, HoldIdle])
        }
        (
            OpenSent | OpenConfirm | Established,
            Event::HeaderError | Event::OpenError | Event::CollisionDump,
        ) => (Idle, &[Notify(Given), TearDown, HoldIdle]),
        (OpenSent | OpenConfirm | Established, Event::Notification) => (Idle, &[TearDown, HoldIdle]),

        (OpenSent, Event::Closed) => (Active, &[TearDown, StartConnectRetry]),
        (OpenSent, Event::Open) => (OpenConfirm, &[SendKeepalive, StartTimers]),
        (
            OpenSent,
            Event::ConnectRetryExpired
            | Event::KeepaliveExpired
            | Event::DelayOpenExpired
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError
            | Event::RouteRefresh,
        ) => (Idle, &[Notify(Unexpected(1)), TearDown, HoldIdle]),

        (OpenConfirm | Established, Event::Closed) => (Idle, &[TearDown, HoldIdle]),
        (OpenConfirm | Established, Event::KeepaliveExpired) => (state, &[SendKeepalive]),
        (OpenConfirm, Event::Keepalive) => (Established, &[RestartHold, Establish]),
        (
            OpenConfirm,
            Event::ConnectRetryExpired
            | Event::DelayOpenExpired
            | Event::Open
            | Event::Update
            | Event::UpdateError
            | Event::RouteRefresh,
        ) => (Idle, &[Notify(Unexpected(2)), TearDown, HoldIdle]),

        (Established, Event::Keepalive) => (Established, &[RestartHold]),
        (Established, Event::Update | Event::RouteRefresh) => (Established, &[RestartHold, Deliver]),
        (Established, Event::UpdateError) => (Idle, &[Notify(Given), TearDown, HoldIdle]),
        (Established, Event::ConnectRetryExpired | Event::DelayOpenExpired | Event::Open) => {
            (Idle, &[Notify(Unexpected(3)), TearDown, HoldIdle])
        }
    }
}
