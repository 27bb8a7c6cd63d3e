//! Adj-RIB-Out of a group: for each slot what its members were sent.

use std::sync::Arc;

use super::staged::Batches;
use super::{PeerId, Sent, Table};
use crate::msg::update_out::Bytes;

/// Slots encoded together when a peer is sent the whole table.
pub(crate) const CHUNK: u32 = 4096;

/// A part of the table as messages, each with the peer its routes came from.
pub(crate) type Chunk = Arc<[(PeerId, Bytes)]>;

/// What the members of a group were sent, for one family.
#[derive(Default, Debug)]
pub(crate) struct AdjOut {
    sent: Vec<Option<Sent>>,
    /// Routes sent.
    count: u32,
    /// Of these, how many came from each peer.
    own: Vec<u32>,
    /// Parts that are encoded and have not changed since.
    chunks: Vec<Option<Chunk>>,
}

impl AdjOut {
    pub(crate) fn get(&self, slot: u32) -> Option<&Sent> {
        self.sent.get(slot as usize)?.as_ref()
    }

    /// Sets what a slot's route is; gives back what it was.
    pub(crate) fn set(&mut self, slot: u32, sent: Option<Sent>) -> Option<Sent> {
        let at = slot as usize;
        if self.sent.len() <= at {
            sent.as_ref()?;
            self.sent.resize(at + 1, None);
        }
        if let Some(chunk) = self.chunks.get_mut((slot / CHUNK) as usize) {
            *chunk = None;
        }
        if let Some(new) = &sent {
            self.count += 1;
            let of = new.source.index();
            if self.own.len() <= of {
                self.own.resize(of + 1, 0);
            }
            self.own[of] += 1;
        }
        let old = std::mem::replace(&mut self.sent[at], sent);
        if let Some(old) = &old {
            self.count -= 1;
            self.own[old.source.index()] -= 1;
        }
        old
    }

    /// How many routes a member was sent.
    pub(crate) fn count(&self, member: PeerId) -> u32 {
        self.count - self.own.get(member.index()).copied().unwrap_or(0)
    }

    /// Slots whose routes a member was sent.
    pub(crate) fn told(&self, member: PeerId) -> impl Iterator<Item = (u32, &Sent)> {
        let numbered = (0..).zip(&self.sent);
        numbered.filter_map(move |(at, sent)| Some((at, sent.as_ref().filter(|s| s.source != member)?)))
    }

    /// The part of the table with this number, encoded.
    pub(crate) fn chunk(&mut self, number: u32, table: &Table, wide: bool, most: usize) -> Chunk {
        let at = number as usize;
        if self.chunks.len() <= at {
            self.chunks.resize(at + 1, None);
        }
        if let Some(Some(chunk)) = self.chunks.get(at) {
            return Arc::clone(chunk);
        }
        let mut batches = Batches::default();
        let from = number.saturating_mul(CHUNK);
        for slot in from..from.saturating_add(CHUNK).min(table.len()) {
            if let (Some(sent), Some(slot)) = (self.get(slot), table.slot(slot)) {
                batches.add((slot.net, sent));
            }
        }
        let mut messages = Vec::new();
        batches.encode(table.family, wide, most, |source, message| messages.push((source, message)));
        let chunk: Chunk = messages.into();
        self.chunks[at] = Some(Arc::clone(&chunk));
        chunk
    }

    /// Forgets encoded parts.
    pub(crate) fn forget_chunks(&mut self) {
        self.chunks = Vec::new();
    }
}
