//! What routers' TCP sessions need: MD5 signatures (RFC 2385), and the time to live of what is sent and taken (RFC 5082).

#![expect(unsafe_code, reason = "setsockopt takes a raw pointer to the key")]

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::IpNet;
use socket2::SockAddr;

use super::sockopt::set_int;

/// Longest key, bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const MD5_KEY_MAX: usize = 80;

const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct Md5Sig {
    addr: [u8; size_of::<libc::sockaddr_storage>()],
    flags: u8,
    prefix: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; MD5_KEY_MAX],
}

const _: () = assert!(size_of::<Md5Sig>() == 216);

/// Signs what is sent to neighbours in `range`, and takes from them only what is signed; an empty `key` ends that. On a
/// listener it holds for the connections that come in later.
///
/// # Errors
/// `InvalidInput` for a key longer than [`MD5_KEY_MAX`]; `ENOENT` when there was none to end; `EINVAL` for a range of
/// another family than the socket's; `ENOPROTOOPT` where the kernel was built without.
pub fn set_md5(socket: impl AsFd, range: IpNet, key: &[u8]) -> io::Result<()> {
    let key_len = u16::try_from(key.len()).ok().filter(|_| key.len() <= MD5_KEY_MAX);
    let key_len = key_len.ok_or(io::ErrorKind::InvalidInput)?;
    let addr = SockAddr::from(std::net::SocketAddr::new(range.network(), 0));
    let mut sig = Md5Sig {
        addr: [0; size_of::<libc::sockaddr_storage>()],
        flags: TCP_MD5SIG_FLAG_PREFIX,
        prefix: range.prefix_len(),
        key_len,
        ifindex: 0,
        key: [0; MD5_KEY_MAX],
    };
    sig.key[..key.len()].copy_from_slice(key);
    // SAFETY: a `SockAddr` of a `SocketAddr` has `len` initialized bytes, at most those of a `sockaddr_storage`.
    let bytes = unsafe { std::slice::from_raw_parts(addr.as_ptr().cast::<u8>(), addr.len() as usize) };
    sig.addr[..bytes.len()].copy_from_slice(bytes);
    let len = size_of::<Md5Sig>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `sig`, which is that long, without padding, and alive.
    let r = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_MD5SIG_EXT,
            (&raw const sig).cast(),
            len,
        )
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The time to live, or hop limit, of what is sent to `peer`'s family.
///
/// # Errors
/// When the socket is of another family.
pub fn set_ttl(socket: BorrowedFd<'_>, peer: IpAddr, ttl: u8) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => set_int(socket, libc::IPPROTO_IP, libc::IP_TTL, ttl.into()),
        IpAddr::V6(_) => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl.into()),
    }
}

/// Takes nothing whose time to live, or hop limit, is less on arrival.
///
/// # Errors
/// When the socket is of another family.
pub fn set_min_ttl(socket: BorrowedFd<'_>, peer: IpAddr, ttl: u8) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => set_int(socket, libc::IPPROTO_IP, IP_MINTTL, ttl.into()),
        IpAddr::V6(_) => set_int(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    fn dial(to: SocketAddr, key: &[u8], ttl: u8) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if !key.is_empty() {
            set_md5(&socket, IpNet::from(to.ip()), key)?;
        }
        set_ttl(socket.as_fd(), to.ip(), ttl)?;
        socket.connect_timeout(&to.into(), Duration::from_millis(600))?;
        Ok(socket)
    }

    #[test]
    fn only_the_right_key_connects() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let at = listener.local_addr().unwrap();
            let range = IpNet::new(at.ip(), 8).unwrap().trunc();
            set_md5(&listener, range, b"right").unwrap();
            dial(at, b"right", 64).unwrap();
            for wrong in [b"wrong".as_slice(), b""] {
                assert_eq!(dial(at, wrong, 64).unwrap_err().kind(), io::ErrorKind::TimedOut, "{any}");
            }
            set_md5(&listener, range, b"").unwrap();
            dial(at, b"", 64).unwrap();
            assert!(set_md5(&listener, range, b"").is_err(), "there is none any more");
            assert!(set_md5(&listener, range, &[1; MD5_KEY_MAX + 1]).is_err());
        }
    }

    #[test]
    fn what_came_too_far_is_not_taken() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let at = listener.local_addr().unwrap();
            set_min_ttl(listener.as_fd(), at.ip(), 255).unwrap();
            dial(at, b"", 255).unwrap();
            assert!(dial(at, b"", 254).is_err(), "{any}");
        }
    }
}
