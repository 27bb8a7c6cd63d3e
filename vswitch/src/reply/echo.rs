//! Ping: the gateway answers echo requests to its own address.

use encap::{Frag, Frame, Mac, Parsed};
use smoltcp::wire::{
    EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet,
};

use super::error::may_be_told;
use super::{ETH, HOPS, IPV4, IPV6, NoReply, ethernet, ipv4, ipv6, v4, v6};

/// Answers an echo request from the address it was sent to; the caller has found that address to be ours. The reply
/// is as long as the request: a request larger than a small frame needs a large one for its reply.
///
/// # Errors
/// [`NoReply::NotOurs`] for anything but a whole echo request; [`NoReply::Malformed`] for a bad checksum or code, or a
/// source nobody can be reached at; [`NoReply::NoRoom`].
pub fn echo(gateway: Mac, request: &[u8], p: &Parsed, out: &mut Frame) -> Result<(), NoReply> {
    let asks = if p.v6 {
        p.proto == u8::from(IpProtocol::Icmpv6) && p.sport >> 8 == 128
    } else {
        p.proto == u8::from(IpProtocol::Icmp) && p.sport >> 8 == 8
    };
    if !asks || p.frag != Frag::None {
        return Err(NoReply::NotOurs);
    }
    let end = usize::from(p.l3) + p.ip_len as usize;
    let message = request.get(usize::from(p.l4)..end).ok_or(NoReply::Malformed)?;
    if message.len() < 8 || p.sport & 0xff != 0 || p.src_mac.is_multicast() || !may_be_told(p) {
        return Err(NoReply::Malformed);
    }
    out.reset();
    if p.v6 {
        let (src, dst) = (v6(p.src), v6(p.dst));
        if !Icmpv6Packet::new_unchecked(message).verify_checksum(&src, &dst) {
            return Err(NoReply::Malformed);
        }
        let len = ETH + IPV6 + message.len();
        let packet = ethernet(out.spare_mut(), len, p.src_mac, gateway, EthernetProtocol::Ipv6)?;
        let answer = ipv6(packet, dst, src, HOPS);
        answer.copy_from_slice(message);
        let mut answer = Icmpv6Packet::new_unchecked(answer);
        answer.set_msg_type(Icmpv6Message::EchoReply);
        answer.fill_checksum(&dst, &src);
        out.set_len(len);
    } else {
        if !Icmpv4Packet::new_unchecked(message).verify_checksum() {
            return Err(NoReply::Malformed);
        }
        let len = ETH + IPV4 + message.len();
        let packet = ethernet(out.spare_mut(), len, p.src_mac, gateway, EthernetProtocol::Ipv4)?;
        let dscp = Ipv4Packet::new_unchecked(&request[usize::from(p.l3)..]).dscp();
        let answer = ipv4(packet, v4(p.dst), v4(p.src), dscp);
        answer.copy_from_slice(message);
        let mut answer = Icmpv4Packet::new_unchecked(answer);
        answer.set_msg_type(Icmpv4Message::EchoReply);
        answer.fill_checksum();
        out.set_len(len);
    }
    Ok(())
}
