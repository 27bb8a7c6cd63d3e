use super::super::fixture::*;
use super::super::tuple::ICMP;
use super::super::{OpenError, Opening};
use super::*;

mod twin;

const OTHER: Transport = Transport::Other;

fn opened(table: &Table<Memory>, t: &Tuple, transport: Transport, now: u32) -> Slot {
    let opened = table.open_flow(t, transport, &opening(1), at(now)).unwrap();
    assert!(opened.fresh);
    opened.found.slot
}

/// A TCP connection with a complete handshake.
fn established(table: &Table<Memory>, t: &Tuple, now: u32) -> Slot {
    let slot = opened(table, t, flags(SYN), now);
    assert_eq!(table.packet(slot, Direction::Reply, flags(SYN | ACK), at(now)), Step::Pass);
    assert_eq!(table.packet(slot, Direction::Original, flags(ACK), at(now)), Step::Pass);
    slot
}

#[test]
fn a_connection_from_first_to_last_segment() {
    let table = table(1000);
    let t = tcp(1, 2, 40000, 80);
    assert_eq!(table.track(&t, flags(ACK), EPOCH(1), at(0)), Tracked::Invalid);
    assert_eq!(table.track(&t, flags(SYN), EPOCH(1), at(0)), Tracked::New);
    let slot = opened(&table, &t, flags(SYN), 0);
    assert_eq!(table.held(Opener::Port(1)), Some(Held { half_open: 1, total: 1 }));
    let known = |direction| Tracked::Known(Found { slot, direction, epoch: EPOCH(1) });
    for (from_server, f) in
        [(true, SYN | ACK), (false, ACK), (false, FIN | ACK), (true, FIN | ACK), (false, ACK)]
    {
        let (tuple, direction) =
            if from_server { (back(&t), Direction::Reply) } else { (t, Direction::Original) };
        assert_eq!(table.track(&tuple, flags(f), EPOCH(1), at(1)), known(direction));
    }
    let flow = table.iter(at(1)).next().unwrap();
    assert_eq!((flow.tuple, flow.state, flow.opener), (t, State::TimeWait, Opener::Port(1)));
    assert_eq!((flow.created, flow.last, flow.rules), (at(0), at(1), Rules { egress: 7, ingress: 9 }));
    assert_eq!(table.held(Opener::Port(1)), Some(Held { half_open: 0, total: 1 }));

    // The same ports again: a new flow, to be judged again.
    assert_eq!(table.packet(slot, Direction::Original, flags(SYN), at(2)), Step::Reopen);
    assert_eq!(table.track(&t, flags(SYN), EPOCH(2), at(2)), Tracked::New);
    let again = opened(&table, &t, flags(SYN), 2);
    assert_ne!(again, slot);
    assert_eq!(table.packet(slot, Direction::Original, flags(ACK), at(2)), Step::Gone);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_fake_reply_or_another_port_finds_nothing() {
    let table = table(1000);
    let query = udp(1, 2, 5000, 53);
    opened(&table, &query, OTHER, 0);
    assert_eq!(table.lookup(&back(&query), at(0)).unwrap().direction, Direction::Reply);
    for other in [udp(2, 1, 53, 5001), udp(2, 1, 54, 5000), udp(3, 1, 53, 5000), tcp(2, 1, 53, 5000)] {
        assert_eq!(table.lookup(&other, at(0)), None);
    }
    for f in [SYN | ACK, ACK, RST, FIN | ACK, SYN | FIN, 0, FIN | 0x28] {
        let t = tcp(2, 1, 80, 999);
        assert_eq!(table.track(&t, flags(f), EPOCH(1), at(0)), Tracked::Invalid);
        assert_eq!(table.open_flow(&t, flags(f), &opening(1), at(0)), Err(OpenError::Invalid));
    }
    assert_eq!(table.len(), 1);
}

#[test]
fn flows_expire_by_their_state_and_not_within_the_grace() {
    let table = table(1000);
    let (dns, ping) =
        (udp(1, 2, 5000, 53), Tuple { sport: 8 << 8, dport: 77, proto: ICMP, ..udp(1, 2, 0, 0) });
    let web = tcp(1, 2, 40000, 80);
    opened(&table, &dns, OTHER, 0);
    opened(&table, &ping, OTHER, 0);
    opened(&table, &web, flags(SYN), 0);
    let lives = |t: &Tuple, now| table.lookup(t, at(now)).is_some();
    assert!(lives(&ping, 10) && !lives(&ping, 11), "5 s, but none within the grace of 10 s");
    assert!(lives(&web, 20) && !lives(&web, 21));
    assert!(lives(&dns, 60) && !lives(&dns, 61));
    assert_eq!(
        table.track(&back(&dns), OTHER, EPOCH(1), at(61)),
        Tracked::New,
        "a late reply is judged by itself"
    );
    let mut now = 0;
    for _ in 0..5 {
        now += 59;
        assert!(matches!(table.track(&dns, OTHER, EPOCH(1), at(now)), Tracked::Known(_)));
    }
    assert_eq!(sweep_all(&table, at(now)), (2, 1));
    assert_eq!(sweep_all(&table, at(now + 61)), (1, 0));
    assert!(table.is_empty() && table.held(Opener::Port(1)) == Some(Held::default()));
}

#[test]
fn a_revoked_flow_refuses_both_directions_until_judged_anew() {
    let table = table(1000);
    let (web, dns) = (tcp(1, 2, 40000, 80), udp(1, 2, 5000, 53));
    let (slot, query) = (established(&table, &web, 0), opened(&table, &dns, OTHER, 0));
    assert!(table.revoke(slot, EPOCH(5), at(1)) && table.revoke(query, EPOCH(5), at(1)));
    assert_eq!(table.held(Opener::Port(1)), Some(Held { half_open: 0, total: 2 }));
    for t in [web, back(&web)] {
        assert_eq!(table.track(&t, flags(ACK), EPOCH(5), at(2)), Tracked::Revoked);
    }
    for t in [dns, back(&dns)] {
        assert_eq!(table.track(&t, OTHER, EPOCH(5), at(2)), Tracked::Revoked);
        assert_eq!(table.track(&t, OTHER, EPOCH(4), at(2)), Tracked::Revoked, "by a worker that lags behind");
        assert_eq!(table.track(&t, OTHER, EPOCH(6), at(2)), Tracked::New, "judged by a newer policy");
        let outdated = Opening { epoch: EPOCH(5), ..opening(1) };
        assert_eq!(table.open_flow(&t, OTHER, &outdated, at(2)), Err(OpenError::Revoked));
    }
    assert_eq!(table.packet(slot, Direction::Reply, flags(ACK), at(2)), Step::Revoked);
    assert!(!table.judged(slot, EPOCH(6), Rules::default()), "what is revoked stays so");
    assert_eq!(table.related(&web, host(1), at(2)), None);
    assert_eq!(table.track(&web, flags(SYN), EPOCH(5), at(2)), Tracked::New);
    assert_eq!(table.track(&dns, OTHER, EPOCH(5), at(12)), Tracked::New, "the tombstone is gone");
}

#[test]
fn only_a_newer_verdict_counts() {
    let table = table(1000);
    let t = tcp(1, 2, 40000, 80);
    let slot = established(&table, &t, 0);
    let rules = Rules { egress: 1, ingress: 2 };
    assert!(table.judged(slot, EPOCH(9), rules));
    assert!(table.judged(slot, EPOCH(8), Rules::default()));
    let flow = table.iter(at(0)).next().unwrap();
    assert_eq!((flow.epoch, flow.rules), (EPOCH(9), rules));
    assert!(!table.judged(Slot { generation: slot.generation + 1, ..slot }, EPOCH(10), rules));
    assert!(!table.judged(Slot { index: u32::MAX, ..slot }, EPOCH(10), rules));
}

#[test]
fn an_icmp_error_is_related_to_what_its_receiver_sent() {
    let table = table(1000);
    let t = udp(1, 2, 5000, 53);
    let slot = opened(&table, &t, OTHER, 0);
    assert_eq!(table.related(&t, host(1), at(0)).map(|found| found.slot), Some(slot));
    assert_eq!(table.related(&t, host(2), at(0)), None, "not the quoted sender");
    assert_eq!(table.related(&udp(1, 2, 5001, 53), host(1), at(0)), None, "no such flow");
    assert_eq!(table.related(&back(&t), host(2), at(0)), None, "the other end has not sent anything yet");
    assert_eq!(table.packet(slot, Direction::Reply, OTHER, at(0)), Step::Pass);
    let found = table.related(&back(&t), host(2), at(0)).unwrap();
    assert_eq!((found.slot, found.direction), (slot, Direction::Reply));
    assert_eq!(table.related(&t, host(1), at(61)), None, "expired");
}

#[test]
fn only_requests_open_an_echo() {
    let table = table(1000);
    let ping =
        |src, dst, kind: u16| Tuple { sport: kind << 8, dport: 77, proto: ICMP, ..udp(src, dst, 0, 0) };
    assert_eq!(table.track(&ping(2, 1, 0), OTHER, EPOCH(1), at(0)), Tracked::Invalid);
    assert_eq!(table.track(&ping(2, 1, 3), OTHER, EPOCH(1), at(0)), Tracked::Invalid, "errors have no flow");
    let slot = opened(&table, &ping(1, 2, 8), OTHER, 0);
    let reply = Tracked::Known(Found { slot, direction: Direction::Reply, epoch: EPOCH(1) });
    assert_eq!(table.track(&ping(2, 1, 0), OTHER, EPOCH(1), at(0)), reply);
    assert_eq!(table.track(&ping(2, 1, 8), OTHER, EPOCH(1), at(0)), Tracked::New, "asked the other way");
}

#[test]
fn a_detached_pod_leaves_nothing_behind() {
    let table = table(1000);
    for i in 0..100 {
        let opener = Opening { opener: Opener::Port(u32::from(i % 2)), ..opening(0) };
        table.open_flow(&udp(1 + u32::from(i % 2), 9, i, 53), OTHER, &opener, at(0)).unwrap();
    }
    assert_eq!(table.forget_addr(host(1)), 50);
    assert_eq!(table.held(Opener::Port(0)), Some(Held::default()));
    assert_eq!(table.forget_opener(Opener::Port(1)), 50);
    assert!(table.is_empty() && table.iter(at(0)).next().is_none());
}

#[test]
fn the_middle_of_a_connection_opens_only_with_pickup() {
    let mut config = Config::new(Geometry { capacity: 100, ports: 2, peers: 1 });
    config.pickup = true;
    let table = table_with(config);
    let t = tcp(1, 2, 40000, 80);
    assert_eq!(table.track(&t, flags(ACK), EPOCH(1), at(0)), Tracked::New);
    assert_eq!(table.track(&t, flags(RST), EPOCH(1), at(0)), Tracked::Invalid);
    opened(&table, &t, flags(ACK), 0);
    // Until it is answered, it counts as half-open and does not last.
    assert_eq!(table.held(Opener::Port(1)), Some(Held { half_open: 1, total: 1 }));
    assert!(matches!(table.track(&t, flags(ACK), EPOCH(1), at(15)), Tracked::Known(_)));
    assert_eq!(table.track(&back(&t), flags(ACK), EPOCH(1), at(36)), Tracked::New);
    opened(&table, &t, flags(ACK), 36);
    assert!(matches!(table.track(&back(&t), flags(ACK), EPOCH(1), at(37)), Tracked::Known(_)));
    assert_eq!(table.held(Opener::Port(1)), Some(Held { half_open: 0, total: 1 }));
    assert!(matches!(table.track(&back(&t), flags(ACK), EPOCH(1), at(3000)), Tracked::Known(_)));
}
