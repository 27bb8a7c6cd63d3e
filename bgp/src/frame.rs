//! From a byte stream to messages: the header of RFC 4271 section 4.1.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Marker: 16 bytes of ones                   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Length               |      Type     |  body ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

/// Bytes of the header.
pub(crate) const HEADER: usize = 19;
/// Longest message, bytes.
pub(crate) const MAX: usize = 4096;
/// Longest message between speakers that agreed on extended messages (RFC 8654), bytes.
pub(crate) const MAX_EXTENDED: usize = 65_535;

/// The message types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Opens a session.
    Open = 1,
    /// Announces and withdraws routes.
    Update = 2,
    /// Ends a session and says why.
    Notification = 3,
    /// Shows that the session lives.
    Keepalive = 4,
    /// Asks for the routes again (RFC 2918).
    RouteRefresh = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Open, Kind::Update, Kind::Notification, Kind::Keepalive, Kind::RouteRefresh]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// The shortest body this type may have, bytes (RFC 4271 sections 4.2 to 4.5, RFC 2918 section 3).
    fn least(self) -> usize {
        match self {
            Kind::Open => 10,
            Kind::Update | Kind::RouteRefresh => 4,
            Kind::Notification => 2,
            Kind::Keepalive => 0,
        }
    }
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message<'a> {
    /// Its type.
    pub(crate) kind: Kind,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// The stream cannot be followed any further (RFC 4271 section 6.1). The session ends with this NOTIFICATION.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The marker is not all ones.
    #[error("connection not synchronized")]
    NotSynchronized,
    /// The length is impossible, or wrong for the type.
    #[error("bad message length {0}")]
    BadLength(u16),
    /// No such type.
    #[error("bad message type {0}")]
    BadType(u8),
}

impl FrameError {
    /// Error code and subcode of the NOTIFICATION.
    pub(crate) fn code(self) -> (u8, u8) {
        match self {
            FrameError::NotSynchronized => (1, 1),
            FrameError::BadLength(_) => (1, 2),
            FrameError::BadType(_) => (1, 3),
        }
    }
}

/// Collects a session's bytes and hands out its messages. Holds at most one message and what came behind it in the same
/// read, so a peer cannot make it grow.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    bytes: Vec<u8>,
    at: usize,
    extended: bool,
}

impl Framer {
    /// Both sides agreed on extended messages (RFC 8654): OPEN and KEEPALIVE stay short.
    pub(crate) fn extended(&mut self, on: bool) {
        self.extended = on;
    }

    /// Takes bytes off the wire. Call [`next`](Self::next) until it gives nothing before the next read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// What is wrong with the stream; every later call says the same.
    pub(crate) fn next(&mut self) -> Result<Option<Message<'_>>, FrameError> {
        let rest = &self.bytes[self.at..];
        let Some((header, _)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        if header[..16] != [0xff; 16] {
            return Err(FrameError::NotSynchronized);
        }
        let length = u16::from_be_bytes([header[16], header[17]]);
        let kind = Kind::of(header[18]).ok_or(FrameError::BadType(header[18]))?;
        let short = !self.extended || matches!(kind, Kind::Open | Kind::Keepalive);
        let most = if short { MAX } else { MAX_EXTENDED };
        let whole = usize::from(length);
        let exact = kind != Kind::Keepalive || whole == HEADER;
        if whole < HEADER + kind.least() || whole > most || !exact {
            return Err(FrameError::BadLength(length));
        }
        let Some(message) = rest.get(..whole) else { return Ok(None) };
        self.at += whole;
        Ok(Some(Message { kind, body: &message[HEADER..] }))
    }
}

/// Writes a message; false when its body is longer than a message may be.
pub(crate) fn emit(kind: Kind, body: &[u8], out: &mut Vec<u8>) -> bool {
    let fits = emit_header(kind, HEADER + body.len(), out);
    if fits {
        out.extend_from_slice(body);
    }
    fits
}

/// Writes the header of a message of `whole` bytes; false when a message cannot be that long.
pub(crate) fn emit_header(kind: Kind, whole: usize, out: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(whole) else { return false };
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind as u8);
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(framer: &mut Framer) -> Vec<(Kind, Vec<u8>)> {
        let mut got = Vec::new();
        while let Some(m) = framer.next().unwrap() {
            got.push((m.kind, m.body.to_vec()));
        }
        got
    }

    #[test]
    fn a_keepalive_is_nineteen_bytes() {
        let mut out = Vec::new();
        assert!(emit(Kind::Keepalive, &[], &mut out));
        assert_eq!(out, [&[0xff; 16][..], &[0, 19, 4]].concat());
        let mut framer = Framer::default();
        framer.push(&out);
        assert_eq!(all(&mut framer), [(Kind::Keepalive, vec![])]);
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        let say = |bytes: &[u8]| {
            let mut framer = Framer::default();
            framer.push(bytes);
            framer.next().unwrap_err()
        };
        let with =
            |length: u16, kind: u8| [&[0xff; 16][..], &length.to_be_bytes(), &[kind], &[0; 100]].concat();
        assert_eq!(say(&[0; 19]), FrameError::NotSynchronized);
        assert_eq!(say(&with(18, 4)), FrameError::BadLength(18));
        assert_eq!(say(&with(20, 4)), FrameError::BadLength(20));
        assert_eq!(say(&with(28, 1)), FrameError::BadLength(28));
        assert_eq!(say(&with(4097, 2)), FrameError::BadLength(4097));
        assert_eq!(say(&with(19, 9)), FrameError::BadType(9));
        assert_eq!(FrameError::BadType(9).code(), (1, 3));
    }

    #[test]
    fn extended_messages_are_for_those_who_agreed() {
        let mut out = Vec::new();
        assert!(emit(Kind::Update, &[7; 5000], &mut out));
        let mut framer = Framer::default();
        framer.extended(true);
        framer.push(&out);
        assert_eq!(all(&mut framer)[0].1.len(), 5000);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 10..300), 1..8),
                              cut in 1usize..64) {
            let mut stream = Vec::new();
            for body in &bodies {
                prop_assert!(emit(Kind::Update, body, &mut stream));
            }
            let mut framer = Framer::default();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                framer.push(piece);
                got.extend(all(&mut framer).into_iter().map(|(_, body)| body));
            }
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn random_bytes_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut framer = Framer::default();
            for piece in &pieces {
                framer.push(piece);
                while let Ok(Some(_)) = framer.next() {}
            }
        }
    }
}
