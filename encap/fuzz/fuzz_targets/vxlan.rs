//! Tunnel headers: what is taken is exactly what we would have sent.
#![no_main]

use encap::{Tunnel, udp, vxlan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((vni, at)) = vxlan::parse(data) {
        assert_eq!(data[..at], vxlan::header(vni));
        assert_eq!(Tunnel::Vxlan { vni }.pull(data), Ok(at));
        assert!(Tunnel::Vxlan { vni: vni ^ 1 }.pull(data).is_err());
    }
    if let Ok(kind) = udp::check(data) {
        assert!(matches!((kind, data[0] >> 4), (0x0800, 4) | (0x86dd, 6)));
        assert_eq!(Tunnel::Udp.pull(data), Ok(0));
    }
});
