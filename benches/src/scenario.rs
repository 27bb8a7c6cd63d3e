//! What is sent between two pods, and the numbers that come of one run.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::cpu::Cpu;
use crate::iperf::{self, Load};
use crate::network::Network;
use crate::{datagrams, exchange};

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// TCP streams. Values: Gbit/s, processor seconds for each GB, Gbit for each processor second.
    Tcp {
        /// How many at the same time.
        streams: u32,
        /// The receiver sends.
        reverse: bool,
    },
    /// As many datagrams as one socket can send. Values: thousands that arrive a second, processor microseconds for each.
    Flood {
        /// Payload bytes.
        size: usize,
    },
    /// The highest rate at which 99.5 % of the datagrams arrive. Value: thousands a second.
    Lossless {
        /// Payload bytes.
        size: usize,
    },
    /// A byte there and back. Values: microseconds at the median, p99, p99.9.
    RoundTrip {
        /// Two other pods of the same nodes are busy with a TCP stream.
        beside: bool,
    },
    /// Connect, a byte there and back, reset. Value: thousands a second.
    Connects,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The scenario's values.
    pub values: Vec<f64>,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Share of all processors that the hypervisor took, 0 to 1.
    pub steal: f64,
}

impl Scenario {
    /// One run of `seconds` over `network`.
    ///
    /// # Errors
    /// When something cannot be sent.
    pub fn run(self, network: &dyn Network, seconds: u32) -> Result<Run> {
        let (pair, length) = (network.pair(), Duration::from_secs(seconds.into()));
        let (before, began) = (Cpu::now()?, Instant::now());
        let mut retransmits = 0;
        let mut values = match self {
            Scenario::Tcp { streams, reverse } => {
                let run = iperf::run(pair, Load { streams, reverse }, seconds)?;
                retransmits = run.retransmits;
                vec![run.gbit_s, run.cpu_s_per_gb, 8.0 / run.cpu_s_per_gb]
            }
            Scenario::Flood { size } => vec![datagrams::send(pair, size, None, length)?.received / 1e3],
            // Seven steps and one flood: a quarter of the time for each.
            Scenario::Lossless { size } => vec![datagrams::lossless(pair, size, length / 4)? / 1e3],
            Scenario::RoundTrip { beside } => {
                let _busy = beside.then(|| iperf::busy(network.beside())).transpose()?;
                let times = exchange::round_trip(pair, length)?;
                vec![times.p50, times.p99, times.p999]
            }
            Scenario::Connects => vec![exchange::connects(pair, length)? / 1e3],
        };
        let used = Cpu::now()?.since(before);
        if let (Scenario::Flood { .. }, &[thousands]) = (self, &values[..]) {
            values.push(used.busy * 1e3 / (thousands * length.as_secs_f64()).max(1e-9));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        #[allow(clippy::cast_precision_loss)]
        let steal = used.steal / (began.elapsed().as_secs_f64() * cores as f64);
        Ok(Run { values, retransmits, steal })
    }
}
