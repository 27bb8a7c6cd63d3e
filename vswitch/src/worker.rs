//! The worker: one thread, one epoll, the ports and sockets it reads.
//!
//! A port has exactly one reader, and the frame stays on this thread until it is written somewhere: no frame is handed
//! to another thread. epoll is edge-triggered (mio), so a source that still has something when its budget ends stays
//! in the ready ring and gets its next turn after the others. With nothing ready the worker sleeps in `poll` without a
//! timeout, under much traffic after a moment of looking for more ([`Polling`]): an idle node costs nothing. Nothing here blocks except `poll`, nothing allocates per packet, and nothing
//! here knows about Kubernetes.

mod command;
mod rest;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::Cache;
use crossbeam::channel::{Receiver, Sender};
use crossbeam::utils::CachePadded;
use encap::{BURST, Burst, Frame};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::counters::WorkerCounters;
use crate::datapath::{Datapath, DatapathOptions, Shared};
use crate::hand::{self, Hand, Left};
use crate::polling::Polling;
use crate::port::PortIo;
use crate::share::Share;
use crate::snapshot::{Published, Snapshot};
use crate::sys::mmsg::RecvBatch;
use crate::uplink::{RecvMeta, Uplink, UplinkTx};

pub use self::command::{Command, FlowRow, Notice, PortReader};

/// Bytes read from one port before its batch is carried to its end, where other sources wait for their turn: one
/// super-frame, or a full burst of small frames.
const PORT_BUDGET: usize = 64 * 1024;
/// The same where nothing else waits. Several super-frames written in a row wake the receiver once and are answered
/// in a row, which halves the wakeups of a bulk stream; more than this would keep a newcomer waiting for too long.
const LONE_BUDGET: usize = 512 * 1024;
const WAKE: Token = Token(usize::MAX);
/// Uplink sockets have tokens from here on; ports use their index.
const UPLINK: usize = 1 << 40;

/// How a worker is made: its data path, and how it behaves toward other threads.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// Sizes of the data path, and ways it takes.
    pub datapath: DatapathOptions,
    /// Under much traffic it stays awake for a moment before it sleeps ([`Polling`]).
    pub polling: bool,
    /// With little to do it goes before other threads ([`Share`]).
    pub priority: bool,
}

/// What a worker needs to start.
pub struct Setup {
    /// Its number, from 0.
    pub index: usize,
    /// How it is made.
    pub options: WorkerOptions,
    /// Keys of its hash.
    pub seed: [u64; 2],
    /// Its counters.
    pub counters: Arc<CachePadded<WorkerCounters>>,
    /// What it shares with the others; `boot` is the time since boot at `started`.
    pub shared: Shared,
    /// Its time 0.
    pub started: Instant,
    /// The epoch it has taken over last.
    pub acked: Arc<AtomicU64>,
    /// Where snapshots appear.
    pub published: Published,
    /// Commands to it.
    pub commands: Receiver<Command>,
    /// Its notices.
    pub notices: Sender<Notice>,
    /// Set when a command or snapshot awaits it.
    pub pending: Arc<AtomicBool>,
    /// Its part of the uplink.
    pub io: WorkerIo,
    /// What its predecessor left undone.
    pub left: Left,
}

/// A worker's part of the uplink.
pub struct WorkerIo {
    /// Sockets it reads.
    pub uplinks: Vec<Uplink>,
    /// Its way out.
    pub uplink_tx: Box<dyn UplinkTx + Send>,
}

struct Source {
    rx: Box<dyn PortIo + Send>,
    fd: RawFd,
    queued: bool,
}

/// The thread's state.
pub struct Worker {
    poll: Poll,
    setup: Setup,
    ports: Vec<Option<Source>>,
    uplink_queued: Vec<bool>,
    ready: VecDeque<Token>,
    dp: Datapath,
    burst: Burst,
    bufs: Vec<Frame>,
    batch: RecvBatch,
    meta: Vec<RecvMeta>,
    started: Instant,
    polling: Polling,
    share: Share,
    /// It has the priority of a light worker.
    first: bool,
}

impl Worker {
    /// Makes the worker's event loop; the returned waker interrupts its sleep.
    ///
    /// # Errors
    /// When epoll or a descriptor's registration fails.
    pub fn new(setup: Setup, hand: Hand) -> io::Result<(Worker, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mut dp = Datapath::new(
            setup.index,
            setup.options.datapath,
            setup.seed,
            Arc::clone(&setup.counters),
            setup.shared.clone(),
            hand.pool,
        );
        if let Some(memory) = hand.heads {
            dp.keep_heads(memory);
        }
        let mut worker = Worker {
            poll,
            ports: Vec::new(),
            uplink_queued: Vec::new(),
            ready: VecDeque::with_capacity(1024),
            dp,
            burst: Burst::new(),
            meta: Vec::new(),
            bufs: Vec::new(),
            batch: hand.batch,
            started: setup.started,
            polling: Polling::new(setup.options.polling),
            share: Share::new(setup.started, Duration::ZERO),
            first: false,
            setup,
        };
        worker.read_uplinks()?;
        Ok((worker, waker))
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When `poll` itself fails, which it does not in a healthy kernel.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let published = Arc::clone(&self.setup.published);
        let mut tables: Cache<_, Arc<Snapshot>> = Cache::new(published);
        // Sources that became readable before their registration report themselves at once; uplinks likewise.
        // Before the first tables nothing is read: it would be dropped, and can wait where it is.
        let mut begun = false;
        loop {
            if self.has_work(begun) {
                self.look(&mut events, Some(Duration::ZERO))?;
            } else {
                self.rest(&mut events, begun)?;
            }
            let commanded = self.setup.pending.swap(false, Ordering::AcqRel);
            let snap = tables.load();
            let epoch = snap.epoch;
            if commanded && !self.commands() {
                return Ok(());
            }
            begun = epoch > 0;
            if begun {
                if !self.setup.left.is_empty() {
                    self.take_up(snap);
                }
                self.turn(snap);
            }
            self.setup.acked.store(epoch, Ordering::Release);
        }
    }

    /// Is there anything to do? Before the first tables, only what control asks.
    fn has_work(&self, begun: bool) -> bool {
        (begun && !self.ready.is_empty()) || self.setup.pending.load(Ordering::Acquire)
    }

    fn enqueue(&mut self, token: Token) {
        let queued = match token {
            WAKE => return,
            Token(t) if t >= UPLINK => self.uplink_queued.get_mut(t - UPLINK),
            Token(t) => self.ports.get_mut(t).and_then(Option::as_mut).map(|s| &mut s.queued),
        };
        if let Some(q @ false) = queued {
            *q = true;
            self.ready.push_back(token);
        }
    }

    /// One turn: every ready source gets one batch.
    fn turn(&mut self, snap: &Snapshot) {
        self.setup.counters.turns.incr();
        let now = Instant::now();
        if self.share.is_due(now) {
            self.look_at_share(now);
        }
        let now_ms = (now - self.started).as_millis() as u64;
        for _ in 0..self.ready.len() {
            let Some(token) = self.ready.pop_front() else { return };
            let more = match token {
                Token(t) if t >= UPLINK => self.uplink_batch(snap, t - UPLINK, now_ms),
                Token(t) => self.port_batch(snap, t, now_ms),
            };
            if more {
                self.ready.push_back(token);
                continue;
            }
            match token {
                Token(t) if t >= UPLINK => self.uplink_queued[t - UPLINK] = false,
                Token(t) => {
                    if let Some(Some(s)) = self.ports.get_mut(t) {
                        s.queued = false;
                    }
                }
            }
        }
    }

    /// Takes in what its predecessor had read and not handed on. It is not marked anew: a packet that a switch dies of is
    /// taken up once, not for ever.
    fn take_up(&mut self, snap: &Snapshot) {
        let Left { frames, mut buffers, form } = std::mem::take(&mut self.setup.left);
        let now_ms = self.started.elapsed().as_millis() as u64;
        let (packets, datagrams) = (frames.len(), buffers.len());
        for (source, read) in frames {
            // Of a port that is gone, nobody waits for it.
            let port = snap.ports.iter().flatten().find(|port| hand::source(port) == source);
            let Some(port) = port else { continue };
            let mut frame = self.dp.pool().large();
            frame.copy_from(read.data());
            frame.vnet = read.vnet;
            hand::read_again(port, &mut frame);
            if self.burst.push(frame).is_ok() {
                self.dp.from_port(snap, port, &mut self.burst, &mut *self.setup.io.uplink_tx, now_ms);
            }
        }
        if let Some(form) = form {
            buffers
                .iter_mut()
                .for_each(|(frame, meta)| hand::received_again(form, frame, meta, snap.node.vtep_mac));
            let (mut bufs, meta): (Vec<Frame>, Vec<RecvMeta>) = buffers.into_iter().unzip();
            self.dp.from_uplink(snap, form, &mut bufs, &meta, &mut *self.setup.io.uplink_tx, now_ms);
        }
        tracing::info!(worker = self.setup.index, packets, datagrams, "took up what was in hand");
    }

    /// One batch of a port; true when there may be more.
    fn port_batch(&mut self, snap: &Snapshot, index: usize, now_ms: u64) -> bool {
        let Some(Some(source)) = self.ports.get_mut(index) else { return false };
        // A port that is not in the tables (yet) is read later, or its reader is about to be removed.
        let Some(port) = snap.port(index as u32) else { return false };
        let budget = if self.ready.is_empty() { LONE_BUDGET } else { PORT_BUDGET };
        self.burst.source = hand::source(port);
        let got = source.rx.rx(&mut self.burst, self.dp.pool(), budget);
        let bytes: usize = self.burst.frames().iter().map(Frame::len).sum();
        let n = self.burst.len();
        if n > 0 {
            self.dp.from_port(snap, port, &mut self.burst, &mut *self.setup.io.uplink_tx, now_ms);
        }
        match got {
            Ok(_) => n == BURST || bytes >= budget,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => true,
            Err(_) => {
                let _ = self.setup.notices.try_send(Notice::PortGone(index as u32));
                false
            }
        }
    }

    /// One batch of an uplink socket; true when there may be more.
    fn uplink_batch(&mut self, snap: &Snapshot, index: usize, now_ms: u64) -> bool {
        let Some(uplink) = self.setup.io.uplinks.get_mut(index) else { return false };
        let form = uplink.form;
        let room = uplink.buffers().min(self.bufs.len());
        self.batch.tag(hand::tag(form));
        match uplink.rx.rx(&mut self.batch, &mut self.bufs[..room], &mut self.meta) {
            Ok(0) => false,
            Ok(n) => {
                self.dp.from_uplink(
                    snap,
                    form,
                    &mut self.bufs[..n],
                    &self.meta[..n],
                    &mut *self.setup.io.uplink_tx,
                    now_ms,
                );
                self.batch.done(n);
                true
            }
            // Errors of a tunnel socket are those of single datagrams (ICMP); the next read goes on.
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Does what control asked; false to end.
    fn commands(&mut self) -> bool {
        while let Ok(command) = self.setup.commands.try_recv() {
            match command {
                Command::AddPort { id, rx, fd, done } => {
                    let _ = done.send(self.add_port(id as usize, rx, fd));
                }
                Command::RemovePort { id, done } => {
                    let _ = done.send(Ok(self.remove_port(id as usize)));
                }
                Command::Uplinks { io, done } => {
                    let _ = done.send(self.replace_uplinks(io));
                }
                Command::Flows { reply, limit } => {
                    let _ = reply.send(self.flow_rows(limit));
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn add_port(&mut self, index: usize, rx: Box<dyn PortIo + Send>, fd: RawFd) -> io::Result<()> {
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        self.poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
        self.ports[index] = Some(Source { rx, fd, queued: false });
        // What arrived before the registration is announced by epoll, what arrived before the snapshot is not.
        self.enqueue(Token(index));
        Ok(())
    }

    fn remove_port(&mut self, index: usize) -> Option<PortReader> {
        self.ready.retain(|t| *t != Token(index));
        let source = self.ports.get_mut(index).and_then(Option::take)?;
        // A descriptor whose device is gone may refuse; closing it removes it from epoll anyway.
        let _ = self.poll.registry().deregister(&mut SourceFd(&source.fd));
        Some((source.rx, source.fd))
    }

    fn replace_uplinks(&mut self, io: WorkerIo) -> io::Result<()> {
        for uplink in &self.setup.io.uplinks {
            // Explicitly: the socket lives on in other descriptors, so that closing this one would leave it in epoll.
            let _ = self.poll.registry().deregister(&mut SourceFd(&uplink.fd));
        }
        self.ready.retain(|t| t.0 < UPLINK);
        self.setup.io = io;
        self.read_uplinks()
    }

    /// Waits on the uplinks in `setup`. What arrived before is announced by epoll at once.
    fn read_uplinks(&mut self) -> io::Result<()> {
        let uplinks = &self.setup.io.uplinks;
        self.uplink_queued.clear();
        self.uplink_queued.resize(uplinks.len(), false);
        let room = uplinks.iter().map(Uplink::buffers).max().unwrap_or(0);
        let dp = &mut self.dp;
        for number in self.bufs.len()..room {
            let mut frame = dp.pool().large();
            frame.buffer(number);
            self.bufs.push(frame);
        }
        self.meta.resize(self.bufs.len(), RecvMeta::default());
        for (i, uplink) in self.setup.io.uplinks.iter().enumerate() {
            let token = Token(UPLINK + i);
            self.poll.registry().register(&mut SourceFd(&uplink.fd), token, Interest::READABLE)?;
        }
        Ok(())
    }

    fn flow_rows(&self, limit: usize) -> Vec<FlowRow> {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let epoch = self.setup.acked.load(Ordering::Relaxed);
        let live = self.dp.flows().iter().filter(|f| f.epoch >= epoch);
        live.take(limit)
            .map(|f| FlowRow {
                key: f.key,
                worker: self.setup.index,
                remembered: f.action,
                packets: f.packets,
                bytes: f.bytes,
                idle_ms: now_ms.saturating_sub(f.last_ms),
            })
            .collect()
    }
}
