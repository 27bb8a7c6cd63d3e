//! Small random policy worlds over the pods of a simulated cluster, in which much collides.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::model::{
    Endpoint, EndpointId, L4Match, Order, Peer, Policy, PolicyId, PolicyKind, Ports, Rule, RuleAction, Tier,
    World,
};
use policy::selector::{Labels, Selector};

use super::host::Identity;
use super::random::Random;

/// Ports that rules and packets are about.
pub const PORTS: [u16; 4] = [53, 80, 81, 4000];

const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];

/// A world with random policies for these pods (port name and identity), on a node with these addresses.
#[must_use]
pub fn world(random: &mut Random, pods: &[(String, Identity)], node_addrs: &[IpAddr]) -> World {
    let endpoints = pods.iter().map(|(name, identity)| {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let labels: Labels = KEYS.iter().map(|key| (*key, *random.pick(&VALUES))).collect();
        Arc::new(Endpoint {
            id: EndpointId::Pod { namespace: namespace.into(), name: name.into() },
            labels,
            addrs: vec![identity.v4.into(), identity.v6.into()],
            ports: Vec::new(),
            default_allow: true,
        })
    });
    let mut world = World {
        tiers: Tier::predefined().map(Arc::new).into(),
        endpoints: endpoints.collect(),
        node_addrs: node_addrs.to_vec(),
        ..World::default()
    };
    change(random, &mut world);
    world
}

/// Gives the world other policies.
pub fn change(random: &mut Random, world: &mut World) {
    world.policies = (0..random.below(6)).map(|n| Arc::new(policy(random, n, world))).collect();
}

fn policy(random: &mut Random, n: u64, world: &World) -> Policy {
    let tier =
        *random.pick(&[Tier::DEFAULT, Tier::DEFAULT, Tier::DEFAULT, Tier::KUBE_ADMIN, Tier::KUBE_BASELINE]);
    let subject = selector(random);
    let rules = |random: &mut Random| {
        (random.below(3) > 0).then(|| (0..random.below(4)).map(|_| rule(random, world)).collect())
    };
    Policy {
        id: PolicyId { kind: PolicyKind::GlobalNetworkPolicy, namespace: None, name: format!("p{n}").into() },
        tier: tier.into(),
        order: Order(Some(random.below(3) as f64)),
        subject,
        ingress: rules(random),
        egress: rules(random),
        staged: false,
        staged_delete: false,
        spares_own_node: random.below(2) == 0,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    }
}

fn selector(random: &mut Random) -> Selector {
    let (key, value) = (*random.pick(&KEYS), *random.pick(&VALUES));
    match random.below(4) {
        0 => Selector::All,
        1 => Selector::Ne(key.into(), value.into()),
        _ => Selector::Eq(key.into(), value.into()),
    }
}

fn rule(random: &mut Random, world: &World) -> Rule {
    use RuleAction::{Allow, Deny, Log, Pass};
    let peers = |random: &mut Random, one_in| {
        (random.below(one_in) == 0).then(|| (0..random.below(3)).map(|_| peer(random, world)).collect())
    };
    Rule {
        action: *random.pick(&[Allow, Allow, Allow, Deny, Log, Pass]),
        v6: (random.below(8) == 0).then(|| random.below(2) == 0),
        source: peers(random, 2),
        destination: peers(random, 3),
        l4: (random.below(3) > 0).then(|| (0..random.below(3)).map(|_| l4(random)).collect()),
        name: None,
    }
}

fn peer(random: &mut Random, world: &World) -> Peer {
    let net = |random: &mut Random| {
        let endpoint = random.pick(&world.endpoints);
        let addr = *random.pick(&endpoint.addrs);
        let lengths: [u8; 4] = if addr.is_ipv6() { [0, 48, 64, 128] } else { [0, 16, 24, 32] };
        IpNet::new(addr, *random.pick(&lengths)).map_or(IpNet::from(addr), |net| net.trunc())
    };
    Peer {
        nets: (random.below(2) == 0).then(|| (0..random.below(3)).map(|_| net(random)).collect()),
        not_nets: (0..random.below(4).saturating_sub(2)).map(|_| net(random)).collect(),
        selector: (random.below(2) == 0).then(|| selector(random)),
        not_selector: (random.below(6) == 0).then(|| selector(random)),
    }
}

fn l4(random: &mut Random) -> L4Match {
    let ports = |random: &mut Random, one_in| {
        (random.below(one_in) == 0).then(|| {
            let from = *random.pick(&PORTS);
            vec![Ports::Range(from, from + random.below(3) as u16)]
        })
    };
    L4Match {
        proto: (random.below(5) > 0).then(|| *random.pick(&[6, 6, 17, 17, 1, 58, 132, 50])),
        not_proto: (random.below(10) == 0).then(|| *random.pick(&[6, 17])),
        sports: ports(random, 8),
        not_sports: Vec::new(),
        dports: ports(random, 2),
        not_dports: ports(random, 12).unwrap_or_default(),
        icmp: (random.below(10) == 0).then(|| (*random.pick(&[0, 8, 128]), None)),
        not_icmp: None,
    }
}
