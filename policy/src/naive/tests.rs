//! The semantics in examples, one rule kind a test, asked of the oracle and of the tables.

use super::*;
use crate::Compiler;
use crate::model::{NamedPort, NetSet, Order, PolicyId, PolicyKind};
use Direction::{Egress, Ingress};
use RuleAction::{Allow, Deny, Log, Pass};
use std::sync::Arc;

const POD: &str = "10.0.0.1";
const WEB: &str = "10.0.0.2";
const NODE: &str = "192.168.0.1";
const STRANGER: &str = "203.0.113.9";

fn ip(text: &str) -> u128 {
    addr::bits(text.parse().expect("an address"))
}

fn sel(text: &str) -> Selector {
    text.parse().expect("a selector")
}

fn endpoint(id: EndpointId, labels: &[(&str, &str)], addrs: &[&str]) -> Endpoint {
    Endpoint {
        default_allow: matches!(id, EndpointId::Pod { .. }),
        id,
        labels: Labels::from_iter(labels.iter().copied()),
        addrs: addrs.iter().map(|a| a.parse().expect("an address")).collect(),
        ports: vec![NamedPort { name: "http".into(), proto: 6, number: 8080 }],
    }
}

fn pod(name: &str, labels: &[(&str, &str)], addrs: &[&str]) -> Arc<Endpoint> {
    Arc::new(endpoint(EndpointId::Pod { namespace: "ns".into(), name: name.into() }, labels, addrs))
}

/// A pod `POD` (and `fd00::1`), another `WEB`, and a node.
fn world(policies: Vec<Policy>) -> World {
    World {
        tiers: Tier::predefined().map(Arc::new).into(),
        policies: policies.into_iter().map(Arc::new).collect(),
        endpoints: vec![
            pod("pod", &[("app", "pod")], &[POD, "fd00::1"]),
            pod("web", &[("app", "web")], &[WEB]),
        ],
        sets: vec![],
        node_addrs: vec![NODE.parse().expect("an address")],
    }
}

fn rule(action: RuleAction) -> Rule {
    Rule { action, v6: None, source: None, destination: None, l4: None, name: None }
}

fn from(action: RuleAction, peer: Peer) -> Rule {
    Rule { source: Some(vec![peer]), ..rule(action) }
}

fn on(action: RuleAction, l4: L4Match) -> Rule {
    Rule { l4: Some(vec![l4]), ..rule(action) }
}

fn nets(list: &[&str]) -> Peer {
    Peer { nets: Some(list.iter().map(|n| n.parse().expect("a network")).collect()), ..Peer::default() }
}

fn selected(text: &str) -> Peer {
    Peer { selector: Some(sel(text)), ..Peer::default() }
}

/// A Calico policy of tier `default` for ingress of `POD`.
fn policy(name: &str, rules: Vec<Rule>) -> Policy {
    Policy {
        id: PolicyId { kind: PolicyKind::GlobalNetworkPolicy, namespace: None, name: name.into() },
        tier: Tier::DEFAULT.into(),
        order: Order(Some(10.0)),
        subject: sel("app == 'pod'"),
        ingress: Some(rules),
        egress: None,
        staged: false,
        staged_delete: false,
        spares_own_node: false,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    }
}

fn tcp(src: &str, dst: &str, dport: u16) -> Packet {
    Packet { src: ip(src), dst: ip(dst), proto: 6, sport: 40_000, dport }
}

/// Both evaluators' answer for the world's first endpoint.
fn ask(world: &World, direction: Direction, packet: &Packet, forwarded: bool) -> Decision {
    let endpoint = &world.endpoints[0];
    let compiled = Compiler::new().update(world, std::slice::from_ref(&endpoint.id));
    let policy = compiled.endpoint(&endpoint.id).expect("it is local");
    let plain = decide(world, endpoint, direction, packet, forwarded);
    assert_eq!(policy.decide(&compiled, direction, packet, forwarded), plain);
    plain
}

fn by(world: &World, direction: Direction, packet: &Packet) -> (bool, By) {
    let decision = ask(world, direction, packet, false);
    (decision.allow, decision.by)
}

/// Is ingress from there allowed by these rules?
fn lets_in(rules: &[Rule], packet: &Packet) -> bool {
    ask(&world(vec![policy("p", rules.to_vec())]), Ingress, packet, false).allow
}

#[test]
fn only_a_direction_with_a_policy_is_isolated() {
    let open = world(vec![]);
    assert_eq!(by(&open, Ingress, &tcp(WEB, POD, 80)), (true, By::NoPolicy));
    let isolated = world(vec![policy("p", vec![])]);
    assert_eq!(by(&isolated, Ingress, &tcp(WEB, POD, 80)), (false, By::TierEnd(0)));
    assert_eq!(by(&isolated, Egress, &tcp(POD, WEB, 80)), (true, By::NoPolicy));
}

#[test]
fn selectors_match_only_who_is_known() {
    let all = [from(Allow, selected("all()"))];
    assert!(lets_in(&all, &tcp(WEB, POD, 80)));
    assert!(!lets_in(&all, &tcp(STRANGER, POD, 80)));
    assert!(!lets_in(&[from(Allow, selected("!has(app)"))], &tcp(STRANGER, POD, 80)));
    assert!(!lets_in(&[from(Allow, selected("app == 'nobody'"))], &tcp(WEB, POD, 80)));
    let not_web = [from(Allow, Peer { not_selector: Some(sel("app == 'web'")), ..Peer::default() })];
    assert!(!lets_in(&not_web, &tcp(WEB, POD, 80)));
    assert!(lets_in(&not_web, &tcp(STRANGER, POD, 80)));
}

#[test]
fn an_address_is_in_every_set_that_covers_it() {
    let set = |name: &str, net: &str| {
        Arc::new(NetSet {
            namespace: None,
            name: name.into(),
            labels: Labels::from_iter([("set", name)]),
            nets: vec![net.parse().expect("a network")],
        })
    };
    let asks = |selector: &str, src: &str| {
        let mut world = world(vec![policy("p", vec![from(Allow, selected(selector))])]);
        world.sets =
            vec![set("wide", "10.0.0.0/8"), set("narrow", "10.0.0.0/24"), set("far", "203.0.113.0/24")];
        ask(&world, Ingress, &tcp(src, POD, 80), false).allow
    };
    for selector in ["set == 'wide'", "set == 'narrow'", "app == 'web'", "!has(set)"] {
        assert!(asks(selector, WEB), "{selector}");
    }
    assert!(!asks("set == 'far'", WEB));
    assert!(asks("set == 'far'", STRANGER));
    assert!(!asks("app == 'web' && set == 'wide'", WEB), "labels of one and of another do not add up");
}

#[test]
fn networks_match_addresses_of_their_family() {
    let v6 = Packet { src: ip("fd00::9"), dst: ip("fd00::1"), ..tcp(WEB, POD, 80) };
    let everyone = [from(Allow, nets(&["0.0.0.0/0"]))];
    assert!(lets_in(&everyone, &tcp(WEB, POD, 80)));
    assert!(!lets_in(&everyone, &v6));
    assert!(!lets_in(&[from(Allow, nets(&["::/0"]))], &tcp(WEB, POD, 80)));
    assert!(lets_in(&[from(Allow, nets(&["::/0"]))], &v6));
    let except = Peer { not_nets: vec!["10.0.0.2/31".parse().expect("a network")], ..nets(&["10.0.0.0/24"]) };
    assert!(!lets_in(&[from(Allow, except.clone())], &tcp(WEB, POD, 80)));
    assert!(lets_in(&[from(Allow, except)], &tcp("10.0.0.4", POD, 80)));
    for (only_v6, packet, other) in [(true, v6, tcp(WEB, POD, 80)), (false, tcp(WEB, POD, 80), v6)] {
        let rules = [Rule { v6: Some(only_v6), ..rule(Allow) }];
        assert!(lets_in(&rules, &packet) && !lets_in(&rules, &other));
    }
}

#[test]
fn an_empty_list_matches_nothing_and_an_absent_one_anything() {
    let packet = tcp(WEB, POD, 80);
    assert!(lets_in(&[rule(Allow)], &packet));
    assert!(!lets_in(&[Rule { source: Some(vec![]), ..rule(Allow) }], &packet));
    assert!(!lets_in(&[Rule { destination: Some(vec![]), ..rule(Allow) }], &packet));
    assert!(!lets_in(&[Rule { l4: Some(vec![]), ..rule(Allow) }], &packet));
    assert!(!lets_in(&[from(Allow, nets(&[]))], &packet));
    assert!(!lets_in(&[on(Allow, L4Match { dports: Some(vec![]), ..L4Match::default() })], &packet));
    assert!(lets_in(&[Rule { destination: Some(vec![nets(&["10.0.0.1/32"])]), ..rule(Allow) }], &packet));
    assert!(!lets_in(&[Rule { destination: Some(vec![nets(&["10.0.0.2/32"])]), ..rule(Allow) }], &packet));
}

#[test]
fn ports_by_number_and_name() {
    let ports = |list: Vec<Ports>| L4Match { proto: Some(6), dports: Some(list), ..L4Match::default() };
    let range = [on(Allow, ports(vec![Ports::Range(80, 82)]))];
    for (port, allowed) in [(79, false), (80, true), (82, true), (83, false)] {
        assert_eq!(lets_in(&range, &tcp(WEB, POD, port)), allowed, "{port}");
    }
    let named = [on(Allow, L4Match { proto: None, ..ports(vec![Ports::Named("http".into())]) })];
    assert!(lets_in(&named, &tcp(WEB, POD, 8080)));
    assert!(!lets_in(&named, &tcp(WEB, POD, 80)));
    assert!(
        !lets_in(&named, &Packet { proto: 17, ..tcp(WEB, POD, 8080) }),
        "the protocol is part of the name"
    );
    assert!(!lets_in(&named, &tcp(WEB, STRANGER, 8080)), "the destination has no named ports");
    let not = [on(Allow, L4Match { not_dports: vec![Ports::Range(80, 80)], ..L4Match::default() })];
    assert!(!lets_in(&not, &tcp(WEB, POD, 80)));
    assert!(lets_in(&not, &tcp(WEB, POD, 81)));
    assert!(!lets_in(&not, &Packet { proto: 47, ..tcp(WEB, POD, 0) }), "GRE has no ports");
    let source =
        [on(Allow, L4Match { sports: Some(vec![Ports::Range(40_000, 40_000)]), ..L4Match::default() })];
    assert!(lets_in(&source, &tcp(WEB, POD, 1)));
    assert!(!lets_in(&source, &Packet { sport: 1, ..tcp(WEB, POD, 1) }));
    let not_tcp = [on(Allow, L4Match { not_proto: Some(6), ..L4Match::default() })];
    assert!(!lets_in(&not_tcp, &tcp(WEB, POD, 1)));
    assert!(lets_in(&not_tcp, &Packet { proto: 0, ..tcp(WEB, POD, 1) }));
}

#[test]
fn icmp_by_type_and_code() {
    let echo = Packet { proto: 1, sport: 8 << 8, dport: 0, ..tcp(WEB, POD, 0) };
    let unreachable = Packet { sport: 3 << 8 | 1, ..echo };
    let icmp = |kind| [on(Allow, L4Match { icmp: Some(kind), ..L4Match::default() })];
    assert!(lets_in(&icmp((8, None)), &echo));
    assert!(lets_in(&icmp((3, Some(1))), &unreachable));
    assert!(!lets_in(&icmp((3, Some(0))), &unreachable));
    assert!(!lets_in(&icmp((8, None)), &Packet { proto: 6, ..echo }));
    let not = [on(Allow, L4Match { not_icmp: Some((8, None)), ..L4Match::default() })];
    assert!(!lets_in(&not, &echo));
    assert!(lets_in(&not, &unreachable));
    assert!(!lets_in(&not, &tcp(WEB, POD, 80)));
}

#[test]
fn policies_go_by_order_then_by_name() {
    let with = |order, name: &str, action| Policy { order: Order(order), ..policy(name, vec![rule(action)]) };
    let first = |list: Vec<Policy>| ask(&world(list), Ingress, &tcp(WEB, POD, 80), false).allow;
    assert!(first(vec![with(Some(2.0), "a", Deny), with(Some(1.0), "b", Allow)]));
    assert!(first(vec![with(Some(1.0), "b", Deny), with(Some(1.0), "a", Allow)]));
    assert!(first(vec![with(None, "a", Deny), with(Some(9e9), "b", Allow)]));
    assert!(!first(vec![policy("a", vec![rule(Deny), rule(Allow)])]));
}

#[test]
fn tiers_pass_and_end() {
    let tier = |name: &str, p: Policy| Policy { tier: name.into(), ..p };
    let admin = |action| tier(Tier::KUBE_ADMIN, policy("admin", vec![rule(action)]));
    let base = tier(Tier::KUBE_BASELINE, policy("base", vec![rule(Deny)]));
    let middle = |action| policy("middle", vec![rule(action)]);
    let ask = |list: Vec<Policy>| by(&world(list), Ingress, &tcp(WEB, POD, 80));
    assert_eq!(ask(vec![admin(Pass)]), (true, By::Default));
    assert_eq!(ask(vec![admin(Allow), middle(Deny)]), (true, By::Rule(0)));
    assert_eq!(ask(vec![admin(Pass), middle(Allow), base.clone()]), (true, By::Rule(1)));
    assert_eq!(
        ask(vec![middle(Pass), base.clone()]),
        (false, By::Rule(2)),
        "number 1 is the end of the tier"
    );
    let nothing = tier(Tier::KUBE_ADMIN, policy("admin", vec![]));
    assert_eq!(ask(vec![nothing.clone(), base]), (false, By::Rule(0)), "that tier's end passes");
    assert_eq!(ask(vec![nothing, policy("middle", vec![])]), (false, By::TierEnd(0)));
    assert_eq!(ask(vec![tier("unknown", policy("p", vec![rule(Deny)]))]), (true, By::NoPolicy));
    let rest = vec![rule(Pass), rule(Deny)];
    assert_eq!(ask(vec![policy("a", rest), policy("b", vec![rule(Deny)])]), (true, By::Default));
}

#[test]
fn logs_are_noted_and_the_next_rule_is_asked() {
    let mut rules = vec![rule(Log), on(Log, L4Match { proto: Some(17), ..L4Match::default() }), rule(Log)];
    rules.extend([rule(Allow), rule(Log)]);
    let decision = ask(&world(vec![policy("p", rules)]), Ingress, &tcp(WEB, POD, 80), false);
    assert_eq!((decision.by, decision.logs.as_slice()), (By::Rule(3), &[0, 2][..]));
    let many = (0..9).map(|_| rule(Log)).collect();
    let decision = ask(&world(vec![policy("p", many)]), Ingress, &tcp(WEB, POD, 80), false);
    assert_eq!((decision.by, decision.logs.as_slice()), (By::TierEnd(9), &[0, 1, 2, 3][..]));
}

#[test]
fn a_pod_may_speak_to_itself_and_with_its_node() {
    let kubernetes = Policy { spares_own_node: true, egress: Some(vec![]), ..policy("k", vec![]) };
    let world_of = |list| world(list);
    let spared = world_of(vec![kubernetes.clone()]);
    assert_eq!(by(&spared, Ingress, &tcp(POD, POD, 80)), (true, By::Itself));
    assert_eq!(by(&spared, Ingress, &tcp(NODE, POD, 80)), (true, By::OwnNode));
    assert_eq!(by(&spared, Egress, &tcp(POD, NODE, 80)), (true, By::OwnNode));
    assert_eq!(by(&spared, Ingress, &tcp("192.168.0.2", POD, 80)), (false, By::TierEnd(0)));
    let both = world_of(vec![kubernetes, policy("z", vec![])]);
    assert_eq!(by(&both, Ingress, &tcp(NODE, POD, 80)), (false, By::TierEnd(0)), "Calico's counts");
}

#[test]
fn staged_policies_are_only_asked_beside() {
    let both = |list: Vec<Policy>| {
        let world = world(list);
        let (endpoint, packet) = (&world.endpoints[0], tcp(WEB, POD, 80));
        let compiled = Compiler::new().update(&world, std::slice::from_ref(&endpoint.id));
        let policy = compiled.endpoint(&endpoint.id).expect("it is local");
        let beside = policy.decide_staged(&compiled, Ingress, &packet, false);
        let plain = decide_staged(&world, endpoint, Ingress, &packet, false);
        assert_eq!(beside.unwrap_or(plain), plain);
        (by(&world, Ingress, &packet), beside.map(|d| (d.allow, d.by)))
    };
    let staged = |p: Policy| Policy {
        id: PolicyId { kind: PolicyKind::StagedGlobalNetworkPolicy, ..p.id.clone() },
        staged: true,
        ..p
    };
    let allows = policy("p", vec![rule(Allow)]);
    let denies = staged(policy("p", vec![rule(Deny)]));
    let open = (true, By::NoPolicy);
    assert_eq!(both(vec![staged(policy("p", vec![]))]), (open, Some((false, By::TierEnd(0)))));
    assert_eq!(both(vec![allows.clone(), denies.clone()]), ((true, By::Rule(0)), Some((false, By::Rule(0)))));
    let other = Policy { id: PolicyId { name: "a".into(), ..denies.id.clone() }, ..denies.clone() };
    assert_eq!(both(vec![allows.clone(), other]), ((true, By::Rule(0)), Some((false, By::Rule(0)))));
    let deletes = Policy { staged_delete: true, ..denies };
    assert_eq!(both(vec![allows.clone(), deletes]), ((true, By::Rule(0)), Some(open)));
    assert_eq!(both(vec![allows]), ((true, By::Rule(0)), None));
}

#[test]
fn host_endpoints_have_stages_and_forward() {
    let ask = |list: Vec<Policy>, forwarded| {
        let mut world = world(list);
        let host = endpoint(EndpointId::Host { name: "eth0".into() }, &[("app", "pod")], &[NODE]);
        world.endpoints.insert(0, Arc::new(host));
        let decision = ask(&world, Ingress, &tcp(STRANGER, NODE, 22), forwarded);
        (decision.allow, decision.by)
    };
    assert_eq!(ask(vec![], false), (false, By::NoPolicy), "it has no profiles");
    assert_eq!(ask(vec![], true), (true, By::NoPolicy));
    let local = policy("a", vec![rule(Deny)]);
    assert_eq!(ask(vec![local.clone()], true), (true, By::NoPolicy));
    let forward = Policy { apply_on_forward: true, ..policy("b", vec![]) };
    assert_eq!(ask(vec![forward.clone()], true), (false, By::TierEnd(0)));
    assert_eq!(ask(vec![forward.clone()], false), (false, By::TierEnd(0)));
    for early in [
        Policy { do_not_track: true, ..policy("z", vec![rule(Allow)]) },
        Policy { pre_dnat: true, ..policy("z", vec![rule(Allow)]) },
    ] {
        assert_eq!(ask(vec![local.clone(), early.clone()], false), (true, By::Rule(0)), "it comes first");
        let silent = Policy { ingress: Some(vec![]), ..early.clone() };
        assert_eq!(ask(vec![local.clone(), silent], false), (false, By::Rule(0)), "its tier has no end");
        let for_pods = world(vec![early]);
        assert_eq!(by(&for_pods, Ingress, &tcp(WEB, POD, 80)), (true, By::NoPolicy));
    }
}
