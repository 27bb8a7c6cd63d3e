//! Offload headers that lie, from pods and under policy: dropped by name, and never the reason that something is
//! delivered that would not have been without them.

use encap::VnetHdr;
use serde_json::json;
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::objects::{ingress, port};
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Victim};

fn range() -> Range {
    Range::guarded(&[ingress("web", "victim", json!([{"ports": port("TCP", 80)}]))])
}

#[test]
fn lies_about_a_super_frame() {
    let mut range = range();
    for v6 in [false, true] {
        let (good, frame) = range.to_victim(v6).super_tcp((4000, 80), 1, 9000, 1300);
        assert_eq!(range.outcome_of(Attacker, good, &frame), At(Victim), "the truth");
        let end = frame.len() as u16;
        let other = if v6 { VnetHdr::GSO_TCPV4 } else { VnetHdr::GSO_TCPV6 };
        let lies = [
            ("gso_size 0", VnetHdr { gso_size: 0, ..good }),
            ("csum_start past the end", VnetHdr { csum_start: end, ..good }),
            ("csum_start far past the end", VnetHdr { csum_start: u16::MAX, ..good }),
            ("csum_offset past the end", VnetHdr { csum_offset: u16::MAX, ..good }),
            ("both wrap around", VnetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..good }),
            ("csum_start in the IP header", VnetHdr { csum_start: 14, ..good }),
            ("csum_offset of UDP", VnetHdr { csum_offset: 6, ..good }),
            ("no checksum asked for", VnetHdr { flags: 0, ..good }),
            ("the other family", VnetHdr { gso_type: other, ..good }),
            ("UDP", VnetHdr { gso_type: VnetHdr::GSO_UDP_L4, ..good }),
            ("UFO", VnetHdr { gso_type: 3, ..good }),
            ("a type that is none", VnetHdr { gso_type: 2, ..good }),
            ("another", VnetHdr { gso_type: 0x7f, ..good }),
        ];
        for (what, lie) in lies {
            assert_eq!(range.outcome_of(Attacker, lie, &frame), Dropped(BadOffload), "{what}");
        }
        // A claim about the headers' length decides nothing.
        for hdr_len in [0, 1, end, u16::MAX] {
            let outcome = range.outcome_of(Attacker, VnetHdr { hdr_len, ..good }, &frame);
            assert!(matches!(outcome, At(Victim) | Dropped(BadOffload)), "hdr_len {hdr_len}: {outcome:?}");
        }
    }
}

/// A super-frame is judged like its segments, and no lie about it opens a port.
#[test]
fn no_lie_opens_a_port() {
    let mut range = range();
    for v6 in [false, true] {
        let (good, frame) = range.to_victim(v6).super_tcp((4000, 22), 1, 9000, 1300);
        let bytes = good.bytes();
        assert_eq!(range.outcome_of(Attacker, good, &frame), Dropped(PolicyIngress));
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut lie = bytes;
                lie[at] = value;
                let lie = VnetHdr::parse(&lie).unwrap();
                let outcome = range.outcome_of(Attacker, lie, &frame);
                assert!(matches!(outcome, Dropped(_)), "{lie:?}: {outcome:?}");
            }
        }
    }
}

#[test]
fn lies_about_a_packet_that_asks_for_nothing() {
    let mut range = range();
    for v6 in [false, true] {
        let frame = range.to_victim(v6).tcp((4000, 80), 1, 100);
        for lie in [
            VnetHdr { hdr_len: u16::MAX, ..VnetHdr::default() },
            VnetHdr { gso_size: u16::MAX, csum_start: u16::MAX, ..VnetHdr::default() },
            VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: u16::MAX, ..VnetHdr::default() },
            VnetHdr {
                flags: VnetHdr::NEEDS_CSUM,
                csum_start: frame.len() as u16 - 1,
                csum_offset: 0,
                ..VnetHdr::default()
            },
            VnetHdr { flags: 0xff, ..VnetHdr::default() },
        ] {
            let outcome = range.outcome_of(Attacker, lie, &frame);
            assert!(matches!(outcome, At(Victim) | Dropped(BadOffload)), "{lie:?}: {outcome:?}");
        }
        for len in [0, 1, 13] {
            let lie =
                VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 14, csum_offset: 6, ..VnetHdr::default() };
            let outcome = range.outcome_of(Attacker, lie, &frame[..len]);
            assert!(matches!(outcome, Dropped(BadOffload | Truncated)), "{len} bytes: {outcome:?}");
        }
    }
}
