//! The one-pass parser and what runs on its result: offsets and lengths stay inside the frame.
#![no_main]

use encap::{checksum, parse, rewrite};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, frame)) = data.split_first() else { return };
    let gso = mode & 1 != 0;
    // A head cut short sees the same packet, or asks for more.
    let cut = usize::from(mode >> 1).min(frame.len());
    let whole = parse::parse(frame, frame.len(), gso);
    let head = parse::parse(&frame[..cut], frame.len(), gso);
    assert!(head == whole || head.is_err());
    let Ok(p) = whole else { return };
    assert!(p.l3 <= p.l4 && usize::from(p.l4) <= frame.len());
    assert!(usize::from(p.l3) + p.ip_len as usize <= frame.len());
    let mut frame = frame.to_vec();
    rewrite::dec_ttl(&mut frame, &p);
    rewrite::set_macs(&mut frame, p.src_mac, p.dst_mac);
    let routed = parse::parse(&frame, frame.len(), gso).map(|q| (q.src, q.dst, q.sport, q.dport, q.ttl));
    assert_eq!(routed.ok(), Some((p.src, p.dst, p.sport, p.dport, p.ttl.saturating_sub(1))));
    if p.frag == encap::Frag::None && checksum::fill_l4(&mut frame, &p) {
        assert!(checksum::verify_l4(&frame, &p));
    }
});
