//! What nobody tells the control thread: it looks now and then, and puts in order what others have changed.
//!
//! | how often | what |
//! |---|---|
//! | [`PODS`] | pods beside a busy one on their worker; expired connections, a part of the table a round; pods whose namespace is gone without a DEL: cleared away when gone in two rounds |
//! | [`HOST`] | `vsw0`, the host's routes and settings, the nftables table, the uplink, pods' MTU |
//!
//! A namespace outlives its name for as long as somebody holds it, and our descriptor of the pod's interface does: the
//! kernel never tells that the pod is gone, so its path is looked at.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use control::api::AttachmentId;
use control::attachments::{Attachment, NetnsId};

use super::{Daemon, DaemonError, attach, chain, masquerade};
use crate::balance::{Balance, Move, Sample};
use crate::snapshot::{Port, PortKind};
use crate::worker::Notice;

/// Between two looks at the pods' namespaces.
const PODS: Duration = Duration::from_secs(4);
/// Between two looks at the host's side. It starts a process (`nft`), so not often.
const HOST: Duration = Duration::from_secs(30);

/// Rounds of [`PODS`] in which the whole connection table is swept when there are [`MANY`] connections; else one does.
const SWEEPS: u32 = 4;
const MANY: u64 = 100_000;

/// When to look next.
pub(super) struct Upkeep {
    pods: Instant,
    host: Instant,
    /// Attachments whose namespace was gone in the last round.
    missing: BTreeSet<AttachmentId>,
    balance: Balance,
}

impl Upkeep {
    /// Nothing is due yet at `now`.
    pub(super) fn new(now: Instant) -> Upkeep {
        Upkeep { pods: now + PODS, host: now + HOST, missing: BTreeSet::new(), balance: Balance::new(now) }
    }

    /// When the control thread has to wake.
    pub(super) fn next(&self) -> Instant {
        self.pods.min(self.host)
    }
}

impl Daemon {
    /// Does what is due.
    ///
    /// # Errors
    /// When `vsw0` is gone, or a port has lost its reader: a new switch mends that, and takes up everything else.
    pub(super) fn look_after(&mut self) -> Result<(), DaemonError> {
        self.heed_notices()?;
        let now = Instant::now();
        if now >= self.upkeep.pods {
            self.upkeep.pods = now + PODS;
            self.sweep();
            self.sweep_flows();
            self.give_back_noted();
            self.balance()?;
        }
        if now >= self.upkeep.host {
            self.upkeep.host = now + HOST;
            self.look_at_uplink();
            self.restore_host();
            self.restore_masquerade();
            self.restore_uplinks();
            self.level_mtu();
        }
        Ok(())
    }

    /// What workers noticed: interfaces that are gone. A pod that lives on without its interface has deleted it itself.
    fn heed_notices(&mut self) -> Result<(), DaemonError> {
        for Notice::PortGone(port) in self.switch.notices() {
            if port == 0 {
                return Err(DaemonError::HostGone);
            }
            let Some((id, a)) = self.attached.iter().find(|(_, a)| a.port == port) else { continue };
            if attach::reopen_netns(&a.record).is_ok() {
                tracing::warn!(%id, pod = %a.record.pod, "the pod's interface was deleted inside the pod");
            } else {
                self.clear_away(&id.clone());
            }
        }
        Ok(())
    }

    /// Pods that went without a DEL.
    fn sweep(&mut self) {
        let gone: BTreeSet<AttachmentId> =
            self.attached.iter().filter(|(_, a)| is_gone(&a.record)).map(|(id, _)| id.clone()).collect();
        let missing = std::mem::replace(&mut self.upkeep.missing, gone.clone());
        for id in gone.intersection(&missing) {
            self.clear_away(id);
        }
    }

    /// Pods that wait for another on a busy worker get one with less to do.
    ///
    /// # Errors
    /// When a port lost its reader on the way: a new switch reads it again.
    fn balance(&mut self) -> Result<(), DaemonError> {
        let snapshot = self.switch.snapshot();
        let sample = |port: &Port| {
            let worker = self.switch.reader(port.id)?;
            let stats = &port.stats[worker];
            let packets = stats.rx_packets.get() + stats.tx_packets.get();
            let bytes = stats.rx_bytes.get() + stats.tx_bytes.get();
            Some(Sample { port: port.id, worker, packets, bytes })
        };
        let samples: Vec<Sample> = snapshot
            .ports
            .iter()
            .flatten()
            .filter(|p| p.kind == PortKind::Pod)
            .filter_map(|port| sample(port))
            .collect();
        for Move { port: id, to } in self.upkeep.balance.look(Instant::now(), self.switch.used(), &samples) {
            let Some(port) = snapshot.port(id) else { continue };
            let addresses: Vec<u128> = port.v4.into_iter().chain(port.v6).collect();
            match self.uplinks.place(&addresses, Some(to)) {
                Ok(true) => {}
                // As many addresses have moved as the kernel's program may tell apart.
                Ok(false) => continue,
                Err(err) => {
                    tracing::error!(port = %port.name, worker = to, err = %chain(&err), "move to another worker");
                    continue;
                }
            }
            self.switch.move_port(id, to)?;
            tracing::info!(port = %port.name, worker = to, "moved from a busy worker to another");
        }
        Ok(())
    }

    /// A part of the connection table: what has expired gives its place and quota back.
    fn sweep_flows(&mut self) {
        let table = self.switch.conntrack();
        if table.is_empty() {
            return;
        }
        // A long walk is taken in parts, so that nobody waits for it.
        let parts = if table.len() < MANY { 1 } else { SWEEPS };
        self.swept = table.sweep(self.swept, table.slots().div_ceil(parts), crate::conntrack::now()).next;
    }

    fn clear_away(&mut self, id: &AttachmentId) {
        tracing::info!(%id, "its network namespace is gone: its addresses are free again");
        if let Err(err) = self.detach(id) {
            tracing::error!(%id, %err, "clear away a vanished pod");
        }
    }

    /// The host's interface, routes and settings as they should be.
    pub(super) fn restore_host(&mut self) {
        if let Err(err) = self.configure_host(true) {
            tracing::debug!(err = %chain(&err), "the host's side");
        }
    }

    pub(super) fn restore_masquerade(&mut self) {
        if !self.config.network.masquerade {
            return;
        }
        let trouble = match masquerade::ensure(&self.ranges()) {
            Ok(true) => None,
            Ok(false) => {
                let table = masquerade::TABLE;
                tracing::warn!(table, "somebody removed or changed our nftables table: installed again");
                None
            }
            Err(err) => Some(chain(&err)),
        };
        self.problem("nftables", trouble);
    }

    /// Notes what keeps the node from being ready, or that it does no longer; told once each.
    pub(super) fn problem(&mut self, subject: &'static str, trouble: Option<String>) {
        match trouble {
            Some(text) => {
                if self.problems.get(subject) != Some(&text) {
                    tracing::error!("{text}");
                    self.problems.insert(subject, text);
                }
            }
            None => {
                if let Some(text) = self.problems.remove(subject) {
                    tracing::info!(was = text, "in order again");
                }
            }
        }
    }
}

/// The path names nothing any more, or another namespace. What cannot be looked at is not taken for gone.
fn is_gone(record: &Attachment) -> bool {
    match NetnsId::of(&record.netns) {
        Ok(id) => id != record.netns_id,
        Err(err) => err.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(netns: &std::path::Path, netns_id: NetnsId) -> Attachment {
        Attachment {
            network: "vswitch".into(),
            container_id: "c".into(),
            ifname: "eth0".into(),
            pod: control::api::PodId { namespace: "a".into(), name: "b".into(), uid: String::new() },
            netns: netns.into(),
            netns_id,
            boot_id: String::new(),
            addresses: Vec::new(),
            mac: control::mac::Mac::default(),
            mtu: 1450,
        }
    }

    #[test]
    fn a_namespace_is_gone_when_its_path_names_nothing_or_another() {
        let path = std::path::Path::new("/proc/self/ns/net");
        let id = NetnsId::of(path).unwrap();
        assert!(!is_gone(&record(path, id)));
        assert!(is_gone(&record(path, NetnsId { ino: id.ino + 1, ..id })));
        assert!(is_gone(&record(std::path::Path::new("/run/netns/there-is-none"), id)));
    }
}
