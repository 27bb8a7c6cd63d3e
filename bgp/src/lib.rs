//! The BGP speaker: protocols only, no socket, no clock, no thread.

pub mod as_path;
pub mod attr;
pub mod community;
pub mod config;
pub mod decision;
pub mod family;
pub mod frame;
pub mod fsm;
pub mod msg;
pub mod nlri;
pub mod policy;
mod reader;
mod timers;
