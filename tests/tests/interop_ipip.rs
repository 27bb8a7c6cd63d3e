//! IP in IP as others see it: tshark reads what we send, and a peer made of scapy talks to our pods.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use vswitch::lab::{Attached, Lab, Netns, Options, Stop, TunnelKind, ping, run_words, transfer};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn lab() -> Lab {
    let options = Options { tunnel: TunnelKind::Ipip, ..Options::default() };
    Lab::bed_only(programs(), options, &Stop::default()).unwrap()
}

/// Starts tshark in a namespace, and returns when it captures.
fn tshark(node: &Netns, args: &[&str]) -> Child {
    let mut command = node.command(Path::new("tshark"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut before = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        if line.contains("Capture started") {
            return child;
        }
        before += &line;
    }
    let ended = child.wait().unwrap();
    panic!("tshark ended ({ended}): {before}");
}

#[test]
fn tshark_reads_what_we_send() {
    let _turn = turn();
    let mut lab = lab();
    (0..2).for_each(|i| lab.start_node(i).unwrap());
    let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
    assert_eq!(a.mtu(), 1480);
    assert!(ping(&a.netns, b.v4, 1, 10).unwrap().all(), "neighbours are known");
    let file = lab.bed.dir().join("ipip.pcapng");
    let path = file.to_str().unwrap();
    let node = &lab.bed.nodes[0];
    let filter = "ip proto 4 or ip proto 41";
    let args = ["-i", "eth0", "-w", path, "-a", "duration:20", "-f", filter, "-c", "60"];
    let mut capture = tshark(node, &args);
    // Both families, with and without DF, up to the MTU; and super-frames.
    for (to, options) in
        [(b.v4, "-M do -s 1452"), (b.v4, "-M dont -s 56"), (b.v6, "-M do -s 1432"), (b.v4, "-Q 0x2e -s 56")]
    {
        a.netns.run(&format!("ping -n -i 0.01 -c 5 -W 2 {options} {to}")).unwrap();
    }
    for to in [b.v4, b.v6] {
        transfer(a.netns.path(), b.netns.path(), to, 1 << 20).unwrap();
    }
    capture.wait().unwrap();

    let fields = [
        "frame.protocols",
        "ip.src",
        "ip.dst",
        "ip.ttl",
        "ip.flags.df",
        "ip.proto",
        "ip.dsfield",
        "ip.len",
        "ip.checksum.status",
        "ip.id",
    ];
    let fields: String = fields.iter().map(|f| format!(" -e {f}")).collect();
    let checked = "-o ip.check_checksum:TRUE";
    let text = run_words(&format!("tshark -r {path} {checked} -T fields -E separator=;{fields}")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(';').collect()).collect();
    assert_eq!(rows.len(), 60, "{text}");
    let (mut four, mut six, mut tcp) = (0, 0, 0);
    for row in &rows {
        let [protocols, src, dst, ttl, df, proto, tos, len, status, id] = row[..] else { panic!("{row:?}") };
        let out = src.starts_with("192.168.77.1");
        let nodes = if out { ("192.168.77.1", "192.168.77.2") } else { ("192.168.77.2", "192.168.77.1") };
        let first = |list: &str| list.split(',').next().unwrap().to_owned();
        assert_eq!((first(src).as_str(), first(dst).as_str(), first(ttl).as_str()), (nodes.0, nodes.1, "64"));
        assert!(status.split(',').all(|s| s == "1"), "header checksums are right: {row:?}");
        assert!(first(len).parse::<u32>().unwrap() <= 1500, "{row:?}");
        tcp += u32::from(protocols.contains(":tcp"));
        if protocols.starts_with("eth:ethertype:ip:ip:") {
            four += 1;
            let both = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(both(proto)[0], "4");
            assert_eq!(both(df)[0], both(df)[1], "DF is the inner packet's: {row:?}");
            assert_eq!(both(tos)[0], both(tos)[1], "so is the traffic class: {row:?}");
            assert_eq!(both(ttl)[1], "63", "lowered once: {row:?}");
            assert_eq!(both(df)[0] == "0", both(id)[0] != "0x0000", "fragments can be told apart: {row:?}");
            let inner = if out { (&a, &b) } else { (&b, &a) };
            assert_eq!(
                (both(src)[1].clone(), both(dst)[1].clone()),
                (inner.0.v4.to_string(), inner.1.v4.to_string())
            );
        } else {
            six += 1;
            assert!(protocols.starts_with("eth:ethertype:ip:ipv6:"), "{row:?}");
            let large = first(len).parse::<u32>().unwrap() > 1300;
            assert_eq!((proto, df), ("41", if large { "1" } else { "0" }), "{row:?}");
        }
    }
    assert!(four >= 30 && six >= 10 && tcp >= 10, "{four} with IPv4, {six} with IPv6, {tcp} of TCP");
    assert!(rows.iter().any(|row| row[6].starts_with("0x2e")), "a traffic class was seen");
}

/// A node in scapy: it answers pings of its pod's addresses, and pings the given addresses itself, each packet in
/// another shape of outer packet. It prints what it got.
const PEER: &str = r#"
import sys, threading, time
from scapy.all import *
conf.verb = 0
here, there, pod4, pod6, to4, to6 = sys.argv[1:7]
got, done = set(), threading.Event()

def outer(**more):
    return IP(src=here, dst=there, **more)

def heard(p):
    if IP not in p or p[IP].dst != here or p[IP].src != there or p[IP].proto not in (4, 41):
        return
    inner = p[IP].payload
    if inner.haslayer(ICMP) and inner[ICMP].type == 8 and inner.dst == pod4:
        send(outer() / IP(src=pod4, dst=inner.src) / ICMP(type=0, id=inner[ICMP].id, seq=inner[ICMP].seq) / inner[ICMP].payload)
    elif inner.haslayer(ICMPv6EchoRequest) and inner.dst == pod6:
        e = inner[ICMPv6EchoRequest]
        send(outer() / IPv6(src=pod6, dst=inner.src) / ICMPv6EchoReply(id=e.id, seq=e.seq, data=e.data))
    elif inner.haslayer(ICMP) and inner[ICMP].type == 0:
        got.add(inner[ICMP].seq)
    elif inner.haslayer(ICMPv6EchoReply):
        got.add(inner[ICMPv6EchoReply].seq)

def ask():
    echo = lambda seq, size: IP(src=pod4, dst=to4) / ICMP(id=7, seq=seq) / (b"x" * size)
    send(outer() / echo(1, 50))
    send(outer(options=[IPOption_NOP()] * 4) / echo(2, 50))
    send(outer(ttl=3, tos=0x10) / echo(3, 50))
    for f in fragment(outer(id=77) / echo(4, 1400), fragsize=504):
        send(f)
    send(outer() / IPv6(src=pod6, dst=to6) / ICMPv6EchoRequest(id=7, seq=5, data=b"six"))
    # What must not be answered: a foreign inner source, a truncated inner packet, one more level, a wrong protocol.
    send(outer() / IP(src="10.244.3.9", dst=to4) / ICMP(id=7, seq=101))
    send(outer(proto=4) / Raw(bytes(echo(102, 50))[:30]))
    send(outer() / outer() / echo(103, 50))
    send(outer(proto=41) / Raw(bytes(echo(104, 50))))
    send(IP(src="192.168.77.99", dst=there) / echo(105, 50))
    time.sleep(1)
    print("got", sorted(got), flush=True)

sniffer = AsyncSniffer(iface="eth0", prn=heard, store=0, started_callback=lambda: print("ready", flush=True))
sniffer.start()
sys.stdin.readline()
ask()
sys.stdin.readline()
"#;

#[test]
fn a_node_made_of_scapy_is_a_peer() {
    let _turn = turn();
    let mut lab = lab();
    lab.start_node(0).unwrap();
    let ours = lab.pod(0, "ours").unwrap();
    let (node, plan) = (&lab.bed.nodes[1], lab.bed.plan(1));
    let script = lab.bed.dir().join("peer.py");
    std::fs::write(&script, PEER).unwrap();
    let (pod4, pod6) = (plan.pod(5).to_string(), plan.pod6(5).to_string());
    let (to4, to6) = (ours.v4.to_string(), ours.v6.to_string());
    let mut command = node.command(Path::new("/usr/bin/python3"));
    command.arg(&script).args(["192.168.77.2", "192.168.77.1", &pod4, &pod6, &to4, &to6]);
    let mut peer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(peer.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(said.next().unwrap(), "ready");

    answers(&ours, &pod4);
    answers(&ours, &pod6);
    let drops = |reason: &str| lab.drops(0, reason).unwrap();
    let reasons = ["peer-spoof", "truncated", "bad-length", "bad-tunnel-header", "unknown-peer"];
    let before = reasons.map(drops);
    let mut stdin = peer.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"ask\n").unwrap();
    assert_eq!(said.next().unwrap(), "got [1, 2, 3, 4, 5]");
    let counted: Vec<u64> = reasons.map(drops).iter().zip(before).map(|(now, then)| now - then).collect();
    // The one more level comes from no pod of its node; the cut one is shorter than it says.
    assert_eq!(counted, [2, 0, 1, 1, 1], "{reasons:?}");
    drop(stdin);
    peer.wait().unwrap();
}

fn answers(from: &Attached, to: &str) {
    let pinged = ping(&from.netns, to.parse().unwrap(), 3, 200).unwrap();
    assert!(pinged.all(), "{to}: {pinged:?}");
}
