//! (skeleton)

pub mod cli;
pub mod fib;
pub mod flow;
pub mod icmp_limit;
pub mod lab;
pub mod port;
pub mod reply;
pub mod sys;
pub mod uplink;
