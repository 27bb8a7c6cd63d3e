//! The switch as control holds it: starts the workers, attaches and detaches ports, publishes snapshots.
//!
//! Used by one thread (the control thread). Workers are commanded through channels and answer; a snapshot is in force
//! when every worker has acknowledged its epoch.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;
use mio::Waker;

use crate::conntrack::{Conntrack, since_boot};
use crate::counters::{Totals, WorkerCounters};
use crate::datapath::Shared;
use crate::events::Events;
use crate::hand::{Hand, Left};
use crate::port::PortIo;
use crate::snapshot::{Published, Snapshot, published};
use crate::uplink::steer;
use crate::worker::{Command, FlowRow, Notice, PortReader, Setup, Worker, WorkerIo, WorkerOptions};

/// How long a worker may take to answer. A turn is microseconds; this is for a machine that is out of breath.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// It ended or hangs.
    #[error("worker {worker} does not answer")]
    Silent {
        /// Its number.
        worker: usize,
    },
    /// It could not do what was asked.
    #[error("worker {worker}: port {port}")]
    Refused {
        /// Its number.
        worker: usize,
        /// The port.
        port: u32,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It cannot wait on its new uplink sockets.
    #[error("worker {worker}: uplink")]
    Uplink {
        /// Its number.
        worker: usize,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It could not be started.
    #[error("start worker {worker}")]
    Start {
        /// Its number.
        worker: usize,
        /// Why.
        #[source]
        err: io::Error,
    },
}

struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    pending: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    counters: Arc<CachePadded<WorkerCounters>>,
    thread: Option<JoinHandle<()>>,
    ports: usize,
}

impl Handle {
    fn wake(&self) {
        self.pending.store(true, Ordering::Release);
        // A failed wake means the eventfd is full, in which case the worker is awake.
        let _ = self.waker.wake();
    }
}

/// The workers and the snapshot in force.
pub struct Switch {
    workers: Vec<Handle>,
    published: Published,
    /// Superseded snapshots, kept until all workers have let go of them.
    retired: Vec<Arc<Snapshot>>,
    epoch: u64,
    notices: Receiver<Notice>,
    reader_of: Vec<Option<usize>>,
    conntrack: Arc<Conntrack>,
    events: Arc<Events>,
}

impl Switch {
    /// Starts one worker for each element of `io`, with the frames of `hands` and what was left in them.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(
        io: Vec<WorkerIo>,
        hands: Vec<(Hand, Left)>,
        options: WorkerOptions,
        conntrack: Arc<Conntrack>,
    ) -> Result<Switch, SwitchError> {
        let published = published();
        let events = Arc::new(Events::default());
        let started = Instant::now();
        let shared =
            Shared { conntrack: Arc::clone(&conntrack), events: Arc::clone(&events), boot: since_boot() };
        let (notice_tx, notices) = bounded(1024);
        let mut workers = Vec::with_capacity(io.len());
        for (index, (io, (hand, left))) in io.into_iter().zip(hands).enumerate() {
            let (commands, rx) = bounded(1024);
            let counters = Arc::new(CachePadded::new(WorkerCounters::default()));
            let (pending, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let setup = Setup {
                index,
                options,
                seed: random_seed(),
                counters: Arc::clone(&counters),
                shared: shared.clone(),
                started,
                acked: Arc::clone(&acked),
                published: Arc::clone(&published),
                commands: rx,
                notices: notice_tx.clone(),
                pending: Arc::clone(&pending),
                io,
                left,
            };
            let start = |err| SwitchError::Start { worker: index, err };
            let (worker, waker) = Worker::new(setup, hand).map_err(start)?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(err) = worker.run() {
                        tracing::error!(worker = index, %err, "worker ended");
                        // Without its worker the node is half dead: let the keeper start a whole switch.
                        std::process::abort();
                    }
                })
                .map_err(start)?;
            workers.push(Handle {
                commands,
                waker,
                pending,
                acked,
                counters,
                thread: Some(thread),
                ports: 0,
            });
        }
        Ok(Switch {
            workers,
            published,
            retired: Vec::new(),
            epoch: 0,
            notices,
            reader_of: Vec::new(),
            conntrack,
            events,
        })
    }

    /// The node's connections.
    pub fn conntrack(&self) -> &Arc<Conntrack> {
        &self.conntrack
    }

    /// What workers tell about single packets.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Publishes the next snapshot and returns when every worker has taken it over: from then on no packet meets the
    /// old one.
    ///
    /// # Errors
    /// When a worker does not answer.
    pub fn publish(&mut self, mut snapshot: Snapshot) -> Result<u64, SwitchError> {
        self.epoch += 1;
        snapshot.epoch = self.epoch;
        self.retired.push(self.published.swap(Arc::new(snapshot)));
        for w in &self.workers {
            w.wake();
        }
        let deadline = Instant::now() + PATIENCE;
        for (worker, w) in self.workers.iter().enumerate() {
            let mut spins = 0u32;
            while w.acked.load(Ordering::Acquire) < self.epoch {
                if Instant::now() > deadline {
                    return Err(SwitchError::Silent { worker });
                }
                spins += 1;
                if spins < 64 {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
        self.retired.clear();
        Ok(self.epoch)
    }

    /// Lets a worker read this port, whose index is in the published snapshot already: the one to which the uplink
    /// brings what is for the port's address ([`steer`]); the one with the fewest ports, where it has none.
    ///
    /// # Errors
    /// When the worker does not answer or cannot wait on the descriptor.
    pub fn add_port(&mut self, id: u32, rx: Box<dyn PortIo + Send>, fd: RawFd) -> Result<(), SwitchError> {
        let address = self.snapshot().port(id).and_then(|port| port.v4.or(port.v6));
        let worker = address.map_or_else(
            || (0..self.workers.len()).min_by_key(|&w| self.workers[w].ports).unwrap_or(0),
            |address| steer::worker_of(address, self.workers.len()),
        );
        self.give_port(worker, id, rx, fd)
    }

    fn give_port(
        &mut self,
        worker: usize,
        id: u32,
        rx: Box<dyn PortIo + Send>,
        fd: RawFd,
    ) -> Result<(), SwitchError> {
        let answer = self.ask(worker, |done| Command::AddPort { id, rx, fd, done })?;
        answer.map_err(|err| SwitchError::Refused { worker, port: id, err })?;
        self.workers[worker].ports += 1;
        if self.reader_of.len() <= id as usize {
            self.reader_of.resize(id as usize + 1, None);
        }
        self.reader_of[id as usize] = Some(worker);
        Ok(())
    }

    /// Lets another worker read this port, where it is read. What its pod sends meanwhile waits; nothing is lost and
    /// nothing overtakes.
    ///
    /// # Errors
    /// When a worker does not answer or cannot wait on the descriptor.
    pub fn move_port(&mut self, id: u32, worker: usize) -> Result<(), SwitchError> {
        match self.take_port(id)? {
            Some((rx, fd)) => self.give_port(worker, id, rx, fd),
            None => Ok(()),
        }
    }

    /// Ends the reading of this port; its descriptor is closed when this returns.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub fn remove_port(&mut self, id: u32) -> Result<(), SwitchError> {
        self.take_port(id).map(drop)
    }

    fn take_port(&mut self, id: u32) -> Result<Option<PortReader>, SwitchError> {
        let Some(worker) = self.reader_of.get_mut(id as usize).and_then(Option::take) else {
            return Ok(None);
        };
        self.workers[worker].ports -= 1;
        let answer = self.ask(worker, |done| Command::RemovePort { id, done })?;
        answer.map_err(|err| SwitchError::Refused { worker, port: id, err })
    }

    /// Gives every worker, in their order, another part of the uplink. What waits in sockets that are read before and
    /// after (as copies of their descriptors) is not lost.
    ///
    /// # Errors
    /// When a worker does not answer, or cannot wait on a descriptor.
    pub fn replace_uplinks(&mut self, io: Vec<WorkerIo>) -> Result<(), SwitchError> {
        for (worker, io) in io.into_iter().enumerate().take(self.workers.len()) {
            let answer = self.ask(worker, |done| Command::Uplinks { io, done })?;
            answer.map_err(|err| SwitchError::Uplink { worker, err })?;
        }
        Ok(())
    }

    fn ask<T>(
        &self,
        worker: usize,
        command: impl FnOnce(Sender<io::Result<T>>) -> Command,
    ) -> Result<io::Result<T>, SwitchError> {
        let (done, answer) = bounded(1);
        let w = &self.workers[worker];
        w.commands.send(command(done)).map_err(|_| SwitchError::Silent { worker })?;
        w.wake();
        answer.recv_timeout(PATIENCE).map_err(|_| SwitchError::Silent { worker })
    }

    /// Which worker reads this port.
    pub fn reader(&self, id: u32) -> Option<usize> {
        self.reader_of.get(id as usize).copied().flatten()
    }

    /// Processor time that each worker has used, as of its last look.
    pub fn used(&self) -> Vec<Duration> {
        self.workers.iter().map(|w| Duration::from_nanos(w.counters.used_ns.get())).collect()
    }

    /// The flows all workers remember, `limit` each at most.
    pub fn flows(&self, limit: usize) -> Vec<FlowRow> {
        let mut rows = Vec::new();
        for w in &self.workers {
            let (reply, answer) = bounded(1);
            if w.commands.send(Command::Flows { reply, limit }).is_ok() {
                w.wake();
                rows.extend(answer.recv_timeout(PATIENCE).unwrap_or_default());
            }
        }
        rows
    }

    /// All workers' counters together.
    pub fn totals(&self) -> Totals {
        Totals::of(self.workers.iter().map(|w| &**w.counters))
    }

    /// What workers have noticed since the last call.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.try_iter().collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for w in &mut self.workers {
            let _ = w.commands.send(Command::Stop);
            w.wake();
        }
        for w in &mut self.workers {
            if let Some(t) = w.thread.take() {
                let _ = t.join();
            }
        }
    }
}

/// Keys that nobody outside can guess: the standard library's own random state.
pub(crate) fn random_seed() -> [u64; 2] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    std::array::from_fn(|i| {
        let mut h = RandomState::new().build_hasher();
        h.write_usize(i);
        h.finish()
    })
}
