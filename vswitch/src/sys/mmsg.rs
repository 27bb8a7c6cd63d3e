//! `recvmmsg` and `sendmmsg` on UDP sockets, with the `UDP_GRO` and `UDP_SEGMENT` control messages.
//!
//! [`RecvBatch`] and [`SendBatch`] hold the header arrays the kernel wants; they are made once and never allocate
//! again. Pointers into the caller's buffers are written at the start of a call and mean nothing after it. Calls
//! never block (`MSG_DONTWAIT`). One owner each: a worker's receiving or sending half.

#![expect(
    unsafe_code,
    reason = "mmsghdr arrays hold raw pointers; all are built and consumed within one call"
)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Room for one control message with an `int`, aligned as `cmsghdr` wants it.
type Control = [u64; 4];

/// What the kernel says about one received buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// The sender.
    pub addr: SocketAddr,
    /// Bytes in the buffer.
    pub len: usize,
    /// The segment size `UDP_GRO` reports, 0 when it reports none.
    pub stride: usize,
    /// The buffer was too small and the rest is lost.
    pub truncated: bool,
}

/// The arrays for receiving up to a fixed number of buffers in one call. They may lie in memory that outlives the process:
/// what a call received and its caller was not done with is then [`left`](Self::left).
pub struct RecvBatch {
    memory: Memory,
    capacity: usize,
}

/// Words, so that the arrays in them are aligned: a tag, and for each buffer its [`Slot`].
enum Memory {
    Own(Box<[u64]>),
    Lent(&'static mut [u64]),
}

/// What the kernel reads and writes for one buffer.
#[repr(C)]
struct Slot {
    name: libc::sockaddr_storage,
    control: Control,
    piece: libc::iovec,
}

/// Words before the arrays.
const TAG: usize = 1;
const HEADER: usize = size_of::<libc::mmsghdr>() / 8;
const SLOT: usize = size_of::<Slot>() / 8;
const _: () = assert!(size_of::<libc::mmsghdr>().is_multiple_of(8) && align_of::<libc::mmsghdr>() <= 8);
const _: () = assert!(size_of::<Slot>().is_multiple_of(8) && align_of::<Slot>() <= 8);

impl RecvBatch {
    /// Arrays for at most `capacity` buffers a call (1 to 1,024).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1024);
        Self { memory: Memory::Own(vec![0; Self::words(capacity)].into()), capacity }
    }

    /// The same in the first [`words`](Self::words) of this memory, with what is [`left`](Self::left) there.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn lent(memory: &'static mut [u64], capacity: usize) -> Self {
        assert!(memory.len() >= Self::words(capacity), "memory for {capacity} buffers");
        Self { memory: Memory::Lent(memory), capacity }
    }

    /// Words that arrays for so many buffers take.
    #[must_use]
    pub const fn words(capacity: usize) -> usize {
        TAG + capacity * (HEADER + SLOT)
    }

    /// A number of the owner's, about what it receives from now on.
    pub fn tag(&mut self, tag: u64) {
        self.memory.words()[0] = tag;
    }

    /// Its caller is done with the `count` buffers that the last call filled.
    pub fn done(&mut self, count: usize) {
        self.arrays().0.iter_mut().take(count).for_each(|header| header.msg_len = 0);
    }

    /// The tag, and what the last call received and nobody was done with, with the buffers' numbers.
    pub fn left(&mut self) -> (u64, Vec<(usize, Received)>) {
        let tag = self.memory.words()[0];
        let (headers, slots) = self.arrays();
        let filled = headers.iter_mut().zip(slots).enumerate().filter(|(_, (header, _))| header.msg_len > 0);
        let left = filled.map(|(index, (header, slot))| {
            // The addresses in it are another process's.
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = header.msg_hdr.msg_controllen.min(size_of::<Control>());
            (index, received(header, slot))
        });
        (tag, left.collect())
    }

    fn arrays(&mut self) -> (&mut [libc::mmsghdr], &mut [Slot]) {
        let (headers, slots) = self.memory.words()[TAG..][..self.capacity * (HEADER + SLOT)]
            .split_at_mut(self.capacity * HEADER);
        // SAFETY: both types consist of integers and raw pointers, for which any bits will do, have whole words as their
        // sizes and need no larger alignment (asserted above); the words are as many as the elements take, and are borrowed
        // for as long.
        unsafe {
            (
                std::slice::from_raw_parts_mut(headers.as_mut_ptr().cast(), self.capacity),
                std::slice::from_raw_parts_mut(slots.as_mut_ptr().cast(), self.capacity),
            )
        }
    }

    /// Receives one datagram, or one `UDP_GRO` train, into each of the first buffers; hands what it is to `each`
    /// with the buffer's index, in order, and returns how many there were.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits; pending ICMP errors of a connected socket, such as `ECONNREFUSED`.
    pub fn recv<'b>(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: impl Iterator<Item = &'b mut [u8]>,
        mut each: impl FnMut(usize, Received),
    ) -> io::Result<usize> {
        let mut count = 0;
        let (headers, slots) = self.arrays();
        for ((header, slot), buffer) in headers.iter_mut().zip(&mut *slots).zip(buffers) {
            slot.piece.iov_base = buffer.as_mut_ptr().cast();
            slot.piece.iov_len = buffer.len();
            header.msg_len = 0;
            let msg = &mut header.msg_hdr;
            msg.msg_name = ptr::from_mut(&mut slot.name).cast();
            msg.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            msg.msg_iov = &raw mut slot.piece;
            msg.msg_iovlen = 1;
            msg.msg_control = slot.control.as_mut_ptr().cast();
            msg.msg_controllen = size_of::<Control>();
            msg.msg_flags = 0;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let got = super::retry_eintr(|| {
            // SAFETY: `headers[..count]` point into `slots`, which lie in the memory of `self` and do not move, and
            // through their pieces at the caller's distinct buffers, borrowed for `'b`.
            let n = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })?;
        for (index, (header, slot)) in headers.iter().zip(&*slots).take(got).enumerate() {
            each(index, received(header, slot));
        }
        Ok(got)
    }
}

impl Memory {
    fn words(&mut self) -> &mut [u64] {
        match self {
            Memory::Own(words) => words,
            Memory::Lent(words) => words,
        }
    }
}

/// What the kernel wrote about one buffer.
fn received(header: &libc::mmsghdr, slot: &Slot) -> Received {
    Received {
        addr: from_storage(&slot.name),
        len: header.msg_len as usize,
        stride: stride(&header.msg_hdr),
        truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
    }
}

/// One outgoing message: the datagrams of a train end to end, or a single one.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it goes.
    pub dst: &'a SocketAddr,
    /// Its bytes, piece by piece; at most 1,024 pieces.
    pub parts: &'a [IoSlice<'a>],
    /// Bytes per datagram of a train, 0 for a single datagram.
    pub segment: u16,
}

/// The arrays for sending up to a fixed number of messages in one call.
pub struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers in `headers` are only followed inside `send`, which sets them all first.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Arrays for at most `capacity` messages a call (1 to 1,024).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1024);
        // SAFETY: all-zero is a valid value of these C structures: integers and null pointers.
        let (header, name) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::sockaddr_storage>()) };
        Self {
            headers: vec![header; capacity].into(),
            names: vec![name; capacity].into(),
            controls: vec![[0; 4]; capacity].into(),
        }
    }

    /// Messages a call can take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Sends the messages in order, stopping at the first the kernel refuses; returns how many it took. At most
    /// [`Self::capacity`] are looked at.
    ///
    /// # Errors
    /// What the kernel said about the first message, when it took none: `WouldBlock` for a full socket buffer, `EIO`
    /// or `EINVAL` where it cannot segment, `EMSGSIZE` for a datagram too large.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Message<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        let arrays = self.headers.iter_mut().zip(&mut *self.names).zip(&mut *self.controls);
        for (((header, name), control), message) in arrays.zip(messages) {
            header.msg_len = 0;
            let msg = &mut header.msg_hdr;
            msg.msg_namelen = to_storage(message.dst, name);
            msg.msg_name = ptr::from_mut(name).cast();
            // An `IoSlice` is ABI-compatible with `iovec`; sending only reads through it.
            msg.msg_iov = message.parts.as_ptr().cast_mut().cast();
            msg.msg_iovlen = message.parts.len();
            msg.msg_control = ptr::null_mut();
            msg.msg_controllen = 0;
            msg.msg_flags = 0;
            if message.segment != 0 {
                msg.msg_control = control.as_mut_ptr().cast();
                // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the control buffer has 32 bytes, one message with a
                // `u16` needs 24, and CMSG_FIRSTHDR and CMSG_DATA stay inside it.
                unsafe {
                    msg.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                    let cmsg = libc::CMSG_FIRSTHDR(msg);
                    (*cmsg).cmsg_level = libc::SOL_UDP;
                    (*cmsg).cmsg_type = libc::UDP_SEGMENT;
                    (*cmsg).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                    ptr::write_unaligned(libc::CMSG_DATA(cmsg).cast::<u16>(), message.segment);
                }
            }
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        super::retry_eintr(|| {
            // SAFETY: `headers[..count]` point at `names` and `controls`, which live in boxes of `self` and do not
            // move, and at the callers' pieces, borrowed for `'a`, which outlives this call; the kernel only reads.
            let n = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })
    }
}

/// The `UDP_GRO` segment size among a received message's control messages, 0 when there is none.
fn stride(msg: &libc::msghdr) -> usize {
    // SAFETY: the kernel filled `msg_control[..msg_controllen]` with whole control messages and the buffer is alive;
    // the CMSG functions walk inside it, and a UDP_GRO message carries an `int`.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(msg);
        while !cmsg.is_null() {
            let is_gro = (*cmsg).cmsg_level == libc::SOL_UDP && (*cmsg).cmsg_type == libc::UDP_GRO;
            if is_gro && (*cmsg).cmsg_len >= libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as usize {
                let size = ptr::read_unaligned(libc::CMSG_DATA(cmsg).cast::<libc::c_int>());
                return usize::try_from(size).unwrap_or(0);
            }
            cmsg = libc::CMSG_NXTHDR(msg, cmsg);
        }
    }
    0
}

/// Writes a socket address in the kernel's form; returns its length.
fn to_storage(addr: &SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than and at least as aligned as every socket address.
            unsafe { ptr::from_mut(storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::from_mut(storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads a socket address in the kernel's form; an unknown family (which no UDP socket yields) reads as 0.0.0.0:0.
fn from_storage(storage: &libc::sockaddr_storage) -> SocketAddr {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`; size and alignment as above.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`; size and alignment as above.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id).into()
        }
        _ => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests;
