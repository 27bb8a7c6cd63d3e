//! What control and a worker say to each other.
//!
//! Commands go to a worker through its channel, which its waker announces; each is answered. Notices come back unasked.

use std::io;
use std::os::fd::RawFd;

use crossbeam::channel::Sender;

use super::WorkerIo;
use crate::datapath::Remembered;
use crate::port::PortIo;

/// A port's reading half, and the descriptor to wait on.
pub type PortReader = (Box<dyn PortIo + Send>, RawFd);

/// What control may ask of a worker; each is answered so that control knows it is done.
pub enum Command {
    /// Read this port from now on.
    AddPort {
        /// Its index in the snapshot.
        id: u32,
        /// Its reading half.
        rx: Box<dyn PortIo + Send>,
        /// The descriptor to wait on.
        fd: RawFd,
        /// Answered when done.
        done: Sender<io::Result<()>>,
    },
    /// Stop reading it and give it back. What it has read has gone its way by then.
    RemovePort {
        /// Its index.
        id: u32,
        /// Gets its reading half and descriptor.
        done: Sender<io::Result<Option<PortReader>>>,
    },
    /// Read these sockets from now on, instead of those so far, and send by this way out. Sockets that go on being
    /// read come again, as copies of their descriptors: what waits in them is not lost.
    Uplinks {
        /// The sockets and the way out.
        io: WorkerIo,
        /// Answered when done.
        done: Sender<io::Result<()>>,
    },
    /// Tell the flows of the cache.
    Flows {
        /// Gets at most `limit` flows.
        reply: Sender<Vec<FlowRow>>,
        /// How many at most.
        limit: usize,
    },
    /// End the thread.
    Stop,
}

/// A flow as a worker remembers it.
#[derive(Clone, Debug)]
pub struct FlowRow {
    /// The key.
    pub key: policy::FlowKey,
    /// The worker that remembers it.
    pub worker: usize,
    /// What is done with it.
    pub remembered: Remembered,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Milliseconds since the last packet.
    pub idle_ms: u64,
}

/// What a worker tells control without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Reading this port failed for good: its interface is gone.
    PortGone(u32),
}
