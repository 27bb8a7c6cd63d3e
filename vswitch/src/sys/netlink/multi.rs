//! Many routes at once, each perhaps over several next hops: what a routing protocol learns.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol, RouteScope, RouteType,
};

use super::addr::family;
use super::route::destination;
use super::{MAIN_TABLE, Netlink, NetlinkError, Operand, Parts, error, receive};

/// The protocol number of routes learned from other routers (beside [`PROTOCOL`](super::PROTOCOL)).
pub const LEARNED: u8 = 0x77;
/// Their priority: after what an administrator or the kernel itself made. Calico's.
const METRIC: u32 = 1024;
/// Messages sent in one go. The kernel carries out all of them before it lets anybody else run on that processor (where
/// it is not preemptible), so they are few.
const BATCH: usize = 24;

/// A learned route as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LearnedRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hops, each with the index of its link, all equally good; none = no such route.
    pub hops: Arc<[(IpAddr, u32)]>,
}

impl Netlink {
    /// Makes learned routes what they should be. Gives those that the kernel refused, by their place; a route that was to
    /// go and was not there is none of them.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn set_learned(&mut self, routes: &[LearnedRoute]) -> Result<Vec<(usize, io::Error)>, NetlinkError> {
        let mut refused = Vec::new();
        for (at, batch) in routes.chunks(BATCH).enumerate() {
            self.set_batch(batch, at * BATCH, &mut refused)
                .map_err(|fault| fault.name("set", Operand::Routes))?;
        }
        Ok(refused)
    }

    fn set_batch(
        &mut self,
        batch: &[LearnedRoute],
        first: usize,
        refused: &mut Vec<(usize, io::Error)>,
    ) -> Result<(), error::Fault> {
        let base = self.sequence.wrapping_add(1).max(1);
        let mut bytes = Vec::new();
        for (i, route) in batch.iter().enumerate() {
            let mut header = NetlinkHeader::default();
            header.sequence_number = base.wrapping_add(i as u32);
            let message = message(route);
            let (kind, flags) = match route.hops.is_empty() {
                true => (RouteNetlinkMessage::DelRoute(message), 0),
                false => (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE),
            };
            // Only refusals are answered, and the last one, so that its answer is the end.
            let ack = if i + 1 == batch.len() { NLM_F_ACK } else { 0 };
            header.flags = NLM_F_REQUEST | flags | ack;
            let mut request = NetlinkMessage::new(header, NetlinkPayload::from(kind));
            request.finalize();
            let at = bytes.len();
            bytes.resize(at + request.buffer_len().next_multiple_of(4), 0);
            request.serialize(&mut bytes[at..]);
        }
        let last = base.wrapping_add(batch.len() as u32).wrapping_sub(1);
        self.sequence = last;
        self.socket.send(&bytes, 0).map_err(error::Fault::Send)?;
        loop {
            let got = receive(&self.socket, &mut self.buffer).map_err(error::Fault::Receive)?;
            for part in Parts(&self.buffer[..got]) {
                let (header, body) = part.map_err(|()| error::Fault::Malformed)?;
                let at = header.sequence_number.wrapping_sub(base) as usize;
                if at >= batch.len() {
                    continue;
                }
                if let Ok(NetlinkPayload::Error(err)) =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(body).map(|m| m.payload)
                    && err.code.is_some()
                {
                    let err = err.to_io();
                    let absent = batch[at].hops.is_empty()
                        && matches!(err.raw_os_error(), Some(libc::ESRCH | libc::ENOENT));
                    if !absent {
                        refused.push((first + at, err));
                    }
                }
                if header.sequence_number == last {
                    return Ok(());
                }
            }
        }
    }

    /// Destinations of the learned routes there are.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn learned(&mut self) -> Result<Vec<IpNet>, NetlinkError> {
        let mut all = Vec::new();
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let mut message = RouteMessage::default();
            message.header.address_family = family(any);
            let request = RouteNetlinkMessage::GetRoute(message);
            all.extend(self.dump(Operand::Routes, &request, |message| match message {
                RouteNetlinkMessage::NewRoute(message)
                    if u8::from(message.header.protocol) == LEARNED
                        && u32::from(message.header.table) == MAIN_TABLE =>
                {
                    destination(&message)
                }
                _ => None,
            })?);
        }
        Ok(all)
    }
}

fn message(route: &LearnedRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.dst.addr());
    header.destination_prefix_length = route.dst.prefix_len();
    header.table = MAIN_TABLE as u8;
    header.protocol = RouteProtocol::from(LEARNED);
    header.kind = RouteType::Unicast;
    header.scope = RouteScope::Universe;
    let attributes = &mut message.attributes;
    if route.dst.prefix_len() != 0 {
        attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    attributes.push(RouteAttribute::Priority(METRIC));
    match &*route.hops {
        [] => {}
        [(via, oif)] => {
            attributes.push(RouteAttribute::Gateway((*via).into()));
            attributes.push(RouteAttribute::Oif(*oif));
        }
        hops => {
            attributes.push(several(hops, false));
        }
    }
    message
}

/// Next hops, each with the index of its link, all equally good (RTA_MULTIPATH; equal weights).
pub(super) fn several(hops: &[(IpAddr, u32)], onlink: bool) -> RouteAttribute {
    let hop = |(via, oif): &(IpAddr, u32)| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = *oif;
        if onlink {
            hop.flags |= RouteNextHopFlags::Onlink;
        }
        hop.attributes.push(RouteAttribute::Gateway((*via).into()));
        hop
    };
    RouteAttribute::MultiPath(hops.iter().map(hop).collect())
}
