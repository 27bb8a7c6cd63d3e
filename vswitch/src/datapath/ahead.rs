//! The memory that a burst's decisions need, fetched before the first of them is made.
//!
//! With a million flows every packet's flow lies in memory that no cache holds, in four places: the worker's bucket and
//! flow, and the connection table's tags and entry. One packet after the other, each of these is a wait; asked for
//! together, a burst waits once.

use policy::conntrack::{Near, Tuple};

use super::{Core, Sight};
use crate::sys::prefetch::prefetch;

/// Fewer packets than this have nothing to gain from each other.
const LEAST: usize = 4;

impl Core {
    /// Fetches what [`decide`](Core::decide) will look at for these packets.
    #[inline]
    pub(super) fn fetch_ahead(&self, packets: &mut [Sight]) {
        if packets.len() < LEAST {
            return;
        }
        for packet in packets.iter() {
            prefetch(self.flows.bucket_of(packet.hash));
        }
        for packet in packets.iter_mut() {
            packet.near = match self.flows.likely(packet.hash) {
                Some(flow) => {
                    prefetch(flow);
                    None
                }
                None => Some(self.near(packet)),
            };
        }
        for packet in packets.iter() {
            let entry = match packet.near {
                Some(near) => self.conntrack.near_entry(near),
                None => self
                    .flows
                    .likely(packet.hash)
                    .and_then(|flow| flow.action.track)
                    .and_then(|(slot, _)| self.conntrack.slot_entry(slot)),
            };
            if let Some(entry) = entry {
                prefetch(entry);
            }
        }
    }

    fn near(&self, packet: &Sight) -> Near {
        let near = self.conntrack.near(&Tuple::from(&packet.key));
        self.conntrack.near_tags(near).into_iter().for_each(prefetch);
        near
    }
}
