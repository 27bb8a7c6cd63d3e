//! One peer's path: how long an echo takes, how many are lost, and how large a packet gets through.
//!
//! Sans-IO: time is an argument, in milliseconds of the caller's clock. Each round sends two echo requests that must not
//! be fragmented: a small one, for round trip and loss, and one as large as the path is believed to take. While the large
//! one is answered, nothing changes. A router that tells "too big" is believed at once. A path that swallows the large one
//! and answers the small one is searched by halving (RFC 4821, RFC 8899 section 5.3); until the search is done, what is
//! known to pass is in force. From time to time the largest size is tried again, since paths grow too. A peer that
//! answers nothing tells nothing: its MTU stays.

/// After this long an echo is lost, milliseconds.
const PATIENCE: u64 = 1000;
/// Large echoes lost in a row, while small ones come back, before a size is taken for too large.
const TRIES: u32 = 2;
/// How often a larger size than the one in force is tried, milliseconds.
const RAISE: u64 = 20_000;
/// How exact a search is, bytes.
const STEP: u16 = 8;
/// Bytes of the small echo's packet.
pub(super) const SMALL: u16 = 64;

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Health {
    /// Largest IP packet it takes, bytes.
    pub(in crate::daemon) mtu: u16,
    /// Smoothed round trip, microseconds; none = no echo came back yet.
    pub(in crate::daemon) rtt_us: Option<u32>,
    /// Of the last echoes, at most 64, so many were lost.
    pub(in crate::daemon) lost: u32,
    /// So many.
    pub(in crate::daemon) of: u32,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    size: u16,
    since: u64,
}

/// A peer's path.
#[derive(Debug)]
pub(super) struct Path {
    base: u16,
    max: u16,
    mtu: u16,
    /// The largest that is known to pass now, and the smallest that is known not to.
    passes: u16,
    fails: u16,
    /// What a router said.
    told: Option<u16>,
    searching: bool,
    raise_at: u64,
    large: Option<Flight>,
    lost_large: u32,
    small: Option<Flight>,
    heard: Option<u64>,
    /// The last small echo came back.
    alive: bool,
    round_at: u64,
    rtt_us: Option<u32>,
    /// Losses of the last small echoes, the youngest in the lowest bit.
    history: u64,
    rounds: u32,
}

impl Path {
    /// A path believed to take `max` bytes, and at least `base`, first asked at `start`.
    pub(super) fn new(base: u16, max: u16, start: u64) -> Path {
        let base = base.min(max);
        Path {
            base,
            max,
            mtu: max,
            passes: base,
            fails: max.saturating_add(1),
            told: None,
            searching: false,
            raise_at: 0,
            large: None,
            lost_large: 0,
            small: None,
            heard: None,
            alive: false,
            round_at: start,
            rtt_us: None,
            history: 0,
            rounds: 0,
        }
    }

    /// The first link takes another size now.
    pub(super) fn set_max(&mut self, max: u16) {
        if max == self.max {
            return;
        }
        let whole = self.mtu == self.max;
        self.base = self.base.min(max);
        self.mtu = if whole { max } else { self.mtu.min(max) };
        self.max = max;
        self.passes = self.passes.min(max);
        self.forget_search();
    }

    fn forget_search(&mut self) {
        (self.told, self.searching, self.large, self.lost_large) = (None, false, None, 0);
        self.fails = self.max.saturating_add(1);
    }

    /// What is known.
    pub(super) fn health(&self) -> Health {
        let of = self.rounds.min(64);
        Health { mtu: self.mtu, rtt_us: self.rtt_us, lost: self.history.count_ones(), of }
    }

    /// When [`Path::poll`] has something to do.
    pub(super) fn next(&self) -> u64 {
        let flights = [self.small, self.large].into_iter().flatten().map(|f| f.since + PATIENCE);
        let next = flights.fold(self.round_at, u64::min);
        if self.goes_on() { self.heard.unwrap_or(next).min(next) } else { next }
    }

    /// A search, or a second look at a loss, does not wait for the next round, where the peer is there at all.
    fn goes_on(&self) -> bool {
        let idle = self.large.is_none() && self.small.is_none();
        idle && (self.lost_large > 0 || self.searching) && self.alive
    }

    /// The sizes of the packets to send now; the next round begins `interval` later.
    pub(super) fn poll(&mut self, now: u64, interval: u64) -> Vec<u16> {
        if self.small.is_some_and(|f| now >= f.since + PATIENCE) {
            self.small = None;
            self.count(true);
        }
        if let Some(f) = self.large.filter(|f| now >= f.since + PATIENCE) {
            self.large = None;
            self.lost(f, now);
        }
        if now < self.round_at && !self.goes_on() {
            return Vec::new();
        }
        if now >= self.round_at {
            self.round_at = now + interval;
        }
        let mut sizes = Vec::with_capacity(2);
        if self.small.is_none() {
            self.small = Some(Flight { size: SMALL, since: now });
            sizes.push(SMALL);
        }
        if self.large.is_none() {
            let size = self.candidate(now);
            self.large = Some(Flight { size, since: now });
            sizes.push(size);
        }
        sizes
    }

    /// An echo of this size came back after `rtt_us`.
    pub(super) fn answered(&mut self, size: u16, rtt_us: u32, now: u64) {
        self.heard = Some(now);
        if self.small.is_some_and(|f| f.size == size) {
            self.small = None;
            self.count(false);
            let before = self.rtt_us.unwrap_or(rtt_us);
            self.rtt_us = Some(before - before / 8 + rtt_us / 8);
        }
        if self.large.is_some_and(|f| f.size == size) {
            self.large = None;
            self.lost_large = 0;
            self.passes = self.passes.max(size);
            self.mtu = self.mtu.max(size);
            self.settle(now);
        }
    }

    /// A router, or the first link, said that this size is too large; `told` is what fits.
    pub(super) fn too_big(&mut self, size: u16, told: u16, now: u64) {
        if self.large.is_none_or(|f| f.size != size) {
            return;
        }
        self.large = None;
        self.told = Some(told).filter(|told| (self.base..size).contains(told));
        self.refuse(size, now);
    }

    fn lost(&mut self, flight: Flight, now: u64) {
        // A peer that is silent altogether says nothing about sizes.
        if self.heard.is_none_or(|at| at < flight.since) {
            self.lost_large = 0;
            return;
        }
        self.lost_large += 1;
        if self.lost_large >= TRIES {
            self.refuse(flight.size, now);
        }
    }

    /// This size does not pass.
    fn refuse(&mut self, size: u16, now: u64) {
        self.lost_large = 0;
        self.fails = self.fails.min(size).max(self.base);
        if self.passes >= self.fails {
            // What passed once does no more: the path has changed.
            self.passes = self.base;
        }
        if self.told == Some(self.passes) {
            // It passes, and somebody says that no more does.
            self.fails = self.passes + 1;
        }
        if self.mtu >= self.fails {
            self.mtu = self.told.unwrap_or(self.passes).min(self.fails.saturating_sub(1)).max(self.base);
        }
        self.searching = true;
        self.settle(now);
    }

    /// Ends a search that cannot become more exact.
    fn settle(&mut self, now: u64) {
        let narrow =
            self.fails.saturating_sub(self.passes) <= STEP && self.told.is_none_or(|t| t <= self.passes);
        if self.passes >= self.max || narrow {
            self.mtu = self.passes;
            self.forget_search();
            self.raise_at = now + RAISE;
        } else if self.told.is_some_and(|told| told <= self.passes || told >= self.fails) {
            self.told = None;
        }
    }

    /// The size to ask about next.
    fn candidate(&mut self, now: u64) -> u16 {
        if !self.searching {
            if self.mtu < self.max && now >= self.raise_at {
                (self.searching, self.passes) = (true, self.mtu);
                return self.max;
            }
            return self.mtu;
        }
        if let Some(told) = self.told {
            return told;
        }
        if self.fails > self.max {
            return self.max;
        }
        let half = self.passes + (self.fails - self.passes) / 2;
        half.clamp(self.passes + 1, self.fails.max(self.passes + 2) - 1)
    }

    fn count(&mut self, lost: bool) {
        self.alive = !lost;
        self.history = self.history << 1 | u64::from(lost);
        self.rounds = self.rounds.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
