//! An uplink in memory: the other implementation of the seam, for the simulator, benchmarks and tests.
//!
//! [`uplink`] makes its three ends: [`MemUplink`] is read and [`MemUplinkTx`] written by a worker, [`MemWire`] belongs
//! to whoever plays the underlay network. A train that was sent stays one [`Datagrams`] with the size of its segments;
//! the underlay splits, loses, delays and joins as it likes. Buffers are recycled, so that a warm wire allocates
//! nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use encap::{Form, Frame};

use super::pieces::Cursor;
use super::{RecvMeta, SendReport, Train, UplinkIo, UplinkTx};
use crate::sys::mmsg::RecvBatch;

/// One datagram, or several of one size laid end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// The other side: destination of what was sent, source of what is received.
    pub addr: SocketAddr,
    /// The payloads.
    pub bytes: Vec<u8>,
    /// Length of each datagram but the last; 0 = a single one.
    pub stride: usize,
    /// What was sent: hash of the flow, from which the socket picks a source port.
    pub flow_hash: u64,
}

impl Datagrams {
    /// Each datagram.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(if self.stride == 0 { self.bytes.len().max(1) } else { self.stride })
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Self { addr: (Ipv4Addr::UNSPECIFIED, 0).into(), bytes: Vec::new(), stride: 0, flow_hash: 0 }
    }
}

#[derive(Debug)]
struct Queue {
    ready: VecDeque<Datagrams>,
    spare: Vec<Datagrams>,
    limit: usize,
}

impl Queue {
    fn new(limit: usize) -> Mutex<Self> {
        Mutex::new(Self { ready: VecDeque::with_capacity(limit), spare: Vec::with_capacity(limit), limit })
    }

    /// Appends what `fill` makes of a recycled buffer; false when the queue is full.
    fn push(&mut self, fill: impl FnOnce(&mut Datagrams)) -> bool {
        if self.ready.len() >= self.limit {
            return false;
        }
        let mut datagrams = self.spare.pop().unwrap_or_default();
        datagrams.bytes.clear();
        fill(&mut datagrams);
        self.ready.push_back(datagrams);
        true
    }

    fn recycle(&mut self, datagrams: Datagrams) {
        if self.spare.len() < self.limit {
            self.spare.push(datagrams);
        }
    }
}

#[derive(Debug)]
struct Wire {
    to_switch: Mutex<Queue>,
    to_net: Mutex<Queue>,
    max_train: (usize, usize),
}

/// The switch's receiving half.
#[derive(Debug)]
pub struct MemUplink(Arc<Wire>);

/// The switch's sending half.
#[derive(Debug)]
pub struct MemUplinkTx(Arc<Wire>);

/// The underlay's end.
#[derive(Clone, Debug)]
pub struct MemWire(Arc<Wire>);

/// An uplink with room for `limit` trains in each direction, that sends trains of up to `max_train` (segments, bytes).
#[must_use]
pub fn uplink(limit: usize, max_train: (usize, usize)) -> (MemUplink, MemUplinkTx, MemWire) {
    let wire = Arc::new(Wire { to_switch: Queue::new(limit), to_net: Queue::new(limit), max_train });
    (MemUplink(Arc::clone(&wire)), MemUplinkTx(Arc::clone(&wire)), MemWire(wire))
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemWire {
    /// Hands datagrams to the switch as one receive buffer; false when its queue is full.
    pub fn send(&self, from: SocketAddr, bytes: &[u8], stride: usize) -> bool {
        lock(&self.0.to_switch).push(|datagrams| {
            datagrams.addr = from;
            datagrams.bytes.extend_from_slice(bytes);
            datagrams.stride = stride;
            datagrams.flow_hash = 0;
        })
    }

    /// The next train the switch sent. Give it back with [`recycle`](Self::recycle) where allocations count.
    pub fn recv(&self) -> Option<Datagrams> {
        lock(&self.0.to_net).ready.pop_front()
    }

    /// Reuses the buffer of a train that was read.
    pub fn recycle(&self, datagrams: Datagrams) {
        lock(&self.0.to_net).recycle(datagrams);
    }

    /// Receive buffers the switch has not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        lock(&self.0.to_switch).ready.len()
    }
}

impl UplinkIo for MemUplink {
    fn rx(&mut self, _batch: &mut RecvBatch, bufs: &mut [Frame], meta: &mut [RecvMeta]) -> io::Result<usize> {
        let mut queue = lock(&self.0.to_switch);
        let mut received = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(datagrams) = queue.ready.pop_front() else { break };
            // What does not fit leaves the buffer empty.
            buf.copy_from(&datagrams.bytes);
            *meta = RecvMeta { addr: datagrams.addr, len: buf.len(), stride: datagrams.stride };
            queue.recycle(datagrams);
            received += 1;
        }
        Ok(received)
    }
}

impl UplinkTx for MemUplinkTx {
    fn send(&mut self, form: Form, trains: &[Train<'_>]) -> SendReport {
        let mut report = SendReport::default();
        let (segments, bytes) = self.0.max_train;
        for train in trains {
            let count = train.count();
            let whole = train.parts.iter().map(|part| part.len()).sum::<usize>() == train.total;
            if !whole || count as usize > segments || train.total > bytes {
                report.errors += count;
                continue;
            }
            if form == Form::Ipip {
                self.send_packets(train, &mut report);
                continue;
            }
            let sent = lock(&self.0.to_net).push(|datagrams| {
                datagrams.addr = *train.dst;
                datagrams.stride = if count > 1 { train.seg } else { 0 };
                datagrams.flow_hash = train.flow_hash;
                for part in train.parts {
                    datagrams.bytes.extend_from_slice(part);
                }
            });
            *(if sent { &mut report.sent } else { &mut report.dropped }) += count;
        }
        report
    }

    fn max_train(&self, _: Form) -> (usize, usize) {
        self.0.max_train
    }
}

impl MemUplinkTx {
    /// As the raw socket does it: each inner packet behind an outer header of its own, from 0.0.0.0, which the kernel
    /// would replace.
    fn send_packets(&self, train: &Train<'_>, report: &mut SendReport) {
        let mut cursor = Cursor::new(train.parts);
        for _ in 0..train.count() {
            let mut pieces = [IoSlice::new(&[]); 3];
            let packet = cursor.take(train.seg.max(1), &mut pieces);
            let pieces = &pieces[..packet.unwrap_or(0)];
            let len = pieces.iter().map(|p| p.len()).sum();
            let head = pieces.first().map_or(&[][..], |p| p);
            let header = match train.dst.ip() {
                IpAddr::V4(dst) => encap::ipip::header(head, len, Ipv4Addr::UNSPECIFIED, dst),
                IpAddr::V6(_) => None,
            };
            let Some(header) = header else {
                report.errors += 1;
                continue;
            };
            let sent = lock(&self.0.to_net).push(|datagrams| {
                (datagrams.addr, datagrams.stride, datagrams.flow_hash) = (*train.dst, 0, train.flow_hash);
                datagrams.bytes.extend_from_slice(&header);
                pieces.iter().for_each(|piece| datagrams.bytes.extend_from_slice(piece));
            });
            *(if sent { &mut report.sent } else { &mut report.dropped }) += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use encap::LARGE;

    fn addr(n: u8) -> SocketAddr {
        ([192, 168, 77, n], 8472).into()
    }

    #[test]
    fn trains_out() {
        let (_, mut tx, wire) = uplink(2, (4, 1000));
        let dst = addr(2);
        let train = |seg, parts| Train { dst: &dst, flow_hash: 9, seg, total: 7, parts };
        let parts = [IoSlice::new(b"abc"), IoSlice::new(b"d"), IoSlice::new(b"efg")];
        let report = tx.send(
            Form::Vxlan,
            &[train(2, &parts), train(7, &parts), train(3, &parts), train(1, &parts), train(7, &[])],
        );
        assert_eq!((report.sent, report.dropped, report.errors), (4 + 1, 3, 7 + 1));
        let first = wire.recv().unwrap();
        assert_eq!((first.addr, first.flow_hash), (dst, 9));
        assert_eq!(first.iter().collect::<Vec<_>>(), [&b"ab"[..], b"cd", b"ef", b"g"]);
        assert_eq!(wire.recv().unwrap().iter().collect::<Vec<_>>(), [b"abcdefg"]);
        assert_eq!(wire.recv(), None);
    }

    #[test]
    fn buffers_in() {
        let (mut rx, _, wire) = uplink(3, (1, 1500));
        assert!(wire.send(addr(1), b"aabbc", 2));
        assert!(wire.send(addr(2), &vec![1; LARGE + 1], 0));
        assert!(wire.send(addr(3), b"", 0));
        assert!(!wire.send(addr(3), b"full", 0));
        let mut bufs = [Frame::with_capacity(LARGE), Frame::with_capacity(LARGE)];
        let mut meta = [RecvMeta::default(); 2];
        assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 2);
        assert_eq!(
            (bufs[0].data(), meta[0].addr, meta[0].len, meta[0].stride),
            (&b"aabbc"[..], addr(1), 5, 2)
        );
        assert_eq!((bufs[1].len(), meta[1].len), (0, 0));
        assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 1);
        assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 0);
    }
}
