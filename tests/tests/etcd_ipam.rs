//! Pools and blocks in a real etcd: many nodes at once that die in the middle of calls, and what strangers write.

#![allow(clippy::print_stdout)] // the figures are for people to read

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use control::blocks::{
    Ask, AssignError, KeyStore as _, Known, PoolRange, Problem, Repaired, Survey, assign, release, repair,
    survey,
};
use control::store::etcd::{Keys, Timing};
use ipnet::IpNet;
use vswitch_tests::etcd::{Etcd, Node, wait};

const CONFIG: &str = "/coreos.com/network/config";

/// The answer of a future, unless whoever waits for it dies first: it is not polled any more when it has been so often,
/// wherever its call is then. Every other time the call under way is still carried out, and its answer read by nobody.
async fn mortal<T>(keys: &Keys, future: impl Future<Output = T>, dies: Option<usize>) -> Option<T> {
    let (mut future, mut polls) = (pin!(future), dies);
    let lived = poll_fn(|context| {
        if let Some(left) = &mut polls {
            match left.checked_sub(1) {
                None => return Poll::Ready(None),
                Some(fewer) => *left = fewer,
            }
        }
        let polled = future.as_mut().poll(context).map(Some);
        // Nobody would poll again at the moment of its death.
        if polled.is_pending() && polls == Some(0) { Poll::Ready(None) } else { polled }
    })
    .await;
    if lived.is_none() && dies.is_some_and(|polls| polls % 2 == 0) {
        // The connection is a task of its own, and goes on while this waits.
        let _ = keys.get("none").await;
    }
    lived
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

fn ask(node: &str, handle: &str, pools: &[PoolRange]) -> Ask {
    let of = [("node", node), ("pod", handle), ("namespace", "default"), ("by", "vswitch")];
    Ask {
        handle: handle.to_owned(),
        node: node.to_owned(),
        of: of.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        fixed: Vec::new(),
        pools: pools.to_vec(),
        never: BTreeSet::new(),
        reserved: Vec::new(),
    }
}

/// Who has an address at this moment, of all nodes.
type Live = Mutex<HashMap<IpAddr, String>>;

#[derive(Debug, Default)]
struct Counts {
    given: usize,
    released: usize,
    killed: usize,
    forgotten: usize,
}

/// One node until it has `target` pods. Gives their handles and addresses.
fn node(
    number: usize,
    target: usize,
    etcd: &Etcd,
    pools: &[PoolRange],
    live: &Live,
) -> (BTreeMap<String, Vec<IpAddr>>, Counts) {
    let name = format!("n{number}");
    let mut random = Random(number as u64 * 7919 + 1);
    let (mut pods, mut counts) = (BTreeMap::<String, Vec<IpAddr>>::new(), Counts::default());
    let (mut made, mut journal) = (0, Vec::<String>::new());
    while pods.len() < target || !journal.is_empty() {
        // A life of this node: with connections of its own.
        let life = async |keys: &Keys| {
            loop {
                let dies = (random.below(6) == 0).then(|| random.below(24));
                let now = SystemTime::now();
                if let Some(handle) = journal.last().cloned() {
                    let given_back = release(keys, &handle, &[], now);
                    let Some(done) = mortal(keys, given_back, dies).await else { return true };
                    counts.released += done.unwrap().len();
                    journal.pop();
                } else if pods.len() > target / 2 && random.below(6) == 0 {
                    let handle = pods.keys().nth(random.below(pods.len())).unwrap().clone();
                    for addr in pods.remove(&handle).unwrap() {
                        live.lock().unwrap().remove(&addr);
                    }
                    journal.push(handle);
                } else if pods.len() < target {
                    made += 1;
                    let handle = format!("vswitch.{name}-{made}");
                    let ask = ask(&name, &handle, pools);
                    let Some(done) = mortal(keys, assign(keys, &ask, now), dies).await else {
                        // It may or may not have been given. Half of the nodes that die know that they asked.
                        if random.below(2) == 0 {
                            journal.push(handle)
                        } else {
                            counts.forgotten += 1
                        }
                        return true;
                    };
                    match done {
                        Ok(addrs) => {
                            for addr in &addrs {
                                let other = live.lock().unwrap().insert(*addr, handle.clone());
                                assert_eq!(other, None, "{addr} is {handle}'s too");
                            }
                            counts.given += addrs.len();
                            pods.insert(handle, addrs);
                        }
                        Err(AssignError::Exhausted { .. }) => {
                            // Others are about to give some back.
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        Err(err) => panic!("{handle}: {err}"),
                    }
                } else {
                    return false;
                }
            }
        };
        if Keys::with(etcd.settings(), Timing::default(), life).unwrap() {
            counts.killed += 1;
        }
    }
    (pods, counts)
}

/// Nodes side by side until each has `target` pods; then everything that they forgot is found and released.
fn together(nodes: usize, target: usize, pools: &[PoolRange], config: &str) -> (Counts, usize) {
    let etcd = Etcd::start();
    etcd.put("/calico/ipam/v2/config", config);
    let live = Live::default();
    let mut sum = Counts::default();
    let mut pods = BTreeMap::new();
    std::thread::scope(|scope| {
        let (etcd, live) = (&etcd, &live);
        let threads: Vec<_> =
            (1..=nodes).map(|n| scope.spawn(move || node(n, target, etcd, pools, live))).collect();
        for (n, thread) in (1..).zip(threads) {
            let (its, counts) = thread.join().expect("no address twice");
            sum.given += counts.given;
            sum.released += counts.released;
            sum.killed += counts.killed;
            sum.forgotten += counts.forgotten;
            pods.insert(format!("n{n}"), its);
        }
    });
    let published: BTreeMap<IpAddr, String> = pods
        .iter()
        .flat_map(|(node, its)| its.values().flatten().map(move |addr| (*addr, node.clone())))
        .collect();
    let known = |node: &str| Known {
        node: node.to_owned(),
        handles: pods[node].clone(),
        published: published.clone(),
        pools: pools.iter().map(|pool| pool.cidr).collect(),
    };
    let work = async |keys: &Keys| {
        let now = SystemTime::now();
        let found = survey(&Survey::read(keys).await.unwrap(), &known("n1"), now);
        for finding in &found {
            assert!(matches!(finding.problem, Problem::Leaked { .. }), "{finding:?}");
            assert_eq!(repair(keys, &finding.problem, now).await.unwrap(), Repaired::Done);
        }
        let all = Survey::read(keys).await.unwrap();
        for node in pods.keys() {
            assert_eq!(survey(&all, &known(node), now), []);
        }
        let held: BTreeSet<IpAddr> = all.held().map(|(addr, ..)| addr).collect();
        assert_eq!(held, published.keys().copied().collect(), "what is given is what pods have");
        assert_eq!(all.handles.len(), pods.values().map(BTreeMap::len).sum::<usize>());
        found.len()
    };
    let leaked = Keys::with(etcd.settings(), Timing::default(), work).unwrap();
    (sum, leaked)
}

fn range(cidr: &str, block_size: u8) -> PoolRange {
    PoolRange { cidr: cidr.parse().unwrap(), block_size }
}

#[test]
fn twenty_nodes_take_five_thousand_addresses_and_die_in_between() {
    let began = Instant::now();
    let (counts, leaked) = together(20, 250, &[range("10.20.0.0/18", 26)], r#"{"ipCooldownSeconds":1}"#);
    println!("{counts:?}; {leaked} leaked, found and released; {:.1?}", began.elapsed());
    assert!(counts.given >= 5000 && counts.killed > 100, "{counts:?}");
    assert!(leaked > 0 && leaked <= counts.forgotten, "{leaked} of {counts:?}");
}

#[test]
fn nodes_fight_over_the_last_addresses_of_a_pool() {
    // 16 blocks for 12 nodes, 120 of 128 addresses: most of it is borrowed.
    let pools = [range("10.21.0.0/25", 29), range("fd00:21::/121", 125)];
    let (counts, leaked) = together(12, 10, &pools, r#"{"ipCooldownSeconds":0}"#);
    println!("{counts:?}; {leaked} leaked, found and released");
    assert!(counts.given >= 240, "{counts:?}");
}

/// As Calico writes them.
const BLOCK: &str = r#"{"cidr":"10.50.1.0/26","affinity":"host:n2","allocations":[0,1,@NULLS],"unallocated":[@FREE],"attributes":[{"handle_id":"k8s-pod-network.a","secondary":{"namespace":"default","node":"n2","pod":"a"}},{"handle_id":"k8s-pod-network.b","secondary":{"namespace":"default","node":"n3","pod":"b"}}],"sequenceNumber":5,"sequenceNumberForAllocation":{"0":1,"1":2},"deleted":false}"#;

fn lease(etcd: &Etcd, n: u8) {
    let key = format!("/coreos.com/network/subnets/10.244.{n}.0-24");
    etcd.put(&key, &format!(r#"{{"PublicIP":"192.168.0.{n}","PublicIPv6":null,"BackendType":"host-gw"}}"#));
    let object = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"n{n}"}},"status":{{"addresses":[{{"type":"InternalIP","address":"192.168.0.{n}"}}]}}}}"#
    );
    etcd.put(&format!("/vswitch/objects/Node/_/n{n}"), &object);
}

fn pool(etcd: &Etcd, name: &str, spec: &str) {
    let object = format!(
        r#"{{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{{"name":"{name}"}},"spec":{spec}}}"#
    );
    etcd.put(&format!("/vswitch/objects/IPPool/_/{name}"), &object);
}

#[test]
fn blocks_that_calico_wrote_are_routed_and_bad_ones_cost_only_themselves() {
    let etcd = Etcd::start();
    etcd.put(CONFIG, r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#);
    lease(&etcd, 2);
    lease(&etcd, 3);
    pool(&etcd, "pods", r#"{"cidr":"10.50.0.0/16"}"#);
    pool(&etcd, "world", r#"{"cidr":"0.0.0.0/0"}"#);
    pool(&etcd, "network", r#"{"cidr":"10.244.0.0/20"}"#);
    let (nulls, free): (Vec<String>, Vec<String>) =
        (2..64).map(|i| ("null".to_owned(), i.to_string())).unzip();
    let block = BLOCK.replace("@NULLS", &nulls.join(",")).replace("@FREE", &free.join(","));
    let blocks = "/calico/ipam/v2/assignment/ipv4/block/";
    etcd.put(&format!("{blocks}10.50.1.0-26"), &block);
    etcd.put("/calico/ipam/v2/host/n2/ipv4/block/10.50.1.0-26", r#"{"state":"confirmed","deleted":false}"#);
    // Pending, outside every pool, of a node that nobody knows, and what is no block at all.
    etcd.put(&format!("{blocks}10.50.2.0-26"), &block.replace("10.50.1.0", "10.50.2.0"));
    etcd.put("/calico/ipam/v2/host/n2/ipv4/block/10.50.2.0-26", r#"{"state":"pending"}"#);
    etcd.put(&format!("{blocks}192.168.0.0-26"), &block.replace("10.50.1.0", "192.168.0.0"));
    etcd.put("/calico/ipam/v2/host/n2/ipv4/block/192.168.0.0-26", r#"{"state":"confirmed"}"#);
    etcd.put(
        &format!("{blocks}10.50.3.0-26"),
        &block.replace("10.50.1.0", "10.50.3.0").replace("host:n2", "host:n9"),
    );
    etcd.put("/calico/ipam/v2/host/n9/ipv4/block/10.50.3.0-26", r#"{"state":"confirmed"}"#);
    etcd.put(&format!("{blocks}0.0.0.0-0"), "{}");
    etcd.put(&format!("{blocks}10.50.4.0-26"), "[[[[");
    etcd.put_many([(format!("{blocks}10.50.5.0-26"), "x".repeat(1_000_000))]);
    etcd.put(&format!("{blocks}junk"), "1");

    let facts = control::store::etcd::NodeFacts {
        name: "n1".to_owned(),
        address: Some("192.168.0.1".parse().unwrap()),
        address6: None,
        vtep_mac: None,
        subnet_env: None,
        pools: true,
    };
    let mut n1 = Node::start_as(facts, &etcd.settings(), vswitch_tests::etcd::quick());
    let _ = n1.first();
    let cidrs = |n1: &Node, name: &str| n1.peer(name).map(|peer| peer.pod_cidrs);
    let nets =
        |texts: &[&str]| Some(texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect::<Vec<_>>());
    let n2 = nets(&["10.244.2.0/24", "10.50.1.0/26", "10.50.3.0/32"]);
    // An address borrowed by n3 of each of the blocks that are in a pool.
    let n3 = nets(&["10.244.3.0/24", "10.50.1.1/32", "10.50.2.1/32", "10.50.3.1/32"]);
    wait("blocks are routed", || cidrs(&n1, "192.168.0.2") == n2 && cidrs(&n1, "192.168.0.3") == n3);
    let cluster = n1.with(|heard| heard.fleet.clone().unwrap().cluster_cidrs.clone());
    assert_eq!(Some(cluster), nets(&["10.244.0.0/16", "10.50.0.0/16"]));
    for (key, problem) in [
        (format!("{blocks}0.0.0.0-0"), "a block has 4096 addresses at most"),
        (format!("{blocks}10.50.4.0-26"), "invalid"),
        (format!("{blocks}10.50.5.0-26"), "expected value"),
        (format!("{blocks}junk"), "names no block"),
        (format!("{blocks}192.168.0.0-26"), "in no usable IPPool"),
        ("IPPool world".to_owned(), "overlaps the network"),
        ("IPPool network".to_owned(), "overlaps the network"),
    ] {
        wait(&key, || n1.problem(&key).is_some_and(|text| text.contains(problem)));
    }
    // The node has said who it is, and others find it.
    wait("its Node object is there", || etcd.get("/vswitch/objects/Node/_/n1").contains("192.168.0.1"));
    // A broken new version leaves what was said before; a key that goes takes its route along.
    etcd.put(&format!("{blocks}10.50.1.0-26"), "{");
    etcd.delete_fast("/calico/ipam/v2/host/n9/ipv4/block/10.50.3.0-26");
    etcd.put("/calico/ipam/v2/host/n2/ipv4/block/10.50.2.0-26", r#"{"state":"confirmed"}"#);
    let more = nets(&["10.244.2.0/24", "10.50.1.0/26", "10.50.2.0/26", "10.50.3.0/32"]);
    wait("a confirmed block is routed", || cidrs(&n1, "192.168.0.2") == more);
    // Without etcd the next start knows it all.
    n1.stop(false);
    drop(etcd);
    n1.resume();
    wait("what was kept is told", || cidrs(&n1, "192.168.0.2") == more && cidrs(&n1, "192.168.0.3") == n3);
}
