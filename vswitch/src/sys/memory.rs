//! Memory that outlives the process: a sealed memfd, and a shared mapping of it as atomic words, or as bytes of one owner.
//!
//! The descriptor is what survives, in whoever holds it; a [`Mapping`] is one process's view. All access to it is atomic, as
//! other threads and another process may be at it. What is [`lend`] out belongs to one thread until the process ends.
//! Never done here: knowing what the words mean.

#![expect(unsafe_code, reason = "mmap and munmap take and give raw addresses")]

use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

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
    /// Maps the first `words` words of `fd`, which may be closed afterwards.
    ///
    /// # Errors
    /// `InvalidInput` for no words; `InvalidData` for a file that is shorter, or whose size is not sealed; what
    /// `fstat`, `fcntl` (`EINVAL`: no memfd) and `mmap` say.
    pub fn new(fd: impl AsFd, words: usize) -> io::Result<Self> {
        Ok(Self { start: map(fd.as_fd(), bytes(words)?)?, words })
    }
}

/// Files that are lent out, by inode.
static LENT: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The first `words` words of a sealed memfd, and the bytes of the `more` words behind them, until the process ends. Nobody
/// else may map the file meanwhile: its descriptor may be held by another process, but not used there.
///
/// # Errors
/// Those of [`Mapping::new`]; `ResourceBusy` for a file that this process has lent out already.
pub fn lend(fd: impl AsFd, words: usize, more: usize) -> io::Result<(&'static mut [u64], &'static mut [u8])> {
    let size = bytes(words.checked_add(more).ok_or(io::ErrorKind::InvalidInput)?)?;
    let inode = rustix::fs::fstat(&fd)?.st_ino;
    let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    if lent.contains(&inode) {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let start = map(fd.as_fd(), size)?;
    lent.push(inode);
    let rest = size - words * size_of::<u64>();
    // SAFETY: `size` bytes from `start`, a page's start, are mapped readable and writable and never unmapped; any bit pattern
    // is a word or a byte, and the two slices do not overlap. The file is mapped once in this process (`LENT`), and no other
    // touches it, as this function asks: nothing else refers to it. While it is mapped its inode is no other file's.
    Ok(unsafe {
        (
            std::slice::from_raw_parts_mut(start.as_ptr().cast(), words),
            std::slice::from_raw_parts_mut(start.as_ptr().add(words).cast(), rest),
        )
    })
}

/// Maps the first `size` bytes of a sealed memfd, shared and writable.
fn map(fd: BorrowedFd<'_>, size: usize) -> io::Result<NonNull<AtomicU64>> {
    // Seals first: a size that was read before it was sealed may have changed.
    if !rustix::fs::fcntl_get_seals(fd)?.contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory's size is not sealed"));
    }
    let have = rustix::fs::fstat(fd)?.st_size;
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
            fd.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
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
    fn what_was_lent_is_there_for_the_next_and_lent_once() {
        let fd = create("test", 512).unwrap();
        Mapping::new(&fd, 512).unwrap()[1].store(u64::from_le_bytes(*b"leftover"), Relaxed);
        let (words, bytes) = lend(&fd, 1, 511).unwrap();
        assert_eq!((words.len(), bytes.len(), &bytes[..8]), (1, 4088, &b"leftover"[..]));
        (words[0], bytes[4087]) = (1, 1);
        assert_eq!(lend(&fd, 1, 1).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(lend(create("test", 1).unwrap(), 1, 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
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
