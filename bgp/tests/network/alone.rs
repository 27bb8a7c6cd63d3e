//! One speaker, and a peer made of bytes by hand.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::{Config, ConnId, Event, Output, Refused, Speaker, State};

/// The speaker under attack.
pub(crate) struct Alone {
    pub(crate) speaker: Speaker,
    pub(crate) now: Instant,
    /// Bytes it wrote, by connection.
    pub(crate) written: Vec<(ConnId, Vec<u8>)>,
    pub(crate) closed: Vec<ConnId>,
    pub(crate) events: Vec<Event>,
    pub(crate) local: IpAddr,
}

impl Alone {
    pub(crate) fn new(config: Config) -> Alone {
        let now = Instant::now();
        let local = config.addresses[0];
        let speaker = Speaker::new(config, now).unwrap();
        let mut alone = Alone { speaker, now, written: vec![], closed: vec![], events: vec![], local };
        alone.drain();
        alone
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.speaker.output() {
            match output {
                Output::Write { conn } => {
                    let bytes: Vec<u8> = self.speaker.unsent(conn).flatten().copied().collect();
                    self.speaker.sent(conn, bytes.len(), self.now);
                    self.written.push((conn, bytes));
                }
                Output::Close { conn, farewell } => {
                    self.written.push((conn, farewell));
                    self.closed.push(conn);
                }
                Output::Event(event) => self.events.push(event),
                Output::Connect { .. } | Output::Fib(_) | Output::Resolve { .. } | Output::Forget { .. } => {}
            }
        }
    }

    /// Somebody dials.
    pub(crate) fn dial(&mut self, from: IpAddr) -> Result<ConnId, Refused> {
        let taken = self.speaker.incoming(SocketAddr::new(from, 40_000), self.local, self.now);
        self.drain();
        taken.map(|(conn, _)| conn)
    }

    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.speaker.received(conn, bytes, self.now);
        self.drain();
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.speaker.tick(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// A session with the peer at `from`, with this OPEN.
    pub(crate) fn establish(&mut self, from: IpAddr, open: &[u8]) -> ConnId {
        let conn = self.dial(from).unwrap();
        self.send(conn, open);
        self.send(conn, &message(4, &[]));
        assert_eq!(self.state(from), State::Established);
        conn
    }

    pub(crate) fn state(&self, of: IpAddr) -> State {
        let peers = self.speaker.peers(self.now);
        peers.iter().find(|p| p.address == of).map_or(State::Idle, |p| p.state)
    }

    /// Error code and subcode of the NOTIFICATION a connection ended with.
    pub(crate) fn notification(&self, conn: ConnId) -> Option<(u8, u8)> {
        let (_, last) = self.written.iter().rev().find(|(c, bytes)| *c == conn && !bytes.is_empty())?;
        // The last message of what was written last.
        let mut rest = &last[..];
        while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, kind, body @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if *kind == 3 {
                return Some((body[0], body[1]));
            }
            rest = &rest[length..];
        }
        None
    }
}

/// A message of this type.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// An OPEN with IPv4 and 4-octet AS numbers.
pub(crate) fn open(asn: u32, id: [u8; 4], hold: u16) -> Vec<u8> {
    let capabilities = [&[1, 4, 0, 1, 0, 1, 65, 4][..], &asn.to_be_bytes()].concat();
    let head =
        [&[4][..], &u16::try_from(asn).unwrap_or(23_456).to_be_bytes(), &hold.to_be_bytes(), &id].concat();
    let length = u8::try_from(capabilities.len()).unwrap();
    message(1, &[&head[..], &[length + 2, 2, length], &capabilities].concat())
}

/// An attribute.
pub(crate) fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[flags | 0x10, code][..], &length, value].concat()
}

/// An UPDATE.
pub(crate) fn update(attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    message(2, &[&[0, 0][..], &length, attributes, prefixes].concat())
}
