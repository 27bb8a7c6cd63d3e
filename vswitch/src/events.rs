//! What workers tell about single packets: drops while somebody listens, and what policy's Log rules ask for.
//!
//! A bounded queue that workers push to and the control thread empties; nothing waits and nothing is allocated. When it is
//! full, an event is lost and counted. Names are put to the numbers on the control thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use policy::model::Direction;
use policy::{Decision, FlowKey};

use crate::counters::DropReason;

/// Stands in [`FlowKey::ingress`] for what came through the uplink from nobody we know.
pub const ELSEWHERE: u32 = u32::MAX;
/// Events that wait at most.
const ROOM: usize = 4096;

/// What happened to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It was dropped.
    Drop(DropReason),
    /// A Log rule matched a flow's first packet: at this port, in this direction; `allowed` is the decision.
    Log {
        /// The port whose policy it is.
        port: u32,
        /// The direction as that port sees it.
        direction: Direction,
        /// The rule's number in the port's table.
        rule: u32,
        /// What was decided in the end.
        allowed: bool,
        /// The tables it was decided by.
        epoch: u64,
    },
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The packet's flow; addresses and ports are zero when it could not be parsed. `ingress` is [`ELSEWHERE`] when it
    /// came from no port and no peer.
    pub key: FlowKey,
    /// What happened.
    pub what: What,
}

/// The queue.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<Event>,
    listening: AtomicBool,
    lost: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Events { queue: ArrayQueue::new(ROOM), listening: AtomicBool::new(false), lost: AtomicU64::new(0) }
    }
}

impl Events {
    /// Tells a drop, if somebody listens.
    #[inline]
    pub fn dropped(&self, reason: DropReason, key: impl FnOnce() -> FlowKey) {
        if self.listening.load(Relaxed) {
            self.push(Event { key: key(), what: What::Drop(reason) });
        }
    }

    /// Tells the Log rules of a decision.
    pub fn log(&self, epoch: u64, port: u32, direction: Direction, key: &FlowKey, decision: &Decision) {
        for &rule in decision.logs.as_slice() {
            let what = What::Log { port, direction, rule, allowed: decision.allow, epoch };
            self.push(Event { key: *key, what });
        }
    }

    fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// From now on drops are told, or not.
    pub fn listen(&self, on: bool) {
        self.listening.store(on, Relaxed);
    }

    /// The next event.
    pub fn take(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// Events lost since the last call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_told_only_to_listeners_and_a_full_queue_counts() {
        let events = Events::default();
        events.dropped(DropReason::NoRoute, FlowKey::default);
        assert_eq!(events.take(), None);
        events.listen(true);
        for _ in 0..ROOM + 3 {
            events.dropped(DropReason::NoRoute, FlowKey::default);
        }
        assert_eq!(events.take().map(|e| e.what), Some(What::Drop(DropReason::NoRoute)));
        assert_eq!((events.lost(), events.lost()), (3, 0));
    }
}
