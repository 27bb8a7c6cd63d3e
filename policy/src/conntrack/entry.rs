//! One entry: eight words, one cache line, and the discipline of its control word.
//!
//! | word | what | written |
//! |---|---|---|
//! | 0 | generation 32, epoch of the verdict 24, phase and state 8 | compare-and-swap only |
//! | 1, 2 | address of end a | while claimed |
//! | 3, 4 | address of end b | while claimed |
//! | 5 | ports of a and b 16 each, protocol 8, end b asks 1, opener 23 | while claimed |
//! | 6 | rule of the egress and of the ingress decision, 32 each | by whoever judged; for people only |
//! | 7 | created 32, last seen 32 | while claimed; then plain stores of "last seen" |
//!
//! The control word is a sequence lock: free → claimed (generation + 1) → pending → live → claimed → free. Words 1 to 5
//! never change while an entry is pending or live, so a reader that finds the same generation, not claimed, before and
//! after reading them has read one flow's. A store of "last seen" by a thread that lost its entry to another flow
//! meanwhile makes that flow's creation older than it is and its last packet no older: it may lose some of its grace,
//! nothing else depends on it.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::quota::Opener;
use super::state::State;
use super::timeouts::Tick;
use super::tuple::Key;

/// Words of an entry.
pub(super) const ENTRY_WORDS: usize = 8;

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const VALUE: u8 = 0x1f;
const PENDING: u8 = 0x20;
const FROM_B: u8 = 0x40;

/// The epoch of a verdict, as an entry keeps it: 24 bits, compared by wrapping difference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(u32);

/// Epochs of snapshots map to 1 … `EPOCHS`; 0 is an entry that no snapshot of this process judged.
const EPOCHS: u64 = (1 << 24) - 1;

impl Epoch {
    /// Not judged in this process.
    pub const UNJUDGED: Self = Self(0);

    /// The epoch of the snapshot with that number.
    #[must_use]
    pub fn of(snapshot: u64) -> Self {
        Self((snapshot % EPOCHS) as u32 + 1)
    }

    /// Made after `other`, as far as 2^23 epochs can tell.
    #[must_use]
    pub fn newer(self, other: Self) -> bool {
        match (self, other) {
            (Self::UNJUDGED, _) => false,
            (_, Self::UNJUDGED) => true,
            _ => {
                let ahead = (u64::from(self.0) + EPOCHS - u64::from(other.0)) % EPOCHS;
                ahead != 0 && ahead < EPOCHS / 2
            }
        }
    }
}

/// A control word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Control(u64);

impl Control {
    fn new(generation: u32, epoch: Epoch, low: u8) -> Self {
        Self(u64::from(generation) << 32 | u64::from(epoch.0) << 8 | u64::from(low))
    }

    fn low(self) -> u8 {
        self.0 as u8
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn epoch(self) -> Epoch {
        Epoch((self.0 >> 8) as u32 & 0xff_ffff)
    }

    pub(super) fn is_free(self) -> bool {
        self.low() == FREE
    }

    pub(super) fn is_pending(self) -> bool {
        self.low() & PENDING != 0
    }

    /// The opener is end b.
    pub(super) fn opened_by_b(self) -> bool {
        self.low() & FROM_B != 0
    }

    /// The flow's state; `None` while the entry is free or claimed, or when the word is nonsense.
    #[inline]
    pub(super) fn state(self) -> Option<State> {
        State::from_value(self.low() & VALUE)
    }

    /// Live, with no bit that has no meaning: what an entry looks like that nobody is busy with.
    pub(super) fn is_sound_at_rest(self) -> bool {
        self.low() & !(VALUE | FROM_B) == 0
    }

    pub(super) fn pending(self, state: State, from_b: bool, epoch: Epoch) -> Self {
        let side = if from_b { FROM_B } else { 0 };
        Self::new(self.generation(), epoch, state as u8 | PENDING | side)
    }

    pub(super) fn live(self) -> Self {
        Self(self.0 & !u64::from(PENDING))
    }

    pub(super) fn with_state(self, state: State) -> Self {
        Self::new(self.generation(), self.epoch(), self.low() & !VALUE | state as u8)
    }

    pub(super) fn with_epoch(self, epoch: Epoch) -> Self {
        Self::new(self.generation(), epoch, self.low())
    }

    fn claimed_next(self) -> Self {
        Self::new(self.generation().wrapping_add(1), Epoch::UNJUDGED, CLAIMED)
    }

    fn claimed(self) -> Self {
        Self::new(self.generation(), Epoch::UNJUDGED, CLAIMED)
    }

    fn free(self) -> Self {
        Self::new(self.generation(), Epoch::UNJUDGED, FREE)
    }
}

/// The words of an entry that do not change while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) key: Key,
    pub(super) opener: Opener,
}

/// Rules that decided about a flow, as numbers of the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rules {
    /// The rule of the sender's egress decision.
    pub egress: u32,
    /// The rule of the receiver's ingress decision.
    pub ingress: u32,
}

/// View of one entry's words.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a>(pub(super) &'a [AtomicU64; ENTRY_WORDS]);

impl Entry<'_> {
    #[inline]
    pub(super) fn control(self) -> Control {
        Control(self.0[0].load(Acquire))
    }

    /// Changes the control word from `old` to `new`; false when it was not `old` any more.
    #[inline]
    pub(super) fn change(self, old: Control, new: Control) -> bool {
        self.0[0].compare_exchange(old.0, new.0, AcqRel, Acquire).is_ok()
    }

    /// Takes a free entry for a new flow: its control word with the next generation.
    pub(super) fn claim(self, free: Control) -> Option<Control> {
        let claimed = free.claimed_next();
        self.change(free, claimed).then_some(claimed)
    }

    /// Takes a pending or live entry away from its flow; `false` when its control word changed meanwhile. The caller
    /// must [`Self::release`] it.
    pub(super) fn seize(self, old: Control) -> bool {
        self.change(old, old.claimed())
    }

    /// Frees an entry that the caller has claimed or seized.
    pub(super) fn release(self, old: Control) {
        self.0[0].store(old.free().0, Release);
    }

    /// Frees the entry whatever it holds. Only while nobody else uses the table.
    pub(super) fn wipe(self) {
        self.release(Control(self.0[0].load(Relaxed)));
    }

    /// Overwrites the control word. Only while nobody else uses the table.
    pub(super) fn restore(self, control: Control) {
        self.0[0].store(control.0, Release);
    }

    /// Fills a claimed entry and publishes it with `control`.
    pub(super) fn publish(self, identity: &Identity, rules: Rules, now: Tick, control: Control) {
        // Pairs with the fence in `identity`: who reads one of these words sees the claimed control word too.
        fence(Release);
        self.write_identity(identity);
        self.set_rules(rules);
        self.0[7].store(u64::from(now.0) << 32 | u64::from(now.0), Relaxed);
        self.0[0].store(control.0, Release);
    }

    /// Overwrites the words that identify the flow.
    pub(super) fn write_identity(self, identity: &Identity) {
        let key = &identity.key;
        let [_, a_high, a_low, b_high, b_low, rest, ..] = self.0;
        a_high.store((key.a >> 64) as u64, Relaxed);
        a_low.store(key.a as u64, Relaxed);
        b_high.store((key.b >> 64) as u64, Relaxed);
        b_low.store(key.b as u64, Relaxed);
        rest.store(pack(identity), Relaxed);
    }

    /// The identity as it stands. Only meaningful when the control word says so before and after.
    fn read_identity(self) -> Identity {
        let [_, a_high, a_low, b_high, b_low, rest, ..] = self.0;
        let join = |high: &AtomicU64, low: &AtomicU64| {
            u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed))
        };
        unpack(join(a_high, a_low), join(b_high, b_low), rest.load(Relaxed))
    }

    /// Control word and identity of one and the same flow, pending or live.
    #[inline]
    pub(super) fn identity(self) -> Option<(Control, Identity)> {
        let before = self.control();
        before.state()?;
        let identity = self.read_identity();
        fence(Acquire);
        let after = Control(self.0[0].load(Relaxed));
        (after.generation() == before.generation() && after.state().is_some()).then_some((after, identity))
    }

    pub(super) fn opener(self) -> Opener {
        Opener::from_bits(self.0[5].load(Relaxed) as u32)
    }

    /// When it was made and when it was last seen.
    #[inline]
    pub(super) fn times(self) -> (Tick, Tick) {
        let word = self.0[7].load(Relaxed);
        (Tick((word >> 32) as u32), Tick(word as u32))
    }

    /// Seen at `now`: a store only when that is news.
    #[inline]
    pub(super) fn touch(self, now: Tick) {
        let word = self.0[7].load(Relaxed);
        if now.since(Tick(word as u32)) != 0 {
            self.0[7].store(word & 0xffff_ffff_0000_0000 | u64::from(now.0), Relaxed);
        }
    }

    pub(super) fn rules(self) -> Rules {
        let word = self.0[6].load(Relaxed);
        Rules { egress: (word >> 32) as u32, ingress: word as u32 }
    }

    pub(super) fn set_rules(self, rules: Rules) {
        self.0[6].store(u64::from(rules.egress) << 32 | u64::from(rules.ingress), Relaxed);
    }
}

/// Word 5.
fn pack(identity: &Identity) -> u64 {
    let key = &identity.key;
    let asks = if key.b_asks { ASKS } else { 0 };
    u64::from(key.a_port) << 48
        | u64::from(key.b_port) << 32
        | u64::from(key.proto) << 24
        | u64::from(identity.opener.bits() | asks)
}

fn unpack(a: u128, b: u128, rest: u64) -> Identity {
    let key = Key {
        a,
        b,
        a_port: (rest >> 48) as u16,
        b_port: (rest >> 32) as u16,
        proto: (rest >> 24) as u8,
        b_asks: rest as u32 & ASKS != 0,
    };
    Identity { key, opener: Opener::from_bits(rest as u32) }
}

/// Bit of word 5: end b asks (echo).
const ASKS: u32 = 1 << 23;
