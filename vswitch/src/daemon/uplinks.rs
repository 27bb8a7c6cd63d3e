//! The tunnel's sockets: opened or taken back from the keeper, and dealt out to the workers.
//!
//! Receiving sockets form one `SO_REUSEPORT` group of one socket a worker; the kernel spreads peers' source ports over
//! them. Each worker sends through sockets of its own. A VXLAN node also tries the uplink TAP (whole super-frames),
//! which is used when the probe has seen one leave the uplink whole.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use control::config::{Config, Tunnel};
use crossbeam::channel::Sender;
use encap::Frame;

use super::keeper_link::{KeeperLink, names};
use super::{Event, chain};
use crate::switch::WorkerIo;
use crate::uplink::tap::{self, Outer, UplinkTap, Verdict};
use crate::uplink::udp::{self, UdpError, UdpRx, UdpTx};
use crate::uplink::{SendReport, Train, UplinkIo, UplinkTx};

/// Source ports of a node's VXLAN traffic, all workers together (RFC 7348 section 5: entropy for the underlay).
const SOURCE_PORTS: usize = 8;

/// How long a good verdict about the uplink TAP is believed.
const PROBE_AGAIN: Duration = Duration::from_secs(60);
/// How soon a bad one is doubted.
const PROBE_SOON: Duration = Duration::from_secs(15);

/// The tunnel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// A socket failed.
    #[error("tunnel port {port}: {}", chain(err))]
    Socket {
        /// The UDP port.
        port: u16,
        /// Why.
        err: UdpError,
    },
    /// The keeper is gone.
    #[error("hand the tunnel's sockets to the keeper")]
    Keeper(#[source] std::io::Error),
}

/// The receiving sockets.
pub(super) struct Uplinks {
    port: u16,
    rx: Vec<UdpRx>,
}

/// Opens the tunnel's receiving sockets, or takes up those kept.
pub(super) fn open(
    config: &Config,
    keeper: &KeeperLink,
    held: &mut BTreeMap<String, OwnedFd>,
) -> Result<Uplinks, UplinkError> {
    let port = match config.tunnel {
        Tunnel::Vxlan { port, .. } | Tunnel::Udp { port, .. } => port,
        Tunnel::Direct => return Ok(Uplinks { port: 0, rx: Vec::new() }),
    };
    let socket = |err| UplinkError::Socket { port, err };
    let mut rx = Vec::new();
    while let Some(fd) = held.remove(&format!("{}{}", names::UPLINK, rx.len())) {
        rx.push(UdpRx::adopt(fd).map_err(socket)?);
    }
    let locals = locals(config);
    let wanted = locals.iter().flat_map(|l| (0..config.node.workers).map(|_| SocketAddr::new(*l, port)));
    if rx.iter().map(UdpRx::local).eq(wanted) {
        return Ok(Uplinks { port, rx });
    }
    // None yet, or the configuration has changed: those of before must be closed on both sides.
    let kept = rx.len();
    rx.clear();
    for i in 0..kept {
        keeper.forget(&format!("{}{i}", names::UPLINK)).map_err(UplinkError::Keeper)?;
    }
    for local in locals {
        rx.extend(bind(SocketAddr::new(local, port), config.node.workers, kept > 0).map_err(socket)?);
    }
    for (i, s) in rx.iter().enumerate() {
        keeper.put(&format!("{}{i}", names::UPLINK), s.as_fd()).map_err(UplinkError::Keeper)?;
    }
    Ok(Uplinks { port, rx })
}

/// Binds; the keeper takes a moment to close what held the port before.
fn bind(addr: SocketAddr, count: usize, patient: bool) -> Result<Vec<UdpRx>, UdpError> {
    for _ in 0..if patient { 100 } else { 0 } {
        match udp::bind(addr, count) {
            Err(UdpError::Taken(_)) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    udp::bind(addr, count)
}

/// The node addresses that tunnels use.
fn locals(config: &Config) -> Vec<IpAddr> {
    let reached: Vec<IpAddr> = config.peers.iter().filter_map(|p| config.reach(p)).collect();
    let v4 = config.node.address.map(IpAddr::V4);
    let v6 = config.node.address6.map(IpAddr::V6);
    // Without an IPv4 address, or with a peer that has none, the outer family is IPv6.
    let needs6 = v4.is_none() || reached.iter().any(IpAddr::is_ipv6);
    v4.into_iter().chain(v6.filter(|_| needs6)).collect()
}

impl Uplinks {
    /// Deals the sockets out. With them comes the uplink TAP, where the device below may carry super-frames.
    pub(super) fn into_workers(
        self,
        config: &Config,
    ) -> Result<(Vec<WorkerIo>, Option<Arc<UplinkTap>>), UplinkError> {
        let port = self.port;
        let socket = |err| UplinkError::Socket { port, err };
        let locals = locals(config);
        let whole = if matches!(config.tunnel, Tunnel::Vxlan { .. }) { whole(config, &locals) } else { None };
        let workers = config.node.workers.max(1);
        let mut io = Vec::with_capacity(workers);
        for _ in 0..workers {
            let tx = match config.tunnel {
                Tunnel::Vxlan { .. } => {
                    let spread = SOURCE_PORTS.div_ceil(workers);
                    Some(UdpTx::spread(&locals, spread).map_err(socket)?)
                }
                // Flannel's peers expect the tunnel's own port as the source. One socket of each family is enough.
                Tunnel::Udp { .. } => {
                    let of = |v6: bool| self.rx.iter().find(move |r| r.local().is_ipv6() == v6);
                    Some(UdpTx::bound(of(false).into_iter().chain(of(true))).map_err(socket)?)
                }
                Tunnel::Direct => None,
            };
            let uplink_tx: Box<dyn UplinkTx + Send> = match tx {
                Some(udp) => Box::new(Out { udp, whole: whole.clone() }),
                None => Box::new(Nowhere),
            };
            io.push(WorkerIo { uplinks: Vec::new(), uplink_tx });
        }
        for (i, rx) in self.rx.into_iter().enumerate() {
            let fd = rx.as_fd().as_raw_fd();
            let rx: Box<dyn UplinkIo + Send> = Box::new(rx);
            io[i % workers].uplinks.push((rx, fd));
        }
        Ok((io, whole))
    }
}

/// The uplink TAP, where the uplink's device may carry tunnel super-frames. It is used once a probe has seen one leave
/// whole: [`watch_whole`].
fn whole(config: &Config, locals: &[IpAddr]) -> Option<Arc<UplinkTap>> {
    let uplink = &config.node.uplink;
    for feature in ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"] {
        if !crate::sys::ethtool::feature(uplink, feature).unwrap_or(false) {
            tracing::info!(uplink, feature, "off: super-frames are segmented here");
            return None;
        }
    }
    match UplinkTap::open(tap::NAME, locals.iter().any(IpAddr::is_ipv6), true) {
        Ok(up) => Some(Arc::new(up)),
        Err(err) => {
            tracing::info!(err = %chain(&err), "no uplink TAP: super-frames are segmented here");
            None
        }
    }
}

/// Starts the thread that probes the uplink TAP, now and from time to time: a peer may not be up yet, a firewall may
/// come later, the device's offloads may be switched. Tells changes as [`Event::Whole`].
pub(super) fn watch_whole(up: Arc<UplinkTap>, config: &Config, events: Sender<Event>) -> std::io::Result<()> {
    let locals = locals(config);
    let uplink = config.node.uplink.clone();
    let ways: Vec<(IpAddr, IpAddr)> = config
        .peers
        .iter()
        .filter_map(|p| {
            let to = config.reach(p)?;
            Some((*locals.iter().find(|l| l.is_ipv6() == to.is_ipv6())?, to))
        })
        .collect();
    let spawned = std::thread::Builder::new().name("uplink-probe".into()).spawn(move || {
        let mut usable = false;
        let mut told = None;
        loop {
            // The first peer that can be reached decides: it is the uplink's device that is looked at, not the peer.
            let mut verdict = None;
            for (node, peer) in &ways {
                verdict = tap::probe(&up, &uplink, *node, *peer).ok();
                if !matches!(verdict, Some(Verdict::Lost | Verdict::OtherWay)) {
                    break;
                }
            }
            let now = verdict == Some(Verdict::Usable);
            if told.as_ref() != Some(&verdict) {
                tracing::info!(uplink, ?verdict, whole = now, "uplink TAP probed");
                told = Some(verdict);
            }
            if now != usable {
                usable = now;
                if events.send(Event::Whole(now)).is_err() {
                    return;
                }
            }
            std::thread::sleep(if usable { PROBE_AGAIN } else { PROBE_SOON });
        }
    });
    spawned.map(|_| ())
}

/// A worker's way out: UDP sockets, and the uplink TAP where there is one.
struct Out {
    udp: UdpTx,
    whole: Option<Arc<UplinkTap>>,
}

impl UplinkTx for Out {
    fn send(&mut self, trains: &[Train<'_>]) -> SendReport {
        self.udp.send(trains)
    }

    fn max_train(&self) -> (usize, usize) {
        self.udp.max_train()
    }

    fn send_whole(&mut self, inner: &Frame, dst: &SocketAddr, vni: u32, flow_hash: u64) -> bool {
        let Some(up) = &self.whole else { return false };
        // The same source as the flow's small packets have, so that the peer's group of sockets sees one flow.
        let Some(src) = self.udp.source(flow_hash, dst.is_ipv6()) else { return false };
        let outer = Outer { src, dst: *dst, vni };
        up.send(&inner.vnet, &outer, &[IoSlice::new(inner.data())]).is_ok()
    }
}

/// A node without a tunnel sends nothing through one.
struct Nowhere;

impl UplinkTx for Nowhere {
    fn send(&mut self, trains: &[Train<'_>]) -> SendReport {
        SendReport { sent: 0, dropped: 0, errors: trains.iter().map(Train::count).sum() }
    }

    fn max_train(&self) -> (usize, usize) {
        (1, usize::from(u16::MAX))
    }
}
