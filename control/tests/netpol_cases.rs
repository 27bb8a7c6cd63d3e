//! Every row of `tests/data/netpol-cases.json`: objects as text → the store → the world → both evaluators.
//!
//! A row holds when egress of the source and ingress of the destination, each judged on its own pod's node, allow what
//! the row says. Each case is played by one store and one compiler per node, which live through its steps: pods of the
//! node are attached to it, those of other nodes it knows from their objects only.

#![cfg(feature = "daemon")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control::objects::{Item, Key, read};
use control::store::{LocalPod, NodeAddrs, Objects};
use policy::model::{Direction, Endpoint, EndpointId, Packet, World};
use policy::{Compiled, Compiler, addr, naive};
use serde_json::{Value, json};

/// A node's view of a case.
#[derive(Default)]
struct Node {
    objects: Objects,
    compiler: Compiler,
    world: World,
    compiled: Option<Arc<Compiled>>,
}

/// A pod's, a node's or an outsider's address, and for a pod where it runs and what names it.
struct End {
    addr: IpAddr,
    pod: Option<(String, EndpointId)>,
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn address(value: &Value) -> IpAddr {
    value["ip"].as_str().unwrap().parse().unwrap()
}

fn objects(state: &Value) -> Vec<Value> {
    let mut objects = state["policies"].as_array().unwrap().clone();
    for (name, namespace) in entries(&state["namespaces"]) {
        let metadata = json!({"name": name, "labels": namespace["labels"]});
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        for (pod, of) in entries(&namespace["pods"]) {
            let ports = of["ports"].as_array().into_iter().flatten().map(|port| {
                json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
            });
            objects.push(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": name, "labels": of["labels"]},
                "spec": {"nodeName": of["node"], "containers": [{"ports": ports.collect::<Vec<_>>()}]},
                "status": {"podIP": of["ip"]},
            }));
        }
    }
    objects
}

fn ends(case: &Value, state: &Value) -> BTreeMap<String, End> {
    let mut ends = BTreeMap::new();
    for (namespace, of) in entries(&state["namespaces"]) {
        for (pod, of) in entries(&of["pods"]) {
            let id = EndpointId::Pod { namespace: namespace.into(), name: pod.into() };
            let node = of["node"].as_str().unwrap().to_owned();
            ends.insert(format!("{namespace}/{pod}"), End { addr: address(of), pod: Some((node, id)) });
        }
    }
    for (kind, of) in [("ext", &case["external"]), ("node", &case["nodes"])] {
        for (name, of) in entries(of) {
            ends.insert(format!("{kind}/{name}"), End { addr: address(of), pod: None });
        }
    }
    ends
}

impl Node {
    fn set(&mut self, name: &str, case: &Value, state: &Value, ends: &BTreeMap<String, End>) {
        let mut seen: Vec<Key> = Vec::new();
        for object in objects(state) {
            for item in read(object.to_string().as_bytes()).unwrap() {
                let Item::Known { key, source, object } = item else { panic!("{item:?}") };
                seen.push(key.clone());
                self.objects.put(key, source, object);
            }
        }
        let gone: Vec<Key> = self.objects.keys().filter(|key| !seen.contains(key)).cloned().collect();
        gone.iter().for_each(|key| assert!(self.objects.remove(key)));
        let here: Vec<(&End, &EndpointId)> = ends
            .values()
            .filter_map(|end| end.pod.as_ref().filter(|(node, _)| node == name).map(|(_, id)| (end, id)))
            .collect();
        let local: Vec<LocalPod> = here
            .iter()
            .map(|(end, id)| match id {
                EndpointId::Pod { namespace, name } => LocalPod {
                    namespace: Arc::clone(namespace),
                    name: Arc::clone(name),
                    addrs: vec![end.addr],
                },
                EndpointId::Host { .. } => panic!("{id}"),
            })
            .collect();
        let addrs = case["nodes"].get(name).map(address).into_iter().collect();
        let (world, problems) = self.objects.world(&local, &NodeAddrs { name: name.into(), addrs });
        assert_eq!((problems, self.objects.problems()), (vec![], vec![]));
        let ids: Vec<EndpointId> = here.into_iter().map(|(_, id)| id.clone()).collect();
        self.compiled = Some(self.compiler.update(&world, &ids));
        self.world = world;
    }

    /// What both evaluators say; they must say the same.
    fn allows(&self, id: &EndpointId, direction: Direction, packet: &Packet) -> bool {
        let endpoint: &Endpoint = self.world.endpoints.iter().find(|e| e.id == *id).unwrap();
        let naive = naive::decide(&self.world, endpoint, direction, packet, false).allow;
        let compiled = self.compiled.as_ref().unwrap();
        let table = compiled.endpoint(id).unwrap();
        assert_eq!(
            table.decide(compiled, direction, packet, false).allow,
            naive,
            "{id} {direction:?} {packet:?}"
        );
        naive
    }
}

#[test]
fn every_row_of_every_state_holds() {
    let text = include_str!("../../tests/data/netpol-cases.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for case in cases["cases"].as_array().unwrap() {
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        let steps = case["steps"].as_array().into_iter().flatten();
        for (step, state) in std::iter::once(case).chain(steps).enumerate() {
            let ends = ends(case, state);
            for (node, _) in ends.values().filter_map(|end| end.pod.as_ref()) {
                nodes.entry(node.clone()).or_default();
            }
            for (name, node) in &mut nodes {
                node.set(name, case, state, &ends);
            }
            for row in state["expect"]["table"].as_array().unwrap() {
                let (src, dst) = (&ends[row[0].as_str().unwrap()], &ends[row[1].as_str().unwrap()]);
                let proto = match row[2].as_str().unwrap() {
                    "TCP" => 6,
                    "UDP" => 17,
                    "SCTP" => 132,
                    other => panic!("{other}"),
                };
                let packet = Packet {
                    src: addr::bits(src.addr),
                    dst: addr::bits(dst.addr),
                    proto,
                    sport: 40_000,
                    dport: u16::try_from(row[3].as_u64().unwrap()).unwrap(),
                };
                let side = |end: &End, direction| match &end.pod {
                    Some((node, id)) => nodes[node].allows(id, direction, &packet),
                    None => true,
                };
                if (side(src, Direction::Egress) && side(dst, Direction::Ingress))
                    != row[4].as_bool().unwrap()
                {
                    wrong.push(format!("{} state {step}: {row}", case["name"]));
                }
                rows += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(rows > 70_000, "{rows}");
}
