//! The kinds of encapsulation, and everything that depends on the kind alone.

use crate::ETH_LEN;
use crate::frame::Frame;
use crate::ipip::{self, IPIP_LEN, IpipError};
use crate::udp::{self, UdpError};
use crate::vxlan::{self, VXLAN_LEN, VxlanError};

/// How frames to a peer are wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tunnel {
    /// VXLAN (RFC 7348) in segment `vni`.
    Vxlan {
        /// 24 bits.
        vni: u32,
    },
    /// Bare IP in UDP (flannel's udp backend).
    Udp,
    /// IP in IPv4 (RFC 2003, RFC 4213).
    Ipip,
}

/// A [`Tunnel`] without its parameters: which kind of socket its packets come and go by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Form {
    /// UDP with a VXLAN header.
    Vxlan,
    /// UDP with nothing before the packet.
    Udp,
    /// IPv4 itself.
    Ipip,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Vxlan, Form::Udp, Form::Ipip];

    /// The name as configuration and reports have it.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Vxlan => "vxlan",
            Form::Udp => "udp",
            Form::Ipip => "ipip",
        }
    }
}

/// Why a datagram is not of this tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TunnelError {
    /// Not a VXLAN packet we take.
    #[error(transparent)]
    Vxlan(#[from] VxlanError),
    /// A VXLAN packet of another segment.
    #[error("VXLAN packet of segment {0}")]
    WrongVni(u32),
    /// Not a bare IP packet.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// Not IP in IP.
    #[error(transparent)]
    Ipip(#[from] IpipError),
}

impl Tunnel {
    /// Its form.
    pub const fn form(self) -> Form {
        match self {
            Self::Vxlan { .. } => Form::Vxlan,
            Self::Udp => Form::Udp,
            Self::Ipip => Form::Ipip,
        }
    }

    /// Whether IPv6 packets fit in: flannel's UDP form has no place for them.
    pub const fn carries_v6(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Bytes by which the pod's MTU is smaller than the underlay's: outer IP and UDP, the tunnel header, and the inner
    /// Ethernet header when it travels along. IP in IP has no outer IPv6.
    pub const fn overhead(self, v6_outer: bool) -> u16 {
        let outer = if v6_outer { 48 } else { 28 };
        match self {
            Self::Vxlan { .. } => outer + VXLAN_LEN as u16 + ETH_LEN as u16,
            Self::Udp => outer,
            Self::Ipip => IPIP_LEN as u16,
        }
    }

    /// The bytes that stand between the UDP header and the inner packet, and how many of them there are. None for
    /// [`Tunnel::Ipip`], whose outer header is another for every packet: [`ipip::header`].
    pub const fn prefix(self) -> ([u8; VXLAN_LEN], usize) {
        match self {
            Self::Vxlan { vni } => (vxlan::header(vni), VXLAN_LEN),
            Self::Udp | Self::Ipip => ([0; VXLAN_LEN], 0),
        }
    }

    /// Bytes of a frame that do not travel: the Ethernet header of bare IP.
    pub const fn strip(self) -> usize {
        match self {
            Self::Vxlan { .. } => 0,
            Self::Udp | Self::Ipip => ETH_LEN,
        }
    }

    /// Wraps a frame in place: afterwards its data is the UDP payload, or the inner packet of IP in IP, to which the
    /// sender adds the outer header. False, and nothing done, when this tunnel cannot
    /// carry it (bare IP takes IP only).
    #[inline]
    pub fn push(self, frame: &mut Frame) -> bool {
        match self {
            Self::Vxlan { vni } => {
                vxlan::push(frame, vni);
                true
            }
            Self::Udp | Self::Ipip => udp::strip(frame),
        }
    }

    /// Where the inner packet starts in a received datagram (for [`Tunnel::Ipip`]: in a whole outer packet). But for
    /// VXLAN it is an IP packet without Ethernet.
    ///
    /// # Errors
    /// When the datagram is not of this tunnel.
    #[inline]
    pub fn pull(self, datagram: &[u8]) -> Result<usize, TunnelError> {
        match self {
            Self::Vxlan { vni } => match vxlan::parse(datagram)? {
                (found, at) if found == vni => Ok(at),
                (found, _) => Err(TunnelError::WrongVni(found)),
            },
            Self::Udp => Ok(udp::check(datagram).map(|_| 0)?),
            Self::Ipip => Ok(ipip::parse(datagram)?.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overheads_are_the_documented_ones() {
        let vxlan = Tunnel::Vxlan { vni: 1 };
        assert_eq!((vxlan.overhead(false), vxlan.overhead(true)), (50, 70));
        assert_eq!((Tunnel::Udp.overhead(false), Tunnel::Udp.overhead(true)), (28, 48));
        assert_eq!(Tunnel::Ipip.overhead(false), 20);
    }

    #[test]
    fn only_its_own_segment() {
        let mut frame = Frame::with_capacity(64);
        assert!(frame.copy_from(&[7; 20]));
        let (one, two) = (Tunnel::Vxlan { vni: 1 }, Tunnel::Vxlan { vni: 2 });
        assert!(one.push(&mut frame));
        assert_eq!(frame.data()[..8], one.prefix().0);
        assert_eq!(one.pull(frame.data()), Ok(8));
        assert_eq!(two.pull(frame.data()), Err(TunnelError::WrongVni(1)));
        assert_eq!(Tunnel::Udp.pull(frame.data()), Err(TunnelError::Udp(UdpError::Version(0))));
        assert!(!Tunnel::Udp.push(&mut frame));
        assert_eq!(one.pull(&[8]), Err(TunnelError::Vxlan(VxlanError::Truncated)));
    }
}
