//! What pods say to each other: streams and datagrams whose every byte is known beforehand.

use std::net::IpAddr;

use smoltcp::iface::SocketHandle;

use super::host::Host;

/// A flow between two pods.
pub enum Flow {
    /// A TCP stream.
    Tcp(Transfer),
    /// UDP datagrams at a steady pace.
    Udp(Datagrams),
}

/// A TCP stream from one pod to another.
pub struct Transfer {
    /// Sending and receiving pod.
    pub pods: (usize, usize),
    /// Their sockets.
    pub sockets: (SocketHandle, SocketHandle),
    /// Bytes to carry.
    pub bytes: usize,
    /// Bytes given to the sender's stack.
    pub sent: usize,
    /// Bytes the receiver got, all of them right.
    pub received: usize,
    /// The receiver got a byte that was never sent.
    pub corrupt: bool,
    /// When the last byte arrived, microseconds.
    pub done_us: Option<u64>,
}

/// UDP datagrams from one pod to another.
pub struct Datagrams {
    /// Sending and receiving pod.
    pub pods: (usize, usize),
    /// Their sockets.
    pub sockets: (SocketHandle, SocketHandle),
    /// Where they go.
    pub to: (IpAddr, u16),
    /// How many to send.
    pub count: usize,
    /// Bytes of each.
    pub size: usize,
    /// Microseconds between two.
    pub gap_us: u64,
    /// Sent so far.
    pub sent: usize,
    /// Received so far.
    pub received: usize,
    /// A datagram was not what was sent.
    pub corrupt: bool,
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

impl Transfer {
    /// Writes and reads what the sockets take and have.
    pub fn drive(&mut self, hosts: &mut [Host], now_us: u64) {
        let socket = hosts[self.pods.0].tcp(self.sockets.0);
        while self.sent < self.bytes && socket.can_send() {
            let (from, left) = (self.sent, self.bytes - self.sent);
            let fill = |room: &mut [u8]| {
                let n = room.len().min(left);
                room[..n].iter_mut().enumerate().for_each(|(i, b)| *b = byte(from + i));
                (n, n)
            };
            match socket.send(fill) {
                Ok(n) if n > 0 => self.sent += n,
                _ => break,
            }
        }
        let socket = hosts[self.pods.1].tcp(self.sockets.1);
        while socket.can_recv() {
            let from = self.received;
            let check = |data: &mut [u8]| {
                (data.len(), (data.len(), data.iter().enumerate().all(|(i, &b)| b == byte(from + i))))
            };
            match socket.recv(check) {
                Ok((n, right)) if n > 0 => {
                    self.received += n;
                    self.corrupt |= !right;
                }
                _ => break,
            }
        }
        if self.received >= self.bytes && self.done_us.is_none() {
            self.done_us = Some(now_us);
        }
    }
}

impl Datagrams {
    /// When the next one is due, microseconds.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.sent < self.count).then_some(self.sent as u64 * self.gap_us)
    }

    /// Sends what is due, reads what came.
    pub fn drive(&mut self, hosts: &mut [Host], now_us: u64) {
        while self.next().is_some_and(|at| at <= now_us) {
            let mut data: Vec<u8> = (0..self.size).map(|i| byte(self.sent * self.size + i)).collect();
            if let Some(number) = data.first_chunk_mut::<4>() {
                *number = (self.sent as u32).to_be_bytes();
            }
            // A full socket loses the datagram here, as an application's non-blocking send does.
            let _ = hosts[self.pods.0].udp(self.sockets.0).send_slice(&data, self.to);
            self.sent += 1;
        }
        let socket = hosts[self.pods.1].udp(self.sockets.1);
        while let Ok((data, _)) = socket.recv() {
            self.received += 1;
            let number = data.first_chunk::<4>().map_or(usize::MAX, |n| u32::from_be_bytes(*n) as usize);
            let right = |(i, &b): (usize, &u8)| b == byte(number.wrapping_mul(self.size) + i);
            self.corrupt |= data.len() != self.size || !data.iter().enumerate().skip(4).all(right);
        }
    }
}
