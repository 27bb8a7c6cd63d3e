//! Network namespaces: open, name, compare, and run something inside one.
//!
//! A namespace is entered only on a thread that ends with the call ([`run_in`], [`in_new`]), so no thread of the
//! switch ever changes its own. A [`Netns`] holds a descriptor, which keeps the namespace alive.

#![expect(unsafe_code, reason = "unshare of the network namespace is an unsafe function of rustix")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// A network namespace, kept alive by this descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

/// What tells two namespaces apart, on one machine, while both exist: device and inode of the namespace file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl Netns {
    /// Opens a namespace by path, as in `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// What `open` says, and `EINVAL` for a file that is no network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = OwnedFd::from(std::fs::File::open(path)?);
        let kind = rustix::fs::fstatfs(&fd)?;
        if kind.f_type != libc::NSFS_MAGIC {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self { fd })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a new, nameless namespace with its loopback down; it ends with the last descriptor of it.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare_net()?;
            Self::current()
        })?
    }

    /// The namespace's identity.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn id(&self) -> io::Result<NetnsId> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok(NetnsId { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Whether this is the calling thread's own namespace.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn is_current(&self) -> io::Result<bool> {
        Ok(self.id()? == Self::current()?.id()?)
    }
}

impl From<OwnedFd> for Netns {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` inside the namespace, on a thread that ends with the call, and returns what it returned.
///
/// # Errors
/// `EINVAL` when the descriptor is no network namespace, `EPERM` without the right to enter it. A panic of `work`
/// goes on in the caller.
pub fn run_in<T: Send>(ns: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ns = ns.as_fd();
    on_thread(move || {
        rustix::thread::move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })?
}

/// Runs `work` in a new namespace with its loopback up, on a thread that ends with the call; the namespace ends
/// with it unless something in it was kept.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`. A panic of `work` goes on in the caller.
pub fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(move || {
        unshare_net()?;
        super::netlink::Netlink::open()
            .and_then(|mut netlink| netlink.set_up(1, true))
            .map_err(io::Error::other)?;
        Ok(work())
    })?
}

/// Gives the calling thread a network namespace of its own. Other threads stay where they are.
fn unshare_net() -> io::Result<()> {
    // SAFETY: only the network namespace is unshared: no memory, file table or signal state changes hands.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_another_one_and_can_be_entered() {
        let here = Netns::current().unwrap();
        let there = Netns::create().unwrap();
        assert_ne!(here.id().unwrap(), there.id().unwrap());
        assert!(here.is_current().unwrap() && !there.is_current().unwrap());
        let seen = run_in(&there, || Netns::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(seen, there.id().unwrap());
        assert!(here.is_current().unwrap(), "the caller stays where it was");
    }

    #[test]
    fn only_network_namespaces_open() {
        assert!(Netns::open("/proc/self/status").is_err());
        let mnt = Netns::open("/proc/self/ns/mnt").unwrap();
        assert_eq!(run_in(&mnt, || ()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(Netns::open("/nowhere").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn panics_and_results_come_back() {
        assert_eq!(in_new(|| 7).unwrap(), 7);
        assert!(std::panic::catch_unwind(|| in_new(|| panic!("inside"))).is_err());
    }
}
