//! Where a flow would lie, for callers that fetch memory ahead of many lookups.
//!
//! Memory is what a lookup costs once flows are many: two lines of tags and one entry, none of them near another. A caller
//! with several packets asks for all of their lines first. What stands there is not looked into, and may have changed by
//! the time of the lookup: these are places, not answers.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use super::entry::ENTRY_WORDS;
use super::index::{Home, TAG_WORDS};
use super::table::{Slot, Table};
use super::tuple::Tuple;

/// The two buckets in which a flow may stand, and which of their entries to look at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Near {
    pub(super) home: Home,
    /// [`ANY`] before anybody looked.
    pub(super) first: u32,
}

/// No entry's index.
const ANY: u32 = u32::MAX;

/// The tags of a bucket, in memory.
pub type TagWords = [AtomicU64; TAG_WORDS];
/// An entry, in memory.
pub type EntryWords = [AtomicU64; ENTRY_WORDS];

impl<M: Deref<Target = [AtomicU64]>> Table<M> {
    /// Where the flow of `tuple` would stand. Reads no memory of the table.
    #[inline]
    pub fn near(&self, tuple: &Tuple) -> Near {
        Near { home: self.home(&tuple.key().0), first: ANY }
    }

    /// The tags that [`point`](Self::point) reads.
    #[inline]
    pub fn near_tags(&self, near: Near) -> [&TagWords; 2] {
        near.home.buckets.map(|bucket| self.tags(bucket).0)
    }

    /// Reads the tags: the entry to look at first is the first that they name, which nearly always is the flow's; where they
    /// name none, the one that the flow would get.
    #[inline]
    pub fn point(&self, near: Near) -> Near {
        let first = match self.likely(near.home) {
            0 => self.vacant(near.home).next().unwrap_or(ANY),
            ways => near.home.entry(ways.trailing_zeros()),
        };
        Near { first, ..near }
    }

    /// The entry that is looked at first.
    #[inline]
    pub fn near_entry(&self, near: Near) -> Option<&EntryWords> {
        self.entry(near.first).map(|entry| entry.0)
    }

    /// The entry of a remembered flow.
    #[inline]
    pub fn slot_entry(&self, slot: Slot) -> Option<&EntryWords> {
        self.entry(slot.index).map(|entry| entry.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::super::fixture::*;
    use super::super::{Direction, OpenError, Tracked, Transport};
    use super::*;

    #[test]
    fn a_flow_stands_where_it_is_looked_for() {
        let table = table(4000);
        let (mut hits, flows) = (0, 500);
        for n in 0..flows {
            let t = udp(n, n + 1, 5000, 53);
            let slot = table.open_flow(&t, Transport::Other, &opening(1), at(0)).unwrap().found.slot;
            let near = table.near(&t);
            assert_eq!(table.near(&back(&t)), near, "both directions");
            assert!(table.near_tags(near).iter().any(|tags| tags.iter().any(|word| word.load(Relaxed) != 0)));
            assert!(table.near_entry(near).is_none(), "nobody looked");
            let pointed = table.point(near);
            let (found, own) = (table.near_entry(pointed).unwrap(), table.slot_entry(slot).unwrap());
            hits += u32::from(std::ptr::eq(found, own));
        }
        // Now and then another flow with the same tag stands before it.
        assert!(hits >= flows - 2, "{hits} of {flows}");
    }

    #[test]
    fn a_new_flow_gets_the_entry_that_was_fetched_for_it() {
        let table = table(4000);
        for n in 0..500 {
            let t = udp(n, n + 1, 5000, 53);
            let near = table.point(table.near(&t));
            let named = table.likely(near.home) != 0;
            let fetched = table.near_entry(near).unwrap();
            let slot = table.open_flow(&t, Transport::Other, &opening(1), at(0)).unwrap().found.slot;
            assert!(named || std::ptr::eq(fetched, table.slot_entry(slot).unwrap()), "{n}");
        }
    }

    /// What happens to a flow.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// Somebody looks where it stands, and uses that for all packets from then on.
        Look,
        /// A packet, with these TCP flags, and whether it goes back.
        Packet(u8, bool),
        /// So many seconds pass.
        Wait(u32),
        /// The table is swept.
        Sweep,
    }

    fn event() -> impl Strategy<Value = Event> {
        let some = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST]);
        prop_oneof![
            3 => Just(Event::Look),
            6 => (some, any::<bool>()).prop_map(|(flags, back)| Event::Packet(flags, back)),
            1 => (1u32..400).prop_map(Event::Wait),
            1 => Just(Event::Sweep),
        ]
    }

    /// What a packet is, and what its opening came to, apart from where its flow stands.
    type Outcome = (Tracked, Option<Result<Direction, OpenError>>);

    fn packet(table: &Table<Memory>, near: Near, t: &Tuple, flags: u8, now: super::super::Tick) -> Outcome {
        let transport = Transport::Tcp { flags };
        let tracked = table.track_near(near, t, transport, EPOCH(1), now);
        let opened = (tracked == Tracked::New)
            .then(|| table.open_flow(t, transport, &opening(1), now).map(|opened| opened.found.direction));
        (tracked, opened)
    }

    proptest! {
        /// However old the look is, and whoever stands there by now: the same as without it.
        #[test]
        fn an_old_look_changes_nothing(events in prop::collection::vec((0u32..40, event()), 1..300)) {
            // Few entries, so that flows follow each other in one.
            let (looked, plain) = (table(20), table(20));
            let mut places: std::collections::HashMap<u32, Near> = std::collections::HashMap::new();
            let mut seconds = 0;
            for (n, event) in events {
                let t = tcp(n, n + 1, 5000, 80);
                let now = at(seconds);
                match event {
                    Event::Look => {
                        places.insert(n, looked.point(looked.near(&t)));
                    }
                    Event::Packet(flags, reply) => {
                        let t = if reply { back(&t) } else { t };
                        let near = places.get(&n).copied().unwrap_or_else(|| looked.near(&t));
                        prop_assert_eq!(
                            packet(&looked, near, &t, flags, now),
                            packet(&plain, plain.near(&t), &t, flags, now)
                        );
                    }
                    Event::Wait(more) => seconds += more,
                    Event::Sweep => prop_assert_eq!(sweep_all(&looked, now), sweep_all(&plain, now)),
                }
            }
            prop_assert_eq!(looked.len(), plain.len());
        }
    }
}
