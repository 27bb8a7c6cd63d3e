//! The switch: data path, workers, control thread, and what the programs `vswitchd` and `vsctl` need.
//!
//! ```text
//!   pod TAPs, vsw0, uplink sockets          one thread each, no lock between them
//!        │ read                                   ┌──────────────────────────┐
//!        ▼                                        │ worker 0 │ worker 1 │ …  │
//!   worker ──► datapath ──► pipeline              └────▲──────────▲──────────┘
//!        ▲          │ write                            │ snapshot (epoch), commands, acknowledgements
//!        └──────────┘                             control thread ◄── control socket, signals, keeper
//! ```
//!
//! `bin → daemon → switch → worker → datapath → pipeline → {fib, group, flow, reply}`; `port` and `uplink` stand on `sys`,
//! which knows nothing of ours and is the only place with `unsafe`.

pub mod balance;
pub mod cli;
pub mod compile;
pub mod conntrack;
pub mod counters;
pub mod daemon;
pub mod datapath;
pub mod events;
pub mod fib;
pub mod flow;
pub mod group;
pub mod hand;
pub mod icmp_limit;
pub mod judge;
pub mod lab;
pub mod pipeline;
pub mod polling;
pub mod port;
pub mod reply;
pub mod share;
pub mod slices;
pub mod snapshot;
pub mod switch;
pub mod sys;
pub mod uplink;
pub mod worker;
