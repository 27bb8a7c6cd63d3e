//! Which pods should be served by another worker.
//!
//! Pods are dealt out by their addresses, whatever they will do. Where one of them then keeps its worker busy, the others
//! there wait for it, while another worker may have little to do: they are moved, and so is a second pod with much to do.
//! A worker's work is measured (processor time), and divided among its ports by what they carried.
//!
//! Used by the control thread every few seconds; decides only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Ports moved in one round at most.
const MOVES: usize = 16;
/// What a packet and a byte cost beside each other: a super-frame of 64 KiB costs as much as ten small packets.
const PACKET: u64 = 7_000;
const BYTE: u64 = 1;

/// What a port has carried by its worker so far.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The port.
    pub port: u32,
    /// The worker that reads it.
    pub worker: usize,
    /// Packets read from it and written to it.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// A port that should have another worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The port.
    pub port: u32,
    /// The worker to read it from now on.
    pub to: usize,
}

/// What has been seen so far.
#[derive(Debug)]
pub struct Balance {
    at: Instant,
    used: Vec<Duration>,
    carried: HashMap<u32, Sample>,
}

impl Balance {
    /// Nothing has been seen at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Balance {
        Balance { at: now, used: Vec::new(), carried: HashMap::new() }
    }

    /// Takes in what the workers have used of a processor in their lives, and what each port has carried, and says which
    /// ports should move.
    pub fn look(&mut self, now: Instant, used: Vec<Duration>, samples: &[Sample]) -> Vec<Move> {
        let wall = now.saturating_duration_since(self.at);
        let before = std::mem::replace(&mut self.used, used);
        let mut ports: Vec<(Move, u64)> = samples.iter().filter_map(|s| self.weight(s)).collect();
        (self.at, self.carried) = (now, samples.iter().map(|s| (s.port, *s)).collect());
        if before.len() != self.used.len() {
            return Vec::new();
        }
        let mut work: Vec<u64> =
            self.used.iter().zip(&before).map(|(used, before)| nanos(used.saturating_sub(*before))).collect();
        share_out(&work, &mut ports);
        moves(&mut work, ports, nanos(wall))
    }

    /// A port's weight among those of its worker since the last look; none without one, or where it has moved since.
    fn weight(&self, s: &Sample) -> Option<(Move, u64)> {
        let before = self.carried.get(&s.port).filter(|b| b.worker == s.worker)?;
        let packets = s.packets.saturating_sub(before.packets);
        let bytes = s.bytes.saturating_sub(before.bytes);
        let weight = packets.saturating_mul(PACKET).saturating_add(bytes.saturating_mul(BYTE));
        (weight > 0).then_some((Move { port: s.port, to: s.worker }, weight))
    }
}

/// Turns weights into nanoseconds of each worker's work.
fn share_out(work: &[u64], ports: &mut [(Move, u64)]) {
    for (worker, work) in work.iter().enumerate() {
        let all: u128 = ports.iter().filter(|(at, _)| at.to == worker).map(|(_, w)| u128::from(*w)).sum();
        for (_, weight) in ports.iter_mut().filter(|(at, _)| at.to == worker) {
            *weight = u64::try_from(u128::from(*work) * u128::from(*weight) / all.max(1)).unwrap_or(u64::MAX);
        }
    }
}

/// The moves, given each worker's work, where each active port is and what it costs.
fn moves(work: &mut [u64], mut ports: Vec<(Move, u64)>, wall: u64) -> Vec<Move> {
    ports.sort_by_key(|(at, cost)| (std::cmp::Reverse(*cost), at.port));
    let mut moves = Vec::new();
    while moves.len() < MOVES {
        let workers = || (0..work.len()).map(|w| (work[w], w));
        let (Some((most, from)), Some((least, to))) = (workers().max(), workers().min()) else { break };
        // As long as a worker is idle half of the time, nobody waits for long.
        if most < wall / 2 {
            break;
        }
        // The largest port stays: moving it would only move the trouble. What moves must be clearly better off, or it
        // would soon move back.
        let mut there = ports.iter_mut().filter(|(at, _)| at.to == from).skip(1);
        let Some((at, cost)) = there.find(|(_, cost)| least + *cost < most / 4 * 3) else { break };
        work[from] -= (*cost).min(work[from]);
        work[to] += *cost;
        at.to = to;
        moves.push(*at);
    }
    moves
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One second in which the workers used so many percent of a processor, and ports (number, worker) sent so many
    /// packets.
    fn after_a_second(percent: &[u32], ports: &[(u32, usize, u64)]) -> Vec<Move> {
        let now = Instant::now();
        let mut balance = Balance::new(now);
        let samples = |times: u64| -> Vec<Sample> {
            let of = |&(port, worker, n): &(u32, usize, u64)| Sample {
                port,
                worker,
                packets: n * times,
                bytes: 0,
            };
            ports.iter().map(of).collect()
        };
        let idle = vec![Duration::ZERO; percent.len()];
        assert!(balance.look(now, idle, &samples(1)).is_empty(), "nothing is known the first time");
        balance.look(now + SECOND, percent.iter().map(|p| SECOND * *p / 100).collect(), &samples(2))
    }

    #[test]
    fn who_shares_a_worker_with_a_stream_moves_to_an_idle_one() {
        let moves = after_a_second(&[95, 5], &[(1, 0, 90_000), (2, 0, 4_000), (3, 1, 100), (4, 0, 0)]);
        assert_eq!(moves, [Move { port: 2, to: 1 }], "a port that carries nothing is left where it is");
    }

    #[test]
    fn two_streams_part() {
        assert_eq!(after_a_second(&[100, 0], &[(1, 0, 50), (2, 0, 50)]), [Move { port: 2, to: 1 }]);
    }

    #[test]
    fn nothing_moves_where_it_would_not_help() {
        assert!(after_a_second(&[45, 0], &[(1, 0, 50), (2, 0, 50)]).is_empty(), "idle half of the time");
        assert!(
            after_a_second(&[95, 90], &[(1, 0, 90), (2, 0, 5), (3, 1, 90)]).is_empty(),
            "no better there"
        );
        assert!(after_a_second(&[100, 0], &[(1, 0, 50)]).is_empty(), "it is alone");
        assert!(after_a_second(&[100], &[(1, 0, 50), (2, 0, 50)]).is_empty(), "one worker");
        assert!(after_a_second(&[], &[]).is_empty());
    }

    #[test]
    fn a_round_ends_in_a_state_that_the_next_leaves_alone() {
        let mut ports: Vec<(u32, usize, u64)> = (0..12).map(|i| (i, 0, 1 << i)).collect();
        let moved = after_a_second(&[100, 0, 0], &ports);
        assert!(!moved.is_empty());
        let all: u64 = ports.iter().map(|p| p.2).sum();
        for m in moved {
            ports[m.port as usize].1 = m.to;
        }
        let of = |worker| ports.iter().filter(|p| p.1 == worker).map(|p| p.2).sum::<u64>();
        let percent: Vec<u32> = (0..3).map(|w| u32::try_from(of(w) * 100 / all).unwrap()).collect();
        assert_eq!(after_a_second(&percent, &ports), [], "{percent:?}");
    }
}
