//! The uplink's MTU, followed: pods, host and tables take over what the uplink leaves them.
//!
//! The uplink's watch (`watch.rs`) wakes the control thread; here it asks the kernel how the uplink is now, so a message
//! too few or too many does no harm. What the ways to single peers take beyond it is `paths.rs`'s to find out, and taken
//! over here too. The tables change before the interfaces: a pod that sends more than fits is told so
//! by ICMP, never answered with silence.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use control::api::AttachmentId;

use super::paths::Target;
use super::{Daemon, attach, chain};
use crate::snapshot::{Port, PortKind};
use crate::switch::SwitchError;
use crate::sys::netlink::Netlink;

/// What the uplink was when last looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Uplink {
    index: u32,
    pub(super) mtu: u32,
    up: bool,
}

impl Daemon {
    /// Has the thread ask the peers there are, about what the uplink takes now.
    pub(super) fn watch_paths(&mut self) {
        let (Some(link), Some(paths)) = (self.uplink, &mut self.paths) else { return };
        let max = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let own = &self.facts.addresses;
        // A node that is reached in several ways is asked once.
        let mut asked = HashSet::with_capacity(self.peers.len());
        let targets = self.peers.iter().filter_map(|p| {
            let addr = *p.addresses.first()?;
            if !asked.insert(addr) {
                return None;
            }
            let from = *own.iter().find(|a| a.is_ipv6() == addr.is_ipv6())?;
            Some(Target { name: Arc::clone(&p.name), addr, from, max })
        });
        paths.watch(targets.collect());
    }

    /// The ways to some peers take packets of another size.
    pub(super) fn follow_paths(&mut self, changed: Vec<(IpAddr, u16)>) -> Result<(), SwitchError> {
        self.path_mtus.extend(changed);
        self.level_paths();
        self.publish()
    }

    /// Gives every peer the MTU that its way leaves beside its tunnel; at least what pods need, for which the outer
    /// packets may be fragmented.
    pub(super) fn level_paths(&mut self) {
        let least = u16::try_from(self.fleet.least_mtu()).unwrap_or(u16::MAX);
        for p in &mut self.peers {
            let outer = p.addresses.first().and_then(|addr| self.path_mtus.get(addr));
            let v6 = p.addresses.first().is_some_and(|a| a.is_ipv6());
            let mtu = match (outer, p.tunnel) {
                (Some(outer), Some(tunnel)) => outer.saturating_sub(tunnel.overhead(v6)).max(least),
                // The host routes what is not encapsulated, and routers tell the pod themselves.
                _ => u16::MAX,
            };
            if p.path_mtu != mtu {
                Arc::make_mut(p).path_mtu = mtu;
            }
        }
    }

    /// Looks at the uplink, and takes over what has changed.
    pub(super) fn look_at_uplink(&mut self) {
        let name = self.config.node.uplink.clone();
        let now = match Netlink::open().and_then(|mut nl| nl.link(&name)) {
            Ok(link) => Some(Uplink { index: link.index, mtu: link.mtu, up: link.up }),
            Err(err) if err.is_absent() => None,
            Err(err) => return tracing::error!(err = %chain(&err), "look at the uplink"),
        };
        if now == self.uplink {
            return;
        }
        let before = std::mem::replace(&mut self.uplink, now);
        let mut trouble = match now {
            None => Some(format!("uplink {name} is gone")),
            Some(link) if !link.up => Some(format!("uplink {name} is down")),
            Some(_) => None,
        };
        if let Some(link) = now {
            match self.mtu_on(link.mtu) {
                Ok(mtu) => self.set_mtu(mtu),
                Err(why) => trouble = trouble.or(Some(why)),
            }
            self.watch_paths();
            // An interface that went down or away took the routes through it along.
            if before.is_none_or(|b| b.index != link.index || b.up != link.up) {
                self.restore_host();
            }
        }
        self.problem("uplink", trouble);
    }

    /// Pods' MTU for this MTU of the uplink, or why there is none.
    pub(super) fn mtu_on(&self, uplink_mtu: u32) -> Result<u32, String> {
        let (name, mtu) = (&self.config.node.uplink, self.fleet.pod_mtu(&self.config, uplink_mtu));
        let (least, overhead) = (self.fleet.least_mtu(), self.fleet.overhead(&self.config.node));
        if mtu < least {
            return Err(format!(
                "uplink {name} has MTU {uplink_mtu}, which leaves pods {mtu}: they need {least}"
            ));
        }
        if mtu + overhead > uplink_mtu {
            let need = mtu + overhead;
            return Err(format!("uplink {name} has MTU {uplink_mtu}: network.mtu = {mtu} needs {need}"));
        }
        Ok(mtu)
    }

    fn set_mtu(&mut self, mtu: u32) {
        let mtu16 = u16::try_from(mtu).unwrap_or(u16::MAX);
        if self.facts.mtu == mtu16 {
            return;
        }
        tracing::info!(
            uplink = self.config.node.uplink,
            from = self.facts.mtu,
            to = mtu,
            "the pods' MTU changes"
        );
        self.facts.mtu = mtu16;
        self.tell_subnet();
        for port in self.ports.iter_mut().flatten().filter(|p| p.kind == PortKind::Host) {
            *port = Arc::new(Port { mtu: mtu16, ..Port::clone(port) });
        }
        if let Err(err) = self.publish() {
            tracing::error!(err = %chain(&err), "publish the new MTU");
        }
        self.restore_host();
        self.level_mtu();
    }

    /// Gives every pod the MTU in force, and keeps it for the next start.
    pub(super) fn level_mtu(&mut self) {
        let mtu = u32::from(self.facts.mtu);
        let other: Vec<AttachmentId> =
            self.attached.iter().filter(|(_, a)| a.record.mtu != mtu).map(|(id, _)| id.clone()).collect();
        if other.is_empty() {
            return;
        }
        for id in other {
            let Some(a) = self.attached.get_mut(&id) else { continue };
            let set = attach::reopen_netns(&a.record)
                .and_then(|ns| attach::set_mtu(&ns, &a.record.netns, &a.record.ifname, mtu));
            if let Err(err) = set {
                // Its namespace is about to go, or the next round does it.
                tracing::warn!(%id, err = %chain(&err), "set the pod's MTU");
                continue;
            }
            a.record.mtu = mtu;
            if let Err(err) = self.state.save(&a.record) {
                tracing::error!(%id, %err, "keep the pod's MTU");
            }
            if let Some(port) = self.ports.get_mut(a.port as usize).and_then(Option::as_mut) {
                *port = Arc::new(Port { mtu: self.facts.mtu, ..Port::clone(port) });
            }
        }
        if let Err(err) = self.publish() {
            tracing::error!(err = %chain(&err), "publish the pods' MTU");
        }
    }
}
