use proptest::prelude::*;

use super::*;

fn pod(name: &str, addr: &str) -> PublishedPod {
    let labels = [("app".to_owned(), name.to_owned())].into();
    PublishedPod {
        namespace: "a".to_owned(),
        name: name.to_owned(),
        labels,
        addrs: vec![addr.parse().unwrap()],
    }
}

fn kv(name: &str, value: &str, revision: i64) -> KeyValue {
    let (key, value) = (format!("/vs/pods/{name}").into_bytes(), value.as_bytes().to_vec());
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 5 }
}

fn peer(end: &str, net: &str) -> Arc<Peer> {
    Arc::new(Peer {
        name: end.to_owned(),
        address: Some(end.parse().unwrap()),
        address6: None,
        pod_cidrs: vec![net.parse().unwrap()],
        vtep_mac: None,
        backend: None,
        cross_subnet: None,
    })
}

fn told(pods: &PodKeys) -> String {
    let mut problems = BTreeMap::new();
    pods.notes.collect("", &mut problems);
    problems.into_iter().map(|(key, problem)| format!("{key}: {problem}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_claim_counts_while_its_node_has_the_subnet() {
    let mut pods = PodKeys::new("/vs");
    let host: IpAddr = "192.168.1.1".parse().unwrap();
    let key = pods.put(&kv("a/web", &pod("web", "10.5.1.7").encode("n1", &[host]), 2)).unwrap();
    assert_eq!(pods.valid(&key, "me"), None);
    assert_eq!(told(&pods), "a/web: node n1 has no lease for address 10.5.1.7; the pod does not count");
    // The lease comes after it, and is what makes it count.
    let touched = pods.own(&[peer("192.168.1.1", "10.5.1.0/24"), peer("192.168.1.2", "10.5.2.0/24")], &[]);
    assert_eq!(touched, [key.clone()].into());
    let source = pods.valid(&key, "me").unwrap();
    assert_eq!(source["metadata"]["labels"]["app"], "web");
    assert_eq!(told(&pods), "");
    // Our own are known here anyway.
    assert_eq!(pods.valid(&key, "n1"), None);
    // Another node's claim to it, and the subnet in other hands.
    let liar: IpAddr = "192.168.1.2".parse().unwrap();
    pods.put(&kv("a/web", &pod("web", "10.5.1.7").encode("n2", &[liar]), 3));
    assert_eq!(pods.valid(&key, "me"), None);
    let touched = pods.own(&[peer("192.168.1.2", "10.5.1.0/24")], &[]);
    assert_eq!(touched, [key.clone()].into());
    assert!(pods.valid(&key, "me").is_some());
    assert_eq!(pods.own(&[peer("192.168.1.2", "10.5.1.0/24")], &[]), BTreeSet::new());
    pods.delete(b"/vs/pods/a/web");
    assert_eq!(pods.own(&[], &[]), BTreeSet::new());
}

#[test]
fn what_is_no_such_pod_is_told_of() {
    let mut pods = PodKeys::new("/vs");
    let text = pod("web", "10.5.1.7").encode("n1", &[]);
    for (name, value, problem) in [
        ("a/other", &*text, "a/other: it holds Pod a/web"),
        ("a/web", "{", "a/web: "),
        ("a/web", "", "a/web: it is empty"),
        ("a/web", &*text.replace("10.5.1.7", "10.5.1.700"), "a/web: status.podIPs[0].ip: "),
        ("a/web", &*"x".repeat(MOST_TEXT + 1), "a/web: 65537 bytes: at most 65536 are read"),
    ] {
        let key = pods.put(&kv(name, value, 2)).unwrap();
        assert!(told(&pods).starts_with(problem), "{}", told(&pods));
        assert_eq!(pods.valid(&key, "me"), None);
        pods.delete(format!("/vs/pods/{name}").as_bytes());
        assert_eq!(told(&pods), "");
    }
    assert_eq!(pods.put(&kv("a/b/c", &text, 2)), None);
    assert!(told(&pods).contains("1 keys mean nothing here"));
}

#[test]
fn labels_of_the_object_addresses_of_the_node() {
    let object = json!({ "kind": "Pod", "metadata": { "labels": { "app": "shop" } }, "spec": { "nodeName": "old", "serviceAccountName": "s" },
        "status": { "podIP": "10.9.9.9", "phase": "Running" } });
    let published: Value = serde_json::from_str(&pod("web", "10.5.1.7").encode("n1", &[])).unwrap();
    let merged = merged(&object, &published);
    assert_eq!(merged["metadata"]["labels"]["app"], "shop");
    assert_eq!(merged["spec"], json!({ "nodeName": "n1", "serviceAccountName": "s" }));
    assert_eq!(merged["status"]["podIP"], "10.5.1.7");
    assert_eq!(merged["status"]["phase"], "Running");
    assert_eq!(super::merged(&json!({ "spec": 5 }), &published)["spec"]["nodeName"], "n1");
    assert_eq!(super::merged(&json!(null), &published), published);
}

proptest! {
    #[test]
    fn any_keys_and_values_are_taken(
        pairs in proptest::collection::vec(("\\PC{0,9}|a/web", "\\PC{0,30}", 0_u8..4), 0..30)
    ) {
        let mut pods = PodKeys::new("/vs");
        for (name, value, what) in pairs {
            let kv = kv(&name, &value, 2);
            match what {
                0 => pods.listing(),
                1 => drop(pods.listed(3)),
                2 => drop(pods.delete(&kv.key)),
                _ => drop(pods.put(&kv)),
            }
            let keys: Vec<Key> = pods.entries.keys().cloned().collect();
            keys.iter().for_each(|key| drop(pods.valid(key, "me")));
        }
    }
}
