//! A node of ours beside a node of flannel's UDP backend, played here: one bare IPv4 packet for each datagram on port
//! 8285, TTL lowered in both directions, no header, one packet for each system call.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tun_tap::{Iface, Mode};
use vswitch::lab::{
    Echo, KernelNode, Lab, Options, Stop, TunnelKind, Wire, ping, tcp_echo, transfer, udp_echo, within,
};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// Tunnel overhead: 20 bytes of IPv4, 8 of UDP.
const MTU: usize = 1472;

/// The far side of the tunnel.
struct Proxy {
    stop: Arc<AtomicBool>,
    wrong: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// `flannel0` in `netns`, tunnelling to `peer`.
    fn start(netns: &Path, peer: &str) -> Proxy {
        let tun = within(netns, || Iface::without_packet_info("flannel0", Mode::Tun)).unwrap().unwrap();
        tun.set_non_blocking().unwrap();
        let socket = within(netns, || UdpSocket::bind("0.0.0.0:8285")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (tun, socket, peer) = (Arc::new(tun), Arc::new(socket), format!("{peer}:8285"));
        let (stop, wrong) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let out = {
            let (tun, socket, stop, peer) = (tun.clone(), socket.clone(), stop.clone(), peer.clone());
            std::thread::spawn(move || {
                let mut packet = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    match tun.recv(&mut packet) {
                        Ok(n) if packet[0] >> 4 == 4 && lower_ttl(&mut packet[..n]) => {
                            let _ = socket.send_to(&packet[..n], &peer);
                        }
                        Ok(_) => {}
                        Err(_) => std::thread::sleep(Duration::from_micros(100)),
                    }
                }
            })
        };
        let back = {
            let (stop, wrong) = (stop.clone(), wrong.clone());
            std::thread::spawn(move || {
                let mut packet = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((n, from)) = socket.recv_from(&mut packet) else { continue };
                    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                    let sound = n >= 20 && packet[0] >> 4 == 4 && length == n && from.to_string() == peer;
                    if !sound {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    } else if lower_ttl(&mut packet[..n]) {
                        let _ = tun.send(&packet[..n]);
                    }
                }
            })
        };
        Proxy { stop, wrong, threads: vec![out, back] }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// One off the TTL, and the header's checksum with it (RFC 1624); false when the packet has lived long enough.
fn lower_ttl(packet: &mut [u8]) -> bool {
    if packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
    true
}

#[test]
fn a_flannel_udp_node_is_a_peer() {
    let _turn = turn();
    let options = Options { tunnel: TunnelKind::Udp, ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    lab.start_node(0).unwrap();
    let (node, plan) = (&lab.bed.nodes[1], lab.bed.plan(1));
    let mut kernel = KernelNode::new(node, plan, Wire::HostGw, MTU as u16, &[]).unwrap();
    let flannel = kernel.pod(node).unwrap();
    let proxy = Proxy::start(node.path(), &lab.bed.plan(0).address().to_string());
    node.ip(&format!("link set flannel0 mtu {MTU} up")).unwrap();
    node.ip(&format!("addr add {}/32 dev flannel0", plan.pod(0))).unwrap();
    node.ip("route add 10.244.0.0/16 dev flannel0").unwrap();
    let ours = lab.pod(0, "ours").unwrap();
    assert_eq!(ours.mtu(), MTU as u64, "the pod's MTU leaves room for the tunnel");

    let (near, far) = (&ours.netns, &flannel.netns);
    let _echoes = [Echo::start(near.path()).unwrap(), Echo::start(far.path()).unwrap()];
    for (from, into, to) in [(near, far, flannel.v4), (far, near, ours.v4)] {
        let pinged = ping(from, to, 10, 10).unwrap();
        assert!(pinged.all(), "{} to {to}: {pinged:?}", from.name());
        tcp_echo(from.path(), to).unwrap();
        for size in [0, 1, 1200, MTU - 28, 8000] {
            udp_echo(from.path(), to, size)
                .unwrap_or_else(|e| panic!("{} to {to}, {size} bytes: {e}", from.name()));
        }
        transfer(from.path(), into.path(), to, 16 << 20)
            .unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name()));
    }
    assert_eq!(
        proxy.wrong.load(Ordering::Relaxed),
        0,
        "every datagram was one whole IPv4 packet from port 8285"
    );
}
