//! What can go wrong with a netlink request, naming what was asked about.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// What a request was about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operand {
    /// An interface by name.
    Link(Box<str>),
    /// An interface by index.
    Index(u32),
    /// An address of the interface with this index.
    Address(IpNet, u32),
    /// A route.
    Route(IpNet),
    /// A neighbour on the interface with this index.
    Neighbour(IpAddr, u32),
    /// All links.
    Links,
    /// All addresses.
    Addresses,
    /// All routes.
    Routes,
    /// All neighbours.
    Neighbours,
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Index(index) => write!(f, "link with index {index}"),
            Self::Address(net, index) => write!(f, "address {net} of the link with index {index}"),
            Self::Route(net) => write!(f, "route to {net}"),
            Self::Neighbour(ip, index) => write!(f, "neighbour {ip} on the link with index {index}"),
            Self::Links => f.write_str("links"),
            Self::Addresses => f.write_str("addresses"),
            Self::Routes => f.write_str("routes"),
            Self::Neighbours => f.write_str("neighbours"),
        }
    }
}

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made.
    #[error("open a routing netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("{verb} {what}")]
    Refused {
        /// What was to be done.
        verb: &'static str,
        /// To what.
        what: Operand,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
    /// The socket failed.
    #[error("{verb} {what}: talk to the kernel")]
    Socket {
        /// What was to be done.
        verb: &'static str,
        /// To what.
        what: Operand,
        /// What the socket said.
        #[source]
        err: io::Error,
    },
    /// The answer could not be read.
    #[error("{verb} {what}: the kernel's answer is malformed")]
    Malformed {
        /// What was to be done.
        verb: &'static str,
        /// To what.
        what: Operand,
    },
    /// There is no such thing.
    #[error("there is no {0}")]
    Absent(Operand),
}

impl NetlinkError {
    /// The kernel's error number, where it is the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { err, .. } | Self::Socket { err, .. } | Self::Open(err) => err.raw_os_error(),
            Self::Malformed { .. } | Self::Absent(_) => None,
        }
    }

    /// Whether what was to be changed or looked up is not there (any more).
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_))
            || matches!(self.errno(), Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL))
    }

    /// Whether what was to be added is there already.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// A failure before it has a name.
pub(super) enum Fault {
    Send(io::Error),
    Receive(io::Error),
    Kernel(io::Error),
    Malformed,
}

impl Fault {
    pub(super) fn name(self, verb: &'static str, what: Operand) -> NetlinkError {
        match self {
            Self::Send(err) | Self::Receive(err) => NetlinkError::Socket { verb, what, err },
            Self::Kernel(err) => NetlinkError::Refused { verb, what, err },
            Self::Malformed => NetlinkError::Malformed { verb, what },
        }
    }
}
