//! Fragments as a way around policy: what the receiver would put together is what was judged, or nothing.

use vswitch::counters::DropReason::*;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::fragment::{cut, part, part6};
use vswitch_tests::sim::objects::{app, ingress, port};
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Far, Victim};
use vswitch_tests::sim::range::{PEER, Range, vxlan};

use serde_json::json;

/// The victim takes UDP on port 80 from everybody, nothing else.
fn range() -> Range {
    Range::guarded(&[ingress("web", "victim", json!([{"ports": port("UDP", 80)}]))])
}

#[test]
fn fragments_of_an_allowed_datagram_pass_in_order() {
    let mut range = range();
    for v6 in [false, true] {
        let whole = range.to_victim(v6).udp((1000, 80), 1200);
        for (from, to, more) in [(0, 400, true), (400, 800, true), (800, 1208, false)] {
            range.arrives("a fragment", Attacker, &cut(&whole, 7, (from, to), more), Victim);
        }
        // The datagram is complete: whatever comes now is not a part of it.
        range.denied("one more", Attacker, &cut(&whole, 7, (400, 800), true), FragmentUnmatched);
    }
}

#[test]
fn a_fragment_without_its_first_is_dropped_under_isolation() {
    let mut range = range();
    for v6 in [false, true] {
        let whole = range.to_victim(v6).udp((1000, 80), 1200);
        range.denied("never a first", Attacker, &cut(&whole, 7, (400, 800), true), FragmentUnmatched);
        let denied = range.to_victim(v6).udp((1000, 81), 1200);
        range.denied("the first of a denied port", Attacker, &cut(&denied, 8, (0, 400), true), PolicyIngress);
        range.denied("its second", Attacker, &cut(&denied, 8, (400, 1208), false), PolicyIngress);
        // A first fragment of one datagram opens nothing for another.
        range.arrives("a first", Attacker, &cut(&whole, 9, (0, 400), true), Victim);
        range.denied("a second of another", Attacker, &cut(&whole, 10, (400, 800), true), FragmentUnmatched);
        // Nor does a bystander's.
        let other = range.way(Bystander, Victim, v6).udp((1000, 80), 1200);
        range.denied("another sender's", Bystander, &cut(&other, 9, (400, 800), true), FragmentUnmatched);
        range.wait(31);
        range.denied("its own, too late", Attacker, &cut(&whole, 9, (400, 800), true), FragmentUnmatched);
    }
}

#[test]
fn tiny_first_fragments() {
    let mut range = range();
    for v6 in [false, true] {
        let denied = range.to_victim(v6).tcp((1000, 22), 1, 100);
        range.denied("8 bytes of TCP", Attacker, &cut(&denied, 1, (0, 8), true), TinyFragment);
        range.denied("the rest, with the flags", Attacker, &cut(&denied, 1, (8, 120), false), TinyFragment);
        range.denied("16 bytes of TCP", Attacker, &cut(&denied, 2, (0, 16), true), TinyFragment);
        range.denied("what follows", Attacker, &cut(&denied, 2, (16, 120), false), FragmentUnmatched);
        let empty = part(&denied, 3, 0, &[], true);
        range.denied("nothing at all", Attacker, &empty, TinyFragment);
    }
    // IPv6: the first fragment ends before the upper header begins (RFC 7112).
    let denied = range.to_victim(true).tcp((1000, 22), 1, 100);
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    range.denied("options only", Attacker, &part6(&denied, 60, (4, 1), &options), TinyFragment);
}

#[test]
fn overlapping_fragments_end_the_datagram() {
    let mut range = range();
    for v6 in [false, true] {
        let whole = range.to_victim(v6).udp((1000, 80), 1200);
        let evil = range.to_victim(v6).udp((1000, 22), 1200);
        range.arrives("the first", Attacker, &cut(&whole, 1, (0, 400), true), Victim);
        range.denied("a first for port 22", Attacker, &cut(&evil, 1, (0, 400), true), FragmentOverlap);
        range.denied("the rest", Attacker, &cut(&whole, 1, (400, 1208), false), FragmentOverlap);

        range.arrives("the first", Attacker, &cut(&whole, 2, (0, 400), true), Victim);
        range.denied(
            "one that overlaps by 8 bytes",
            Attacker,
            &cut(&whole, 2, (392, 800), true),
            FragmentOverlap,
        );
        range.denied(
            "the right one, too late",
            Attacker,
            &cut(&whole, 2, (400, 1208), false),
            FragmentOverlap,
        );

        range.arrives("the first", Attacker, &cut(&whole, 3, (0, 400), true), Victim);
        range.arrives("the same, doubled by the network", Attacker, &cut(&whole, 3, (0, 400), true), Victim);
        range.denied("one inside", Attacker, &part(&whole, 3, 8, &[0; 16], true), FragmentOverlap);

        range.arrives("the first", Attacker, &cut(&whole, 4, (0, 400), true), Victim);
        range.arrives("the last", Attacker, &cut(&whole, 4, (800, 1208), false), Victim);
        range.denied("behind the last", Attacker, &part(&whole, 4, 1208, &[0; 16], true), FragmentOverlap);
    }
}

#[test]
fn fragments_that_reach_past_the_end_of_a_datagram() {
    let mut range = range();
    for v6 in [false, true] {
        let whole = range.to_victim(v6).udp((1000, 80), 1200);
        range.arrives("the first", Attacker, &cut(&whole, 1, (0, 400), true), Victim);
        let reason = if v6 { BadExtension } else { BadLength };
        range.denied("ping of death", Attacker, &part(&whole, 1, 65_528, &[0; 100], false), reason);
        range.denied("not a multiple of 8", Attacker, &part(&whole, 1, 400, &[0; 9], true), reason);
        range.arrives("the datagram goes on", Attacker, &cut(&whole, 1, (400, 1208), false), Victim);
    }
}

/// RFC 6946: an atomic fragment is a whole packet, and is judged as one.
#[test]
fn atomic_fragments() {
    let mut range = range();
    let way = range.to_victim(true);
    let atomic = |frame: &[u8]| part6(frame, frame[20], (9, 0), &frame[54..]);
    range.arrives("to the open port", Attacker, &atomic(&way.udp((1000, 80), 100)), Victim);
    range.denied("to a closed port", Attacker, &atomic(&way.udp((1000, 81), 100)), PolicyIngress);
    range.denied("TCP", Attacker, &atomic(&way.tcp((1000, 80), 1, 0)), PolicyIngress);
}

/// The receiver tells datagrams apart by addresses and identification only (RFC 8200, section 4.5): options behind the
/// fragment header change the next header that the fragments name, and nothing else.
#[test]
fn options_behind_the_fragment_header() {
    let mut range = range();
    let way = range.to_victim(true);
    let udp = way.udp((1000, 80), 1200);
    let payload = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp[54..]].concat();
    range.arrives("the first", Attacker, &part6(&udp, 60, (5, 1), &payload[..400]), Victim);
    range.arrives("the second", Attacker, &part6(&udp, 60, (5, 400), &payload[400..]), Victim);
    range.arrives("a first", Attacker, &part6(&udp, 60, (6, 1), &payload[..400]), Victim);
    range.denied("a second first", Attacker, &part6(&udp, 17, (6, 1), &udp[54..462]), FragmentOverlap);
}

/// A revoked flow's datagrams end with it: their first fragment is no licence for the rest.
#[test]
fn fragments_follow_policy_as_it_changes() {
    for v6 in [false, true] {
        let mut range = range();
        let whole = range.to_victim(v6).udp((1000, 80), 1200);
        range.arrives("the first", Attacker, &cut(&whole, 1, (0, 400), true), Victim);
        range.set_policies(&[ingress("web", "victim", json!([]))]);
        assert!(
            matches!(range.outcome(Attacker, &cut(&whole, 1, (400, 800), true)), Dropped(_)),
            "the second, under a policy that denies the datagram"
        );
        range.set_policies(&[ingress("web", "victim", json!([{"from": app("attacker")}]))]);
        range.arrives("another first", Attacker, &cut(&whole, 2, (0, 400), true), Victim);
        range.set_policies(&[ingress("web", "victim", json!([{"ports": port("UDP", 80)}]))]);
        range.arrives(
            "the rest, allowed before and after",
            Attacker,
            &cut(&whole, 2, (400, 1208), false),
            Victim,
        );
    }
}

/// Datagrams that are never finished take a fixed amount of memory, and push out only their own sender's.
#[test]
fn a_flood_of_fragments_leaves_others_alone() {
    let mut range = range();
    let mine = range.to_victim(false).udp((1000, 80), 1200);
    let theirs = range.way(Bystander, Victim, false).udp((1000, 80), 1200);
    let far = range.way(Far, Victim, false).udp((1000, 80), 1200);
    range.arrives("the bystander's first", Bystander, &cut(&theirs, 7, (0, 400), true), Victim);
    range.arrives("a peer's first", Far, &cut(&far, 7, (0, 400), true), Victim);
    for n in 0..60_000_u32 {
        let way = Way { ..range.to_victim(n % 2 == 0) };
        let frame = way.udp((1000, 80), 8);
        let piece = if n % 3 == 0 {
            part(&frame, n, 400, &[0; 8], true)
        } else {
            part(&frame, n, 0, &frame[frame.len() - 16..], true)
        };
        assert!(range.attacker_end.send(encap::VnetHdr::default(), &piece));
        if n % 1000 == 999 {
            range.settle();
        }
    }
    range.arrives("the bystander's rest", Bystander, &cut(&theirs, 7, (400, 1208), false), Victim);
    range.arrives("the peer's rest", Far, &cut(&far, 7, (400, 1208), false), Victim);
    range.arrives("the attacker's newest", Attacker, &cut(&mine, 9, (0, 400), true), Victim);
    assert_eq!(range.node.fragments(), 64, "as many datagrams as one sender may have under way");
}

/// The tunnel's own datagrams are never fragments to the switch: the kernel puts them together, or they are cut off and
/// no inner packet.
#[test]
fn outer_fragments_are_no_packets() {
    let mut range = range();
    let inner = range.way(Far, Victim, false).udp((1000, 80), 1200);
    let datagram = vxlan(&inner);
    range.from("the first half", PEER, &datagram[..600], BadLength);
    range.from("the second half", PEER, &datagram[600..], BadTunnelHeader);
    assert_eq!(range.outcome(Far, &inner), At(Victim), "whole");
}
