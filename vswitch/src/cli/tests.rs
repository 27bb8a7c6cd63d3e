use clap::{CommandFactory, Parser};
use control::api::{Proto, TraceStep};

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split_whitespace())
}

fn traced(line: &str) -> control::api::Trace {
    match parse(line).unwrap().command {
        Command::Trace(trace) => trace.request(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn global_options_stand_anywhere() {
    for line in ["vsctl --json --socket /s ports", "vsctl ports --json --socket /s"] {
        let args = parse(line).unwrap();
        assert!(args.json && args.socket == std::path::Path::new("/s"), "{line}");
    }
    assert_eq!(parse("vsctl status").unwrap().socket, std::path::Path::new("/run/vswitch/vswitchd.sock"));
    for line in ["vsctl lab --json", "vsctl --json lab"] {
        let args = parse(line).unwrap();
        let Command::Lab(lab) = args.command else { panic!("{line}") };
        assert!(args.json || lab.json, "{line}");
    }
}

#[test]
fn trace_takes_addresses_with_and_without_port() {
    let to = |text: &str| text.parse::<Target>();
    assert_eq!(to("10.0.0.1").unwrap(), Target { address: "10.0.0.1".parse().unwrap(), port: None });
    assert_eq!(to("10.0.0.1:80").unwrap().port, Some(80));
    assert_eq!(to("fd00::7").unwrap().port, None);
    assert_eq!(to("[fd00::7]:53").unwrap(), Target { address: "fd00::7".parse().unwrap(), port: Some(53) });
    for bad in ["", "web", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0", "[fd00::7]", "web:80"] {
        assert_eq!(to(bad), Err(args::TargetSyntax), "{bad}");
    }

    let trace = traced("vsctl trace --from shop/web --to 10.0.0.1:80");
    assert_eq!((trace.from.as_str(), trace.port, trace.proto), ("shop/web", Some(80), Proto::Tcp));
    let trace = traced("vsctl trace --from web --to fd00::7");
    assert_eq!((trace.from.as_str(), trace.port, trace.proto), ("default/web", None, Proto::Icmp));
    assert_eq!(traced("vsctl trace --from a/b --to 1.1.1.1:53 --proto udp").proto, Proto::Udp);
    for bad in [
        "vsctl trace --from a/b",
        "vsctl trace --from a/b/c --to 1.1.1.1",
        "vsctl trace --from / --to 1.1.1.1",
        "vsctl trace --from a/b --to 1.1.1.1 --proto gre",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn status_says_first_whether_all_is_well() {
    let mut report = StatusReport {
        ok: true,
        node: "n1".into(),
        version: "0.1.0".into(),
        uptime_s: 3_725,
        restarts: 1,
        epoch: 7,
        workers: 2,
        uplink: "eth0".into(),
        address: Some("192.168.77.1".parse().unwrap()),
        address6: Some("2001:db8::1".parse().unwrap()),
        tunnel: "vxlan".into(),
        mtu: 1450,
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        addresses_used: 3,
        addresses_total: 253,
        ports: 3,
        peers: 4,
        peer_mtus: [
            (1430, vec!["n3".to_owned()]),
            (1450, vec!["n2".to_owned(), "n4".to_owned(), "n5".to_owned()]),
        ]
        .into(),
        flows: 4,
        received: 100,
        delivered: 90,
        dropped: 10,
        policies: 1,
        policy_problems: vec!["NetworkPolicy x/p: spec.ingress[0]: no".into()],
        connections: 2,
        ..StatusReport::default()
    };
    assert_eq!(
        show::status(&report),
        "\
node n1: ok
  version   0.1.0, up 1 h 2 min, 1 restart
  uplink    eth0 (192.168.77.1, 2001:db8::1)
  tunnel    vxlan, pods' MTU 1450
  pods      3 in 10.244.1.0/24
  addresses 3 of 253 in use
  peers     4, MTU 1450 (n2, n4, n5), 1430 (n3)
  workers   2, 4 flows, tables number 7
  policy    1 policy, 2 connections tracked
            ! NetworkPolicy x/p: spec.ingress[0]: no
  frames    100 received, 90 delivered, 10 dropped
"
    );
    report.ok = false;
    report.problems.push("eth0 has no carrier".into());
    let text = show::status(&report);
    assert!(text.starts_with("node n1: NOT OK\n  ! eth0 has no carrier\n"), "{text}");
}

#[test]
fn columns_are_aligned() {
    let drop = |reason: &str, count, help: &str| DropInfo { reason: reason.into(), count, help: help.into() };
    let drops = [
        drop("no-route", 7, "nothing leads there"),
        drop("never", 0, ""),
        drop("spoof", 12_000, "not its own"),
    ];
    assert_eq!(
        show::drops(&drops, false),
        "\
COUNT  REASON    MEANING
12000  spoof     not its own
    7  no-route  nothing leads there
"
    );
    assert!(show::drops(&drops, true).ends_with("    0  never     -\n"));
    assert_eq!(show::drops(&[], false), "nothing was dropped\n");
}

#[test]
fn names_cannot_move_the_cursor() {
    let port = PortInfo { pod: "a/\u{1b}[2Jb\n".into(), ..PortInfo::default() };
    let text = show::ports(&[port]);
    assert_eq!(text.lines().count(), 2, "{text:?}");
    assert!(text.contains("a/?[2Jb?"), "{text:?}");
}

#[test]
fn every_list_has_a_row_for_each_entry() {
    let flow = FlowInfo {
        ingress: "shop/web".into(),
        src: Some("fd00::2".parse().unwrap()),
        dst: Some("fd00::3".parse().unwrap()),
        proto: 6,
        sport: 40_000,
        dport: 80,
        action: "to shop/db".into(),
        packets: 3,
        bytes: 20_480,
        idle_ms: 1_500,
        ..FlowInfo::default()
    };
    let text = show::flows(&[flow.clone(), FlowInfo { proto: 58, ..flow }]);
    assert_eq!(text.lines().count(), 3);
    assert!(
        text.contains("[fd00::2]:40000") && text.contains("20.0 KiB") && text.contains("1.5 s"),
        "{text}"
    );
    assert!(
        text.lines().nth(2).unwrap().contains("icmpv6  fd00::2 "),
        "no ports where there are none: {text}"
    );
    let peer = PeerInfo { name: "n2".into(), ..PeerInfo::default() };
    assert!(show::peers(std::slice::from_ref(&peer)).contains("never"));
    let asked = PeerInfo { mtu: 1350, rtt_us: Some(1_042), echoes_lost: 3, echoes: 64, ..peer };
    let text = show::peers(&[asked]);
    assert!(text.ends_with("1350  1.042 ms  3/64\n"), "{text}");
    let route = RouteInfo {
        dst: "0.0.0.0/0".parse().unwrap(),
        kind: control::api::RouteKind::Host,
        via: String::new(),
    };
    assert_eq!(show::routes(&[route]), "DESTINATION  LEADS TO  NAME\n0.0.0.0/0    host      -\n");
}

#[test]
fn a_trace_ends_with_its_outcome() {
    let step = |stage: &str, text: &str| TraceStep { stage: stage.into(), text: text.into() };
    let report = TraceReport {
        steps: vec![step("spoof", "source is its own"), step("route", "10.0.0.0/8 leads nowhere")],
        delivered: false,
        verdict: "dropped: no-route".into(),
    };
    assert_eq!(
        trace::render(&report),
        " 1. spoof  source is its own\n 2. route  10.0.0.0/8 leads nowhere\nDOES NOT ARRIVE: dropped: no-route\n"
    );
}

#[test]
fn units() {
    assert_eq!([0, 9_999, 10_240, 5 << 30].map(table::bytes), ["0 B", "9999 B", "10.0 KiB", "5.0 GiB"]);
    assert_eq!([0, 999, 61_000, 90_061_000].map(table::duration), ["0 ms", "999 ms", "1 min 1 s", "1 d 1 h"]);
}
