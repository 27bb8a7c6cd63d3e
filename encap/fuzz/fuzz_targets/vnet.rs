//! A virtio header that passed its checks cannot be used to change what policy judged.
#![no_main]

use encap::{VnetHdr, finish_checksum, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(vnet) = VnetHdr::parse(data) else { return };
    assert_eq!(vnet.bytes(), data[..VnetHdr::LEN]);
    let mut frame = data[VnetHdr::LEN..].to_vec();
    let checked = vnet.check(frame.len());
    let Ok(p) = parse::parse(&frame, frame.len(), vnet.is_gso()) else {
        let _ = finish_checksum(&mut frame, &vnet);
        return;
    };
    if checked.is_ok() && vnet.agrees(&p).is_ok() && finish_checksum(&mut frame, &vnet).is_ok() {
        assert_eq!(parse::parse(&frame, frame.len(), false), Ok(p));
    }
});
