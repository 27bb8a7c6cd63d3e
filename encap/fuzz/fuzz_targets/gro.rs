//! A batch of any frames: each goes out exactly once, and a joined packet parses as its frames do.
#![no_main]

use encap::{Frame, Gro, LARGE, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut rest)) = data.split_first() else { return };
    let (trusted, mut bufs) = (mode & 1 != 0, Vec::new());
    let mut buffer = Frame::with_capacity(LARGE);
    if !buffer.copy_from(&rest[..rest.len().min(LARGE)]) {
        return;
    }
    bufs.push(buffer);
    let (mut gro, mut off, mut offered) = (Gro::new(16), 0u32, 0u32);
    while let Some((&len, more)) = rest.split_first() {
        let len = usize::from(len).min(more.len());
        gro.source(u32::from(mode >> 1) & offered);
        gro.offer(&bufs, 0, off + 1, len as u32, trusted);
        offered += 1;
        off += 1 + len as u32;
        rest = &more[len..];
    }
    let mut seen = 0;
    for i in 0..gro.len() {
        let packet = gro.packet(i);
        seen += packet.count;
        let head = packet.head.bytes(&bufs).to_vec();
        let tail: usize = packet.tail.iter().map(|s| s.of(&bufs).len()).sum();
        assert_eq!(head.len() + tail, packet.total_len);
        assert_eq!(packet.vnet.check(packet.total_len), Ok(()));
        if packet.count > 1 {
            let first = packet.first.of(&bufs);
            let joined =
                parse::parse(&head, packet.total_len, true).map(|p| (p.src, p.dst, p.sport, p.dport, p.ttl));
            assert_eq!(
                joined,
                parse::parse(first, first.len(), false).map(|p| (p.src, p.dst, p.sport, p.dport, p.ttl))
            );
        }
    }
    assert_eq!(seen, offered);
});
