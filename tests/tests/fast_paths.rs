//! Packets arrive with each fast path left out (`node.without`), and with all of them: between two nodes of ours, and
//! between one and a node of flannel's. What is left out is seen to be: in the sizes of packets on the underlay and in
//! the pod, in the priority of the workers, and in the time they look for more.

use std::net::UdpSocket;
use std::time::Duration;

use control::config::FastPath;
use vswitch::lab::{
    Attached, Daemon, Echo, KernelNode, Lab, Netns, Options, Stop, Wire, offloads_off, ping, within,
};
use vswitch::share::LIGHT;
use vswitch_tests::metrics::{self, metric};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;
use vswitch_tests::talk::talk;

/// Bytes of a small datagram.
const SMALL: usize = 64;
/// Of the frame that carries it in the tunnel: UDP, IPv4, Ethernet, and what VXLAN adds.
const TUNNELLED: f64 = (SMALL + 8 + 20 + 14 + 50) as f64;

/// A lab whose nodes go without these.
fn lab(without: &[FastPath], segmented: bool) -> Lab {
    let names: Vec<&str> = without.iter().map(|path| path.name()).collect();
    let options =
        Options { node: format!("without = {names:?}\n"), extra: metrics::config(), ..Options::default() };
    let lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    if segmented {
        lab.bed.nodes.iter().for_each(|node| offloads_off(node, "eth0").unwrap());
    }
    lab
}

/// Bytes and packets of an interface so far, by a counter's direction.
fn counted(netns: &Netns, link: &str, direction: &str) -> [f64; 2] {
    ["bytes", "packets"].map(|what| {
        let path = format!("/sys/class/net/{link}/statistics/{direction}_{what}");
        // sysfs shows the namespace it was mounted in: `ip netns exec` mounts its own.
        let text = vswitch::lab::run_words(&format!("ip netns exec {} cat {path}", netns.name())).unwrap();
        text.trim().parse().unwrap()
    })
}

/// The mean size of the packets that `during` moves over an interface.
fn mean_size(netns: &Netns, link: &str, direction: &str, during: impl FnOnce()) -> f64 {
    let before = counted(netns, link, direction);
    during();
    let after = counted(netns, link, direction);
    (after[0] - before[0]) / (after[1] - before[1])
}

fn bulk(from: &Attached, to: &Attached) {
    vswitch::lab::transfer(from.netns.path(), to.netns.path(), to.v4, 32 << 20).unwrap();
}

/// Datagrams that follow each other as fast as a program can send them one by one.
fn small(from: &Attached, to: &Attached) {
    within(from.netns.path(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..10_000).for_each(|_| drop(socket.send_to(&[7; SMALL], (to.v4, 9))));
    })
    .unwrap();
}

/// One datagram after the other, each sent when the last one's echo has come.
fn exchange(from: &Attached, to: &Attached) {
    within(from.netns.path(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect((to.v4, Echo::PORT)).unwrap();
        for _ in 0..3_000 {
            socket.send(&[7; SMALL]).unwrap();
            socket.recv(&mut [0; SMALL]).unwrap();
        }
    })
    .unwrap();
}

/// Whether what needs a free processor for a moment, or an answer that may be late, was seen in one of some looks.
fn seen(mut look: impl FnMut() -> bool) -> bool {
    (0..5).any(|_| look())
}

/// The nice values of a switch's threads.
fn nice(daemon: &Daemon) -> Vec<i32> {
    let mut all = Vec::new();
    for pid in daemon.children() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let text = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            // proc(5): the name is the second field, in parentheses, and nice the nineteenth.
            all.push(text.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap());
        }
    }
    all
}

#[test]
fn everything_arrives_without_each_of_them() {
    let _turn = turn();
    let each = FastPath::ALL.map(|path| vec![path]);
    let all = FastPath::ALL.to_vec();
    let one_by_one = vec![FastPath::UplinkTap, FastPath::Segmentation];
    for without in each.into_iter().chain([all, one_by_one, Vec::new()]) {
        let mut lab = lab(&without, false);
        lab.start_node(0).unwrap();
        lab.start_node(1).unwrap();
        let (a, b) = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
        let _echoes = [&a, &b].map(|pod| Echo::start(pod.netns.path()).unwrap());
        talk(&a, &b, true);

        let out = |path| without.contains(&path);
        let tap = lab.bed.nodes[0].ip("-o link show").unwrap().contains("vsw-up0");
        assert_eq!(tap, !out(FastPath::UplinkTap), "{without:?}");
        let sent = mean_size(&lab.bed.nodes[0], "eth0", "tx", || bulk(&a, &b));
        let slices = || lab.daemon(0).unwrap().peers().unwrap()[0].tx_slices;
        if out(FastPath::Slices) || out(FastPath::Merging) {
            assert_eq!(slices(), 0, "{without:?}");
        } else if out(FastPath::UplinkTap) {
            let some = || {
                bulk(&a, &b);
                slices() > 0
            };
            assert!(seen(some), "{without:?}: what cannot leave whole leaves in slices");
        }
        let whole = !(out(FastPath::UplinkTap) && out(FastPath::Segmentation));
        assert_eq!(sent > 3000.0, whole, "{without:?}: packets of {sent:.0} bytes leave");
        let received = mean_size(&b.netns, "eth0", "rx", || bulk(&a, &b));
        // What nobody joined is no larger than the underlay's MTU; how much is joined is a matter of how many wait.
        if out(FastPath::Merging) && out(FastPath::UplinkTap) {
            assert!(received < 1500.0, "{without:?}: packets of {received:.0} bytes reach the pod");
        } else if !out(FastPath::Merging) {
            assert!(received > 1500.0, "{without:?}: packets of {received:.0} bytes reach the pod");
        }
        let size = mean_size(&lab.bed.nodes[0], "eth0", "tx", || small(&a, &b));
        let trains = !(out(FastPath::Trains) || out(FastPath::Segmentation));
        assert_eq!(size > TUNNELLED * 1.5, trains, "{without:?}: small packets leave in {size:.0} bytes");
        let priority = seen(|| {
            let _ = ping(&a.netns, b.v4, 20, 10).unwrap();
            nice(lab.daemon(0).unwrap()).contains(&LIGHT)
        });
        assert_eq!(priority, !out(FastPath::Priority), "{without:?}: workers go before others");
        let polling = seen(|| {
            exchange(&a, &b);
            metric(&lab.bed.nodes[0], "vswitch_worker_polled_nanoseconds_total").unwrap() > 0.0
        });
        assert_eq!(polling, !out(FastPath::Polling), "{without:?}: workers look for more");
    }
}

#[test]
fn a_node_of_flannels_is_reached_without_each_of_them() {
    let _turn = turn();
    for segmented in [false, true] {
        for without in FastPath::ALL.map(|path| vec![path]).into_iter().chain([FastPath::ALL.to_vec()]) {
            let mut lab = lab(&without, segmented);
            lab.start_node(0).unwrap();
            let (node, plan) = (&lab.bed.nodes[1], lab.bed.plan(1));
            let wire = Wire::Vxlan { checksum: false };
            let mut kernel = KernelNode::new(node, plan, wire, 1500, &lab.bed.plans()).unwrap();
            let (theirs, ours) = (kernel.pod(node).unwrap(), lab.pod(0, "ours").unwrap());
            let _echoes = [&theirs.netns, &ours.netns].map(|netns| Echo::start(netns.path()).unwrap());
            talk(&ours, &theirs, true);
        }
    }
}
