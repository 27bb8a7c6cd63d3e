//! What a hostile or broken peer may try.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp::config::{MaxPrefixes, PeerConfig, Ttl};
use bgp::policy::{Match, Policy, PrefixList, Rule, Set};
use bgp::{Config, Event, Refused, Rejected, State};

use super::alone::{Alone, attribute, message, open, update};
use super::sim::{Random, addr, config, net, peer};

const PEER: [u8; 4] = [10, 0, 0, 2];

fn speaker(internal: bool, change: impl Fn(&mut Config)) -> Alone {
    let mut config = config(0, 64_512);
    config.peers = vec![PeerConfig { passive: true, ..peer(1, if internal { 64_512 } else { 65_001 }) }];
    change(&mut config);
    Alone::new(config)
}

fn session(alone: &mut Alone, asn: u32) -> bgp::ConnId {
    alone.establish(addr(1), &open(asn, PEER, 90))
}

/// ORIGIN, AS_PATH of the peer's AS (or empty), NEXT_HOP.
fn mandatory(path: &[u32]) -> Vec<u8> {
    let mut value = Vec::new();
    if !path.is_empty() {
        value = vec![2, u8::try_from(path.len()).unwrap()];
        value.extend(path.iter().flat_map(|n| n.to_be_bytes()));
    }
    [attribute(0x40, 1, &[0]), attribute(0x40, 2, &value), attribute(0x40, 3, &PEER)].concat()
}

#[test]
fn a_hostile_open_is_answered_by_a_notification() {
    let head = |hold: u16, asn: u16| [&[4][..], &asn.to_be_bytes(), &hold.to_be_bytes(), &PEER].concat();
    let body = |tail: &[u8]| [head(90, 64_512), tail.to_vec()].concat();
    for (what, bytes, expected) in [
        ("parameters overrun", message(1, &body(&[9, 2, 6])), (2, 0)),
        ("a capability overruns", message(1, &body(&[6, 2, 4, 65, 9, 0, 0])), (2, 0)),
        ("extended form overruns", message(1, &body(&[255, 255, 0xff, 0xff, 2, 0, 1])), (2, 0)),
        ("extended form is cut", message(1, &body(&[255, 255, 0])), (2, 0)),
        ("hold time 1", message(1, &[head(1, 64_512), vec![0]].concat()), (2, 6)),
        ("hold time 2", message(1, &[head(2, 64_512), vec![0]].concat()), (2, 6)),
        ("AS 0", message(1, &[head(90, 0), vec![0]].concat()), (2, 2)),
        ("bad marker", vec![0; 29], (1, 1)),
        ("longer than a message", [&[0xff; 16][..], &[0xff, 0xff, 1], &[0; 100]].concat(), (1, 2)),
        ("shorter than an OPEN", [&[0xff; 16][..], &[0, 20, 1], &[0; 100]].concat(), (1, 2)),
        ("no such type", [&[0xff; 16][..], &[0, 19, 77]].concat(), (1, 3)),
    ] {
        let mut alone = speaker(true, |_| ());
        let conn = alone.dial(addr(1)).unwrap();
        alone.send(conn, &bytes);
        assert_eq!(alone.notification(conn), Some(expected), "{what}");
        assert_eq!(alone.closed, [conn], "{what}");
        // And a good one is taken afterwards.
        alone.wait(Duration::from_secs(120));
        session(&mut alone, 64_512);
    }
}

#[test]
fn bytes_of_every_kind_never_panic_and_never_grow() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut alone = speaker(seed % 2 == 0, |_| ());
        let asn = if seed % 2 == 0 { 64_512 } else { 65_001 };
        let conn = session(&mut alone, asn);
        for _ in 0..20 {
            let mut bytes = match random.below(3) {
                0 => update(&mandatory(&[65_001]), &[24, 10, 1, 1]),
                1 => open(asn, PEER, 90),
                _ => message(5, &[0, 1, 0, 1]),
            };
            for _ in 0..random.below(4) {
                // Behind the marker, which would end it at once.
                let at = 16 + random.below(bytes.len() as u64 - 16) as usize;
                bytes[at] = random.below(256) as u8;
            }
            let keep = random.below(bytes.len() as u64) as usize;
            bytes.truncate(if random.below(8) == 0 { keep } else { bytes.len() });
            alone.send(conn, &bytes);
        }
        let status = &alone.speaker.peers(alone.now)[0];
        assert!(status.received.iter().all(|(_, count)| *count < 100), "seed {seed}");
    }
}

#[test]
fn a_malformed_attribute_costs_its_routes_and_not_the_session() {
    let mut alone = speaker(false, |_| ());
    let conn = session(&mut alone, 65_001);
    let count = |alone: &Alone| alone.speaker.peers(alone.now)[0].received[bgp::Family::Ipv4];
    let mut random = Random(1);
    // Every attribute code there is, with every kind of flags and short or random values.
    for code in 0..=255_u8 {
        if matches!(code, 14 | 15) {
            continue; // these may end the session: they say which routes are meant
        }
        for flags in [0, 0x40, 0x80, 0xc0] {
            for length in [0, 1, 3, 4, 7, 12, 200] {
                let value: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
                let others = mandatory(&[65_001]);
                // The bad one comes first, so that it counts and not the good one.
                let all = [attribute(flags, code, &value), others].concat();
                alone.send(conn, &update(&all, &[24, 10, 1, 1]));
                assert_eq!(alone.state(addr(1)), State::Established, "code {code} flags {flags:x} {value:?}");
                alone.send(conn, &update(&mandatory(&[65_001]), &[24, 10, 1, 1]));
                assert_eq!(count(&alone), 1, "a good one is taken again");
            }
        }
    }
    let status = &alone.speaker.peers(alone.now)[0];
    assert!(status.counters.attribute_errors > 1000 && status.counters.treated_as_withdrawn > 1000);
    assert!(status.last_attribute_error.is_some());
    // A missing one, and attributes that run over their end.
    for bytes in [
        update(&[], &[24, 10, 1, 1]),
        update(&[&mandatory(&[65_001])[..], &[0x40, 4, 99]].concat(), &[24, 10, 1, 1]),
    ] {
        alone.send(conn, &bytes);
        assert_eq!((alone.state(addr(1)), count(&alone)), (State::Established, 0));
        alone.send(conn, &update(&mandatory(&[65_001]), &[24, 10, 1, 1]));
        assert_eq!(count(&alone), 1);
    }
}

#[test]
fn where_the_routes_cannot_be_told_the_session_ends() {
    let reach = |value: &[u8]| update(&[attribute(0x80, 14, value), mandatory(&[])].concat(), &[]);
    for (what, bytes, expected) in [
        ("next hop over the end", reach(&[0, 1, 1, 200, 1, 2, 3, 4]), (3, 9)),
        ("prefix of 33 bits", reach(&[0, 1, 1, 4, 1, 2, 3, 4, 0, 33, 1, 2, 3, 4, 5]), (3, 9)),
        ("withdrawn overrun", message(2, &[0, 99, 0, 0]), (3, 1)),
        ("attributes overrun", message(2, &[0, 0, 0, 99]), (3, 1)),
        ("prefix overrun", update(&mandatory(&[]), &[24, 1]), (3, 10)),
        ("bad attribute without prefixes", update(&attribute(0x40, 1, &[7]), &[]), (3, 1)),
    ] {
        let mut alone = speaker(true, |_| ());
        let conn = session(&mut alone, 64_512);
        alone.send(conn, &bytes);
        assert_eq!(alone.notification(conn), Some(expected), "{what}");
    }
}

#[test]
fn hijacks_are_rejected_by_the_import_filter() {
    // What a node refuses from any peer: its own pod range and below, node addresses, the default route, martians.
    let or_longer = |prefixes: &[&str]| {
        prefixes.iter().fold(PrefixList::default(), |list, prefix| list.or_longer(net(prefix)))
    };
    let refuse = or_longer(&["10.244.1.0/24", "10.0.0.0/24", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"])
        .exact(net("0.0.0.0/0"));
    let allow = or_longer(&["10.244.0.0/16", "10.0.0.0/8"]);
    let rule = |prefixes: PrefixList, then| Rule {
        when: Match { prefixes: Some(prefixes), ..Match::default() },
        then,
    };
    let policy = Policy {
        rules: vec![rule(refuse, None), rule(allow, Some(Set::default()))],
        otherwise: false,
        ..Policy::default()
    };
    let policy = Arc::new(policy);
    let mut alone = speaker(true, |c| c.peers[0].import = Some(Arc::clone(&policy)));
    let conn = session(&mut alone, 64_512);
    let bytes = [
        (&[24, 10, 244, 1][..], "10.244.1.0/24", false),
        (&[26, 10, 244, 1, 64], "10.244.1.64/26", false),
        (&[32, 10, 0, 0, 1], "10.0.0.1/32", false),
        (&[0], "0.0.0.0/0", false),
        (&[16, 127, 1], "127.1.0.0/16", false),
        (&[24, 169, 254, 1], "169.254.1.0/24", false),
        (&[8, 239], "239.0.0.0/8", false),
        (&[24, 10, 244, 2], "10.244.2.0/24", true),
    ];
    for (prefix, text, accepted) in bytes {
        alone.send(conn, &update(&mandatory(&[]), prefix));
        let route = alone.speaker.route(net(text)).unwrap();
        assert_eq!(route.paths[0].accepted.is_ok(), accepted, "{text}");
    }
    // A next hop that is ourselves needs no filter.
    let ours =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &[]), attribute(0x40, 3, &[10, 0, 0, 1])].concat();
    alone.send(conn, &update(&ours, &[24, 10, 244, 3]));
    let route = alone.speaker.route(net("10.244.3.0/24")).unwrap();
    assert_eq!(route.paths[0].accepted, Err(Rejected::OwnNextHop));
    assert_eq!(alone.state(addr(1)), State::Established);
}

#[test]
fn a_flood_of_prefixes_ends_at_the_limit() {
    let bound = MaxPrefixes { limit: 10_000, warn_percent: 0, warn_only: false, restart: None };
    let mut alone = speaker(true, |c| c.peers[0].max_prefixes = Some(bound));
    let conn = session(&mut alone, 64_512);
    let mut sent = 0_u32;
    while alone.closed.is_empty() {
        let prefixes: Vec<u8> =
            (sent..sent + 800).flat_map(|i| [24, 11 + (i >> 16) as u8, (i >> 8) as u8, i as u8]).collect();
        alone.send(conn, &update(&mandatory(&[]), &prefixes));
        sent += 800;
        assert!(sent < 1_000_000);
    }
    assert!(sent <= 10_800);
    assert_eq!(alone.notification(conn), Some((6, 1)));
    assert_eq!(alone.speaker.routes(bgp::Family::Ipv4).count(), 0, "nothing of it is kept");
    assert_eq!(alone.dial(addr(1)), Err(Refused::Idle), "it is left alone");
    // Updates of the full length are taken, longer ones are not.
    let mut alone = speaker(true, |_| ());
    let conn = session(&mut alone, 64_512);
    let fill = 4096 - update(&mandatory(&[]), &[]).len();
    let prefixes: Vec<u8> =
        (0..u32::try_from(fill / 4).unwrap()).flat_map(|i| [24, 11, (i >> 8) as u8, i as u8]).collect();
    alone.send(conn, &update(&mandatory(&[]), &prefixes));
    assert_eq!(alone.state(addr(1)), State::Established);
    let long = update(&mandatory(&[]), &[&prefixes[..], &[24, 12, 0, 0].repeat(2)].concat());
    assert!(long.len() > 4096);
    alone.send(conn, &long);
    assert_eq!(alone.notification(conn), Some((1, 2)));
}

#[test]
fn a_slow_trickle_of_bytes_runs_into_the_hold_timer() {
    let mut alone = speaker(true, |_| ());
    let conn = session(&mut alone, 64_512);
    // One byte of a message every two seconds: never a whole message in 90 s.
    for byte in update(&mandatory(&[]), &[24, 10, 1, 1].repeat(4)) {
        if !alone.closed.is_empty() {
            break;
        }
        alone.send(conn, &[byte]);
        alone.wait(Duration::from_secs(2));
    }
    assert_eq!(alone.notification(conn), Some((4, 0)));
    // The same before the OPEN: nobody holds a connection open for nothing.
    let mut alone = speaker(true, |_| ());
    let conn = alone.dial(addr(1)).unwrap();
    alone.wait(Duration::from_secs(300));
    assert_eq!((alone.closed.clone(), alone.notification(conn)), (vec![conn], Some((4, 0))));
}

#[test]
fn a_peer_that_reads_nothing_is_let_go() {
    let mut config = config(0, 64_512);
    config.peers = vec![PeerConfig { passive: true, hold_time: 0, ..peer(1, 64_512) }];
    let mut alone = Alone::new(config);
    let conn = session(&mut alone, 64_512);
    alone.speaker.announce(net("10.9.0.0/16"), bgp::LocalRoute { attributes: bgp::Attributes::new(addr(0)) });
    // The output to write is taken, and nothing written.
    while alone.speaker.output().is_some() {}
    assert!(alone.speaker.unsent(conn).next().is_some());
    alone.wait(Duration::from_millis(480_500));
    assert_eq!((alone.closed.clone(), alone.state(addr(1))), (vec![conn], State::Idle), "RFC 9687");
}

#[test]
fn strangers_are_refused() {
    let mut alone = speaker(true, |c| {
        c.peers[0].ttl = Ttl::Security(1);
        c.peers[0].password = Some(bgp::config::Password("secret".into()));
    });
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66));
    assert_eq!(alone.dial(stranger), Err(Refused::Stranger));
    assert!(matches!(alone.events[..], [Event::Refused { why: Refused::Stranger, .. }]));
    assert_eq!(alone.speaker.totals().strangers, 1);
    // The kernel refuses a wrong key and a low TTL: the speaker says what to set, on the listener as well.
    let keys: Vec<_> =
        alone.speaker.listen_keys().map(|(net, key)| (net.to_string(), key.0.clone())).collect();
    assert_eq!(keys, [("10.0.0.2/32".to_owned(), "secret".to_owned())]);
    let from = std::net::SocketAddr::new(addr(1), 40_000);
    let (conn, options) = alone.speaker.incoming(from, alone.local, alone.now).unwrap();
    alone.drain();
    assert_eq!((options.ttl, options.min_ttl), (255, Some(255)));
    assert!(options.password.is_some());
    assert!(!format!("{:?}", alone.speaker.config()).contains("secret"), "keys are not printed");
    // A wrong AS behind the right address.
    alone.send(conn, &open(65_009, PEER, 90));
    assert_eq!(alone.notification(conn), Some((2, 2)));
    // Our own identifier.
    alone.wait(Duration::from_secs(60));
    let conn = alone.dial(addr(1)).unwrap();
    alone.send(conn, &open(64_512, [10, 0, 0, 1], 90));
    assert_eq!(alone.notification(conn), Some((2, 3)));
}

#[test]
fn routes_that_have_been_here_are_dropped() {
    let cluster = Ipv4Addr::new(1, 0, 0, 9);
    let mut alone = speaker(true, |c| c.cluster_id = Some(cluster));
    let conn = session(&mut alone, 64_512);
    let looped = |tail: Vec<u8>, path: &[u32]| update(&[mandatory(path), tail].concat(), &[24, 10, 9, 9]);
    for (bytes, expected) in [
        (looped(attribute(0x80, 9, &[10, 0, 0, 1]), &[]), Rejected::OriginatorLoop),
        (looped(attribute(0x80, 10, &[9, 9, 9, 9, 1, 0, 0, 9]), &[]), Rejected::ClusterLoop),
        (looped(vec![], &[65_001, 64_512, 65_002]), Rejected::AsLoop),
    ] {
        alone.send(conn, &bytes);
        let route = alone.speaker.route(net("10.9.9.0/24")).unwrap();
        assert_eq!((route.paths[0].accepted.clone(), route.paths[0].used), (Err(expected), false));
    }
    let mut alone = speaker(false, |_| ());
    let conn = session(&mut alone, 65_001);
    alone.send(conn, &looped(vec![], &[65_009]));
    let route = alone.speaker.route(net("10.9.9.0/24")).unwrap();
    assert_eq!(route.paths[0].accepted, Err(Rejected::FirstAs), "somebody else's path");
}

#[test]
fn paths_to_one_prefix_are_told_apart_and_bounded() {
    let mut alone = speaker(true, |_| ());
    // ADD-PATH, send, IPv4 unicast.
    let list = [&[1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0, 69, 4, 0, 1, 1, 2][..]].concat();
    let head = [&[4, 0xfc, 0, 0, 90][..], &PEER, &[20, 2, 18], &list].concat();
    let conn = alone.establish(addr(1), &message(1, &head));
    let path = |id: u32, hop: u8| {
        let attributes =
            [attribute(0x40, 1, &[0]), attribute(0x40, 2, &[]), attribute(0x40, 3, &[10, 0, 0, hop])];
        update(&attributes.concat(), &[&id.to_be_bytes()[..], &[16, 10, 9]].concat())
    };
    (1..=3).for_each(|id| alone.send(conn, &path(id, 50 + id as u8)));
    alone.send(conn, &path(2, 60));
    let route = alone.speaker.route(net("10.9.0.0/16")).unwrap();
    let mut paths: Vec<_> =
        route.paths.iter().map(|p| (p.path_id, p.received.next_hop.addr.to_string())).collect();
    paths.sort();
    assert_eq!(paths, [(1, "10.0.0.51".into()), (2, "10.0.0.60".into()), (3, "10.0.0.53".into())]);
    assert!(route.paths.iter().all(|p| p.used), "they share the load");
    alone.send(conn, &message(2, &[0, 7, 0, 0, 0, 1, 16, 10, 9, 0, 0]));
    assert_eq!(alone.speaker.route(net("10.9.0.0/16")).unwrap().paths.len(), 2);
    (4..1000).for_each(|id| alone.send(conn, &path(id, 70)));
    let status = &alone.speaker.peers(alone.now)[0];
    assert_eq!(status.received[bgp::Family::Ipv4], 64);
    assert_eq!(status.counters.excess_paths, 996 - 62);
}

#[test]
fn connections_of_one_neighbour_do_not_pile_up() {
    let mut alone = speaker(true, |_| ());
    let open_conns =
        |alone: &Alone, all: &[bgp::ConnId]| all.iter().filter(|c| !alone.closed.contains(c)).count();
    let mut all = Vec::new();
    for _ in 0..50 {
        all.extend(alone.dial(addr(1)));
        assert!(open_conns(&alone, &all) <= 2);
    }
    // While a session is up a second one is closed by its OPEN.
    let mut alone = speaker(true, |_| ());
    let first = session(&mut alone, 64_512);
    let second = alone.dial(addr(1)).unwrap();
    alone.send(second, &open(64_512, PEER, 90));
    assert_eq!((alone.closed.clone(), alone.notification(second)), (vec![second], Some((6, 7))));
    assert_eq!(alone.state(addr(1)), State::Established);
    alone.send(first, &message(4, &[]));
    assert_eq!(alone.closed, [second]);
}
