//! The memory that a burst's decisions need, fetched before the first of them is made.
//!
//! With a million flows every packet's flow lies in memory that no cache holds, in four places: the worker's bucket and
//! flow, and the connection table's tags and entry. One packet after the other, each of these is a wait; asked for
//! together, a burst waits once.

use encap::BURST;
use policy::conntrack::{Near, Tuple};

use super::{Core, Sight};
use crate::sys::prefetch::prefetch;

/// Fewer packets than this have nothing to gain from each other.
const LEAST: usize = 4;

impl Core {
    /// Fetches what [`decide`](Core::decide) will look at for these packets, at most [`BURST`].
    #[inline]
    pub(super) fn fetch_ahead(&self, packets: &mut [Sight]) {
        if packets.len() < LEAST {
            return;
        }
        for packet in packets.iter() {
            prefetch(self.flows.bucket_of(packet.hash));
        }
        let mut flows = [None; BURST];
        for (packet, flow) in packets.iter_mut().zip(&mut flows) {
            *flow = self.flows.likely(packet.hash);
            match flow {
                Some(flow) => prefetch(*flow),
                None => packet.near = Some(self.near(packet)),
            }
        }
        // All addresses before the first entry is asked for: what waits for a translation holds up what comes behind it.
        let mut entries = [None; BURST];
        for ((packet, flow), entry) in packets.iter_mut().zip(flows).zip(&mut entries) {
            packet.near = packet.near.map(|near| self.conntrack.point(near));
            *entry = match (packet.near, flow) {
                (Some(near), _) => self.conntrack.near_entry(near),
                (None, Some(flow)) => flow.action.track.and_then(|(slot, _)| self.conntrack.slot_entry(slot)),
                (None, None) => None,
            };
        }
        entries.into_iter().flatten().for_each(prefetch);
    }

    fn near(&self, packet: &Sight) -> Near {
        let near = self.conntrack.near(&Tuple::from(&packet.key));
        self.conntrack.near_tags(near).into_iter().for_each(prefetch);
        near
    }
}
