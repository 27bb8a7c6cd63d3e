use std::time::Duration;

use encap::LARGE;

use super::*;
use crate::sys::netlink::Netlink;
use crate::sys::netns;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// An inner UDP packet of this many payload bytes, between pods number `from` and `to`.
fn inner(v6: bool, from: u8, to: u8, payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut addr = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, from];
    let src = addr;
    addr[15] = to;
    let body = vec![from; payload];
    if v6 {
        etherparse::PacketBuilder::ipv6(src, addr, 9).udp(1, 2).write(&mut out, &body).unwrap();
    } else {
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, from], [10, 0, 1, to], 9);
        builder.udp(1, 2).write(&mut out, &body).unwrap();
    }
    out
}

fn receive(rx: &mut IpipRx) -> Vec<(RecvMeta, Vec<u8>)> {
    let mut bufs: Vec<Frame> = (0..RECV_BATCH).map(|_| Frame::with_capacity(LARGE)).collect();
    let mut meta = vec![RecvMeta::default(); RECV_BATCH];
    let mut got = Vec::new();
    loop {
        let n = rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap();
        if n == 0 {
            return got;
        }
        got.extend(meta.iter().zip(&bufs).take(n).map(|(m, f)| (*m, f.data().to_vec())));
    }
}

fn in_namespace(test: impl FnOnce() + Send + 'static) {
    netns::in_new(|| {
        let mut nl = Netlink::open().unwrap();
        let lo = nl.link("lo").unwrap().index;
        nl.set_up(lo, true).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        test();
    })
    .unwrap();
}

#[test]
fn a_train_becomes_packets_of_the_right_protocol() {
    in_namespace(|| {
        let mut tx = IpipTx::open(HERE).unwrap();
        let mut rx = PROTOCOLS.map(|p| IpipRx::open(HERE, p).unwrap());
        let dst = SocketAddr::new(HERE.into(), 0);
        for (v6, rx) in [false, true].into_iter().zip(&mut rx) {
            // Three packets of one size and a shorter one, headers and payload apart.
            let packets =
                [inner(v6, 1, 2, 100), inner(v6, 1, 2, 100), inner(v6, 1, 2, 100), inner(v6, 1, 2, 9)];
            let parts: Vec<IoSlice<'_>> =
                packets.iter().flat_map(|p| [IoSlice::new(&p[..28]), IoSlice::new(&p[28..])]).collect();
            let total = packets.iter().map(Vec::len).sum();
            let train = Train { dst: &dst, flow_hash: 0, seg: packets[0].len(), total, parts: &parts };
            let report = tx.send(&[train]);
            assert_eq!((report.sent, report.dropped, report.errors), (4, 0, 0));
            let got = receive(rx);
            assert_eq!(got.len(), 4);
            for ((meta, bytes), packet) in got.iter().zip(&packets) {
                assert_eq!((meta.addr.ip(), meta.stride, meta.len), (HERE.into(), 0, packet.len() + 20));
                let found = ipip::parse(bytes).unwrap();
                assert_eq!(bytes[found.at..], packet[..]);
                assert_eq!((bytes[8], bytes[6] & 0x40 != 0), (64, !v6), "TTL and DF");
            }
        }
    });
}

#[test]
fn what_cannot_be_sent_is_counted() {
    in_namespace(|| {
        let mut tx = IpipTx::open(HERE).unwrap();
        let packet = inner(false, 1, 2, 10);
        let parts = [IoSlice::new(&packet)];
        let train = |dst| Train { dst, flow_hash: 0, seg: packet.len(), total: packet.len(), parts: &parts };
        let (v6, unreachable) = ("[::1]:0".parse().unwrap(), "192.0.2.1:0".parse().unwrap());
        let here = SocketAddr::new(HERE.into(), 0);
        let report = tx.send(&[train(&v6), train(&unreachable), train(&here), train(&v6), train(&here)]);
        assert_eq!((report.sent, report.dropped, report.errors), (2, 0, 3));
        // More packets than one call takes.
        let many = [train(&here); 3 * SEND_BATCH + 1];
        assert_eq!(tx.send(&many).sent, 3 * SEND_BATCH as u32 + 1);
    });
}

#[test]
fn fragments_arrive_as_one_packet() {
    in_namespace(|| {
        let mut nl = Netlink::open().unwrap();
        let lo = nl.link("lo").unwrap().index;
        nl.set_link(lo, &crate::sys::netlink::LinkChange { mtu: Some(1500), ..Default::default() }).unwrap();
        let mut rx = IpipRx::open(HERE, PROTO_IPV4).unwrap();
        // An ordinary raw socket, whose kernel fragments.
        let socket = open(HERE, PROTO_IPV4).unwrap();
        sockopt::allow_fragments(socket.as_fd(), false).unwrap();
        let packet = inner(false, 1, 2, 4000);
        socket.send_to(&packet, &SocketAddr::new(HERE.into(), 0).into()).unwrap();
        let got = receive(&mut rx);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].1[20..], packet[..]);
    });
}

#[test]
fn each_packet_comes_to_the_worker_of_its_destination() {
    in_namespace(|| {
        const WORKERS: usize = 3;
        // In both families, to 5.
        let moved = Moved::from([(0x0a00_0105, 0), (5, 0)]);
        let mut tx = IpipTx::open(HERE).unwrap();
        for v6 in [false, true] {
            let mut rx: Vec<IpipRx> =
                (0..WORKERS).map(|_| IpipRx::open(HERE, PROTOCOLS[usize::from(v6)]).unwrap()).collect();
            rx.iter().enumerate().for_each(|(i, rx)| rx.share(i, WORKERS, &moved).unwrap());
            let dst = SocketAddr::new(HERE.into(), 0);
            for (from, to) in (0..5).flat_map(|from| (0..30).map(move |to| (from, to))) {
                let packet = inner(v6, from, to, 8);
                let parts = [IoSlice::new(&packet)];
                let seg = packet.len();
                let train = Train { dst: &dst, flow_hash: 0, seg, total: seg, parts: &parts };
                assert_eq!(tx.send(&[train]).sent, 1);
            }
            let mut arrived = 0;
            for (worker, rx) in rx.iter_mut().enumerate() {
                let got = receive(rx);
                arrived += got.len();
                for (_, bytes) in got {
                    let packet = &bytes[20..];
                    let to = if v6 { &packet[36..40] } else { &packet[16..20] };
                    let to = u32::from_be_bytes(to.try_into().unwrap());
                    let wanted = moved.get(&to).copied().unwrap_or(steer::worker_of(to.into(), WORKERS));
                    assert_eq!(worker, wanted, "to {to:#x}");
                }
            }
            assert_eq!(arrived, 150);
        }
    });
}

#[test]
fn only_raw_sockets_are_taken_over() {
    in_namespace(|| {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(matches!(IpipRx::adopt(udp.into()), Err(IpipError::NotRaw(_))));
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        assert!(matches!(IpipRx::adopt(icmp.into()), Err(IpipError::NotRaw(_))));
        let ours = open(HERE, PROTO_IPV6).unwrap();
        assert_eq!(IpipRx::adopt(ours.into()).unwrap().local().unwrap().ip(), HERE);
    });
}
