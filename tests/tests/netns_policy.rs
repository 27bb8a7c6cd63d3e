//! Rows of `tests/data/netpol-cases.json` on real packets: two nodes, pods attached by the plugin, policies by manifests.
//!
//! One pair of nodes plays all cases. The cases put neighbouring addresses on different nodes, and a node's range holds
//! two addresses that pods cannot have; so every address and every range here is the case's own moved eight bits to the
//! left (IPv4: 10.77.2.11 is 10.2.11.10 out of 10.2.11.0/24), which keeps every question whether one lies in the other.

#![allow(clippy::print_stdout)] // figures for whoever runs with --nocapture

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use control::api::{Proto, Request, Trace, TraceReport};
use control::client::Client;
use serde_json::{Value, json};
use vswitch::lab::{Attached, Daemon, Lab, Netns, Options, PodName, Stop};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::programs::programs;
use vswitch_tests::rows::{Row, Stand, Transport, attempt};
use vswitch_tests::serial::turn;

/// The cases played: each kind of rule, and states that follow one another.
const CASES: [&str; 33] = [
    "no-policy",
    "deny-ingress-ns-x",
    "deny-egress-ns-x",
    "deny-both-ns-x",
    "deny-one-pod",
    "types-absent-empty-egress",
    "types-absent-with-egress-rule",
    "ingress-rules-but-type-egress",
    "from-same-ns-pod-b",
    "from-ns-y",
    "from-ns-and-pod",
    "from-ns-or-pod",
    "to-ns-and-pod",
    "expr-notin-missing-key",
    "expr-several-are-and",
    "ns-expr-in",
    "port-80-sctp-only",
    "endport-boundaries",
    "named-port-differs-per-pod",
    "egress-named-port-on-destination",
    "two-rules-cross",
    "both-sides-ports-intersect",
    "one-way-does-not-open-the-other",
    "ipblock-matches-pods",
    "ipblock-egress-pods-except",
    "ipblock-prefix-boundaries",
    "ipblock-v6",
    "v6-selectors",
    "dyn-create-delete",
    "dyn-namespace-label",
    "dyn-target-pod-label",
    "dyn-ip-reused-by-other-pod",
    "dyn-pod-added-under-deny",
];

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Third and fourth byte of a pod's address in the cases, whatever its family.
fn numbers(ip: &str) -> (u8, u8) {
    match ip.parse().unwrap() {
        IpAddr::V4(v4) => (v4.octets()[2], v4.octets()[3]),
        // Written in hexadecimal what IPv4 has in decimal.
        IpAddr::V6(v6) => {
            let decimal = |n: u16| format!("{n:x}").parse().unwrap();
            (decimal(v6.segments()[3]), decimal(v6.segments()[7]))
        }
    }
}

fn addresses(ip: &str) -> [IpAddr; 2] {
    let (net, host) = numbers(ip);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x77, u16::from(net), 0, 0, u16::from(host), 10);
    [Ipv4Addr::new(10, net, host, 10).into(), v6.into()]
}

fn ranges(ip: &str) -> [String; 2] {
    let [v4, v6] = addresses(ip);
    let net = |addr, len| ipnet::IpNet::new(addr, len).unwrap().trunc().to_string();
    [net(v4, 24), net(v6, 112)]
}

/// A range of the cases, moved.
fn moved(text: &str) -> String {
    let (addr, len) = text.split_once('/').unwrap();
    let (IpAddr::V4(v4), len) = (addr.parse().unwrap(), len.parse::<u8>().unwrap()) else {
        // No range of IPv6 there is longer than the part that stays.
        return text.to_owned();
    };
    match v4.octets() {
        [10, 77, net, host] if len >= 16 => format!("10.{net}.{host}.0/{}", len - 8),
        _ => text.to_owned(),
    }
}

fn move_ranges(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &mut *value) {
                    ("cidr", Value::String(text)) => *text = moved(text),
                    ("except", Value::Array(list)) => {
                        list.iter_mut().for_each(|v| *v = moved(v.as_str().unwrap()).into());
                    }
                    (_, value) => move_ranges(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(move_ranges),
        _ => {}
    }
}

fn states(case: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(case).chain(list(&case["steps"]))
}

fn pods(state: &Value) -> impl Iterator<Item = (PodName, &Value)> {
    entries(&state["namespaces"])
        .flat_map(|(ns, of)| entries(&of["pods"]).map(move |(pod, of)| (PodName::new(ns, pod), of)))
}

fn node(pod: &Value) -> usize {
    usize::from(pod["node"] == "n2")
}

/// A pod as it is attached now.
struct Pod {
    ip: String,
    node: usize,
    stand: Stand,
    attached: Attached,
}

/// Two nodes whose ranges hold every pod of `cases`.
fn nodes(cases: &[&Value]) -> Lab {
    let mut own: [BTreeSet<String>; 2] = Default::default();
    for (_, pod) in cases.iter().flat_map(|case| states(case)).flat_map(pods) {
        own[node(pod)].extend(ranges(pod["ip"].as_str().unwrap()));
    }
    let empty = std::env::temp_dir().join(format!("vsl{}-no-manifests", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let options = Options { policy: Some(empty.clone()), ..Options::default() };
    let mut lab = Lab::bed_only(programs(), options, &Stop::default()).unwrap();
    std::fs::remove_dir(&empty).unwrap();
    for i in 0..2 {
        let config = lab.write_config(i).unwrap();
        let (mut text, mut range_lists) = (String::new(), [&own[i], &own[1 - i]].into_iter());
        for line in std::fs::read_to_string(&config).unwrap().lines() {
            if line.starts_with("pod-cidrs") {
                text.push_str(&format!("pod-cidrs = {:?}\n", Vec::from_iter(range_lists.next().unwrap())));
            } else if line.starts_with("cluster-cidrs") {
                text.push_str("cluster-cidrs = [\"10.0.0.0/8\", \"2001:db8:77::/48\"]\n");
            } else {
                text.push_str(&format!("{line}\n"));
            }
        }
        std::fs::write(&config, text).unwrap();
        let daemon =
            Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, &lab.run_dir(i), &Stop::default());
        lab.daemons[i] = Some(daemon.unwrap());
    }
    lab
}

/// Attaches and detaches until the pods are those of `state`, and brings its objects into force.
fn enter(lab: &Lab, now: &mut BTreeMap<PodName, Pod>, state: &Value, ports: &[u16]) {
    let wanted: BTreeMap<PodName, &Value> = pods(state).collect();
    now.retain(|name, pod| {
        wanted.get(name).is_some_and(|of| numbers(of["ip"].as_str().unwrap()) == numbers(&pod.ip))
    });
    let mut objects: Vec<Value> = list(&state["policies"]).cloned().collect();
    objects.iter_mut().for_each(move_ranges);
    for (name, of) in entries(&state["namespaces"]) {
        let metadata = json!({"name": name, "labels": of["labels"]});
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }
    for (name, of) in wanted {
        let pod = now.entry(name.clone()).or_insert_with(|| {
            let (ip, node) = (of["ip"].as_str().unwrap(), node(of));
            let netns = Netns::new(&lab.bed.name(&format!("{}-{}", name.namespace, name.name))).unwrap();
            let attached = Attached::add(lab.cni(node), netns, &name, &addresses(ip)).unwrap();
            assert_eq!(attached.addresses(), addresses(ip));
            Pod { ip: ip.to_owned(), node, stand: Stand::open(attached.netns.path(), ports), attached }
        });
        let container = |port: &Value| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]});
        let ports: Vec<Value> = list(&of["ports"]).map(container).collect();
        objects.push(pod.attached.object(of["node"].as_str().unwrap(), &of["labels"], &json!(ports)));
    }
    lab.manifests.as_ref().unwrap().write("case", &objects).unwrap();
    lab.settle().unwrap();
}

/// What `vsctl trace` says of each row, asked of the sender's node.
fn traced(lab: &Lab, rows: &[Row], senders: &[(&PodName, usize)]) -> Vec<bool> {
    let mut clients =
        [0, 1].map(|i| Client::connect(&lab.daemon(i).unwrap().socket(), Duration::from_secs(10)).unwrap());
    let ask = |row: &Row| {
        let (name, node) = senders[row.from];
        let proto = match row.transport {
            Transport::Tcp => Proto::Tcp,
            Transport::Udp => Proto::Udp,
            Transport::Sctp => Proto::Sctp,
        };
        let trace = Trace { from: name.to_string(), to: row.addr, port: Some(row.port), proto };
        clients[node].call::<TraceReport>(&Request::Trace(trace)).unwrap().delivered
    };
    rows.iter().map(ask).collect()
}

#[test]
fn real_packets_fare_as_the_tables_say() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let data: Value = serde_json::from_str(include_str!("../data/netpol-cases.json")).unwrap();
        let of = |name: &&str| list(&data["cases"]).find(|case| case["name"] == **name).unwrap();
        let cases: Vec<&Value> = CASES.iter().map(of).collect();
        let ports: BTreeSet<u16> = cases
            .iter()
            .flat_map(|case| list(&case["ports"]))
            .map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap())
            .collect();
        let ports = Vec::from_iter(ports);
        let lab = nodes(&cases);
        let (mut now, mut sport, mut wrong, mut tried) = (BTreeMap::new(), 40_000, Vec::new(), [0; 2]);
        let began = Instant::now();
        for case in cases {
            for (step, state) in states(case).enumerate() {
                enter(&lab, &mut now, state, &ports);
                let names: Vec<PodName> = now.keys().cloned().collect();
                let index = |text: &Value| {
                    let text = text.as_str().unwrap();
                    names.iter().position(|name| name.to_string() == text)
                };
                // What a pod sends to itself never leaves it; what is outside the cluster is not here.
                let pairs = list(&state["expect"]["table"]).filter(|row| row[0] != row[1]);
                let rows: Vec<Row> = pairs
                    .filter_map(|row| {
                        let (from, to) = (index(&row[0])?, index(&row[1])?);
                        let pod = &now[&names[to]];
                        let v6 = pods(state).any(|(_, of)| of["ip"].as_str().unwrap().contains(':'));
                        let transport = match row[2].as_str().unwrap() {
                            "TCP" => Transport::Tcp,
                            "UDP" => Transport::Udp,
                            _ => Transport::Sctp,
                        };
                        Some(Row {
                            from,
                            addr: pod.attached.addresses()[usize::from(v6)],
                            transport,
                            port: u16::try_from(row[3].as_u64().unwrap()).unwrap(),
                            allowed: row[4].as_bool().unwrap(),
                        })
                    })
                    .collect();
                let senders: Vec<(&PodName, usize)> =
                    now.iter().map(|(name, pod)| (name, pod.node)).collect();
                let stands: Vec<&Stand> = now.values().map(|pod| &pod.stand).collect();
                sport += 1;
                let (failed, traces) = std::thread::scope(|scope| {
                    let traces = scope.spawn(|| traced(&lab, &rows, &senders));
                    (attempt(&stands, &rows, sport), traces.join().unwrap())
                });
                let say = |n: usize| {
                    let Row { from, addr, transport, port, allowed } = &rows[n];
                    let why = format!("{} state {step}: {} to {addr}", case["name"], senders[*from].0);
                    format!(
                        "{why} {transport:?} {port} should be {}",
                        if *allowed { "allowed" } else { "denied" }
                    )
                };
                wrong.extend(failed.into_iter().map(|n| format!("{}, and is not", say(n))));
                let contradicted = (0..rows.len()).filter(|n| traces[*n] != rows[*n].allowed);
                wrong.extend(contradicted.map(|n| format!("{}; trace says otherwise", say(n))));
                rows.iter().for_each(|row| tried[usize::from(row.allowed)] += 1);
            }
        }
        println!(
            "{} cases: {} attempts that arrive, {} that do not, each traced too, in {:.1} s",
            CASES.len(),
            tried[1],
            tried[0],
            began.elapsed().as_secs_f64()
        );
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
        assert!(tried[0] > 0 && tried[1] > 0);
        // Pods go before their node.
        drop(now);
    }
    before.assert_same();
}
