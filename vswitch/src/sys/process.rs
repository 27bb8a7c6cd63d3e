//! Processes and threads: children that die with their parent and inherit chosen descriptors, thread names and
//! processors.

#![expect(unsafe_code, reason = "CommandExt::pre_exec runs between fork and exec")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use rustix::thread::CpuSet;

/// Makes the child get `signal` when the **thread** that spawns it ends: spawn from a thread that lives as long as the
/// child shall. A parent that is gone before the child asked is noticed, and the child ends at once.
pub fn die_with_parent(command: &mut Command, signal: Signal) -> &mut Command {
    let parent = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec `ask` only makes system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) }
}

/// Lets the child inherit `fd` under the number `number`; every other descriptor stays close-on-exec. Choose numbers
/// that nothing in the parent has (100 and up), because the child's copy replaces whatever is there.
pub fn inherit(command: &mut Command, fd: OwnedFd, number: RawFd) -> &mut Command {
    let pass = move || {
        let from = fd.as_raw_fd();
        let done = if from == number {
            // SAFETY: plain system call on a descriptor that `fd` owns; clears close-on-exec.
            unsafe { libc::fcntl(from, libc::F_SETFD, 0) }
        } else {
            // SAFETY: plain system call; `number` belongs to the caller by contract, and this is the child.
            unsafe { libc::dup2(from, number) }
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec `pass` only makes system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(pass) }
}

/// Takes ownership of a descriptor that this process inherited under a number agreed on with its parent, and makes it
/// close-on-exec.
///
/// # Errors
/// `EBADF` when there is no such descriptor.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call; a bad number is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the parent passed it under this number for us to own; it is taken once, at
    // the start of the program.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Raises the soft limit of open descriptors to the hard one: a node holds one for each pod. Where that is refused
/// the old limit stays.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Names the calling thread, for `ps` and `perf`; cut to 15 bytes.
///
/// # Errors
/// `InvalidInput` for a name with a NUL.
pub fn name_thread(name: &str) -> io::Result<()> {
    Ok(rustix::thread::set_name(&CString::new(name)?)?)
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// `EINVAL` for a processor that is not there or not allowed.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Gives the calling thread a nice value, -20 (before all others) to 19.
///
/// # Errors
/// `EACCES` or `EPERM` for a lower one than it has, without `CAP_SYS_NICE`.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // On Linux this is of the calling thread, not of its process.
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// Processor time that the calling thread has used in its life.
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_descriptor_arrives_under_its_number() {
        for number in [100, 101] {
            let (mut reader, writer) = io::pipe().unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("echo through > /proc/self/fd/{number}")]);
            assert!(inherit(&mut shell, writer.into(), number).status().unwrap().success());
            drop(shell);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "through\n");
        }
    }

    #[test]
    fn an_inherited_descriptor_is_owned_and_a_missing_one_is_an_error() {
        let (mut reader, writer) = io::pipe().unwrap();
        // Give the number away first, as the parent's copy would be by exec.
        let number = std::os::fd::IntoRawFd::into_raw_fd(OwnedFd::from(writer));
        let fd = inherited(number).unwrap();
        std::fs::File::from(fd).write_all(b"x").unwrap();
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 1);
        assert_eq!(inherited(9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn the_child_dies_when_its_spawning_thread_ends() {
        let mut child = std::thread::spawn(|| {
            let mut sleep = Command::new("sleep");
            sleep.arg("60").stdin(Stdio::null());
            die_with_parent(&mut sleep, Signal::TERM).spawn().unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_nice_value_is_of_one_thread() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let began = thread_time();
                set_nice(before + 1).unwrap();
                assert_eq!(nice(), before + 1);
                assert!(thread_time() > began);
            });
        });
        assert_eq!(nice(), before);
    }

    #[test]
    fn threads_are_named_and_pinned() {
        std::thread::spawn(|| {
            name_thread("w0").unwrap();
            assert_eq!(std::fs::read_to_string("/proc/thread-self/comm").unwrap(), "w0\n");
            pin_thread(0).unwrap();
            let set = rustix::thread::sched_getaffinity(None).unwrap();
            assert_eq!((set.count(), set.is_set(0)), (1, true));
            assert!(pin_thread(1000).is_err() && pin_thread(100_000).is_err());
        })
        .join()
        .unwrap();
    }
}
