//! IPv4 packets from and to a pod past its own stack: what leaves is put on its interface as a frame, what comes is read before
//! the stack sees it. Many packets a call, so that a generator made of this costs less than what it measures.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use encap::Mac;
use encap::checksum::sum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use vswitch::lab::{Netns, within};
use vswitch::sys::mmsg::RecvBatch;
use vswitch::sys::packet::{PacketSocket, VNET_LEN};
use vswitch::sys::sockopt;

/// Packets a call.
pub const BATCH: usize = 256;
/// Bytes of each socket's buffers.
const BUFFER: u32 = 8 << 20;
/// Where an IPv4 header says what comes behind it.
pub const PROTOCOL_AT: u32 = 9;
/// As much of a packet as anybody here looks at.
const SNAP: usize = 64;
/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;
/// `ETH_P_ALL`: seen before anything may drop it.
const EVERY: u16 = 3;
const SOL_PACKET: i32 = 263;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// A pod's interface.
const INTERFACE: &str = "eth0";
/// Bytes before the packet: no virtio header's worth of offloads, and an Ethernet header.
const BEFORE: usize = VNET_LEN + 14;
/// How long the next hop's MAC address may take.
const RESOLVED: Duration = Duration::from_secs(2);

/// A pod's end.
pub struct End {
    addr: Ipv4Addr,
    out: PacketSocket,
    tap: Socket,
    /// What stands before each packet.
    before: [u8; BEFORE],
    /// What is being sent.
    frames: Vec<u8>,
    receiving: RecvBatch,
    buffers: Vec<[u8; SNAP]>,
}

impl End {
    /// In `pod`, for packets to `to`; of those that come, `filter` (which starts at the IPv4 header) says which are read.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or a route to `to`.
    pub fn open(pod: &Netns, to: IpAddr, filter: &[SockFilter]) -> Result<End> {
        let open = || -> io::Result<(IpAddr, PacketSocket, Socket)> {
            let asking = UdpSocket::bind(("0.0.0.0", 0))?;
            // Makes the kernel ask for the next hop's MAC address.
            asking.send_to(&[], (to, 9))?;
            asking.connect((to, 9))?;
            let out = PacketSocket::sender(rustix::net::netdevice::name_to_index(&asking, INTERFACE)?)?;
            let protocol = Protocol::from(i32::from(EVERY.to_be()));
            let tap = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            // Before the filter: that one would have to tell what leaves from what comes.
            sockopt::set_int(tap.as_fd(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
            tap.attach_filter(filter)?;
            Ok((asking.local_addr()?.ip(), out, tap))
        };
        let (own, out, tap) = within(pod.path(), open)?.context("packet sockets")?;
        let IpAddr::V4(addr) = own else { anyhow::bail!("{to} is reached over IPv6") };
        sockopt::set_buffers(out.as_fd(), BUFFER)?;
        sockopt::set_buffers(tap.as_fd(), BUFFER)?;
        let mut before = [0; BEFORE];
        before[VNET_LEN..][..6].copy_from_slice(&next_hop(pod, to)?.0);
        before[VNET_LEN + 6..][..6]
            .copy_from_slice(&link(&pod.ip(&format!("-o link show {INTERFACE}"))?, "link/ether")?.0);
        before[VNET_LEN + 12..].copy_from_slice(&IPV4.to_be_bytes());
        Ok(End {
            addr,
            out,
            tap,
            before,
            frames: Vec::new(),
            receiving: RecvBatch::new(BATCH),
            buffers: vec![[0; SNAP]; BATCH],
        })
    }

    /// The pod's own address.
    #[must_use]
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// Hands each waiting packet to `each`, at most [`BATCH`] of them, after waiting at most `patience` for the first.
    ///
    /// # Errors
    /// What the kernel says, other than that nothing waits.
    pub fn receive(&mut self, patience: Duration, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut lengths = [0; BATCH];
        let mut read = |end: &mut End| {
            let buffers = end.buffers.iter_mut().map(|buffer| &mut buffer[..]);
            match end.receiving.recv(end.tap.as_fd(), buffers, |i, got| lengths[i] = got.len.min(SNAP)) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
                other => other,
            }
        };
        let mut count = read(self)?;
        if count == 0 && !patience.is_zero() {
            let wait = Timespec::try_from(patience).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.tap, PollFlags::IN)], Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
            count = read(self)?;
        }
        for (buffer, length) in self.buffers.iter().zip(lengths).take(count) {
            each(&buffer[..length]);
        }
        Ok(count)
    }

    /// Sends `packets`, in order, with their headers' checksums. One that the kernel has no room for is gone, as on a wire.
    ///
    /// # Errors
    /// What the kernel says, other than that.
    pub fn send<P: AsRef<[u8]>>(&mut self, packets: &[P]) -> io::Result<()> {
        for some in packets.chunks(BATCH) {
            self.frames.clear();
            for packet in some {
                let packet = packet.as_ref();
                self.frames.extend_from_slice(&self.before);
                self.frames.extend_from_slice(&summed(packet));
                self.frames.extend_from_slice(packet.get(IP..).unwrap_or_default());
            }
            let mut rest = &self.frames[..];
            let pieces: Vec<[IoSlice<'_>; 1]> = some
                .iter()
                .map(|packet| {
                    let frame;
                    (frame, rest) = rest.split_at(BEFORE + packet.as_ref().len().max(IP));
                    [IoSlice::new(frame)]
                })
                .collect();
            let mut nothing: Vec<_> = pieces.iter().map(|_| SendAncillaryBuffer::default()).collect();
            let mut messages: Vec<MMsgHdr<'_>> =
                pieces.iter().zip(&mut nothing).map(|(piece, none)| MMsgHdr::new(piece, none)).collect();
            let mut rest = &mut messages[..];
            while !rest.is_empty() {
                let taken = match sendmmsg(&self.out, rest, SendFlags::DONTWAIT) {
                    Ok(taken) => taken,
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => 1,
                    Err(err) => return Err(err.into()),
                };
                let sent = taken.min(rest.len());
                rest = &mut std::mem::take(&mut rest)[sent..];
            }
        }
        Ok(())
    }
}

/// Bytes of an IPv4 header without options.
const IP: usize = 20;

/// A packet's header with its checksum.
fn summed(packet: &[u8]) -> [u8; IP] {
    let mut header = [0; IP];
    let there = packet.len().min(IP);
    header[..there].copy_from_slice(&packet[..there]);
    let checksum = sum(&header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// The MAC address that packets from `pod` to `to` have as their destination.
fn next_hop(pod: &Netns, to: IpAddr) -> Result<Mac> {
    let route = pod.ip(&format!("route get {to}"))?;
    let mut words = route.split_whitespace();
    let hop = words.by_ref().find(|word| *word == "via").and_then(|_| words.next()).map(str::to_owned);
    let hop = hop.unwrap_or_else(|| to.to_string());
    let deadline = Instant::now() + RESOLVED;
    loop {
        let found = link(&pod.ip(&format!("neigh show {hop} dev {INTERFACE}"))?, "lladdr");
        if found.is_ok() || Instant::now() > deadline {
            return found.with_context(|| format!("{}: next hop {hop}", pod.name()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The MAC address behind `word` in what `ip` printed.
fn link(text: &str, word: &str) -> Result<Mac> {
    let after = text.split_whitespace().skip_while(|w| *w != word).nth(1).context("no MAC address")?;
    Ok(after.parse()?)
}

/// The pods' own stacks do not see packets from or to some ports while this lives: they would answer with resets or errors.
/// What [`End`] reads is read before. Dropped by a classifier at the interface, the first place where a packet can be.
#[derive(Debug)]
pub struct Deaf<'a> {
    pod: &'a Netns,
}

impl<'a> Deaf<'a> {
    /// Makes `pod` deaf to what comes over IPv4 from or to `ports`, of whatever protocol has them where TCP and UDP do.
    ///
    /// # Errors
    /// Without `tc`, or a kernel without its BPF classifier.
    pub fn to(pod: &'a Netns, ports: RangeInclusive<u16>) -> Result<Deaf<'a>> {
        let program: Vec<String> = [
            // The header's length in words of 32 bits; its Ethernet header is there too.
            (0xb1, 0, 0, 14),
            // Source port below the first, or above the last: look at the other one. Otherwise drop.
            (0x48, 0, 0, 14),
            (0x35, 0, 1, (*ports.start()).into()),
            (0x25, 0, 4, (*ports.end()).into()),
            (0x48, 0, 0, 16),
            (0x35, 0, 1, (*ports.start()).into()),
            (0x25, 0, 1, (*ports.end()).into()),
            // As any other packet.
            (0x06, 0, 0, u32::MAX),
            // `TC_ACT_SHOT`
            (0x06, 0, 0, 2),
        ]
        .map(|(code, jt, jf, k): (u16, u8, u8, u32)| format!("{code} {jt} {jf} {k}"))
        .into();
        let program = format!("{},{}", program.len(), program.join(","));
        pod.run(&format!("tc qdisc add dev {INTERFACE} clsact"))?;
        let deaf = Deaf { pod };
        let filter = format!("tc filter add dev {INTERFACE} ingress protocol ip bpf direct-action bytecode");
        pod.run_args(&filter.split(' ').chain([&program[..]]).collect::<Vec<_>>())?;
        Ok(deaf)
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = self.pod.run(&format!("tc qdisc del dev {INTERFACE} clsact"));
    }
}

/// What a packet must have to be read: these bits of it, from the start of its IPv4 header.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// At this place a byte that is the last of these, under the other as a mask.
    Byte(u32, u8, u8),
    /// The same of 16 bits.
    Half(u32, u16, u16),
}

/// The program that lets only packets through that have all of these.
#[must_use]
pub fn filter(fields: &[Field]) -> Vec<SockFilter> {
    // Loads of a byte and of a half word, mask, comparison, return, as classic BPF numbers them.
    let mut program = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (load, at, mask, value) = match *field {
            Field::Byte(at, mask, value) => (0x30, at, u32::from(mask), u32::from(value)),
            Field::Half(at, mask, value) => (0x28, at, u32::from(mask), u32::from(value)),
        };
        program.push(SockFilter::new(load, 0, 0, at));
        program.push(SockFilter::new(0x54, 0, 0, mask));
        // Otherwise to the last instruction: past the fields that are left, three each, and the one that accepts.
        let refuse = 3 * (fields.len() - 1 - i) + 1;
        program.push(SockFilter::new(0x15, 0, u8::try_from(refuse).unwrap_or(u8::MAX), value));
    }
    program.push(SockFilter::new(0x06, 0, 0, u32::MAX));
    program.push(SockFilter::new(0x06, 0, 0, 0));
    program
}
