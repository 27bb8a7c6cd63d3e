//! The typed views used off the hot path.
#![no_main]

use std::net::Ipv6Addr;

use encap::wire::{arp::Arp, icmp, icmpv6};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(arp) = Arp::parse(data) {
        assert_eq!(arp.reply(arp.sender_mac).target_ip(), arp.sender_ip());
    }
    let _ = icmpv6::target(data);
    let _ = (icmpv6::link_option(data, 1), icmpv6::link_option(data, 2));
    let mut message = data.to_vec();
    icmp::fill_checksum(&mut message);
    icmpv6::fill_checksum(&mut message, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
});
