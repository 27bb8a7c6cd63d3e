//! The paired comparison with the kernel's own pod network: what runs, how it is timed, what may be said about it.
//!
//! Two networks stand side by side, both built by `vswitch::lab`; runs alternate A B B A, so that drift of the machine
//! falls on both alike. The unit of evidence is the ratio within a pair; a row is the geometric mean of its pairs with
//! a bootstrap interval. A run of A against A says how far two equals may differ here.

pub mod bgp;
pub mod chart;
pub mod cni;
pub mod cpu;
pub mod cubic;
pub mod datagrams;
pub mod exchange;
pub mod flows;
pub mod handshakes;
pub mod iperf;
pub mod label;
pub mod levels;
pub mod loss;
pub mod network;
pub mod offloads;
pub mod pods;
pub mod policy;
pub mod process;
pub mod raw;
pub mod report;
pub mod reroute;
pub mod routes;
pub mod rows;
pub mod scenario;
pub mod slices;
pub mod soak;
pub mod stats;
