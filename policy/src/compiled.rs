//! Policy as packets are held against it: one immutable value for all local endpoints, made by [`crate::Compiler`].
//!
//! Send and Sync; whoever decides holds an `Arc`. Identities, and the endpoint policies that refer to them, mean
//! something only together with the `Compiled` they came from: numbers may stand for something else in the next one.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::decision::{By, Decision, Logs};
use crate::hash::AddrHash;
use crate::model::{Direction, EndpointId, Packet};
use crate::prefixes::Prefixes;
use crate::table::rule::End;
use crate::table::{RuleInfo, Table};

/// The number of a distinct set of labels and named ports that addresses have; 0 = unknown address.
pub type Identity = u32;

/// A named port: number of the name, protocol, port.
pub(crate) type PortOf = (u32, u8, u16);

/// See the module.
#[derive(Debug, Default)]
pub struct Compiled {
    pub(crate) addrs: Arc<HashMap<u128, Identity, AddrHash>>,
    pub(crate) sets: Arc<SetAddrs>,
    /// Named ports by identity.
    pub(crate) ports: Arc<Vec<Arc<[PortOf]>>>,
    /// Identities by selector.
    pub(crate) selectors: Vec<Arc<Bitmap>>,
    /// Class by identity, by partition.
    pub(crate) partitions: Vec<Arc<Vec<u32>>>,
    pub(crate) endpoints: HashMap<EndpointId, Arc<EndpointPolicy>>,
    /// Sorted.
    pub(crate) node_addrs: Arc<[u128]>,
}

/// The prefixes of net sets, and the identity of what each and those around it belong to.
#[derive(Debug, Default)]
pub(crate) struct SetAddrs {
    pub(crate) prefixes: Prefixes,
    pub(crate) identities: Vec<Identity>,
}

impl Compiled {
    /// Nothing known: no endpoint has policy.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Whose address it is.
    #[inline]
    #[must_use]
    pub fn identity(&self, addr: u128) -> Identity {
        if let Some(identity) = self.addrs.get(&addr) {
            return *identity;
        }
        self.sets.prefixes.longest(addr).map_or(0, |p| self.sets.identities[p as usize])
    }

    /// The policy of a local endpoint.
    #[must_use]
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Arc<EndpointPolicy>> {
        self.endpoints.get(id)
    }

    /// All local endpoints, in no order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&EndpointId, &Arc<EndpointPolicy>)> {
        self.endpoints.iter()
    }
}

/// A packet on its way through a table, with what has been found out about it.
pub(crate) struct Seen<'a> {
    compiled: &'a Compiled,
    packet: &'a Packet,
    src: Cell<Option<Identity>>,
    dst: Cell<Option<Identity>>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(compiled: &'a Compiled, packet: &'a Packet) -> Self {
        Self { compiled, packet, src: Cell::new(None), dst: Cell::new(None) }
    }

    pub(crate) fn packet(&self) -> &Packet {
        self.packet
    }

    pub(crate) fn v4(&self) -> bool {
        crate::addr::is_v4(self.packet.dst)
    }

    pub(crate) fn src(&self) -> End<'_> {
        End { addr: self.packet.src, identity: &self.src }
    }

    pub(crate) fn dst(&self) -> End<'_> {
        End { addr: self.packet.dst, identity: &self.dst }
    }

    pub(crate) fn identity(&self, end: End<'_>) -> Identity {
        end.identity.get().unwrap_or_else(|| {
            let found = self.compiled.identity(end.addr);
            end.identity.set(Some(found));
            found
        })
    }

    pub(crate) fn class(&self, partition: u32, end: End<'_>) -> u32 {
        let identity = self.identity(end) as usize;
        self.compiled.partitions.get(partition as usize).and_then(|p| p.get(identity)).copied().unwrap_or(0)
    }

    pub(crate) fn selects(&self, selector: u32, end: End<'_>) -> bool {
        let identity = self.identity(end);
        identity != 0 && self.compiled.selectors.get(selector as usize).is_some_and(|b| b.contains(identity))
    }

    pub(crate) fn has_port(&self, end: End<'_>, name: u32, number: u16) -> bool {
        let ports = self.compiled.ports.get(self.identity(end) as usize);
        ports.is_some_and(|ports| ports.contains(&(name, self.packet.proto, number)))
    }
}

/// One direction of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// None = no policy applies.
    pub(crate) table: Option<Arc<Table>>,
    /// With staged policies in force, where that differs.
    pub(crate) staged: Option<Arc<Table>>,
}

/// What policy says about one local endpoint.
#[derive(Debug)]
pub struct EndpointPolicy {
    pub(crate) host: bool,
    pub(crate) default_allow: bool,
    /// Sorted.
    pub(crate) addrs: Box<[u128]>,
    pub(crate) ingress: Side,
    pub(crate) egress: Side,
}

impl EndpointPolicy {
    /// An endpoint nobody knows anything about: everything is denied.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            host: false,
            default_allow: false,
            addrs: Box::default(),
            ingress: Side::default(),
            egress: Side::default(),
        }
    }

    /// No policy in either direction and nothing denied by default: no packet need be asked about.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.default_allow && self.ingress.table.is_none() && self.egress.table.is_none()
    }

    /// Has it a staged table, for [`EndpointPolicy::decide_staged`]?
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.ingress.staged.is_some() || self.egress.staged.is_some()
    }

    /// The table in force; none = no policy applies.
    #[must_use]
    pub fn table(&self, direction: Direction) -> Option<&Arc<Table>> {
        self.side(direction).table.as_ref()
    }

    /// The table with staged policies in force; none = they change nothing here.
    #[must_use]
    pub fn staged(&self, direction: Direction) -> Option<&Arc<Table>> {
        self.side(direction).staged.as_ref()
    }

    /// The rules and tier ends in force, in order of evaluation, with their counts.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = RuleInfo<'_>> {
        self.table(direction).into_iter().flat_map(|table| table.rules())
    }

    /// Decides about a packet. `c` is what this came from. `forwarded`: for a host endpoint, the host only forwards
    /// it. Constant time, no allocation.
    #[inline]
    #[must_use]
    pub fn decide(&self, c: &Compiled, direction: Direction, packet: &Packet, forwarded: bool) -> Decision {
        self.by_table(self.table(direction), c, direction, packet, forwarded)
    }

    /// Decides as if the staged policies were in force; none where they change nothing.
    #[must_use]
    pub fn decide_staged(
        &self,
        c: &Compiled,
        direction: Direction,
        packet: &Packet,
        forwarded: bool,
    ) -> Option<Decision> {
        let table = self.staged(direction)?;
        Some(self.by_table(Some(table), c, direction, packet, forwarded))
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Which of the two contexts of [`crate::table::ANY_CONTEXT`] a packet is in.
    pub(crate) fn context(&self, c: &Compiled, direction: Direction, packet: &Packet, forwarded: bool) -> u8 {
        let far = if direction == Direction::Ingress { packet.src } else { packet.dst };
        u8::from(if self.host { forwarded } else { c.node_addrs.binary_search(&far).is_ok() })
    }

    /// Does a pod speak to itself?
    pub(crate) fn is_itself(&self, packet: &Packet) -> bool {
        !self.host && self.addrs.contains(&packet.src) && self.addrs.contains(&packet.dst)
    }

    pub(crate) fn by_table(
        &self,
        table: Option<&Arc<Table>>,
        c: &Compiled,
        direction: Direction,
        packet: &Packet,
        forwarded: bool,
    ) -> Decision {
        if self.is_itself(packet) {
            return Decision { allow: true, by: By::Itself, logs: Logs::default() };
        }
        let default = self.default_allow || self.host && forwarded;
        let Some(table) = table else {
            return Decision { allow: default, by: By::NoPolicy, logs: Logs::default() };
        };
        let context = self.context(c, direction, packet, forwarded);
        let (decided, logs) = table.decide(&Seen::new(c, packet), context);
        let (allow, by) = decided.unwrap_or_else(|| {
            let by = match (table.applies(context), self.host || table.policies.is_empty()) {
                (true, _) => By::Default,
                (false, true) => By::NoPolicy,
                (false, false) => By::OwnNode,
            };
            (default, by)
        });
        Decision { allow, by, logs }
    }
}
