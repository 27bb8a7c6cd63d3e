//! Socket options that socket2 does not know: UDP segmentation and coalescing, forced buffer sizes, path MTU
//! discovery, choice among a group's sockets, the credentials of a Unix peer.

#![expect(unsafe_code, reason = "getsockopt and setsockopt take raw pointers")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `IP_PMTUDISC_DONT`: send without DF, let routers fragment. Same number for IPv6.
const PMTUDISC_DONT: libc::c_int = 0;

/// Whether this kernel can cut one UDP send into datagrams (`UDP_SEGMENT`, Linux 4.18).
#[must_use]
pub fn has_udp_segment(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// Asks for received datagrams of one sender to be joined into trains (`UDP_GRO`, Linux 5.0), or not.
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel.
pub fn set_udp_gro(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, libc::c_int::from(on))
}

/// Sets both socket buffers to `bytes`, past the system's limit where the process may (`CAP_NET_ADMIN`), else up to
/// it. Returns what the kernel then has, receive and send; it doubles the number for its own bookkeeping.
///
/// # Errors
/// When even the ordinary options are refused.
pub fn set_buffers(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<(usize, usize)> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let set = |force, ordinary| {
        set_int(socket, libc::SOL_SOCKET, force, bytes)
            .or_else(|_| set_int(socket, libc::SOL_SOCKET, ordinary, bytes))
    };
    set(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
    set(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
    let get = |name| get_int(socket, libc::SOL_SOCKET, name).map(|n| usize::try_from(n).unwrap_or(0));
    Ok((get(libc::SO_RCVBUF)?, get(libc::SO_SNDBUF)?))
}

/// Turns path MTU discovery off: datagrams go out without DF and the host may fragment them. For tunnel sockets,
/// whose inner packets carry their own DF.
///
/// # Errors
/// When the socket is not of the family that `v6` says.
pub fn allow_fragments(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, PMTUDISC_DONT)
    } else {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PMTUDISC_DONT)
    }
}

/// Sends as large as the first link takes, whatever the kernel knows of the path, and never in fragments
/// (`IP_PMTUDISC_PROBE`). DF is set, but where the caller writes the IP header itself.
///
/// # Errors
/// When the socket is not of the family that `v6` says.
pub fn probe_path(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
    } else {
        set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }
}

/// Lets a classic BPF program choose among the sockets of a group (`SO_REUSEPORT`, Linux 4.5): it sees a datagram's
/// payload and returns the socket's number in the order of binding. Any socket of the group speaks for all; a later
/// program takes the place of an earlier one.
///
/// # Errors
/// `EINVAL` for a program that is none, or a socket that shares no port.
pub fn choose_by(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the `sock_fprog` and the `len` instructions it points to, all alive, and writes nothing.
    let r = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Who is at the other end of a Unix socket, as it was when it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCred {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The credentials of a Unix socket's peer (`SO_PEERCRED`).
///
/// # Errors
/// When it is no connected Unix socket.
pub fn peer_cred(socket: impl AsFd) -> io::Result<PeerCred> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCred { pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw(), gid: cred.gid.as_raw() })
}

/// Sets an option that is one `int`.
///
/// # Errors
/// What `setsockopt` says.
pub fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which is that long and alive.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads an option that is one `int`.
pub(crate) fn get_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which is that long and alive.
    let r =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn udp_options_take() {
        let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(has_udp_segment(v4.as_fd()));
        set_udp_gro(v4.as_fd(), true).unwrap();
        allow_fragments(v4.as_fd(), false).unwrap();
        assert_eq!(get_int(v4.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap(), PMTUDISC_DONT);
        let v6 = UdpSocket::bind("[::1]:0").unwrap();
        allow_fragments(v6.as_fd(), true).unwrap();
        assert_eq!(get_int(v6.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER).unwrap(), PMTUDISC_DONT);
        assert!(allow_fragments(v4.as_fd(), true).is_err());
    }

    #[test]
    fn buffers_grow_past_the_limit() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (rcv, snd) = set_buffers(socket.as_fd(), 8 << 20).unwrap();
        assert_eq!((rcv, snd), (16 << 20, 16 << 20));
    }

    #[test]
    fn a_unix_peer_has_credentials_and_an_udp_socket_does_not() {
        let (a, _b) = UnixStream::pair().unwrap();
        let cred = peer_cred(&a).unwrap();
        assert_eq!(cred.pid, std::process::id().cast_signed());
        assert_eq!(cred.uid, rustix::process::getuid().as_raw());
        assert!(!has_udp_segment(a.as_fd()));
    }
}
