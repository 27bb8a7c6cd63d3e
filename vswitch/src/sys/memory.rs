//! Memory that outlives the process: a sealed memfd, and a shared mapping of it as atomic words.
//!
//! The descriptor is what survives, in whoever holds it; a [`Mapping`] is one process's view. All access is atomic, as
//! other threads and another process may be at it. Never done here: knowing what the words mean.

#![expect(unsafe_code, reason = "mmap, madvise and munmap take and give raw addresses")]

use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};

/// Without these seals, whoever has the descriptor could cut the file, and touching the mapping would be a SIGBUS.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A memfd of `words` 64-bit words, all zero, whose size is sealed. Close-on-exec. `name` is for `/proc` only.
///
/// # Errors
/// `InvalidInput` for no words or more than a file can have; what `memfd_create`, `ftruncate` and `fcntl` say.
pub fn create(name: &str, words: usize) -> io::Result<OwnedFd> {
    let size = bytes(words)?;
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, size as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SEALS | SealFlags::SEAL)?;
    Ok(fd)
}

/// A shared, writable mapping of a sealed memfd, starting on a page. Unmapped when dropped. Small pages on purpose: what is
/// spread over the memory thinly would else take all of it.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Mapping {
    /// Maps the first `words` words of `fd`, which may be closed afterwards. Asks for huge pages, which the kernel may
    /// refuse.
    ///
    /// # Errors
    /// `InvalidInput` for no words; `InvalidData` for a file that is shorter, or whose size is not sealed; what
    /// `fstat`, `fcntl` (`EINVAL`: no memfd) and `mmap` say.
    pub fn new(fd: impl AsFd, words: usize) -> io::Result<Self> {
        let size = bytes(words)?;
        // Seals first: a size that was read before it was sealed may have changed.
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory's size is not sealed"));
        }
        let have = rustix::fs::fstat(&fd)?.st_size;
        if u64::try_from(have).is_ok_and(|have| have < size as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory is too short"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away from anybody; the result is
        // checked before it is used.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words })
    }
}

impl Deref for Mapping {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned, and `words` words from it on are mapped readable and writable until `self` is
        // dropped, which the borrow outlives not. The file cannot become shorter than the mapping (sealed), so every
        // word is there. Any bit pattern is an `AtomicU64`, and whoever shares the memory, in this process or another,
        // is bound by its atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what `new` mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

// SAFETY: the mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Mapping {}

// SAFETY: `&Mapping` gives access to atomics only.
unsafe impl Sync for Mapping {}

/// The size of `words` words, as long as a file can be.
fn bytes(words: usize) -> io::Result<usize> {
    words
        .checked_mul(size_of::<AtomicU64>())
        .filter(|size| (1..=isize::MAX as usize).contains(size))
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let fd = create("test", 1000).unwrap();
        let one = Mapping::new(&fd, 1000).unwrap();
        let other = Mapping::new(fd.try_clone().unwrap(), 1000).unwrap();
        drop(fd);
        assert_eq!((one.len(), one.iter().map(|word| word.load(Relaxed)).max()), (1000, Some(0)));
        assert_ne!(one.as_ptr(), other.as_ptr());
        std::thread::scope(|scope| {
            scope.spawn(|| one[999].store(7, Relaxed));
        });
        assert_eq!(other[999].fetch_add(1, Relaxed), 7);
        drop(other);
        assert_eq!(one[999].load(Relaxed), 8);
    }

    #[test]
    fn the_words_stay_while_a_descriptor_does() {
        let fd = create("test", 4).unwrap();
        Mapping::new(&fd, 4).unwrap()[2].store(5, Relaxed);
        assert_eq!(Mapping::new(&fd, 4).unwrap()[2].load(Relaxed), 5);
    }

    #[test]
    fn a_file_that_is_short_or_could_become_so_is_refused() {
        let fd = create("test", 512).unwrap();
        assert_eq!(Mapping::new(&fd, 513).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(rustix::fs::ftruncate(&fd, 8).is_err(), "the seal holds");
        for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::SHRINK] {
            let open =
                rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&open, 4096).unwrap();
            rustix::fs::fcntl_add_seals(&open, seals).unwrap();
            assert_eq!(Mapping::new(&open, 512).unwrap_err().kind(), io::ErrorKind::InvalidData, "{seals:?}");
        }
        let (pipe, _) = io::pipe().unwrap();
        assert_eq!(Mapping::new(&pipe, 1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for words in [0, usize::MAX, usize::MAX / 8] {
            assert_eq!(create("test", words).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let fd = create("test", 1).unwrap();
        assert_eq!(Mapping::new(&fd, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
