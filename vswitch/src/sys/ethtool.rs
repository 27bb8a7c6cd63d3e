//! `SIOCETHTOOL`: whether a named feature of an interface is on, and switching it.
//!
//! Features are asked for by the names that `ethtool -k` prints for the kernel's own strings, such as
//! `tx-udp_tnl-segmentation`. Runs in the network namespace of the calling thread, at start-up only.

#![expect(
    unsafe_code,
    reason = "SIOCETHTOOL takes an ifreq that points at a command buffer; both live in this file"
)]

use std::io;
use std::os::fd::AsRawFd;

const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
/// The string set that names the features.
const SS_FEATURES: u32 = 4;
/// Bytes of a name.
const NAME: usize = 32;

/// Whether a feature of an interface is on.
///
/// # Errors
/// `NotFound` for a feature that this kernel does not know, `ENODEV` without such an interface.
pub fn feature(interface: &str, name: &str) -> io::Result<bool> {
    let socket = Ethtool::open(interface)?;
    let (bit, words) = socket.find(name)?;
    // cmd, size, then per 32 features: available, requested, active, never changed.
    let mut command = vec![0u32; 2 + 4 * words];
    command[..2].copy_from_slice(&[GFEATURES, words as u32]);
    socket.run(&mut command)?;
    Ok(command[2 + 4 * (bit / 32) + 2] & (1 << (bit % 32)) != 0)
}

/// Switches a feature of an interface. Says whether it took: a device may refuse without an error.
///
/// # Errors
/// As [`feature`], and `EPERM` without `CAP_NET_ADMIN`.
pub fn set_feature(interface: &str, name: &str, on: bool) -> io::Result<bool> {
    let socket = Ethtool::open(interface)?;
    let (bit, words) = socket.find(name)?;
    // cmd, size, then per 32 features: valid, requested.
    let mut command = vec![0u32; 2 + 2 * words];
    command[..2].copy_from_slice(&[SFEATURES, words as u32]);
    command[2 + 2 * (bit / 32)] = 1 << (bit % 32);
    command[3 + 2 * (bit / 32)] = u32::from(on) << (bit % 32);
    socket.run(&mut command)?;
    Ok(feature(interface, name)? == on)
}

/// A socket to send commands through, and the interface they are about.
struct Ethtool<'a> {
    socket: socket2::Socket,
    interface: &'a str,
}

impl<'a> Ethtool<'a> {
    fn open(interface: &'a str) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        Ok(Self { socket, interface })
    }

    /// The number of a feature, and how many 32-bit words hold all features.
    fn find(&self, name: &str) -> io::Result<(usize, usize)> {
        // cmd, reserved, a 64-bit mask of string sets, then one length for each.
        let mut info = [GSSET_INFO, 0, 1 << SS_FEATURES, 0, 0];
        self.run(&mut info)?;
        let count = info[4] as usize;
        // cmd, string set, length, then the names.
        let mut strings = vec![0u32; 3 + count * NAME / 4];
        strings[..3].copy_from_slice(&[GSTRINGS, SS_FEATURES, count as u32]);
        self.run(&mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let found = bytes.chunks(NAME).position(|raw| {
            let end = raw.iter().position(|b| *b == 0).unwrap_or(NAME);
            &raw[..end] == name.as_bytes()
        });
        Ok((found.ok_or(io::ErrorKind::NotFound)?, count.div_ceil(32)))
    }

    /// Runs a command: the kernel reads the buffer and writes its answer into it.
    fn run(&self, command: &mut [u32]) -> io::Result<()> {
        // SAFETY: an all-zero `ifreq` is a valid value: integers, byte arrays and a union of such and a pointer.
        let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
        if self.interface.len() >= req.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in req.ifr_name.iter_mut().zip(self.interface.bytes()) {
            *to = from.cast_signed();
        }
        req.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
        // SAFETY: `req` and `command` are alive over the call; the header of each command says how long its buffer is,
        // and the callers above size them by the count in that header.
        let r = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut req) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::Netlink;
    use crate::sys::netns;

    #[test]
    fn features_are_read_and_switched_as_the_tool_sees_them() {
        netns::in_new(|| {
            Netlink::open().unwrap().add_veth("a", "b").unwrap();
            let said = |name: &str| {
                let out = std::process::Command::new("ethtool").args(["-k", "a"]).output().unwrap();
                let text = String::from_utf8(out.stdout).unwrap();
                let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{name}: ")));
                line.unwrap().starts_with("on")
            };
            for name in ["tx-udp_tnl-segmentation", "tx-udp-segmentation", "tx-gre-segmentation"] {
                for on in [true, false, true] {
                    assert!(set_feature("a", name, on).unwrap());
                    assert_eq!((feature("a", name).unwrap(), said(name)), (on, on), "{name}");
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn what_is_not_there_is_an_error_and_what_is_fixed_stays() {
        netns::in_new(|| {
            assert_eq!(feature("lo", "no-such-feature").unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(
                feature("none", "tx-udp-segmentation").unwrap_err().raw_os_error(),
                Some(libc::ENODEV)
            );
            assert!(feature(&"x".repeat(99), "tx-udp-segmentation").is_err());
            let name = "loopback";
            assert!(feature("lo", name).unwrap());
            assert!(!set_feature("lo", name, false).unwrap());
        })
        .unwrap();
    }
}
