use super::super::{Item, Object, Refused, read as read_text};
use super::*;

fn object(spec: &str) -> Result<Object, Refused> {
    let text = format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, \
         spec: {{{spec}}}}}"
    );
    let mut items = read_text(text.as_bytes()).unwrap();
    match items.remove(0) {
        Item::Known { object, .. } => object,
        other => panic!("{other:?}"),
    }
}

fn good(spec: &str) -> Arc<Policy> {
    match object(spec) {
        Ok(Object::Policy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stands_in_its_tier_with_its_actions() {
    let policy = good(
        "tier: Admin, priority: 7, subject: {namespaces: {}}, ingress: [
            {action: Accept, from: [{namespaces: {matchLabels: {a: b}}}], protocols: [{tcp: {destinationPort: {number: 80}}},
              {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {sctp: {}}, {destinationNamedPort: web}]},
            {name: rest, action: Deny, from: [{namespaces: {}}]},
            {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {}}}]}]",
    );
    assert_eq!(
        (&*policy.tier, policy.order, policy.egress.is_some()),
        (Tier::KUBE_ADMIN, Order(Some(7.0)), false)
    );
    assert!(!policy.spares_own_node);
    let rules = policy.ingress.as_ref().unwrap();
    let actions: Vec<_> = rules.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [RuleAction::Allow, RuleAction::Deny, RuleAction::Pass]);
    assert_eq!(rules[1].name.as_deref(), Some("rest"));
    let l4: Vec<_> = rules[0].l4.iter().flatten().map(|l4| (l4.proto, l4.dports.clone())).collect();
    assert_eq!(
        l4,
        [
            (Some(6), Some(vec![Ports::Range(80, 80)])),
            (Some(17), Some(vec![Ports::Range(1, 9)])),
            (Some(132), None),
            (None, Some(vec![Ports::Named("web".into())])),
        ]
    );
    assert_eq!(&*good("tier: Baseline, priority: 0, subject: {namespaces: {}}").tier, Tier::KUBE_BASELINE);
}

#[test]
fn unsupported_peers_fail_closed() {
    let policy = good(
        "tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [
            {action: Accept, to: [{networks: [10.0.0.0/8]}, {nodes: {}}]},
            {action: Accept, to: [{domainNames: ['*.example.com']}]},
            {action: Pass, to: [{nodes: {}}], protocols: [{tcp: {}}]},
            {action: Deny, to: [{networks: [10.0.0.0/8, 'fd00::/8']}]}]",
    );
    let rules = policy.egress.as_ref().unwrap();
    assert_eq!((rules[0].action, rules[0].destination.as_deref()), (RuleAction::Allow, Some(&[][..])));
    assert_eq!((rules[1].action, rules[1].destination.as_deref()), (RuleAction::Allow, Some(&[][..])));
    assert_eq!((rules[2].action, &rules[2].destination, &rules[2].l4), (RuleAction::Deny, &None, &None));
    assert_eq!(rules[3].destination.as_ref().unwrap()[0].nets.as_ref().unwrap().len(), 2);
}

#[test]
fn errors_name_the_field_and_the_subject_is_denied() {
    let head = "tier: Admin, priority: 0, subject: {namespaces: {}}";
    let rules = |n: usize| vec!["{action: Deny, to: [{networks: [10.0.0.0/8]}]}"; n].join(",");
    for (spec, path) in [
        (format!("{head}, egress: [{}]", rules(26)), "spec.egress:"),
        (
            format!("{head}, egress: [{{action: Allow, to: [{{networks: [10.0.0.0/8]}}]}}]"),
            "spec.egress[0].action:",
        ),
        (format!("{head}, egress: [{{action: Deny, to: []}}]"), "spec.egress[0].to:"),
        (format!("{head}, egress: [{{action: Deny, to: [{{}}]}}]"), "spec.egress[0].to[0]:"),
        (
            format!("{head}, egress: [{{action: Deny, to: [{{domainNames: [a.b]}}]}}]"),
            "spec.egress[0].to[0].domainNames:",
        ),
        (
            format!("{head}, ingress: [{{action: Deny, from: [{{networks: [10.0.0.0/8]}}]}}]"),
            "spec.ingress[0].from[0]",
        ),
        (
            format!(
                "{head}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: \
                 {{range: {{start: 9, end: 9}}}}}}}}]}}]"
            ),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range:",
        ),
        (
            format!(
                "{head}, ingress: [{{name: {}, action: Deny, from: [{{namespaces: {{}}}}]}}]",
                "n".repeat(101)
            ),
            "spec.ingress[0].name:",
        ),
        ("tier: Admin, priority: 1001, subject: {namespaces: {}}".to_owned(), "spec.priority:"),
    ] {
        let refused = object(&spec).unwrap_err();
        assert!(refused.errors[0].to_string().starts_with(path), "{spec}: {:?}", refused.errors);
        let deny = refused.deny.unwrap();
        assert_eq!(deny.ingress.as_ref().unwrap()[0].action, RuleAction::Deny);
        assert_eq!(deny.egress.as_ref().unwrap()[0].action, RuleAction::Deny);
    }
    assert_eq!(good(&format!("{head}, egress: [{}]", rules(25))).egress.as_ref().unwrap().len(), 25);
    for spec in ["tier: Top, priority: 0, subject: {namespaces: {}}", "tier: Admin, priority: 0, subject: {}"]
    {
        assert_eq!(object(spec).unwrap_err().deny, None);
    }
}
