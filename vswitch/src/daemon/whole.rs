//! The uplink TAP and the thread that finds out whether super-frames leave whole through it.
//!
//! Owned by [`super::uplinks`]. The thread probes now and from time to time: a peer may not be up yet, a firewall may
//! come later, the device's offloads may be switched. It tells changes as [`Event::Whole`] and ends with its owner.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::{Event, chain};
use crate::uplink::tap::{self, UplinkTap, Verdict};

/// How long a good verdict about the uplink TAP is believed.
const PROBE_AGAIN: Duration = Duration::from_secs(60);
/// How soon a bad one is doubted.
const PROBE_SOON: Duration = Duration::from_secs(15);

/// From one of this node's addresses to a peer's.
type Way = (IpAddr, IpAddr);

/// The device, and the way to its thread.
pub(super) struct Whole {
    tap: Arc<UplinkTap>,
    v6: bool,
    ways: Sender<Vec<Way>>,
}

impl Whole {
    /// Opens it, where the uplink's device may carry tunnel super-frames; else none, which is told in the log.
    pub(super) fn open(uplink: &str, v6: bool, events: Sender<Event>) -> Option<Whole> {
        for feature in ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"] {
            if !crate::sys::ethtool::feature(uplink, feature).unwrap_or(false) {
                tracing::info!(uplink, feature, "off: super-frames are segmented here");
                return None;
            }
        }
        let tap = match UplinkTap::open(tap::NAME, v6, true) {
            Ok(tap) => Arc::new(tap),
            Err(err) => {
                tracing::info!(err = %chain(&err), "no uplink TAP: super-frames are segmented here");
                return None;
            }
        };
        let (ways, told) = unbounded();
        let (up, name) = (Arc::clone(&tap), uplink.to_owned());
        let spawned = std::thread::Builder::new()
            .name("uplink-probe".into())
            .spawn(move || watch(&up, &name, &told, &events));
        if let Err(err) = spawned {
            tracing::error!(%err, "no thread for the uplink's probe: super-frames are segmented here");
            return None;
        }
        Some(Whole { tap, v6, ways })
    }

    /// The device.
    pub(super) fn tap(&self) -> Arc<UplinkTap> {
        Arc::clone(&self.tap)
    }

    /// It carries outer IPv6.
    pub(super) fn v6(&self) -> bool {
        self.v6
    }

    /// Probes on these ways from now on.
    pub(super) fn probe_ways(&self, ways: Vec<Way>) {
        // Without its thread nothing is used, and nobody has to hear.
        let _ = self.ways.send(ways);
    }
}

fn watch(up: &UplinkTap, uplink: &str, told: &Receiver<Vec<Way>>, events: &Sender<Event>) {
    let mut ways: Vec<Way> = Vec::new();
    let mut usable = false;
    let mut last = None;
    loop {
        let patience = if usable { PROBE_AGAIN } else { PROBE_SOON };
        match told.recv_timeout(patience) {
            Ok(new) if new == ways => continue,
            Ok(new) => ways = new,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // The first peer that can be reached decides: it is the uplink's device that is looked at, not the peer.
        let mut verdict = None;
        for (node, peer) in &ways {
            verdict = tap::probe(up, uplink, *node, *peer).ok();
            if !matches!(verdict, Some(Verdict::Lost | Verdict::OtherWay)) {
                break;
            }
        }
        let now = verdict == Some(Verdict::Usable);
        if last.as_ref() != Some(&verdict) {
            tracing::info!(uplink, ?verdict, whole = now, "uplink TAP probed");
            last = Some(verdict);
        }
        if now != usable {
            usable = now;
            if events.send(Event::Whole(now)).is_err() {
                return;
            }
        }
    }
    if usable {
        // What comes after this device begins with a probe of its own.
        let _ = events.send(Event::Whole(false));
    }
}
