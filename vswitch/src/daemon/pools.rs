//! Addresses out of pools: a CNI ADD asks the store and is finished when the address is written there.
//!
//! ```text
//! ADD ──► noted in the journal ──► the store's thread gives ──► interface, record ──► taken out of the journal ──► answer
//! DEL ──► noted in the journal ──► record and interface go ──► answer;  the store's thread takes back ──► taken out
//! ```
//!
//! The control thread never waits for etcd: between asking and finishing it serves others. What is in the journal and not
//! attached is released, now or when etcd is back, also by the next process. The attachments' files say what runs here;
//! nothing in etcd takes an address away from a pod.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use control::api::{ApiError, Attach, AttachResult, AttachmentId, code};
use control::attachments::Attachment;
use control::blocks::{BY, Journal, timestamp};
use control::fleet::Fleet;
use crossbeam::channel::Sender;
use ipnet::IpNet;
use serde_json::Value;

use super::pods::Prepared;
use super::{Daemon, chain, reply, serve};

/// What is asked of the store for a pod.
#[derive(Debug)]
// Without the store nobody reads what is wanted of it.
#[cfg_attr(not(feature = "etcd"), allow(dead_code))]
pub(super) struct Wanted {
    /// The pod's namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Names the attachment.
    pub(super) handle: String,
    /// What is written beside the addresses.
    pub(super) of: BTreeMap<String, String>,
    /// Addresses that must be these.
    pub(super) addrs: Vec<IpAddr>,
}

/// What the control thread keeps of it.
#[derive(Debug)]
pub(super) struct Pools {
    journal: Journal,
    /// ADDs that wait for the store; true = a DEL came meanwhile.
    asked: BTreeMap<AttachmentId, (String, bool)>,
    /// Handles that the store is about to take back.
    releasing: BTreeSet<String>,
}

impl Pools {
    /// With the journal of before.
    pub(super) fn open(state_dir: &std::path::Path) -> Pools {
        let (journal, problem) = Journal::open(state_dir);
        if let Some(problem) = problem {
            tracing::error!(problem, "the journal of handles is of no use: see vsctl ipam check");
        }
        Pools { journal, asked: BTreeMap::new(), releasing: BTreeSet::new() }
    }

    /// An attachment's addresses are to be given back.
    pub(super) fn note(&mut self, record: &Attachment) {
        let handle = handle(&record.network, &record.id());
        if let Err(err) = self.journal.note(&handle, &record.addresses) {
            tracing::error!(err = %chain(&err), handle, "note a handle");
        }
    }
}

/// What names an attachment in the store: as Calico's plugin does it for the first interface of a pod.
pub(super) fn handle(network: &str, id: &AttachmentId) -> String {
    match id.ifname.as_str() {
        "eth0" => format!("{network}.{}", id.container_id),
        ifname => format!("{network}.{}:{ifname}", id.container_id),
    }
}

/// What BGP announces: the node's ranges, and each address of a pod that lies outside them; nothing of pools with
/// `disableBGPExport`.
pub(super) fn announced<'a>(fleet: &Fleet, addrs: impl Iterator<Item = &'a IpAddr>) -> Vec<IpNet> {
    let outside = addrs.filter(|addr| !fleet.pod_cidrs.iter().any(|net| net.contains(*addr)));
    let all = fleet.pod_cidrs.iter().copied().chain(outside.map(|addr| IpNet::from(*addr)));
    let hidden = |net: &IpNet| fleet.pools.iter().any(|pool| !pool.announce && pool.cidr.contains(net));
    all.filter(|net| !hidden(net)).collect()
}

impl Daemon {
    /// CNI ADD with an address of a pool; answered when it is done.
    pub(super) fn add_from_pools(&mut self, a: Attach, answer: Sender<Value>) {
        match self.ask_address(&a) {
            Ok(Some(known)) => drop(answer.send(serve::ok(known))),
            Ok(None) => self.await_address(a, answer),
            Err(err) => drop(answer.send(reply::<()>(Err(err)))),
        }
    }

    /// Whatever can be wrong is found, and the handle noted, before the store is asked. Some = there is nothing to ask.
    fn ask_address(&mut self, a: &Attach) -> Result<Option<AttachResult>, ApiError> {
        let id = a.id();
        if self.pools.as_ref().is_some_and(|pools| pools.asked.contains_key(&id)) {
            return Err(ApiError::new(code::TRY_LATER, format!("{id} waits for its address already")));
        }
        if let Prepared::Known(result) = self.prepare(a)? {
            return Ok(Some(result));
        }
        let handle = handle(&a.network, &id);
        let Some(pools) = &mut self.pools else {
            return Err(ApiError::new(code::INTERNAL, "there are no pools here"));
        };
        pools.journal.note(&handle, &[]).map_err(|err| ApiError::new(code::IO, chain(&err)))?;
        pools.asked.insert(id, (handle, false));
        Ok(None)
    }

    fn await_address(&mut self, a: Attach, answer: Sender<Value>) {
        let wanted = self.wanted(&a.network, &a.id(), (&a.pod.namespace, &a.pod.name), a.request.ips.clone());
        let Some(etcd) = &self.etcd else { return };
        etcd.assign(wanted, move |daemon, result| {
            let result = daemon.addressed(&a, result);
            // A client that left does not want its answer.
            let _ = answer.send(reply(result));
        });
    }

    fn wanted(&self, network: &str, id: &AttachmentId, pod: (&str, &str), addrs: Vec<IpAddr>) -> Wanted {
        let of = [
            ("namespace", pod.0.to_owned()),
            ("pod", pod.1.to_owned()),
            ("node", self.config.node.name.clone()),
            ("timestamp", timestamp(SystemTime::now())),
            (BY.0, BY.1.to_owned()),
        ];
        Wanted {
            namespace: pod.0.to_owned(),
            name: pod.1.to_owned(),
            handle: handle(network, id),
            of: of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            addrs,
        }
    }

    /// The store has answered.
    fn addressed(
        &mut self,
        a: &Attach,
        result: Result<Vec<IpAddr>, ApiError>,
    ) -> Result<AttachResult, ApiError> {
        let id = a.id();
        let asked = self.pools.as_mut().and_then(|pools| pools.asked.remove(&id));
        let gone = asked.is_none_or(|(_, gone)| gone);
        let done = result.and_then(|addrs| match gone {
            true => {
                Err(ApiError::new(code::TRY_LATER, format!("{id} was detached before it had its address")))
            }
            false => self.attach_with(a, &addrs),
        });
        let handle = handle(&a.network, &id);
        match &done {
            Ok(_) => {
                self.clear(&handle);
                self.follow_addresses();
            }
            // Whatever the store did or did not do: nobody has it.
            Err(_) => self.give_back(&handle),
        }
        done
    }

    fn attach_with(&mut self, a: &Attach, addrs: &[IpAddr]) -> Result<AttachResult, ApiError> {
        match self.prepare(a)? {
            Prepared::Known(result) => Ok(result),
            Prepared::New(ns, netns_id) => {
                // What runs here counts, whatever a store says that was wiped or restored.
                self.ipam
                    .restore(&a.id(), addrs)
                    .map_err(|err| ApiError::new(code::TRY_LATER, err.to_string()))?;
                self.finish(a, &ns, netns_id, addrs.to_vec())
            }
        }
    }

    /// A DEL, or a pod that is gone: an ADD that waits is not to be finished.
    pub(super) fn forget_asked(&mut self, id: &AttachmentId) {
        if let Some((_, gone)) = self.pools.as_mut().and_then(|pools| pools.asked.get_mut(id)) {
            *gone = true;
        }
    }

    /// Addresses of an attachment whose record is gone: noted before, given back now.
    pub(super) fn detached(&mut self, record: &Attachment) {
        if self.pools.is_some() {
            self.give_back(&handle(&record.network, &record.id()));
            self.follow_addresses();
        }
    }

    fn clear(&mut self, handle: &str) {
        if let Some(pools) = &mut self.pools
            && let Err(err) = pools.journal.clear(handle)
        {
            tracing::error!(err = %chain(&err), handle, "take a handle out of the journal");
        }
    }

    /// Has the store take back what a noted handle has.
    fn give_back(&mut self, handle: &str) {
        let (Some(pools), Some(etcd)) = (&mut self.pools, &self.etcd) else { return };
        let Some(addrs) = pools.journal.handles().get(handle) else { return };
        if !pools.releasing.insert(handle.to_owned()) {
            return;
        }
        let name = handle.to_owned();
        etcd.release(handle.to_owned(), addrs.clone(), move |daemon, result| {
            if let Some(pools) = &mut daemon.pools {
                pools.releasing.remove(&name);
            }
            match result {
                Ok(addrs) => {
                    tracing::info!(handle = name, ?addrs, "given back");
                    // Unless the runtime has begun anew with it meanwhile.
                    if !daemon.live(&name) {
                        daemon.clear(&name);
                    }
                }
                Err(err) => tracing::debug!(handle = name, %err, "give back: tried again"),
            }
        });
    }

    /// Is something attached with this handle, or about to be?
    fn live(&self, name: &str) -> bool {
        let attached = self.attached.iter().any(|(id, a)| handle(&a.record.network, id) == name);
        attached || self.pools.as_ref().is_some_and(|p| p.asked.values().any(|(handle, _)| handle == name))
    }

    /// Gives back what was noted and is not attached: of a run before this one, and while the store was away.
    pub(super) fn give_back_noted(&mut self) {
        let Some(pools) = &self.pools else { return };
        let noted: Vec<String> = pools.journal.handles().keys().cloned().collect();
        let waits = |pools: &Pools, name: &str| pools.asked.values().any(|(handle, _)| handle == name);
        let noted: Vec<String> = noted.into_iter().filter(|name| !waits(pools, name)).collect();
        for name in noted {
            if self.live(&name) {
                // It died between writing the record and this.
                self.clear(&name);
            } else {
                self.give_back(&name);
            }
        }
    }

    /// Blocks of this node are gone from the store, by whosever hand: what pods here have of them is written again.
    pub(super) fn write_again(&mut self, lost: &[IpNet]) {
        let Some(etcd) = &self.etcd else { return };
        if self.pools.is_none() || lost.is_empty() {
            return;
        }
        let within = |addr: &IpAddr| lost.iter().any(|net| net.contains(addr));
        for (id, a) in self.attached.iter().filter(|(_, a)| a.record.addresses.iter().any(within)) {
            let pod = (a.record.pod.namespace.as_str(), a.record.pod.name.as_str());
            let wanted = self.wanted(&a.record.network, id, pod, a.record.addresses.clone());
            let id = id.clone();
            etcd.assign(wanted, move |daemon, result| match result {
                // It was detached meanwhile, and what was written again is in the way of the next one.
                Ok(addrs) if !daemon.attached.contains_key(&id) => {
                    tracing::warn!(%id, ?addrs, "written again for a pod that is gone: see vsctl ipam check");
                }
                Ok(addrs) => {
                    tracing::warn!(%id, ?addrs, "its addresses were gone from the store; written again")
                }
                Err(err) => tracing::error!(%id, %err, "its addresses are gone from the store"),
            });
        }
    }

    /// Pods' addresses have come or gone: those outside the node's own blocks are routed and announced one by one.
    fn follow_addresses(&mut self) {
        let addrs = || self.attached.values().flat_map(|a| &a.record.addresses);
        let former = super::fleet::former(&self.facts.pod_cidrs, addrs());
        let announced = announced(&self.stored, addrs());
        if former != self.former {
            self.former = former;
            self.restore_host();
            self.restore_masquerade();
        }
        if let Some(bgp) = &self.bgp {
            bgp.announce(announced);
        }
    }
}
