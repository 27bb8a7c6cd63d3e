//! New TCP connections without the cost of sockets: how many a second the network and its policy admit.
//!
//! A client in one pod and a server in another exchange SYN, SYN-ACK and ACK as bytes, then the client resets the
//! connection; neither pod's stack takes part. So every connection table on the way sees whole connections, and what is
//! measured is the way between the pods: two packets that open, one of which meets the policy, and two that do not. Each
//! client keeps a bounded number of handshakes under way; one that is not answered in time is lost, and another begins.
//!
//! Client ports go round, as those of a program that connects to one service do. A port comes again after tens of thousands
//! of connections and long after its reset, so each SYN opens a flow of its own, and no table grows without bound.

mod segment;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::network::Pair;
use crate::raw::{Deaf, End, Field, PROTOCOL_AT, filter};
use segment::{ACK, FLAGS_AT, Packet, RST, SOURCE_AT, SYN, Segment, TARGET_AT, TCP};

/// The service's port.
const PORT: u16 = 20_000;
/// A client's ports.
const FIRST: u16 = 2048;
const PORTS: u32 = 60_000;
/// Handshakes of one client under way at the same time: enough to keep everything on the way busy.
const WINDOW: usize = 256;
/// After this a handshake is lost. What waits behind a hundred walks of a long list is not.
const PATIENCE: Duration = Duration::from_millis(200);
/// Before counting begins: addresses are asked for, caches warm.
const WARM: Duration = Duration::from_millis(300);

/// Where the next run's ports go on, so that no run meets the last one's.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Handshakes {
    /// Answered, a second.
    pub done: f64,
    /// Share of those begun that was not answered in time.
    pub lost: f64,
}

/// Counts over `length`, a client and a server in each pair of pods at the same time: a kernel does the work of a client on
/// that client's processor, so one alone would leave the others idle.
///
/// # Errors
/// When a socket cannot be had, or nothing is answered.
pub fn run(pairs: &[Pair<'_>], length: Duration) -> Result<Handshakes> {
    let over = AtomicBool::new(false);
    let mut quiet = Vec::new();
    let mut ends = Vec::new();
    for pair in pairs {
        quiet.push([Deaf::to(pair.from, PORT..=PORT)?, Deaf::to(pair.far, PORT..=PORT)?]);
        let only = |port_at, flags| {
            filter(&[
                Field::Byte(PROTOCOL_AT, u8::MAX, TCP),
                Field::Half(port_at, u16::MAX, PORT),
                Field::Byte(FLAGS_AT, SYN | ACK, flags),
            ])
        };
        let client = End::open(pair.from, pair.to, &only(SOURCE_AT, SYN | ACK))?;
        let server = End::open(pair.far, IpAddr::V4(client.addr()), &only(TARGET_AT, SYN))?;
        ends.push((client, server));
    }
    let counted = std::thread::scope(|scope| {
        let over = &over;
        let mut clients = Vec::new();
        for (client, server) in ends {
            let to = server.addr();
            scope.spawn(move || serve(server, over));
            clients.push(scope.spawn(move || Client::new(client, to).run(length)));
        }
        let join = |c: std::thread::ScopedJoinHandle<'_, _>| c.join();
        let counted: Vec<_> = clients.into_iter().map(join).collect();
        over.store(true, Ordering::Relaxed);
        counted
    });
    let mut sum = [0; 2];
    for counted in counted {
        let [done, lost]: [u64; 2] = counted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(done > 0, "no handshake was answered");
        sum = [sum[0] + done, sum[1] + lost];
    }
    let [done, lost] = sum.map(|count| count as f64);
    Ok(Handshakes { done: done / length.as_secs_f64(), lost: lost / (done + lost) })
}

/// Answers each SYN.
fn serve(mut end: End, over: &AtomicBool) -> std::io::Result<()> {
    let own = end.addr();
    let mut answers: Vec<Packet> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        answers.clear();
        end.receive(Duration::from_millis(20), |packet| {
            if let Some((from, syn)) = Segment::read(packet) {
                answers.push(syn.answer(!syn.seq, syn.seq.wrapping_add(1), SYN | ACK).packet(own, from));
            }
        })?;
        end.send(&answers)?;
    }
    Ok(())
}

/// One pod's handshakes.
struct Client {
    end: End,
    to: Ipv4Addr,
    /// The number of the handshake under way in each slot, and when it began.
    slots: Vec<(u32, Instant)>,
    next: u32,
}

impl Client {
    fn new(end: End, to: Ipv4Addr) -> Client {
        Client { end, to, slots: Vec::new(), next: NEXT.load(Ordering::Relaxed) }
    }

    /// How many were answered and how many were not.
    fn run(mut self, length: Duration) -> std::io::Result<[u64; 2]> {
        let (began, own) = (Instant::now(), self.end.addr());
        let mut packets: Vec<Packet> = Vec::new();
        for slot in 0..WINDOW {
            self.slots.push((0, began));
            packets.push(self.begin(slot, began));
        }
        self.end.send(&packets)?;
        let (mut done, mut lost, mut looked) = (0, 0, began);
        loop {
            let mut answers = Vec::new();
            self.end.receive(Duration::from_millis(5), |packet| {
                answers.extend(Segment::read(packet).map(|(_, segment)| segment));
            })?;
            let now = Instant::now();
            let counts = now - began >= WARM;
            packets.clear();
            for answer in answers {
                let (slot, number) = place(answer.ack.wrapping_sub(1));
                if self.slots.get(slot).is_none_or(|(expected, _)| *expected != number) {
                    continue; // too late
                }
                done += u64::from(counts);
                for flags in [ACK, RST | ACK] {
                    let segment = answer.answer(answer.ack, answer.seq.wrapping_add(1), flags);
                    packets.push(segment.packet(own, self.to));
                }
                packets.push(self.begin(slot, now));
            }
            if now - looked >= PATIENCE / 8 {
                looked = now;
                for slot in 0..WINDOW {
                    if now - self.slots[slot].1 > PATIENCE {
                        lost += u64::from(counts);
                        packets.push(self.begin(slot, now));
                    }
                }
            }
            if now - began >= WARM + length {
                NEXT.fetch_max(self.next, Ordering::Relaxed);
                return Ok([done, lost]);
            }
            self.end.send(&packets)?;
        }
    }

    /// The SYN of the next handshake, which takes `slot`.
    fn begin(&mut self, slot: usize, now: Instant) -> Packet {
        let number = self.next & 0x00ff_ffff;
        self.next = self.next.wrapping_add(1);
        self.slots[slot] = (number, now);
        let syn = Segment { ports: [port(number), PORT], seq: sequence(slot, number), ack: 0, flags: SYN };
        syn.packet(self.end.addr(), self.to)
    }
}

/// The client's port of a handshake.
fn port(number: u32) -> u16 {
    FIRST + (number % PORTS) as u16
}

/// A sequence number that tells the slot and the handshake's number.
fn sequence(slot: usize, number: u32) -> u32 {
    (number << 8) | slot as u32
}

/// The slot and the handshake's number that are in a sequence number.
fn place(sequence: u32) -> (usize, u32) {
    ((sequence & 0xff) as usize, sequence >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_leads_back_to_its_slot() {
        for (slot, number) in [(0, 0), (WINDOW - 1, 1), (3, 0x00ff_ffff)] {
            assert_eq!(place(sequence(slot, number)), (slot, number));
        }
        const { assert!(WINDOW <= 256) };
    }

    #[test]
    fn ports_go_round_and_stay_away_from_the_service() {
        assert_eq!(port(0), FIRST);
        assert_eq!(port(PORTS), FIRST);
        assert!(port(PORTS - 1) > 60_000);
    }
}
