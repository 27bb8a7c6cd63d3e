//! The lab: whole networks of nodes and pods on one machine, out of network namespaces.
//!
//! One topology code for three users: `vsctl lab` (what a newcomer sees), the tests (what is asserted) and the
//! comparison benchmark (what is measured). A lab owns everything it makes — namespaces, links, daemons, a directory
//! for their files — and gives it back in reverse order when dropped, also after a failed step or a signal.
//!
//! Everything here runs on ordinary threads and blocks. It changes nothing outside namespaces it created itself, and
//! it never ends a process it did not start.

mod attach;
mod bed;
mod checks;
mod cmd;
mod daemon;
mod enter;
mod error;
mod kernel;
mod manifests;
mod netns;
mod ping;
mod plan;
mod probe;
mod programs;
mod report;
mod rootless;
mod run;
mod session;
mod stop;

pub use attach::{Attached, Cni, CniReply, PodName};
pub use bed::{Bed, Shape};
pub use cmd::{run as run_words, run_args};
pub use daemon::{Daemon, Lab, Options};
pub use enter::within;
pub use error::LabError;
pub use kernel::{KernelNode, KernelPod, Wire, offloads_off};
pub use manifests::Manifests;
pub use netns::Netns;
pub use ping::{PingRun, Pinged, ping, ping_error};
pub use plan::{NodePlan, TunnelKind};
pub use probe::{Blast, Echo, blast, tcp_echo, transfer, udp_echo, udp_silence};
pub use programs::Programs;
pub use report::{Check, Measurement, Report};
pub use run::{Args, run};
pub use session::Session;
pub use stop::Stop;
