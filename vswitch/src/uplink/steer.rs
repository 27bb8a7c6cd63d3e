//! Which worker gets what arrives for an address: the one that reads the port there.
//!
//! Everything of a pod is then on one thread. A small exchange wakes one worker a node instead of two, connections stay
//! in one processor's cache, and a pod's stream cannot delay a pod that another worker serves. The kernel decides, by a
//! classic BPF program that reads the last four bytes of the inner destination, which a slice's header has too: one program for a group of UDP sockets
//! (`SO_ATTACH_REUSEPORT_CBPF`), one for each raw socket (`SO_ATTACH_FILTER`). A datagram that the kernel has joined to
//! others of its outer flow may come with the first of them; nothing but speed depends on where a packet arrives.

use std::collections::BTreeMap;

use encap::slice::{self, SLICE_LEN};
use encap::vxlan::VXLAN_LEN;
use encap::{ETH_LEN, Form};
use libc::sock_filter;

/// Loads a byte, a word of the packet at a place, or at a place behind X.
const LD_BYTE: u16 = 0x30;
const LD_WORD: u16 = 0x20;
const LD_WORD_X: u16 = 0x40;
/// X = 4 * (low half of the byte at a place): the length of an IPv4 header.
const LDX_HEADER: u16 = 0xb1;
/// A = A / k, A = A % k.
const SHIFT_RIGHT: u16 = 0x74;
const MOD: u16 = 0x94;
/// Jumps over some instructions when A = k, and over others when not.
const EQUAL: u16 = 0x15;
/// Jumps over k instructions.
const JUMP: u16 = 0x05;
/// Ends with k, with A.
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// Offset of the last word of the destination in an IPv4, an IPv6 header.
const DST: u32 = 16;
const DST6: u32 = 36;

/// The worker for an address, of `workers`. Addresses of a node come one after the other, so that the workers get the
/// same number of pods.
#[must_use]
pub fn worker_of(address: u128, workers: usize) -> usize {
    word(address) as usize % workers.max(1)
}

/// An address's last word.
#[must_use]
pub fn word(address: u128) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // the last word is meant
    let word = address as u32;
    word
}

/// Addresses (their last words) whose ports another worker reads than [`worker_of`] says; [`MOVED`] at most.
pub type Moved = BTreeMap<u32, usize>;

/// Addresses that may have moved: each lengthens the programs.
pub const MOVED: usize = 64;

/// The program for a group of UDP sockets, one a worker and in the workers' order: returns the socket's number.
pub(super) fn group(form: Form, workers: u32, moved: &Moved) -> Vec<sock_filter> {
    let inner = if form == Form::Vxlan { (VXLAN_LEN + ETH_LEN) as u32 } else { 0 };
    let mut program = if form == Form::Vxlan { of_slice() } else { Vec::new() };
    program.extend([
        op(LD_BYTE, inner),
        op(SHIFT_RIGHT, 4),
        sock_filter { code: EQUAL, jt: 2, jf: 0, k: 4 },
        op(LD_WORD, inner + DST6),
        op(JUMP, 1),
        op(LD_WORD, inner + DST),
    ]);
    for (word, worker) in moved.iter().take(MOVED) {
        program.push(sock_filter { code: EQUAL, jt: 0, jf: 1, k: *word });
        program.push(op(RETURN, u32::try_from(*worker).unwrap_or(u32::MAX)));
    }
    program.extend([op(MOD, workers.max(1)), op(RETURN_A, 0)]);
    program
}

/// Loads the last word of the destination of a slice, which its header has, and jumps over what loads that of a packet.
fn of_slice() -> Vec<sock_filter> {
    vec![
        op(LD_BYTE, 0),
        sock_filter { code: EQUAL, jt: 0, jf: 2, k: u32::from(slice::FLAGS) },
        op(LD_WORD, (SLICE_LEN - 4) as u32),
        op(JUMP, 6),
    ]
}

/// The program for worker number `index`'s raw socket for IPv4 or IPv6 inner packets, which sees the outer header too:
/// takes the packet or not.
pub(super) fn share(v6: bool, index: u32, workers: u32, moved: &Moved) -> Vec<sock_filter> {
    let mut program = vec![op(LDX_HEADER, 0), op(LD_WORD_X, if v6 { DST6 } else { DST })];
    for (word, worker) in moved.iter().take(MOVED) {
        program.push(sock_filter { code: EQUAL, jt: 0, jf: 1, k: *word });
        program.push(op(RETURN, if *worker == index as usize { u32::MAX } else { 0 }));
    }
    program.extend([
        op(MOD, workers.max(1)),
        sock_filter { code: EQUAL, jt: 0, jf: 1, k: index },
        op(RETURN, u32::MAX),
        op(RETURN, 0),
    ]);
    program
}

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use encap::{Frame, LARGE};

    use super::*;
    use crate::sys::mmsg::RecvBatch;
    use crate::sys::netns;
    use crate::uplink::{RecvMeta, UplinkIo, udp};

    #[test]
    fn consecutive_addresses_go_to_all_workers_in_turn() {
        let first = u128::from(u32::from_be_bytes([10, 244, 1, 2])) | 0xffff_0000_0000;
        let workers: Vec<usize> = (0..6).map(|i| worker_of(first + i, 3)).collect();
        assert_eq!(workers[..3], workers[3..]);
        let mut once = workers[..3].to_vec();
        once.sort_unstable();
        assert_eq!(once, [0, 1, 2]);
        assert_eq!(worker_of(first, 0), 0);
    }

    /// The payload of a tunnel datagram: what stands before the destination, and its last byte.
    fn datagram(form: Form, v6: bool, to: u8) -> Vec<u8> {
        let (version, dst) = if v6 { (0x60, 36) } else { (0x45, 16) };
        let mut inner = vec![0; dst];
        inner[0] = version;
        inner.extend([10, 244, 1, to]);
        let before = if form == Form::Vxlan { VXLAN_LEN + ETH_LEN } else { 0 };
        [vec![0x45; before], inner, vec![0xff; 9]].concat()
    }

    /// A slice of something for the address, which follows.
    fn slice(to: u8) -> Vec<u8> {
        let to = [10, 244, 1, to];
        let part = slice::Part { vni: 1, train: 7, index: 1, count: 2, to: u32::from_be_bytes(to) };
        [&part.header()[..], &to, &[0xff; 9]].concat()
    }

    #[test]
    fn each_datagram_comes_to_the_worker_of_its_destination_whatever_its_source() {
        const WORKERS: usize = 3;
        netns::in_new(|| {
            for (form, v6, outer) in [Form::Vxlan, Form::Udp].into_iter().flat_map(|form| {
                [(false, "127.0.0.1:0"), (true, "127.0.0.1:0"), (false, "[::1]:0")]
                    .map(|(v6, o)| (form, v6, o))
            }) {
                let mut group = udp::bind(outer.parse().unwrap(), WORKERS).unwrap();
                let moved = Moved::from([(u32::from_be_bytes([10, 244, 1, 5]), 0), (7, 1)]);
                group[1].steer(form, WORKERS, &moved).unwrap();
                let local = group[0].local();
                let any = SocketAddr::new(local.ip(), 0);
                for to in 0..30 {
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.send_to(&datagram(form, v6, to), local).unwrap();
                    if form == Form::Vxlan {
                        socket.send_to(&slice(to), local).unwrap();
                    }
                }
                let mut arrived = 0;
                for (worker, rx) in group.iter_mut().enumerate() {
                    let mut bufs: Vec<Frame> = (0..64).map(|_| Frame::with_capacity(LARGE)).collect();
                    let n =
                        rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut [RecvMeta::default(); 64]).unwrap();
                    arrived += n;
                    for frame in &bufs[..n] {
                        let to =
                            u32::from_be_bytes(frame.data()[frame.len() - 13..][..4].try_into().unwrap());
                        let wanted = moved.get(&to).copied().unwrap_or(worker_of(to.into(), WORKERS));
                        assert_eq!(worker, wanted, "to {to:#x}, {form:?}, inner IPv6: {v6}, {outer}");
                    }
                }
                assert_eq!(arrived, if form == Form::Vxlan { 60 } else { 30 });
            }
        })
        .unwrap();
    }

    #[test]
    fn what_is_too_short_for_a_destination_still_arrives_somewhere() {
        netns::in_new(|| {
            let mut group = udp::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
            group[0].steer(Form::Vxlan, 2, &Moved::new()).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for len in 0..30 {
                socket.send_to(&vec![0x45; len], group[0].local()).unwrap();
            }
            let mut bufs: Vec<Frame> = (0..64).map(|_| Frame::with_capacity(LARGE)).collect();
            let meta = &mut [RecvMeta::default(); 64];
            let got: usize =
                group.iter_mut().map(|rx| rx.rx(&mut RecvBatch::new(64), &mut bufs, meta).unwrap()).sum();
            assert_eq!(got, 30);
        })
        .unwrap();
    }
}
