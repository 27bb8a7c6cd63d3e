//! The control socket: one thread accepts, one thread a connection reads lines; the control thread answers them.
//!
//! Only root and the daemon's own user are served (mode 0600 and peer credentials). A request is bounded, a slow or
//! silent client holds nothing but its own thread, and at most `MAX_CLIENTS` are served at once.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use control::api::{MAX_REQUEST, Request, code};
use crossbeam::channel::{Sender, bounded};
use serde_json::{Value, json};

use super::Event;

/// Clients served at once.
const MAX_CLIENTS: usize = 256;
/// A client that says nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(60);

/// A request on its way to the control thread, with the way back.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Takes the reply object: `{"ok": ..}` or `{"error": ..}`.
    pub reply: Sender<Value>,
}

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory is missing and cannot be made.
    #[error("create run-dir {}", path.display())]
    RunDir {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Somebody answers at the socket.
    #[error("control socket {} is in use by another process: another vswitchd is running with this run-dir", path.display())]
    InUse {
        /// It.
        path: PathBuf,
    },
    /// Binding failed.
    #[error("bind control socket {}", path.display())]
    Bind {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// Binds the control socket, replacing one that nobody answers at.
///
/// # Errors
/// When the path cannot be used or another process listens there.
pub fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let bind_error = |err| ServeError::Bind { path: path.to_owned(), err };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|err| ServeError::RunDir { path: dir.to_owned(), err })?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(ServeError::InUse { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(bind_error(err)),
    }
    let listener = UnixListener::bind(path).map_err(bind_error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(bind_error)?;
    Ok(listener)
}

/// A listener that was kept over a restart.
pub fn adopt(fd: OwnedFd) -> UnixListener {
    UnixListener::from(fd)
}

/// Starts the accepting thread.
///
/// # Errors
/// When the thread cannot be made.
pub fn start(listener: UnixListener, calls: Sender<Event>) -> io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name("control-accept".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => admit(stream, &clients, &calls),
                // Out of descriptors, or a client that left already: neither is a reason to stop or to spin.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    })?;
    Ok(())
}

fn admit(stream: UnixStream, clients: &Arc<AtomicUsize>, calls: &Sender<Event>) {
    if !allowed(&stream) || clients.load(Ordering::Relaxed) >= MAX_CLIENTS {
        return;
    }
    clients.fetch_add(1, Ordering::Relaxed);
    let (count, calls) = (Arc::clone(clients), calls.clone());
    let spawned =
        std::thread::Builder::new().name("control-client".into()).stack_size(256 * 1024).spawn(move || {
            // A client that breaks off mid-line is its own affair.
            let _ = converse(&stream, &calls);
            count.fetch_sub(1, Ordering::Relaxed);
        });
    if spawned.is_err() {
        clients.fetch_sub(1, Ordering::Relaxed);
    }
}

fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    crate::sys::sockopt::peer_cred(stream.as_fd()).is_ok_and(|c| c.uid == 0 || c.uid == own)
}

fn converse(stream: &UnixStream, calls: &Sender<Event>) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = (&mut reader).take(MAX_REQUEST as u64 + 1).read_until(b'\n', &mut line)?;
        if n == 0 {
            return Ok(());
        }
        if n > MAX_REQUEST {
            return reply(stream, &error(code::DECODE, "request line is too long"));
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => ask(request, calls),
            Err(e) => error(code::DECODE, &format!("request: {e}")),
        };
        reply(stream, &answer)?;
    }
}

fn ask(request: Request, calls: &Sender<Event>) -> Value {
    let (tx, rx) = bounded(1);
    if calls.send(Event::Call(Box::new(Call { request, reply: tx }))).is_err() {
        return error(code::TRY_LATER, "the daemon is ending");
    }
    rx.recv().unwrap_or_else(|_| error(code::TRY_LATER, "the daemon is ending"))
}

fn reply(mut stream: &UnixStream, answer: &Value) -> io::Result<()> {
    let mut text = answer.to_string();
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// An error reply.
pub fn error(code: u32, msg: &str) -> Value {
    json!({"error": {"code": code, "msg": msg, "details": ""}})
}

/// A good reply.
pub fn ok(value: impl serde::Serialize) -> Value {
    match serde_json::to_value(value) {
        Ok(v) => json!({ "ok": v }),
        Err(e) => error(code::INTERNAL, &e.to_string()),
    }
}
