//! What a worker has in its hands: its frames and the arrays it receives with, in memory that outlives the process.
//!
//! A packet that was read from a TAP or a socket and not yet written is nowhere else; were its process killed then, it would
//! be lost. So the keeper holds this memory, and whoever starts next finds in it what the last one was at ([`Left`]) and
//! takes it from there, as if it had come just now ([`encap::again`]). A packet may then be delivered twice, where its death fell
//! between writing it and noting that; never is one that was read lost. What is taken up is not marked anew: a packet that
//! should make a switch die would otherwise do so again and again.
//!
//! Taken up by the control thread before workers start; each part then belongs to its worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use encap::again;
use encap::gro::HEADS;
use encap::{Form, Found, Frame, HEADROOM, LARGE, Mac, Pool, SMALL};

use crate::snapshot::{GATEWAY_MAC, Port};
use crate::sys::memory;
use crate::sys::mmsg::RecvBatch;
use crate::uplink::RecvMeta;

/// Receive buffers of a worker at most, beside its pool.
pub const BUFFERS: usize = 64;
/// Changes with everything that lies in the memory: a switch of another version begins with nothing.
const VERSION: u64 = 0x7673_6861_6e64_0002;
/// Words before the arrays: the version.
const HEAD: usize = 1;

/// How many frames a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Small frames of its pool.
    pub small: usize,
    /// Large frames of its pool.
    pub large: usize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { small: 256, large: 40 }
    }
}

impl Sizes {
    /// Words of the version and the arrays, and of the frames and the heads.
    fn words(self) -> (usize, usize) {
        let frames = self.small * (HEADROOM + SMALL) + (self.large + BUFFERS) * (HEADROOM + LARGE);
        (HEAD + RecvBatch::words(BUFFERS), (frames + HEADS) / size_of::<u64>())
    }
}

const _: () = assert!((HEADROOM + SMALL).is_multiple_of(64) && (HEADROOM + LARGE).is_multiple_of(64));

/// A worker's frames and arrays.
pub struct Hand {
    /// Its pool; receive buffers are taken from it.
    pub pool: Pool,
    /// What it receives with.
    pub batch: RecvBatch,
    /// Where it keeps what it has to remember of super-frames that come in slices; none = nowhere.
    pub heads: Option<&'static mut [u8]>,
}

/// What a worker had in its hands when it died.
#[derive(Debug, Default)]
pub struct Left {
    /// Frames read from ports, each with the number that stands for its port ([`source`]).
    pub frames: Vec<(u64, Frame)>,
    /// The buffers a socket of some form had filled.
    pub buffers: Vec<(Frame, RecvMeta)>,
    /// That form.
    pub form: Option<Form>,
}

impl Left {
    /// Nothing was left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.buffers.is_empty()
    }
}

/// Memory for one worker, to be kept by whoever shall outlive this process.
///
/// # Errors
/// When the kernel gives none.
pub fn memory(sizes: Sizes) -> io::Result<OwnedFd> {
    let (arrays, frames) = sizes.words();
    memory::create("vswitch-frames", arrays + frames)
}

impl Hand {
    /// Frames and arrays that end with the process.
    #[must_use]
    pub fn private(sizes: Sizes) -> Hand {
        Hand {
            pool: Pool::new(sizes.small, sizes.large + BUFFERS),
            batch: RecvBatch::new(BUFFERS),
            heads: None,
        }
    }

    /// Takes up the memory, and what the last worker left there.
    ///
    /// # Errors
    /// When the memory is not that of [`memory()`] for these sizes, or is taken already.
    pub fn take(memory: impl AsFd, sizes: Sizes) -> io::Result<(Hand, Left)> {
        let (arrays, frames) = sizes.words();
        let (words, mut bytes) = memory::lend(memory, arrays, frames)?;
        let (head, arrays) = words.split_at_mut(HEAD);
        let known = head[0] == VERSION;
        let mut cut = |size| {
            let (slab, rest) = std::mem::take(&mut bytes).split_at_mut(size);
            bytes = rest;
            slab
        };
        let heads = cut(HEADS);
        let mut cut = |size| Frame::lent(cut(size));
        let mut small: Vec<Frame> = (0..sizes.small).map(|_| cut(HEADROOM + SMALL)).collect();
        let mut large: Vec<Frame> = (0..sizes.large + BUFFERS).map(|_| cut(HEADROOM + LARGE)).collect();
        let mut batch = RecvBatch::lent(arrays, BUFFERS);
        let left = if known { Left::found(&mut batch, small.iter().chain(&large)) } else { Left::default() };
        // From here on it is ours. The frames are copies. New memory is left alone: what is touched takes a page.
        if head[0] != 0 {
            batch.done(BUFFERS);
            if !known {
                heads.fill(0);
            }
            small.iter_mut().chain(&mut large).for_each(Frame::release);
        }
        head[0] = VERSION;
        Ok((Hand { pool: Pool::of(small, large), batch, heads: Some(heads) }, left))
    }
}

impl Left {
    fn found<'a>(batch: &mut RecvBatch, slabs: impl Iterator<Item = &'a Frame>) -> Left {
        let (tag, received) = batch.left();
        let form = usize::try_from(tag).ok().and_then(|tag| Form::ALL.get(tag).copied());
        let mut left = Left { form, ..Left::default() };
        let mut buffers = Vec::new();
        for slab in slabs {
            match slab.found() {
                Some(Found::Frame { source, len, vnet }) => {
                    if let Some(mut frame) = copy(slab, len) {
                        frame.vnet = vnet;
                        left.frames.push((source, frame));
                    }
                }
                Some(Found::Buffer(number)) => {
                    let filled = received.iter().find(|(index, got)| *index == number && !got.truncated);
                    if let (Some((_, got)), Some(_)) = (filled, form)
                        && let Some(frame) = copy(slab, got.len)
                    {
                        let meta = RecvMeta { addr: got.addr, len: got.len, stride: got.stride };
                        buffers.push((number, (frame, meta)));
                    }
                }
                None => {}
            }
        }
        buffers.sort_by_key(|(number, _)| *number);
        left.buffers.extend(buffers.into_iter().map(|(_, buffer)| buffer));
        left
    }
}

/// The first `len` bytes behind the slab's headroom, as a large frame of their own; none = they are not there.
fn copy(slab: &Frame, len: usize) -> Option<Frame> {
    let mut frame = Frame::with_capacity(LARGE);
    let taken = frame.copy_from(slab.behind_headroom().get(..len)?);
    taken.then_some(frame)
}

/// The number that stands for a port: its interface's MAC address, which it keeps over restarts.
#[must_use]
pub fn source(port: &Port) -> u64 {
    let [a, b, c, d, e, f] = port.mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// A frame of `port` as it was when it was read.
pub fn read_again(port: &Port, frame: &mut Frame) {
    again::from_port(frame, port.mac, GATEWAY_MAC);
}

/// The buffer of a socket of this form as it was when it was received; `vtep` is this node's.
pub fn received_again(form: Form, frame: &mut Frame, meta: &mut RecvMeta, vtep: Mac) {
    match form {
        Form::Vxlan => again::from_vxlan(frame, meta.stride, vtep),
        Form::Udp => again::from_bare(frame),
        Form::Ipip => again::from_ipip(frame),
    }
    meta.len = frame.len();
}

/// The number by which a form is known in the memory.
#[must_use]
pub fn tag(form: Form) -> u64 {
    Form::ALL.iter().position(|known| *known == form).unwrap_or(usize::MAX) as u64
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use encap::VnetHdr;

    use super::*;

    const SIZES: Sizes = Sizes { small: 4, large: 2 };

    /// The memory as the next process finds it: that of this one cannot be mapped twice.
    fn as_found(memory: &OwnedFd) -> OwnedFd {
        let (arrays, frames) = SIZES.words();
        let copy = super::memory(SIZES).unwrap();
        let [from, to] = [memory, &copy].map(|fd| memory::Mapping::new(fd, arrays + frames).unwrap());
        for (from, to) in from.iter().zip(&*to) {
            to.store(from.load(std::sync::atomic::Ordering::Relaxed), std::sync::atomic::Ordering::Relaxed);
        }
        copy
    }

    #[test]
    fn frames_in_hand_are_found_and_those_given_back_are_not() {
        let memory = memory(SIZES).unwrap();
        let (mut hand, left) = Hand::take(&memory, SIZES).unwrap();
        assert!(left.is_empty());
        let mut frames: Vec<Frame> = (0..3).map(|_| hand.pool.small()).collect();
        for (n, frame) in (0..).zip(&mut frames) {
            assert!(frame.copy_from(&[n; 100]));
            frame.vnet.hdr_len = u16::from(n);
            frame.hold(u64::from(n));
        }
        hand.pool.give(frames.remove(1));
        let (_, left) = Hand::take(as_found(&memory), SIZES).unwrap();
        let mut seen: Vec<_> =
            left.frames.iter().map(|(source, f)| (*source, f.data().to_vec(), f.vnet.hdr_len)).collect();
        seen.sort();
        assert_eq!(seen, [(0, vec![0; 100], 0), (2, vec![2; 100], 2)]);
        // What was found is not found once more.
        let copy = as_found(&memory);
        drop(Hand::take(&copy, SIZES).unwrap());
        assert!(Hand::take(as_found(&copy), SIZES).unwrap().1.is_empty());
    }

    #[test]
    fn a_buffer_that_was_received_into_is_found_with_its_sender() {
        crate::sys::netns::in_new(|| {
            let memory = memory(SIZES).unwrap();
            let (mut hand, _) = Hand::take(&memory, SIZES).unwrap();
            let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
            let mut bufs: Vec<Frame> = (0..2).map(|_| hand.pool.large()).collect();
            bufs.iter_mut().enumerate().for_each(|(n, frame)| frame.buffer(n));
            for bytes in [&b"first"[..], b"second"] {
                a.send_to(bytes, b.local_addr().unwrap()).unwrap();
            }
            hand.batch.tag(tag(Form::Udp));
            let room = bufs.iter_mut().map(Frame::spare_mut);
            assert_eq!(hand.batch.recv(b.as_fd(), room, |_, _| ()).unwrap(), 2);
            let (_, left) = Hand::take(as_found(&memory), SIZES).unwrap();
            assert_eq!((left.form, left.buffers.len()), (Some(Form::Udp), 2));
            for ((frame, meta), bytes) in left.buffers.iter().zip([&b"first"[..], b"second"]) {
                assert_eq!(
                    (frame.data(), meta.addr, meta.len),
                    (bytes, a.local_addr().unwrap(), bytes.len())
                );
            }
            hand.batch.done(2);
            assert!(Hand::take(as_found(&memory), SIZES).unwrap().1.is_empty());
        })
        .unwrap();
    }

    #[test]
    fn memory_of_another_version_or_size_is_not_believed() {
        let memory = memory(SIZES).unwrap();
        let (mut hand, _) = Hand::take(&memory, SIZES).unwrap();
        let mut frame = hand.pool.small();
        frame.vnet = VnetHdr::default();
        frame.hold(1);
        let copy = as_found(&memory);
        memory::Mapping::new(&copy, 1).unwrap()[0].store(7, std::sync::atomic::Ordering::Relaxed);
        assert!(Hand::take(copy, SIZES).unwrap().1.is_empty());
        assert!(Hand::take(super::memory(SIZES).unwrap(), Sizes { large: 3, ..SIZES }).is_err());
    }
}
