use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::gso::Segmenter;
use crate::gso::tests::{packets, super_frame};
use crate::{GroHead, LARGE};

fn sender(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// The datagrams of a super-frame.
fn slices(frame: &[u8], vnet: &VnetHdr, train: u16) -> Vec<Vec<u8>> {
    let mut seg = Segmenter::new();
    let part = Part { vni: 1, train, index: 0, count: 0, to: 9 };
    assert_eq!(seg.slice(frame, vnet, part), Ok(true));
    packets(&seg, frame)
}

fn buffer(datagram: &[u8]) -> Frame {
    let mut frame = Frame::with_capacity(LARGE);
    assert!(frame.copy_from(datagram));
    frame
}

/// Offers a datagram, which is alone in its buffer.
fn offer(gro: &mut Gro, bufs: &[Frame], i: usize, from: SocketAddr) -> Result<(), SliceError> {
    let (_, slice) = slice::parse(bufs[i].data())?;
    let Slice::Part(part) = slice else { panic!("{slice:?}") };
    gro.offer_slice(bufs, (i as u16, 0, bufs[i].len() as u32), &part, from)
}

/// The packets of the batch: bytes, virtio header, slices.
fn out(gro: &mut Gro, bufs: &[Frame]) -> Vec<(Vec<u8>, VnetHdr, u32)> {
    let all = (0..gro.len())
        .map(|i| {
            let packet = gro.packet(i);
            assert!(matches!(packet.head, GroHead::Merged(_)));
            let mut whole = packet.head.bytes(bufs).to_vec();
            packet.tail.iter().for_each(|span| whole.extend_from_slice(span.of(bufs)));
            assert_eq!(whole.len(), packet.total_len);
            (whole, packet.vnet, packet.count)
        })
        .collect();
    gro.clear();
    all
}

#[test]
fn a_train_becomes_the_super_frame_it_was() {
    for (v6, n) in [(false, 62_910), (true, 62_000), (false, 1500), (true, 2800)] {
        for flags in [0x10, 0x18] {
            let (frame, vnet) = super_frame(v6, true, flags, &bytes(n), 1398);
            let datagrams = slices(&frame, &vnet, 5);
            let segment = 8 + usize::from(vnet.hdr_len) + 1398;
            assert!(datagrams.iter().all(|d| d.len() <= segment), "no larger than its segments");
            assert!(datagrams.len() <= n.div_ceil(1398));
            let bufs: Vec<Frame> = datagrams.iter().map(|d| buffer(d)).collect();
            let mut gro = Gro::new(64);
            (0..bufs.len()).for_each(|i| offer(&mut gro, &bufs, i, sender(1)).unwrap());
            // The identification is the frame's own, and so is everything else, but for the header's checksum, which
            // is made anew.
            assert_eq!(out(&mut gro, &bufs), [(frame, vnet, bufs.len() as u32)]);
        }
    }
}

#[test]
fn what_does_not_travel_in_slices_is_left_to_segments() {
    let mut seg = Segmenter::new();
    let part = Part { vni: 1, train: 0, index: 0, count: 0, to: 0 };
    let payload = bytes(10_000);
    for (tcp, flags, n, size) in [
        (false, 0, 10_000, 1398),
        (true, 0x11, 10_000, 1398), // FIN
        (true, 0x90, 10_000, 1398), // CWR
        (true, 0x30, 10_000, 1398), // URG
        (true, 0x10, 10_000, 100),  // more slices than a train has
        (true, 0x10, 900, 1398),    // one
    ] {
        let (frame, vnet) = super_frame(false, tcp, flags, &payload[..n], size);
        assert_eq!(seg.slice(&frame, &vnet, part), Ok(false), "TCP: {tcp}, {flags:#x}, {n} by {size}");
        assert!(seg.segs().is_empty());
    }
    let (frame, vnet) = super_frame(false, true, 0x10, &payload, 1398);
    assert!(seg.slice(&frame[..60], &vnet, part).is_err());
    assert!(seg.slice(&frame, &VnetHdr { csum_start: 30, ..vnet }, part).is_err());
}

#[test]
fn a_train_may_come_in_parts_and_between_others() {
    let (a, vnet) = super_frame(false, true, 0x18, &bytes(20_000), 1398);
    let (b, vnet6) = super_frame(true, true, 0x10, &bytes(9_000), 1378);
    let (one, two) = (slices(&a, &vnet, 1), slices(&b, &vnet6, 1));
    let mut gro = Gro::new(4);
    let (mut stream, mut others) = (Vec::new(), two.iter());
    for part in [&one[..3], &one[3..4], &one[4..]] {
        // Each slice of one flow is followed by one of the other.
        let mut datagrams: Vec<(&Vec<u8>, u16)> = Vec::new();
        for d in part {
            datagrams.push((d, 1));
            datagrams.extend(others.next().map(|d| (d, 2)));
        }
        let bufs: Vec<Frame> = datagrams.iter().map(|(d, _)| buffer(d)).collect();
        for (i, (_, port)) in datagrams.iter().enumerate() {
            offer(&mut gro, &bufs, i, sender(*port)).unwrap();
        }
        stream.extend(out(&mut gro, &bufs));
    }
    let of = |v6: bool| stream.iter().filter(move |(packet, ..)| (packet[12] == 0x86) == v6);
    for (v6, payload, head) in [(false, bytes(20_000), 66), (true, bytes(9_000), 86)] {
        let whole: Vec<u8> = of(v6).flat_map(|(packet, ..)| packet[head..].to_vec()).collect();
        assert!(whole == payload, "IPv6: {v6}");
    }
    // PSH is the last one's, and a packet of one segment is no super-frame.
    let pushes: Vec<bool> = of(false).map(|(packet, ..)| packet[47] & 8 != 0).collect();
    assert_eq!(pushes, [false, false, true]);
    let (_, alone, count) = of(false).nth(1).unwrap();
    assert_eq!((alone.gso_type, alone.gso_size, *count), (VnetHdr::GSO_TCPV4, 1398, 1), "1464 bytes are two");
}

#[test]
fn many_senders_at_once_lose_nothing() {
    let (frame, vnet) = super_frame(false, true, 0x10, &bytes(9_000), 1398);
    let datagrams = slices(&frame, &vnet, 1);
    let bufs: Vec<Frame> = datagrams.iter().map(|d| buffer(d)).collect();
    let mut gro = Gro::new(4);
    // As many as there are in a set, whichever it is.
    let same = |port: &u16| set(&sender(*port)) == set(&sender(0));
    let ports: Vec<u16> = (0..u16::MAX).filter(same).take(WAYS + 1).collect();
    for i in 0..bufs.len() {
        for port in &ports[..WAYS] {
            assert_eq!(offer(&mut gro, &bufs, i, sender(*port)), Ok(()));
        }
    }
    assert_eq!(out(&mut gro, &bufs), vec![(frame, vnet, bufs.len() as u32); WAYS]);
    // One more takes the place of the one silent longest, and no other's.
    offer(&mut gro, &bufs, 0, sender(ports[1])).unwrap();
    offer(&mut gro, &bufs, 0, sender(ports[WAYS])).unwrap();
    assert_eq!(offer(&mut gro, &bufs, 1, sender(ports[0])), Err(SliceError::Headless));
    for port in &ports[1..] {
        assert_eq!(offer(&mut gro, &bufs, 1, sender(*port)), Ok(()));
    }
}

#[test]
fn the_next_owner_of_the_memory_goes_on_with_the_rest_of_a_train() {
    let (frame, vnet) = super_frame(true, true, 0x10, &bytes(9_000), 1378);
    let datagrams = slices(&frame, &vnet, 1);
    let bufs: Vec<Frame> = datagrams.iter().map(|d| buffer(d)).collect();
    let from = SocketAddr::new("2001:db8::1".parse().unwrap(), 4000);
    let mut gro = Gro::new(4);
    gro.keep_heads(Box::leak(vec![0; HEADS].into()));
    let successor = |gro: &Gro| {
        let mut next = Gro::new(4);
        next.keep_heads(Box::leak(gro.trains.kept.to_vec().into()));
        next
    };
    for i in 0..3 {
        offer(&mut gro, &bufs, i, from).unwrap();
    }
    // Killed before these were delivered: the next process finds them, and what it needs for datagrams before them.
    assert_eq!(offer(&mut successor(&gro), &bufs, 3, from), Err(SliceError::Headless));
    gro.note_heads();
    let mut next = successor(&gro);
    for i in 3..bufs.len() {
        assert_eq!(offer(&mut next, &bufs, i, sender(4000)), Err(SliceError::Headless), "another sender's");
        offer(&mut next, &bufs, i, from).unwrap();
    }
    let packets = out(&mut next, &bufs);
    let have: usize = out(&mut gro, &bufs).iter().map(|(packet, ..)| packet.len() - 86).sum();
    assert_eq!((packets.len(), packets[0].0.len() - 86), (1, 9_000 - have));
    assert!(packets[0].0[86..] == bytes(9_000)[have..]);
}

#[test]
fn more_beginnings_than_can_wait_are_noted_before_they_are_delivered() {
    let (frame, vnet) = super_frame(false, true, 0x10, &bytes(9_000), 1398);
    let bufs: Vec<Frame> = slices(&frame, &vnet, 1).iter().map(|d| buffer(d)).collect();
    let mut gro = Gro::new(4);
    gro.keep_heads(Box::leak(vec![0; HEADS].into()));
    (0..FRESH).for_each(|_| offer(&mut gro, &bufs, 0, sender(1)).unwrap());
    assert!(gro.trains.kept.iter().all(|byte| *byte == 0));
    offer(&mut gro, &bufs, 0, sender(2)).unwrap();
    let mut next = Gro::new(4);
    next.keep_heads(Box::leak(gro.trains.kept.to_vec().into()));
    assert_eq!(offer(&mut next, &bufs, 1, sender(1)), Ok(()));
    assert_eq!(offer(&mut next, &bufs, 1, sender(2)), Err(SliceError::Headless));
}

#[test]
fn memory_full_of_anything_is_no_train() {
    let mut gro = Gro::new(4);
    gro.keep_heads(Box::leak((0..HEADS).map(|i| (i % 7 == 0) as u8 * 72 + 1).collect()));
    gro.keep_heads(Box::leak(vec![1; 100].into()));
    assert!(gro.trains.trains.iter().all(|train| train.from.is_none()));
}

#[test]
fn lies_are_errors() {
    let (frame, vnet) = super_frame(false, true, 0x10, &bytes(9_000), 1398);
    let good = slices(&frame, &vnet, 1);
    let mut gro = Gro::new(4);
    let mut try_one = |d: &[u8], from| {
        let bufs = [buffer(d)];
        let result = offer(&mut gro, &bufs, 0, from);
        gro.clear();
        result
    };
    let changed = |n: usize, at: usize, to: u8| {
        let mut d = good[n].clone();
        d[at] = to;
        d
    };
    assert_eq!(try_one(&good[1], sender(1)), Err(SliceError::Headless));
    assert_eq!(try_one(&good[0], sender(1)), Ok(()));
    assert_eq!(try_one(&good[1], sender(1)), Ok(()));
    assert_eq!(try_one(&good[1], sender(2)), Err(SliceError::Headless), "another outer flow");
    assert_eq!(try_one(&changed(1, 3, 2), sender(1)), Err(SliceError::Headless), "another train");
    assert_eq!(try_one(&changed(1, 7, 6), sender(1)), Err(SliceError::Headless), "another count");
    assert_eq!(try_one(&good[1][..1000], sender(1)), Err(SliceError::Length));
    assert_eq!(try_one(&[&good[6][..], &[0]].concat(), sender(1)), Err(SliceError::Length));
    assert_eq!(try_one(&changed(0, 15, 1), sender(1)), Err(SliceError::Header), "reserved");
    assert_eq!(try_one(&good[1], sender(1)), Err(SliceError::Headless), "its train is not to be believed");
    for (what, at, to, error) in [
        ("EtherType", 29, 0xff, SliceError::Inner),
        ("IP options", 30, 0x46, SliceError::Inner),
        ("total length", 32, 0x01, SliceError::Length),
        ("a fragment", 36, 0x20, SliceError::Inner),
        ("UDP", 39, 17, SliceError::Inner),
        ("SYN", 63, 0x02, SliceError::Inner),
    ] {
        assert_eq!(try_one(&changed(0, at, to), sender(1)), Err(error), "{what}");
    }
}

proptest! {
    /// Whatever is lost and however it is mixed up, what arrives is part of the stream, in its place.
    #[test]
    fn what_arrives_is_where_it_belongs(
        v6: bool, n in 3_000usize..64_000, size in 1200u16..1460,
        lost in prop::collection::vec(0usize..64, 0..6),
        swapped in prop::collection::vec((0usize..64, 0usize..64), 0..4),
        batches in 1usize..5,
    ) {
        let payload = bytes(n);
        let (frame, vnet) = super_frame(v6, true, 0x18, &payload, size);
        let all = slices(&frame, &vnet, 3);
        let mut order: Vec<usize> = (0..all.len()).collect();
        for (a, b) in swapped {
            order.swap(a % all.len(), b % all.len());
        }
        order.retain(|i| !lost.contains(i));
        let mut gro = Gro::new(4);
        let (mut placed, mut arrived, mut head_came) = (0, 0, false);
        for batch in order.chunks(all.len().div_ceil(batches)) {
            let bufs: Vec<Frame> = batch.iter().map(|i| buffer(&all[*i])).collect();
            for (at, i) in batch.iter().enumerate() {
                head_came |= *i == 0;
                let taken = offer(&mut gro, &bufs, at, sender(1));
                prop_assert_eq!(taken, if head_came { Ok(()) } else { Err(SliceError::Headless) });
                let header = SLICE_LEN + if *i == 0 { SIZE_LEN + usize::from(vnet.hdr_len) } else { 0 };
                placed += if taken.is_ok() { all[*i].len() - header } else { 0 };
            }
            for (packet, vnet, _) in out(&mut gro, &bufs) {
                let p = parse::parse(&packet, packet.len(), vnet.is_gso()).unwrap();
                prop_assert_eq!(vnet.check(packet.len()), Ok(()));
                prop_assert_eq!(vnet.agrees(&p), Ok(()));
                // What the wire would have brought: every segment is whole, and its checksum right.
                let mut seg = Segmenter::new();
                seg.split(&packet, &vnet, &[]).unwrap();
                for segment in packets(&seg, &packet) {
                    let l4 = usize::from(p.l4);
                    let seq = u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().unwrap());
                    let at = seq.wrapping_sub(0xffff_ff00) as usize;
                    let data = &segment[l4 + 32..];
                    prop_assert_eq!(data, &payload[at..at + data.len()]);
                    arrived += data.len();
                    let q = parse::parse(&segment, segment.len(), false).unwrap();
                    prop_assert_eq!(q.tcp_flags & tcp::PSH != 0, at + data.len() == n);
                }
            }
        }
        prop_assert_eq!(arrived, placed);
    }

    #[test]
    fn random_slices_never_panic(
        datagrams in prop::collection::vec((0u8..4, 0u8..5, 0u8..3, prop::collection::vec(any::<u8>(), 0..120)), 1..30),
        flip in (0usize..40, any::<u8>()),
    ) {
        let (frame, vnet) = super_frame(false, true, 0x10, &bytes(4_000), 1398);
        let good = slices(&frame, &vnet, 0);
        let mut gro = Gro::new(4);
        let bufs: Vec<Frame> = datagrams.iter().map(|(index, count, train, tail)| {
            let part = Part { vni: 1, train: u16::from(*train), index: *index, count: *count, to: 1 };
            let mut d = [&part.header()[..], tail].concat();
            if tail.len() % 3 == 0 {
                d.clone_from(&good[usize::from(*index) % good.len()]);
                d[flip.0] ^= flip.1;
            }
            buffer(&d)
        }).collect();
        for i in 0..bufs.len() {
            if let Ok((_, Slice::Part(part))) = slice::parse(bufs[i].data()) {
                let _ = gro.offer_slice(&bufs, (i as u16, 0, bufs[i].len() as u32), &part, sender(1));
            }
        }
        for (packet, vnet, _) in out(&mut gro, &bufs) {
            prop_assert_eq!(vnet.check(packet.len()), Ok(()));
        }
    }
}
