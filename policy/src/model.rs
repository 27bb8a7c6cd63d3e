//! What policy is decided from: plain, validated data in one shape for Kubernetes' and Calico's objects alike.
//!
//! Whoever reads a store turns its objects into these (and refuses what the API would refuse) before anything here
//! sees them. The compiler and the naive evaluator read nothing else, so they cannot disagree about what an object
//! means. One sentence holds it together: **tiers in order, policies of a tier in order, rules in order, the first
//! match decides**; Kubernetes' unordered, allow-only policies are a case of that.
//!
//! Owned by the control thread; no I/O, no clock.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::selector::{Labels, Selector};

/// The direction of traffic as its endpoint sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Toward the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// Everything policy depends on. The order of the lists means nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The tiers. A policy of a tier that is not here counts for nothing: whoever makes a `World` adds the
    /// predefined ones ([`Tier::predefined`]).
    pub tiers: Vec<Arc<Tier>>,
    /// All policies, staged ones included.
    pub policies: Vec<Arc<Policy>>,
    /// Pods of every node, and host endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Labelled address sets.
    pub sets: Vec<Arc<NetSet>>,
    /// This node's own addresses: traffic between a pod and its own node is judged leniently
    /// ([`Policy::spares_own_node`]).
    pub node_addrs: Vec<IpAddr>,
}

/// What names an endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndpointId {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A HostEndpoint, by its object's name.
    Host {
        /// The object's name.
        name: Arc<str>,
    },
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointId::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            EndpointId::Host { name } => write!(f, "host endpoint {name}"),
        }
    }
}

/// A pod or a host endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// What names it.
    pub id: EndpointId,
    /// The labels selectors see, flattened (module [`crate::selector`] says how).
    pub labels: Labels,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// What happens where no policy applies: `true` = its profiles allow (every pod; Kubernetes' default), `false` =
    /// deny (a HostEndpoint without profiles).
    pub default_allow: bool,
}

/// A port with a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NamedPort {
    /// Name.
    pub name: Arc<str>,
    /// IP protocol number.
    pub proto: u8,
    /// Number.
    pub number: u16,
}

/// A (Global)NetworkSet: addresses with labels, for selectors to find.
#[derive(Clone, PartialEq, Debug)]
pub struct NetSet {
    /// Namespace; none for a GlobalNetworkSet.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Flattened labels.
    pub labels: Labels,
    /// Its prefixes.
    pub nets: Vec<IpNet>,
}

/// A number to sort by; absent means last (Calico: `order: null` is infinity).
#[derive(Clone, Copy, Debug, Default)]
pub struct Order(pub Option<f64>);

impl Ord for Order {
    /// Numbers ascending, absent last; total over NaN too.
    fn cmp(&self, other: &Order) -> std::cmp::Ordering {
        self.0.unwrap_or(f64::INFINITY).total_cmp(&other.0.unwrap_or(f64::INFINITY))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Order) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Order) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Order {}

/// What a tier does with traffic that policies of it apply to and no rule of it decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierEnd {
    /// Drop it.
    Deny,
    /// Ask the next tier.
    Pass,
}

/// A group of policies that is evaluated as a whole. Tiers are ordered by `order`, then by name.
#[derive(Clone, PartialEq, Debug)]
pub struct Tier {
    /// Name.
    pub name: Arc<str>,
    /// Position.
    pub order: Order,
    /// At its end.
    pub end: TierEnd,
}

impl Tier {
    /// The tier of Kubernetes' Admin cluster policies.
    pub const KUBE_ADMIN: &'static str = "kube-admin";
    /// The tier of NetworkPolicies.
    pub const DEFAULT: &'static str = "default";
    /// The tier of Kubernetes' Baseline cluster policies.
    pub const KUBE_BASELINE: &'static str = "kube-baseline";

    /// The three tiers that always exist (formats: Calico, order 1,000 / 1,000,000 / 10,000,000).
    #[must_use]
    pub fn predefined() -> [Tier; 3] {
        let tier = |name: &str, order, end| Tier { name: name.into(), order: Order(Some(order)), end };
        [
            tier(Tier::KUBE_ADMIN, 1e3, TierEnd::Pass),
            tier(Tier::DEFAULT, 1e6, TierEnd::Deny),
            tier(Tier::KUBE_BASELINE, 1e7, TierEnd::Pass),
        ]
    }
}

/// The kind of object a policy was written as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyKind {
    /// Kubernetes NetworkPolicy.
    KubernetesNetworkPolicy,
    /// Kubernetes ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// Calico NetworkPolicy.
    NetworkPolicy,
    /// Calico GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// Calico StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// Calico StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// Calico StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// The kind that a staged kind is staged for; any other is its own.
    #[must_use]
    pub fn enforced(self) -> PolicyKind {
        match self {
            PolicyKind::StagedNetworkPolicy => PolicyKind::NetworkPolicy,
            PolicyKind::StagedGlobalNetworkPolicy => PolicyKind::GlobalNetworkPolicy,
            PolicyKind::StagedKubernetesNetworkPolicy => PolicyKind::KubernetesNetworkPolicy,
            kind => kind,
        }
    }

    /// The kind as users write it; Calico's have its prefix where Kubernetes has the same name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::KubernetesNetworkPolicy => "NetworkPolicy",
            PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            PolicyKind::NetworkPolicy => "CalicoNetworkPolicy",
            PolicyKind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            PolicyKind::StagedNetworkPolicy => "StagedNetworkPolicy",
            PolicyKind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            PolicyKind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }
}

/// What names a policy. Displays as `KIND NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyId {
    /// Kind of object.
    pub kind: PolicyKind,
    /// Namespace; none for cluster-wide kinds.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match &self.namespace {
            Some(ns) => write!(f, " {ns}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

/// A policy: rules for the endpoints it selects. Within a tier policies are ordered by `order`, then by the string
/// `name/namespace/kind`.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// What names it.
    pub id: PolicyId,
    /// Its tier's name.
    pub tier: Arc<str>,
    /// Position in the tier.
    pub order: Order,
    /// The endpoints it applies to; a namespaced policy's selector contains its namespace.
    pub subject: Selector,
    /// Rules for ingress; none = it does not apply to that direction, and an empty list applies and allows nothing.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for egress, likewise.
    pub egress: Option<Vec<Rule>>,
    /// Never enforced: evaluated beside the enforced ones and counted. A staged policy with the id of an enforced one
    /// (but for the kind) stands in its place in that evaluation.
    pub staged: bool,
    /// For a staged policy: the action is Delete, the evaluation leaves the enforced policy of that name out.
    pub staged_delete: bool,
    /// Does not count between a pod and its own node (Kubernetes NetworkPolicy: kubelet's probes always pass).
    pub spares_own_node: bool,
    /// Host endpoints: applies to traffic that the host only forwards, as well.
    pub apply_on_forward: bool,
    /// Host endpoints: evaluated before and without connection tracking, no drop at the tier's end.
    pub do_not_track: bool,
    /// Host endpoints: evaluated before any address translation, no drop at the tier's end.
    pub pre_dnat: bool,
}

impl Policy {
    /// The rules of a direction, if the policy applies to it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// What policies of one tier and order are sorted by.
    pub(crate) fn sort_key(&self) -> String {
        let PolicyId { kind, namespace, name } = &self.id;
        format!("{name}/{}/{}", namespace.as_deref().unwrap_or_default(), kind.as_str())
    }

    /// For a staged policy: does it stand in for that enforced one?
    pub(crate) fn replaces(&self, enforced: &Policy) -> bool {
        self.id.kind.enforced() == enforced.id.kind
            && self.id.namespace == enforced.id.namespace
            && self.id.name == enforced.id.name
    }
}

/// What a rule does when it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleAction {
    /// Accept; no further rule is asked.
    Allow,
    /// Drop; no further rule is asked.
    Deny,
    /// Note it, and go on with the next rule.
    Log,
    /// Leave this tier, go on with the next.
    Pass,
}

/// One rule. Everything set must match.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// When it matches.
    pub action: RuleAction,
    /// Some(false) = IPv4 only, Some(true) = IPv6 only.
    pub v6: Option<bool>,
    /// Where the packet comes from: one of these must match; none = anywhere, empty = nowhere.
    pub source: Option<Vec<Peer>>,
    /// Where it goes, likewise.
    pub destination: Option<Vec<Peer>>,
    /// Protocol and ports: one of these must match; none = any protocol, empty = nothing.
    pub l4: Option<Vec<L4Match>>,
    /// The rule's name, if it was given one.
    pub name: Option<Arc<str>>,
}

/// One alternative for one end of a packet. Everything set must match.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Peer {
    /// The address is in one of these; none = no such condition, empty = matches nothing.
    pub nets: Option<Vec<IpNet>>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address belongs to a known endpoint or network set whose labels match.
    pub selector: Option<Selector>,
    /// The address does not belong to an endpoint or network set whose labels match (unknown addresses pass).
    pub not_selector: Option<Selector>,
}

/// One alternative for protocol and ports. Everything set must match. A condition on ports matches only packets that
/// have ports (TCP, UDP, UDP-Lite, SCTP), one on ICMP only ICMP and ICMPv6.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct L4Match {
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Not this IP protocol number.
    pub not_proto: Option<u8>,
    /// Source port is one of these; none = any, empty = nothing.
    pub sports: Option<Vec<Ports>>,
    /// Source port is none of these.
    pub not_sports: Vec<Ports>,
    /// Destination port is one of these; none = any, empty = nothing.
    pub dports: Option<Vec<Ports>>,
    /// Destination port is none of these.
    pub not_dports: Vec<Ports>,
    /// ICMP type, and code if given.
    pub icmp: Option<(u8, Option<u8>)>,
    /// Not this ICMP type (and code).
    pub not_icmp: Option<(u8, Option<u8>)>,
}

/// Ports by number or name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ports {
    /// From, to, both included.
    Range(u16, u16),
    /// By the name and protocol of a port of the endpoint at that end (destination ports: the destination's).
    Named(Arc<str>),
}

/// What a decision looks at, in the packing of [`crate::FlowKey`]: addresses IPv6 or IPv4-mapped, ports in host order,
/// for ICMP `sport` = `type << 8 | code`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Final IP protocol number.
    pub proto: u8,
    /// Source port, or ICMP type and code.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}
