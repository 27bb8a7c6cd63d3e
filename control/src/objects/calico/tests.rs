use policy::model::{Peer, Ports};

use super::super::{FieldError, Item, Refused, read as read_text};
use super::*;

fn object(kind: &str, metadata: &str, spec: &str) -> Result<Object, Refused> {
    let text = format!(
        "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}"
    );
    match read_text(text.as_bytes()).unwrap().remove(0) {
        Item::Known { object, .. } => object,
        other => panic!("{other:?}"),
    }
}

fn policy_of(kind: &str, spec: &str) -> Arc<Policy> {
    let metadata = if kind.contains("Global") { "name: p" } else { "name: p, namespace: x" };
    match object(kind, metadata, spec) {
        Ok(Object::Policy(policy)) => policy,
        other => panic!("{spec}: {other:?}"),
    }
}

fn error(kind: &str, spec: &str) -> String {
    let metadata =
        if kind.contains("Global") || !kind.contains("Policy") { "name: p" } else { "name: p, namespace: x" };
    let errors: Vec<FieldError> = object(kind, metadata, spec).unwrap_err().errors;
    errors[0].to_string()
}

/// The peers of the source of the first ingress rule.
fn source(kind: &str, entity: &str) -> Option<Vec<Peer>> {
    let policy = policy_of(kind, &format!("ingress: [{{action: Allow, source: {{{entity}}}}}]"));
    policy.ingress.as_ref().unwrap()[0].source.clone()
}

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

#[test]
fn defaults_are_calicos() {
    let directions = |spec: &str| {
        let policy = policy_of("NetworkPolicy", spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(directions(""), (true, false));
    assert_eq!(directions("egress: [{action: Allow}]"), (false, true));
    assert_eq!(directions("ingress: [{action: Allow}], egress: [{action: Allow}]"), (true, true));
    assert_eq!(directions("types: [Egress], ingress: [{action: Allow}]"), (false, true));
    let policy = policy_of("NetworkPolicy", "selector: a == 'b', serviceAccountSelector: r == 's'");
    assert_eq!(
        (&*policy.tier, policy.order, policy.id.to_string()),
        ("default", Order(None), "CalicoNetworkPolicy x/p".into())
    );
    assert_eq!(
        policy.subject,
        Selector::And(vec![in_namespace("x"), selector("a == 'b'"), selector("pcsa.r == 's'")])
    );
    let policy = policy_of("GlobalNetworkPolicy", "tier: t, order: 1.5, namespaceSelector: all()");
    assert_eq!((&*policy.tier, policy.order), ("t", Order(Some(1.5))));
    assert_eq!(policy.subject, Selector::And(vec![Selector::Has(selector::NAMESPACE.into())]));
    assert_eq!(policy_of("GlobalNetworkPolicy", "").subject, Selector::All);
}

#[test]
fn selectors_of_a_namespaced_policy_stay_in_its_namespace() {
    let selects = |kind, entity: &str| source(kind, entity).unwrap()[0].selector.clone();
    let (np, gnp) = ("NetworkPolicy", "GlobalNetworkPolicy");
    assert_eq!(source(np, ""), None);
    assert_eq!(source(np, "nets: [], ports: []"), None);
    assert_eq!(
        selects(np, "selector: has(a)"),
        Some(Selector::And(vec![in_namespace("x"), selector("has(a)")]))
    );
    assert_eq!(selects(gnp, "selector: has(a)"), Some(Selector::And(vec![selector("has(a)")])));
    assert_eq!(
        selects(np, "selector: has(a), namespaceSelector: n == 'v' || has(k)"),
        Some(Selector::And(vec![selector("pcns.n == 'v' || has(pcns.k)"), selector("has(a)")]))
    );
    assert_eq!(
        selects(np, "namespaceSelector: global()"),
        Some(Selector::And(vec![selector("!has(projectcalico.org/namespace)")]))
    );
    assert_eq!(
        selects(gnp, "serviceAccounts: {names: [sa], selector: has(r)}"),
        Some(Selector::And(vec![
            selector("projectcalico.org/serviceaccount in {'sa'}"),
            selector("has(pcsa.r)")
        ]))
    );
    let peer =
        source(gnp, "notSelector: has(a), nets: [10.0.0.0/8, 10.0.0.1], notNets: ['fd00::/8']").unwrap();
    assert_eq!((peer[0].selector.clone(), peer[0].not_selector.clone()), (None, Some(selector("has(a)"))));
    assert_eq!((peer[0].nets.as_ref().unwrap().len(), peer[0].not_nets.len()), (2, 1));
}

#[test]
fn a_rule_is_all_of_its_fields() {
    let policy = policy_of(
        "GlobalNetworkPolicy",
        "ingress: [{action: Log, protocol: tcp, ipVersion: 6, source: {ports: [1, '5:9', web]}, destination: {notPorts: [80]}},
          {action: Deny, protocol: ICMP, icmp: {type: 8, code: 0}, notICMP: {type: 3}}, {action: Pass, notProtocol: 17},
          {action: Allow}]",
    );
    let rules = policy.ingress.as_ref().unwrap();
    let l4 = &rules[0].l4.as_ref().unwrap()[0];
    assert_eq!((rules[0].action, rules[0].v6, l4.proto), (RuleAction::Log, Some(true), Some(6)));
    assert_eq!(
        l4.sports.as_deref(),
        Some(&[Ports::Range(1, 1), Ports::Range(5, 9), Ports::Named("web".into())][..])
    );
    assert_eq!((l4.not_dports.as_slice(), &l4.dports), (&[Ports::Range(80, 80)][..], &None));
    let l4 = &rules[1].l4.as_ref().unwrap()[0];
    assert_eq!((l4.icmp, l4.not_icmp), (Some((8, Some(0))), Some((3, None))));
    assert_eq!(rules[2].l4.as_ref().unwrap()[0].not_proto, Some(17));
    assert_eq!((rules[3].action, &rules[3].l4), (RuleAction::Allow, &None));
}

#[test]
fn what_cannot_be_looked_at_fails_closed() {
    let policy = policy_of(
        "NetworkPolicy",
        "egress: [{action: Allow, destination: {services: {name: s}}}, {action: Deny, destination: {services: {name: s}}},
          {action: Allow, http: {methods: [GET]}}]",
    );
    let rules = policy.egress.as_ref().unwrap();
    let nowhere: Option<Vec<Peer>> = Some(Vec::new());
    assert_eq!((rules[0].action, &rules[0].source), (RuleAction::Allow, &nowhere));
    assert_eq!((rules[1].action, &rules[1].source, &rules[1].destination), (RuleAction::Deny, &None, &None));
    assert_eq!((rules[2].action, &rules[2].source), (RuleAction::Allow, &nowhere));
}

#[test]
fn staged_policies_are_never_enforced() {
    let policy = policy_of("StagedNetworkPolicy", "stagedAction: Set");
    assert!(policy.staged && !policy.staged_delete);
    assert!(policy_of("StagedGlobalNetworkPolicy", "stagedAction: Delete").staged_delete);
    let policy = policy_of("StagedKubernetesNetworkPolicy", "podSelector: {}, ingress: [{}]");
    assert!(policy.staged && policy.id.kind == PolicyKind::StagedKubernetesNetworkPolicy);
    for action in ["Learn", "Ignore"] {
        let object = object("StagedNetworkPolicy", "name: p", &format!("stagedAction: {action}"));
        assert_eq!(object, Ok(Object::Inert));
    }
    let refused = object("StagedNetworkPolicy", "name: p", "stagedAction: Some").unwrap_err();
    assert_eq!(refused.deny, None);
    let refused = object("StagedKubernetesNetworkPolicy", "name: p", "ingress: [{from: [{}]}]").unwrap_err();
    assert_eq!(refused.deny, None);
}

#[test]
fn errors_name_the_field() {
    let (np, gnp) = ("NetworkPolicy", "GlobalNetworkPolicy");
    for (kind, spec, path) in [
        (np, "namespaceSelector: all()", "spec.namespaceSelector: "),
        (np, "stagedAction: Set", "spec.stagedAction: "),
        (np, "selector: 'a =='", "spec.selector: "),
        (np, "selector: global()", "spec.selector: "),
        (np, "types: [Ingress, Ingress]", "spec.types: "),
        (np, "podSelector: {}", "spec"),
        (np, "ingress: [{action: allow}]", "spec.ingress[0].action: "),
        (np, "ingress: [{action: Allow, ipVersion: 5}]", "spec.ingress[0].ipVersion: "),
        (np, "ingress: [{action: Allow, protocol: 256}]", "spec.ingress[0].protocol: "),
        (np, "ingress: [{action: Allow, protocol: GRE}]", "spec.ingress[0].protocol: "),
        (np, "ingress: [{action: Allow, destination: {ports: [80]}}]", "spec.ingress[0].protocol: "),
        (np, "ingress: [{action: Allow, icmp: {type: 8}}]", "spec.ingress[0].icmp: "),
        (np, "ingress: [{action: Allow, protocol: ICMP, icmp: {type: 255}}]", "spec.ingress[0].icmp.type: "),
        (np, "ingress: [{action: Allow, protocol: ICMP, icmp: {code: 1}}]", "spec.ingress[0].icmp.code: "),
        (np, "ingress: [{action: Allow, protocol: ICMP, ipVersion: 6}]", "spec.ingress[0].protocol: "),
        (np, "ingress: [{action: Deny, http: {}}]", "spec.ingress[0].http: "),
        (
            np,
            "egress: [{action: Allow, protocol: TCP, destination: {ports: ['9:1']}}]",
            "spec.egress[0].destination.ports[0]: ",
        ),
        (
            np,
            "egress: [{action: Allow, protocol: TCP, destination: {ports: [0]}}]",
            "spec.egress[0].destination.ports[0]: ",
        ),
        (
            np,
            "egress: [{action: Allow, protocol: TCP, destination: {ports: ['a b']}}]",
            "spec.egress[0].destination.ports[0]: ",
        ),
        (
            np,
            "egress: [{action: Allow, destination: {nets: [10.0.0.0/33]}}]",
            "spec.egress[0].destination.nets[0]: ",
        ),
        (
            np,
            "egress: [{action: Allow, destination: {services: {name: s}, selector: all()}}]",
            "spec.egress[0].destination.services: ",
        ),
        (gnp, "doNotTrack: true", "spec.applyOnForward: "),
        (gnp, "preDNAT: true, applyOnForward: true, egress: [{action: Allow}]", "spec.preDNAT: "),
        (gnp, "preDNAT: true, applyOnForward: true, doNotTrack: true", "spec.preDNAT: "),
        (gnp, "performanceHints: [Fast]", "spec.performanceHints[0]: "),
        ("Tier", "defaultAction: Allow", "spec.defaultAction: "),
        ("HostEndpoint", "node: n", "spec: "),
        ("HostEndpoint", "node: n, expectedIPs: [x]", "spec.expectedIPs[0]: "),
        ("GlobalNetworkSet", "nets: [x]", "spec.nets[0]: "),
    ] {
        let error = error(kind, spec);
        assert!(error.starts_with(path), "{kind} {spec}: {error}");
    }
    let many = vec!["{action: Allow}"; MAX_RULES + 1].join(",");
    assert!(error(np, &format!("ingress: [{many}]")).starts_with("spec.ingress: "));
    let nets = vec!["10.0.0.0/8"; 257].join(",");
    let spec = format!("ingress: [{{action: Allow, source: {{nets: [{nets}]}}}}]");
    assert!(error(np, &spec).starts_with("spec.ingress[0].source.nets: "));
}

#[test]
fn an_invalid_policy_denies_pods_it_selects() {
    let refused = object(
        "GlobalNetworkPolicy",
        "name: p",
        "order: 3, selector: has(a), types: [Egress], egress: [{action: X}]",
    );
    let deny = refused.unwrap_err().deny.unwrap();
    assert_eq!((deny.ingress.is_some(), deny.egress.as_ref().unwrap()[0].action), (false, RuleAction::Deny));
    assert_eq!((deny.order, deny.spares_own_node), (Order(Some(3.0)), true));
    assert_eq!(deny.subject, Selector::And(vec![is_pod(), Selector::And(vec![selector("has(a)")])]));
    assert_eq!(object("GlobalNetworkPolicy", "name: p", "selector: '(('").unwrap_err().deny, None);
    assert_eq!(object("GlobalNetworkPolicy", "name: p", "selector: 7").unwrap_err().deny, None);
}

#[test]
fn tiers_and_host_endpoints() {
    let Ok(Object::Tier(tier)) = object("Tier", "name: t", "order: 5, defaultAction: Pass") else { panic!() };
    assert_eq!((tier.order, tier.end), (Order(Some(5.0)), policy::model::TierEnd::Pass));
    assert!(object("Tier", "name: default", "order: 1000000").is_ok());
    assert!(object("Tier", "name: default", "order: 5").is_err());
    let Ok(Object::Host(host)) = object(
        "HostEndpoint",
        "name: h, labels: {a: b}",
        "node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1], profiles: [projectcalico-default-allow], \
         ports: [{name: ssh, protocol: TCP, port: 22}]",
    ) else {
        panic!()
    };
    assert_eq!((host.interface.as_deref(), host.addrs.len(), host.ports[0].number), (Some("eth0"), 1, 22));
    assert!(host.default_allow);
}
