//! A node of ours beside a node of flannel's: bridge, veth and `flannel.1` as its vxlan backend lays them out.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use vswitch::lab::{
    Attached, Echo, KernelNode, KernelPod, Lab, Netns, Options, Stop, Wire, offloads_off, ping, run_words,
    tcp_echo, transfer, udp_echo, within,
};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// Bytes of each bulk transfer.
const BULK: u64 = 64 << 20;

struct Mixed {
    ours: Attached,
    flannel: KernelPod,
    _lab: Lab,
}

/// Node 1 runs `vswitchd`, node 2 is the kernel's.
fn mixed(checksum: bool, offloads: bool) -> Mixed {
    let mut lab = Lab::bed_only(programs(), Options::default(), &Stop::default()).unwrap();
    if !offloads {
        lab.bed.nodes.iter().for_each(|node| offloads_off(node, "eth0").unwrap());
    }
    lab.start_node(0).unwrap();
    let (node, plan) = (&lab.bed.nodes[1], lab.bed.plan(1));
    let mut kernel = KernelNode::new(node, plan, Wire::Vxlan { checksum }, 1500, &lab.bed.plans()).unwrap();
    let flannel = kernel.pod(node).unwrap();
    let ours = lab.pod(0, "ours").unwrap();
    Mixed { ours, flannel, _lab: lab }
}

fn both_ways(checksum: bool, offloads: bool) {
    let _turn = turn();
    let Mixed { ours, flannel, _lab } = &mixed(checksum, offloads);
    let (near, far) = (&ours.netns, &flannel.netns);
    let _echoes = [Echo::start(near.path()).unwrap(), Echo::start(far.path()).unwrap()];
    for (from, to) in [(near, [flannel.v4, flannel.v6]), (far, ours.addresses())] {
        for address in to {
            let pinged = ping(from, address, 5, 10).unwrap();
            assert!(pinged.all(), "{} to {address}: {pinged:?}", from.name());
            tcp_echo(from.path(), address).unwrap();
            for size in [0, 1, 1200, 1422, 8000, 60_000] {
                udp_echo(from.path(), address, size)
                    .unwrap_or_else(|e| panic!("{} to {address}, {size} bytes: {e}", from.name()));
            }
        }
    }
    for (from, into, to) in
        [(near, far, flannel.v4), (far, near, ours.v4), (near, far, flannel.v6), (far, near, ours.v6)]
    {
        let moved = transfer(from.path(), into.path(), to, BULK)
            .unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name()));
        // A connection that lives on retransmissions stays far below this.
        assert!(moved.gbit_s() > 0.3, "{} to {to}: {:.3} Gbit/s", from.name(), moved.gbit_s());
    }
}

#[test]
fn with_outer_checksums_and_offloads() {
    both_ways(true, true);
}

#[test]
fn with_outer_checksums_on_a_segmenting_underlay() {
    both_ways(true, false);
}

#[test]
fn without_outer_checksums_with_offloads() {
    both_ways(false, true);
}

#[test]
fn without_outer_checksums_on_a_segmenting_underlay() {
    both_ways(false, false);
}

/// Small datagrams of many flows and many sizes, as fast as one socket after the other can send them: the switch lets
/// those that it reads together share trains, shorter ones padded. Each arrives as it was sent, and they do share.
#[test]
fn small_packets_of_many_flows_share_trains() {
    let _turn = turn();
    let Mixed { ours, flannel, _lab } = &mixed(false, true);
    let node = &_lab.bed.nodes[1];
    assert!(ping(&ours.netns, flannel.v4, 3, 10).unwrap().all());
    for (bind, to) in [("0.0.0.0:7007", flannel.v4), ("[::]:7007", flannel.v6)] {
        let receiver = within(flannel.netns.path(), || UdpSocket::bind(bind)).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let before = [received(node, "eth0"), received(node, "flannel.1")];
        let mut heard: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let hearing = scope.spawn(|| {
                let mut buffer = [0; 2048];
                let mut hear = |_| receiver.recv(&mut buffer).map(|len| buffer[..len].to_vec());
                (0..ROUNDS * 32).map(&mut hear).collect::<Result<_, _>>()
            });
            within(ours.netns.path(), || say(to)).unwrap();
            hearing.join().unwrap().unwrap()
        });
        let mut left: Vec<Vec<u8>> = (0..ROUNDS * 32).map(said).collect();
        left.sort_unstable();
        heard.sort_unstable();
        assert!(heard == left, "to {to}: what arrives is what was sent");
        let [outer, inner] = [received(node, "eth0") - before[0], received(node, "flannel.1") - before[1]];
        assert!(inner >= ROUNDS * 32 && outer < inner * 19 / 20, "{inner} packets came to {to} in {outer}");
    }
}

/// Times that 32 sockets send.
const ROUNDS: usize = 100;

/// Says everything, one socket after the other, with a pause after each round.
fn say(to: IpAddr) {
    let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let sockets: Vec<UdpSocket> = (0..32).map(|_| UdpSocket::bind(any).unwrap()).collect();
    for round in 0..ROUNDS {
        for (n, socket) in (round * 32..).zip(&sockets) {
            socket.send_to(&said(n), (to, 7007)).unwrap();
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The `n`th message: 8 to 68 bytes, none like another.
fn said(n: usize) -> Vec<u8> {
    let mut text = (n as u64).to_be_bytes().to_vec();
    text.resize(8 + n * 7 % 61, n as u8);
    text
}

/// Packets that came in at an interface so far; one of many segments counts once.
fn received(netns: &Netns, link: &str) -> usize {
    let path = format!("/sys/class/net/{link}/statistics/rx_packets");
    // sysfs shows the namespace it was mounted in: `ip netns exec` mounts its own.
    run_words(&format!("ip netns exec {} cat {path}", netns.name())).unwrap().trim().parse().unwrap()
}
