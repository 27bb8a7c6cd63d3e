//! Attaching and detaching pods: the CNI verbs as the daemon carries them out.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use control::api::{ApiError, Attach, AttachResult, AttachmentId, Gc, Interface, Ip, Route, code};
use control::attachments::{Attachment, NetnsId};
use control::ipam::IpamError;
use control::mac::Mac;
use ipnet::IpNet;
use policy::conntrack::Opener;

use super::attach::{self, AttachError, Opened};
use super::{Attached, Daemon, chain, keeper_link::names};
use crate::counters::port_stats;
use crate::port::{PortIo, PortTx};
use crate::snapshot::{Port, PortKind};
use crate::switch::SwitchError;
use crate::sys::netns::Netns;

/// The two halves of an opened interface, and the descriptor to wait on.
pub(super) struct Halves {
    pub(super) rx: Box<dyn PortIo + Send>,
    pub(super) tx: Arc<dyn PortTx>,
    pub(super) fd: std::os::fd::RawFd,
}

/// The reading half of an interface, and the descriptor to wait on.
pub(super) type Reader = (Box<dyn PortIo + Send>, std::os::fd::RawFd);

/// How far an ADD is before it has an address.
pub(super) enum Prepared {
    /// It is done already.
    Known(AttachResult),
    /// It needs one.
    New(Netns, NetnsId),
}

impl Daemon {
    /// CNI ADD: all of it or nothing.
    pub(super) fn add(&mut self, a: &Attach) -> Result<AttachResult, ApiError> {
        match self.prepare(a)? {
            Prepared::Known(result) => Ok(result),
            Prepared::New(ns, netns_id) => {
                let addresses = self.ipam.allocate(&a.id(), &a.request.ips).map_err(|e| ipam_error(&e))?;
                self.finish(a, &ns, netns_id, addresses)
            }
        }
    }

    /// Everything that can be wrong with an ADD before it has an address.
    pub(super) fn prepare(&mut self, a: &Attach) -> Result<Prepared, ApiError> {
        let id = a.id();
        a.check().map_err(|e| ApiError::new(code::INVALID_ENVIRONMENT, e.to_string()))?;
        self.ready().map_err(|e| ApiError::new(code::TRY_LATER, e.msg))?;
        let (ns, netns_id) = attach::open_netns(Path::new(&a.netns)).map_err(|e| environment(&e))?;
        if let Some(known) = self.attached.get(&id) {
            if known.record.netns_id == netns_id && attach::check(&ns, &known.record, None).is_ok() {
                // The runtime did not hear our first answer and asks again.
                return Ok(Prepared::Known(result(&known.record)));
            }
            // The same container in another namespace, or with its interface gone: a restart without DEL.
            self.detach(&id)?;
        }
        a.request.mac.as_deref().map(parse_mac).transpose()?;
        Ok(Prepared::New(ns, netns_id))
    }

    /// The rest of an ADD, which has these addresses now.
    pub(super) fn finish(
        &mut self,
        a: &Attach,
        ns: &Netns,
        netns_id: NetnsId,
        addresses: Vec<IpAddr>,
    ) -> Result<AttachResult, ApiError> {
        let id = a.id();
        let wished = a.request.mac.as_deref().map(parse_mac).transpose()?;
        let record = Attachment {
            network: a.network.clone(),
            container_id: a.container_id.clone(),
            ifname: a.ifname.clone(),
            pod: a.pod.clone(),
            netns: a.netns.clone().into(),
            netns_id,
            boot_id: self.boot_id.clone(),
            mac: wished.unwrap_or_else(|| mac_for(&addresses)),
            addresses,
            mtu: u32::from(self.facts.mtu),
        };
        if let Err(e) = self.attach(ns, &record) {
            // Nothing of a failed ADD stays: not the interface, the record, or the address.
            let _ = attach::remove(ns, &record.netns, &record.ifname);
            let _ = self.state.remove(&id);
            self.ipam.release(&id);
            return Err(e);
        }
        self.publish_pods();
        Ok(result(&record))
    }

    fn attach(&mut self, ns: &Netns, record: &Attachment) -> Result<(), ApiError> {
        let id = record.id();
        self.state.save(record).map_err(|e| ApiError::new(code::IO, e.to_string()))?;
        let opened = attach::create(ns, record, self.config.node.offload).map_err(|e| attach_error(&e))?;
        self.plug(&id, record.clone(), opened).inspect_err(|_| {
            self.unplug(&id);
        })
    }

    /// Takes an opened interface into the tables and gives it its reader; in force everywhere when this returns.
    pub(super) fn plug(
        &mut self,
        id: &AttachmentId,
        record: Attachment,
        opened: Opened,
    ) -> Result<(), ApiError> {
        let internal = |e: &dyn std::error::Error| ApiError::new(code::INTERNAL, chain(e));
        self.keeper.put(&keeper_name(id), opened.fd()).map_err(|e| internal(&e))?;
        let halves = halves(opened, self.gso_write).map_err(|e| internal(&e))?;
        let port = self.free_port();
        let of = |v6: bool| record.addresses.iter().find(|a| a.is_ipv6() == v6).map(|a| encap::from_ip(*a));
        self.ports[port as usize] = Some(Arc::new(Port {
            id: port,
            name: record.pod.to_string(),
            kind: PortKind::Pod,
            mac: encap::Mac(record.mac.0),
            v4: of(false),
            v6: of(true),
            mtu: u16::try_from(record.mtu).unwrap_or(u16::MAX),
            tx: halves.tx,
            stats: port_stats(self.switch.workers()),
        }));
        self.attached.insert(id.clone(), Attached { record, port });
        self.compile_policy();
        self.publish().map_err(|e| internal(&e))?;
        self.read(port, (halves.rx, halves.fd)).map_err(|e| internal(&e))
    }

    /// Lets a worker read a port, now or when the first tables are in force.
    pub(super) fn read(&mut self, port: u32, (rx, fd): Reader) -> Result<(), SwitchError> {
        match &mut self.waiting {
            Some(waiting) => {
                waiting.push((port, (rx, fd)));
                Ok(())
            }
            None => self.switch.add_port(port, rx, fd),
        }
    }

    /// Ends the start: everything taken up goes into force at once, then is read.
    pub(super) fn begin(&mut self) -> Result<(), SwitchError> {
        let waiting = self.waiting.take().unwrap_or_default();
        self.compile_policy();
        self.publish()?;
        for (port, (rx, fd)) in waiting {
            self.switch.add_port(port, rx, fd)?;
        }
        Ok(())
    }

    /// Takes an attachment out of the tables and closes its interface; its record and address stay.
    fn unplug(&mut self, id: &AttachmentId) {
        if let Some(a) = self.attached.remove(id) {
            if let Some(waiting) = &mut self.waiting {
                waiting.retain(|(port, _)| *port != a.port);
            }
            let old = self.ports.get_mut(a.port as usize).and_then(Option::take);
            if let Some(port) = &old {
                let addresses: Vec<u128> = port.v4.into_iter().chain(port.v6).collect();
                if let Err(err) = self.uplinks.place(&addresses, None) {
                    tracing::error!(%id, err = %chain(&err), "unplug");
                }
            }
            self.compile_policy();
            for failed in [self.publish().err(), self.switch.remove_port(a.port).err()].into_iter().flatten()
            {
                tracing::error!(%id, err = %chain(&failed), "unplug");
            }
            drop(old);
        }
        if let Err(err) = self.keeper.forget(&keeper_name(id)) {
            tracing::error!(%id, %err, "let the keeper forget");
        }
    }

    fn free_port(&mut self) -> u32 {
        let free = self.ports.iter().position(Option::is_none).unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        free as u32
    }

    /// CNI DEL: succeeds when nothing is left.
    pub(super) fn del(&mut self, a: &Attach) -> Result<(), ApiError> {
        let id = a.id();
        id.check().map_err(|e| ApiError::new(code::INVALID_ENVIRONMENT, e.to_string()))?;
        let known = self.attached.contains_key(&id);
        self.forget_asked(&id);
        self.detach(&id)?;
        if !known && !a.netns.is_empty() {
            // An ADD that died half-way may have left its interface without a record.
            match attach::open_netns(Path::new(&a.netns)) {
                Ok((ns, _)) => {
                    attach::remove(&ns, Path::new(&a.netns), &a.ifname).map_err(|e| attach_error(&e))?;
                }
                // A namespace that is gone took everything along.
                Err(AttachError::OpenNetns { .. }) => {}
                Err(e) => return Err(environment(&e)),
            }
        }
        Ok(())
    }

    /// Removes all there is of an attachment; reports the first failure after trying everything.
    pub(super) fn detach(&mut self, id: &AttachmentId) -> Result<(), ApiError> {
        let record = self.attached.get(id).map(|a| a.record.clone());
        let port = self.attached.get(id).map(|a| a.port);
        self.unplug(id);
        if let (Some(record), Some(port)) = (&record, port) {
            // The next pod with this address, or at this port, inherits nothing.
            let table = self.switch.conntrack();
            table.forget_opener(Opener::Port(port));
            record.addresses.iter().for_each(|a| {
                table.forget_addr(encap::from_ip(*a));
            });
        }
        let mut failed = None;
        if let (Some(pools), Some(record)) = (&mut self.pools, &record) {
            pools.note(record);
        }
        if let Some(record) = &record
            && let Ok(ns) = attach::reopen_netns(record)
            && let Err(e) = attach::remove(&ns, &record.netns, &record.ifname)
        {
            failed = Some(attach_error(&e));
        }
        if let Err(e) = self.state.remove(id) {
            failed = failed.or(Some(ApiError::new(code::IO, e.to_string())));
        }
        self.ipam.release(id);
        self.forget_former();
        self.publish_pods();
        if let Some(record) = &record {
            self.detached(record);
        }
        failed.map_or(Ok(()), Err)
    }

    /// CNI CHECK.
    pub(super) fn check(&mut self, a: &Attach) -> Result<(), ApiError> {
        let id = a.id();
        let Some(known) = self.attached.get(&id) else {
            return Err(ApiError::new(code::UNKNOWN_CONTAINER, format!("{id} is not attached")));
        };
        let ns = attach::reopen_netns(&known.record).map_err(|e| attach_error(&e))?;
        attach::check(&ns, &known.record, a.prev.as_ref()).map_err(|e| attach_error(&e))
    }

    /// CNI GC: everything of this network that the runtime does not know.
    pub(super) fn gc(&mut self, gc: &Gc) -> Result<(), ApiError> {
        let stale: Vec<AttachmentId> = self
            .attached
            .iter()
            .filter(|(id, a)| a.record.network == gc.network && !gc.valid.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        let mut failed = Vec::new();
        for id in stale {
            tracing::info!(%id, "collected: the runtime does not know it");
            if let Err(e) = self.detach(&id) {
                failed.push(format!("{id}: {e}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(ApiError::new(code::IO, failed.join("; "))) }
    }
}

impl Opened {
    /// The descriptor.
    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Opened::Tap(t) => t.as_fd(),
            Opened::Plain(fd) => fd.as_fd(),
        }
    }
}

/// Splits an interface into its reading and writing halves.
pub(super) fn halves(opened: Opened, gso: bool) -> std::io::Result<Halves> {
    Ok(match opened {
        Opened::Tap(tap) => {
            let (rx, tx) = crate::port::tap::halves(tap, gso)?;
            Halves { fd: rx.as_fd().as_raw_fd(), rx: Box::new(rx), tx: Arc::new(tx) }
        }
        Opened::Plain(fd) => {
            let (rx, tx) = crate::port::plain::adopt(fd)?;
            Halves { fd: rx.as_fd().as_raw_fd(), rx: Box::new(rx), tx: Arc::new(tx) }
        }
    })
}

/// Under which name the keeper holds a pod's interface.
pub(super) fn keeper_name(id: &AttachmentId) -> String {
    format!("{}{}/{}", names::PORT, id.container_id, id.ifname)
}

/// A MAC that follows from the address, so that a pod with the same address is the same neighbour: 0a:58 and the IPv4
/// address as other plugins have it, or a hash-free fold of the IPv6 address.
fn mac_for(addresses: &[IpAddr]) -> Mac {
    match addresses.iter().find(|a| a.is_ipv4()).or(addresses.first()) {
        Some(IpAddr::V4(a)) => {
            let [b, c, d, e] = a.octets();
            Mac([0x0a, 0x58, b, c, d, e])
        }
        Some(IpAddr::V6(a)) => {
            let o = a.octets();
            Mac([0x0a, 0x59, o[12] ^ o[8], o[13] ^ o[9], o[14] ^ o[10], o[15] ^ o[11]])
        }
        None => Mac([0x0a, 0x58, 0, 0, 0, 1]),
    }
}

fn parse_mac(text: &str) -> Result<Mac, ApiError> {
    let refused = |why: &str| ApiError::new(code::ADDRESS_REFUSED, format!("MAC {text:?}: {why}"));
    let mac: Mac = text.parse().map_err(|_| refused("not an Ethernet address"))?;
    let ours = [crate::snapshot::GATEWAY_MAC.0, super::node::HOST_MAC.0];
    match mac {
        m if !m.is_unicast() => Err(refused("not a unicast address")),
        m if ours.contains(&m.0) => Err(refused("belongs to the gateway")),
        m => Ok(m),
    }
}

/// What ADD answers for this attachment.
fn result(a: &Attachment) -> AttachResult {
    let default =
        |v6| if v6 { IpNet::V6(ipnet::Ipv6Net::default()) } else { IpNet::V4(ipnet::Ipv4Net::default()) };
    AttachResult {
        interface: Interface {
            name: a.ifname.clone(),
            mac: a.mac.to_string(),
            mtu: a.mtu,
            sandbox: a.netns.display().to_string(),
        },
        ips: a
            .addresses
            .iter()
            .map(|x| Ip { address: IpNet::from(*x), gateway: attach::gateway_of(*x) })
            .collect(),
        routes: a
            .addresses
            .iter()
            .map(|x| Route { dst: default(x.is_ipv6()), gw: Some(attach::gateway_of(*x)) })
            .collect(),
        mtu: a.mtu,
    }
}

fn environment(e: &AttachError) -> ApiError {
    ApiError::new(code::INVALID_ENVIRONMENT, chain(e))
}

fn attach_error(e: &AttachError) -> ApiError {
    let code = match e {
        AttachError::Exists { .. } => code::ALREADY_ATTACHED,
        AttachError::Changed { .. } => code::CHANGED,
        AttachError::OpenNetns { .. } | AttachError::HostNetns { .. } | AttachError::OtherNetns { .. } => {
            code::INVALID_ENVIRONMENT
        }
        _ => code::IO,
    };
    ApiError::new(code, chain(e))
}

fn ipam_error(e: &IpamError) -> ApiError {
    let code = match e {
        IpamError::Taken { .. } => code::ADDRESS_TAKEN,
        IpamError::Exhausted { .. } => code::NO_ADDRESS_LEFT,
        IpamError::Held { .. } => code::ALREADY_ATTACHED,
        IpamError::Outside { .. } | IpamError::Reserved { .. } | IpamError::Twice { .. } => {
            code::ADDRESS_REFUSED
        }
    };
    ApiError::new(code, e.to_string())
}
