//! What can go wrong while a lab is built, used or checked. Each error names the thing it is about.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// A step of the lab that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program could not be started at all, mostly because it is not installed.
    #[error("cannot start `{program}`: {source} (is it installed?)")]
    Start {
        /// The program's name or path.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program ran and reported failure.
    #[error("`{command}` failed with {status}: {stderr}")]
    Failed {
        /// The whole command line.
        command: Box<str>,
        /// Its exit status in words.
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: Box<str>,
    },
    /// A file of the lab could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A network namespace could not be entered.
    #[error("cannot enter network namespace {}: {source}", path.display())]
    Enter {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket of one of the lab's own checks failed.
    #[error("{step}: {source}")]
    Socket {
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `vswitchd` or `vswitch-cni` is not where it should be.
    #[error("{} is missing (looked in the directory of this program; VSWITCH_BIN_DIR overrides it)", .0.display())]
    MissingProgram(PathBuf),
    /// The daemon ended instead of serving.
    #[error("vswitchd of node {node} ended with {status}; its last words: {last_words}")]
    DaemonEnded {
        /// The node.
        node: usize,
        /// The exit status.
        status: std::process::ExitStatus,
        /// The last lines of its log.
        last_words: Box<str>,
    },
    /// The daemon runs, but did not say that it is ready in time.
    #[error("vswitchd of node {node} was not ready after {seconds} s; its last words: {last_words}")]
    NotReady {
        /// The node.
        node: usize,
        /// How long we waited.
        seconds: u64,
        /// The last lines of its log.
        last_words: Box<str>,
    },
    /// The daemon did not answer over its control socket, or refused.
    #[error("control socket {}: {source}", path.display())]
    Control {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: control::client::ClientError,
    },
    /// The CNI plugin refused.
    #[error("vswitch-cni {verb} for {container}: {answer}")]
    Cni {
        /// ADD, DEL, CHECK, GC or STATUS.
        verb: &'static str,
        /// The container's id.
        container: Box<str>,
        /// What it printed.
        answer: Box<str>,
    },
    /// The CNI result lacks an address of a family the lab configured.
    #[error("the CNI result of {container} has no {family} address: {answer}")]
    NoAddress {
        /// The container's id.
        container: Box<str>,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What the plugin printed.
        answer: Box<str>,
    },
    /// A probe got the wrong bytes back.
    #[error("{to} sent back other bytes than it got")]
    Corrupt {
        /// The far end.
        to: IpAddr,
    },
    /// A transfer ended early.
    #[error("{to} received {got} of {want} bytes")]
    Short {
        /// The far end.
        to: IpAddr,
        /// Bytes that arrived.
        got: u64,
        /// Bytes that should have.
        want: u64,
    },
    /// `--nodes` or `--pods` is outside what the lab's address plan holds.
    #[error("--{option} {value}: must lie between {min} and {max}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// What was asked.
        value: usize,
        /// Smallest value.
        min: usize,
        /// Largest value.
        max: usize,
    },
    /// What was written to the manifests is not in force yet.
    #[error("the manifests of {} were not in force on node {node} after {seconds} s", path.display())]
    NotInForce {
        /// Their directory.
        path: PathBuf,
        /// The node.
        node: usize,
        /// How long we waited.
        seconds: u64,
    },
    /// Not root, and a user namespace does not help either.
    #[error("the lab needs root, or a /dev/net/tun that users may open ({source}); run it with sudo")]
    NeedsRoot {
        /// What opening /dev/net/tun said.
        source: io::Error,
    },
    /// SIGINT or SIGTERM came.
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// For `map_err` on sockets.
    pub(crate) fn socket(step: &'static str) -> impl FnOnce(io::Error) -> LabError {
        move |source| LabError::Socket { step, source }
    }

    /// For `map_err` on files.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LabError {
        move |source| LabError::File { path: path.into(), source }
    }
}
