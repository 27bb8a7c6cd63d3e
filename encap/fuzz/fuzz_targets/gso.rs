//! Segments of any frame under any virtio header: packets that parse, with right checksums and the same ends.
#![no_main]

use encap::{Segmenter, VnetHdr, checksum, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(vnet) = VnetHdr::parse(data) else { return };
    let frame = &data[VnetHdr::LEN..];
    let mut seg = Segmenter::new();
    if seg.split(frame, &vnet, b"prefix--").is_err() {
        assert!(seg.segs().is_empty());
        return;
    }
    let whole = parse::parse(frame, frame.len(), vnet.is_gso());
    for s in seg.segs() {
        let head = &seg.arena()[s.head.0 as usize..s.head.1 as usize];
        let body = &frame[s.body.0 as usize..s.body.1 as usize];
        assert_eq!(head.len() + body.len(), s.len());
        let (prefix, head) = head.split_at(8);
        assert_eq!(prefix, b"prefix--");
        if vnet.is_gso() {
            let packet = [head, body].concat();
            let p = parse::parse(&packet, packet.len(), false).expect("a segment is a packet");
            let q = whole.as_ref().expect("only packets are cut");
            assert_eq!((p.src, p.dst, p.sport, p.dport, p.proto), (q.src, q.dst, q.sport, q.dport, q.proto));
            assert!(checksum::verify_l4(&packet, &p));
        }
    }
});
