//! Objects and published pods in a real etcd.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use control::objects::{Key, Kind};
use control::store::NodeAddrs;
use control::store::etcd::{Reply, Request, RequestError};
use serde_json::{Value, json};
use vswitch_tests::etcd::{Etcd, Node, PATIENCE, wait};

const PODS: &str = "/vswitch/pods/";
const OBJECTS: &str = "/vswitch/objects/";

fn start() -> Etcd {
    let etcd = Etcd::start();
    etcd.put("/coreos.com/network/config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
    etcd
}

fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    Key { kind, namespace: namespace.map(Into::into), name: name.into() }
}

/// The endpoints that the objects a node heard of make: name, addresses, and the label `app`.
fn endpoints(node: &Node) -> Vec<String> {
    let none = NodeAddrs { name: "nobody".into(), addrs: Vec::new() };
    let world = node.with(|heard| heard.objects.world(&[], &none).0);
    let text = |endpoint: &Arc<policy::model::Endpoint>| {
        let addrs: Vec<String> = endpoint.addrs.iter().map(IpAddr::to_string).collect();
        format!("{} {} {}", endpoint.id, addrs.join("+"), endpoint.labels.get("app").unwrap_or("-"))
    };
    world.endpoints.iter().map(text).collect()
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "a" },
        "spec": spec,
    })
}

#[test]
fn attached_pods_are_known_to_the_others() {
    let etcd = start();
    let (mut one, two) = (Node::start(1, &etcd.settings()), Node::start(2, &etcd.settings()));
    let _ = (one.first(), two.first());
    let (web, db) = (one.pod("web", 5), one.pod("db", 6));
    one.store().publish_pods(vec![web.clone(), db.clone()]);
    two.store().publish_pods(vec![two.pod("cache", 7)]);
    let text = |pod: &control::store::etcd::PublishedPod| {
        format!("default/{} {} {}", pod.name, pod.addrs[0], pod.name)
    };
    let (web_text, db_text) = (text(&web), text(&db));
    wait("both are known", || endpoints(&two) == [db_text.clone(), web_text.clone()]);
    wait("and the other's", || endpoints(&one).len() == 1);
    // They end with the node's lease.
    let subnet = format!("/coreos.com/network/subnets/{}", one.subnet().replace('/', "-"));
    assert_eq!(etcd.lease_of(&format!("{PODS}default/web")), etcd.lease_of(&subnet));
    let value: Value = serde_json::from_str(&etcd.get(&format!("{PODS}default/web"))).unwrap();
    assert_eq!(value["spec"]["nodeName"], "n1");
    assert_eq!(value["status"]["podIPs"], json!([{ "ip": web.addrs[0] }]));
    assert_eq!(value["status"]["hostIP"], "192.168.0.1");
    // Only what changes is written.
    let revision = etcd.revision();
    one.store().publish_pods(vec![web.clone(), db.clone()]);
    one.store().publish_pods(vec![web.clone()]);
    wait("db is gone", || endpoints(&two) == [web_text.clone()]);
    assert_eq!(etcd.revision(), revision + 1);
    // What a run before left goes, unless it is still attached; a key somebody removed comes back.
    one.stop(false);
    etcd.ctl(&["del", &format!("{PODS}default/web")]);
    one.resume();
    let _ = one.first();
    one.store().publish_pods(vec![web.clone()]);
    wait("it is back", || endpoints(&two) == [web_text.clone()]);
    etcd.ctl(&["del", &format!("{PODS}default/web")]);
    wait("it is back again", || !etcd.keys(PODS).is_empty() && endpoints(&two) == [web_text.clone()]);
    // A new lease takes the pods along.
    etcd.ctl(&["lease", "revoke", &format!("{:x}", etcd.lease_of(&subnet))]);
    wait("all is back", || {
        etcd.keys(PODS).contains(&format!("{PODS}default/web")) && endpoints(&two).len() == 1
    });
    one.stop(true);
    wait("nothing is left of it", || endpoints(&two).is_empty());
}

#[test]
fn a_name_belongs_to_the_node_that_has_the_addresses() {
    let etcd = start();
    let nodes: Vec<Node> = (1..=3).map(|number| Node::start(number, &etcd.settings())).collect();
    nodes.iter().for_each(|node| drop(node.first()));
    let [one, two, three] = &nodes[..] else { panic!("three") };
    one.store().publish_pods(vec![one.pod("moves", 5)]);
    let before = format!("default/moves {} moves", one.pod("moves", 5).addrs[0]);
    wait("it is on the first", || endpoints(three) == [before.clone()]);
    // A node that writes the name with an address it has not: it does not count, and its owner writes it again.
    let lie = etcd
        .get(&format!("{PODS}default/moves"))
        .replace("\"n1\"", "\"n2\"")
        .replace("192.168.0.1", "192.168.0.2");
    etcd.put(&format!("{PODS}default/moves"), &lie);
    wait("it is put right", || etcd.get(&format!("{PODS}default/moves")).contains("\"n1\""));
    wait("and known", || endpoints(three) == [before.clone()]);
    // The pod is attached on the second node, while the first still has it: the last one counts, without a fight.
    two.store().publish_pods(vec![two.pod("moves", 9)]);
    let after = format!("default/moves {} moves", two.pod("moves", 9).addrs[0]);
    wait("it is on the second", || endpoints(three) == [after.clone()]);
    let revision = etcd.revision();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(etcd.revision(), revision, "nobody fights");
    // The first one lets go of it: that is not the second's.
    one.store().publish_pods(Vec::new());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(endpoints(three), [after]);
    // An address of nobody's. The second node would remove what it did not write.
    let text = etcd.get(&format!("{PODS}default/moves")).replace("\"n2\"", "\"n9\"");
    let odd = text.replace("\"moves\"", "\"odd\"").replace("10.5.", "10.7.");
    etcd.put(&format!("{PODS}default/odd"), &odd);
    wait("it is told of", || {
        three.problem(&format!("{PODS}default/odd")).is_some_and(|text| text.contains("no lease for"))
    });
    etcd.put(&format!("{PODS}default/other-name"), &odd);
    wait("so is this", || {
        three.problem(&format!("{PODS}default/other-name")).is_some_and(|text| text.contains("it holds"))
    });
}

#[test]
fn an_object_gives_a_published_pod_its_labels() {
    let etcd = start();
    let (one, two) = (Node::start(1, &etcd.settings()), Node::start(2, &etcd.settings()));
    let _ = (one.first(), two.first());
    let pod = one.pod("web", 5);
    one.store().publish_pods(vec![pod.clone()]);
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "namespace": "default", "labels": { "app": "shop" } },
        "status": { "podIP": "10.5.99.99" },
    });
    wait("as published", || endpoints(&two) == [format!("default/web {} web", pod.addrs[0])]);
    let request = Request::Apply { key: key(Kind::Pod, Some("default"), "web"), manifest, over: None };
    one.store().call(request, PATIENCE).unwrap();
    wait("labels of one, address of the other", || {
        endpoints(&two) == [format!("default/web {} shop", pod.addrs[0])]
    });
    one.store().publish_pods(Vec::new());
    wait("the object alone", || endpoints(&two) == ["default/web 10.5.99.99 shop"]);
}

#[test]
fn objects_are_applied_read_and_deleted() {
    let etcd = start();
    let node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let call = |request| node.store().call(request, PATIENCE);
    let name = key(Kind::NetworkPolicy, Some("a"), "p");
    let apply =
        |manifest: &Value, over| Request::Apply { key: name.clone(), manifest: manifest.clone(), over };
    let manifest = policy("p", &json!({ "podSelector": {} }));
    let Ok(Reply::Applied { revision }) = call(apply(&manifest, Some(0))) else { panic!("it is written") };
    assert_eq!(etcd.keys(OBJECTS), [format!("{OBJECTS}NetworkPolicy/a/p")]);
    node.wait("it is in force", |heard| heard.objects.keys().any(|key| *key == name));
    // Only over the version that was read.
    let wide = policy("p", &json!({ "podSelector": {}, "ingress": [{}] }));
    let conflict = call(apply(&wide, Some(0))).unwrap_err();
    assert!(
        matches!(&conflict, RequestError::Conflict { revision: at, .. } if *at == revision),
        "{conflict}"
    );
    assert_eq!(
        conflict.to_string(),
        format!("NetworkPolicy a/p is at revision {revision} by now: read it again")
    );
    let Ok(Reply::Applied { .. }) = call(apply(&wide, Some(revision))) else { panic!("it is written") };
    // What is not valid is not written.
    let wrong = policy("p", &json!({ "podSelectr": {} }));
    let err = call(apply(&wrong, None)).unwrap_err().to_string();
    assert!(err.contains("NetworkPolicy a/p: ") && err.contains("podSelectr"), "{err}");
    let err = call(apply(&policy("q", &json!({ "podSelector": {} })), None)).unwrap_err().to_string();
    assert_eq!(err, "NetworkPolicy a/p: it holds NetworkPolicy a/q");
    // Cluster-wide ones have their place too.
    let tier = json!({ "apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": { "name": "t" }, "spec": {} });
    call(Request::Apply { key: key(Kind::Tier, None, "t"), manifest: tier.clone(), over: None }).unwrap();
    let get = |kind, namespace: Option<&str>, name: Option<&str>| {
        let request =
            Request::Get { kind, namespace: namespace.map(str::to_owned), name: name.map(str::to_owned) };
        let Ok(Reply::Found(found)) = call(request) else { panic!("it is read") };
        found.into_iter().map(|found| found.manifest).collect::<Vec<_>>()
    };
    assert_eq!(get(Kind::Tier, None, None), [tier]);
    assert_eq!(get(Kind::NetworkPolicy, None, None), std::slice::from_ref(&wide));
    assert_eq!(get(Kind::NetworkPolicy, Some("a"), Some("p")), [wide]);
    assert_eq!(get(Kind::NetworkPolicy, Some("b"), None), [Value::Null; 0]);
    let delete = || call(Request::Delete { key: name.clone(), over: None });
    assert_eq!(delete().unwrap(), Reply::Deleted { existed: true });
    assert_eq!(delete().unwrap(), Reply::Deleted { existed: false });
    node.wait("it is gone", |heard| heard.objects.keys().all(|key| *key != name));
}

#[test]
fn a_broken_object_keeps_its_last_valid_version() {
    let etcd = start();
    let mut node = Node::start(1, &etcd.settings());
    let _ = node.first();
    let path = format!("{OBJECTS}NetworkPolicy/a/p");
    let good = policy("p", &json!({ "podSelector": {} })).to_string();
    etcd.put(&path, &good);
    node.wait("it is in force", |heard| heard.objects.keys().count() == 1);
    let rules = |node: &Node| {
        let none = NodeAddrs { name: "nobody".into(), addrs: Vec::new() };
        node.with(|heard| heard.objects.world(&[], &none).0.policies.len())
    };
    let twice = good.replacen("{", r#"{"kind":"NetworkPolicy","#, 1);
    for (text, problem) in [
        ("{", "its last valid version stays in force"),
        ("", "it is empty"),
        (&*good.replace("\"p\"", "\"q\""), "it holds NetworkPolicy a/q"),
        (&*twice, "its last valid version stays in force"),
        (&*format!("{good}\n---\n{good}"), "it holds 2 objects"),
    ] {
        etcd.put(&path, text);
        wait("it is told of", || node.problem(&path).is_some_and(|told| told.contains(problem)));
        assert_eq!(rules(&node), 1, "{text}");
    }
    // One that can be read and is not valid is the objects' own matter.
    etcd.put(&path, &good.replace("podSelector", "podSelectr"));
    node.wait("it is told of", |heard| {
        heard.objects.problems().iter().any(|p| p.to_string().contains("last valid"))
    });
    assert_eq!(rules(&node), 1);
    // Over a restart too.
    node.stop(false);
    node.resume();
    let _ = node.first();
    node.wait("still", |heard| heard.objects.problems().iter().any(|p| p.to_string().contains("last valid")));
    assert_eq!(rules(&node), 1);
    etcd.ctl(&["del", &path]);
    node.wait("only deleting it removes it", |heard| heard.objects.keys().next().is_none());
}
