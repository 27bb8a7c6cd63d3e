//! Many nodes over one store, one step at a time in random order, each dying at random moments: between any two calls,
//! and between a call and its answer.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

/// Marsaglia's xorshift: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

enum Task {
    Assign(Ask),
    Release(String),
}

type Running<'a> = Pin<Box<dyn Future<Output = Assigned> + Send + 'a>>;

struct Node<'a> {
    name: String,
    running: Option<(Task, Running<'a>)>,
    /// Handle and addresses of what is attached.
    pods: BTreeMap<String, Vec<IpAddr>>,
    /// What is to be released, as the journal has it.
    journal: BTreeSet<String>,
    made: usize,
}

/// What a run found at its end.
#[derive(Debug, Default)]
struct Outcome {
    given: usize,
    killed: usize,
    refused: usize,
    leaked: usize,
}

struct Spec {
    nodes: usize,
    steps: usize,
    pools: &'static [(&'static str, u8)],
    config: &'static str,
    /// A node that dies forgets its journal as well.
    forgetful: bool,
}

fn simulate(seed: u64, spec: &Spec) -> Outcome {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let store = Memory::default();
    store.set(CONFIG, spec.config);
    let mut nodes: Vec<Node<'_>> = (0..spec.nodes)
        .map(|i| Node {
            name: format!("n{i}"),
            running: None,
            pods: BTreeMap::new(),
            journal: BTreeSet::new(),
            made: 0,
        })
        .collect();
    let mut outcome = Outcome::default();
    let mut context = Context::from_waker(Waker::noop());
    for step in 0..spec.steps {
        // A second every 50 steps.
        let now = step as u64 / 50;
        let which = random.below(spec.nodes);
        let others: BTreeSet<IpAddr> = nodes
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != which)
            .flat_map(|(_, n)| n.pods.values().flatten().copied())
            .collect();
        let node = &mut nodes[which];
        let Some((task, running)) = &mut node.running else {
            let task = match random.below(4) {
                0 if !node.pods.is_empty() => {
                    let at = random.below(node.pods.len());
                    let handle = node.pods.keys().nth(at).unwrap().clone();
                    // As DEL does: noted, then the record goes.
                    node.journal.insert(handle.clone());
                    node.pods.remove(&handle);
                    Task::Release(handle)
                }
                1 if !node.journal.is_empty() => Task::Release(node.journal.first().unwrap().clone()),
                _ => {
                    node.made += 1;
                    let mut ask = ask(&node.name, &format!("{}.{}", node.name, node.made), spec.pools);
                    if random.below(8) == 0 {
                        let pool = &ask.pools[0];
                        let wanted = pool.cidr.hosts().nth(random.below(100)).unwrap();
                        ask.fixed = vec![(wanted, pool.block_of(wanted).unwrap())];
                    }
                    node.journal.insert(ask.handle.clone());
                    Task::Assign(ask)
                }
            };
            let running: Running<'_> = match &task {
                Task::Assign(ask) => {
                    let ask = ask.clone();
                    let store = &store;
                    Box::pin(async move { assign(store, &ask, at(now)).await })
                }
                Task::Release(handle) => {
                    let handle = handle.clone();
                    let store = &store;
                    Box::pin(async move { release(store, &handle, &[], at(now)).await })
                }
            };
            node.running = Some((task, running));
            continue;
        };
        if random.below(60) == 0 {
            // It dies here, and starts again.
            node.running = None;
            outcome.killed += 1;
            if spec.forgetful {
                node.journal.clear();
            }
            continue;
        }
        let Poll::Ready(result) = running.as_mut().poll(&mut context) else { continue };
        match (task, result) {
            (Task::Assign(ask), Ok(addrs)) => {
                outcome.given += addrs.len();
                for addr in &addrs {
                    assert!(!others.contains(addr), "seed {seed}, step {step}: {addr} is given twice");
                    assert!(
                        !node.pods.values().flatten().any(|a| a == addr),
                        "seed {seed}, step {step}: {addr}"
                    );
                }
                node.journal.remove(&ask.handle);
                node.pods.insert(ask.handle.clone(), addrs);
            }
            (Task::Release(handle), Ok(_)) => drop(node.journal.remove(handle)),
            (
                Task::Assign(_),
                Err(AssignError::Exhausted { .. } | AssignError::Taken { .. } | AssignError::Strict { .. }),
            ) => {
                outcome.refused += 1;
            }
            (_, Err(err)) => panic!("seed {seed}, step {step}: {err}"),
        }
        node.running = None;
    }
    nodes.iter_mut().for_each(|node| node.running = None);
    let end = spec.steps as u64 / 50 + 3600;
    // Each looks at its own, as `vsctl ipam check` does on every node, and releases what is reported.
    let known = |node: &Node<'_>, all: &[Node<'_>]| Known {
        node: node.name.clone(),
        handles: node.pods.clone(),
        pools: spec.pools.iter().map(|(cidr, _)| net(cidr)).collect(),
        published: all.iter().flat_map(|n| n.pods.values().flatten().map(|a| (*a, n.name.clone()))).collect(),
    };
    if !spec.forgetful {
        for node in &mut nodes {
            for handle in std::mem::take(&mut node.journal) {
                run(release(&store, &handle, &[], at(end))).unwrap();
            }
        }
    }
    let found = findings(&store, &known(&nodes[0], &nodes), end);
    outcome.leaked = found.len();
    for finding in &found {
        assert!(matches!(finding.problem, Problem::Leaked { .. }), "seed {seed}: {finding:?}");
        assert_eq!(
            run(repair(&store, &finding.problem, at(end))),
            Ok(Repaired::Done),
            "seed {seed}: {finding:?}"
        );
    }
    for node in &nodes {
        assert_eq!(findings(&store, &known(node, &nodes), end), [], "seed {seed}");
    }
    let all = run(Survey::read(&store)).unwrap();
    let held: BTreeSet<IpAddr> = all.held().map(|(addr, ..)| addr).collect();
    let live: BTreeSet<IpAddr> = nodes.iter().flat_map(|n| n.pods.values().flatten().copied()).collect();
    assert_eq!(held, live, "seed {seed}");
    outcome
}

fn many(spec: &Spec, seeds: u64) -> Outcome {
    let mut sum = Outcome::default();
    for seed in 1..=seeds {
        let one = simulate(seed, spec);
        sum.given += one.given;
        sum.killed += one.killed;
        sum.refused += one.refused;
        sum.leaked += one.leaked;
    }
    sum
}

#[test]
fn twenty_nodes_that_die_at_random_share_a_pool() {
    let pools = &[("10.9.0.0/24", 28), ("fd00:9::/120", 124)];
    let spec =
        Spec { nodes: 20, steps: 12_000, pools, config: r#"{"ipCooldownSeconds":5}"#, forgetful: false };
    let sum = many(&spec, 6);
    assert_eq!(sum.leaked, 0, "with its journal a node releases what it does not know of: {sum:?}");
    assert!(sum.given > 1_500 && sum.killed > 250 && sum.refused > 100, "{sum:?}");
}

#[test]
fn what_nodes_forget_is_found_and_released() {
    let spec = Spec {
        nodes: 20,
        steps: 12_000,
        pools: &[("10.9.0.0/24", 28)],
        config: r#"{"ipCooldownSeconds":0}"#,
        forgetful: true,
    };
    let sum = many(&spec, 6);
    assert!(sum.leaked > 50 && sum.given > 1_000, "{sum:?}");
}

#[test]
fn with_strict_affinity_too() {
    let config = r#"{"strict_affinity":true,"maxBlocksPerHost":3,"ipCooldownSeconds":1}"#;
    let spec = Spec { nodes: 8, steps: 12_000, pools: &[("10.9.0.0/25", 29)], config, forgetful: false };
    let sum = many(&spec, 6);
    assert!(sum.leaked == 0 && sum.given > 500 && sum.refused > 50, "{sum:?}");
}
