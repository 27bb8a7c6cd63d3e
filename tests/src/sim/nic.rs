//! A pod's network interface: smoltcp's device over a port in memory, with or without offloads.
//!
//! An interface with offloads hands super-frames with partial checksums to the switch and takes such from it. Whatever
//! comes from the switch is checked as a kernel and a wire would: a super-frame is cut up, and every packet must parse,
//! fit the MTU and have a right checksum.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use encap::parse::parse;
use encap::{Parsed, Segmenter, VnetHdr, checksum};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use vswitch::port::mem::MemEnd;

const ETH: usize = encap::ETH_LEN;
/// Largest super-frame of a pod.
const SUPER: usize = 60_000;

/// What passed an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicStats {
    /// Frames sent.
    pub tx: u64,
    /// Of those, super-frames.
    pub tx_super: u64,
    /// TCP payload bytes sent, repetitions included.
    pub tx_tcp_payload: u64,
    /// Frames received.
    pub rx: u64,
    /// Of those, super-frames.
    pub rx_super: u64,
    /// Frames received that no wire or kernel would have taken.
    pub rx_broken: u64,
}

/// The interface.
pub struct Nic {
    end: MemEnd,
    offload: bool,
    mtu: usize,
    inbox: VecDeque<Vec<u8>>,
    split: Segmenter,
    /// Counters.
    pub stats: NicStats,
}

impl Nic {
    /// The interface at this end of a cable.
    #[must_use]
    pub fn new(end: MemEnd, offload: bool, mtu: u16) -> Self {
        Self {
            end,
            offload,
            mtu: usize::from(mtu),
            inbox: VecDeque::new(),
            split: Segmenter::new(),
            stats: NicStats::default(),
        }
    }

    /// Takes what the switch wrote; true when there was something.
    pub fn pull(&mut self) -> bool {
        let before = self.stats.rx;
        while let Some(frame) = self.end.recv() {
            self.stats.rx += 1;
            self.stats.rx_super += u64::from(frame.vnet.is_gso());
            let packets = self.packets(&frame.bytes, &frame.vnet);
            if packets.is_empty() {
                self.stats.rx_broken += 1;
            } else if frame.vnet.kind() == VnetHdr::GSO_UDP_L4 {
                // smoltcp has no notion of a UDP super-frame; a kernel cuts it up before its sockets.
                self.inbox.extend(packets);
            } else {
                self.inbox.push_back(frame.bytes);
            }
        }
        self.stats.rx > before
    }

    /// Takes what the switch wrote, past the stack: the packets of the wire that it stands for.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        while let Some(frame) = self.end.recv() {
            self.stats.rx += 1;
            self.stats.rx_super += u64::from(frame.vnet.is_gso());
            let packets = self.packets(&frame.bytes, &frame.vnet);
            self.stats.rx_broken += u64::from(packets.is_empty());
            taken.extend(packets);
        }
        taken
    }

    /// The packets of the wire that a frame stands for; none when one of them is broken.
    fn packets(&mut self, frame: &[u8], vnet: &VnetHdr) -> Vec<Vec<u8>> {
        if vnet.check(frame.len()).is_err() || (!self.offload && *vnet != VnetHdr::default()) {
            return Vec::new();
        }
        if self.split.split(frame, vnet, &[]).is_err() {
            return Vec::new();
        }
        let arena = self.split.arena();
        let part = |bytes: &[u8], (from, to): (u32, u32)| bytes[from as usize..to as usize].to_vec();
        let packets: Vec<Vec<u8>> = self
            .split
            .segs()
            .iter()
            .map(|seg| [part(arena, seg.head), part(frame, seg.body)].concat())
            .collect();
        let sound = |packet: &Vec<u8>| match parse(packet, packet.len(), false) {
            Ok(p) if p.proto == checksum::TCP || p.proto == checksum::UDP => {
                p.ip_len as usize <= self.mtu && checksum::verify_l4(packet, &p)
            }
            Ok(p) => p.ip_len as usize <= self.mtu,
            Err(_) => false,
        };
        if packets.iter().all(sound) { packets } else { Vec::new() }
    }
}

/// A frame that arrived.
pub struct Rx(Vec<u8>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame to send.
pub struct Tx<'a> {
    end: &'a MemEnd,
    stats: &'a mut NicStats,
    offload: bool,
    meta: PacketMeta,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let mut vnet = VnetHdr::default();
        if let Ok(p) = parse(&frame, len, true) {
            let gso_size = self.meta.segmentation_offload_size.map_or(0, |size| size.get());
            if self.offload && (p.proto == checksum::TCP || p.proto == checksum::UDP) {
                vnet = leave_to_the_device(&mut frame, &p, gso_size);
            }
            if p.proto == checksum::TCP {
                self.stats.tx_tcp_payload += (p.l4_len() as usize - tcp_header(&frame, &p)) as u64;
            }
        }
        self.stats.tx += 1;
        self.stats.tx_super += u64::from(vnet.is_gso());
        // A full queue loses the frame, as a device's does.
        self.end.send(vnet, &frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

fn tcp_header(frame: &[u8], p: &Parsed) -> usize {
    usize::from(smoltcp::wire::TcpPacket::new_unchecked(&frame[usize::from(p.l4)..]).header_len())
}

/// Puts the sum of the pseudo header where the checksum goes, and says what is left to do.
fn leave_to_the_device(frame: &mut [u8], p: &Parsed, gso_size: u16) -> VnetHdr {
    let csum_offset = if p.proto == checksum::TCP { 16 } else { 6 };
    let field = usize::from(p.l4) + csum_offset;
    let partial = checksum::pseudo(p, p.l4_len()).fold();
    frame[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    let mut vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: p.l4,
        csum_offset: csum_offset as u16,
        ..VnetHdr::default()
    };
    if p.proto == checksum::TCP {
        let headers = usize::from(p.l4) + tcp_header(frame, p);
        vnet.hdr_len = headers as u16;
        if gso_size > 0 && frame.len() - headers > usize::from(gso_size) {
            vnet.gso_type = if p.v6 { VnetHdr::GSO_TCPV6 } else { VnetHdr::GSO_TCPV4 };
            vnet.gso_size = gso_size;
        }
    }
    vnet
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, now: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.inbox.pop_front()?;
        Some((Rx(frame), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx {
            end: &self.end,
            stats: &mut self.stats,
            offload: self.offload,
            meta: PacketMeta::default(),
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = ETH + self.mtu;
        if self.offload {
            caps.checksum.tcp = Checksum::None;
            caps.checksum.udp = Checksum::None;
            caps.segmentation.tcpv4 = NonZeroUsize::new(SUPER);
            // smoltcp drops IPv6 super-frames of its own; those are crafted by hand (`craft`).
        }
        caps
    }
}
