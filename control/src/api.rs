//! The language of the control socket: one JSON object a line, one reply line for each request line.
//!
//! The socket is `<run-dir>/vswitchd.sock`, mode 0600. A connection may carry several requests, one after another.
//! Unknown fields are ignored, so that a plugin of one version can talk to a daemon of the next.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{self, NameError};

pub use crate::names::AttachmentId;

/// Longest request line, in bytes; the daemon closes a connection that sends more.
pub const MAX_REQUEST: usize = 2 << 20;

/// Longest reply line a client takes, in bytes.
pub const MAX_REPLY: usize = 64 << 20;

/// The control socket's name inside the run directory.
pub const SOCKET_NAME: &str = "vswitchd.sock";

/// The control socket where nothing else is configured.
pub const DEFAULT_SOCKET: &str = "/run/vswitch/vswitchd.sock";

/// Error codes: the CNI specification's own, and ours from 100.
pub mod code {
    /// The configuration's cniVersion is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has a value that is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The input is not JSON, or not of the right shape.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// Transient: try again later.
    pub const TRY_LATER: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no ADD can be served, and pods already attached have limited connectivity.
    pub const LIMITED: u32 = 51;
    /// The daemon failed in a way that is no fault of the request.
    pub const INTERNAL: u32 = 100;
    /// A requested address belongs to another attachment.
    pub const ADDRESS_TAKEN: u32 = 101;
    /// A requested address or MAC may not be given to a pod.
    pub const ADDRESS_REFUSED: u32 = 102;
    /// The node's address ranges are used up.
    pub const NO_ADDRESS_LEFT: u32 = 103;
    /// The attachment exists already.
    pub const ALREADY_ATTACHED: u32 = 104;
    /// CHECK: the interface is not as ADD left it.
    pub const CHANGED: u32 = 105;
}

/// A request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Attach a pod. Reply: [`AttachResult`].
    Add(Attach),
    /// Detach a pod; succeeds when there is nothing left to detach. Reply: `null`.
    Del(Attach),
    /// Is the attachment as ADD left it (`prev`)? Reply: `null`.
    Check(Attach),
    /// Detach everything of a network that is not listed. Reply: `null`.
    Gc(Gc),
    /// Can an ADD be served now (CNI STATUS)? Reply: `null`, or an error 50 or 51.
    Ready,
    /// The node at a glance. Reply: [`StatusReport`].
    Status,
    /// Attached pods. Reply: `Vec<PortInfo>`.
    Ports,
    /// The forwarding table. Reply: `Vec<RouteInfo>`.
    Routes,
    /// The other nodes. Reply: `Vec<PeerInfo>`.
    Peers,
    /// Drops by reason, all workers summed. Reply: `Vec<DropInfo>`.
    Drops,
    /// Cached flows of all workers. Reply: `Vec<FlowInfo>`.
    Flows,
    /// The rules that apply to this node's pods, or to one (`namespace/name`). Reply: [`PolicyReport`].
    Policy {
        /// Only this pod's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
    },
    /// Single drops and logged flows from a number on; drops are told as long as somebody asks. Reply: [`EventReport`].
    Events {
        /// The least number wanted.
        after: u64,
    },
    /// What would happen to a packet. Reply: [`TraceReport`].
    Trace(Trace),
    /// Write an object into the store. Reply: [`StoreReply`].
    Apply {
        /// One object.
        manifest: serde_json::Value,
    },
    /// Objects of the store. Reply: [`StoreReply`].
    Get {
        /// As `kubectl` has it, for example `NetworkPolicy` or `networkpolicies`.
        kind: String,
        /// Only in this namespace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Only of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Remove an object from the store. Reply: [`StoreReply`].
    Delete {
        /// One object; only what names it counts.
        manifest: serde_json::Value,
    },
    /// BGP neighbours and routes. Reply: [`BgpReport`].
    Bgp {
        /// What is asked.
        #[serde(default)]
        query: BgpQuery,
    },
    /// Pools, blocks and addresses. Reply: [`IpamReport`].
    Ipam {
        /// What is asked.
        #[serde(default)]
        query: IpamQuery,
    },
    /// The configuration in force. Reply: [`ConfigReport`].
    Config,
}

/// Who and where: the body of [`Request::Add`], [`Request::Del`] and [`Request::Check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Name of the network in the CNI configuration.
    pub network: String,
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// Name of the interface inside the sandbox.
    pub ifname: String,
    /// Path of the sandbox's network namespace; may be empty for DEL.
    #[serde(default)]
    pub netns: String,
    /// The pod.
    pub pod: PodId,
    /// What the caller wishes for.
    #[serde(default)]
    pub request: Wishes,
    /// CHECK: what ADD answered, as the runtime kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Prev>,
}

impl Attach {
    /// What names the attachment.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// All names are well formed: they may become file names, device names and lines of a table.
    ///
    /// # Errors
    /// The first name that is not.
    pub fn check(&self) -> Result<(), NameError> {
        names::check_network(&self.network)?;
        names::check_container_id(&self.container_id)?;
        names::check_ifname(&self.ifname)?;
        self.pod.check()
    }
}

/// A pod's identity, from the runtime's `K8S_POD_*`; `default/<container id>` without them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty when the runtime gives none.
    #[serde(default)]
    pub uid: String,
}

impl PodId {
    /// Namespace, name and UID (if there is one) are well formed.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), NameError> {
        names::check_pod("pod namespace", &self.namespace)?;
        names::check_pod("pod name", &self.name)?;
        if self.uid.is_empty() { Ok(()) } else { names::check_pod("pod UID", &self.uid) }
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an ADD asks for beyond "an address of each family".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// Fixed addresses, at most one of each family.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// A fixed MAC, as text; the daemon checks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The parts of a CNI prevResult that CHECK compares with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prev {
    /// All interfaces of the result.
    #[serde(default)]
    pub interfaces: Vec<PrevInterface>,
    /// All addresses of the result.
    #[serde(default)]
    pub ips: Vec<PrevIp>,
}

/// An interface of a prevResult.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrevInterface {
    /// Name.
    pub name: String,
    /// MAC as text, possibly empty.
    #[serde(default)]
    pub mac: String,
    /// Namespace path; empty for an interface of the host.
    #[serde(default)]
    pub sandbox: String,
}

/// An address of a prevResult.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrevIp {
    /// Address with prefix length.
    pub address: IpNet,
    /// Index into [`Prev::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// The body of [`Request::Gc`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Only this network's attachments are looked at.
    pub network: String,
    /// What is still in use.
    pub valid: Vec<AttachmentId>,
}

/// The body of [`Request::Trace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Sending pod, `namespace/name`.
    pub from: String,
    /// Destination address.
    pub to: IpAddr,
    /// Destination port; none for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `tcp`, `udp`, `sctp` or `icmp` (ICMPv6 where the address is).
    pub proto: Proto,
}

/// A transport that `trace` can build a packet of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An INIT.
    Sctp,
    /// An echo request.
    Icmp,
}

/// A reply line: `{"ok": value}` or `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply<T> {
    /// The request's own reply type.
    Ok(T),
    /// Why not.
    Error(ApiError),
}

/// Why a request was refused, as CNI writes errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct ApiError {
    /// One of [`code`].
    pub code: u32,
    /// One line.
    pub msg: String,
    /// More, where there is more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        ApiError { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

mod bgp;
mod ipam;
mod report;
pub use bgp::*;
pub use ipam::*;
pub use report::*;

#[cfg(test)]
mod tests;
