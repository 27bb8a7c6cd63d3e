//! Frames made wrong on purpose, reproducibly from a seed.

use std::net::Ipv4Addr;

use encap::slice::{self, Part};
use encap::{Mac, Segmenter, VnetHdr};
use etherparse::{ArpOperation, EtherType};
use vswitch::snapshot::{GATEWAY_V4, GATEWAY_V6};

use super::craft::{Way, arp, solicit_gateway, tagged, who_has_gateway};
use super::host::Identity;
use super::random::Random;

/// Well-formed frames of all kinds that these pods send, to each other and elsewhere.
///
/// # Panics
/// Never: they fit.
#[must_use]
pub fn corpus(pods: &[Identity]) -> Vec<(VnetHdr, Vec<u8>)> {
    let plain = VnetHdr::default();
    let mut frames = Vec::new();
    for from in pods {
        for to in pods {
            for v6 in [false, true] {
                let way = Way::routed(from, to.addr(v6));
                frames.push((plain, way.udp((1000, 53), 40)));
                frames.push((plain, way.tcp((4000, 80), 77, 100)));
                frames.push((plain, way.ping(56)));
                frames.push(way.super_tcp((5000, 80), 9, 9000, 1300));
                frames.push((plain, way.icmp(if v6 { 1 } else { 3 }, 1, [0; 4], &[0x45; 28])));
                frames.push((plain, way.proto(132, &[0; 16])));
                frames.push((plain, way.udp((9, 8472), 60)));
                frames.push((plain, Way { ttl: 1, ..way }.udp((1, 2), 3000)));
                let inner = way.udp((1, 2), 20);
                frames.push((plain, way.proto(if v6 { 41 } else { 4 }, &inner[14..])));
                frames.push((plain, tagged(&inner, EtherType::VLAN_TAGGED_FRAME)));
            }
        }
        frames.push((plain, who_has_gateway(from)));
        frames.push((plain, arp(from, ArpOperation::REPLY, GATEWAY_V4, from.v4)));
        frames.push((plain, solicit_gateway(from)));
        frames.push((plain, Way::routed(from, GATEWAY_V4.into()).ping(30)));
        frames.push((plain, Way::routed(from, GATEWAY_V6.into()).ping(30)));
        frames.push((plain, Way::routed(from, Ipv4Addr::new(8, 8, 8, 8).into()).udp((1, 53), 30)));
    }
    frames
}

/// The datagrams of a super-frame that goes to this VTEP in slices, some of them broken, missing or in disorder, and
/// questions between them; none when it does not travel so.
#[must_use]
pub fn slices(random: &mut Random, (vnet, frame): &(VnetHdr, Vec<u8>), vtep: Mac) -> Vec<Vec<u8>> {
    let (mut seg, mut frame) = (Segmenter::new(), frame.clone());
    frame[..6].copy_from_slice(&vtep.0);
    let part = Part { vni: 1, train: random.below(3) as u16, index: 0, count: 0, to: random.bits() as u32 };
    if seg.slice(&frame, vnet, part) != Ok(true) {
        return Vec::new();
    }
    let range = |(from, to): (u32, u32)| from as usize..to as usize;
    let whole = seg.segs().iter().map(|s| [&seg.arena()[range(s.head)], &frame[range(s.body)]].concat());
    let mut all: Vec<Vec<u8>> = whole.collect();
    for _ in 0..random.below(5) {
        let at = random.below(all.len() as u64) as usize;
        match random.below(6) {
            0 if all.len() > 1 => drop(all.remove(at)),
            1 => {
                let other = random.below(all.len() as u64) as usize;
                all.swap(at, other);
            }
            2 => all.insert(at, slice::ask(random.below(3) as u32, random.bits()).into()),
            3 => all.insert(at, slice::answer(1, random.bits()).into()),
            4 => {
                let len = all[at].len() as u64;
                all[at].truncate(random.below(len + 1) as usize);
            }
            _ => {
                let len = all[at].len().min(90) as u64;
                if len > 0 {
                    let byte = random.below(len) as usize;
                    all[at][byte] ^= 1 << random.below(8);
                }
            }
        }
    }
    all
}

/// Breaks a frame in up to six ways, and often mends the IPv4 header's checksum so that it gets further.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.below(7) {
        let len = frame.len() as u64;
        match random.below(10) {
            0 => frame.truncate(random.below(len + 1) as usize),
            1 => frame.resize((len + random.below(100)) as usize, random.bits() as u8),
            2 => {
                let at = random.below(len + 1) as usize;
                frame.truncate(at);
                frame.extend_from_slice(&other[random.below(other.len() as u64) as usize..]);
            }
            _ if len > 0 => {
                let at = random.below(len.min(100)) as usize;
                frame[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => frame[at] ^ 1 << random.below(8),
                    _ => random.bits() as u8,
                };
            }
            _ => {}
        }
    }
    if random.below(4) > 0 && frame.len() >= 34 && frame[12..14] == [8, 0] {
        let header = usize::from(frame[14] & 15) * 4;
        if let Some(ip) = frame.get_mut(14..14 + header).filter(|ip| ip.len() >= 20) {
            ip[10..12].fill(0);
            let sum = encap::checksum::sum(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    frame.truncate(encap::LARGE);
}

/// A virtio header that mostly tells the truth.
///
/// # Panics
/// Never: ten bytes are a header.
pub fn header(random: &mut Random, vnet: VnetHdr) -> VnetHdr {
    let mut bytes = vnet.bytes();
    match random.below(4) {
        0 => bytes[random.below(10) as usize] = random.bits() as u8,
        1 => return VnetHdr::default(),
        _ => {}
    }
    VnetHdr::parse(&bytes).expect("ten bytes are a header")
}
