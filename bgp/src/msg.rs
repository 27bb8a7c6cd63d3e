//! The messages of RFC 4271 section 4 as values. How they lie in the byte stream: [`frame`](crate::frame).

pub(crate) mod capability;
pub(crate) mod notification;
pub(crate) mod open;
pub(crate) mod refresh;
pub(crate) mod update;
pub(crate) mod update_out;
