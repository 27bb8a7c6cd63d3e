//! NOTIFICATION: why a session ended (RFC 4271 section 4.5), with the texts of RFC 9003 and the hard reset of RFC 8538.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Error code    | Error subcode |   Data (variable)             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::fmt;

use crate::frame::{self, FrameError, Kind};

/// Error codes.
pub(crate) const OPEN: u8 = 2;
pub(crate) const UPDATE: u8 = 3;
pub(crate) const HOLD_TIMER: u8 = 4;
pub(crate) const FSM: u8 = 5;
pub(crate) const CEASE: u8 = 6;
pub(crate) const ROUTE_REFRESH: u8 = 7;
pub(crate) const SEND_HOLD_TIMER: u8 = 8;

/// Subcodes of Cease (RFC 4486, RFC 8538).
pub(crate) mod cease {
    pub(crate) const MAX_PREFIXES: u8 = 1;
    pub(crate) const SHUTDOWN: u8 = 2;
    pub(crate) const DECONFIGURED: u8 = 3;
    pub(crate) const RESET: u8 = 4;
    pub(crate) const REJECTED: u8 = 5;
    pub(crate) const CONFIG_CHANGE: u8 = 6;
    pub(crate) const COLLISION: u8 = 7;
    pub(crate) const OUT_OF_RESOURCES: u8 = 8;
    pub(crate) const HARD_RESET: u8 = 9;
}

/// Longest shutdown text, bytes (RFC 9003 section 2).
const TEXT: usize = 255;

/// A NOTIFICATION, sent or received.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode, meaningful with the code.
    pub subcode: u8,
    /// More about it.
    pub data: Box<[u8]>,
}

impl Notification {
    /// One without data.
    pub fn new((code, subcode): (u8, u8)) -> Notification {
        Notification { code, subcode, data: Box::default() }
    }

    /// One with data.
    pub(crate) fn with(codes: (u8, u8), data: &[u8]) -> Notification {
        Notification { data: data.into(), ..Notification::new(codes) }
    }

    /// An administrative shutdown (subcode 2) or reset (4), with a text for the other side's operator, cut after 255
    /// bytes (RFC 9003).
    pub fn administrative(subcode: u8, text: &str) -> Notification {
        let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let text = &text[..end];
        let mut data = Vec::with_capacity(1 + text.len());
        if let (false, Ok(length)) = (text.is_empty(), u8::try_from(text.len())) {
            data.push(length);
            data.extend(text.bytes());
        }
        Notification::with((CEASE, subcode), &data)
    }

    /// The same reason as a hard reset: routes are not to be kept (RFC 8538 section 3).
    #[must_use]
    pub fn hard(self) -> Notification {
        let inner = [&[self.code, self.subcode], &*self.data].concat();
        Notification::with((CEASE, cease::HARD_RESET), &inner)
    }

    /// Does it forbid to keep routes over the restart (RFC 8538)?
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (CEASE, cease::HARD_RESET)
    }

    /// Does its sender not mean to come back soon? Then routes are not to be kept either.
    pub(crate) fn is_for_good(&self) -> bool {
        let subcodes = [cease::MAX_PREFIXES, cease::SHUTDOWN, cease::DECONFIGURED, cease::HARD_RESET];
        self.code == CEASE && subcodes.contains(&self.subcode)
    }

    /// The text for the operator, if there is one (RFC 9003). Control characters are taken out.
    pub fn text(&self) -> Option<String> {
        if self.code != CEASE || !matches!(self.subcode, cease::SHUTDOWN | cease::RESET) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = String::from_utf8_lossy(text.get(..usize::from(*length))?);
        Some(text.chars().filter(|c| !c.is_control()).collect()).filter(|t: &String| !t.is_empty())
    }

    /// Reads a message's body.
    pub(crate) fn parse(body: &[u8]) -> Option<Notification> {
        let ([code, subcode], data) = body.split_first_chunk()?;
        Some(Notification::with((*code, *subcode), data))
    }

    /// Writes the whole message; data that does not fit is cut.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        let most = frame::MAX - frame::HEADER - 2;
        let data = self.data.get(..most).unwrap_or(&self.data);
        frame::emit(Kind::Notification, &[&[self.code, self.subcode], data].concat(), out);
    }
}

impl From<FrameError> for Notification {
    fn from(error: FrameError) -> Notification {
        // RFC 4271 section 6.1: the data is the erroneous field.
        match error {
            FrameError::NotSynchronized => Notification::new(error.code()),
            FrameError::BadLength(length) => Notification::with(error.code(), &length.to_be_bytes()),
            FrameError::BadType(kind) => Notification::with(error.code(), &[kind]),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (true, Some(inner)) = (self.is_hard_reset(), Notification::parse(&self.data)) {
            // A hard reset within a hard reset is not followed any further.
            return write!(f, "Hard Reset: {}", name(inner.code, inner.subcode));
        }
        f.write_str(name(self.code, self.subcode))?;
        match self.text() {
            Some(text) => write!(f, ": {text}"),
            None if name(self.code, self.subcode) == UNKNOWN => write!(f, " {}/{}", self.code, self.subcode),
            None => Ok(()),
        }
    }
}

const UNKNOWN: &str = "Unknown error";

/// The names of the IANA registry.
fn name(code: u8, subcode: u8) -> &'static str {
    match (code, subcode) {
        (1, 1) => "Connection Not Synchronized",
        (1, 2) => "Bad Message Length",
        (1, 3) => "Bad Message Type",
        (1, _) => "Message Header Error",
        (OPEN, 1) => "Unsupported Version Number",
        (OPEN, 2) => "Bad Peer AS",
        (OPEN, 3) => "Bad BGP Identifier",
        (OPEN, 4) => "Unsupported Optional Parameter",
        (OPEN, 6) => "Unacceptable Hold Time",
        (OPEN, 7) => "Unsupported Capability",
        (OPEN, 11) => "Role Mismatch",
        (OPEN, _) => "OPEN Message Error",
        (UPDATE, 1) => "Malformed Attribute List",
        (UPDATE, 2) => "Unrecognized Well-known Attribute",
        (UPDATE, 3) => "Missing Well-known Attribute",
        (UPDATE, 4) => "Attribute Flags Error",
        (UPDATE, 5) => "Attribute Length Error",
        (UPDATE, 6) => "Invalid ORIGIN Attribute",
        (UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (UPDATE, 9) => "Optional Attribute Error",
        (UPDATE, 10) => "Invalid Network Field",
        (UPDATE, 11) => "Malformed AS_PATH",
        (UPDATE, _) => "UPDATE Message Error",
        (HOLD_TIMER, _) => "Hold Timer Expired",
        (FSM, 1) => "Unexpected Message in OpenSent State",
        (FSM, 2) => "Unexpected Message in OpenConfirm State",
        (FSM, 3) => "Unexpected Message in Established State",
        (FSM, _) => "Finite State Machine Error",
        (CEASE, cease::MAX_PREFIXES) => "Maximum Number of Prefixes Reached",
        (CEASE, cease::SHUTDOWN) => "Administrative Shutdown",
        (CEASE, cease::DECONFIGURED) => "Peer De-configured",
        (CEASE, cease::RESET) => "Administrative Reset",
        (CEASE, cease::REJECTED) => "Connection Rejected",
        (CEASE, cease::CONFIG_CHANGE) => "Other Configuration Change",
        (CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
        (CEASE, cease::HARD_RESET) => "Hard Reset",
        (CEASE, 10) => "BFD Down",
        (CEASE, _) => "Cease",
        (ROUTE_REFRESH, _) => "Invalid ROUTE-REFRESH Message Length",
        (SEND_HOLD_TIMER, _) => "Send Hold Timer Expired",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_for_the_operator_survives_the_wire() {
        let sent = Notification::administrative(cease::SHUTDOWN, "kernel upgrade, back in 5 min");
        let mut out = Vec::new();
        sent.emit(&mut out);
        let got = Notification::parse(&out[frame::HEADER..]).unwrap();
        assert_eq!(got.to_string(), "Administrative Shutdown: kernel upgrade, back in 5 min");
        assert_eq!(Notification::administrative(2, &"ö".repeat(200)).text().unwrap().len(), 254);
        assert_eq!(Notification::administrative(2, "").text(), None);
    }

    #[test]
    fn a_text_that_lies_about_its_length_or_is_hostile_is_harmless() {
        assert_eq!(Notification::with((6, 2), &[200, b'x']).text(), None);
        assert_eq!(Notification::with((6, 2), &[4, b'a', 0x1b, 0xff, b'b']).text().unwrap(), "a\u{fffd}b");
    }

    #[test]
    fn a_hard_reset_names_its_reason() {
        let hard = Notification::new((CEASE, cease::SHUTDOWN)).hard();
        assert!(hard.is_hard_reset());
        assert_eq!(hard.to_string(), "Hard Reset: Administrative Shutdown");
        assert_eq!(Notification::new((99, 7)).to_string(), "Unknown error 99/7");
    }
}
