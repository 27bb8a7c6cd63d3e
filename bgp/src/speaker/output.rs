//! What the speaker tells its caller.

use std::net::{IpAddr, SocketAddr};

use crate::attr::Attributes;
use crate::config::Connection;
use crate::peer::DownReason;
use crate::rib::FibChange;
#[cfg(doc)]
use crate::speaker::Speaker;

/// A connection, as caller and speaker call it. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What the caller is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Connect, then say [`connected`](Speaker::connected) or [`closed`](Speaker::closed).
    Connect {
        /// Its name from now on.
        conn: ConnId,
        /// Where to.
        to: SocketAddr,
        /// From which address; the system's choice without.
        from: Option<IpAddr>,
        /// What the socket needs before it connects.
        options: Connection,
    },
    /// Try once to write these bytes, then close. The connection is forgotten already; say nothing more about it.
    Close {
        /// Which.
        conn: ConnId,
        /// The end of the stream: a NOTIFICATION, mostly.
        farewell: Vec<u8>,
    },
    /// There are bytes to write: see [`unsent`](Speaker::unsent).
    Write {
        /// Which.
        conn: ConnId,
    },
    /// Forwarding changes.
    Fib(FibChange),
    /// A next hop came into use: tell [`next_hop`](Speaker::next_hop) about it, and whenever that changes.
    Resolve {
        /// The next hop.
        addr: IpAddr,
    },
    /// A next hop is no longer in use.
    Forget {
        /// The next hop.
        addr: IpAddr,
    },
    /// For logs and readiness.
    Event(Event),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session is up.
    Up {
        /// With whom.
        peer: IpAddr,
    },
    /// A session is down.
    Down {
        /// With whom.
        peer: IpAddr,
        /// Why.
        reason: DownReason,
        /// Its routes stay for a while (graceful restart).
        graceful: bool,
    },
    /// A peer nears its limit.
    MaxPrefixesNear {
        /// Who.
        peer: IpAddr,
        /// So many prefixes.
        count: u32,
    },
    /// A connection was refused.
    Refused {
        /// From where.
        remote: SocketAddr,
        /// Why.
        why: Refused,
    },
    /// We have restarted, and now have all routes (or have waited long enough): what forwarding has from before and was
    /// not told again is to be removed.
    RestartOver,
}

/// Why a connection is not taken. The caller closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// No peer has this address, and no range it.
    #[error("not a configured neighbour")]
    Stranger,
    /// The range has as many neighbours as it may.
    #[error("the range has its limit of neighbours")]
    Limit,
    /// The peer is switched off, or waits after an error.
    #[error("the neighbour is idle")]
    Idle,
    /// Another connection of it is further already.
    #[error("the neighbour has a connection")]
    Busy,
}

/// A route announced here.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalRoute {
    /// Its attributes; an unspecified next hop (0.0.0.0, ::) becomes our own address towards each peer.
    pub attributes: Attributes,
}
