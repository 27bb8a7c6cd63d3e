//! `/dev/net/tun`: opening, adopting and configuring a TAP device.
//!
//! Owns the ioctls of `linux/if_tun.h`. A [`Tap`] is a descriptor that was checked: Ethernet frames, no packet-info
//! word, a virtio header of a known length in front of every frame. `TUNSETSNDBUF` is never called: with the default
//! of `INT_MAX` the kernel takes its fast path for small writes.

#![expect(
    unsafe_code,
    reason = "ioctl takes raw pointers; every argument is built and read back in this file"
)]

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Length in bytes of the plain virtio header: enough for TSO and USO.
pub const VNET_LEN: usize = 10;
/// Length in bytes of the virtio header that can describe a UDP tunnel (Linux 6.17).
pub const VNET_TUNNEL_LEN: usize = 24;

/// `TUN_F_CSUM`: partial checksums.
pub const F_CSUM: u32 = 0x01;
/// `TUN_F_TSO4`: IPv4 TCP super-frames.
pub const F_TSO4: u32 = 0x02;
/// `TUN_F_TSO6`: IPv6 TCP super-frames.
pub const F_TSO6: u32 = 0x04;
/// `TUN_F_USO4 | TUN_F_USO6`: UDP super-frames (Linux 6.2).
pub const F_USO: u32 = 0x60;
/// `TUN_F_UDP_TUNNEL_GSO`: super-frames inside a UDP tunnel (Linux 6.17).
pub const F_TUNNEL: u32 = 0x80;
/// Everything a pod's port asks for.
pub const OFFLOAD_PORT: u32 = 0x06f;
/// Everything an uplink TAP asks for.
pub const OFFLOAD_TUNNEL: u32 = 0x1ef;

/// The combinations the kernel may take, best first: a kernel refuses the whole set for one bit it does not know.
const LADDER: [u32; 5] = [0x1ef, 0x0ef, 0x06f, 0x00f, 0x001];

/// The flags of a TUN/TAP descriptor (`IFF_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Iff(u16);

impl Iff {
    /// Ethernet frames.
    pub const TAP: Self = Self(0x0002);
    /// Run received frames through NAPI.
    pub const NAPI: Self = Self(0x0010);
    /// Create without carrier.
    pub const NO_CARRIER: Self = Self(0x0040);
    /// Several queues.
    pub const MULTI_QUEUE: Self = Self(0x0100);
    /// The device outlives its descriptors (read back only).
    pub const PERSIST: Self = Self(0x0800);
    /// No four-byte packet-info word.
    pub const NO_PI: Self = Self(0x1000);
    /// A virtio header before every frame.
    pub const VNET_HDR: Self = Self(0x4000);
    /// Fail when the device exists already.
    pub const EXCL: Self = Self(0x8000);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// The raw bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl BitOr for Iff {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why a TAP could not be opened, adopted or configured.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Empty, too long (15 bytes at most), or with a slash, white space or a NUL.
    #[error("not an interface name: {0:?}")]
    BadName(Box<str>),
    /// `/dev/net/tun` is absent or forbidden.
    #[error("open /dev/net/tun")]
    Open(#[source] io::Error),
    /// `TUNSETIFF` refused.
    #[error("create or attach to TAP {name}")]
    Attach {
        /// The interface asked for.
        name: Box<str>,
        /// What the kernel said; `EBUSY` when it exists, or another descriptor is attached to it.
        #[source]
        err: io::Error,
    },
    /// The descriptor is not attached to a TUN/TAP device.
    #[error("the descriptor is no attached TAP")]
    NotTap(#[source] io::Error),
    /// The descriptor is a TUN, or lacks the virtio header, or has a packet-info word.
    #[error("TAP {name} has flags {flags:#06x}: want TAP, NO_PI and VNET_HDR as the switch sets them")]
    WrongMode {
        /// The interface.
        name: Box<str>,
        /// Its flags.
        flags: u16,
    },
    /// A virtio header length other than the one expected.
    #[error("TAP {name} has a virtio header of {len} bytes")]
    HeaderLength {
        /// The interface.
        name: Box<str>,
        /// The length in bytes.
        len: i32,
    },
    /// One of the configuring ioctls failed.
    #[error("{ioctl} on TAP {name}")]
    Configure {
        /// The interface.
        name: Box<str>,
        /// The ioctl's name.
        ioctl: &'static str,
        /// What the kernel said.
        #[source]
        err: io::Error,
    },
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct TapSpec<'a> {
    /// Interface name, 1 to 15 bytes; `%d` is replaced by a number.
    pub name: &'a str,
    /// Length of the virtio header in bytes: [`VNET_LEN`] or [`VNET_TUNNEL_LEN`].
    pub header: usize,
    /// The offloads wanted at most (`TUN_F_*`); the kernel gets the best rung of the ladder below it that it takes.
    pub offload: u32,
    /// Keep the device when the last descriptor closes.
    pub persist: bool,
    /// Fail when the device exists already; otherwise attach to it.
    pub exclusive: bool,
    /// Create without carrier, to be given later by [`Tap::set_carrier`].
    pub no_carrier: bool,
}

impl<'a> TapSpec<'a> {
    /// A pod's port: plain header, TSO and USO, persistent, must be new.
    #[must_use]
    pub const fn port(name: &'a str) -> Self {
        Self {
            name,
            header: VNET_LEN,
            offload: OFFLOAD_PORT,
            persist: true,
            exclusive: true,
            no_carrier: false,
        }
    }
}

/// A TAP descriptor, non-blocking, with a virtio header before every frame.
///
/// Reading and writing is for the `port` and `uplink` modules, through [`AsFd`].
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: Box<str>,
    header: usize,
    offload: u32,
}

impl Tap {
    /// Opens a TAP **in the network namespace of the calling thread**.
    ///
    /// # Errors
    /// See [`TapError`]; nothing is left behind unless the device existed before.
    pub fn open(spec: &TapSpec<'_>) -> Result<Self, TapError> {
        let fd = open_device().map_err(TapError::Open)?;
        let mut flags = Iff::TAP | Iff::NO_PI | Iff::VNET_HDR;
        if spec.exclusive {
            flags = flags | Iff::EXCL;
        }
        if spec.no_carrier {
            flags = flags | Iff::NO_CARRIER;
        }
        let mut req = request(spec.name)?;
        req.ifr_ifru.ifru_flags = flags.0.cast_signed();
        // SAFETY: `req` is a whole `ifreq`, alive over the call; the kernel reads and writes only that.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut req) })
            .map_err(|err| TapError::Attach { name: spec.name.into(), err })?;
        let mut tap = Self { fd, name: name_of(&req), header: spec.header, offload: 0 };
        let len = spec.header as libc::c_int;
        tap.set_int(libc::TUNSETVNETHDRSZ, "TUNSETVNETHDRSZ", len)?;
        tap.set_int(libc::TUNSETVNETLE, "TUNSETVNETLE", 1)?;
        tap.set_offload(spec.offload)?;
        if spec.persist {
            tap.set_persist(true)?;
        }
        Ok(tap)
    }

    /// Takes over a descriptor that somebody else opened (the keeper, a predecessor): checks its mode and header
    /// length, then sets the offloads again, because the kernel does not tell which are on.
    ///
    /// # Errors
    /// Says what is wrong with the descriptor; it is closed then.
    pub fn adopt(fd: OwnedFd, header: usize, offload: u32) -> Result<Self, TapError> {
        let (name, flags) = interface(fd.as_fd()).map_err(TapError::NotTap)?;
        if !flags.contains(Iff::TAP | Iff::NO_PI | Iff::VNET_HDR) {
            return Err(TapError::WrongMode { name, flags: flags.0 });
        }
        let mut tap = Self { fd, name, header, offload: 0 };
        let len = tap.get_int(libc::TUNGETVNETHDRSZ, "TUNGETVNETHDRSZ")?;
        if usize::try_from(len) != Ok(header) {
            return Err(TapError::HeaderLength { name: tap.name, len });
        }
        tap.set_int(libc::TUNSETVNETLE, "TUNSETVNETLE", 1)?;
        set_nonblocking(tap.fd.as_fd()).map_err(|err| TapError::Configure {
            name: tap.name.clone(),
            ioctl: "O_NONBLOCK",
            err,
        })?;
        tap.set_offload(offload)?;
        Ok(tap)
    }

    /// The interface's name when the descriptor was opened or adopted.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of virtio header before every frame.
    #[must_use]
    pub fn header(&self) -> usize {
        self.header
    }

    /// The offloads (`TUN_F_*`) the kernel took.
    #[must_use]
    pub fn offload(&self) -> u32 {
        self.offload
    }

    /// Makes the device outlive its descriptors, or not.
    ///
    /// # Errors
    /// [`TapError::Configure`].
    pub fn set_persist(&self, on: bool) -> Result<(), TapError> {
        self.set_value(libc::TUNSETPERSIST, "TUNSETPERSIST", u64::from(on))
    }

    /// Gives or takes the carrier.
    ///
    /// # Errors
    /// [`TapError::Configure`].
    pub fn set_carrier(&self, on: bool) -> Result<(), TapError> {
        self.set_int(libc::TUNSETCARRIER, "TUNSETCARRIER", libc::c_int::from(on))
    }

    /// The network namespace the device is in now.
    ///
    /// # Errors
    /// `EBADFD` when the device is gone, `EPERM` without `CAP_NET_ADMIN` there.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        // SAFETY: no argument; the result is checked before it is owned.
        let fd = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNGETDEVNETNS) })?;
        // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Gives the descriptor away.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Walks the ladder down from the best rung within `wanted`; returns what was taken, 0 for nothing.
    fn set_offload(&mut self, wanted: u32) -> Result<(), TapError> {
        let rungs = LADDER.iter().copied().filter(|rung| rung & !wanted == 0);
        for rung in rungs.chain([0]) {
            match self.set_value(libc::TUNSETOFFLOAD, "TUNSETOFFLOAD", u64::from(rung)) {
                Ok(()) => {
                    self.offload = rung;
                    return Ok(());
                }
                Err(TapError::Configure { err, .. })
                    if err.raw_os_error() == Some(libc::EINVAL) && rung != 0 => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn set_int(&self, code: libc::Ioctl, ioctl: &'static str, value: libc::c_int) -> Result<(), TapError> {
        // SAFETY: the kernel reads one `int` from the pointer, which is alive over the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), code, &raw const value) })
            .map_err(|err| TapError::Configure { name: self.name.clone(), ioctl, err })?;
        Ok(())
    }

    fn get_int(&self, code: libc::Ioctl, ioctl: &'static str) -> Result<libc::c_int, TapError> {
        let mut value: libc::c_int = 0;
        // SAFETY: the kernel writes one `int` through the pointer, which is alive over the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), code, &raw mut value) })
            .map_err(|err| TapError::Configure { name: self.name.clone(), ioctl, err })?;
        Ok(value)
    }

    fn set_value(&self, code: libc::Ioctl, ioctl: &'static str, value: u64) -> Result<(), TapError> {
        // SAFETY: this ioctl takes its argument by value; no memory is touched.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), code, value as libc::c_ulong) })
            .map_err(|err| TapError::Configure { name: self.name.clone(), ioctl, err })?;
        Ok(())
    }
}

impl TryFrom<OwnedFd> for Tap {
    type Error = TapError;
    /// Adopts a pod port's descriptor: [`Tap::adopt`] with the plain header and the port's offloads.
    fn try_from(fd: OwnedFd) -> Result<Self, TapError> {
        Self::adopt(fd, VNET_LEN, OFFLOAD_PORT)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The name and flags of the device a TUN/TAP descriptor is attached to.
///
/// # Errors
/// `EBADFD` when it is attached to none (any more), `ENOTTY` or `EINVAL` when it is no TUN/TAP descriptor at all.
pub fn interface(fd: BorrowedFd<'_>) -> io::Result<(Box<str>, Iff)> {
    // SAFETY: an all-zero `ifreq` is a valid value: integers, byte arrays and a union of such.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `req` is a whole `ifreq`, alive over the call; the kernel writes only that.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut req) })?;
    // SAFETY: TUNGETIFF fills the flags member of the union.
    let flags = unsafe { req.ifr_ifru.ifru_flags };
    Ok((name_of(&req), Iff(flags.cast_unsigned())))
}

/// Takes the descriptor out of a `tun-tap` interface.
#[must_use]
pub fn into_fd(iface: tun_tap::Iface) -> OwnedFd {
    // SAFETY: `into_raw_fd` of this type gives up its only copy of an open descriptor.
    unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) }
}

/// Makes the device of a plain TAP descriptor outlive its descriptors, or not.
///
/// # Errors
/// Whatever the ioctl says.
pub fn set_persist(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its value in place of a pointer and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(on)) })?;
    Ok(())
}

/// Sets `O_NONBLOCK`.
///
/// # Errors
/// Whatever `fcntl` says.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

fn open_device() -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    Ok(file.into())
}

/// An `ifreq` with the name filled in.
fn request(name: &str) -> Result<libc::ifreq, TapError> {
    let bad = |b: u8| b == b'/' || b == 0 || b.is_ascii_whitespace();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(bad) {
        return Err(TapError::BadName(name.into()));
    }
    // SAFETY: an all-zero `ifreq` is a valid value: integers, byte arrays and a union of such.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(req)
}

fn name_of(req: &libc::ifreq) -> Box<str> {
    let bytes = req.ifr_name.map(i8::cast_unsigned);
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into()
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests;
