//! A neighbour: its configuration, its sessions, and what is known of it. What happens to it is decided in
//! [`speaker`](crate::speaker).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::agreed::Agreed;
use crate::attr::AttributeError;
use crate::config::PeerConfig;
use crate::family::PerFamily;
use crate::frame::Framer;
use crate::fsm::State;
use crate::msg::notification::Notification;
use crate::msg::open::Open;
use crate::queue::SendQueue;
use crate::rib::Import;
use crate::speaker::ConnId;
use crate::timers::Timers;

/// A session, or the attempt at one.
#[derive(Default, Debug)]
pub(crate) struct Session {
    pub(crate) state: State,
    pub(crate) timers: Timers,
    pub(crate) framer: Framer,
    /// The connection it has or asked for.
    pub(crate) conn: Option<ConnId>,
    /// It is there.
    pub(crate) connected: bool,
    /// We dialled it.
    pub(crate) dialled: bool,
    /// Our end.
    pub(crate) local: Option<IpAddr>,
    /// The peer's OPEN was accepted.
    pub(crate) agreed: Option<Agreed>,
    /// Our own OPEN.
    pub(crate) open: Option<Open>,
    pub(crate) queue: SendQueue,
    /// The last message before the connection is closed.
    pub(crate) farewell: Vec<u8>,
}

/// Which of a peer's two sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The one that dials, and that becomes established.
    Main,
    /// For a connection that came in while the other one was busy.
    Incoming,
}

/// Why a session ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DownReason {
    /// The connection failed or was closed without a word.
    #[error("connection closed")]
    Closed,
    /// We ended it.
    #[error("sent: {0}")]
    Sent(Notification),
    /// The peer ended it.
    #[error("received: {0}")]
    Received(Notification),
}

/// Messages and routes counted since the peer was configured.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PeerCounters {
    /// Messages received.
    pub messages_received: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// UPDATEs and route refresh borders sent.
    pub updates_sent: u64,
    /// Times the session came up.
    pub established: u64,
    /// Times an established session ended, whatever the reason.
    pub lost: u64,
    /// UPDATEs with a wrong attribute that did not end the session.
    pub attribute_errors: u64,
    /// Routes counted as withdrawn because of one (RFC 7606).
    pub treated_as_withdrawn: u64,
    /// Paths not taken: the peer has 64 to the prefix already (ADD-PATH).
    pub excess_paths: u64,
    /// Connections refused.
    pub refused: u64,
}

/// The neighbour.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// It was not listed but came from a range; which one.
    pub(crate) dynamic: Option<usize>,
    pub(crate) main: Session,
    pub(crate) incoming: Option<Session>,
    /// Sessions lost in a row.
    pub(crate) failures: u32,
    /// It sent too many prefixes; no new try without an operator, or before the timer.
    pub(crate) held: bool,
    /// State of the main session since.
    pub(crate) since: Instant,
    pub(crate) last_error: Option<(Instant, DownReason)>,
    pub(crate) last_attribute_error: Option<AttributeError>,
    pub(crate) counters: PeerCounters,
    pub(crate) import: Option<Import>,
    /// The warning about the number of prefixes is out.
    pub(crate) warned: PerFamily<bool>,
    /// It restarts; until then its routes stay (RFC 4724 section 4.2).
    pub(crate) restart_until: Option<Instant>,
    /// It is back, or answers a refresh; until then routes not sent again stay.
    pub(crate) stale_until: Option<Instant>,
    /// Its End-of-RIB came, in this session.
    pub(crate) end_of_rib: PerFamily<bool>,
}

/// The shortest and longest wait before a lost session is tried again.
const IDLE_HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A session that lived so long was a good one.
const STABLE: Duration = Duration::from_secs(30);

impl Peer {
    pub(crate) fn new(config: PeerConfig, dynamic: Option<usize>, now: Instant) -> Peer {
        Peer {
            config,
            dynamic,
            main: Session::default(),
            incoming: None,
            failures: 0,
            held: false,
            since: now,
            last_error: None,
            last_attribute_error: None,
            counters: PeerCounters::default(),
            import: None,
            warned: PerFamily::default(),
            restart_until: None,
            stale_until: None,
            end_of_rib: PerFamily::default(),
        }
    }

    pub(crate) fn session(&self, side: Side) -> Option<&Session> {
        match side {
            Side::Main => Some(&self.main),
            Side::Incoming => self.incoming.as_ref(),
        }
    }

    pub(crate) fn session_mut(&mut self, side: Side) -> Option<&mut Session> {
        match side {
            Side::Main => Some(&mut self.main),
            Side::Incoming => self.incoming.as_mut(),
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        self.main.state == State::Established
    }

    /// The next deadline of any of its timers.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let sessions = std::iter::once(&self.main).chain(self.incoming.as_ref());
        let timers = sessions.filter_map(|s| s.timers.next());
        timers.chain(self.restart_until).chain(self.stale_until).min()
    }

    /// A session was lost: how long to wait before the next try.
    pub(crate) fn failed(&mut self, was_established: bool, now: Instant) -> Duration {
        if was_established && now.saturating_duration_since(self.since) >= STABLE {
            self.failures = 0;
        }
        let wait = IDLE_HOLD.0 * 2_u32.pow(self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        wait.min(IDLE_HOLD.1)
    }

    /// Time between two tries to connect.
    pub(crate) fn connect_retry(&self) -> Duration {
        self.config.connect_retry * (1 + self.failures.min(3))
    }
}
