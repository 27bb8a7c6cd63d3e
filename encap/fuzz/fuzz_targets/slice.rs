//! Any datagrams with the slice bit, from two senders, in batches: whatever is put together is a TCP packet that its virtio header
//! describes.
#![no_main]

use std::net::SocketAddr;

use encap::slice::{self, Slice};
use encap::{Frame, Gro, LARGE, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut gro = Gro::new(4);
    let mut rest = data;
    while let Some((&[mode, high, low], more)) = rest.split_first_chunk::<3>() {
        let (datagram, after) = more.split_at(usize::from(u16::from_be_bytes([high, low])).min(more.len()));
        rest = after;
        let mut buffer = Frame::with_capacity(LARGE);
        if !buffer.copy_from(datagram) {
            continue;
        }
        let bufs = [buffer];
        if let Ok((_, Slice::Part(part))) = slice::parse(datagram) {
            let from = SocketAddr::from(([192, 0, 2, 1], u16::from(mode & 1)));
            let _ = gro.offer_slice(&bufs, (0, 0, datagram.len() as u32), &part, from);
        }
        for i in 0..gro.len() {
            let packet = gro.packet(i);
            let tail: usize = packet.tail.iter().map(|s| s.of(&bufs).len()).sum();
            let (vnet, len) = (packet.vnet, packet.total_len);
            let head = packet.head.bytes(&bufs);
            assert_eq!(head.len() + tail, len);
            assert_eq!(vnet.check(len), Ok(()));
            let p = parse::parse(head, len, vnet.is_gso()).expect("headers of a super-frame");
            assert_eq!(vnet.agrees(&p), Ok(()));
        }
        gro.clear();
    }
});
