//! Fragments: later ones, which have no ports, follow the decision about the first of their datagram.
//!
//! One table per worker, touched by that worker's thread only; all memory is taken at the start. Each place that packets
//! come in at ([`FragKey::ingress`]) gets a lane of its own with room for a fixed number of datagrams, in which its
//! newest push out its oldest: a flood fills its own lane. A lane is free for another ingress when all its datagrams
//! have timed out.
//!
//! Nothing is reassembled. Which bytes have passed is remembered, so that no two fragments that pass overlap (RFC 5722):
//! what the receiver puts together is what was judged. A datagram that is complete is forgotten, since IPv4
//! identifications come again soon. Fragments that overtake their first are unknown; so is everything after the last.
//!
//! Never done here: parsing, clock reads, allocation after `new`, deciding.

#[cfg(test)]
mod tests;

use crate::conntrack::{TICKS_PER_SECOND, Tick};

/// How long a datagram may take, from its first fragment on: 30 s, as Linux has it.
pub const TIMEOUT: u32 = 30 * TICKS_PER_SECOND;
/// Fragments of one datagram that are told apart: 64 KiB are 45 of 1,480 bytes.
pub const RANGES: usize = 64;
/// Bytes of payload that the fragments of a datagram can make.
const DATAGRAM_MAX: u32 = 65_535;
const TCP: u8 = 6;

/// What makes two fragments parts of one datagram, and where they came in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragKey {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// The protocol of the datagram.
    pub proto: u8,
    /// Identification of the datagram.
    pub id: u32,
    /// Where the packet entered, as in [`FlowKey::ingress`](crate::FlowKey).
    pub ingress: u32,
}

/// The bytes of the datagram that a fragment carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece {
    /// Offset in bytes, a multiple of 8.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// More fragments follow.
    pub more: bool,
}

/// What a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate<D> {
    /// It shares the decision about its datagram's first fragment.
    Follows(D),
    /// Its first fragment has not passed, or too long ago.
    Unknown,
    /// The datagram's fragments overlap or contradict each other: none of it passes any more.
    Poisoned,
    /// A first fragment that hides the upper-layer header (RFC 1858, RFC 3128).
    Tiny,
    /// More places send fragments at the same time than there are lanes.
    NoRoom,
}

/// A range of bytes that has passed; the end in a datagram of at most 65,535 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Range {
    start: u16,
    end: u16,
}

#[derive(Clone, Copy)]
struct Datagram<D> {
    key: FragKey,
    /// `None` when it is poisoned.
    decision: Option<D>,
    since: Tick,
    /// Length of the whole, once the last fragment has passed.
    total: Option<u16>,
    /// Bytes that have passed.
    bytes: u32,
    count: u8,
    ranges: [Range; RANGES],
}

/// The datagrams of one ingress, oldest first.
struct Lane<D> {
    ingress: u32,
    datagrams: Vec<Datagram<D>>,
}

/// The worker's fragmented datagrams, with decisions of type `D`.
pub struct FragTable<D> {
    lanes: Vec<Lane<D>>,
    lane_size: usize,
}

impl<D> std::fmt::Debug for FragTable<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FragTable").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl<D: Copy + PartialEq> FragTable<D> {
    /// A table with `lanes` lanes of `lane_size` datagrams each (at least one of each).
    #[must_use]
    pub fn new(lanes: usize, lane_size: usize) -> Self {
        let lane_size = lane_size.max(1);
        let lane = |_| Lane { ingress: 0, datagrams: Vec::with_capacity(lane_size) };
        Self { lanes: (0..lanes.max(1)).map(lane).collect(), lane_size }
    }

    /// A first fragment about which `decision` was made (to drop is one, too). It passes on `Follows`.
    ///
    /// A second one for the same datagram must be the same range with an equal decision.
    pub fn first(&mut self, key: &FragKey, piece: Piece, decision: D, now: Tick) -> Fate<D> {
        let tiny = piece.len < if key.proto == TCP { 14 } else { 8 };
        let lane_size = self.lane_size;
        let Some(lane) = self.lane(key.ingress, now) else {
            return if tiny { Fate::Tiny } else { Fate::NoRoom };
        };
        lane.expire(now);
        if let Some(at) = lane.find(key) {
            let datagram = &mut lane.datagrams[at];
            if tiny || datagram.decision != Some(decision) {
                datagram.decision = None;
            }
            let fate = lane.add(at, piece);
            return if tiny { Fate::Tiny } else { fate };
        }
        if tiny {
            return Fate::Tiny;
        }
        if lane.datagrams.len() == lane_size {
            lane.datagrams.remove(0);
        }
        lane.datagrams.push(Datagram {
            key: *key,
            decision: Some(decision),
            since: now,
            total: None,
            bytes: 0,
            count: 0,
            ranges: [Range::default(); RANGES],
        });
        lane.add(lane.datagrams.len() - 1, piece)
    }

    /// A fragment that is not the first.
    pub fn later(&mut self, key: &FragKey, piece: Piece, now: Tick) -> Fate<D> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.owned_by(key.ingress)) else {
            return Fate::Unknown;
        };
        lane.expire(now);
        match lane.find(key) {
            Some(at) => lane.add(at, piece),
            None => Fate::Unknown,
        }
    }

    /// Datagrams that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.datagrams.len()).sum()
    }

    /// No datagram is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lane of `ingress`: its own, or one that nobody needs.
    fn lane(&mut self, ingress: u32, now: Tick) -> Option<&mut Lane<D>> {
        let own = self.lanes.iter().position(|lane| lane.owned_by(ingress));
        let at = own.or_else(|| {
            self.lanes.iter_mut().position(|lane| {
                lane.expire(now);
                lane.datagrams.is_empty()
            })
        })?;
        let lane = &mut self.lanes[at];
        lane.ingress = ingress;
        Some(lane)
    }
}

impl<D: Copy> Lane<D> {
    fn owned_by(&self, ingress: u32) -> bool {
        self.ingress == ingress && !self.datagrams.is_empty()
    }

    /// Forgets what has timed out; the oldest come first.
    fn expire(&mut self, now: Tick) {
        let over = self.datagrams.iter().take_while(|datagram| now.since(datagram.since) > TIMEOUT).count();
        self.datagrams.drain(..over);
    }

    fn find(&self, key: &FragKey) -> Option<usize> {
        self.datagrams.iter().rposition(|datagram| datagram.key == *key)
    }

    /// Lets a piece of the datagram at `at` pass, or poisons it.
    fn add(&mut self, at: usize, piece: Piece) -> Fate<D> {
        let datagram = &mut self.datagrams[at];
        let Some(decision) = datagram.decision else { return Fate::Poisoned };
        if !datagram.take(piece) {
            datagram.decision = None;
            return Fate::Poisoned;
        }
        if datagram.total.is_some_and(|total| u32::from(total) == datagram.bytes) {
            self.datagrams.remove(at);
        }
        Fate::Follows(decision)
    }
}

impl<D> Datagram<D> {
    /// Notes the piece; false when it contradicts what has passed.
    fn take(&mut self, piece: Piece) -> bool {
        let Some(end) = piece.offset.checked_add(piece.len).filter(|end| *end <= DATAGRAM_MAX) else {
            return false;
        };
        let broken =
            piece.len == 0 || !piece.offset.is_multiple_of(8) || (piece.more && !piece.len.is_multiple_of(8));
        if broken {
            return false;
        }
        let range = Range { start: piece.offset as u16, end: end as u16 };
        let passed = &self.ranges[..usize::from(self.count)];
        let is_last = self.total == Some(range.end);
        if passed.contains(&range) {
            // The network may double a packet.
            return is_last != piece.more;
        }
        let overlaps = passed.iter().any(|other| range.start < other.end && other.start < range.end);
        let beyond = match self.total {
            Some(total) => range.end > total || !piece.more || is_last,
            None => !piece.more && passed.iter().any(|other| other.end > range.end),
        };
        if overlaps || beyond || passed.len() == RANGES {
            return false;
        }
        self.ranges[passed.len()] = range;
        self.count += 1;
        self.bytes += piece.len;
        if !piece.more {
            self.total = Some(range.end);
        }
        true
    }
}
