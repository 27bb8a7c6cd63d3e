//! The BGP speaker: protocols only, no socket, no clock, no thread.
//!
//! So far it knows how messages lie in the byte stream (RFC 4271 section 4.1, extended messages of RFC 8654):
//! [`Framer`]. Nothing uses it yet; a configuration with `[bgp]` is refused.

pub mod frame;

pub use frame::{FrameError, Framer, Kind, Message};
