//! What a decision costs at 1 to 100,000 rules, what compiling a cluster costs, and what one change of it costs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use policy::model::{
    Direction, Endpoint, EndpointId, L4Match, NamedPort, Order, Packet, Peer, Policy, PolicyId, PolicyKind,
    Ports, Rule, RuleAction, Tier, World,
};
use policy::selector::{Labels, NAMESPACE, Selector};
use policy::{Compiler, addr};

const NAMESPACES: u32 = 100;
const PODS: u32 = 10_000;
const POLICIES: u32 = 2_000;
const LOCAL: u32 = 250;
/// The pod that is asked for.
const SERVER: u32 = 1 << 20;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn eq(key: &str, value: String) -> Selector {
    Selector::Eq(key.into(), value.into())
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

fn pod_addr(i: u32) -> IpAddr {
    v4(0x0af4_0000 + i)
}

/// A pod with as many labels as a Deployment's pod has, one of them its own alone.
fn pod(i: u32, app: u32) -> Arc<Endpoint> {
    let namespace = format!("ns-{}", i % NAMESPACES);
    let labels: Vec<(String, String)> = [
        ("app", format!("app-{app}")),
        ("app.kubernetes.io/version", format!("1.{}", i % 7)),
        ("pod-template-hash", format!("{:08x}", app.wrapping_mul(0x9e37_79b9))),
        ("statefulset.kubernetes.io/pod-name", format!("pod-{i}")),
        (NAMESPACE, namespace.clone()),
        ("projectcalico.org/orchestrator", "k8s".to_owned()),
        ("projectcalico.org/serviceaccount", format!("sa-{app}")),
        ("pcns.kubernetes.io/metadata.name", namespace.clone()),
        ("pcns.team", format!("team-{}", i % NAMESPACES % 10)),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into();
    Arc::new(Endpoint {
        id: EndpointId::Pod { namespace: namespace.into(), name: format!("pod-{i}").into() },
        labels: Labels::from_iter(labels),
        addrs: vec![pod_addr(i)],
        ports: vec![NamedPort { name: "http".into(), proto: TCP, number: 8080 }],
        default_allow: true,
    })
}

fn rule(source: Option<Vec<Peer>>, l4: Option<Vec<L4Match>>) -> Rule {
    Rule { action: RuleAction::Allow, v6: None, source, destination: None, l4, name: None }
}

fn port(proto: u8, number: u16) -> L4Match {
    L4Match { proto: Some(proto), dports: Some(vec![Ports::Range(number, number)]), ..L4Match::default() }
}

fn selected(selector: Selector) -> Peer {
    Peer { selector: Some(selector), ..Peer::default() }
}

fn within(net: IpNet) -> Peer {
    Peer { nets: Some(vec![net]), ..Peer::default() }
}

fn policy(name: String, subject: Selector, ingress: Vec<Rule>, egress: Option<Vec<Rule>>) -> Arc<Policy> {
    Arc::new(Policy {
        id: PolicyId { kind: PolicyKind::KubernetesNetworkPolicy, namespace: None, name: name.into() },
        tier: Tier::DEFAULT.into(),
        order: Order(Some(1000.0)),
        subject,
        ingress: Some(ingress),
        egress,
        staged: false,
        staged_delete: false,
        spares_own_node: true,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    })
}

/// Every namespace isolates each of its applications and lets in a neighbour application, a team and a network.
fn cluster() -> (World, Vec<EndpointId>) {
    let per_namespace = POLICIES / NAMESPACES;
    let policies = (0..POLICIES).map(|i| {
        let (namespace, app) = (format!("ns-{}", i % NAMESPACES), i / NAMESPACES);
        let of = |app| {
            Selector::And(vec![
                eq(NAMESPACE, namespace.clone()),
                eq("app", format!("app-{}", app % per_namespace)),
            ])
        };
        let office: IpNet = IpNet::new(v4(0xac10_0000 + (i << 8)), 24).expect("a length");
        let except = IpNet::new(v4(0xac10_0000 + (i << 8)), 28).expect("a length");
        let http = L4Match { dports: Some(vec![Ports::Named("http".into())]), ..port(TCP, 0) };
        let ingress = vec![
            rule(Some(vec![selected(of(app + 1)), selected(of(app + 2))]), Some(vec![http, port(TCP, 443)])),
            rule(
                Some(vec![selected(eq("pcns.team", format!("team-{}", i % 10)))]),
                Some(vec![port(TCP, 9090)]),
            ),
            rule(Some(vec![Peer { not_nets: vec![except], ..within(office) }]), None),
        ];
        let dns = selected(eq("pcns.kubernetes.io/metadata.name", "ns-0".to_owned()));
        let to = |peer, l4| Rule { source: None, destination: Some(vec![peer]), ..rule(None, Some(l4)) };
        let egress = vec![
            to(dns, vec![port(UDP, 53), port(TCP, 53)]),
            to(selected(of(app + 3)), vec![port(TCP, 8080)]),
        ];
        policy(format!("policy-{i}"), of(app), ingress, Some(egress))
    });
    let endpoints: Vec<_> = (0..PODS).map(|i| pod(i, i / NAMESPACES % per_namespace)).collect();
    let local = endpoints.iter().step_by((PODS / LOCAL) as usize).map(|e| e.id.clone()).collect();
    let world = World {
        tiers: Tier::predefined().map(Arc::new).into(),
        policies: policies.collect(),
        endpoints,
        ..World::default()
    };
    (world, local)
}

fn resident_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: f64 = pages.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("its format");
    pages * 4096.0 / f64::from(1 << 20)
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy compile");
    let (mut world, local) = cluster();
    let before = resident_mib();
    let mut compiler = Compiler::new();
    compiler.update(&world, &local);
    eprintln!(
        "compiled state: {:.0} MiB resident, beside {before:.0} MiB of objects",
        resident_mib() - before
    );

    group.sample_size(10);
    group.bench_function("10,000 pods, 2,000 policies, 250 local: all", |b| {
        b.iter_batched(
            Compiler::new,
            |mut fresh| (fresh.update(&world, &local), fresh),
            BatchSize::PerIteration,
        )
    });
    let everyone: Vec<EndpointId> = world.endpoints.iter().map(|e| e.id.clone()).collect();
    group.bench_function("10,000 pods, 2,000 policies, all local: all", |b| {
        b.iter_batched(
            Compiler::new,
            |mut fresh| (fresh.update(&world, &everyone), fresh),
            BatchSize::PerIteration,
        )
    });
    group.sample_size(50);
    let mut turn = 0;
    group.bench_function("one pod's label", |b| {
        b.iter(|| {
            turn += 1;
            let i = turn * 7919 % PODS;
            world.endpoints[i as usize] = pod(i, turn % 20);
            compiler.update(&world, &local)
        })
    });
    group.bench_function("one policy's rules", |b| {
        b.iter(|| {
            turn += 1;
            let at = (turn * 7919 % POLICIES) as usize;
            let mut changed = (*world.policies[at]).clone();
            changed.ingress.iter_mut().flatten().for_each(|r| r.l4 = Some(vec![port(TCP, turn as u16)]));
            world.policies[at] = Arc::new(changed);
            compiler.update(&world, &local)
        })
    });
    group.bench_function("nothing", |b| b.iter(|| compiler.update(&world, &local)));
    group.finish();
}

/// A rule of each shape that lets one kind of packet in, and such a packet.
type Shape = fn(u32) -> (Rule, Packet);

fn packet(src: IpAddr, proto: u8, dport: u16) -> Packet {
    Packet { src: addr::bits(src), dst: addr::bits(pod_addr(SERVER)), proto, sport: 40_000, dport }
}

fn by_net(i: u32) -> (Rule, Packet) {
    let net = IpNet::new(v4(0x1400_0000 + (i << 8)), 24).expect("a length");
    (rule(Some(vec![within(net)]), Some(vec![port(TCP, 80)])), packet(v4(0x1400_0007 + (i << 8)), TCP, 80))
}

fn by_port(i: u32) -> (Rule, Packet) {
    let (proto, number) = ([TCP, UDP][i as usize % 2], (i / 2) as u16);
    (rule(None, Some(vec![port(proto, number)])), packet(v4(0x1400_0001), proto, number))
}

fn by_selector(i: u32) -> (Rule, Packet) {
    let selector = eq("statefulset.kubernetes.io/pod-name", format!("pod-{i}"));
    (rule(Some(vec![selected(selector)]), Some(vec![port(TCP, 80)])), packet(pod_addr(i), TCP, 80))
}

fn mixed(i: u32) -> (Rule, Packet) {
    let (mut made, mut hit) = [by_net, by_port, by_selector][i as usize % 3](i);
    if i % 3 != 1 {
        made.l4 = Some(vec![port(TCP, (i / 3) as u16)]);
        hit.dport = (i / 3) as u16;
    }
    (made, hit)
}

fn deciding(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy decision");
    let shapes: [(&str, Shape); 4] =
        [("by network", by_net), ("by port", by_port), ("by selector", by_selector), ("mixed", mixed)];
    for (name, shape) in shapes {
        for count in [1_u32, 100, 10_000, 100_000] {
            let (rules, hits): (Vec<Rule>, Vec<Packet>) = (0..count).map(shape).unzip();
            let world = World {
                tiers: Tier::predefined().map(Arc::new).into(),
                policies: vec![policy("one".to_owned(), Selector::All, rules, None)],
                endpoints: [SERVER].into_iter().chain(0..count).map(|i| pod(i, i % 20)).collect(),
                ..World::default()
            };
            let id = &world.endpoints[0].id;
            let compiled = Compiler::new().update(&world, std::slice::from_ref(id));
            let endpoint = compiled.endpoint(id).expect("it is local");
            let mut at = 0_u32;
            let mut next = move || {
                at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (at >> 8) % count
            };
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| {
                    let decision = endpoint.decide(
                        &compiled,
                        Direction::Ingress,
                        &hits[black_box(next()) as usize],
                        false,
                    );
                    assert!(decision.allow);
                })
            });
            let miss = |p: &Packet| Packet { proto: 132, ..*p };
            group.bench_function(BenchmarkId::new(format!("{name}, denied"), count), |b| {
                b.iter(|| {
                    let packet = miss(&hits[black_box(next()) as usize]);
                    assert!(!endpoint.decide(&compiled, Direction::Ingress, &packet, false).allow);
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, compiling, deciding);
criterion_main!(benches);
