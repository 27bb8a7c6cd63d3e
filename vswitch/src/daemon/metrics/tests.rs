use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crossbeam::channel::Receiver;

use super::*;
use crate::counters::DropReason;

fn scrape() -> Scrape {
    let peer = PeerInfo {
        name: "n2".into(),
        tx_packets: 7,
        rx_bytes: 99,
        last_heard_ms: Some(1234),
        ..PeerInfo::default()
    };
    Scrape {
        epoch: 5,
        workers: 2,
        pods: 1,
        mtu: 1450,
        addresses_used: 1,
        addresses_total: 254,
        totals: Totals {
            received: 10,
            to_pods: 6,
            drops: vec![(DropReason::NoRoute, 4)],
            ..Totals::default()
        },
        ports: vec![
            PortSample { interface: "vsw0".into(), counts: [1; 6], ..PortSample::default() },
            PortSample {
                namespace: "a".into(),
                pod: "we\"ird\\\n".into(),
                interface: "eth0".into(),
                counts: [1, 2, 3, 4, 5, 6],
            },
        ],
        peers: vec![peer, PeerInfo { name: "n3".into(), ..PeerInfo::default() }],
        bgp: Some(BgpSample {
            neighbours: 2,
            established: 1,
            learned: 9,
            each: ["192.168.77.9", "fd77::9"]
                .map(|address| NeighbourSample {
                    address: address.parse().unwrap(),
                    state: 6,
                    received: [12, 3],
                    accepted: [11, 2],
                    chosen: [9, 1],
                    announced: [4, 5],
                    flaps: 7,
                })
                .into(),
        }),
        ..Scrape::default()
    }
}

/// Reads the exposition format strictly: every sample under its own HELP and TYPE, every series once.
fn read(text: &str) -> BTreeMap<String, f64> {
    let (mut family, mut kind) = ("", "");
    let mut families = std::collections::BTreeSet::new();
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(help.len() > family.len() + 10, "{line}");
            assert!(families.insert(family), "{family} twice");
            kind = "";
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, found) = of.split_once(' ').unwrap();
            assert_eq!(name, family);
            kind = found;
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(!kind.is_empty() && series.split('{').next() == Some(family), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
        }
    }
    samples
}

#[test]
fn every_value_has_its_series() {
    let samples = read(&text::render(&scrape(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500)));
    let of = |series: &str| samples.get(series).copied();
    assert_eq!(of("vswitch_start_time_seconds"), Some(1.5));
    assert_eq!(of("vswitch_ready"), Some(1.0));
    assert_eq!(of("vswitch_received_packets_total"), Some(10.0));
    assert_eq!(of("vswitch_delivered_packets_total{to=\"pod\"}"), Some(6.0));
    assert_eq!(of("vswitch_drops_total{reason=\"no-route\"}"), Some(4.0));
    assert_eq!(of("vswitch_addresses"), Some(254.0));
    let weird = r#"{namespace="a",pod="we\"ird\\\n",interface="eth0"}"#;
    assert_eq!(of(&format!("vswitch_port_transmit_drops_total{weird}")), Some(3.0));
    assert_eq!(of(&format!("vswitch_port_receive_bytes_total{weird}")), Some(5.0));
    assert_eq!(
        of("vswitch_port_transmit_packets_total{namespace=\"\",pod=\"\",interface=\"vsw0\"}"),
        Some(1.0)
    );
    assert_eq!(of("vswitch_peer_transmit_packets_total{peer=\"n2\"}"), Some(7.0));
    assert_eq!(of("vswitch_peer_silence_seconds{peer=\"n2\"}"), Some(1.234));
    assert_eq!(of("vswitch_peer_silence_seconds{peer=\"n3\"}"), None, "never heard");
    assert_eq!(of("vswitch_bgp_learned_prefixes"), Some(9.0));
    assert_eq!(of("vswitch_bgp_neighbour_state{neighbour=\"fd77::9\"}"), Some(6.0));
    for (name, value) in [("received", 3.0), ("accepted", 2.0), ("chosen", 1.0), ("announced", 5.0)] {
        let series =
            format!("vswitch_bgp_neighbour_{name}_prefixes{{neighbour=\"192.168.77.9\",family=\"ipv6\"}}");
        assert_eq!(of(&series), Some(value), "{series}");
    }
    assert_eq!(of("vswitch_bgp_neighbour_flaps_total{neighbour=\"192.168.77.9\"}"), Some(7.0));
}

#[test]
fn every_drop_reason_is_there_before_the_first_drop() {
    let samples = read(&text::render(&Scrape::default(), SystemTime::UNIX_EPOCH));
    for reason in DropReason::ALL {
        let series = format!("vswitch_drops_total{{reason=\"{}\"}}", reason.code());
        assert_eq!(samples.get(&series), Some(&0.0), "{series}");
    }
}

#[test]
fn a_pod_attached_twice_is_one_series() {
    let mut s = scrape();
    s.ports.push(s.ports[1].clone());
    let samples = read(&text::render(&s, SystemTime::UNIX_EPOCH));
    let sum = samples.iter().find(|(k, _)| k.starts_with("vswitch_port_receive_bytes_total{namespace=\"a\""));
    assert_eq!(sum.map(|(_, v)| *v), Some(10.0));
}

/// A listener with a control thread that answers every scrape with `problems`.
fn serve(problems: &[&str]) -> SocketAddr {
    let problems: Vec<String> = problems.iter().map(|p| (*p).to_owned()).collect();
    listen(move |events| {
        for event in events {
            if let Event::Scrape(reply) = event {
                let _ = reply.send(Scrape { problems: problems.clone(), ..scrape() });
            }
        }
    })
}

fn listen(control: impl FnOnce(Receiver<Event>) + Send + 'static) -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let (tx, rx) = bounded(4);
    std::thread::spawn(move || control(rx));
    start(listener, tx).unwrap();
    addr
}

fn ask(addr: SocketAddr, request: &[u8]) -> (u16, String) {
    try_ask(addr, request).unwrap()
}

fn try_ask(addr: SocketAddr, request: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    ask(addr, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[test]
fn the_three_pages() {
    let addr = serve(&[]);
    let (status, body) = get(addr, "/metrics?x=1");
    assert_eq!((status, read(&body).get("vswitch_tables_epoch")), (200, Some(&5.0)));
    assert_eq!(get(addr, "/healthz"), (200, "ok\n".into()));
    assert_eq!(get(addr, "/readyz"), (200, "ok\n".into()));
    assert_eq!(get(addr, "/").0, 404);
    let addr = serve(&["one", "two"]);
    assert_eq!(get(addr, "/readyz"), (503, "one\ntwo\n".into()));
    assert_eq!(get(addr, "/healthz").0, 200, "alive, though not ready");
    assert_eq!(read(&get(addr, "/metrics").1).get("vswitch_ready"), Some(&0.0));
}

#[test]
fn nonsense_is_refused() {
    let addr = serve(&[]);
    assert_eq!(ask(addr, b"HEAD /healthz HTTP/1.0\r\n\r\n"), (200, String::new()));
    assert_eq!(ask(addr, b"POST /metrics HTTP/1.1\r\n\r\n").0, 405);
    assert_eq!(ask(addr, b"\xff\xfe\r\n\r\n").0, 400);
    assert_eq!(ask(addr, b"GET /metrics\r\n\r\n").0, 400);
    assert_eq!(ask(addr, &[b'x'; MAX_HEAD]).0, 431);
    assert_eq!(get(addr, "/healthz").0, 200);
}

#[test]
fn a_silent_control_thread_is_unhealthy() {
    let addr = listen(|events| {
        // Takes the question and never answers.
        let _kept: Vec<Event> = events.iter().collect();
    });
    assert_eq!(get(addr, "/healthz").0, 503);
}

#[test]
fn idle_clients_do_not_pile_up() {
    let addr = serve(&[]);
    let idle: Vec<TcpStream> = (0..MAX_CLIENTS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    // Served in the order of connecting, so all of them are being waited for by now.
    assert_eq!(ask(addr, b""), (503, "busy\n".into()));
    drop(idle);
    let again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        matches!(try_ask(addr, b"GET /healthz HTTP/1.1\r\n\r\n"), Ok((200, _)))
    });
    assert!(again, "a client that left has freed its place");
}

#[test]
fn an_address_in_use_names_the_key() {
    let first = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = first.local_addr().unwrap();
    let err = bind(addr).unwrap_err().to_string();
    assert!(err.starts_with(&format!("metrics.listen = \"{addr}\": ")), "{err}");
}
