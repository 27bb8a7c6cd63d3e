//! The BGP speaker: protocols only, no socket, no clock, no thread.

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
