//! ICMP errors: only one about a live flow of its receiver gets there.

use serde_json::json;
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::objects::ingress;
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Far, Victim};

fn closed() -> Range {
    Range::guarded(&[ingress("closed", "victim", json!([]))])
}

/// "Port unreachable", quoting what follows the Ethernet header.
fn unreachable(way: &Way, quote: &[u8]) -> Vec<u8> {
    if way.to.is_ipv6() { way.icmp(1, 4, [0; 4], quote) } else { way.icmp(3, 3, [0; 4], quote) }
}

/// "Too big", with an MTU.
fn too_big(way: &Way, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let (kind, code) = if way.to.is_ipv6() { (2, 0) } else { (3, 4) };
    way.icmp(kind, code, [0, 0, high, low], quote)
}

#[test]
fn an_error_about_the_receivers_own_flow_arrives() {
    let mut range = closed();
    for v6 in [false, true] {
        let asked = range.way(Victim, Attacker, v6).udp((4000, 53), 100);
        range.arrives("a question", Victim, &asked, Attacker);
        let back = range.to_victim(v6);
        range.arrives("unreachable", Attacker, &unreachable(&back, &asked[14..]), Victim);
        range.arrives("too big", Attacker, &too_big(&back, 1400, &asked[14..]), Victim);
        // A router on the way says it in its own name.
        let router = range.way(Far, Victim, v6);
        range.arrives("from elsewhere", Far, &too_big(&router, 1400, &asked[14..]), Victim);
        // Eight bytes behind the IP header are enough.
        let short = &asked[14..14 + if v6 { 48 } else { 28 }];
        range.arrives("a short quotation", Attacker, &unreachable(&back, short), Victim);
        let ping = range.way(Victim, Attacker, v6).ping(8);
        range.arrives("a ping", Victim, &ping, Attacker);
        range.arrives("about the ping", Attacker, &unreachable(&back, &ping[14..]), Victim);
    }
}

#[test]
fn forged_errors() {
    // With policy and without: nobody needs an error about a flow that is not there.
    for mut range in [closed(), Range::new()] {
        for v6 in [false, true] {
            let back = range.to_victim(v6);
            let asked = range.way(Victim, Attacker, v6).udp((4000, 53), 100);
            range.denied("no flow", Attacker, &unreachable(&back, &asked[14..]), IcmpUnrelated);
            range.arrives("a question", Victim, &asked, Attacker);
            let other = range.way(Victim, Attacker, v6).udp((4001, 53), 100);
            range.denied("another port", Attacker, &unreachable(&back, &other[14..]), IcmpUnrelated);
            let tcp = range.way(Victim, Attacker, v6).tcp((4000, 53), 1, 0);
            range.denied("another protocol", Attacker, &unreachable(&back, &tcp[14..]), IcmpUnrelated);
            let answer = back.udp((53, 4000), 10);
            range.denied(
                "what the attacker would send",
                Attacker,
                &unreachable(&back, &answer[14..]),
                IcmpUnrelated,
            );
            let theirs = range.way(Bystander, Far, v6).udp((4000, 53), 100);
            range.arrives("the bystander's flow", Bystander, &theirs, Far);
            range.denied("another pod's flow", Attacker, &unreachable(&back, &theirs[14..]), IcmpUnrelated);
            let header = if v6 { 40 } else { 20 };
            for len in [0, 1, header - 1, header, header + 3] {
                let quote = &asked[14..14 + len];
                range.denied("a quotation cut off", Attacker, &unreachable(&back, quote), IcmpUnrelated);
            }
            let mut wrong = asked[14..].to_vec();
            wrong[0] ^= 0x20;
            range.denied("another IP version", Attacker, &unreachable(&back, &wrong), IcmpUnrelated);
            for mtu in [0, 68, if v6 { 1279 } else { 551 }] {
                range.denied(
                    "an MTU no path has",
                    Attacker,
                    &too_big(&back, mtu, &asked[14..]),
                    IcmpUnrelated,
                );
            }
            let least = if v6 { 1280 } else { 552 };
            range.arrives("the least MTU", Attacker, &too_big(&back, least, &asked[14..]), Victim);
            range.wait(61);
            range.denied("a flow that is over", Attacker, &unreachable(&back, &asked[14..]), IcmpUnrelated);
        }
    }
}

/// An answer without a flow is one more way to say something to a closed pod.
#[test]
fn answers_nobody_asked_for() {
    let mut range = closed();
    let back = range.to_victim(false);
    for kind in [0, 14, 16, 18] {
        let frame = back.icmp(kind, 0, [0, 1, 0, 2], &[0; 12]);
        let outcome = range.outcome(Attacker, &frame);
        assert!(matches!(outcome, Dropped(PolicyIngress | OutOfState)), "type {kind}: {outcome:?}");
    }
}

/// Errors about a flow end with the flow, also when no packet of it has met the new policy yet.
#[test]
fn errors_about_a_revoked_flow() {
    for v6 in [false, true] {
        let mut range = closed();
        let asked = range.way(Victim, Far, v6).udp((4000, 53), 100);
        range.arrives("a question", Victim, &asked, Far);
        let back = range.way(Far, Victim, v6);
        range.arrives("about it", Far, &unreachable(&back, &asked[14..]), Victim);
        range.set_policies(&[vswitch_tests::sim::objects::egress("mute", "victim", json!([]))]);
        assert_eq!(range.outcome(Far, &unreachable(&back, &asked[14..])), Dropped(PolicyEgress));
        assert_eq!(range.outcome(Far, &unreachable(&back, &asked[14..])), Dropped(IcmpUnrelated));
        range.set_policies(&[]);
        assert_eq!(range.outcome(Victim, &asked), At(Far));
        range.arrives("allowed again", Far, &unreachable(&back, &asked[14..]), Victim);
    }
}
