//! flannel's udp backend by shape: small and honest, for the benchmark only.
//!
//! Each node has the pods of the kernel's network on a bridge, a TUN device `flannel0` behind it, and one thread that
//! carries packets between it and a UDP socket, one at a time, each bare in a datagram. That thread makes the system
//! calls that flannel's proxy (`pkg/backend/udp/proxy_amd64.c`) makes, in its order. It leaves out what no measured
//! packet meets: ICMP errors for destinations without a node, and commands from flanneld.

use std::io::{self, PipeReader, PipeWriter};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use encap::checksum::update16;
use encap::wire::ipv4::Ipv4Header;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tun_tap::{Iface, Mode};
use vswitch::lab::{Bed, KernelNode, KernelPod, Netns, NodePlan, Shape, Wire, within};
use vswitch::sys::tun::into_fd;
use zerocopy::FromBytes;

use super::process::answers;
use super::{Network, Pair};

/// The underlay's 1500 bytes without 20 of IPv4 and 8 of UDP.
const MTU: u16 = 1472;
/// flannel's port.
const PORT: u16 = 8285;
/// flannel's loop lasts while there are packets; ours looks up after so many, so that it ends under load, too.
const ROUNDS: usize = 1024;

/// Bridge and veth pods behind flannel's proxy; fields drop in order: pods, proxies, then what they hang on.
#[derive(Debug)]
pub struct FlannelUdp {
    pods: Vec<KernelPod>,
    _proxies: [Proxy; 2],
    bed: Bed,
}

impl FlannelUdp {
    /// Two nodes; returns when the pods answer each other.
    ///
    /// # Errors
    /// When a step fails; what was built is taken down.
    pub fn nodes() -> Result<FlannelUdp> {
        let bed = Bed::build(Shape::default())?;
        let proxy = |i: usize| {
            let node = &bed.nodes[i];
            Proxy::start(node, bed.plan(i), &bed.plans())
                .with_context(|| format!("flannel's proxy in {}", node.name()))
        };
        let proxies = [proxy(0)?, proxy(1)?];
        let mut pods = Vec::new();
        let node = |i: usize| KernelNode::new(&bed.nodes[i], bed.plan(i), Wire::HostGw, MTU, &[]);
        let (mut near, mut far) = (node(0)?, node(1)?);
        for _ in 0..2 {
            pods.push(near.pod(&bed.nodes[0])?);
            pods.push(far.pod(&bed.nodes[1])?);
        }
        let network = FlannelUdp { pods, _proxies: proxies, bed };
        answers(&network, &[])?;
        Ok(network)
    }

    /// The nodes.
    #[must_use]
    pub fn bed(&self) -> &Bed {
        &self.bed
    }
}

impl Network for FlannelUdp {
    fn two(&self, from: usize) -> Pair<'_> {
        Pair::of(&self.pods, from)
    }

    fn underlay(&self) -> Option<&Netns> {
        super::one_of_many(&self.bed)
    }
}

/// A node's proxy. Dropped: its thread ends, and `flannel0` goes with it.
#[derive(Debug)]
struct Proxy {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Makes `flannel0` and the socket in `node`, and starts the thread.
    fn start(node: &Netns, plan: NodePlan, nodes: &[NodePlan]) -> Result<Proxy> {
        let open = || -> io::Result<(OwnedFd, UdpSocket)> {
            let tun = Iface::without_packet_info("flannel0", Mode::Tun)?;
            tun.set_non_blocking()?;
            Ok((into_fd(tun), UdpSocket::bind((plan.address(), PORT))?))
        };
        let (tun, socket) = within(node.path(), open)?.context("open flannel0 and UDP port 8285")?;
        node.ip(&format!("link set flannel0 mtu {MTU} up"))?;
        node.ip(&format!("addr add {}/32 dev flannel0", plan.pod(0)))?;
        node.ip(&format!("route add {} dev flannel0", NodePlan::CLUSTER_V4))?;
        let peers = nodes.iter().filter(|peer| peer.n != plan.n);
        let peers = peers.map(|peer| (peer.pod(0), SocketAddrV4::new(peer.address(), PORT))).collect();
        let carrier = Carrier { tun, socket, peers };
        let (ended, stop) = io::pipe().context("pipe")?;
        let thread = std::thread::Builder::new()
            .name("flannel0".to_owned())
            .spawn(move || carrier.run(&ended))
            .context("start a thread")?;
        Ok(Proxy { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its other end hangs up, which the thread sees.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic has printed its message already.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Carrier {
    tun: OwnedFd,
    socket: UdpSocket,
    /// Subnets (/24) and where their nodes listen.
    peers: Vec<(Ipv4Addr, SocketAddrV4)>,
}

impl Carrier {
    fn run(&self, ended: &PipeReader) {
        let mut buffer = [0; MTU as usize];
        loop {
            let mut fds = [
                PollFd::new(ended, PollFlags::IN),
                PollFd::new(&self.tun, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if fds[0].revents().is_empty() => {}
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => return,
            }
            for _ in 0..ROUNDS {
                let (sent, received) = (self.send(&mut buffer), self.receive(&mut buffer));
                if !sent && !received {
                    break;
                }
            }
        }
    }

    /// One packet of the pods; false when there is none. One that cannot be sent is lost, as flannel's is.
    fn send(&self, buffer: &mut [u8]) -> bool {
        let Ok(length) = rustix::io::read(&self.tun, &mut *buffer) else { return false };
        let packet = &mut buffer[..length];
        if let Some(to) = forward(packet).and_then(|to| self.node_of(to)) {
            let _ = self.socket.send_to(packet, to);
        }
        true
    }

    /// One packet for the pods; false when there is none.
    fn receive(&self, buffer: &mut [u8]) -> bool {
        let Ok((_, length)) = recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) else { return false };
        let Some(packet) = buffer.get_mut(..length) else { return true };
        if forward(packet).is_some() {
            while rustix::io::write(&self.tun, packet) == Err(Errno::AGAIN) {}
        }
        true
    }

    fn node_of(&self, pod: Ipv4Addr) -> Option<SocketAddrV4> {
        let subnet = |address: Ipv4Addr| address.to_bits() >> 8;
        self.peers.iter().find(|(pods, _)| subnet(*pods) == subnet(pod)).map(|(_, node)| *node)
    }
}

/// Takes one off the TTL, as flannel does on both sides, and returns the destination; `None` when the packet is no IPv4
/// or has lived long enough.
fn forward(packet: &mut [u8]) -> Option<Ipv4Addr> {
    let (header, _) = Ipv4Header::mut_from_prefix(packet).ok()?;
    if header.version() != 4 || header.ttl <= 1 {
        return None;
    }
    let word = |ttl: u8| u16::from_be_bytes([ttl, header.protocol]);
    let sum = update16(header.checksum.get(), word(header.ttl), word(header.ttl - 1));
    header.ttl -= 1;
    header.checksum.set(sum);
    Some(header.dst())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn forwards_with_a_right_checksum_until_the_ttl_is_used_up() {
        let (src, dst) = (Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 3));
        let mut packet = [0; 28];
        packet[..20].copy_from_slice(Ipv4Header::new(src, dst, 17, 3, 8).as_bytes());
        for ttl in [2, 1] {
            assert_eq!(forward(&mut packet), Some(dst));
            assert_eq!(packet[..20], *Ipv4Header::new(src, dst, 17, ttl, 8).as_bytes());
        }
        assert_eq!(forward(&mut packet), None);
        packet[0] = 0x60;
        assert_eq!(forward(&mut packet), None);
        assert_eq!(forward(&mut packet[..19]), None);
    }
}
