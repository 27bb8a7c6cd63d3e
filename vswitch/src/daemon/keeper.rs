//! The keeper: the parent process that holds every descriptor and starts the switch.
//!
//! It parses nothing and forwards no packet, so there is little in it that can fail. The switch gives it each
//! descriptor it opens (pods' interfaces, tunnel sockets, control socket) by name; when the switch dies or is replaced,
//! the next one gets them all back, and frames have waited in the interfaces' rings meanwhile. One thread, one poll
//! over the switch's socket and the signals.
//!
//! Messages (one `SOCK_SEQPACKET` record each, first byte = kind, rest = name):
//!
//! | from | kind | meaning |
//! |---|---|---|
//! | switch | `H` | send me everything you hold |
//! | keeper | `F` + descriptor | you had this one, under this name |
//! | keeper | `E` | that was all |
//! | switch | `P` + descriptor | hold this, instead of what had the name before |
//! | switch | `D` | let go of this name |
//! | switch | `R` | I am forwarding |
//!
//! Signals: TERM and INT end both processes; HUP starts a new switch from the executable's path (an upgrade).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::sys::{process, scm};

/// The descriptor under which the switch finds its socket to the keeper.
pub const SWITCH_FD: i32 = 100;
/// Environment variable that tells a switch how many came before it.
pub const RESTARTS: &str = "VSWITCH_RESTARTS";
/// How long a switch may take to end after TERM.
const GRACE: Duration = Duration::from_secs(5);
/// A switch that lived this long was healthy: its successor starts at once.
const HEALTHY: Duration = Duration::from_secs(2);
/// Longest pause before another try at a switch that dies at its start.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The keeper cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No path to start the switch from.
    #[error("find the path of this executable")]
    Executable(#[source] io::Error),
    /// No socket pair or signal pipe.
    #[error("make the socket to the switch")]
    Socket(#[source] io::Error),
    /// Starting the switch failed.
    #[error("start {path}")]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Waiting failed.
    #[error("wait for the switch")]
    Wait(#[source] io::Error),
}

/// Runs until told to end; the exit code for the process.
///
/// # Errors
/// When a switch cannot be started at all. A switch that ends before it was ever ready is not an error here: its exit
/// code becomes the keeper's.
pub fn run(args: &[std::ffi::OsString]) -> Result<i32, KeeperError> {
    let exe = std::env::current_exe().map_err(KeeperError::Executable)?;
    // Replacing the file leaves " (deleted)" in the link of a running process; at start it is still clean.
    process::raise_file_limit();
    let (signals, on_signal) = UnixStream::pair().map_err(KeeperError::Socket)?;
    signals.set_nonblocking(true).map_err(KeeperError::Socket)?;
    let mut flags = Vec::new();
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let pipe = on_signal.try_clone().map_err(KeeperError::Socket)?;
        signal_hook::flag::register(signal, flag.clone()).map_err(KeeperError::Socket)?;
        signal_hook::low_level::pipe::register(signal, pipe).map_err(KeeperError::Socket)?;
        flags.push((signal, flag));
    }
    let mut keeper = Keeper { exe, args: args.to_vec(), held: BTreeMap::new(), ready: false, restarts: 0 };
    let mut pause = Duration::ZERO;
    loop {
        let started = Instant::now();
        match keeper.one_switch(&signals, &flags)? {
            End::Asked => return Ok(0),
            End::Died(code) if !keeper.ready => return Ok(code),
            End::Died(code) => {
                pause = if started.elapsed() > HEALTHY {
                    Duration::ZERO
                } else {
                    (pause * 2).max(Duration::from_millis(50)).min(MAX_PAUSE)
                };
                tracing::warn!(code, ?pause, "the switch ended; starting another");
                std::thread::sleep(pause);
            }
            End::Replaced => pause = Duration::ZERO,
        }
        keeper.restarts += 1;
    }
}

/// How a switch's life ended.
enum End {
    Asked,
    Replaced,
    Died(i32),
}

type Flags = [(i32, std::sync::Arc<std::sync::atomic::AtomicBool>)];

struct Keeper {
    exe: PathBuf,
    args: Vec<std::ffi::OsString>,
    held: BTreeMap<Vec<u8>, OwnedFd>,
    /// A switch has been ready once: from now on its death is repaired, not reported.
    ready: bool,
    /// Switches started after the first.
    restarts: u64,
}

impl Keeper {
    /// Starts a switch and serves it until it ends.
    fn one_switch(&mut self, signals: &UnixStream, flags: &Flags) -> Result<End, KeeperError> {
        let (ours, theirs) = scm::pair().map_err(KeeperError::Socket)?;
        let mut command = Command::new(&self.exe);
        command.args(&self.args).arg("--switch").env(RESTARTS, self.restarts.to_string());
        process::inherit(&mut command, theirs, SWITCH_FD);
        process::die_with_parent(&mut command, Signal::KILL);
        let spawned = command.spawn();
        // The command owns the child's end of the socket; it must close here, or the end of the switch goes unnoticed.
        drop(command);
        let mut child = spawned.map_err(|err| KeeperError::Spawn { path: self.exe.clone(), err })?;
        let mut end = None;
        loop {
            let mut fds = [PollFd::new(&ours, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(KeeperError::Wait(e.into())),
            }
            let (socket, signalled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if signalled {
                drain(signals);
            }
            if let Some(asked) = asked(flags) {
                end = Some(asked);
                // A switch that is replaced leaves the control socket in place for the next one.
                let signal = if matches!(end, Some(End::Replaced)) { Signal::HUP } else { Signal::TERM };
                terminate(&child, signal);
                // Until the switch has ended its socket must be served, but not for ever.
                return self.finish(&ours, child, end);
            }
            if socket && !self.serve(&ours) {
                break;
            }
        }
        let status = child.wait().map_err(KeeperError::Wait)?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(end.unwrap_or(End::Died(code)))
    }

    /// Waits for a switch that was told to end, serving it meanwhile.
    fn finish(&mut self, socket: &OwnedFd, mut child: Child, end: Option<End>) -> Result<End, KeeperError> {
        let deadline = Instant::now() + GRACE;
        while child.try_wait().map_err(KeeperError::Wait)?.is_none() {
            if Instant::now() > deadline {
                terminate(&child, Signal::KILL);
            }
            let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            if matches!(poll(&mut fds, Some(&tick)), Ok(n) if n > 0) && !self.serve(socket) {
                child.wait().map_err(KeeperError::Wait)?;
                break;
            }
        }
        Ok(end.unwrap_or(End::Asked))
    }

    /// Takes one message; false when the switch is gone.
    fn serve(&mut self, socket: &OwnedFd) -> bool {
        let mut buffer = [0; 1024];
        let (n, fds) = match scm::recv(socket, &mut buffer) {
            Ok((0, _)) => return false,
            Ok(message) => message,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return true,
            Err(_) => return false,
        };
        let name = buffer[1..n].to_vec();
        match (buffer[0], fds.into_iter().next()) {
            (b'P', Some(fd)) => {
                self.held.insert(name, fd);
            }
            (b'D', _) => {
                self.held.remove(&name);
            }
            (b'R', _) => self.ready = true,
            (b'H', _) => return self.give_all(socket).is_ok(),
            _ => {}
        }
        true
    }

    fn give_all(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut message = Vec::new();
        for (name, fd) in &self.held {
            message.clear();
            message.push(b'F');
            message.extend_from_slice(name);
            scm::send(socket, &message, &[fd.as_fd()])?;
        }
        scm::send(socket, b"E", &[])
    }
}

fn asked(flags: &Flags) -> Option<End> {
    let mut end = None;
    for (signal, flag) in flags {
        if flag.swap(false, std::sync::atomic::Ordering::AcqRel) {
            end = match end {
                Some(End::Asked) => Some(End::Asked),
                _ if *signal == SIGHUP => Some(End::Replaced),
                _ => Some(End::Asked),
            };
        }
    }
    end
}

fn drain(mut signals: &UnixStream) {
    use std::io::Read;
    let mut buffer = [0; 64];
    while matches!(signals.read(&mut buffer), Ok(n) if n > 0) {}
}

fn terminate(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended already, which is what is wanted.
        let _ = kill_process(pid, signal);
    }
}
