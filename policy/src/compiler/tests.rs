use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::arbitrary;
use crate::decision::By;
use crate::model::{L4Match, Order, Packet, Peer, Policy, PolicyKind, Ports, Rule, RuleAction, Tier};
use crate::naive;
use crate::selector::{Labels, Selector};

const _: fn() = || {
    fn shared_by_threads<T: Send + Sync>() {}
    fn moved_to_a_thread<T: Send>() {}
    shared_by_threads::<Compiled>();
    shared_by_threads::<Table>();
    moved_to_a_thread::<Compiler>();
};

fn all(world: &World) -> Vec<EndpointId> {
    world.endpoints.iter().map(|e| e.id.clone()).collect()
}

/// Asks everybody about everything, by tables and by the oracle.
fn agree(world: &World, compiled: &Compiled, packets: &[Packet]) -> Result<(), TestCaseError> {
    for endpoint in &world.endpoints {
        let policy = compiled.endpoint(&endpoint.id).expect("all endpoints are local");
        for direction in [Direction::Ingress, Direction::Egress] {
            for packet in packets {
                for forwarded in [false, true] {
                    let want = naive::decide(world, endpoint, direction, packet, forwarded);
                    let got = policy.decide(compiled, direction, packet, forwarded);
                    prop_assert_eq!(got, want, "{} {:?} {:?}", endpoint.id, direction, packet);
                    let want = naive::decide_staged(world, endpoint, direction, packet, forwarded);
                    let got = policy.decide_staged(compiled, direction, packet, forwarded).unwrap_or(got);
                    prop_assert_eq!(got, want, "staged: {} {:?} {:?}", endpoint.id, direction, packet);
                }
            }
        }
    }
    Ok(())
}

fn pod(name: &str, app: &str, last: u8) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: EndpointId::Pod { namespace: "ns".into(), name: name.into() },
        labels: Labels::from_iter([("app", app)]),
        addrs: vec![[10, 0, 0, last].into()],
        ports: vec![],
        default_allow: true,
    })
}

/// Lets in whom the selector selects.
fn rule(from: Option<&str>) -> Rule {
    let from =
        from.map(|text| vec![Peer { selector: Some(text.parse().expect("a selector")), ..Peer::default() }]);
    Rule { action: RuleAction::Allow, v6: None, source: from, destination: None, l4: None, name: None }
}

fn policy(name: &str, app: &str, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy {
        id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some("ns".into()), name: name.into() },
        tier: Tier::DEFAULT.into(),
        order: Order(None),
        subject: Selector::Eq("app".into(), app.into()),
        ingress: Some(rules),
        egress: None,
        staged: false,
        staged_delete: false,
        spares_own_node: false,
        apply_on_forward: false,
        do_not_track: false,
        pre_dnat: false,
    })
}

proptest! {
    #![proptest_config(arbitrary::cases(2000))]

    #[test]
    fn tables_say_what_the_oracle_says(
        world in arbitrary::world(),
        packets in vec(arbitrary::packet(), 20),
    ) {
        let compiled = Compiler::new().update(&world, &all(&world));
        agree(&world, &compiled, &packets)?;
    }

    #[test]
    fn after_any_edits_tables_say_what_the_oracle_says(
        mut world in arbitrary::world(),
        edits in vec(vec(arbitrary::edit(), 1..3), 1..8),
        packets in vec(arbitrary::packet(), 6),
    ) {
        let mut compiler = Compiler::new();
        compiler.update(&world, &all(&world));
        for step in edits {
            step.into_iter().for_each(|edit| edit.apply(&mut world));
            let compiled = compiler.update(&world, &all(&world));
            agree(&world, &compiled, &packets)?;
        }
    }
}

/// What is drawn reaches every way to decide, and rules most often.
#[test]
fn the_draw_reaches_everything() {
    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 6];
    let mut logged = 0;
    for _ in 0..300 {
        let mut draw = |s: BoxedStrategy<_>| s.new_tree(&mut runner).expect("a draw").current();
        let (world, packets) = draw((arbitrary::world(), vec(arbitrary::packet(), 20)).boxed());
        for (endpoint, packet) in world.endpoints.iter().flat_map(|e| packets.iter().map(move |p| (e, p))) {
            let decision = naive::decide(&world, endpoint, Direction::Ingress, packet, false);
            logged += usize::from(!decision.logs.as_slice().is_empty());
            counts[match decision.by {
                By::Rule(_) => 0,
                By::TierEnd(_) => 1,
                By::Default => 2,
                By::NoPolicy => 3,
                By::OwnNode => 4,
                By::Itself => 5,
            }] += 1;
        }
    }
    let all: usize = counts.iter().sum();
    assert!(
        counts[0] * 6 > all && counts.iter().all(|n| *n > 0) && logged > 0,
        "{counts:?}, {logged} with logs"
    );
}

mod sharing {
    use super::*;

    /// Two pods of `a`, one of `b`; `a` lets `b` in, `b` lets `c` in.
    fn world() -> World {
        World {
            tiers: Tier::predefined().map(Arc::new).into(),
            policies: vec![
                policy("for-a", "a", vec![rule(Some("app == 'b'"))]),
                policy("for-b", "b", vec![rule(Some("app == 'c'"))]),
            ],
            endpoints: vec![pod("a1", "a", 1), pod("a2", "a", 2), pod("b", "b", 3)],
            ..World::default()
        }
    }

    fn table<'a>(compiled: &'a Compiled, name: &str) -> &'a Arc<Table> {
        let id = EndpointId::Pod { namespace: "ns".into(), name: name.into() };
        compiled.endpoint(&id).and_then(|e| e.table(Direction::Ingress)).expect("it has policy")
    }

    #[test]
    fn the_same_policies_are_one_table() {
        let world = world();
        let compiled = Compiler::new().update(&world, &all(&world));
        assert!(Arc::ptr_eq(table(&compiled, "a1"), table(&compiled, "a2")));
        assert!(!Arc::ptr_eq(table(&compiled, "a1"), table(&compiled, "b")));
    }

    #[test]
    fn what_a_change_does_not_touch_stays() {
        let mut world = world();
        let mut compiler = Compiler::new();
        let local = all(&world);
        let first = compiler.update(&world, &local);
        world.endpoints.push(pod("d", "d", 4));
        let second = compiler.update(&world, &local);
        for name in ["a1", "b"] {
            assert!(Arc::ptr_eq(table(&first, name), table(&second, name)), "nobody selects d: {name}");
        }
        let policies = |c: &Compiled| {
            local.iter().map(|id| c.endpoint(id).cloned().map(|e| Arc::as_ptr(&e))).collect::<Vec<_>>()
        };
        assert_eq!(policies(&first), policies(&second));
        world.endpoints.push(pod("c", "c", 5));
        let third = compiler.update(&world, &local);
        assert!(Arc::ptr_eq(table(&first, "a1"), table(&third, "a1")));
        world.policies[1] = policy("for-b", "b", vec![rule(Some("app == 'd'"))]);
        let fourth = compiler.update(&world, &local);
        assert!(Arc::ptr_eq(table(&first, "a1"), table(&fourth, "a1")));
        assert!(!Arc::ptr_eq(table(&first, "b"), table(&fourth, "b")));
    }

    #[test]
    fn counts_go_on_where_the_rule_is_still_there() {
        let mut world = world();
        world.policies[0] = policy("for-a", "a", vec![rule(Some("app == 'b'")), rule(Some("app == 'c'"))]);
        let mut compiler = Compiler::new();
        let local = all(&world);
        let first = compiler.update(&world, &local);
        for (number, times) in [(0, 3), (1, 5), (2, 7)] {
            (0..times).for_each(|_| table(&first, "a1").hit(number));
        }
        let hits = |c: &Compiled| table(c, "a1").rules().map(|r| r.hits).collect::<Vec<_>>();
        assert_eq!(hits(&first), [3, 5, 7]);
        // Another policy before it, and the first of its rules is another one.
        world.policies[0] = policy("for-a", "a", vec![rule(Some("app == 'd'")), rule(Some("app == 'c'"))]);
        world.policies.push(policy("a-first", "a", vec![rule(Some("app == 'e'"))]));
        let second = compiler.update(&world, &local);
        assert_eq!(hits(&second), [0, 0, 5, 7]);
        // A class that is new to the table makes a new index; the counts are the same ones.
        world.endpoints.push(pod("c", "c", 5));
        let third = compiler.update(&world, &local);
        assert!(!Arc::ptr_eq(table(&second, "a1"), table(&third, "a1")));
        table(&second, "a1").hit(2);
        assert_eq!(hits(&third), [0, 0, 6, 7]);
        table(&third, "a1").hit(99);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..arbitrary::cases(16) })]

    /// Hundreds of overlapping spans of ports, more than a list for every piece may hold.
    #[test]
    fn overlapping_ports_are_all_found(
        ranges in vec((0u16..1000, 0u16..1000, any::<Option<bool>>(), 0usize..4), 400),
        ports in vec(0u16..1100, 50),
    ) {
        let rules = ranges.into_iter().map(|(from, width, v6, action)| Rule {
            action: [RuleAction::Allow, RuleAction::Deny, RuleAction::Log, RuleAction::Log][action],
            v6,
            l4: Some(vec![L4Match {
                proto: Some(6),
                dports: Some(vec![Ports::Range(from, from + width)]),
                ..L4Match::default()
            }]),
            ..rule(None)
        });
        let world = World {
            tiers: Tier::predefined().map(Arc::new).into(),
            policies: vec![policy("p", "a", rules.collect())],
            endpoints: vec![pod("a", "a", 1)],
            ..World::default()
        };
        let compiled = Compiler::new().update(&world, &all(&world));
        let packet = |dport| Packet {
            src: addr::bits([10, 0, 0, 2].into()),
            dst: addr::bits([10, 0, 0, 1].into()),
            proto: 6,
            sport: 1,
            dport,
        };
        agree(&world, &compiled, &ports.into_iter().map(packet).collect::<Vec<_>>())?;
    }
}
