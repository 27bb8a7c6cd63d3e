//! The BGP speaker: protocols only, no socket, no clock, no thread, no knowledge of the rest of the switch.
//!
//! RFC 4271 with 4-octet AS numbers (6793), IPv4 and IPv6 unicast (4760, 8950), route refresh (2918, 7313), graceful
//! restart on both sides (4724, 8538), route reflection (4456), communities (1997, 8092), ADD-PATH receive (7911),
//! extended messages (8654), the error handling of RFC 7606, default denial towards other ASes (8212), send hold timer
//! (9687). TCP MD5 (2385) and TTL security (5082) are settings that the caller puts on its sockets.
//!
//! ```text
//!   speaker     peers, sessions, inputs and outputs        fsm        (state, event) -> (state, actions)
//!   rib         prefixes, paths, update groups             decision   which path is the best, and why
//!   policy      import and export rules                    msg, attr  bytes to values and back
//! ```
//!
//! The caller gives inputs with the time, then takes outputs until there is none:
//!
//! ```
//! use std::time::Instant;
//!
//! let mut config = bgp::Config::new(64_512, [192, 168, 77, 1].into());
//! config.peers.push(bgp::PeerConfig::new([192, 168, 77, 9].into(), 64_512));
//! let mut speaker = bgp::Speaker::new(config, Instant::now())?;
//! while let Some(output) = speaker.output() {
//!     // Its peer is to be dialled.
//!     assert!(matches!(output, bgp::Output::Connect { .. }));
//! }
//! assert!(speaker.deadline().is_some());
//! # Ok::<(), bgp::ConfigError>(())
//! ```

mod agreed;
pub mod as_path;
pub mod attr;
pub mod community;
pub mod config;
pub mod decision;
pub mod family;
mod frame;
mod fsm;
mod msg;
mod nlri;
mod peer;
pub mod policy;
mod queue;
mod reader;
mod rib;
pub mod speaker;
mod timers;

pub use agreed::Agreed;
pub use as_path::AsPath;
pub use attr::{AttributeError, Attributes};
pub use community::{Community, LargeCommunity};
pub use config::{Config, ConfigError, PeerConfig};
pub use family::{Family, PerFamily};
pub use fsm::State;
pub use msg::capability::{AddPath, Capabilities, Graceful};
pub use msg::notification::Notification;
pub use peer::{DownReason, PeerCounters};
pub use policy::Policy;
pub use rib::{FibChange, FibHop, FibRoute, Rejected};
pub use speaker::{ConnId, Event, LocalRoute, Output, Refused, Speaker};
