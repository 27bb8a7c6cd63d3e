//! The kept copy of the objects in force, written beside the control thread.
//!
//! Writing and flushing a large one takes tenths of a second, in which no pod could be attached. So a thread of its own
//! does it, after the objects are in force, and rests [`REST`] times as long as it took. Owned by the control thread.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::attachments::StateError;
use control::store::Manifests;

/// A copy is begun this many times later than the last one took, so that objects in constant change cost a twentieth of a
/// core at most.
const REST: u32 = 20;
/// After one that failed.
const RETRY: Duration = Duration::from_secs(30);
/// How soon the writer's end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What is being written, and what is to be.
#[derive(Default)]
pub(super) struct Keeping {
    /// No copy is begun before.
    earliest: Option<Instant>,
    writer: Option<JoinHandle<(Duration, Result<(), StateError>)>>,
}

impl Keeping {
    /// When to call [`Keeping::go_on`] next.
    pub(super) fn next(&self, manifests: &Manifests) -> Option<Instant> {
        match (&self.writer, manifests.stale()) {
            (Some(_), _) => Some(Instant::now() + LOOK),
            (None, true) => Some(self.earliest.unwrap_or_else(Instant::now)),
            (None, false) => None,
        }
    }

    /// Takes the end of one copy over, and begins the next, where either is due.
    pub(super) fn go_on(&mut self, manifests: &mut Manifests) {
        let now = Instant::now();
        if let Some(writer) = self.writer.take_if(|writer| writer.is_finished()) {
            self.earliest = Some(now + end(writer, manifests).map_or(RETRY, |took| took * REST));
        }
        if self.writer.is_some() || !manifests.stale() || self.earliest.is_some_and(|at| now < at) {
            return;
        }
        let copy = manifests.copy();
        let write = move || {
            // Nothing waits for it: let everything else go first. Where that is refused, it does not matter.
            let _ = rustix::process::nice(19);
            let began = Instant::now();
            let written = copy.write();
            (began.elapsed(), written)
        };
        match std::thread::Builder::new().name("kept-copy".into()).spawn(write) {
            Ok(writer) => self.writer = Some(writer),
            Err(_) => {
                // Then nobody else has the time.
                let written = manifests.copy().write();
                manifests.kept(written);
            }
        }
    }

    /// Leaves nothing unwritten.
    pub(super) fn finish(&mut self, manifests: &mut Manifests) {
        if let Some(writer) = self.writer.take() {
            end(writer, manifests);
        }
        if manifests.stale() {
            let written = manifests.copy().write();
            manifests.kept(written);
        }
    }
}

/// Takes over how it ended; how long it took, if anything was written.
fn end(
    writer: JoinHandle<(Duration, Result<(), StateError>)>,
    manifests: &mut Manifests,
) -> Option<Duration> {
    // It holds no lock and nothing of ours; if it ever panicked, the next copy is written all the same.
    let (took, written) = writer.join().ok()?;
    let took = written.is_ok().then_some(took);
    if let Err(err) = &written {
        tracing::warn!(err = %super::chain(err), "keep a copy of the objects in force");
    }
    manifests.kept(written);
    took
}
