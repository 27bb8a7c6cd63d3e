use std::net::UdpSocket;
use std::time::Duration;

use encap::{LARGE, SMALL};

use super::*;
use crate::sys::device::MAX_PARTS;
use crate::sys::netlink::Netlink;
use crate::sys::netns;
use crate::sys::sysctl;
use crate::sys::tun::{Tap, TapSpec};

/// A TAP in the current namespace: up, with 10.7.0.1/24 and a static neighbour 10.7.0.2.
fn up(name: &str) {
    // No multicast listener reports between the frames that are counted.
    sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
    let mut nl = Netlink::open().unwrap();
    let index = nl.link(name).unwrap().index;
    nl.set_up(index, true).unwrap();
    nl.add_address(index, "10.7.0.1/24".parse().unwrap(), true, false).unwrap();
    nl.add_neighbour(index, "10.7.0.2".parse().unwrap(), [2, 0, 0, 0, 0, 2]).unwrap();
}

fn spec() -> TapSpec<'static> {
    TapSpec { persist: false, ..TapSpec::port("t0") }
}

fn rx(port: &mut impl PortIo, pool: &mut Pool, bytes: usize) -> Burst {
    let mut burst = Burst::new();
    let n = port.rx(&mut burst, pool, bytes).unwrap();
    assert_eq!(n, burst.len());
    burst
}

/// Turns a frame around: the peer's view of the same conversation.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    out[26..30].copy_from_slice(&frame[30..34]);
    out[30..34].copy_from_slice(&frame[26..30]);
    out[34..36].copy_from_slice(&frame[36..38]);
    out[36..38].copy_from_slice(&frame[34..36]);
    out
}

#[test]
fn small_packets_come_in_small_frames_and_go_back_out() {
    netns::in_new(|| {
        let (mut port, out) = tap::halves(Tap::open(&spec()).unwrap(), true).unwrap();
        up("t0");
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.connect("10.7.0.2:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for i in 0..70u8 {
            socket.send(&[i; 100]).unwrap();
        }
        let mut pool = Pool::new(80, 2);
        let burst = rx(&mut port, &mut pool, usize::MAX);
        assert_eq!(burst.len(), 64, "a burst is the most a call brings");
        assert_eq!(rx(&mut port, &mut pool, 150).len(), 2, "the frame that passes the budget is the last");
        assert_eq!(rx(&mut port, &mut pool, usize::MAX).len(), 4);
        assert_eq!(rx(&mut port, &mut pool, usize::MAX).len(), 0);
        assert_eq!(pool.misses(), 0);
        for (i, frame) in burst.frames().iter().enumerate() {
            assert!(!frame.is_large());
            assert_eq!((frame.len(), frame.data()[42]), (142, i as u8));
            assert!(frame.vnet.needs_csum() && !frame.vnet.is_gso());
            assert_eq!((frame.vnet.csum_start, frame.vnet.csum_offset), (34, 6));
        }
        let first = &burst.frames()[0];
        let back = answer(first.data());
        out.tx(&first.vnet, &[IoSlice::new(&back[..42]), IoSlice::new(&back[42..])]).unwrap();
        let mut buffer = [0; 200];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 100);
        let many: Vec<IoSlice<'_>> = back.chunks(2).map(IoSlice::new).collect();
        assert!(many.len() > 64);
        out.tx(&first.vnet, &many).unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap(), 100);
        let too_many = vec![IoSlice::new(&[0]); MAX_PARTS + 1];
        assert_eq!(out.tx(&first.vnet, &too_many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    })
    .unwrap();
}

#[test]
fn a_super_frame_stays_whole_both_ways() {
    netns::in_new(|| {
        let (mut port, out) = tap::halves(Tap::open(&spec()).unwrap(), true).unwrap();
        assert_eq!(out.offloads(), Offloads { csum: true, tso4: true, tso6: true, uso: true, tunnel: false });
        up("t0");
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.connect("10.7.0.2:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        crate::sys::sockopt::set_int(
            std::os::fd::AsFd::as_fd(&socket),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            1000,
        )
        .unwrap();
        socket.send(&[5; 14_500]).unwrap();
        socket.send(&[6; 2000]).unwrap();
        let mut pool = Pool::new(4, 4);
        let burst = rx(&mut port, &mut pool, usize::MAX);
        let [first, second] = burst.frames() else { panic!("{burst:?}") };
        assert!(first.is_large() && first.capacity() == LARGE && first.len() == 14_542);
        assert_eq!((first.vnet.gso_type, first.vnet.gso_size), (VnetHdr::GSO_UDP_L4, 1000));
        assert!(!second.is_large() && second.len() <= SMALL && second.vnet.is_gso());
        let mut vnet = first.vnet;
        vnet.hdr_len = 42;
        out.tx(&vnet, &[IoSlice::new(&answer(first.data()))]).unwrap();
        let mut buffer = [0; 2000];
        let got: Vec<usize> = (0..15).map(|_| socket.recv(&mut buffer).unwrap()).collect();
        assert_eq!(got, [[1000; 14].as_slice(), &[500]].concat());
        vnet.gso_size = 0;
        let err = out.tx(&vnet, &[IoSlice::new(first.data())]).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput, "the kernel refuses a lying header");
    })
    .unwrap();
}

#[test]
fn down_and_gone_are_told_apart() {
    netns::in_new(|| {
        let tap = Tap::open(&spec()).unwrap();
        assert_eq!(tap::probe_gso_write(&tap).unwrap_err().kind(), io::ErrorKind::NetworkDown);
        let (mut port, out) = tap::halves(tap, false).unwrap();
        assert_eq!(out.offloads(), Offloads { csum: true, ..Offloads::default() });
        let send = || out.tx(&VnetHdr::default(), &[IoSlice::new(&[0; 60])]).unwrap_err().kind();
        assert_eq!(send(), io::ErrorKind::NetworkDown);
        let mut pool = Pool::new(1, 1);
        assert_eq!(rx(&mut port, &mut pool, usize::MAX).len(), 0);
        let mut nl = Netlink::open().unwrap();
        let index = nl.link("t0").unwrap().index;
        nl.delete_link(index).unwrap();
        assert_eq!(send(), io::ErrorKind::NotConnected);
        let err = port.rx(&mut Burst::new(), &mut pool, usize::MAX).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotConnected);
        assert_eq!(pool.misses(), 0, "no slab is lost on the way out");
        drop(pool.large());
    })
    .unwrap();
}

#[test]
fn this_kernel_takes_super_frames_and_nobody_gets_the_probe() {
    netns::in_new(|| {
        let tap = Tap::open(&spec()).unwrap();
        up("t0");
        assert!(tap::probe_gso_write(&tap).unwrap());
        let (mut port, _) = tap::halves(tap, true).unwrap();
        assert_eq!(rx(&mut port, &mut Pool::new(1, 1), usize::MAX).len(), 0, "no answer to it");
    })
    .unwrap();
}

#[test]
fn the_plain_port_carries_whole_packets_only() {
    netns::in_new(|| {
        let (mut port, out) = plain::open("t0").unwrap();
        up("t0");
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.connect("10.7.0.2:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send(&[3; 1400]).unwrap();
        let burst = rx(&mut port, &mut Pool::new(2, 2), usize::MAX);
        let frame = &burst.frames()[0];
        assert_eq!((burst.len(), frame.len(), frame.vnet), (1, 1442, VnetHdr::default()));
        let back = answer(frame.data());
        out.tx(&VnetHdr::default(), &[IoSlice::new(&back[..20]), IoSlice::new(&back[20..])]).unwrap();
        assert_eq!(socket.recv(&mut [0; 1500]).unwrap(), 1400);
        let partial = VnetHdr { flags: VnetHdr::NEEDS_CSUM, ..VnetHdr::default() };
        assert_eq!(out.tx(&partial, &[IoSlice::new(&back)]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(out.offloads(), Offloads::default());
        let tap = Tap::open(&TapSpec { persist: false, ..TapSpec::port("t1") }).unwrap();
        assert!(plain::adopt(tap.into_fd()).is_err());
    })
    .unwrap();
}
