//! Routing netlink, blocking: links, addresses, routes, neighbours, and a monitor of their changes.
//!
//! The only place of the workspace that speaks netlink. A [`Netlink`] socket belongs to the network namespace of the
//! thread that opened it, for good, and to one owner; every call is one request and waits for its answer. Nothing is
//! cached. Never used on a worker thread.

mod addr;
mod error;
mod link;
mod monitor;
mod multi;
mod neigh;
mod nft;
mod route;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use self::addr::Addr;
pub use self::error::{NetlinkError, Operand};
pub use self::link::{Link, LinkChange};
pub use self::monitor::{Event, Groups, Monitor};
pub use self::multi::{LEARNED, LearnedRoute};
pub use self::neigh::Neighbour;
pub use self::nft::NftMonitor;
pub use self::route::{MAIN_TABLE, PROTOCOL, Route, RouteFilter, RouteKind};

/// A dump interrupted by changes is taken again this often before its last state is good enough.
const DUMP_TRIES: u32 = 8;

/// A request socket in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        // Old kernels lack either; the dumps are then filtered here all the same.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// One request that changes something and is acknowledged.
    fn change(
        &mut self,
        verb: &'static str,
        what: impl FnOnce() -> Operand,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let result = self.transact(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ());
        result.map(drop).map_err(|fault| fault.name(verb, what()))
    }

    /// One request that is answered by one message.
    fn get<T>(
        &mut self,
        what: impl FnOnce() -> Operand,
        message: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut found = None;
        let result =
            self.transact(message, NLM_F_REQUEST | NLM_F_ACK, |m| found = found.take().or_else(|| take(m)));
        result.map_err(|fault| fault.name("look up", what()))?;
        Ok(found)
    }

    /// One request that is answered by many messages, whole: repeated when the kernel's tables changed meanwhile.
    fn dump<T>(
        &mut self,
        what: Operand,
        message: &RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut all = Vec::new();
        for _ in 0..DUMP_TRIES {
            all.clear();
            let result = self.transact(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, |m| all.extend(take(m)));
            match result {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => return Err(fault.name("list", what)),
            }
        }
        Ok(all)
    }

    /// Sends one request and reads until its end; says whether a dump was interrupted. A message that the decoder
    /// does not know is passed over: an exotic device must not hide the others.
    fn transact(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, error::Fault> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(error::Fault::Send)?;
        let mut interrupted = false;
        loop {
            let got = receive(&self.socket, &mut self.buffer).map_err(error::Fault::Receive)?;
            for part in Parts(&self.buffer[..got]) {
                let (header, body) = part.map_err(|()| error::Fault::Malformed)?;
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(body).map(|m| m.payload) {
                    Ok(NetlinkPayload::Done(_)) => return Ok(interrupted),
                    Ok(NetlinkPayload::Error(err)) if err.code.is_none() => return Ok(interrupted),
                    Ok(NetlinkPayload::Error(err)) => return Err(error::Fault::Kernel(err.to_io())),
                    Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

/// Reads one datagram into `buffer`, which grows to hold it whole.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let need = super::retry_eintr(|| socket.recv(&mut &mut buffer[..], libc::MSG_PEEK | libc::MSG_TRUNC))?;
    if need > buffer.len() {
        buffer.resize(need, 0);
    }
    super::retry_eintr(|| socket.recv(&mut &mut buffer[..], 0))
}

/// The netlink messages of one datagram, each with its header.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(NetlinkHeader, &'a [u8]), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = self.0.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
        if length < 16 || length > self.0.len() {
            self.0 = &[];
            return Some(Err(()));
        }
        let (body, _) = self.0.split_at(length);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let word = |at: usize| u16::from_ne_bytes([body[at], body[at + 1]]);
        let long = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        let mut header = NetlinkHeader::default();
        header.length = length as u32;
        header.message_type = word(4);
        header.flags = word(6);
        header.sequence_number = long(8);
        header.port_number = long(12);
        Some(Ok((header, body)))
    }
}

#[cfg(test)]
mod tests;
