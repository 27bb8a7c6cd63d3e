//! `vsctl ipam`: what lies in the store, what of it does not fit, and putting that right.
//!
//! What is attached here is looked at after the store was read, never before: an address that is given in between is
//! known then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use control::api::{AddressInfo, ApiError, BlockInfo, IpamQuery, IpamReport, PoolInfo, code};
use control::blocks::{Block, Finding, Known, Owner, Problem, Repaired, State, Surveyed, survey};
use crossbeam::channel::Sender;
use ipnet::IpNet;
use serde_json::Value;

use super::super::{Daemon, reply};
use super::{Wanted, handle};

type Finally = Box<dyn FnOnce(Vec<String>, Vec<String>) + Send>;

impl Daemon {
    /// A question about addresses: answered by the store's thread where there are pools.
    pub(in super::super) fn ask_ipam(&mut self, query: IpamQuery, answer: Sender<Value>) {
        let send = move |result: Result<IpamReport, ApiError>| drop(answer.send(reply(result)));
        let (Some(_), Some(etcd)) = (&self.pools, &self.etcd) else { return send(self.node_report(&query)) };
        match query {
            IpamQuery::Show => etcd.survey(move |_, all| send(all.map(|all| shown(&all)))),
            IpamQuery::Ip(addr) => etcd.survey(move |_, all| {
                let report =
                    |all: Surveyed| IpamReport { address: Some(address(&all, addr)), ..pools_report() };
                send(all.map(report));
            }),
            IpamQuery::Check => etcd.survey(move |daemon, all| {
                let report = |all: Surveyed| {
                    let found = daemon.findings(&all);
                    let findings = found.iter().filter_map(|f| serde_json::to_value(f).ok()).collect();
                    IpamReport { findings, ..shown(&all) }
                };
                send(all.map(report));
            }),
            IpamQuery::Release(addrs) => {
                let finally: Finally =
                    Box::new(move |done, left| send(Ok(IpamReport { done, left, ..pools_report() })));
                self.release_each(addrs, Vec::new(), Vec::new(), finally);
            }
            IpamQuery::Repair(wanted) => etcd.survey(move |daemon, all| match all {
                Ok(all) => daemon.repair(&wanted, &all, Box::new(send)),
                Err(err) => send(Err(err)),
            }),
        }
    }

    /// Without pools there is the node's own range, and nothing that could leak.
    fn node_report(&self, query: &IpamQuery) -> Result<IpamReport, ApiError> {
        let range = |net: &IpNet| PoolInfo {
            name: String::new(),
            cidr: *net,
            block_size: None,
            blocks: 0,
            addresses: size(net),
            used: self.addresses().filter(|addr| net.contains(*addr)).count() as u64,
        };
        let mut report = IpamReport { kind: "node".to_owned(), ..IpamReport::default() };
        match query {
            IpamQuery::Show | IpamQuery::Check => {
                report.pools = self.facts.pod_cidrs.iter().map(range).collect()
            }
            IpamQuery::Ip(addr) => {
                let known = self.attached.iter().find(|(_, a)| a.record.addresses.contains(addr));
                report.address = Some(AddressInfo {
                    address: *addr,
                    state: if known.is_some() { "held" } else { "unknown" }.to_owned(),
                    block: None,
                    handle: known.map(|(id, a)| handle(&a.record.network, id)),
                    node: known.map(|_| self.config.node.name.clone()),
                    pod: known.map(|(_, a)| a.record.pod.to_string()),
                    since: None,
                });
            }
            IpamQuery::Release(_) | IpamQuery::Repair(_) => {
                let why = "with ipam.type = \"node\" an address is free when its pod is detached";
                return Err(ApiError::new(code::UNSUPPORTED_FIELD, why));
            }
        }
        Ok(report)
    }

    fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.attached.values().flat_map(|a| &a.record.addresses)
    }

    fn findings(&self, all: &Surveyed) -> Vec<Finding> {
        let attached =
            self.attached.iter().map(|(id, a)| (handle(&a.record.network, id), a.record.addresses.clone()));
        let asked =
            self.pools.iter().flat_map(|p| p.asked.values().map(|(handle, _)| (handle.clone(), Vec::new())));
        // Handles of the journal are released without anybody's doing.
        let noted = self
            .pools
            .iter()
            .flat_map(|p| p.journal.handles().keys().map(|handle| (handle.clone(), Vec::new())));
        let known = Known {
            node: self.config.node.name.clone(),
            handles: noted.chain(asked).chain(attached).collect(),
            published: all.published.clone(),
            pools: all.pools.values().map(|pool| pool.cidr).collect(),
        };
        survey(&all.survey, &known, SystemTime::now())
    }

    /// Addresses that a person names, one after the other; one of a pod that runs here stays.
    fn release_each(
        &mut self,
        mut addrs: Vec<IpAddr>,
        done: Vec<String>,
        left: Vec<String>,
        finally: Finally,
    ) {
        let (mut done, mut left) = (done, left);
        let Some(addr) = addrs.pop() else { return finally(done, left) };
        if let Some((_, a)) = self.attached.iter().find(|(_, a)| a.record.addresses.contains(&addr)) {
            left.push(format!("{addr}: pod {} runs here and has it", a.record.pod));
            return self.release_each(addrs, done, left, finally);
        }
        let Some(etcd) = &self.etcd else { return finally(done, left) };
        etcd.release_address(addr, move |daemon, result| {
            match result {
                Ok(freed) if freed.is_empty() => left.push(format!("{addr}: nobody has it")),
                Ok(_) => done.push(addr.to_string()),
                Err(err) => left.push(format!("{addr}: {err}")),
            }
            daemon.release_each(addrs, done, left, finally);
        });
    }

    /// Findings of an earlier report that are still so.
    fn repair(
        &mut self,
        wanted: &[Value],
        all: &Surveyed,
        send: Box<dyn FnOnce(Result<IpamReport, ApiError>) + Send>,
    ) {
        let now = self.findings(all);
        let (mut problems, mut names, mut left, mut missing) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for value in wanted {
            let Ok(finding) = serde_json::from_value::<Finding>(value.clone()) else {
                let bad = "an entry of findings is not what vsctl ipam check writes";
                return send(Err(ApiError::new(code::DECODE, bad)));
            };
            if !now.iter().any(|f| f.problem == finding.problem) {
                left.push(format!("{}: it is not so any more", finding.detail));
            } else if let Problem::Missing { handle, .. } = &finding.problem {
                missing.extend(self.again(handle));
            } else {
                names.push(finding.detail);
                problems.push(finding.problem);
            }
        }
        let Some(etcd) = &self.etcd else { return };
        etcd.repair(problems, move |daemon, result| {
            let results = match result {
                Ok(results) => results,
                Err(err) => return send(Err(err)),
            };
            let mut done = Vec::new();
            for (name, result) in names.into_iter().zip(results) {
                match result {
                    Repaired::Done => done.push(name),
                    Repaired::Stale => left.push(format!("{name}: it is not so any more")),
                    Repaired::Never => left.push(format!("{name}: only a person can put it right")),
                }
            }
            let finally: Finally =
                Box::new(move |done, left| send(Ok(IpamReport { done, left, ..pools_report() })));
            daemon.assign_each(missing, done, left, finally);
        });
    }

    /// What to ask for so that the store has what an attachment has.
    fn again(&self, name: &str) -> Option<Wanted> {
        let (id, a) = self.attached.iter().find(|(id, a)| handle(&a.record.network, id) == name)?;
        let pod = (a.record.pod.namespace.as_str(), a.record.pod.name.as_str());
        Some(self.wanted(&a.record.network, id, pod, a.record.addresses.clone()))
    }

    fn assign_each(&mut self, mut list: Vec<Wanted>, done: Vec<String>, left: Vec<String>, finally: Finally) {
        let (mut done, mut left) = (done, left);
        let (Some(wanted), Some(etcd)) = (list.pop(), &self.etcd) else { return finally(done, left) };
        let name = wanted.handle.clone();
        etcd.assign(wanted, move |daemon, result| {
            match result {
                Ok(addrs) => done.push(format!("{name}: {addrs:?} written again")),
                Err(err) => left.push(format!("{name}: {err}")),
            }
            daemon.assign_each(list, done, left, finally);
        });
    }
}

fn pools_report() -> IpamReport {
    IpamReport { kind: "pools".to_owned(), ..IpamReport::default() }
}

fn size(net: &IpNet) -> u64 {
    1_u64.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(u64::MAX)
}

fn block_info(all: &Surveyed, block: &Block) -> BlockInfo {
    let mut info = BlockInfo {
        cidr: block.cidr(),
        node: block.node().map(str::to_owned),
        affinity: "none".to_owned(),
        used: 0,
        borrowed: 0,
        cooling: 0,
        free: block.free() as u64,
    };
    if let Some(node) = block.node()
        && let Some(state) = all.survey.affinities.get(&(block.cidr(), node.to_owned()))
    {
        let state = match state {
            State::Pending => "pending",
            State::Confirmed => "confirmed",
            State::PendingDeletion => "pendingDeletion",
        };
        state.clone_into(&mut info.affinity);
    }
    for (_, owner) in block.taken() {
        match owner {
            Owner::Held { node, .. } => {
                info.used += 1;
                info.borrowed += u64::from(node.is_some() && node != block.node());
            }
            Owner::Cooling => info.cooling += 1,
            Owner::Free => {}
        }
    }
    info
}

/// Pools and blocks.
fn shown(all: &Surveyed) -> IpamReport {
    let blocks: Vec<BlockInfo> = all.survey.blocks.values().map(|block| block_info(all, block)).collect();
    let pool = |(name, pool): (&String, &control::blocks::PoolRange)| {
        let inside: Vec<&BlockInfo> = blocks.iter().filter(|block| pool.cidr.contains(&block.cidr)).collect();
        PoolInfo {
            name: name.clone(),
            cidr: pool.cidr,
            block_size: Some(pool.block_size),
            blocks: inside.len() as u64,
            addresses: size(&pool.cidr),
            used: inside.iter().map(|block| block.used).sum(),
        }
    };
    IpamReport { pools: all.pools.iter().map(pool).collect(), blocks, ..pools_report() }
}

/// Who has an address.
fn address(all: &Surveyed, addr: IpAddr) -> AddressInfo {
    let block = all.survey.blocks.values().find(|block| block.cidr().contains(&addr));
    let mut info = AddressInfo {
        address: addr,
        state: "unknown".to_owned(),
        block: block.map(Block::cidr),
        handle: None,
        node: None,
        pod: None,
        since: None,
    };
    let Some(block) = block else { return info };
    let none = BTreeMap::new();
    let of = block.attribute_of(addr).map_or(&none, |attribute| &attribute.of);
    match block.owner(addr) {
        None => {}
        Some(Owner::Free) => "free".clone_into(&mut info.state),
        Some(Owner::Cooling) => "cooling".clone_into(&mut info.state),
        Some(Owner::Held { handle, node, .. }) => {
            "held".clone_into(&mut info.state);
            info.handle = handle.map(str::to_owned);
            info.node = node.map(str::to_owned);
            info.pod = of.get("pod").map(|pod| match of.get("namespace") {
                Some(namespace) => format!("{namespace}/{pod}"),
                None => pod.clone(),
            });
            info.since = of.get("timestamp").cloned();
        }
    }
    info
}
