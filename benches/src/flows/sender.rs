//! Datagrams of very many flows from one pod to another: each flow is opened and answered once, then packets of all of them
//! follow each other in an order that no cache can guess.
//!
//! A packet is made from its flow's number when it is sent, so more flows cost the sender nothing more. What arrives is
//! counted by the receiving pod's own device; nobody reads it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use encap::checksum::{pseudo_v4, sum};
use vswitch::lab::{Netns, within};

use crate::network::Pair;
use crate::raw::{BATCH, Deaf, End, Field, PROTOCOL_AT, filter};

const UDP: u8 = 17;
/// With 14 bytes of Ethernet header, a frame of 64.
const LENGTH: usize = 50;
const PAYLOAD_AT: usize = 28;
/// The receiver's ports are those that begin with the bits of the first.
const FIRST_TO: u16 = 20_000;
const TO_MASK: u16 = 0xffe0;
const TO: RangeInclusive<u16> = FIRST_TO..=FIRST_TO | !TO_MASK;
/// The sender's ports.
const FIRST_FROM: u16 = 2048;
const FROM: u32 = 50_000;
/// The most flows between two pods.
pub(super) const MOST: u32 = 250_000;
/// Coprime to all numbers of flows that are asked for, which have no other prime factors than 2 and 5.
const STRIDE: u64 = 7_368_787;
/// After this an answer is held to be lost, and its flow is asked for again.
const PATIENCE: Duration = Duration::from_millis(100);
/// So often is asked again.
const TRIES: usize = 20;

type Packet = [u8; LENGTH];

/// A pod that sends, and the one it sends to.
pub(super) struct Sender<'a> {
    end: End,
    to: Ipv4Addr,
    far: &'a Netns,
    turn: u64,
    _deaf: [Deaf<'a>; 2],
}

impl<'a> Sender<'a> {
    /// Nothing is sent yet.
    pub(super) fn open(pair: Pair<'a>) -> Result<Sender<'a>> {
        let IpAddr::V4(to) = pair.to else { anyhow::bail!("{} is no IPv4 address", pair.to) };
        let deaf = [Deaf::to(pair.from, TO)?, Deaf::to(pair.far, TO)?];
        let answers = [Field::Byte(PROTOCOL_AT, u8::MAX, UDP), Field::Half(20, TO_MASK, FIRST_TO)];
        let end = End::open(pair.from, pair.to, &filter(&answers))?;
        Ok(Sender { end, to, far: pair.far, turn: 0, _deaf: deaf })
    }

    /// Opens the flows with these numbers, or makes sure that they are open.
    pub(super) fn flows(&mut self, numbers: std::ops::Range<u32>) -> Result<()> {
        ensure!(numbers.end <= MOST, "{} flows between two pods", numbers.end);
        let asked = [Field::Byte(PROTOCOL_AT, u8::MAX, UDP), Field::Half(22, TO_MASK, FIRST_TO)];
        let server = End::open(self.far, IpAddr::V4(self.end.addr()), &filter(&asked))?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| answer(server, &over));
            let opened = self.ask(numbers);
            over.store(true, Ordering::Relaxed);
            answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            opened
        })
    }

    fn ask(&mut self, numbers: std::ops::Range<u32>) -> Result<()> {
        for first in numbers.clone().step_by(BATCH) {
            let mut missing: Vec<u32> = (first..numbers.end.min(first + BATCH as u32)).collect();
            for _ in 0..TRIES {
                let packets: Vec<Packet> = missing.iter().map(|n| self.packet(*n)).collect();
                self.end.send(&packets)?;
                let asked = Instant::now();
                while !missing.is_empty() && asked.elapsed() < PATIENCE {
                    let mut answered = Vec::new();
                    self.end.receive(PATIENCE, |packet| answered.extend(number(packet)))?;
                    missing.retain(|n| !answered.contains(n));
                }
            }
            ensure!(missing.is_empty(), "{} flows are not answered", missing.len());
        }
        Ok(())
    }

    /// One packet of each of [`BATCH`] of the first `flows` flows.
    pub(super) fn burst(&mut self, flows: u32) -> io::Result<u64> {
        let packets: Vec<Packet> = (0..BATCH as u64)
            .map(|i| self.packet((((self.turn + i) * STRIDE) % u64::from(flows)) as u32))
            .collect();
        self.turn += BATCH as u64;
        self.end.send(&packets)?;
        Ok(BATCH as u64)
    }

    /// Packets that came in by the receiver's device so far.
    pub(super) fn arrived(&self) -> Result<u64> {
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let text = within(self.far.path(), read)??;
        packets_in(&text).context("no eth0 in /proc/thread-self/net/dev")
    }

    /// A packet of a flow.
    fn packet(&self, number: u32) -> Packet {
        let mut packet = [0; LENGTH];
        let (ip, udp) = packet.split_at_mut(20);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
        ip[6] = 0x40; // not to be fragmented
        ip[8] = 64;
        ip[9] = UDP;
        ip[12..16].copy_from_slice(&self.end.addr().octets());
        ip[16..20].copy_from_slice(&self.to.octets());
        let length = (LENGTH - 20) as u16;
        udp[..2].copy_from_slice(&(FIRST_FROM + (number % FROM) as u16).to_be_bytes());
        udp[2..4].copy_from_slice(&(FIRST_TO + (number / FROM) as u16).to_be_bytes());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        udp[8..12].copy_from_slice(&number.to_be_bytes());
        let checksum = pseudo_v4(self.end.addr(), self.to, UDP, length).plus(sum(udp)).finish();
        // 0 would say that there is none (RFC 768).
        udp[6..8].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
        packet
    }
}

/// Sends each packet back to where it came from. Its checksum stays right: the sum does not see the order.
fn answer(mut end: End, over: &AtomicBool) -> io::Result<()> {
    let mut answers: Vec<Packet> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        answers.clear();
        end.receive(Duration::from_millis(20), |packet| answers.extend(packet.first_chunk().map(returned)))?;
        end.send(&answers)?;
    }
    Ok(())
}

fn returned(packet: &Packet) -> Packet {
    let mut back = *packet;
    back[12..16].copy_from_slice(&packet[16..20]);
    back[16..20].copy_from_slice(&packet[12..16]);
    back[20..22].copy_from_slice(&packet[22..24]);
    back[22..24].copy_from_slice(&packet[20..22]);
    // The kernel writes both anew.
    back[4..6].fill(0);
    back[8] = 64;
    back[10..12].fill(0);
    back
}

/// The number of the flow that a packet belongs to.
fn number(packet: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(PAYLOAD_AT..)?.first_chunk()?))
}

/// The second number of `eth0`'s line: bytes, packets.
fn packets_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_the_second_number() {
        let text = "Inter-| Receive\n face |bytes packets\n    lo: 1 2 3\n  eth0: 5000 41 0 0\n";
        assert_eq!(packets_in(text), Some(41));
        assert_eq!(packets_in("lo: 1 2"), None);
    }

    #[test]
    fn a_packet_that_is_returned_keeps_its_checksum() {
        let mut packet: Packet = std::array::from_fn(|i| i as u8);
        packet[0] = 0x45;
        let back = returned(&packet);
        assert_eq!(returned(&back)[12..24], packet[12..24]);
        let half = |p: &Packet, range: RangeInclusive<usize>| sum(&p[range]).finish();
        assert_eq!(half(&back, 12..=49), half(&packet, 12..=49));
        assert_eq!(number(&back), Some(0x1c1d_1e1f));
    }

    #[test]
    fn all_ports_are_the_receivers() {
        let last = FIRST_TO + ((MOST - 1) / FROM) as u16;
        assert!(TO.contains(&last) && (last & TO_MASK) == FIRST_TO);
        assert!(u32::from(FIRST_FROM) + FROM <= u32::from(u16::MAX));
    }

    #[test]
    fn every_flow_has_its_turn() {
        for flows in [200_u64, 2000, 20_000] {
            let mut seen: Vec<u64> = (0..flows).map(|i| (i * STRIDE) % flows).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..flows));
        }
    }
}
