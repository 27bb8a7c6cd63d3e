//! Messages with descriptors over a Unix socket pair: what the keeper and the switch speak.
//!
//! `SOCK_SEQPACKET` keeps message borders, so one [`send`] is one [`recv`]. Received descriptors are close-on-exec.
//! A message that does not fit, bytes or descriptors, is an error and never a part of a message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Descriptors that one message can carry (the kernel's own limit is 253).
pub const MAX_FDS: usize = 64;

/// Two connected ends, close-on-exec, blocking.
///
/// # Errors
/// What `socketpair` says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with the descriptors `fds`, which stay the caller's.
///
/// # Errors
/// `InvalidInput` for more than [`MAX_FDS`] descriptors or an empty message (which would read as the end);
/// `BrokenPipe` when the other end is closed; `WouldBlock` on a full, non-blocking socket.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || bytes.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = super::retry_eintr(|| {
        Ok(rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message into `buffer`: its length and its descriptors. Length 0 is the end: the other side closed.
///
/// # Errors
/// `InvalidData` when the message was longer than `buffer` or carried more than [`MAX_FDS`] descriptors; those that
/// came are closed. `WouldBlock` on an empty, non-blocking socket.
pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = super::retry_eintr(|| {
        let mut pieces = [IoSliceMut::new(&mut *buffer)];
        Ok(rustix::net::recvmsg(&socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?)
    })?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_keep_their_borders_and_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&a, b"first", &[writer.as_fd(), writer.as_fd()]).unwrap();
        send(&a, b"second", &[]).unwrap();
        drop(writer);
        let mut buffer = [0; 64];
        let (n, fds) = recv(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"first"[..], 2));
        let mut fds = fds.into_iter();
        let fd = fds.next().unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        std::fs::File::from(fd).write_all(b"through").unwrap();
        drop(fds);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let (n, fds) = recv(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"second"[..], 0));
        drop(a);
        assert_eq!(recv(&b, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn too_much_is_an_error_and_leaks_nothing() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(&a, b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let many = vec![writer.as_fd(); MAX_FDS + 1];
        assert_eq!(send(&a, b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        send(&a, &[7; 100], &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(recv(&b, &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the descriptor that came is closed again");
        drop(b);
        assert_eq!(send(&a, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn as_many_as_promised_fit() {
        let (a, b) = pair().unwrap();
        send(&a, b"x", &vec![a.as_fd(); MAX_FDS]).unwrap();
        assert_eq!(recv(&b, &mut [0; 8]).unwrap().1.len(), MAX_FDS);
    }
}
