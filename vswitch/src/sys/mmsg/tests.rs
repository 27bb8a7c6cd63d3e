use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;
use crate::sys::{netns, sockopt};

fn pair(ip: &str) -> (UdpSocket, UdpSocket) {
    let bind = || UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    (bind(), bind())
}

fn receive(batch: &mut RecvBatch, socket: &UdpSocket, buffers: &mut [Vec<u8>]) -> Vec<Received> {
    let mut all = Vec::new();
    let n = batch
        .recv(socket.as_fd(), buffers.iter_mut().map(Vec::as_mut_slice), |i, r| {
            assert_eq!(i, all.len());
            all.push(r);
        })
        .unwrap();
    assert_eq!(n, all.len());
    all
}

#[test]
fn datagrams_travel_in_batches_over_both_families() {
    netns::in_new(|| {
        for ip in ["127.0.0.1", "::1"] {
            let (a, b) = pair(ip);
            let dst = b.local_addr().unwrap();
            let bodies: Vec<Vec<u8>> = (1..=5u8).map(|i| vec![i; 100 * usize::from(i)]).collect();
            let parts: Vec<[IoSlice<'_>; 2]> =
                bodies.iter().map(|b| [IoSlice::new(&b[..10]), IoSlice::new(&b[10..])]).collect();
            let messages = parts.iter().map(|p| Message { dst: &dst, parts: p, segment: 0 });
            assert_eq!(SendBatch::new(8).send(a.as_fd(), messages).unwrap(), 5);
            let mut buffers = vec![vec![0; 300]; 8];
            let got = receive(&mut RecvBatch::new(4), &b, &mut buffers);
            assert_eq!(got.len(), 4, "no more than the batch holds");
            for (i, r) in got.iter().enumerate() {
                let len = (100 * (i + 1)).min(300);
                assert_eq!((r.addr, r.len, r.stride), (a.local_addr().unwrap(), len, 0));
                assert_eq!(r.truncated, i == 3);
                assert!(buffers[i][..len].iter().all(|x| usize::from(*x) == i + 1));
            }
            assert_eq!(receive(&mut RecvBatch::new(4), &b, &mut buffers).len(), 1);
            let err = RecvBatch::new(4)
                .recv(b.as_fd(), buffers.iter_mut().map(Vec::as_mut_slice), |_, _| ())
                .unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::WouldBlock);
        }
    })
    .unwrap();
}

#[test]
fn a_train_goes_out_as_one_message_and_comes_in_as_one_buffer() {
    netns::in_new(|| {
        for ip in ["127.0.0.1", "::1"] {
            let (a, b) = pair(ip);
            sockopt::set_udp_gro(b.as_fd(), true).unwrap();
            let dst = b.local_addr().unwrap();
            let body: Vec<u8> = (0..45_100u32).map(|i| (i / 1000) as u8).collect();
            let parts = [IoSlice::new(&body[..20_000]), IoSlice::new(&body[20_000..])];
            let message = Message { dst: &dst, parts: &parts, segment: 1000 };
            assert_eq!(SendBatch::new(1).send(a.as_fd(), [message].into_iter()).unwrap(), 1);
            let mut buffers = vec![vec![0; 66_000]; 1];
            let got = receive(&mut RecvBatch::new(1), &b, &mut buffers);
            assert_eq!((got[0].len, got[0].stride, got[0].truncated), (45_100, 1000, false));
            assert_eq!(&buffers[0][..45_100], &body[..]);
        }
    })
    .unwrap();
}

#[test]
fn what_the_kernel_refuses_is_an_error_only_when_it_comes_first() {
    netns::in_new(|| {
        let (a, b) = pair("127.0.0.1");
        let dst = b.local_addr().unwrap();
        let (good, bad) = (vec![1; 100], vec![2; 65_508]);
        let (good, bad) = ([IoSlice::new(&good)], [IoSlice::new(&bad)]);
        let good = Message { dst: &dst, parts: &good, segment: 0 };
        let bad = Message { dst: &dst, parts: &bad, segment: 0 };
        let mut batch = SendBatch::new(4);
        assert_eq!(batch.send(a.as_fd(), [good, bad, good].into_iter()).unwrap(), 1);
        let err = batch.send(a.as_fd(), [bad, good].into_iter()).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(batch.send(a.as_fd(), [].into_iter()).unwrap(), 0);
        let odd = Message { segment: 1400, ..good };
        assert_eq!(
            batch.send(a.as_fd(), [odd].into_iter()).unwrap(),
            1,
            "a train of one short datagram is fine"
        );
    })
    .unwrap();
}
