//! What forwarding is told.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{PeerId, Slot, Source};
use crate::attr::{Attributes, Interner};
use crate::decision::PathOrigin;

/// One way to send packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FibHop {
    /// The next hop.
    pub addr: IpAddr,
    /// Its link-local address on the peer's link, where it has told one.
    pub link_local: Option<Ipv6Addr>,
    /// The peer that announced it.
    pub peer: IpAddr,
}

/// How packets for a prefix are sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FibRoute {
    /// Where to, all equally good; at least one, in order, each next hop once.
    pub hops: Vec<FibHop>,
    /// From another AS or from our own.
    pub origin: PathOrigin,
    /// LOCAL_PREF of the best path (100 where it has none).
    pub local_pref: u32,
}

/// A prefix is to be forwarded otherwise than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FibChange {
    /// The prefix.
    pub net: IpNet,
    /// How it was forwarded; `None`: not through BGP.
    pub before: Option<Arc<FibRoute>>,
    /// How it is from now on; `None`: no longer through BGP (gone, unreachable, or our own).
    pub route: Option<Arc<FibRoute>>,
}

/// The last route made: neighbouring prefixes mostly have the same.
#[derive(Default, Debug)]
pub(crate) struct Memo(Option<(Arc<Attributes>, PeerId, Arc<FibRoute>)>);

impl Memo {
    /// The route of a slot as decided.
    pub(crate) fn route(
        &mut self,
        slot: &Slot,
        sources: &[Option<Source>],
        interner: &mut Interner<FibRoute>,
    ) -> Option<Arc<FibRoute>> {
        let (best, attributes) = slot.best()?;
        if best.source == PeerId::LOCAL {
            return None;
        }
        if let Some((known, source, route)) = &self.0
            && slot.equal == 1
            && *source == best.source
            && Arc::ptr_eq(known, attributes)
        {
            return Some(Arc::clone(route));
        }
        let used = slot.paths.iter().take(usize::from(slot.equal));
        let mut hops: Vec<FibHop> = used
            .filter_map(|path| {
                let next_hop = path.accepted.as_ref()?.next_hop;
                let peer = sources.get(path.source.index())?.as_ref()?.addr;
                Some(FibHop { addr: next_hop.addr, link_local: next_hop.link_local, peer })
            })
            .collect();
        hops.sort_unstable();
        hops.dedup_by_key(|hop| hop.addr);
        let origin = sources.get(best.source.index())?.as_ref()?.origin;
        let route = interner.intern(FibRoute { hops, origin, local_pref: attributes.preference() });
        if slot.equal == 1 {
            self.0 = Some((Arc::clone(attributes), best.source, Arc::clone(&route)));
        }
        Some(route)
    }
}
