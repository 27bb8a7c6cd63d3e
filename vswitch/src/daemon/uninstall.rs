//! `vsctl uninstall`: removes what `vswitchd` leaves on a host for its next start.
//!
//! Works without the daemon, and refuses while one runs. Everything is tried, and everything is told. Programs, the
//! configuration and this node's tunnel MAC (which peers know) stay.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use control::attachments::{StateDir, StateError};
use control::config::Config;

use super::{attach, chain, masquerade, node, settings};
use crate::sys::netlink::{Netlink, RouteFilter};
use crate::sys::sysctl;
use crate::sys::tun::{Tap, TapSpec};
use crate::uplink::tap;

/// Why nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Somebody answers at the control socket, or holds the state directory.
    #[error("vswitchd runs (its control socket is {}): stop it first", .0.display())]
    Runs(PathBuf),
    /// Somebody holds the host's interface.
    #[error("somebody holds the interface {}: stop vswitchd first", node::HOST_IF)]
    Held,
}

/// What was done.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// What is gone, in words.
    pub removed: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

impl Report {
    fn note<E: std::error::Error + 'static>(&mut self, what: String, done: Result<bool, E>) {
        match done {
            Ok(true) => self.removed.push(what),
            Ok(false) => {}
            Err(err) => self.failed.push(format!("{what}: {}", chain(&err))),
        }
    }
}

/// Removes everything.
///
/// # Errors
/// While the daemon runs; nothing was touched then.
pub fn run(config: &Config) -> Result<Report, Refusal> {
    let socket = config.node.socket();
    if UnixStream::connect(&socket).is_ok() {
        return Err(Refusal::Runs(socket));
    }
    let state = config.node.state_dir.exists().then(|| StateDir::open(&config.node.state_dir));
    if matches!(state, Some(Err(StateError::Locked { .. }))) {
        return Err(Refusal::Runs(socket));
    }
    let mut report = Report::default();
    let mut nl = match Netlink::open() {
        Ok(nl) => nl,
        Err(err) => {
            report.failed.push(chain(&err));
            return Ok(report);
        }
    };
    // A process that holds it without a control socket: a keeper whose switch does not start.
    if nl.link(node::HOST_IF).is_ok()
        && Tap::open(&TapSpec { exclusive: false, ..TapSpec::port(node::HOST_IF) }).is_err()
    {
        return Err(Refusal::Held);
    }
    match state {
        Some(Ok(state)) => pods(&state, &mut report),
        Some(Err(err)) => report.failed.push(chain(&err)),
        None => {}
    }
    match nl.routes(RouteFilter::OURS) {
        Ok(routes) => {
            for route in routes {
                let gone = match nl.del_route(&route) {
                    Err(err) if err.is_absent() => Ok(false),
                    other => other.map(|()| true),
                };
                report.note(format!("route {}", route.dst), gone);
            }
        }
        Err(err) => report.failed.push(format!("routes: {}", chain(&err))),
    }
    for name in [node::HOST_IF, tap::NAME] {
        let gone = match nl.link(name) {
            Ok(link) => nl.delete_link(link.index).map(|()| true),
            Err(err) if err.is_absent() => Ok(false),
            Err(err) => Err(err),
        };
        report.note(format!("interface {name}"), gone);
    }
    let table = masquerade::is_there();
    report.note(format!("nftables table {}", masquerade::TABLE), masquerade::remove().map(|()| table));
    restore_settings(config, &mut report);
    let file = std::fs::remove_file(&socket).map(|()| true).or_else(|err| match err.kind() {
        std::io::ErrorKind::NotFound => Ok(false),
        _ => Err(err),
    });
    report.note(format!("control socket {}", socket.display()), file);
    Ok(report)
}

/// Pods' interfaces, in the pods' own namespaces, and their records.
fn pods(state: &StateDir, report: &mut Report) {
    let loaded = match state.load() {
        Ok(loaded) => loaded,
        Err(err) => return report.failed.push(chain(&err)),
    };
    report.failed.extend(loaded.problems.iter().map(|err| chain(err)));
    for a in loaded.attachments {
        // A namespace that is gone took its interface along.
        if let Ok(ns) = attach::reopen_netns(&a) {
            let removed = attach::remove(&ns, &a.netns, &a.ifname);
            report.note(format!("interface {} of pod {}", a.ifname, a.pod), removed);
        }
        report.note(format!("record of pod {}", a.pod), state.remove(&a.id()));
    }
}

/// Settings that are as the daemon made them get the value they had.
fn restore_settings(config: &Config, report: &mut Report) {
    let changed = match settings::changed(&config.node.state_dir) {
        Ok(changed) => changed,
        Err(err) => return report.failed.push(format!("settings: {err}")),
    };
    for c in changed {
        // What somebody has changed since is theirs; an interface's settings went with it.
        if sysctl::get(&c.name).is_ok_and(|now| now == c.set) {
            let done = sysctl::set(&c.name, &c.before).map(|()| true);
            report.note(format!("setting {} = {} (it was {})", c.name, c.set, c.before), done);
        }
    }
    if let Err(err) = settings::forget(&config.node.state_dir) {
        report.failed.push(format!("settings: {err}"));
    }
}
