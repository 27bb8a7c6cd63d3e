use std::net::IpAddr;

use proptest::prelude::*;

use policy::model::{Endpoint, EndpointId, World};

use super::*;
use crate::objects::{Item, read};

fn put(objects: &mut Objects, text: &str) -> bool {
    let mut changed = false;
    for item in read(text.as_bytes()).unwrap() {
        let Item::Known { key, source, object } = item else { panic!("{item:?}") };
        changed |= objects.put(key, source, object);
    }
    changed
}

fn objects(text: &str) -> Objects {
    let mut objects = Objects::new();
    put(&mut objects, text);
    objects
}

fn node() -> NodeAddrs {
    NodeAddrs { name: "n1".into(), addrs: vec![ip("192.0.2.1")] }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn local(namespace: &str, name: &str, addr: &str) -> LocalPod {
    LocalPod { namespace: namespace.into(), name: name.into(), addrs: vec![ip(addr)] }
}

fn pod<'a>(world: &'a World, name: &str) -> Option<&'a Arc<Endpoint>> {
    world.endpoints.iter().find(|e| matches!(&e.id, EndpointId::Pod { name: n, .. } if **n == *name))
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn a_pod(name: &str, addr: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x}}, status: {{podIP: {addr}}}}}\n"
    )
}

const VALID: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, \
                     spec: {ingress: [{}]}}";
const INVALID: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, \
                       spec: {ingress: [{from: [{}]}]}}";
const UNREADABLE: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, \
                          spec: {podSelector: 7}}";

#[test]
fn a_pod_cannot_say_what_others_say_of_it() {
    let mut objects = objects(
        "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: a, kubernetes.io/metadata.name: y}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa, namespace: x, labels: {role: r}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: web, pcns.team: b, pcns.other: b, \
         pcsa.role: admin, projectcalico.org/namespace: kube-system, projectcalico.org/orchestrator: none, \
         projectcalico.org/serviceaccount: root, projectcalico.org/name: z}}, spec: {serviceAccountName: sa}, \
         status: {podIP: 10.0.0.1}}",
    );
    let (world, problems) = objects.world(&[], &node());
    assert_eq!(problems, []);
    let labels = &pod(&world, "a").unwrap().labels;
    let labels: Vec<_> = labels.0.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        labels,
        [
            ("app", "web"),
            ("pcns.kubernetes.io/metadata.name", "x"),
            ("pcns.projectcalico.org/name", "x"),
            ("pcns.team", "a"),
            ("pcsa.projectcalico.org/name", "sa"),
            ("pcsa.role", "r"),
            ("projectcalico.org/namespace", "x"),
            ("projectcalico.org/orchestrator", "k8s"),
            ("projectcalico.org/serviceaccount", "sa"),
        ]
    );
}

#[test]
fn an_attached_pod_needs_no_object_and_a_namespace_neither() {
    let mut objects = Objects::new();
    let (world, problems) = objects.world(&[local("x", "a", "10.0.0.1")], &node());
    assert_eq!(problems, []);
    let a = pod(&world, "a").unwrap();
    assert_eq!(a.labels.get("pcns.kubernetes.io/metadata.name"), Some("x"));
    assert_eq!(a.labels.get("projectcalico.org/serviceaccount"), None);
    assert_eq!(a.addrs, [ip("10.0.0.1")]);
    put(
        &mut objects,
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {l: v}}, spec: {hostNetwork: true, \
         containers: [{ports: [{name: web, containerPort: 80}]}]}, status: {phase: Failed, podIP: 10.9.9.9}}",
    );
    // What is attached is what counts: neither the claimed address nor the claimed end.
    let (world, _) = objects.world(&[local("x", "a", "10.0.0.1")], &node());
    let a = pod(&world, "a").unwrap();
    assert_eq!((a.labels.get("l"), a.ports.len(), &a.addrs[..]), (Some("v"), 1, &[ip("10.0.0.1")][..]));
    let (world, _) = objects.world(&[], &node());
    assert!(pod(&world, "a").is_none());
}

#[test]
fn an_address_is_whose_attachment_it_is_or_nobodys() {
    let text = a_pod("a", "10.0.0.1") + &a_pod("b", "10.0.0.1") + &a_pod("c", "10.0.0.3");
    let mut two = objects(&text);
    let (world, problems) = two.world(&[], &node());
    assert_eq!(world.endpoints.len(), 1);
    assert_eq!(
        shown(&problems),
        ["address 10.0.0.1 is claimed by several pods, and none of them has it: x/a x/b"]
    );
    let (world, problems) = two.world(&[local("x", "b", "10.0.0.1")], &node());
    assert!(pod(&world, "a").is_none() && pod(&world, "b").is_some());
    assert_eq!(shown(&problems), ["address 10.0.0.1 is claimed by pod x/a, but attached here as pod x/b's"]);
    let nodes = "---\n{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, \
                 address: 192.0.2.2}, {type: Hostname, address: n2}]}}\n";
    let text = a_pod("a", "192.0.2.1") + &a_pod("b", "192.0.2.2") + &a_pod("c", "127.0.0.1") + nodes;
    let (world, problems) = objects(&text).world(&[], &node());
    assert_eq!((world.endpoints.len(), problems.len()), (0, 3), "{problems:?}");
}

#[test]
fn an_invalid_version_leaves_the_last_valid_one() {
    let mut objects = objects(VALID);
    let (before, _) = objects.world(&[], &node());
    assert!(put(&mut objects, INVALID));
    assert!(!put(&mut objects, INVALID));
    let (after, _) = objects.world(&[], &node());
    assert!(Arc::ptr_eq(&before.policies[0], &after.policies[0]));
    assert_eq!(
        shown(&objects.problems()),
        [
            "NetworkPolicy x/p: spec.ingress[0].from[0]: must have one of podSelector, namespaceSelector, ipBlock; \
          its last valid version stays in force"
        ]
    );
    assert!(put(&mut objects, VALID));
    assert_eq!(objects.problems(), []);
    let (again, _) = objects.world(&[], &node());
    assert!(Arc::ptr_eq(&before.policies[0], &again.policies[0]));
}

#[test]
fn an_invalid_first_version_denies_where_it_says_whom() {
    let mut first = objects(INVALID);
    let (world, _) = first.world(&[], &node());
    assert_eq!(world.policies[0].ingress.as_deref(), Some(&[][..]));
    assert!(matches!(&first.problems()[..], [Problem::Refused { standing: Standing::Denies, .. }]));
    let mut first = objects(UNREADABLE);
    assert_eq!(first.world(&[], &node()).0.policies, []);
    assert!(matches!(&first.problems()[..], [Problem::Refused { standing: Standing::Nothing, .. }]));
    let key = first.entries.keys().next().unwrap().clone();
    assert!(first.remove(&key) && !first.remove(&key));
    assert_eq!(first.problems(), []);
}

#[test]
fn what_did_not_change_is_the_same_allocation() {
    let namespace = |labels: &str| {
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: x, labels: {{{labels}}}}}}}\n")
    };
    let mut objects = objects(&(VALID.to_owned() + "\n" + &a_pod("a", "10.0.0.1") + &namespace("l: v")));
    put(&mut objects, &a_pod("b", "10.0.0.2").replace("namespace: x", "namespace: y"));
    let (before, _) = objects.world(&[], &node());
    assert!(!put(&mut objects, &(VALID.to_owned() + "\n" + &a_pod("a", "10.0.0.1"))));
    assert!(put(&mut objects, &namespace("l: w")));
    let (after, _) = objects.world(&[], &node());
    assert!(Arc::ptr_eq(&before.policies[0], &after.policies[0]));
    assert!(before.tiers.iter().zip(&after.tiers).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(Arc::ptr_eq(pod(&before, "b").unwrap(), pod(&after, "b").unwrap()));
    assert!(!Arc::ptr_eq(pod(&before, "a").unwrap(), pod(&after, "a").unwrap()));
    assert_eq!(pod(&after, "a").unwrap().labels.get("pcns.l"), Some("w"));
}

#[test]
fn sets_hosts_and_tiers_are_part_of_the_world() {
    let mut objects = objects(
        "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: a}}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkSet, metadata: {name: s, namespace: x, labels: {l: v, pcns.team: b}}, \
         spec: {nets: [10.1.0.0/16]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: s, labels: {pcns.team: b}}, spec: {}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: h}, spec: {node: n1, interfaceName: '*'}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: h2}, spec: {node: n2, expectedIPs: [192.0.2.2]}}
---
{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}, spec: {order: 5}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {tier: t}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: q}, spec: {tier: lost}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 192.0.2.2}}",
    );
    let (world, problems) = objects.world(&[], &node());
    assert_eq!(
        shown(&problems),
        [
            "address 192.0.2.2, claimed by pod x/a, is no pod's address",
            "GlobalNetworkPolicy q: there is no tier lost; it is evaluated last, and denies at its end"
        ]
    );
    let set = |namespace| world.sets.iter().find(|set| set.namespace.as_deref() == namespace).unwrap();
    assert_eq!(set(Some("x")).labels.get("pcns.team"), Some("a"));
    assert_eq!(set(Some("x")).labels.get("projectcalico.org/orchestrator"), None);
    assert_eq!((set(None).labels.get("pcns.team"), set(None).nets.len()), (None, 0));
    let hosts: Vec<_> =
        world.endpoints.iter().map(|host| (host.id.to_string(), host.addrs.clone())).collect();
    assert_eq!(
        hosts,
        [
            ("host endpoint h".to_owned(), vec![ip("192.0.2.1")]),
            ("host endpoint h2".to_owned(), vec![ip("192.0.2.2")])
        ]
    );
    assert!(world.endpoints.iter().all(|host| !host.default_allow));
    let tiers: Vec<_> = world.tiers.iter().map(|tier| &*tier.name).collect();
    assert_eq!(tiers, ["default", "kube-admin", "kube-baseline", "t", "lost"]);
    let (again, _) = objects.world(&[], &node());
    assert!(world.sets.iter().zip(&again.sets).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(world.tiers.iter().zip(&again.tiers).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(world.endpoints.iter().zip(&again.endpoints).all(|(a, b)| Arc::ptr_eq(a, b)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However a world came about, it is the one that the same objects make when all are new.
    #[test]
    fn a_world_in_steps_is_the_world_at_once(
        steps in prop::collection::vec((0..7_u8, 0..4_u8, 0..3_u8, 0..4_u8), 1..24),
        attached in prop::collection::vec((0..4_u8, 0..4_u8), 0..3),
    ) {
        let (mut objects, mut texts) = (Objects::new(), BTreeMap::new());
        for (n, (kind, name, label, addr)) in steps.into_iter().enumerate() {
            let namespace = ["x", "y"][usize::from(name % 2)];
            let status = if addr == 0 { String::new() } else { format!("podIP: 10.0.0.{addr}") };
            let (id, text) = match kind {
                0 => (
                    format!("n{namespace}"),
                    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{l: v{label}}}}}}}"),
                ),
                1 => (
                    format!("a{namespace}"),
                    format!(
                        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {namespace}, \
                         labels: {{l: v{label}}}}}}}"
                    ),
                ),
                2 => (
                    format!("N{name}"),
                    format!(
                        "{{apiVersion: v1, kind: Node, metadata: {{name: n{name}}}, \
                         status: {{addresses: [{{type: InternalIP, address: 10.0.0.{}}}]}}}}",
                        addr + 2
                    ),
                ),
                _ => (
                    format!("p{name}"),
                    format!(
                        "{{apiVersion: v1, kind: Pod, metadata: {{name: p{name}, namespace: {namespace}, \
                         labels: {{l: v{label}}}}}, status: {{{status}}}}}"
                    ),
                ),
            };
            if kind == 6 && texts.contains_key(&id) {
                texts.remove(&id);
                let key = Key { kind: Kind::Pod, namespace: Some(namespace.into()), name: format!("p{name}").into() };
                prop_assert!(objects.remove(&key));
            } else {
                put(&mut objects, &text);
                texts.insert(id, text);
            }
            // Pods come and go, too.
            let attached = if n % 5 == 4 { &[][..] } else { &attached };
            let pods: Vec<LocalPod> = attached
                .iter()
                .map(|(name, addr)| {
                    local(["x", "y"][usize::from(name % 2)], &format!("p{name}"), &format!("10.0.0.{}", addr + 1))
                })
                .collect();
            let at_once = texts.values().fold(Objects::new(), |mut objects, text| {
                put(&mut objects, text);
                objects
            }).world(&pods, &node());
            let in_steps = objects.world(&pods, &node());
            prop_assert_eq!(in_steps, at_once);
        }
    }
}
