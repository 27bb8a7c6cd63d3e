//! The network between the nodes: datagrams with loss, delay and reordering, by seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use encap::Form;

use super::random::Random;

/// Longest UDP payload in an IPv4 packet of 1,500 bytes.
const MAX_PAYLOAD: usize = MAX_PACKET - 28;
/// Its MTU.
const MAX_PACKET: usize = 1500;
/// What a receive buffer joins at most, as the kernel's UDP GRO does.
const JOIN_DATAGRAMS: usize = 64;
const JOIN_BYTES: usize = 65_000;

/// How the underlay treats datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Lost, in a million.
    pub loss_ppm: u32,
    /// Least time under way, microseconds.
    pub delay_us: u64,
    /// Held back on the way, in a million: others overtake them.
    pub held_ppm: u32,
    /// How long at most, microseconds.
    pub hold_us: u64,
}

#[derive(Debug)]
struct Datagram {
    form: Form,
    from: SocketAddr,
    to: usize,
    bytes: Vec<u8>,
}

/// Datagrams of one sender joined as a receive buffer.
#[derive(Debug)]
pub struct Arrival {
    /// By which kind of socket it comes.
    pub form: Form,
    /// The sender.
    pub from: SocketAddr,
    /// The receiving node.
    pub to: usize,
    /// The datagrams end to end.
    pub bytes: Vec<u8>,
    /// Size of all but the last; 0 for a single one.
    pub stride: usize,
    /// How many.
    pub count: usize,
}

/// The underlay and what is under way in it.
#[derive(Debug)]
pub struct Underlay {
    weather: Weather,
    random: Random,
    flying: BTreeMap<(u64, u64), Datagram>,
    /// Datagrams handed to it.
    pub sent: u64,
    /// Datagrams it lost.
    pub lost: u64,
    /// Datagrams that overtook another one.
    pub overtakes: u64,
    /// Datagrams that did not fit its MTU of 1,500 bytes, dropped.
    pub oversize: u64,
}

impl Underlay {
    /// An empty one.
    #[must_use]
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            weather,
            random: Random::new(seed),
            flying: BTreeMap::new(),
            sent: 0,
            lost: 0,
            overtakes: 0,
            oversize: 0,
        }
    }

    /// Takes a datagram, or a packet of IP in IP with its outer header.
    pub fn send(&mut self, now_us: u64, form: Form, from: SocketAddr, to: usize, bytes: &[u8]) {
        self.sent += 1;
        if bytes.len() > if form == Form::Ipip { MAX_PACKET } else { MAX_PAYLOAD } {
            self.oversize += 1;
            return;
        }
        if self.random.chance(self.weather.loss_ppm) {
            self.lost += 1;
            return;
        }
        let held = if self.random.chance(self.weather.held_ppm) {
            self.random.below(self.weather.hold_us) + 1
        } else {
            0
        };
        let at = now_us + self.weather.delay_us + held;
        let mut later = self.flying.range((at + 1, 0)..);
        self.overtakes += u64::from(later.any(|(_, d)| d.from == from && d.to == to));
        self.flying.insert((at, self.sent), Datagram { form, from, to, bytes: bytes.to_vec() });
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.flying.first_key_value().map(|(&(at, _), _)| at)
    }

    /// What has arrived by now, neighbours of one size joined.
    pub fn arrivals(&mut self, now_us: u64) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= now_us) {
            let datagram = entry.remove();
            match arrivals.last_mut() {
                Some(last) if last.takes(&datagram) => {
                    last.stride = last.bytes.len() / last.count;
                    last.bytes.extend_from_slice(&datagram.bytes);
                    last.count += 1;
                }
                _ => {
                    let Datagram { form, from, to, bytes } = datagram;
                    arrivals.push(Arrival { form, from, to, bytes, stride: 0, count: 1 });
                }
            }
        }
        arrivals
    }
}

impl Arrival {
    /// Does the datagram continue this train? A shorter one ends it.
    fn takes(&self, next: &Datagram) -> bool {
        let whole = self.bytes.len().is_multiple_of(self.count)
            && (self.stride == 0 || self.bytes.len() == self.stride * self.count);
        let size = self.bytes.len() / self.count;
        self.form == next.form
            && self.form != Form::Ipip
            && self.from == next.from
            && self.to == next.to
            && whole
            && !next.bytes.is_empty()
            && next.bytes.len() <= size
            && self.count < JOIN_DATAGRAMS
            && self.bytes.len() + next.bytes.len() <= JOIN_BYTES
    }
}
