//! The BGP speaker: protocols only, no socket, no clock, no thread.

pub mod as_path;
pub mod attr;
pub mod community;
pub mod family;
pub mod frame;
pub mod msg;
pub mod nlri;
mod reader;
