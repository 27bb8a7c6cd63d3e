//! Whole frames in and out of a TAP descriptor, with errors by kind.
//!
//! One call is one frame. The kinds are what the data path counts by: `WouldBlock` nothing there or no room,
//! `NetworkDown` the interface is down, `InvalidInput` the kernel refuses the frame or its virtio header,
//! `NotConnected` the device is gone. Making such an error allocates nothing.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use rustix::io::Errno;

/// Pieces one frame may have, the first not counted.
pub const MAX_PARTS: usize = 255;

/// Reads one frame, with its header where the device has one. What does not fit the buffer is lost.
///
/// # Errors
/// By kind, as the module says.
pub fn read(device: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(&device, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(err) => return Err(fault(err)),
        }
    }
}

/// Writes one frame: `first` (its headers; may be empty), then `parts`.
///
/// # Errors
/// By kind, as the module says; `InvalidInput` as well for more than [`MAX_PARTS`] parts.
pub fn write(device: impl AsFd, first: &[u8], parts: &[IoSlice<'_>]) -> io::Result<()> {
    // As small an array on the stack as will do: filling a large one costs more than a small frame's copy.
    match parts.len() {
        0..4 => gather::<4>(device, first, parts),
        4..16 => gather::<16>(device, first, parts),
        16..64 => gather::<64>(device, first, parts),
        64..=MAX_PARTS => gather::<256>(device, first, parts),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn gather<const N: usize>(device: impl AsFd, first: &[u8], parts: &[IoSlice<'_>]) -> io::Result<()> {
    let mut all = [IoSlice::new(first); N];
    all[1..=parts.len()].copy_from_slice(parts);
    let pieces = &all[usize::from(first.is_empty())..=parts.len()];
    loop {
        match rustix::io::writev(&device, pieces) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(err) => return Err(fault(err)),
        }
    }
}

fn fault(err: Errno) -> io::Error {
    match err {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => io::ErrorKind::WouldBlock.into(),
        Errno::IO | Errno::NETDOWN => io::ErrorKind::NetworkDown.into(),
        Errno::INVAL | Errno::MSGSIZE => io::ErrorKind::InvalidInput.into(),
        Errno::BADFD | Errno::NODEV => io::ErrorKind::NotConnected.into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_in_order_whatever_their_number() {
        let (reader, writer) = io::pipe().unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        for count in [0, 1, 3, 4, 15, 16, 63, 64, MAX_PARTS] {
            for first in [&b""[..], b"head"] {
                if first.len() + count == 0 {
                    continue;
                }
                let parts: Vec<IoSlice<'_>> = bytes[..count].chunks(1).map(IoSlice::new).collect();
                write(&writer, first, &parts).unwrap();
                let mut buffer = [0; 300];
                let n = read(&reader, &mut buffer).unwrap();
                assert_eq!(buffer[..n], [first, &bytes[..count]].concat());
            }
        }
        let err = write(&writer, b"", &[IoSlice::new(b"x"); MAX_PARTS + 1]).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
    }
}
