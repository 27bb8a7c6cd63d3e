//! The order in which a burst's packets leave toward peers, so that as many as possible share a train.
//!
//! Packets keep their order within a *lane*: one peer, one source port, one receiving pod. (The pod, for the peer's kernel
//! brings a whole train to the worker of its first packet's pod.) Between lanes nobody expects an order.
//!
//! A train's datagrams are of one size, and small packets seldom are: a SYN, its answer, an ACK and a byte of data differ by
//! a few bytes each. Behind an Ethernet frame's packet padding may follow, which every receiver drops, as IP says how long
//! the packet is. So a lane's small frames that follow each other are padded to the largest of them.

use encap::BURST;

use super::Staged;

/// Frames up to this size, bytes, VXLAN header included, are padded: TCP's and DNS's small talk, and the padding stays
/// small beside what a datagram of its own costs.
const SMALL: usize = 160;

/// Packets by number, lane after lane.
pub(super) struct Order {
    numbers: [u8; BURST],
    len: usize,
}

impl Order {
    /// Of the packets in `staged` that are to be sent, at most [`BURST`]; `port` says which source port a flow's hash
    /// stands for.
    pub(super) fn new(staged: &[Staged], port: impl Fn(u64) -> usize) -> Order {
        let mut order = Order { numbers: [0; BURST], len: 0 };
        for (number, _) in (0..).zip(staged).filter(|(_, s)| !s.frame.is_empty()) {
            order.numbers[order.len] = number;
            order.len += 1;
        }
        let lane = |number: u8| {
            let s = &staged[usize::from(number)];
            (s.peer, port(s.hash), s.dst)
        };
        // With its number in the key, none has an equal.
        order.numbers[..order.len].sort_unstable_by_key(|number| (lane(*number), *number));
        order
    }

    /// The packets' numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.numbers[..self.len].iter().map(|number| usize::from(*number))
    }

    /// Pads small frames that follow each other in a lane to one size.
    pub(super) fn pad(&self, staged: &mut [Staged], port: impl Fn(u64) -> usize) {
        let numbers = &self.numbers[..self.len];
        let small = |s: &Staged| s.frame.len() <= SMALL;
        let mut runs = numbers.chunk_by(|a, b| {
            let (a, b) = (&staged[usize::from(*a)], &staged[usize::from(*b)]);
            small(a) && small(b) && same_lane(a, b, &port)
        });
        let mut sizes = [0u8; BURST];
        let mut at = 0;
        for run in &mut runs {
            let most = run.iter().map(|n| staged[usize::from(*n)].frame.len()).max().unwrap_or(0);
            // 0 = it stays as it is: alone, or not small.
            let size = if run.len() > 1 { most.min(SMALL) as u8 } else { 0 };
            sizes[at..at + run.len()].fill(size);
            at += run.len();
        }
        for (number, size) in numbers.iter().zip(sizes).filter(|(_, size)| *size > 0) {
            staged[usize::from(*number)].frame.pad(usize::from(size));
        }
    }
}

/// May they share a train, as far as it is about where they go?
pub(super) fn same_lane(a: &Staged, b: &Staged, port: impl Fn(u64) -> usize) -> bool {
    a.peer == b.peer && a.dst == b.dst && (a.hash == b.hash || port(a.hash) == port(b.hash))
}

#[cfg(test)]
mod tests {
    use encap::{Frame, SMALL as SLAB, Tunnel};

    use super::*;

    fn staged(peer: u32, hash: u64, dst: u128, len: usize) -> Staged {
        let mut frame = Frame::with_capacity(SLAB);
        frame.copy_from(&vec![0xaa; len]);
        Staged { frame, peer, tunnel: Tunnel::Vxlan { vni: 1 }, hash, dst, made: false }
    }

    fn order(staged: &[Staged]) -> Vec<usize> {
        Order::new(staged, |hash| hash as usize % 2).iter().collect()
    }

    fn sizes(mut packets: Vec<Staged>) -> Vec<usize> {
        let port = |hash: u64| hash as usize % 2;
        Order::new(&packets, port).pad(&mut packets, port);
        packets.iter().map(|s| s.frame.len()).collect()
    }

    #[test]
    fn a_lane_keeps_its_order_and_gets_together() {
        let packets = [
            staged(1, 1, 5, 60),
            staged(0, 2, 5, 60),
            staged(1, 3, 5, 70),
            staged(1, 2, 5, 60),
            staged(0, 4, 6, 60),
            staged(0, 6, 5, 99),
            staged(0, 2, 5, 0),
        ];
        assert_eq!(order(&packets), [1, 5, 4, 3, 0, 2]);
        let many: Vec<Staged> = (0..BURST as u64).map(|n| staged(0, n, 5, 60)).collect();
        assert_eq!(order(&many), (0..64).step_by(2).chain((1..64).step_by(2)).collect::<Vec<_>>());
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn small_neighbours_of_a_lane_become_one_size() {
        let packets = vec![
            staged(0, 2, 5, 62),
            staged(0, 3, 5, 100),
            staged(0, 4, 5, 74),
            staged(0, 2, 5, 66),
            staged(0, 2, 6, 70),
            staged(1, 2, 5, 71),
        ];
        assert_eq!(sizes(packets), [74, 100, 74, 74, 70, 71]);
    }

    #[test]
    fn large_packets_are_left_alone_and_part_their_neighbours() {
        let lens = [60, 62, SMALL + 1, 80, 90, 1400, 50];
        let packets = lens.iter().map(|len| staged(0, 0, 5, *len)).collect();
        assert_eq!(sizes(packets), [62, 62, SMALL + 1, 90, 90, 1400, 50]);
    }

    #[test]
    fn padding_is_zero() {
        let mut packets = [staged(0, 0, 5, 60), staged(0, 0, 5, 64)];
        Order::new(&packets, |_| 0).pad(&mut packets, |_| 0);
        assert_eq!(packets[0].frame.data()[58..], [0xaa, 0xaa, 0, 0, 0, 0]);
    }
}
