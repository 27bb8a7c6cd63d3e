//! Small random worlds in which much collides, and packets that meet them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;

use crate::addr;
use crate::model::*;
use crate::selector::{Labels, Selector};

/// How many random cases a test runs: `VSWITCH_CASES`, else this many.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("VSWITCH_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn name(of: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(of).prop_map(Arc::from)
}

fn key() -> impl Strategy<Value = Arc<str>> {
    name(&["a", "b", "c"])
}

fn value() -> impl Strategy<Value = Arc<str>> {
    name(&["x", "y", "xy", ""])
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(key(), value(), 0..=3).prop_map(|m: BTreeMap<_, _>| Labels(Arc::new(m)))
}

pub(crate) fn selector() -> impl Strategy<Value = Selector> {
    let atom = prop_oneof![
        2 => Just(Selector::All),
        2 => key().prop_map(Selector::Has),
        4 => (key(), value()).prop_map(|(k, v)| Selector::Eq(k, v)),
        1 => (key(), value()).prop_map(|(k, v)| Selector::Ne(k, v)),
        1 => (key(), vec(value(), 0..3)).prop_map(|(k, v)| Selector::In(k, v)),
        1 => (key(), vec(value(), 0..3)).prop_map(|(k, v)| Selector::NotIn(k, v)),
        1 => (key(), value()).prop_map(|(k, v)| Selector::Contains(k, v)),
        1 => (key(), value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        1 => (key(), value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
    ];
    atom.prop_recursive(2, 8, 3, |e| {
        prop_oneof![
            e.clone().prop_map(|e| Selector::Not(Box::new(e))),
            vec(e.clone(), 0..3).prop_map(Selector::And),
            vec(e, 0..3).prop_map(Selector::Or),
        ]
    })
}

/// Few addresses of both families, close together.
fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..2, 0u8..4).prop_map(|(c, d)| IpAddr::from([10, 0, c, d]));
    let v6 = (0u16..2, 0u16..4).prop_map(|(c, d)| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, c, d]));
    prop_oneof![3 => v4, 1 => v6]
}

fn net() -> impl Strategy<Value = IpNet> {
    let length = select(vec![0u8, 1, 4, 8, 9, 16, 16, 24, 24, 24, 30, 31, 31, 32, 32, 32]);
    (address(), length).prop_map(|(a, len)| {
        let len = if a.is_ipv6() { len * 4 } else { len };
        IpNet::new(a, len).expect("a length of the family")
    })
}

fn proto() -> impl Strategy<Value = u8> {
    select(vec![6u8, 6, 6, 17, 17, 1, 58, 132, 136, 0, 255])
}

fn number() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 79u16..84, 1 => Just(0), 1 => Just(u16::MAX), 1 => Just(443)]
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        3 => number().prop_map(|n| Ports::Range(n, n)),
        3 => (number(), number()).prop_map(|(a, b)| Ports::Range(a, b)),
        2 => name(&["http", "dns"]).prop_map(Ports::Named),
    ]
}

fn icmp() -> impl Strategy<Value = (u8, Option<u8>)> {
    (select(vec![0u8, 8, 128]), of(0u8..2))
}

fn l4() -> impl Strategy<Value = L4Match> {
    let side = |p| (weighted(p, vec(ports(), 0..3)), prop_oneof![6 => Just(vec![]), 1 => vec(ports(), 1..3)]);
    (
        weighted(0.8, proto()),
        weighted(0.1, proto()),
        side(0.1),
        side(0.6),
        weighted(0.1, icmp()),
        weighted(0.1, icmp()),
    )
        .prop_map(|(proto, not_proto, (sports, not_sports), (dports, not_dports), icmp, not_icmp)| {
            L4Match { proto, not_proto, sports, not_sports, dports, not_dports, icmp, not_icmp }
        })
}

fn peer() -> impl Strategy<Value = Peer> {
    let few = prop_oneof![5 => Just(vec![]), 1 => vec(net(), 1..3)];
    (weighted(0.4, vec(net(), 0..4)), few, weighted(0.5, selector()), weighted(0.15, selector()))
        .prop_map(|(nets, not_nets, selector, not_selector)| Peer { nets, not_nets, selector, not_selector })
}

fn rule() -> impl Strategy<Value = Rule> {
    use RuleAction::{Allow, Deny, Log, Pass};
    (
        select(vec![Allow, Allow, Allow, Deny, Deny, Log, Pass]),
        weighted(0.15, any::<bool>()),
        weighted(0.5, vec(peer(), 0..4)),
        weighted(0.4, vec(peer(), 0..4)),
        weighted(0.6, vec(l4(), 0..4)),
        of(name(&["r"])),
    )
        .prop_map(|(action, v6, source, destination, l4, name)| Rule {
            action,
            v6,
            source,
            destination,
            l4,
            name,
        })
}

fn order() -> impl Strategy<Value = Order> {
    of(select(vec![-1.0, 0.0, 10.0, 10.0, 1000.0])).prop_map(Order)
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    use PolicyKind::*;
    let kind = select(vec![
        KubernetesNetworkPolicy,
        ClusterNetworkPolicy,
        NetworkPolicy,
        GlobalNetworkPolicy,
        StagedNetworkPolicy,
        StagedGlobalNetworkPolicy,
        StagedKubernetesNetworkPolicy,
    ]);
    let id = (kind, of(name(&["n", "m"])), name(&["p", "q", "r", "s"]));
    let flags = (any::<[bool; 2]>(), select(vec![0u8, 0, 0, 1, 2, 3]));
    let rules = || weighted(0.85, vec(rule(), 0..5));
    let subject = prop_oneof![Just(Selector::All), selector()];
    (id, name(&["t", "t", "u", "u", "v", "none"]), order(), subject, rules(), rules(), flags).prop_map(
        |((kind, namespace, name), tier, order, subject, ingress, egress, ([spares, delete], host))| Policy {
            staged: kind.enforced() != kind,
            staged_delete: kind.enforced() != kind && delete,
            spares_own_node: spares,
            id: PolicyId { kind, namespace, name },
            tier,
            order,
            subject,
            ingress,
            egress,
            apply_on_forward: host != 0,
            do_not_track: host == 2,
            pre_dnat: host == 3,
        },
    )
}

pub(crate) fn endpoint() -> impl Strategy<Value = Endpoint> {
    let id = prop_oneof![
        4 => (name(&["n", "m"]), name(&["1", "2", "3"])).prop_map(|(namespace, name)| EndpointId::Pod { namespace, name }),
        1 => name(&["h", "i"]).prop_map(|name| EndpointId::Host { name }),
    ];
    let port = (name(&["http", "dns"]), proto(), number()).prop_map(|(name, proto, number)| NamedPort {
        name,
        proto,
        number,
    });
    (id, labels(), vec(address(), 0..3), vec(port, 0..3), any::<bool>()).prop_map(
        |(id, labels, addrs, ports, denies)| Endpoint {
            default_allow: matches!(id, EndpointId::Pod { .. }) || !denies,
            id,
            labels,
            addrs,
            ports,
        },
    )
}

pub(crate) fn set() -> impl Strategy<Value = NetSet> {
    (of(name(&["n"])), name(&["s", "t", "u"]), labels(), vec(net(), 0..4))
        .prop_map(|(namespace, name, labels, nets)| NetSet { namespace, name, labels, nets })
}

fn tiers() -> impl Strategy<Value = Vec<Arc<Tier>>> {
    let tier = |name: &'static str| {
        (order(), select(vec![TierEnd::Deny, TierEnd::Pass]))
            .prop_map(move |(order, end)| Arc::new(Tier { name: name.into(), order, end }))
    };
    (tier("t"), tier("u"), tier("v"), any::<bool>()).prop_map(
        |(t, u, v, third)| {
            if third { vec![t, u, v] } else { vec![u, t] }
        },
    )
}

fn distinct<T, K: Ord>(list: Vec<T>, key: impl Fn(&T) -> K) -> Vec<Arc<T>> {
    let by_key: BTreeMap<K, T> = list.into_iter().map(|x| (key(&x), x)).collect();
    by_key.into_values().map(Arc::new).collect()
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    (tiers(), vec(policy(), 0..12), vec(endpoint(), 1..7), vec(set(), 0..4), vec(address(), 0..2)).prop_map(
        |(tiers, policies, endpoints, sets, node_addrs)| World {
            tiers,
            policies: distinct(policies, |p| p.id.clone()),
            endpoints: distinct(endpoints, |e| e.id.clone()),
            sets: distinct(sets, |s| (s.namespace.clone(), s.name.clone())),
            node_addrs,
        },
    )
}

/// A change of one object: it is replaced, added, or removed.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Endpoint(Endpoint),
    NoEndpoint(prop::sample::Index),
    Policy(Box<Policy>),
    NoPolicy(prop::sample::Index),
    Set(NetSet),
    NoSet(prop::sample::Index),
    Tiers(Vec<Arc<Tier>>),
    NodeAddrs(Vec<IpAddr>),
    /// The same objects, read again.
    Reread,
    Reverse,
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => endpoint().prop_map(Edit::Endpoint),
        2 => any::<prop::sample::Index>().prop_map(Edit::NoEndpoint),
        6 => policy().prop_map(|p| Edit::Policy(Box::new(p))),
        2 => any::<prop::sample::Index>().prop_map(Edit::NoPolicy),
        2 => set().prop_map(Edit::Set),
        1 => any::<prop::sample::Index>().prop_map(Edit::NoSet),
        1 => tiers().prop_map(Edit::Tiers),
        1 => vec(address(), 0..2).prop_map(Edit::NodeAddrs),
        1 => Just(Edit::Reread),
        1 => Just(Edit::Reverse),
    ]
}

impl Edit {
    pub(crate) fn apply(self, world: &mut World) {
        fn put<T, K: PartialEq>(list: &mut Vec<Arc<T>>, new: T, key: impl Fn(&T) -> K) {
            match list.iter_mut().find(|x| key(x) == key(&new)) {
                Some(have) => *have = Arc::new(new),
                None => list.push(Arc::new(new)),
            }
        }
        fn take<T>(list: &mut Vec<T>, at: &prop::sample::Index) {
            if !list.is_empty() {
                list.remove(at.index(list.len()));
            }
        }
        fn again<T: Clone>(list: &mut [Arc<T>]) {
            list.iter_mut().for_each(|x| *x = Arc::new((**x).clone()));
        }
        match self {
            Edit::Endpoint(e) => put(&mut world.endpoints, e, |e| e.id.clone()),
            Edit::NoEndpoint(at) => take(&mut world.endpoints, &at),
            Edit::Policy(p) => put(&mut world.policies, *p, |p| p.id.clone()),
            Edit::NoPolicy(at) => take(&mut world.policies, &at),
            Edit::Set(s) => put(&mut world.sets, s, |s| (s.namespace.clone(), s.name.clone())),
            Edit::NoSet(at) => take(&mut world.sets, &at),
            Edit::Tiers(tiers) => world.tiers = tiers,
            Edit::NodeAddrs(addrs) => world.node_addrs = addrs,
            Edit::Reread => {
                again(&mut world.endpoints);
                again(&mut world.policies);
                again(&mut world.sets);
                again(&mut world.tiers);
            }
            Edit::Reverse => {
                world.endpoints.reverse();
                world.policies.reverse();
                world.sets.reverse();
                world.tiers.reverse();
            }
        }
    }
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let icmp = (select(vec![0u16, 8, 128]), 0u16..2).prop_map(|(ty, code)| ty << 8 | code);
    (address(), address(), proto(), number(), number(), icmp).prop_map(
        |(src, dst, proto, sport, dport, icmp)| {
            // Both ends are of one family.
            let src = if src.is_ipv4() == dst.is_ipv4() { src } else { dst };
            let (sport, dport) = if matches!(proto, 1 | 58) { (icmp, 0) } else { (sport, dport) };
            Packet { src: addr::bits(src), dst: addr::bits(dst), proto, sport, dport }
        },
    )
}
