//! The tunnel's sockets: opened or taken back from the keeper, and dealt out to the workers.
//!
//! There is a group of receiving sockets for each form of tunnel in use and each address of the node, one socket a
//! worker: UDP sockets form an `SO_REUSEPORT` group, raw sockets share by filters; both by inner destination
//! ([`steer`]). Each worker sends through sockets of its own. Which groups there are follows the fleet and
//! may change at any time: [`Uplinks::set`] opens and closes, and the workers get the whole anew.
//!
//! With VXLAN comes the uplink TAP (whole super-frames), which is used when the probe has seen one leave the uplink
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use control::config::{FastPath, Node, Tunnel};
use control::fleet::{Backend, Fleet};
use crossbeam::channel::Sender;
use encap::{Form, Frame};

use super::keeper_link::{KeeperLink, names};
use super::whole::Whole;
use super::{Event, chain};
use crate::uplink::ipip::{self, IpipError, IpipRx, IpipTx};
use crate::uplink::steer::{self, Moved};
use crate::uplink::tap::{Outer, UplinkTap};
use crate::uplink::udp::{self, UdpError, UdpRx, UdpTx};
use crate::uplink::{SendReport, Train, Uplink, UplinkTx};
use crate::worker::WorkerIo;

/// Source ports of a node's VXLAN traffic, all workers together (RFC 7348 section 5: entropy for the underlay).
const SOURCE_PORTS: usize = 8;
/// Where peers listen by default.
const VXLAN_PORT: u16 = 8472;
const UDP_PORT: u16 = 8285;

/// The tunnel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// A UDP socket failed.
    #[error("tunnel port {port}: {}", chain(err))]
    Socket {
        /// The UDP port.
        port: u16,
        /// Why.
        err: UdpError,
    },
    /// A raw socket failed.
    #[error("IP in IP: {}", chain(err))]
    Raw {
        /// Why.
        err: IpipError,
    },
    /// A descriptor could not be duplicated.
    #[error("duplicate a tunnel socket")]
    Duplicate(#[source] io::Error),
    /// The keeper is gone.
    #[error("hand the tunnel's sockets to the keeper")]
    Keeper(#[source] io::Error),
}

/// A group of receiving sockets: the form of what they receive, and where.
pub(super) type Group = (Form, SocketAddr);

/// The UDP port of a form, on this node and its peers: the configured one of the node's own tunnel, the usual one of
/// another; 0 for a form without ports.
pub(super) fn port(own: &Tunnel, form: Form) -> u16 {
    match (form, own) {
        (Form::Vxlan, Tunnel::Vxlan { port, .. }) | (Form::Udp, Tunnel::Udp { port, .. }) => *port,
        (Form::Vxlan, _) => VXLAN_PORT,
        (Form::Udp, _) => UDP_PORT,
        (Form::Ipip, _) => 0,
    }
}

/// The form of what a backend sends; none for `direct`.
pub(super) fn form(backend: Backend) -> Option<Form> {
    match backend {
        Backend::Vxlan { .. } => Some(Form::Vxlan),
        Backend::Udp => Some(Form::Udp),
        Backend::Ipip => Some(Form::Ipip),
        Backend::Direct => None,
    }
}

/// The groups that a fleet needs: one of each form in use at each address that tunnels use.
pub(super) fn needs(fleet: &Fleet, node: &Node) -> BTreeSet<Group> {
    let v4 = node.address.map(IpAddr::V4);
    let v6 = node.address6.map(IpAddr::V6).filter(|_| fleet.outer_v6(node));
    let locals: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    let forms = fleet.backends().into_iter().filter_map(form);
    forms
        .flat_map(|form| {
            // IP in IP has no outer IPv6.
            let fits = move |local: &&IpAddr| form != Form::Ipip || local.is_ipv4();
            let port = port(&fleet.tunnel, form);
            locals.iter().filter(fits).map(move |local| (form, SocketAddr::new(*local, port)))
        })
        .collect()
}

/// The sockets in use.
pub(super) struct Uplinks {
    workers: usize,
    groups: BTreeMap<Group, Vec<OwnedFd>>,
    /// Sockets were given up: the keeper takes a moment to close them too.
    given_up: bool,
    whole: Option<Whole>,
    /// Addresses whose ports were given to another worker.
    moved: Moved,
    /// Fast paths that are not taken.
    without: BTreeSet<FastPath>,
    /// The uplink interface, and whom to tell what its probe sees.
    interface: String,
    events: Sender<Event>,
}

impl Uplinks {
    /// None yet, for this node; what probes of its uplink see is told to `events`.
    pub(super) fn new(node: &Node, events: Sender<Event>) -> Uplinks {
        let (workers, without) = (node.workers.max(1), node.without.clone());
        let (groups, interface) = (BTreeMap::new(), node.uplink.clone());
        Uplinks {
            workers,
            groups,
            given_up: false,
            whole: None,
            moved: Moved::new(),
            without,
            interface,
            events,
        }
    }

    /// Takes up what the keeper held; what is not needed, or is of another number of workers, it may close.
    pub(super) fn take_up(
        &mut self,
        needs: &BTreeSet<Group>,
        keeper: &KeeperLink,
        held: &mut BTreeMap<String, OwnedFd>,
    ) -> Result<(), UplinkError> {
        let kept: Vec<String> = held.keys().filter(|name| name.starts_with(names::UPLINK)).cloned().collect();
        let mut rest: BTreeSet<String> = kept.into_iter().collect();
        for group in needs {
            let names: Vec<String> = names_of(*group, self.workers).collect();
            let beyond = name_of(*group, names.len());
            if names.iter().all(|name| rest.contains(name)) && !rest.contains(&beyond) {
                let sockets = names.iter().filter_map(|name| held.remove(name)).collect();
                rest.retain(|name| !names.contains(name));
                self.groups.insert(*group, sockets);
            }
        }
        for name in rest {
            held.remove(&name);
            keeper.forget(&name).map_err(UplinkError::Keeper)?;
            self.given_up = true;
        }
        Ok(())
    }

    /// Which groups there are.
    pub(super) fn have(&self) -> BTreeSet<Group> {
        self.groups.keys().copied().collect()
    }

    /// Opens and closes until exactly these groups are there. What could not be opened is missing afterwards; the first
    /// such failure is told.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub(super) fn set(&mut self, needs: &BTreeSet<Group>, keeper: &KeeperLink) -> Result<(), UplinkError> {
        let gone: Vec<Group> = self.groups.keys().filter(|g| !needs.contains(g)).copied().collect();
        for group in gone {
            let sockets = self.groups.remove(&group).unwrap_or_default();
            for name in (0..sockets.len()).map(|i| name_of(group, i)) {
                keeper.forget(&name).map_err(UplinkError::Keeper)?;
            }
            self.given_up = true;
        }
        let mut failed = None;
        let missing: Vec<Group> = needs.iter().filter(|g| !self.groups.contains_key(g)).copied().collect();
        for group in missing {
            match open(group, self.workers, self.given_up) {
                Ok(sockets) => {
                    for (i, socket) in sockets.iter().enumerate() {
                        keeper.put(&name_of(group, i), socket).map_err(UplinkError::Keeper)?;
                    }
                    self.groups.insert(group, sockets);
                }
                Err(err) => failed = failed.or(Some(err)),
            }
        }
        let may = !self.without.contains(&FastPath::UplinkTap);
        let (vxlan, v6) = self.groups.keys().fold((false, false), |(vxlan, v6), (form, local)| {
            (vxlan || (may && *form == Form::Vxlan), v6 || (*form == Form::Vxlan && local.is_ipv6()))
        });
        match (&self.whole, vxlan) {
            (None, true) => self.whole = Whole::open(&self.interface, v6, self.events.clone()),
            (Some(_), false) => self.whole = None,
            _ => {}
        }
        failed.map_or(Ok(()), Err)
    }

    /// Ways to peers on which the uplink TAP may be probed: from this node's address to theirs.
    pub(super) fn probe_ways(&self, ways: Vec<(IpAddr, IpAddr)>) {
        if let Some(whole) = &self.whole {
            whole.probe_ways(ways);
        }
    }

    /// The workers' parts of the sockets there are, in the workers' order.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub(super) fn deal(&self) -> Result<Vec<WorkerIo>, UplinkError> {
        self.steer()?;
        (0..self.workers)
            .map(|worker| Ok(WorkerIo { uplinks: self.readers(worker)?, uplink_tx: self.way_out()? }))
            .collect()
    }

    /// Lets what comes for a port's addresses come to this worker, or to the one by their numbers again. More than
    /// [`MOVED`](steer::MOVED) addresses cannot be told apart: false then, and for what is so already.
    ///
    /// # Errors
    /// When a socket takes no program.
    pub(super) fn place(&mut self, addresses: &[u128], worker: Option<usize>) -> Result<bool, UplinkError> {
        let mut moved = self.moved.clone();
        for word in addresses.iter().map(|address| steer::word(*address)) {
            match worker {
                Some(worker) => moved.insert(word, worker),
                None => moved.remove(&word),
            };
        }
        if moved.len() > steer::MOVED || moved == self.moved {
            return Ok(false);
        }
        self.moved = moved;
        self.steer()?;
        // Raw sockets choose each for itself. The new one first: what comes meanwhile comes twice rather than never.
        for (_, sockets) in self.groups.iter().filter(|((form, _), _)| *form == Form::Ipip) {
            let worker = worker.unwrap_or(0);
            let mut order: Vec<usize> = (0..sockets.len()).collect();
            order.sort_by_key(|i| i % self.workers != worker);
            for i in order {
                self.share(sockets[i].try_clone().map_err(UplinkError::Duplicate)?, i)?;
            }
        }
        Ok(true)
    }

    /// Lets each datagram come to the worker that reads its receiver's port.
    fn steer(&self) -> Result<(), UplinkError> {
        for ((form, local), sockets) in &self.groups {
            let (Form::Vxlan | Form::Udp, Some(first)) = (form, sockets.first()) else { continue };
            let copy = first.try_clone().map_err(UplinkError::Duplicate)?;
            let steered = UdpRx::adopt(copy).and_then(|rx| rx.steer(*form, sockets.len(), &self.moved));
            steered.map_err(|err| UplinkError::Socket { port: local.port(), err })?;
        }
        Ok(())
    }

    /// The raw socket number `i` of a group takes its worker's packets.
    fn share(&self, socket: OwnedFd, i: usize) -> Result<IpipRx, UplinkError> {
        let raw = |err| UplinkError::Raw { err };
        let rx = IpipRx::adopt(socket).map_err(raw)?;
        rx.share(i % self.workers, self.workers, &self.moved).map_err(raw)?;
        Ok(rx)
    }

    /// What a worker reads. The sockets of a group are in the workers' order, over and over.
    fn readers(&self, worker: usize) -> Result<Vec<Uplink>, UplinkError> {
        let mut uplinks = Vec::new();
        for ((form, local), sockets) in &self.groups {
            for (i, socket) in sockets.iter().enumerate().filter(|(i, _)| i % self.workers == worker) {
                let copy = socket.try_clone().map_err(UplinkError::Duplicate)?;
                let fd = copy.as_raw_fd();
                let rx: Box<dyn crate::uplink::UplinkIo + Send> = match form {
                    Form::Vxlan | Form::Udp => {
                        let port = local.port();
                        let coalesce = !self.without.contains(&FastPath::Merging);
                        let rx = UdpRx::adopt(copy).and_then(|rx| rx.coalesce(coalesce).map(|()| rx));
                        Box::new(rx.map_err(|err| UplinkError::Socket { port, err })?)
                    }
                    Form::Ipip => Box::new(self.share(copy, i)?),
                };
                uplinks.push(Uplink { form: *form, rx, fd });
            }
        }
        Ok(uplinks)
    }

    /// A way out of a worker's own.
    fn way_out(&self) -> Result<Box<dyn UplinkTx + Send>, UplinkError> {
        let mut out = Out { vxlan: None, udp: None, ipip: None, whole: None };
        for form in Form::ALL {
            let groups = || self.groups.iter().filter(move |((f, _), _)| *f == form);
            let Some(((_, first), _)) = groups().next() else { continue };
            let socket = |err| UplinkError::Socket { port: first.port(), err };
            match form {
                Form::Vxlan => {
                    // While the port changes there are two groups of an address.
                    let locals: BTreeSet<IpAddr> = groups().map(|((_, local), _)| local.ip()).collect();
                    let locals: Vec<IpAddr> = locals.into_iter().collect();
                    let spread = SOURCE_PORTS.div_ceil(self.workers);
                    out.vxlan = Some(UdpTx::spread(&locals, spread).map_err(socket)?);
                    out.whole = self.whole.as_ref().map(|whole| (whole.tap(), whole.v6()));
                }
                // Flannel's peers expect the tunnel's own port as the source. One socket of each family is enough.
                Form::Udp => {
                    let mut bound = Vec::new();
                    for first in groups().filter_map(|(_, sockets)| sockets.first()) {
                        let copy = first.try_clone().map_err(UplinkError::Duplicate)?;
                        bound.push(UdpRx::adopt(copy).map_err(socket)?);
                    }
                    out.udp = Some(UdpTx::bound(&bound).map_err(socket)?);
                }
                Form::Ipip => {
                    if let IpAddr::V4(src) = first.ip() {
                        out.ipip = Some(IpipTx::open(src).map_err(|err| UplinkError::Raw { err })?);
                    }
                }
            }
        }
        if self.without.contains(&FastPath::Segmentation) {
            out.vxlan.iter_mut().chain(&mut out.udp).for_each(UdpTx::disable_segments);
        }
        Ok(Box::new(out))
    }
}

/// The name under which the keeper holds a socket of a group.
fn name_of((form, local): Group, index: usize) -> String {
    format!("{}{}:{local}:{index}", names::UPLINK, form.name())
}

fn names_of(group: Group, workers: usize) -> impl Iterator<Item = String> {
    (0..sockets(group.0, workers)).map(move |i| name_of(group, i))
}

/// Sockets in a group.
fn sockets(form: Form, workers: usize) -> usize {
    match form {
        Form::Vxlan | Form::Udp => workers,
        Form::Ipip => workers * ipip::PROTOCOLS.len(),
    }
}

/// Opens a group's sockets. Where others were given up, the keeper takes a moment to close what held the port.
fn open((form, local): Group, workers: usize, patient: bool) -> Result<Vec<OwnedFd>, UplinkError> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(UplinkError::Duplicate);
    match (form, local.ip()) {
        (Form::Ipip, IpAddr::V4(addr)) => {
            let opened = ipip::PROTOCOLS.into_iter().flat_map(|protocol| {
                (0..workers).map(move |i| {
                    let rx = IpipRx::open(addr, protocol)?;
                    rx.share(i, workers, &Moved::new()).map(|()| rx)
                })
            });
            opened.map(|rx| copy(rx.map_err(|err| UplinkError::Raw { err })?.as_fd())).collect()
        }
        (Form::Ipip, IpAddr::V6(_)) => Ok(Vec::new()),
        (Form::Vxlan | Form::Udp, _) => {
            let bound = bind(local, workers, patient);
            let rx = bound.map_err(|err| UplinkError::Socket { port: local.port(), err })?;
            rx.iter().map(|rx| copy(rx.as_fd())).collect()
        }
    }
}

fn bind(addr: SocketAddr, count: usize, patient: bool) -> Result<Vec<UdpRx>, UdpError> {
    for _ in 0..if patient { 100 } else { 0 } {
        match udp::bind(addr, count) {
            Err(UdpError::Taken(_)) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    udp::bind(addr, count)
}

/// A worker's way out: sockets of each form in use, and the uplink TAP where there is one.
struct Out {
    vxlan: Option<UdpTx>,
    udp: Option<UdpTx>,
    ipip: Option<IpipTx>,
    /// And whether it carries outer IPv6.
    whole: Option<(Arc<UplinkTap>, bool)>,
}

impl UplinkTx for Out {
    fn send(&mut self, form: Form, trains: &[Train<'_>]) -> SendReport {
        let sent = match form {
            Form::Vxlan => self.vxlan.as_mut().map(|tx| tx.send(trains)),
            Form::Udp => self.udp.as_mut().map(|tx| tx.send(trains)),
            Form::Ipip => self.ipip.as_mut().map(|tx| tx.send(trains)),
        };
        // Without a socket of the form nothing can be sent.
        sent.unwrap_or_else(|| SendReport {
            sent: 0,
            dropped: 0,
            errors: trains.iter().map(Train::count).sum(),
        })
    }

    fn max_train(&self, form: Form) -> (usize, usize) {
        let udp = match form {
            Form::Vxlan => &self.vxlan,
            Form::Udp => &self.udp,
            Form::Ipip => return (ipip::MAX_PACKETS, ipip::MAX_BYTES),
        };
        udp.as_ref().map_or((1, usize::from(u16::MAX)), UdpTx::max_train)
    }

    fn port(&self, form: Form, flow_hash: u64) -> usize {
        let udp = match form {
            Form::Vxlan => &self.vxlan,
            Form::Udp => &self.udp,
            Form::Ipip => return 0,
        };
        udp.as_ref().map_or(0, |udp| udp.port(flow_hash))
    }

    fn send_whole(&mut self, inner: &Frame, dst: &SocketAddr, vni: u32, flow_hash: u64) -> bool {
        let (Some((up, v6)), Some(udp)) = (&self.whole, &self.vxlan) else { return false };
        if dst.is_ipv6() && !v6 {
            return false;
        }
        // The same source as the flow's small packets have, so that the peer's group of sockets sees one flow.
        let Some(src) = udp.source(flow_hash, dst.is_ipv6()) else { return false };
        let outer = Outer { src, dst: *dst, vni };
        up.send(&inner.vnet, &outer, &[IoSlice::new(inner.data())]).is_ok()
    }
}
