use policy::model::Ports;
use proptest::prelude::*;

use super::*;

fn item(text: &str) -> Item {
    let mut items = read(text.as_bytes()).unwrap();
    assert_eq!(items.len(), 1, "{text}");
    items.remove(0)
}

fn good(text: &str) -> Object {
    match item(text) {
        Item::Known { object: Ok(object), .. } => object,
        other => panic!("{text}\n{other:?}"),
    }
}

fn refused(text: &str) -> Refused {
    match item(text) {
        Item::Known { object: Err(refused), .. } => refused,
        other => panic!("{text}\n{other:?}"),
    }
}

/// The errors of an object, as they are shown.
fn errors(text: &str) -> Vec<String> {
    refused(text).errors.iter().map(ToString::to_string).collect()
}

fn policy(text: &str) -> Arc<Policy> {
    match good(text) {
        Object::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn netpol(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: x}}, spec: {spec}}}"
    )
}

#[test]
fn a_policy_defaults_as_the_api_does() {
    let p = policy(&netpol("{}"));
    assert_eq!((p.ingress.as_deref(), p.egress.as_deref()), (Some(&[][..]), None));
    let p = policy(&netpol("{podSelector: {}, egress: []}"));
    assert_eq!((p.ingress.is_some(), p.egress.is_some()), (true, false));
    let p = policy(&netpol("{podSelector: {}, egress: [{}]}"));
    assert_eq!((p.ingress.is_some(), p.egress.is_some()), (true, true));
    let p = policy(&netpol("{policyTypes: [Egress], ingress: [{}]}"));
    assert_eq!((p.ingress.as_deref(), p.egress.as_deref()), (None, Some(&[][..])));
    let p = policy(&netpol(
        "{ingress: [{ports: [{port: 80}, {protocol: UDP, port: web}, {port: 1, endPort: 9}]}]}",
    ));
    let l4 = p.ingress.as_ref().unwrap()[0].l4.clone().unwrap();
    let seen: Vec<_> = l4.iter().map(|l4| (l4.proto, l4.dports.clone().unwrap())).collect();
    assert_eq!(
        seen,
        [
            (Some(6), vec![Ports::Range(80, 80)]),
            (Some(17), vec![Ports::Named("web".into())]),
            (Some(6), vec![Ports::Range(1, 9)])
        ]
    );
    let p = policy("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {}}");
    assert_eq!(p.id.to_string(), "NetworkPolicy default/p");
}

#[test]
fn errors_name_the_field() {
    for (spec, error) in [
        (
            "{ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.0/24, except: [10.1.0.0/24]}}]}]}",
            "spec.ingress[0].from[1].ipBlock.except[0]: 10.1.0.0/24 is not inside 10.0.0.0/24",
        ),
        (
            "{egress: [{to: [{}]}]}",
            "spec.egress[0].to[0]: must have one of podSelector, namespaceSelector, ipBlock",
        ),
        ("{egress: [{ports: [{port: 70000}]}]}", "spec.egress[0].ports[0].port: 70000 is not in 1..=65535"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]}",
            "spec.ingress[0].from[0].ipBlock.cidr: \"::ffff:10.0.0.0/104\" is not a valid CIDR prefix such as \
             10.0.0.0/8 or fd00::/64",
        ),
        (
            "{podSelector: {matchLabels: {pcns.team: a}}}",
            "spec.podSelector.matchLabels: \"pcns.team\" is reserved: a pod cannot be selected by a label with this key",
        ),
        (
            "{podSelector: {matchLabels: {a: 'b c'}}}",
            "spec.podSelector.matchLabels.a: \"b c\" is not a valid label value",
        ),
    ] {
        assert_eq!(errors(&netpol(spec)), [error]);
    }
    for (spec, path, word) in [
        ("{podselector: {}}", "spec", "podselector"),
        ("{ingress: [{form: []}]}", "spec.ingress[0]", "form"),
        ("{ingress: [null]}", "spec.ingress[0]", "null"),
        ("{ingress: [{from: {podSelector: {}}}]}", "spec.ingress[0].from", "sequence"),
        ("{ingress: [{ports: [{port: 1.5}]}]}", "spec.ingress[0].ports[0].port", "1.5"),
        ("{podSelector: {matchLabels: {a: 1}}}", "spec.podSelector.matchLabels.a", "string"),
        ("{podSelector: {matchLabels: {a: null}}}", "spec.podSelector.matchLabels.a", "null"),
    ] {
        let errors = errors(&netpol(spec));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with(path) && errors[0].contains(word), "{errors:?}");
    }
}

#[test]
fn an_invalid_policy_still_says_whom_to_isolate() {
    let directions = |spec: &str| {
        let deny = refused(&netpol(spec)).deny?;
        assert!(deny.ingress.iter().chain(&deny.egress).all(Vec::is_empty));
        Some((deny.ingress.is_some(), deny.egress.is_some()))
    };
    assert_eq!(directions("{ingress: [{from: [{}]}]}"), Some((true, false)));
    assert_eq!(directions("{egress: [{to: [{}]}]}"), Some((true, true)));
    assert_eq!(directions("{policyTypes: [Egress], egress: [{to: [{}]}]}"), Some((false, true)));
    assert_eq!(directions("{policyTypes: [Egres]}"), Some((true, true)));
    assert_eq!(directions("{policyTypes: 7}"), Some((true, true)));
    assert_eq!(directions("{podSelector: {matchLabels: {'a b': c}}}"), None);
    assert_eq!(directions("{podSelector: all}"), None);
}

#[test]
fn a_pod_is_its_labels_addresses_and_ports() {
    let Object::Pod(pod) = good(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: web}, annotations: {any: thing}},
          spec: {nodeName: n1, serviceAccountName: sa, tolerations: [{key: any}], containers: [
             {name: c, image: i, ports: [{name: http, containerPort: 80}, {containerPort: 81}]}],
             initContainers: [{name: once, ports: [{name: past, containerPort: 1}]},
                {name: side, restartPolicy: Always, ports: [{name: dns, containerPort: 53, protocol: UDP}]}]},
          status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}",
    ) else {
        panic!()
    };
    assert_eq!(pod.addrs, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    let ports: Vec<_> = pod.ports.iter().map(|p| (&*p.name, p.proto, p.number)).collect();
    assert_eq!(ports, [("http", 6, 80), ("dns", 17, 53)]);
    assert_eq!((pod.node.as_deref(), &*pod.service_account), (Some("n1"), "sa"));
    assert!(!pod.host_network && !pod.ended);
    assert_eq!(
        errors("{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: '::ffff:1.2.3.4'}}"),
        ["status.podIP: \"::ffff:1.2.3.4\" is not a valid IP address"]
    );
}

#[test]
fn lists_are_taken_apart() {
    let keys = |text: &str| -> Vec<String> {
        let items = read(text.as_bytes()).unwrap();
        let key = |item| match item {
            Item::Known { key, .. } => key.to_string(),
            Item::Unknown { what, error } => format!("{what}: {error}"),
        };
        items.into_iter().map(key).collect()
    };
    assert_eq!(
        keys(
            "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]}\n---\n\
              {apiVersion: v1, kind: PodList, items: [{metadata: {name: b}}, 7]}\n"
        ),
        ["Namespace a", "Pod default/b", "object (no name): apiVersion: is required"]
    );
    assert_eq!(
        keys("{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}"),
        ["Deployment d: Deployment of apps/v1 is not a kind that is read here"]
    );
    for (metadata, error) in [
        ("{}", "metadata.name: is required"),
        ("{name: A}", "metadata.name: \"A\" is not a valid name"),
        ("{name: 7}", "metadata.name: invalid type: expected a string"),
        ("{name: a, namespace: a.b}", "metadata.namespace: \"a.b\" is not a valid namespace name"),
    ] {
        let got = keys(&format!("{{apiVersion: v1, kind: Pod, metadata: {metadata}}}"));
        assert!(got[0].ends_with(error), "{got:?}");
    }
    assert!(keys("7")[0].contains("required"));
}

#[test]
fn every_invalid_policy_of_the_cases_is_refused_and_every_valid_one_is_not() {
    let text = include_str!("../../../tests/data/netpol-cases.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    let invalid = cases["invalid_policies"].as_array().unwrap();
    assert!(!invalid.is_empty());
    for policy in invalid {
        let mut items = Vec::new();
        read_value(policy["policy"].clone(), &mut items);
        let refused =
            matches!(&items[..], [Item::Known { object: Err(refused), .. }] if !refused.errors.is_empty());
        assert!(refused, "{}: {items:?}", policy["name"]);
    }
    let mut seen = 0;
    for case in cases["cases"].as_array().unwrap() {
        let steps = case["steps"].as_array().into_iter().flatten();
        for policy in
            std::iter::once(case).chain(steps).flat_map(|state| state["policies"].as_array().unwrap())
        {
            let mut items = Vec::new();
            // As text, so that what the cases hold also goes through the reader.
            for document in yaml::documents(policy.to_string().as_bytes()).unwrap() {
                assert_eq!(document, *policy);
                read_value(document, &mut items);
            }
            assert!(matches!(&items[..], [Item::Known { object: Ok(_), .. }]), "{}: {items:?}", case["name"]);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

proptest! {
    /// Pieces of manifests in any order, and any text at all: read or refused, never a panic.
    #[test]
    fn no_text_is_too_odd(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "apiVersion: ", "networking.k8s.io/v1", "projectcalico.org/v3", "kind: ", "NetworkPolicy", "spec:", "\n",
                "  ", "- ", "{", "}", "[", "]", ", ", ": ", "&a ", "*a", "? ", "| ", "> ", "'", "\"", "---\n", "...\n",
                "!!str ", "%YAML 1.2\n", "# ", "\t", "<<", "~", "0x1", "ingress", "from", "metadata: {name: a}", "\u{85}",
                "\u{feff}", "\r",
            ]),
            0..40,
        ),
        any in ".{0,40}",
    ) {
        let _ = read(pieces.concat().as_bytes());
        let _ = read(any.as_bytes());
        let _ = read((pieces.concat() + &any).as_bytes());
    }

    /// Whatever stands in a policy's fields, it is accepted whole or refused with a reason.
    #[test]
    fn no_field_is_too_odd(at in 0..6_usize, odd in prop::sample::select(vec![
        "null", "7", "-1", "1e300", "[]", "{}", "[null]", "[[]]", "[{}]", "''", "[7]", "true", "{a: b}", "[{a: b}]",
        "99999999999999999999", "all()",
    ])) {
        let field = ["podSelector", "policyTypes", "ingress", "egress", "selector", "order"][at];
        for (api, kind) in [
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("projectcalico.org/v3", "NetworkPolicy"),
            ("projectcalico.org/v3", "StagedKubernetesNetworkPolicy"),
        ] {
            let text = format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: p}}, spec: {{{field}: {odd}}}}}");
            let Item::Known { object, .. } = item(&text) else { panic!("{text}") };
            prop_assert!(object.is_ok() || object.is_err_and(|refused| !refused.errors.is_empty()));
        }
    }
}

#[test]
fn kinds_are_found_by_any_of_their_names() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.as_str()), Some(kind));
    }
    for (text, kind) in [
        ("networkpolicies", Kind::NetworkPolicy),
        ("netpol", Kind::NetworkPolicy),
        ("PODS", Kind::Pod),
        ("ns", Kind::Namespace),
        ("globalnetworkpolicies", Kind::GlobalNetworkPolicy),
    ] {
        assert_eq!(Kind::named(text), Some(kind), "{text}");
    }
    assert_eq!(Kind::named("deployments"), None);
}
