use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::decision::{By, MAX_LOGS};
use crate::model::{Endpoint, EndpointId, L4Match, Order, Policy, PolicyKind, Ports, Tier, World};
use crate::selector::{Labels, Selector};
use crate::{Compiler, arbitrary};

fn numbers(steps: &[ExplainStep], outcome: &Outcome) -> Vec<u32> {
    steps.iter().filter(|s| s.outcome == *outcome).filter_map(|s| s.number).collect()
}

proptest! {
    #![proptest_config(arbitrary::cases(2000))]

    /// The walk without the index ends where the lookup by the index ends.
    #[test]
    fn the_last_step_is_the_decision(world in arbitrary::world(), packets in vec(arbitrary::packet(), 3), forwarded: bool) {
        let ids: Vec<EndpointId> = world.endpoints.iter().map(|e| e.id.clone()).collect();
        let compiled = Compiler::new().update(&world, &ids);
        for (id, policy) in compiled.endpoints() {
            for (direction, p) in [Direction::Ingress, Direction::Egress].iter().flat_map(|d| packets.iter().map(move |p| (*d, p))) {
                let decision = policy.decide(&compiled, direction, p, forwarded);
                let steps = policy.explain(&compiled, direction, p, forwarded);
                let last = steps.last().expect("something decides");
                let number = match decision.by {
                    By::Rule(n) | By::TierEnd(n) => Some(n),
                    _ => None,
                };
                prop_assert_eq!((last.number, last.outcome == Outcome::Allowed), (number, decision.allow), "{} {:#?}", id, steps);
                let mut logs = numbers(&steps, &Outcome::Logged);
                logs.truncate(MAX_LOGS);
                prop_assert_eq!(decision.logs.as_slice(), logs);
            }
        }
    }
}

#[test]
fn it_says_which_condition_failed() {
    let pod = |name: &str, last: u8| {
        Arc::new(Endpoint {
            id: EndpointId::Pod { namespace: "ns".into(), name: name.into() },
            labels: Labels::from_iter([("app", name)]),
            addrs: vec![[10, 0, 0, last].into()],
            ports: vec![],
            default_allow: true,
        })
    };
    let rule = |proto: u8, port: u16, from: &str| Rule {
        action: RuleAction::Allow,
        v6: None,
        source: Some(vec![Peer { selector: Some(from.parse().expect("a selector")), ..Peer::default() }]),
        destination: None,
        l4: Some(vec![L4Match {
            proto: Some(proto),
            dports: Some(vec![Ports::Range(port, port)]),
            ..L4Match::default()
        }]),
        name: None,
    };
    let policy = |name: &str, rules: Vec<Rule>| {
        Arc::new(Policy {
            id: PolicyId {
                kind: PolicyKind::KubernetesNetworkPolicy,
                namespace: Some("ns".into()),
                name: name.into(),
            },
            tier: Tier::DEFAULT.into(),
            order: Order(Some(1000.0)),
            subject: Selector::Eq("app".into(), "web".into()),
            ingress: Some(rules),
            egress: None,
            staged: false,
            staged_delete: false,
            spares_own_node: true,
            apply_on_forward: false,
            do_not_track: false,
            pre_dnat: false,
        })
    };
    let world = World {
        tiers: Tier::predefined().map(Arc::new).into(),
        policies: vec![
            policy("a", vec![]),
            policy("b", vec![rule(17, 80, "all()"), rule(6, 81, "all()"), rule(6, 80, "app == 'db'")]),
        ],
        endpoints: vec![pod("web", 1), pod("db", 2), pod("other", 3)],
        node_addrs: vec![[10, 0, 0, 9].into()],
        ..World::default()
    };
    let web = &world.endpoints[0].id;
    let compiled = Compiler::new().update(&world, std::slice::from_ref(web));
    let endpoint = compiled.endpoint(web).expect("it is local");
    let explain = |last: u8| {
        let [src, dst] = [last, 1].map(|l| addr::bits([10, 0, 0, l].into()));
        let p = Packet { src, dst, proto: 6, sport: 1, dport: 80 };
        let steps = endpoint.explain(&compiled, Direction::Ingress, &p, false);
        steps.iter().map(|s| format!("{} => {:?}", s.text, s.outcome)).collect::<Vec<_>>().join("\n")
    };
    let asked = "no rules => Skipped(\"there is nothing to ask\")\n\
        allow UDP to port 80 from all() => NoMatch(\"TCP is not UDP to port 80\")\n\
        allow TCP to port 81 from all() => NoMatch(\"TCP destination port 80 is not TCP to port 81\")\n\
        allow TCP to port 80 from app == 'db' => ";
    assert_eq!(explain(2), format!("{asked}Allowed"));
    assert_eq!(
        explain(3),
        format!("{asked}NoMatch(\"source 10.0.0.3 is not app == 'db'\")\nend of the tier => Denied")
    );
    assert!(explain(4).contains("source 10.0.0.4 (of no known endpoint or network set) is not app == 'db'"));
    assert!(explain(9).contains("no policy counts between a pod and its own node => Allowed"));
    assert_eq!(explain(1), "a pod may always speak to itself => Allowed");
}
