//! Blocks over a store in memory: single steps, values as Calico writes them, and many nodes that die at any moment.

mod memory;
mod simulation;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use self::memory::{Memory, run};
use super::*;
use crate::objects::meta::LabelMap;
use crate::objects::{Item, Object, Wishes, read};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_785_300 + seconds)
}

fn ask(node: &str, handle: &str, pools: &[(&str, u8)]) -> Ask {
    let pool = |(cidr, block_size): &(&str, u8)| PoolRange { cidr: net(cidr), block_size: *block_size };
    Ask {
        handle: handle.to_owned(),
        node: node.to_owned(),
        of: [("node", node), ("pod", handle), ("by", "vswitch")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        fixed: Vec::new(),
        pools: pools.iter().map(pool).collect(),
        never: BTreeSet::new(),
        reserved: Vec::new(),
    }
}

fn fixed(node: &str, handle: &str, addr: &str, block: &str) -> Ask {
    Ask { fixed: vec![(ip(addr), net(block))], ..ask(node, handle, &[]) }
}

type Assigned = Result<Vec<IpAddr>, AssignError<memory::Lost>>;

fn give(store: &Memory, ask: &Ask, now: u64) -> Assigned {
    run(assign(store, ask, at(now)))
}

fn take(store: &Memory, handle: &str, now: u64) -> Vec<IpAddr> {
    run(release(store, handle, &[], at(now))).unwrap()
}

fn findings(store: &Memory, known: &Known, now: u64) -> Vec<Finding> {
    survey(&run(Survey::read(store)).unwrap(), known, at(now))
}

#[test]
fn an_address_its_block_and_its_handle_are_written_together() {
    let store = Memory::default();
    let both = &[("10.9.0.0/24", 26), ("fd00:9::/112", 122)];
    let addrs = give(&store, &ask("n1", "vswitch.a", both), 0).unwrap();
    assert_eq!((addrs.len(), addrs[0].is_ipv4(), addrs[1].is_ipv6()), (2, true, true));
    assert_eq!(store.commits(), 1, "one transaction");
    let keys = store.keys();
    let handle: serde_json::Value = store.json("/calico/ipam/v2/handle/vswitch.a");
    assert_eq!(keys.len(), 5, "two blocks, two affinities, a handle: {keys:?}");
    assert_eq!(handle["block"].as_object().unwrap().len(), 2);
    let affinity =
        keys.iter().find(|key| key.starts_with("/calico/ipam/v2/host/n1/ipv6/block/fd00:9::")).unwrap();
    assert_eq!(store.json(affinity), serde_json::json!({"state": "confirmed", "deleted": false}));

    // The answer was lost and the runtime asks again.
    assert_eq!(give(&store, &ask("n1", "vswitch.a", both), 1).unwrap(), addrs);
    assert_eq!(store.commits(), 1);
    // Another pod gets the next ones of the same blocks.
    let more = give(&store, &ask("n1", "vswitch.b", both), 1).unwrap();
    assert!(more.iter().zip(&addrs).all(|(a, b)| a > b) && store.keys().len() == 6, "{more:?}");
    // Another node has blocks of its own.
    let other = give(&store, &ask("n2", "vswitch.c", both), 1).unwrap();
    assert!(!IpNet::new(addrs[0], 26).unwrap().trunc().contains(&other[0]));
    let known = |node: &str, handles: &[&str]| Known {
        node: node.to_owned(),
        handles: handles.iter().map(|h| ((*h).to_owned(), Vec::new())).collect(),
        ..Known::default()
    };
    let mut n1 = known("n1", &["vswitch.a", "vswitch.b"]);
    assert_eq!(findings(&store, &n1, 0).len(), 2, "n2 publishes no pod");
    n1.published = other.iter().map(|addr| (*addr, "n2".to_owned())).collect();
    assert_eq!(findings(&store, &n1, 0), []);
    let found = findings(&store, &known("n2", &[]), 0);
    let leaked = |finding: &Finding| match &finding.problem {
        Problem::Leaked { address, .. } => Some(*address),
        _ => None,
    };
    assert_eq!(found.iter().filter_map(leaked).filter(|a| other.contains(a)).count(), 2, "{found:?}");
}

#[test]
fn a_reserved_address_is_for_who_asks_for_it() {
    let store = Memory::default();
    let reserved = vec![net("10.9.0.0/28"), net("10.9.0.18/32")];
    for handle in 0..20 {
        let one =
            Ask { reserved: reserved.clone(), ..ask("n1", &format!("h{handle}"), &[("10.9.0.0/26", 26)]) };
        let addr = give(&store, &one, 0).unwrap()[0];
        assert!(reserved.iter().all(|net| !net.contains(&addr)), "{addr}");
    }
    let wanted = Ask { reserved: reserved.clone(), ..fixed("n1", "w", "10.9.0.18", "10.9.0.0/26") };
    assert_eq!(give(&store, &wanted, 0).unwrap(), [ip("10.9.0.18")]);
    // Nothing else is left: 64 but 17 reserved and 20 taken are 27.
    let rest = (0..40).filter(|i| {
        let one = Ask { reserved: reserved.clone(), ..ask("n1", &format!("r{i}"), &[("10.9.0.0/26", 26)]) };
        give(&store, &one, 0).is_ok()
    });
    assert_eq!(rest.count(), 27);
}

#[test]
fn idle_blocks_are_given_back_but_for_one() {
    let store = Memory::default();
    let pool = &[("10.9.0.0/24", 28)];
    for pod in 0..40 {
        give(&store, &ask("n1", &format!("h{pod}"), pool), 0).unwrap();
    }
    give(&store, &ask("n2", "other", pool), 0).unwrap();
    let blocks = || store.keys().iter().filter(|key| key.contains("/assignment/")).count();
    assert_eq!(blocks(), 4, "three of n1, one of n2");
    let mut idle = Idle::new();
    let mut look = |now: u64| run(give_back(&store, "n1", &mut idle, at(now))).unwrap().len();
    assert_eq!(look(10), 0);
    (1..40).for_each(|pod| drop(take(&store, &format!("h{pod}"), 20)));
    // Cooling down is not idle yet, and then it is for long enough only later.
    assert_eq!((look(30), look(60), look(60 + 599)), (0, 0, 0));
    // A pod came and went meanwhile: of whichever block, that one begins anew.
    give(&store, &ask("n1", "late", pool), 640).unwrap();
    take(&store, "late", 650);
    assert_eq!(look(60 + 600), 2, "the one in use stays, and with it the late pod's address");
    assert_eq!(blocks(), 2);
    take(&store, "h0", 700);
    assert_eq!((look(800), look(2000)), (0, 0), "the last one of a family stays");
    assert_eq!(blocks(), 2);
    assert_eq!(store.keys().iter().filter(|key| key.contains("/host/n1/")).count(), 1);
}

#[test]
fn what_runs_and_is_not_in_the_store_is_told() {
    let store = Memory::default();
    let addr = give(&store, &ask("n1", "vswitch.a", &[("10.9.0.0/24", 26)]), 0).unwrap()[0];
    let mut known = Known { node: "n1".to_owned(), pools: vec![net("10.9.0.0/24")], ..Known::default() };
    known.handles.insert("vswitch.a".to_owned(), vec![addr]);
    // One of the node's own range is no pool's matter.
    known.handles.insert("vswitch.own".to_owned(), vec![ip("10.244.1.2")]);
    assert_eq!(findings(&store, &known, 0), []);
    take(&store, "vswitch.a", 0);
    let found = findings(&store, &known, 0);
    assert_eq!(found[0].problem, Problem::Missing { address: addr, handle: "vswitch.a".to_owned() });
    let block = IpNet::new(addr, 26).unwrap().trunc().to_string();
    assert_eq!(give(&store, &fixed("n1", "vswitch.a", &addr.to_string(), &block), 1).unwrap(), [addr]);
    assert_eq!(findings(&store, &known, 1), []);
}

#[test]
fn a_released_address_cools_down_and_comes_up_last() {
    let store = Memory::default();
    store.set(CONFIG, r#"{"ipCooldownSeconds":30}"#);
    let pool = &[("10.9.0.0/30", 30)];
    let all: Vec<IpAddr> =
        (0..4).map(|i| give(&store, &ask("n1", &format!("h{i}"), pool), 0).unwrap()[0]).collect();
    assert_eq!(all, ["10.9.0.0", "10.9.0.1", "10.9.0.2", "10.9.0.3"].map(ip));
    assert_eq!(take(&store, "h2", 0), [all[2]]);
    assert!(take(&store, "h2", 0).is_empty(), "again: nothing");
    let full = give(&store, &ask("n1", "x", pool), 29);
    assert!(matches!(full, Err(AssignError::Exhausted { .. })), "{full:?}");
    assert_eq!(take(&store, "h0", 29), [all[0]]);
    assert_eq!(give(&store, &ask("n1", "x", pool), 30).unwrap(), [all[2]]);
    // By its number it may be had at once.
    assert_eq!(give(&store, &fixed("n1", "y", "10.9.0.0", "10.9.0.0/30"), 31).unwrap(), [all[0]]);
    let refused = give(&store, &fixed("n1", "z", "10.9.0.1", "10.9.0.0/30"), 31);
    assert_eq!(refused.unwrap_err().to_string(), "address 10.9.0.1 belongs to h1");
}

#[test]
fn without_a_cool_down_an_address_goes_to_the_end_of_the_line() {
    let store = Memory::default();
    store.set(CONFIG, r#"{"ipCooldownSeconds":0}"#);
    let pool = &[("10.9.0.0/30", 30)];
    give(&store, &ask("n1", "a", pool), 0).unwrap();
    take(&store, "a", 0);
    let next: Vec<IpAddr> =
        (0..4).map(|i| give(&store, &ask("n1", &format!("h{i}"), pool), 0).unwrap()[0]).collect();
    assert_eq!(next, ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.0"].map(ip));
}

#[test]
fn full_nodes_borrow_unless_affinity_is_strict() {
    for strict in [false, true] {
        let store = Memory::default();
        store.set(CONFIG, &format!(r#"{{"strict_affinity":{strict},"auto_allocate_blocks":true}}"#));
        let pool = &[("10.9.0.0/29", 30)];
        let theirs = give(&store, &ask("n1", "a", pool), 0).unwrap()[0];
        for i in 0..4 {
            give(&store, &ask("n2", &format!("h{i}"), pool), 0).unwrap();
        }
        let more = give(&store, &ask("n2", "more", pool), 1);
        if strict {
            assert!(matches!(more, Err(AssignError::Exhausted { .. })), "{more:?}");
            let wanted = give(
                &store,
                &fixed("n2", "w", "10.9.0.1", &IpNet::new(theirs, 30).unwrap().trunc().to_string()),
                1,
            );
            assert!(
                matches!(wanted, Err(AssignError::Strict { .. } | AssignError::Taken { .. })),
                "{wanted:?}"
            );
            continue;
        }
        let borrowed = more.unwrap()[0];
        let block = IpNet::new(theirs, 30).unwrap().trunc();
        assert!(block.contains(&borrowed) && borrowed != theirs);
        let mut table = Table::default();
        for (key, value) in store.all() {
            table.put(&key, &value);
        }
        let (routes, problems) = table.routes(&[net("10.9.0.0/29")]);
        assert_eq!(problems, BTreeMap::new());
        assert_eq!(routes["n1"], [block]);
        assert!(routes["n2"].contains(&IpNet::from(borrowed)) && routes["n2"].len() == 2, "{routes:?}");
        take(&store, "more", 2);
        let changed = store.all().into_iter().fold(false, |any, (key, value)| table.put(&key, &value) | any);
        assert!(changed && table.routes(&[net("10.9.0.0/29")]).0["n2"].len() == 1);
    }
}

#[test]
fn an_empty_block_of_another_node_is_taken_over_after_a_minute() {
    let store = Memory::default();
    store.set(CONFIG, r#"{"strict_affinity":true,"ipCooldownSeconds":5}"#);
    let pool = &[("10.9.0.0/30", 30)];
    give(&store, &ask("n1", "a", pool), 0).unwrap();
    take(&store, "a", 1);
    assert!(give(&store, &ask("n2", "b", pool), 59).is_err());
    assert_eq!(give(&store, &ask("n2", "b", pool), 60).unwrap().len(), 1);
    assert!(store.keys().iter().all(|key| !key.contains("/host/n1/")), "{:?}", store.keys());
    assert!(give(&store, &ask("n1", "a", pool), 61).is_err(), "it is n2's now");
}

#[test]
fn a_node_has_as_many_blocks_as_it_may() {
    let store = Memory::default();
    store.set(CONFIG, r#"{"strict_affinity":true,"maxBlocksPerHost":2}"#);
    let pool = &[("10.9.0.0/24", 30)];
    for i in 0..8 {
        give(&store, &ask("n1", &format!("h{i}"), pool), 0).unwrap();
    }
    assert!(matches!(give(&store, &ask("n1", "h8", pool), 0), Err(AssignError::Exhausted { .. })));
    store.set(CONFIG, r#"{"auto_allocate_blocks":false}"#);
    assert!(matches!(give(&store, &ask("n2", "x", pool), 0), Err(AssignError::Exhausted { .. })));
}

/// As Calico 3.2x leaves them in etcd.
const CALICO: &str = r#"{"cidr":"10.9.0.64/30","affinity":"host:n1","affinity_claim_time":"2025-01-01T10:00:00Z","allocations":[0,null,1,null],"unallocated":[3,1],"attributes":[{"handle_id":"k8s-pod-network.c1","secondary":{"namespace":"default","node":"n1","pod":"web-0","timestamp":"2025-01-01 10:00:00.1 +0000 UTC"}},{"handle_id":"vxlan-tunnel-addr-n1","secondary":{"node":"n1","type":"vxlanTunnelAddress"},"alternateOwnerAttrs":{"x":"y"}}],"sequenceNumber":1735725600000000007,"sequenceNumberForAllocation":{"0":1735725600000000001,"2":1735725600000000004},"deleted":false,"futureField":{"a":[1]}}"#;

#[test]
fn calicos_values_are_read_kept_and_written_as_it_does() {
    let mut block = Block::parse(&net("10.9.0.64/30"), CALICO.as_bytes()).unwrap();
    assert_eq!((block.node(), block.free(), block.is_empty()), (Some("n1"), 2, false));
    assert_eq!(block.next_free(|_| false), Some(ip("10.9.0.67")));
    assert_eq!(block.held_by("k8s-pod-network.c1"), [ip("10.9.0.64")]);
    let before: serde_json::Value = serde_json::from_str(CALICO).unwrap();
    let mut after: serde_json::Value = serde_json::from_slice(&block.encode()).unwrap();
    assert_eq!(after["sequenceNumber"], 1_735_725_600_000_000_008_u64, "as each writer does");
    after["sequenceNumber"] = before["sequenceNumber"].clone();
    assert_eq!(after, before, "fields that are not known here stay");
    // Of empty lists Go makes null, and old versions name the host otherwise.
    let old = r#"{"cidr":"10.9.0.64/31","affinity":null,"hostAffinity":"n7","allocations":[null,null],"unallocated":[0,1],"attributes":null,"deleted":false}"#;
    assert_eq!(Block::parse(&net("10.9.0.64/31"), old.as_bytes()).unwrap().node(), Some("n7"));

    let store = Memory::default();
    store.set("/calico/ipam/v2/assignment/ipv4/block/10.9.0.64-30", CALICO);
    store.set("/calico/ipam/v2/host/n1/ipv4/block/10.9.0.64-30", "{\"state\":\"pending\"}");
    store.set("/calico/ipam/v2/handle/k8s-pod-network.c1", r#"{"block":{"10.9.0.64/30":1},"deleted":false}"#);
    store.set(
        "/calico/ipam/v2/handle/vxlan-tunnel-addr-n1",
        r#"{"block":{"10.9.0.64/30":1},"deleted":false}"#,
    );
    let known = Known { node: "n1".to_owned(), ..Known::default() };
    let found = findings(&store, &known, 0);
    assert!(
        matches!(&found[..], [Finding { problem: Problem::Leaked { address, .. }, .. }] if *address == ip("10.9.0.64")),
        "{found:?}"
    );
    assert_eq!(
        found[0].detail,
        "10.9.0.64 (given to default/web-0): nothing is attached to this node with its handle"
    );
    // A pending affinity is taken up and confirmed.
    assert_eq!(give(&store, &ask("n1", "new", &[("10.9.0.64/26", 30)]), 0).unwrap(), [ip("10.9.0.67")]);
    assert_eq!(store.json("/calico/ipam/v2/host/n1/ipv4/block/10.9.0.64-30")["state"], "confirmed");
    assert_eq!(run(repair(&store, &found[0].problem, at(0))), Ok(Repaired::Done));
    assert_eq!(run(repair(&store, &found[0].problem, at(0))), Ok(Repaired::Stale));
    assert!(!store.keys().iter().any(|key| key.ends_with("k8s-pod-network.c1")));
}

#[test]
fn a_value_that_is_none_costs_only_itself() {
    let cidr = net("10.9.0.64/30");
    let long = "x".repeat(2 << 20);
    for (text, error) in [
        ("", "EOF"),
        ("[]", "invalid"),
        (long.as_str(), "bytes: at most"),
        (
            r#"{"cidr":"10.9.0.0/30","allocations":[null,null,null,null],"unallocated":[0,1,2,3]}"#,
            "describes block 10.9.0.0/30",
        ),
        (r#"{"cidr":"10.9.0.64/30","allocations":[null],"unallocated":[0]}"#, "one entry for each"),
        (r#"{"cidr":"10.9.0.64/30","allocations":[7,null,null,null],"unallocated":[1,2,3]}"#, "not there"),
        (
            r#"{"cidr":"10.9.0.64/30","allocations":[null,null,null,null],"unallocated":[0,1,2,2]}"#,
            "contradict",
        ),
        (
            r#"{"cidr":"10.9.0.64/30","allocations":[null,null,null,null],"unallocated":[0,1,2,9]}"#,
            "contradict",
        ),
        (
            r#"{"cidr":"10.9.0.64/30","allocations":[null,null,null,null],"unallocated":[0,1,2]}"#,
            "contradict",
        ),
        (r#"{"cidr":"10.9.0.64/30","allocations":[-1,null,null,null],"unallocated":[1,2,3]}"#, "invalid"),
    ] {
        let err = Block::parse(&cidr, text.as_bytes()).unwrap_err().to_string();
        assert!(err.contains(error), "{err}");
        let store = Memory::default();
        store.set("/calico/ipam/v2/assignment/ipv4/block/10.9.0.64-30", text);
        store.set("/calico/ipam/v2/host/n1/ipv4/block/10.9.0.64-30", "{\"state\":\"confirmed\"}");
        let given = give(&store, &ask("n1", "a", &[("10.9.0.64/29", 30)]), 0).unwrap();
        assert_eq!(given, [ip("10.9.0.68")], "the other block serves");
        assert_eq!(store.text("/calico/ipam/v2/assignment/ipv4/block/10.9.0.64-30"), text, "left alone");
        let mut table = Table::default();
        for (key, value) in store.all() {
            table.put(&key, &value);
        }
        let (routes, problems) = table.routes(&[net("10.9.0.64/29")]);
        assert_eq!((routes["n1"].len(), problems.len()), (1, 1));
    }
    assert_eq!(Block::parse(&net("10.0.0.0/8"), b"{}"), Err(BlockError::TooWide));
    assert_eq!(Block::parse(&net("::/0"), b"{}"), Err(BlockError::TooWide));
}

fn pools(yaml: &str) -> BTreeMap<Arc<str>, Arc<crate::objects::IpPool>> {
    let items = read(yaml.as_bytes()).unwrap();
    let pool = |item| match item {
        Item::Known { key, object: Ok(Object::Pool(pool)), .. } => (key.name, pool),
        other => panic!("{other:?}"),
    };
    items.into_iter().map(pool).collect()
}

fn manifest(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn pods_get_what_pools_and_annotations_say() {
    let all = pools(
        &[
            manifest("a", "cidr: 10.1.0.0/24, nodeSelector: zone == 'x'"),
            manifest("b", "cidr: 10.2.0.0/24"),
            manifest("manual", "cidr: 10.3.0.0/24, assignmentMode: Manual"),
            manifest("closed", "cidr: 10.4.0.0/24, disabled: true"),
            manifest("tenant", "cidr: 10.5.0.0/24, namespaceSelector: tenant == 't'"),
            manifest("tunnels", "cidr: 10.6.0.0/24, allowedUses: [Tunnel]"),
            manifest("six", "cidr: 'fd00:6::/112'"),
        ]
        .concat(),
    );
    let never = BTreeSet::from([ip("10.2.0.9")]);
    let tenant = LabelMap::from([("tenant".to_owned(), "t".to_owned())]);
    let (x, none) = (LabelMap::from([("zone".to_owned(), "x".to_owned())]), LabelMap::new());
    let chosen = |node: &LabelMap, namespace: &LabelMap, wishes: &[(&str, &str)], addrs: &[&str]| {
        let text = |key: &str| wishes.iter().find(|(k, _)| *k == key).map(|(_, v)| Arc::from(*v));
        let annotations = Wishes { addrs: text("addrs"), pools4: text("4"), pools6: text("6") };
        let wishes = PodWishes { annotations, addrs: addrs.iter().map(|a| ip(a)).collect() };
        let facts = Facts { pools: &all, node, namespace, never: &never, reserved: &[] };
        choose(facts, &wishes, "n1", "h", BTreeMap::new())
            .map(|ask| {
                let pools = ask.pools.iter().map(|p| p.cidr.to_string());
                let fixed = ask.fixed.iter().map(|(addr, block)| format!("{addr} of {block}"));
                pools.chain(fixed).collect::<Vec<_>>().join(" ")
            })
            .map_err(|err| err.to_string())
    };
    let ok = |text: &str| Ok(text.to_owned());
    assert_eq!(chosen(&x, &none, &[], &[]), ok("10.1.0.0/24 10.2.0.0/24 fd00:6::/112"));
    assert_eq!(chosen(&none, &none, &[], &[]), ok("10.2.0.0/24 fd00:6::/112"));
    assert_eq!(chosen(&none, &tenant, &[], &[]), ok("10.2.0.0/24 10.5.0.0/24 fd00:6::/112"));
    assert_eq!(
        chosen(&none, &none, &[("4", r#"["manual", "10.1.0.0/24"]"#)], &[]),
        ok("10.3.0.0/24 10.1.0.0/24 fd00:6::/112")
    );
    assert_eq!(
        chosen(&none, &none, &[("addrs", r#"["10.3.0.70"]"#)], &[]),
        ok("fd00:6::/112 10.3.0.70 of 10.3.0.64/26")
    );
    assert_eq!(
        chosen(&none, &none, &[("addrs", r#"["10.3.0.70"]"#)], &["10.2.0.1", "fd00:6::1"]),
        ok("10.2.0.1 of 10.2.0.0/26 fd00:6::1 of fd00:6::/122")
    );
    for (wishes, addrs, error) in [
        (("4", r#"["tenant"]"#), &[][..], "there is no usable IPPool \"tenant\""),
        (("4", r#"["closed"]"#), &[], "there is no usable IPPool \"closed\""),
        (("4", r#"["six"]"#), &[], "there is no usable IPPool \"six\""),
        (("4", "b"), &[], "annotation cni.projectcalico.org/ipv4pools = \"b\": a JSON list"),
        (("4", "[]"), &[], "annotation cni.projectcalico.org/ipv4pools = \"[]\": the list is empty"),
        (
            ("addrs", r#"["10.3.0"]"#),
            &[],
            "annotation cni.projectcalico.org/ipAddrs = \"10.3.0\": an address",
        ),
        (("", ""), &["10.2.0.1", "10.2.0.2"], "two IPv4 addresses"),
        (("", ""), &["10.5.0.1"], "address 10.5.0.1 is in no enabled IPPool for this pod"),
        (("", ""), &["10.4.0.1"], "address 10.4.0.1 is in no enabled"),
        (("", ""), &["10.6.0.1"], "address 10.6.0.1 is in no enabled"),
        (("", ""), &["169.254.1.1"], "address 169.254.1.1 is in no enabled"),
        (("", ""), &["10.2.0.9"], "address 10.2.0.9 is a node's own"),
    ] {
        let err = chosen(&none, &none, &[wishes], addrs).unwrap_err();
        assert!(err.starts_with(error), "{err}");
    }
}

#[test]
fn pools_that_would_take_others_addresses_are_not_used() {
    let mut all = pools(
        &[
            manifest("a", "cidr: 10.1.0.0/24"),
            manifest("b", "cidr: 10.1.0.0/16"),
            manifest("network", "cidr: 10.244.9.0/24"),
            manifest("node", "cidr: 192.168.77.0/24"),
            manifest("six", "cidr: 'fd00:6::/112'"),
            manifest("world", "cidr: 0.0.0.0/0"),
        ]
        .concat(),
    );
    let nodes = BTreeSet::from([ip("192.168.77.1")]);
    let problems = unusable(&mut all, &[net("10.244.0.0/16")], &nodes);
    assert_eq!(all.keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    assert_eq!(problems.len(), 5);
    assert!(problems["b"].contains("overlaps 10.1.0.0/24 of IPPool a"), "{problems:?}");
}

#[test]
fn the_journal_keeps_handles_over_a_restart() {
    let dir = std::env::temp_dir().join(format!("vswitch-journal-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (mut journal, problem) = Journal::open(&dir);
    assert_eq!(problem, None);
    journal.note("a", &[]).unwrap();
    journal.note("b", &[ip("10.0.0.1")]).unwrap();
    journal.note("c", &[]).unwrap();
    journal.clear("c").unwrap();
    let (again, _) = Journal::open(&dir);
    assert_eq!(again.handles(), journal.handles());
    assert_eq!(again.handles().len(), 2);
    std::fs::write(dir.join("ipam-handles.json"), "{").unwrap();
    let (none, problem) = Journal::open(&dir);
    assert!(none.handles().is_empty() && problem.is_some());
    std::fs::remove_dir_all(&dir).unwrap();
}
