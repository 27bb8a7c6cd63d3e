use std::io::IoSlice;
use std::net::{IpAddr, UdpSocket};

use encap::LARGE;

use super::*;
use crate::sys::netlink::Netlink;
use crate::sys::netns;
use crate::uplink::{SendReport, Train};

fn frames(n: usize) -> (Vec<Frame>, Vec<RecvMeta>) {
    ((0..n).map(|_| Frame::with_capacity(LARGE)).collect(), vec![RecvMeta::default(); n])
}

fn lo(v6: bool) -> IpAddr {
    if v6 { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() }
}

/// One receiving socket and the sending half on a loopback address.
fn ends(v6: bool, spread: usize) -> (UdpRx, UdpTx) {
    let rx = bind(SocketAddr::new(lo(v6), 0), 1).unwrap().remove(0);
    (rx, UdpTx::spread(&[lo(v6)], spread).unwrap())
}

#[test]
fn a_train_arrives_whole_over_both_families() {
    netns::in_new(|| {
        for v6 in [false, true] {
            let (mut rx, mut tx) = ends(v6, 8);
            let dst = rx.local();
            let (segments, bytes) = tx.max_train();
            assert_eq!((segments, bytes), (64, if v6 { 65_473 } else { 65_493 }));
            let body: Vec<u8> = (0..bytes).map(|i| (i / 1450) as u8).collect();
            let parts: Vec<IoSlice<'_>> = body.chunks(1000).map(IoSlice::new).collect();
            let train = Train { dst: &dst, flow_hash: 7 << 32, seg: 1450, total: body.len(), parts: &parts };
            assert_eq!(train.count(), 46);
            assert_eq!(tx.send(&[train]), SendReport { sent: 46, ..SendReport::default() });
            let (mut bufs, mut meta) = frames(2);
            assert_eq!(
                rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(),
                1,
                "the largest train is one buffer"
            );
            assert_eq!((meta[0].len, meta[0].stride), (bytes, 1450));
            assert_eq!(bufs[0].data(), &body[..]);
            assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 0);
        }
    })
    .unwrap();
}

#[test]
fn without_segmentation_the_same_pieces_go_one_by_one() {
    netns::in_new(|| {
        let (mut rx, mut tx) = ends(false, 2);
        let dst = rx.local();
        tx.disable_segments();
        assert_eq!(tx.max_train().0, 1);
        let body: Vec<u8> = (0..3300u32).map(|i| (i / 1000) as u8).collect();
        let parts = [&body[..1], &[], &body[1..1999], &body[1999..2001], &body[2001..]].map(IoSlice::new);
        let train = Train { dst: &dst, flow_hash: 0, seg: 1000, total: 3300, parts: &parts };
        let single = [IoSlice::new(b"single")];
        let single = Train { dst: &dst, flow_hash: 0, seg: 6, total: 6, parts: &single };
        let report = tx.send(&[single, single, train, single, train]);
        assert_eq!(report, SendReport { sent: 11, ..SendReport::default() });
        let (mut bufs, mut meta) = frames(16);
        let mut got = Vec::new();
        loop {
            let n = rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap();
            if n == 0 {
                break;
            }
            for (frame, meta) in bufs.iter().zip(&meta).take(n) {
                let stride = if meta.stride == 0 { meta.len } else { meta.stride };
                got.extend(frame.data().chunks(stride).map(|d| (d.len(), d[0])));
            }
        }
        let one = [(1000, 0), (1000, 1), (1000, 2), (300, 3)];
        let s = (6, b's');
        assert_eq!(got, [&[s, s][..], &one, &[s], &one].concat());
    })
    .unwrap();
}

#[test]
fn a_device_that_cannot_segment_turns_it_off_for_good() {
    netns::in_new(|| {
        // A train whose datagrams pass the device's MTU cannot be cut by the kernel: alone they are fragmented.
        let mut nl = Netlink::open().unwrap();
        nl.set_mtu(1, 1400).unwrap();
        let (mut rx, mut tx) = ends(false, 1);
        let dst = rx.local();
        let body = vec![9; 6000];
        let parts = [IoSlice::new(&body)];
        let train = Train { dst: &dst, flow_hash: 0, seg: 2000, total: 6000, parts: &parts };
        assert_eq!(tx.send(&[train, train]), SendReport { sent: 6, ..SendReport::default() });
        assert!(tx.segments(), "a narrow path is no reason to stop segmenting");
        let (mut bufs, mut meta) = frames(8);
        let n = rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap();
        assert_eq!(meta[..n].iter().map(|m| m.len).sum::<usize>(), 12_000);
        // SO_NO_CHECK makes the kernel refuse trains with EINVAL, as a device without checksum offload does with EIO.
        let (rx, mut tx) = ends(false, 1);
        let dst = rx.local();
        let train = Train { dst: &dst, seg: 1000, ..train };
        tx.without_checksum();
        assert!(tx.segments());
        assert_eq!(tx.send(&[train, train]), SendReport { sent: 12, ..SendReport::default() });
        assert!(!tx.segments() && tx.max_train().0 == 1);
    })
    .unwrap();
}

#[test]
fn flows_keep_their_source_port_and_spread_over_all_of_them() {
    netns::in_new(|| {
        let (mut rx, mut tx) = ends(false, 8);
        let dst = rx.local();
        let part = [IoSlice::new(b"x")];
        let mut ports = std::collections::BTreeMap::new();
        let (mut bufs, mut meta) = frames(4);
        for hash in (0..64u64).chain(0..64) {
            let train = Train { dst: &dst, flow_hash: hash << 32, seg: 1, total: 1, parts: &part };
            assert_eq!(tx.send(&[train]).sent, 1);
            assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 1);
            assert_eq!(tx.source(hash << 32, false), Some(meta[0].addr));
            assert_eq!(tx.source(hash << 32, true), None);
            let port = meta[0].addr.port();
            assert_eq!(*ports.entry(hash % 8).or_insert(port), port);
        }
        assert_eq!(ports.values().collect::<std::collections::BTreeSet<_>>().len(), 8);
    })
    .unwrap();
}

#[test]
fn the_bound_sender_uses_the_tunnel_port() {
    netns::in_new(|| {
        let a = bind("127.0.0.1:8285".parse().unwrap(), 2).unwrap();
        let (mut b, _) = ends(false, 1);
        let mut tx = UdpTx::bound([&a[1]]).unwrap();
        let dst = b.local();
        let part = [IoSlice::new(b"x")];
        let train = Train { dst: &dst, flow_hash: 3, seg: 1, total: 1, parts: &part };
        assert_eq!(tx.send(&[train]).sent, 1);
        let (mut bufs, mut meta) = frames(1);
        assert_eq!(b.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 1);
        assert_eq!(meta[0].addr, a[0].local());
        let v6: SocketAddr = "[::1]:9".parse().unwrap();
        let report = tx.send(&[Train { dst: &v6, ..train }]);
        assert_eq!(report, SendReport { errors: 1, ..SendReport::default() }, "no socket of that family");
        let nowhere: SocketAddr = "10.9.9.9:9".parse().unwrap();
        let report = tx.send(&[Train { dst: &nowhere, ..train }, train]);
        assert_eq!(report, SendReport { sent: 1, errors: 1, ..SendReport::default() });
    })
    .unwrap();
}

#[test]
fn a_port_in_use_is_an_error_even_where_it_could_be_shared() {
    netns::in_new(|| {
        let addr: SocketAddr = "127.0.0.1:8472".parse().unwrap();
        let group = bind(addr, 3).unwrap();
        assert!(group.iter().all(|rx| rx.local() == addr));
        let Err(UdpError::Taken(taken)) = bind(addr, 1) else { panic!("shared a stranger's port") };
        assert_eq!(taken, addr);
        assert!(matches!(bind("192.0.2.1:8472".parse().unwrap(), 1), Err(UdpError::Bind { .. })));
        drop(group);
        bind(addr, 1).unwrap();
    })
    .unwrap();
}

#[test]
fn a_socket_is_adopted_with_what_waits_in_it() {
    netns::in_new(|| {
        let rx = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let local = rx.local();
        let fd = rx.as_fd().try_clone_to_owned().unwrap();
        drop(rx);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"waiting", local).unwrap();
        let mut rx = UdpRx::adopt(fd).unwrap();
        assert_eq!(rx.local(), local);
        let (mut bufs, mut meta) = frames(1);
        assert_eq!(rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(), 1);
        assert_eq!(bufs[0].data(), b"waiting");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(UdpRx::adopt(tcp.into()), Err(UdpError::NotUdp(_))));
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(matches!(UdpRx::adopt(unbound.into()), Err(UdpError::NotUdp(_))));
    })
    .unwrap();
}

#[test]
fn a_socket_told_not_to_join_stays_so_when_a_copy_of_it_sends() {
    netns::in_new(|| {
        let mut rx = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        rx.coalesce(false).unwrap();
        let copy = UdpRx::adopt(rx.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut tx = UdpTx::bound([&copy]).unwrap();
        let (dst, body) = (rx.local(), [7; 3000]);
        let train = Train { dst: &dst, flow_hash: 0, seg: 1000, total: 3000, parts: &[IoSlice::new(&body)] };
        assert_eq!(tx.send(&[train]).sent, 3);
        let (mut bufs, mut meta) = frames(8);
        assert_eq!(
            rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap(),
            3,
            "each datagram in a buffer of its own"
        );
        assert!(meta[..3].iter().all(|m| (m.len, m.stride) == (1000, 0)), "{meta:?}");
    })
    .unwrap();
}
