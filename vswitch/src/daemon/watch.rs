//! Threads that wait for what the control thread has to hear of: signals, the keeper's end, changes of the uplink.
//!
//! Each sleeps in one system call, sends an [`Event`] and knows nothing else. They end with the process.

use std::collections::BTreeSet;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use control::store::Changed;
use crossbeam::channel::Sender;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, WatchFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::keeper_link::KeeperLink;
use super::{DaemonError, Event, masquerade};
use crate::sys::netlink::{Event as LinkEvent, Groups, Monitor, NftMonitor};
use crate::sys::scm;

/// After a change in the manifests, how long others are waited for before they are read. It is not begun anew with each of
/// them: a directory that is never quiet is read all the same.
const SETTLE: Duration = Duration::from_millis(2);
/// Between two looks at the nftables table, however often it is changed.
const NFT_SETTLE: Duration = Duration::from_millis(500);
/// How often a missing directory of manifests is looked for.
const MISSING: Duration = Duration::from_secs(2);

/// TERM and INT end the switch for good, HUP (from the keeper) makes way for the next one.
pub(super) fn signals(events: &Sender<Event>) -> Result<(), DaemonError> {
    on(&[SIGTERM, SIGINT], events.clone(), || Event::Stop)?;
    on(&[SIGHUP], events.clone(), || Event::MakeWay)
}

fn on(signals: &[i32], events: Sender<Event>, event: fn() -> Event) -> Result<(), DaemonError> {
    let failed = |err| DaemonError::Thread { what: "the signal handler", err };
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    for signal in signals {
        let pipe = theirs.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(*signal, pipe).map_err(failed)?;
    }
    let spawned = std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _handlers = theirs;
        let mut byte = [0];
        while matches!(ours.read(&mut byte), Ok(1)) {
            if events.send(event()).is_err() {
                return;
            }
        }
    });
    spawned.map(|_| ()).map_err(failed)
}

/// The end of the keeper.
pub(super) fn keeper(keeper: &KeeperLink, events: Sender<Event>) -> Result<(), DaemonError> {
    let Some(socket) = keeper.socket() else { return Ok(()) };
    let socket = socket.try_clone_to_owned().map_err(DaemonError::Keeper)?;
    let spawned = std::thread::Builder::new().name("keeper".into()).spawn(move || {
        let mut buffer = [0; 64];
        // The keeper says nothing after the start; the end of the socket is its end.
        while matches!(scm::recv(&socket, &mut buffer), Ok((n, _)) if n > 0) {}
        let _ = events.send(Event::KeeperGone);
    });
    spawned.map(|_| ()).map_err(|err| DaemonError::Thread { what: "the keeper's watch", err })
}

/// Changes in the directory of manifests. A burst of changes is one event: writers make many small ones.
pub(super) fn manifests(dir: &Path, events: Sender<Event>) -> Result<(), DaemonError> {
    let failed =
        |err: rustix::io::Errno| DaemonError::Thread { what: "the manifests' watch", err: err.into() };
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let inotify = inotify::init(flags).map_err(failed)?;
    let wanted = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    let dir = dir.to_owned();
    let watch = move |inotify: &OwnedFd| inotify::add_watch(inotify, &dir, wanted);
    let mut watching = watch(&inotify).is_ok();
    // What changed between the first reading and this moment is told by nobody else.
    let _ = events.send(Event::Objects(Changed::Anything));
    let spawned = std::thread::Builder::new().name("manifests-watch".into()).spawn(move || {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            // A directory that is not there (any more) is looked for now and then.
            let patience = (!watching).then(|| timespec(MISSING));
            match poll(&mut [PollFd::new(&inotify, PollFlags::IN)], patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return tracing::error!(%err, "manifests are not watched any more"),
            }
            let before = watching;
            watching = watch(&inotify).is_ok();
            std::thread::sleep(SETTLE);
            let changed = match names(&inotify, &mut buffer) {
                Some(Changed::Names(_)) | None if before != watching => Some(Changed::Anything),
                changed => changed,
            };
            if changed.is_some_and(|changed| events.send(Event::Objects(changed)).is_err()) {
                return;
            }
        }
    });
    spawned.map(|_| ()).map_err(|err| DaemonError::Thread { what: "the manifests' watch", err })
}

/// What the kernel has to tell: the names that changed, or, when it cannot say, anything.
fn names(inotify: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Option<Changed> {
    let mut reader = inotify::Reader::new(inotify, buffer);
    let (mut names, mut unnamed) = (BTreeSet::new(), false);
    loop {
        match reader.next() {
            // The directory itself, or an overflow of the queue, has no name; nor has one that is not UTF-8 for us.
            Ok(event) => match event.file_name().and_then(|name| name.to_str().ok()) {
                Some(name) => drop(names.insert(name.to_owned())),
                None => unnamed = true,
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    match unnamed {
        true => Some(Changed::Anything),
        false => (!names.is_empty()).then_some(Changed::Names(names)),
    }
}

fn timespec(d: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) }
}

/// Changes of our nftables table. A kernel that does not tell is asked every half minute all the same.
pub(super) fn nftables(events: Sender<Event>) -> Result<(), DaemonError> {
    let mut monitor = match NftMonitor::open() {
        Ok(monitor) => monitor,
        Err(err) => {
            tracing::info!(%err, "the nftables table is looked after every half minute only");
            return Ok(());
        }
    };
    let name = masquerade::TABLE.rsplit(' ').next().unwrap_or(masquerade::TABLE);
    let spawned = std::thread::Builder::new().name("nftables-watch".into()).spawn(move || {
        loop {
            match poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return tracing::error!(%err, "the nftables table is not watched any more"),
            }
            match monitor.touched(name) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(err) => return tracing::error!(%err, "the nftables table is not watched any more"),
            }
            if events.send(Event::Nftables).is_err() {
                return;
            }
            // Looking starts a process. Our own repair is heard of once more.
            std::thread::sleep(NFT_SETTLE);
        }
    });
    spawned.map(|_| ()).map_err(|err| DaemonError::Thread { what: "the nftables watch", err })
}

/// Link messages about the uplink.
pub(super) fn uplink(uplink: &str, events: Sender<Event>) -> Result<(), DaemonError> {
    let mut monitor = Monitor::open(Groups::LINK).map_err(DaemonError::Machine)?;
    let name = uplink.to_owned();
    let spawned = std::thread::Builder::new().name("uplink-watch".into()).spawn(move || {
        loop {
            match poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return tracing::error!(%err, "the uplink is looked after every half minute only"),
            }
            let mut ours = false;
            let drained = monitor.drain(|event| {
                ours |= match event {
                    LinkEvent::Link(link) | LinkEvent::LinkGone(link) => link.name == name,
                    LinkEvent::Overflow => true,
                    _ => false,
                };
            });
            if let Err(err) = drained {
                return tracing::error!(%err, "the uplink is looked after every half minute only");
            }
            if ours && events.send(Event::Uplink).is_err() {
                return;
            }
        }
    });
    spawned.map(|_| ()).map_err(|err| DaemonError::Thread { what: "the uplink's watch", err })
}
