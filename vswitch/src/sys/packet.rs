//! `AF_PACKET`: whole Ethernet frames to and from one interface, past the host's own stack.
//!
//! A socket either sends, each frame behind a virtio header so that super-frames and partial checksums stay whole
//! (plain routing to peers), or listens (start-up probes, captures). The host's firewall does not see what is sent.

#![expect(unsafe_code, reason = "sockaddr_ll has no safe constructor; bind and recvfrom take raw pointers")]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::sockopt;

const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_OUTGOING: u8 = 4;

/// Bytes of virtio header in front of every sent frame.
pub const VNET_LEN: usize = 10;

/// A packet socket on one interface, non-blocking.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

/// A frame as a listener sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Bytes of the frame on the device; more than the buffer holds when it was cut off.
    pub len: usize,
    /// This host sent it.
    pub outgoing: bool,
}

impl PacketSocket {
    /// A socket that only sends.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
    pub fn sender(index: u32) -> io::Result<Self> {
        let socket = Self::open(0)?;
        sockopt::set_int(socket.fd.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        socket.bind(index, 0)?;
        Ok(socket)
    }

    /// A socket that gets a copy of every frame of the interface, both ways, after the kernel segmented what the
    /// device cannot. No virtio headers. Give it a filter when the interface may be busy.
    ///
    /// # Errors
    /// As [`Self::sender`].
    pub fn listener(index: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing until `bind` says otherwise: no frame of another interface slips in.
        let socket = Self::open(0)?;
        socket.bind(index, libc::ETH_P_ALL as u16)?;
        Ok(socket)
    }

    /// Lets only UDP datagrams to one port through (IPv4 without options, or IPv6 without extension headers). Whatever
    /// came in before is forgotten.
    ///
    /// # Errors
    /// What `SO_ATTACH_FILTER` says.
    pub fn only_udp_to(&self, v6: bool, port: u16) -> io::Result<()> {
        let (ethertype, next, dport) = if v6 { (0x86dd, 20, 56) } else { (0x0800, 23, 36) };
        let op = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let load = |size: u32, at| op(libc::BPF_LD | size | libc::BPF_ABS, 0, at);
        let equals = |k, jf| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jf, k);
        let mut program = [
            load(libc::BPF_H, 12),
            equals(ethertype, 5),
            load(libc::BPF_B, next),
            equals(17, 3),
            load(libc::BPF_H, dport),
            equals(u32::from(port), 1),
            op(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
            op(libc::BPF_RET | libc::BPF_K, 0, 0),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the kernel copies `filter` and the program it points at; both are alive over the call.
        let r = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if r < 0 {
            return Err(io::Error::last_os_error());
        }
        while self.recv(&mut [0; 64]).is_ok() {}
        Ok(())
    }

    /// Sends one frame: the first [`VNET_LEN`] bytes of `pieces` are its virtio header, little endian.
    ///
    /// # Errors
    /// `EINVAL` for a header that lies, `EMSGSIZE` for a frame over the MTU that is no super-frame, `ENOBUFS` or
    /// `WouldBlock` without room, `ENETDOWN` on an interface that is down.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        super::retry_eintr(|| Ok(rustix::io::writev(&self.fd, pieces)?)).map(drop)
    }

    /// Receives one frame, as much of it as fits into `buffer`.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits, `ENETDOWN` once when the interface went down.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Seen> {
        // SAFETY: all-zero is a valid `sockaddr_ll`: integers and a byte array.
        let mut from: libc::sockaddr_ll = unsafe { zeroed() };
        let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let len = super::retry_eintr(|| {
            // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer` and `size` bytes to `from`; both are
            // alive over the call.
            let n = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_TRUNC,
                    (&raw mut from).cast(),
                    &raw mut size,
                )
            };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })?;
        Ok(Seen { len, outgoing: from.sll_pkttype == PACKET_OUTGOING })
    }

    fn open(protocol: u16) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, libc::c_int::from(protocol.to_be())) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn bind(&self, index: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: all-zero is a valid `sockaddr_ll`: integers and a byte array.
        let mut addr: libc::sockaddr_ll = unsafe { zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = protocol.to_be();
        addr.sll_ifindex = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads `size` bytes of `addr`, which is that long and alive.
        let r = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const addr).cast(), size) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::Netlink;
    use crate::sys::netns;

    /// Runs with a veth pair `a`-`b`, both up, and their indices.
    fn with_veth(test: impl FnOnce(u32, u32) + Send) {
        netns::in_new(|| {
            let mut nl = Netlink::open().unwrap();
            nl.add_veth("a", "b").unwrap();
            let (a, b) = (nl.link("a").unwrap().index, nl.link("b").unwrap().index);
            nl.set_up(a, true).unwrap();
            nl.set_up(b, true).unwrap();
            // The kernel starts the queues a moment after the links are up, and drops what comes before.
            for index in [a, b] {
                let mut tries = 0;
                while !nl.link_by_index(index).unwrap().running {
                    tries += 1;
                    assert!(tries < 1000, "the veth pair does not start");
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            test(a, b);
        })
        .unwrap();
    }

    /// A UDP datagram with `payload` bytes to port 9, without checksums: nobody delivers it.
    fn datagram(payload: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
        frame.extend(((28 + payload) as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9]);
        frame.extend(((8 + payload) as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(42 + payload, 0x5a);
        frame
    }

    fn next(socket: &PacketSocket) -> Option<Seen> {
        let mut buffer = [0; 64];
        for _ in 0..100 {
            match socket.recv(&mut buffer) {
                Ok(seen) => return Some(seen),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(err) => panic!("{err}"),
            }
        }
        None
    }

    #[test]
    fn frames_go_out_and_are_seen_at_both_ends() {
        with_veth(|a, b| {
            let (here, there) = (PacketSocket::listener(a).unwrap(), PacketSocket::listener(b).unwrap());
            for socket in [&here, &there] {
                socket.only_udp_to(false, 9).unwrap();
            }
            let frame = datagram(100);
            let sender = PacketSocket::sender(a).unwrap();
            sender.send(&[IoSlice::new(&[0; VNET_LEN]), IoSlice::new(&frame)]).unwrap();
            assert_eq!(next(&here), Some(Seen { len: 142, outgoing: true }));
            assert_eq!(next(&there), Some(Seen { len: 142, outgoing: false }));
            assert_eq!(sender.recv(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let mut other = frame;
            other[37] = 10;
            sender.send(&[IoSlice::new(&[0; VNET_LEN]), IoSlice::new(&other)]).unwrap();
            assert_eq!(next(&there), None, "the filter lets one port through");
        });
    }

    #[test]
    fn a_super_frame_stays_whole_where_the_device_can_and_a_long_plain_one_is_refused() {
        with_veth(|a, b| {
            let there = PacketSocket::listener(b).unwrap();
            there.only_udp_to(false, 9).unwrap();
            let sender = PacketSocket::sender(a).unwrap();
            let frame = datagram(14_000);
            let plain = sender.send(&[IoSlice::new(&[0; VNET_LEN]), IoSlice::new(&frame)]);
            assert_eq!(plain.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
            // NEEDS_CSUM, UDP_L4, headers 42, segments of 1,400, checksum at 34 + 6.
            let header = [1, 5, 42, 0, 0x78, 5, 34, 0, 6, 0];
            sender.send(&[IoSlice::new(&header), IoSlice::new(&frame)]).unwrap();
            assert_eq!(next(&there), Some(Seen { len: 14_042, outgoing: false }));
        });
    }

    #[test]
    fn no_such_interface() {
        netns::in_new(|| {
            assert_eq!(PacketSocket::listener(4711).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        })
        .unwrap();
    }
}
