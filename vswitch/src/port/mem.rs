//! A port in memory: the other implementation of the seam, for the simulator, benchmarks and tests.
//!
//! [`pair`] makes the three ends of a cable: [`MemPort`] is read by a worker, [`MemPortTx`] is written by all workers,
//! [`MemEnd`] belongs to whoever plays the pod. Frames are copied in and out of recycled buffers, so that a warm cable
//! allocates nothing; each direction is a queue of fixed length behind a lock that only tests contend for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use encap::{Burst, LARGE, Pool, SMALL, VnetHdr};

use super::{Offloads, PortIo, PortTx};

/// A frame on the cable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemFrame {
    /// What the virtio header says about it.
    pub vnet: VnetHdr,
    /// The Ethernet frame.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Queue {
    ready: VecDeque<MemFrame>,
    spare: Vec<MemFrame>,
    limit: usize,
}

impl Queue {
    fn new(limit: usize) -> Mutex<Self> {
        Mutex::new(Self { ready: VecDeque::with_capacity(limit), spare: Vec::with_capacity(limit), limit })
    }

    /// Appends a frame made of `parts`; false when the queue is full.
    fn push<'a>(&mut self, vnet: VnetHdr, parts: impl IntoIterator<Item = &'a [u8]>) -> bool {
        if self.ready.len() >= self.limit {
            return false;
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.vnet = vnet;
        frame.bytes.clear();
        for part in parts {
            frame.bytes.extend_from_slice(part);
        }
        self.ready.push_back(frame);
        true
    }

    fn recycle(&mut self, frame: MemFrame) {
        if self.spare.len() < self.limit {
            self.spare.push(frame);
        }
    }
}

#[derive(Debug)]
struct Cable {
    to_switch: Mutex<Queue>,
    to_pod: Mutex<Queue>,
    down: AtomicBool,
    offloads: Offloads,
}

/// The switch's reading half.
#[derive(Debug)]
pub struct MemPort(Arc<Cable>);

/// The switch's writing half.
#[derive(Clone, Debug)]
pub struct MemPortTx(Arc<Cable>);

/// The pod's end.
#[derive(Clone, Debug)]
pub struct MemEnd(Arc<Cable>);

/// A cable whose pod takes what `offloads` says, with room for `limit` frames in each direction.
#[must_use]
pub fn pair(offloads: Offloads, limit: usize) -> (MemPort, MemPortTx, MemEnd) {
    let cable = Arc::new(Cable {
        to_switch: Queue::new(limit),
        to_pod: Queue::new(limit),
        down: AtomicBool::new(false),
        offloads,
    });
    (MemPort(Arc::clone(&cable)), MemPortTx(Arc::clone(&cable)), MemEnd(cable))
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemEnd {
    /// Sends a frame into the switch. False, and nothing sent, when the queue is full or the frame is longer than any
    /// TAP carries ([`LARGE`]).
    pub fn send(&self, vnet: VnetHdr, frame: &[u8]) -> bool {
        frame.len() <= LARGE && lock(&self.0.to_switch).push(vnet, [frame])
    }

    /// The next frame the switch wrote, or `None`. Give it back with [`recycle`](Self::recycle) where allocations
    /// count.
    pub fn recv(&self) -> Option<MemFrame> {
        lock(&self.0.to_pod).ready.pop_front()
    }

    /// Reuses the buffer of a frame that was read.
    pub fn recycle(&self, frame: MemFrame) {
        lock(&self.0.to_pod).recycle(frame);
    }

    /// Frames sent that the switch has not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        lock(&self.0.to_switch).ready.len()
    }

    /// Takes the interface down, or up again: writes of the switch then fail as a TAP's do.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Relaxed);
    }
}

impl PortIo for MemPort {
    fn rx(&mut self, into: &mut Burst, pool: &mut Pool, bytes: usize) -> io::Result<usize> {
        let mut queue = lock(&self.0.to_switch);
        let (mut frames, mut taken) = (0, 0);
        while !into.is_full() && taken < bytes {
            let Some(from) = queue.ready.pop_front() else { break };
            let mut frame = if from.bytes.len() <= SMALL { pool.small() } else { pool.large() };
            // Fits: `send` refuses what is longer than a large frame.
            frame.copy_from(&from.bytes);
            frame.vnet = from.vnet;
            taken += from.bytes.len();
            frames += 1;
            queue.recycle(from);
            if let Err(frame) = into.push(frame) {
                pool.give(frame);
            }
        }
        Ok(frames)
    }
}

impl PortTx for MemPortTx {
    fn tx(&self, vnet: &VnetHdr, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.0.down.load(Relaxed) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        if !takes(self.0.offloads, vnet) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let room = lock(&self.0.to_pod).push(*vnet, parts.iter().map(|part| &**part));
        if room { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn offloads(&self) -> Offloads {
        self.0.offloads
    }
}

/// May a frame with this header be written to a port with these offloads?
fn takes(can: Offloads, vnet: &VnetHdr) -> bool {
    match vnet.gso_type & !VnetHdr::GSO_ECN {
        VnetHdr::GSO_NONE => can.csum || !vnet.needs_csum(),
        VnetHdr::GSO_TCPV4 => can.tso4,
        VnetHdr::GSO_TCPV6 => can.tso6,
        VnetHdr::GSO_UDP_L4 => can.uso,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(port: &mut MemPort, bytes: usize) -> Vec<(VnetHdr, Vec<u8>)> {
        let (mut burst, mut pool) = (Burst::new(), Pool::new(4, 4));
        port.rx(&mut burst, &mut pool, bytes).unwrap();
        burst.frames().iter().map(|f| (f.vnet, f.data().to_vec())).collect()
    }

    #[test]
    fn frames_arrive_in_order_with_their_metadata() {
        let (mut port, tx, end) = pair(Offloads::default(), 4);
        let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 34, ..VnetHdr::default() };
        assert!(end.send(VnetHdr::default(), b"one"));
        assert!(end.send(vnet, &[7; 60_000]));
        assert_eq!(
            receive(&mut port, 1 << 20),
            [(VnetHdr::default(), b"one".to_vec()), (vnet, vec![7; 60_000])]
        );
        assert!(receive(&mut port, 1 << 20).is_empty(), "nothing left is no error");
        tx.tx(&VnetHdr::default(), &[IoSlice::new(b"he"), IoSlice::new(b""), IoSlice::new(b"llo")]).unwrap();
        assert_eq!(end.recv().map(|f| f.bytes), Some(b"hello".to_vec()));
        assert_eq!(end.recv(), None);
    }

    #[test]
    fn budgets_limits_and_faults() {
        let (mut port, tx, end) = pair(Offloads::default(), 100);
        assert_eq!((0..200).filter(|_| end.send(VnetHdr::default(), &[0; 100])).count(), 100);
        assert_eq!(receive(&mut port, 250).len(), 3, "stops behind the frame that reaches the budget");
        assert_eq!(receive(&mut port, 1 << 20).len(), encap::BURST);
        assert_eq!(end.unread(), 100 - 3 - encap::BURST);
        assert!(!end.send(VnetHdr::default(), &vec![0; LARGE + 1]));
        let frame = [IoSlice::new(b"x")];
        let sent = (0..200).filter(|_| tx.tx(&VnetHdr::default(), &frame).is_ok()).count();
        assert_eq!(sent, 100);
        let error = |vnet| tx.tx(&vnet, &frame).unwrap_err().kind();
        assert_eq!(error(VnetHdr::default()), io::ErrorKind::WouldBlock);
        assert_eq!(
            error(VnetHdr { gso_type: VnetHdr::GSO_TCPV4, ..VnetHdr::default() }),
            io::ErrorKind::InvalidInput
        );
        end.set_down(true);
        assert_eq!(error(VnetHdr::default()), io::ErrorKind::NetworkDown);
    }
}
