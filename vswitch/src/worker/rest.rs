//! How a worker waits, and where it stands among the threads that want a processor.

use std::io;
use std::time::{Duration, Instant};

use mio::Events;

use super::Worker;
use crate::share;
use crate::sys::process;

impl Worker {
    /// Waits until there is something to do: awake for a moment where that pays ([`Polling`](crate::polling::Polling)), then asleep.
    pub(super) fn rest(&mut self, events: &mut Events, begun: bool) -> io::Result<()> {
        let since = Instant::now();
        let window = if begun && self.share.in_hurry() { self.polling.window(since) } else { Duration::ZERO };
        if !window.is_zero() {
            // Before others it would not let them have the processor.
            self.go_first(false);
            let until = self.poll_until(events, since, since + window)?;
            self.setup.counters.polled_ns.add((until - since).as_nanos() as u64);
            self.level(until);
        }
        if !self.has_work(begun) {
            self.look(events, None)?;
            self.setup.counters.wakeups.incr();
        }
        self.polling.found(since.elapsed());
        Ok(())
    }

    /// Looks for something to do and offers the processor to others, in turn, until there is something to do, somebody
    /// takes the processor, or the window ends. Returns until when it had the processor.
    fn poll_until(&mut self, events: &mut Events, since: Instant, end: Instant) -> io::Result<Instant> {
        let mut last = since;
        loop {
            self.look(events, Some(Duration::ZERO))?;
            if self.has_work(true) {
                return Ok(last);
            }
            std::thread::yield_now();
            let now = Instant::now();
            if self.polling.taken(now, now - last) {
                // What others had was not spent here.
                return Ok(last);
            }
            last = now;
            if now >= end {
                self.polling.in_vain(now);
                return Ok(now);
            }
        }
    }

    /// Puts what is readable into the ready ring; without a timeout, when something is.
    pub(super) fn look(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e),
        }
        for event in &*events {
            self.enqueue(event.token());
        }
        Ok(())
    }

    /// Looks at what the thread has used lately, and takes on the priority that fits.
    pub(super) fn look_at_share(&mut self, now: Instant) {
        let polled = Duration::from_nanos(self.setup.counters.polled_ns.get());
        let used = process::thread_time().saturating_sub(polled);
        self.share.look(now, used, self.dp.carried());
        let known = &self.setup.counters.used_ns;
        known.add((used.as_nanos() as u64).saturating_sub(known.get()));
        self.level(now);
    }

    /// Goes before other threads when it is in a hurry, but not where it will poll.
    fn level(&mut self, now: Instant) {
        let first = self.share.in_hurry() && self.polling.window(now).is_zero();
        self.go_first(first);
    }

    /// Goes before other threads, or is one among equals.
    fn go_first(&mut self, first: bool) {
        if self.setup.options.priority && self.first != first {
            self.first = first;
            // Without CAP_SYS_NICE it stays as it is.
            let _ = process::set_nice(if first { share::LIGHT } else { share::BUSY });
        }
    }
}
