//! Connection state as a way around policy: what looks like a part of a connection is one, or is judged as a stranger.

use encap::VnetHdr;
use policy::conntrack::Opener;
use serde_json::json;
use vswitch::counters::DropReason::*;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::objects::{app, ingress, port};
use vswitch_tests::sim::range::Outcome::{At, Dropped};
use vswitch_tests::sim::range::Range;
use vswitch_tests::sim::range::Who::{Attacker, Bystander, Far, Victim};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// Nobody may open anything to the victim, which may open what it likes.
fn closed() -> Range {
    Range::guarded(&[ingress("closed", "victim", json!([]))])
}

/// The victim takes TCP and UDP on port 80 from everybody, nothing else.
fn web() -> Range {
    Range::guarded(&[web_policy()])
}

fn web_policy() -> serde_json::Value {
    ingress(
        "web",
        "victim",
        json!([{"ports": [{"protocol": "TCP", "port": 80}, {"protocol": "UDP", "port": 80}]}]),
    )
}

fn handshake(range: &mut Range, v6: bool, ports: (u16, u16)) {
    let (there, back) = (range.to_victim(v6), range.way(Victim, Attacker, v6));
    range.arrives("SYN", Attacker, &there.tcp_flags(ports, SYN), Victim);
    range.arrives("SYN ACK", Victim, &back.tcp_flags((ports.1, ports.0), SYN | ACK), Attacker);
    range.arrives("ACK", Attacker, &there.tcp_flags(ports, ACK), Victim);
}

#[test]
fn tcp_out_of_state_opens_nothing() {
    let mut range = closed();
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        let odd =
            [ACK, RST, FIN, SYN | FIN, 0, FIN | PSH | URG, SYN | ACK, RST | ACK, FIN | ACK, SYN | RST, 0xff];
        for (n, flags) in (0..).zip(odd) {
            let frame = way.tcp_flags((2000 + n, 80), flags);
            // An ACK could be of a connection older than the table, so policy is asked; nothing else opens anything.
            let reason = if flags & !PSH == ACK { PolicyIngress } else { OutOfState };
            range.denied(&format!("flags {flags:#04x}"), Attacker, &frame, reason);
            range.denied(&format!("flags {flags:#04x} once more"), Attacker, &frame, reason);
        }
    }
    assert!(range.node.conntrack().is_empty());
}

/// What no stack sends opens nothing where a SYN would be let in, either.
#[test]
fn tcp_that_no_stack_sends_opens_nothing_at_an_open_port() {
    let mut range = web();
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        for (n, flags) in
            (0..).zip([RST, FIN, SYN | FIN, 0, FIN | PSH | URG, SYN | ACK, FIN | ACK, SYN | RST, 0xff])
        {
            let frame = way.tcp_flags((2000 + n, 80), flags);
            range.denied(&format!("flags {flags:#04x}"), Attacker, &frame, OutOfState);
        }
    }
    assert!(range.node.conntrack().is_empty());
}

#[test]
fn fake_replies() {
    let mut range = closed();
    for v6 in [false, true] {
        let way = range.to_victim(v6);
        range.denied("SYN ACK of a web server", Attacker, &way.tcp_flags((80, 4000), SYN | ACK), OutOfState);
        range.denied("data of a web server", Attacker, &way.tcp_flags((80, 4001), ACK), PolicyIngress);
        range.denied("an answer of a name server", Attacker, &way.udp((53, 4002), 40), PolicyIngress);
        range.denied("an answer of a time server", Attacker, &way.udp((123, 123), 48), PolicyIngress);
        range.denied("INIT ACK", Attacker, &way.sctp((5000, 4003), 2), OutOfState);
        let pong = way.icmp(if v6 { 129 } else { 0 }, 0, [0, 1, 0, 2], &[0; 8]);
        assert!(matches!(range.outcome(Attacker, &pong), Dropped(PolicyIngress | OutOfState)));
    }
    assert!(range.node.conntrack().is_empty());
}

#[test]
fn replies_pass_and_only_they() {
    let mut range = closed();
    for v6 in [false, true] {
        let (out, back) = (range.way(Victim, Attacker, v6), range.to_victim(v6));
        range.arrives("a question", Victim, &out.udp((4000, 53), 20), Attacker);
        range.arrives("its answer", Attacker, &back.udp((53, 4000), 200), Victim);
        range.denied("to another port", Attacker, &back.udp((53, 4001), 200), PolicyIngress);
        range.denied("from another port", Attacker, &back.udp((54, 4000), 200), PolicyIngress);
        range.denied("by another protocol", Attacker, &back.tcp_flags((53, 4000), SYN | ACK), OutOfState);
        range.denied("by another protocol", Attacker, &back.tcp_flags((53, 4000), ACK), PolicyIngress);
        let other = range.way(Bystander, Victim, v6);
        range.denied("from another pod", Bystander, &other.udp((53, 4000), 200), PolicyIngress);
        let far = range.way(Far, Victim, v6);
        range.denied("from another node", Far, &far.udp((53, 4000), 200), PolicyIngress);
        range.arrives("SYN", Victim, &out.tcp_flags((4000, 80), SYN), Attacker);
        range.denied("an ACK before the SYN ACK", Attacker, &back.tcp_flags((80, 4000), ACK), OutOfState);
        range.denied("a FIN before it", Attacker, &back.tcp_flags((80, 4000), FIN | ACK), OutOfState);
        range.arrives("SYN ACK", Attacker, &back.tcp_flags((80, 4000), SYN | ACK), Victim);
        range.arrives("a ping", Victim, &out.ping(8), Attacker);
        let pong = back.icmp(if v6 { 129 } else { 0 }, 0, [0, 1, 0, 2], &[0; 8]);
        range.arrives("its answer", Attacker, &pong, Victim);
        let wrong = back.icmp(if v6 { 129 } else { 0 }, 0, [0, 9, 0, 2], &[0; 8]);
        assert!(matches!(range.outcome(Attacker, &wrong), Dropped(_)), "an answer with another identifier");
    }
}

#[test]
fn a_late_reply_is_a_stranger() {
    let mut range = closed();
    for v6 in [false, true] {
        let (out, back) = (range.way(Victim, Attacker, v6), range.to_victim(v6));
        range.arrives("a question", Victim, &out.udp((4000, 53), 20), Attacker);
        range.arrives("its answer", Attacker, &back.udp((53, 4000), 20), Victim);
        range.now_us += 59_000_000;
        range.arrives("within the minute", Attacker, &back.udp((53, 4000), 20), Victim);
        // Nobody has swept the table yet: an expired flow counts as absent all the same.
        range.now_us += 61_000_000;
        range.denied("after it", Attacker, &back.udp((53, 4000), 20), PolicyIngress);
    }
}

/// A flow that is refused in one direction is no word about the other: a sender that was refused may answer, later.
#[test]
fn a_refused_sender_may_answer_when_it_is_asked() {
    let mut range = closed();
    for v6 in [false, true] {
        let (out, back) = (range.way(Victim, Attacker, v6), range.to_victim(v6));
        range.denied("unasked", Attacker, &back.udp((123, 123), 48), PolicyIngress);
        range.denied("unasked again", Attacker, &back.udp((123, 123), 48), PolicyIngress);
        range.arrives("the victim asks", Victim, &out.udp((123, 123), 48), Attacker);
        range.arrives("the answer", Attacker, &back.udp((123, 123), 48), Victim);
        range.now_us += 61_000_000;
        range.denied("unasked once more", Attacker, &back.udp((123, 123), 48), PolicyIngress);
        range.denied("ESP unasked", Attacker, &back.proto(50, &[0; 16]), PolicyIngress);
        range.arrives("ESP", Victim, &out.proto(50, &[0; 16]), Attacker);
        range.arrives("ESP back", Attacker, &back.proto(50, &[0; 16]), Victim);
    }
}

/// A port that is used again after a connection ended is judged by what policy says now.
#[test]
fn a_port_used_again_is_judged_again() {
    let mut range = web();
    for v6 in [false, true] {
        range.set_policies(&[web_policy()]);
        let (there, back) = (range.to_victim(v6), range.way(Victim, Attacker, v6));
        handshake(&mut range, v6, (4000, 80));
        range.arrives("FIN", Attacker, &there.tcp_flags((4000, 80), FIN | ACK), Victim);
        range.arrives("FIN back", Victim, &back.tcp_flags((80, 4000), FIN | ACK), Attacker);
        range.arrives("the last ACK", Attacker, &there.tcp_flags((4000, 80), ACK), Victim);
        range.arrives("SYN, allowed still", Attacker, &there.tcp_flags((4000, 80), SYN), Victim);
        range.arrives("RST", Victim, &back.tcp_flags((80, 4000), RST | ACK), Attacker);
        range.set_policies(&[ingress("web", "victim", json!([]))]);
        let syn = there.tcp_flags((4000, 80), SYN);
        range.denied("SYN, denied now", Attacker, &syn, PolicyIngress);
        range.denied("and once more", Attacker, &syn, PolicyIngress);
        let data = there.tcp_flags((4000, 80), ACK);
        assert!(matches!(range.outcome(Attacker, &data), Dropped(_)), "as if it were the old connection");
    }
}

/// With the first packet after the change, in both directions, and whatever it is.
#[test]
fn a_revoked_connection_ends() {
    for v6 in [false, true] {
        for from in [Attacker, Victim] {
            let mut range = web();
            let (there, back) = (range.to_victim(v6), range.way(Victim, Attacker, v6));
            handshake(&mut range, v6, (4000, 80));
            range.arrives("UDP", Attacker, &there.udp((4000, 80), 10), Victim);
            range.arrives("UDP back", Victim, &back.udp((80, 4000), 10), Attacker);
            range.set_policies(&[ingress("web", "victim", json!([]))]);
            let tcp = [there.tcp_flags((4000, 80), ACK | PSH), back.tcp_flags((80, 4000), ACK | PSH)];
            let udp = [there.udp((4000, 80), 10), back.udp((80, 4000), 10)];
            for [there, back] in [tcp, udp] {
                let order = if from == Attacker {
                    [(Attacker, there), (Victim, back)]
                } else {
                    [(Victim, back), (Attacker, there)]
                };
                for (who, frame) in order {
                    let first = range.outcome(who, &frame);
                    assert!(matches!(first, Dropped(PolicyIngress | PolicyRevoked)), "{who:?}: {first:?}");
                    let again = range.outcome(who, &frame);
                    assert!(matches!(again, Dropped(PolicyIngress | PolicyRevoked)), "{who:?}: {again:?}");
                }
            }
            // Allowed again: what is under way is taken up.
            range.set_policies(&[web_policy()]);
            range.arrives("UDP again", Attacker, &there.udp((4000, 80), 10), Victim);
            range.arrives("TCP again", Attacker, &there.tcp_flags((4000, 80), SYN), Victim);
        }
    }
}

/// An isolation that appears later finds the connections that were opened before it.
#[test]
fn connections_older_than_the_first_policy() {
    for v6 in [false, true] {
        let mut range = Range::new();
        let (out, back) = (range.way(Victim, Attacker, v6), range.to_victim(v6));
        range.arrives("the victim's question", Victim, &out.udp((4000, 53), 10), Attacker);
        range.arrives("a stranger's", Attacker, &back.udp((4000, 53), 10), Victim);
        range.set_policies(&[ingress("closed", "victim", json!([]))]);
        range.arrives("the answer", Attacker, &back.udp((53, 4000), 10), Victim);
        let stranger = range.outcome(Attacker, &back.udp((4000, 53), 10));
        assert_eq!(stranger, Dropped(PolicyIngress));
    }
}

/// One pod opens as many connections as it can: it ends at its own quota, and nobody else notices.
#[test]
fn half_open_connections_of_one_pod() {
    let mut range = web();
    let bystander = range.way(Bystander, Victim, false);
    range.arrives("an old flow", Bystander, &bystander.udp((1, 80), 10), Victim);
    range.arrives("its answer", Victim, &range.way(Victim, Bystander, false).udp((80, 1), 10), Bystander);
    let attacker = Opener::Port(1);
    let most = range.node.conntrack().config().port_limits.half_open;
    for n in 0..60_000_u32 {
        let way = range.to_victim(n % 2 == 0);
        let frame = if n % 4 < 2 { way.tcp_flags((n as u16, 80), SYN) } else { way.udp((n as u16, 80), 0) };
        assert!(range.attacker_end.send(VnetHdr::default(), &frame));
        if n % 1000 == 999 {
            range.settle();
        }
    }
    let held = range.node.conntrack().held(attacker).unwrap();
    assert_eq!((held.half_open, held.total), (most, most));
    assert!(range.dropped(FlowQuota) >= 25_000, "{:?}", range.node.totals());
    let way = range.to_victim(false);
    assert_eq!(
        range.outcome(Attacker, &way.udp((61_000, 80), 10)),
        Dropped(FlowQuota),
        "one more of the attacker's"
    );
    for n in 0..2000 {
        range.arrives("a new flow", Bystander, &bystander.udp((1000 + n, 80), 10), Victim);
        range.arrives("the old flow", Bystander, &bystander.udp((1, 80), 10), Victim);
    }
    let far = range.way(Far, Victim, false);
    range.arrives("a new flow of another node", Far, &far.tcp_flags((1, 80), SYN), Victim);
    // What is never answered expires, and the quota is there again.
    range.wait(61);
    range.arrives("a minute later", Attacker, &way.udp((61_000, 80), 10), Victim);
}

/// An address that becomes another pod's takes nothing along.
#[test]
fn an_address_used_again_inherits_nothing() {
    for v6 in [false, true] {
        let rule = json!([{"from": app("attacker"), "ports": port("UDP", 80)}]);
        let mut range = Range::guarded(&[ingress("web", "victim", rule)]);
        let (there, back) = (range.to_victim(v6), range.way(Victim, Attacker, v6));
        range.arrives("the old pod", Attacker, &there.udp((4000, 80), 10), Victim);
        range.arrives("its answer", Victim, &back.udp((80, 4000), 10), Attacker);
        range.arrives("what it was asked", Victim, &back.udp((5000, 53), 10), Attacker);
        let old = range.attacker;
        range.node.detach(&old);
        assert_eq!(range.outcome(Victim, &back.udp((80, 4000), 10)), Dropped(NoRoute), "to nobody");
        assert!(range.node.conntrack().is_empty(), "the old pod's flows are gone");
        range.attacker_end = range.node.attach_again(&old, "default/newcomer");
        range.denied("the old pod's flow", Attacker, &there.udp((4000, 80), 10), PolicyIngress);
        range.denied("the answer that the old pod owed", Attacker, &there.udp((53, 5000), 10), PolicyIngress);
        assert_eq!(
            range.outcome(Victim, &back.udp((80, 4000), 10)),
            At(Attacker),
            "the victim opens a new one"
        );
    }
}

/// A pod that has ended has no address any more, whatever its object says.
#[test]
fn pods_that_ended_are_ignored() {
    for phase in ["Succeeded", "Failed"] {
        let rule = json!([{"from": app("worker")}]);
        let mut range = Range::new();
        let mut objects = range.pods();
        let mut ended = objects.remove(3);
        ended["metadata"]["labels"] = json!({"app": "worker"});
        objects.push(ended.clone());
        objects.push(ingress("web", "victim", rule));
        range.node.set_objects(&objects);
        let way: Way = range.way(Far, Victim, false);
        range.arrives("while it runs", Far, &way.udp((1, 1), 10), Victim);
        ended["status"]["phase"] = json!(phase);
        objects[3] = ended;
        range.node.set_objects(&objects);
        assert!(
            matches!(range.outcome(Far, &way.udp((1, 1), 10)), Dropped(PolicyIngress | PolicyRevoked)),
            "{phase}"
        );
        range.denied(phase, Far, &way.udp((2, 1), 10), PolicyIngress);
    }
}
