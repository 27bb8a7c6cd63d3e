use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use encap::{Frame, LARGE};

use super::*;
use crate::sys::ethtool;
use crate::sys::mmsg::RecvBatch;
use crate::sys::netns::{self, Netns};
use crate::uplink::udp::{self, UdpRx};
use crate::uplink::{RecvMeta, UplinkIo};

const HERE: [&str; 2] = ["10.5.0.1", "fd05::1"];
const THERE: [&str; 2] = ["10.5.0.2", "fd05::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A veth underlay `u0` from this namespace to another, which is returned, with addresses of both families.
fn underlay() -> Netns {
    let there = Netns::create().unwrap();
    let mut nl = Netlink::open().unwrap();
    nl.add_veth("u0", "u1").unwrap();
    let (u0, u1) = (nl.link("u0").unwrap().index, nl.link("u1").unwrap().index);
    nl.move_link(u1, &there).unwrap();
    let up = |nl: &mut Netlink, name: &str, ips: [&str; 2]| {
        let index = nl.link(name).unwrap().index;
        nl.set_up(index, true).unwrap();
        for (ip, len) in ips.into_iter().zip([24, 64]) {
            nl.add_address(index, format!("{ip}/{len}").parse().unwrap(), true, false).unwrap();
        }
    };
    up(&mut nl, "u0", HERE);
    netns::run_in(&there, || up(&mut Netlink::open().unwrap(), "u1", THERE)).unwrap();
    for _ in 0..1000 {
        if nl.link_by_index(u0).unwrap().running {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    there
}

/// An inner TCP frame of `len` bytes and its virtio header; its checksum is as good as any.
fn inner(len: usize) -> (Vec<u8>, VnetHdr) {
    let mut frame = vec![0u8; len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&u16::try_from(len - 14).unwrap().to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[10, 244, 1, 2, 10, 244, 2, 2]);
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    for (i, byte) in frame[54..].iter_mut().enumerate() {
        *byte = (i / 100) as u8;
    }
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 999,
        gso_size: 1348,
        csum_start: 34,
        csum_offset: 16,
    };
    (frame, vnet)
}

fn receive(rx: &mut UdpRx) -> Option<(Vec<u8>, RecvMeta)> {
    let mut bufs = [Frame::with_capacity(LARGE)];
    let mut meta = [RecvMeta::default()];
    for _ in 0..200 {
        if rx.rx(&mut RecvBatch::new(64), &mut bufs, &mut meta).unwrap() == 1 {
            return Some((bufs[0].data().to_vec(), meta[0]));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_super_frame_reaches_the_peers_socket_as_one_buffer() {
    netns::in_new(|| {
        let there = underlay();
        let tap = UplinkTap::open(NAME, true, false).unwrap();
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "0", "the host's own setting stays");
        assert_eq!(sysctl::get("net/ipv6/conf/all/forwarding").unwrap(), "0");
        for family in 0..2 {
            let (src, dst) = (ip(HERE[family]), ip(THERE[family]));
            assert_eq!(probe(&tap, "u0", src, dst).unwrap(), Verdict::Usable, "{dst}");
            let outer = Outer { src: SocketAddr::new(src, 50_000), dst: SocketAddr::new(dst, 8472), vni: 7 };
            let mut rx = netns::run_in(&there, || udp::bind(outer.dst, 1).unwrap().remove(0)).unwrap();
            let most = MAX_PACKET - if family == 0 { 36 } else { 56 };
            for len in [9000, most] {
                let (frame, vnet) = inner(len);
                let parts = [
                    IoSlice::new(&frame[..54]),
                    IoSlice::new(&frame[54..5000]),
                    IoSlice::new(&frame[5000..]),
                ];
                tap.send(&vnet, &outer, &parts).unwrap();
                let (got, meta) = receive(&mut rx).expect("the super-frame");
                assert_eq!((meta.addr, meta.len, meta.stride), (outer.src, len + 8, 0));
                assert_eq!(got[..8], encap::vxlan::header(7));
                assert!(got[8..] == frame[..], "the inner frame is as it was sent");
            }
            let (frame, vnet) = inner(most + 1);
            let err = tap.send(&vnet, &outer, &[IoSlice::new(&frame)]).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        }
    })
    .unwrap();
}

#[test]
fn strict_reverse_path_filtering_of_the_host_does_not_stop_it() {
    netns::in_new(|| {
        let _there = underlay();
        sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
        let tap = UplinkTap::open(NAME, false, false).unwrap();
        assert_eq!(probe(&tap, "u0", ip(HERE[0]), ip(THERE[0])).unwrap(), Verdict::Usable);
    })
    .unwrap();
}

#[test]
fn the_probe_says_why_not() {
    netns::in_new(|| {
        let _there = underlay();
        let tap = UplinkTap::open(NAME, false, false).unwrap();
        let verdict = || probe(&tap, "u0", ip(HERE[0]), ip(THERE[0])).unwrap();
        assert_eq!(verdict(), Verdict::Usable);
        assert_eq!(probe(&tap, "lo", ip(HERE[0]), ip(THERE[0])).unwrap(), Verdict::OtherWay);
        assert_eq!(probe(&tap, "u0", ip(HERE[0]), ip("10.5.0.99")).unwrap(), Verdict::Lost);
        for name in ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"] {
            assert!(ethtool::set_feature("u0", name, false).unwrap());
            assert_eq!(verdict(), Verdict::Lacks(name));
            assert!(ethtool::set_feature("u0", name, true).unwrap());
        }
        let small = Command::new("ip").args(["link", "set", "u0", "gso_max_size", "3000"]).status().unwrap();
        assert!(small.success());
        let Verdict::Cut(bytes) = verdict() else { panic!("{:?}", verdict()) };
        assert_eq!(bytes, 50 + 54 + 1000);
        sysctl::set(&format!("net/ipv4/conf/{NAME}/forwarding"), "0").unwrap();
        assert_eq!(verdict(), Verdict::Lost);
        assert!(matches!(probe(&tap, "u9", ip(HERE[0]), ip(THERE[0])), Err(UplinkTapError::Link(_))));
    })
    .unwrap();
}

#[test]
fn only_super_frames_of_one_family_are_taken() {
    netns::in_new(|| {
        let tap = UplinkTap::open(NAME, false, false).unwrap();
        let (frame, vnet) = inner(9000);
        let send = |vnet: VnetHdr, src: &str, dst: &str, len: usize| {
            let outer = Outer { src: SocketAddr::new(ip(src), 1), dst: SocketAddr::new(ip(dst), 2), vni: 1 };
            tap.send(&vnet, &outer, &[IoSlice::new(&frame[..len])]).map_err(|err| err.kind())
        };
        assert_eq!(send(vnet, HERE[0], THERE[0], 9000), Ok(()));
        let refused = Err(io::ErrorKind::InvalidInput);
        assert_eq!(send(vnet, HERE[0], THERE[1], 9000), refused);
        assert_eq!(send(VnetHdr::default(), HERE[0], THERE[0], 1400), refused);
        assert_eq!(send(VnetHdr { flags: 0, ..vnet }, HERE[0], THERE[0], 9000), refused);
        assert_eq!(send(VnetHdr { gso_type: VnetHdr::GSO_UDP, ..vnet }, HERE[0], THERE[0], 9000), refused);
        assert_eq!(send(vnet, HERE[0], THERE[0], 40), refused, "the headers are not all there");
        assert_eq!(send(VnetHdr { csum_start: u16::MAX, ..vnet }, HERE[0], THERE[0], 9000), refused);
        drop(tap);
        assert!(Netlink::open().unwrap().link(NAME).is_err(), "it ends with its descriptor");
    })
    .unwrap();
}
