//! Kubernetes' objects for simulated pods, as JSON.

// Callers write the values in place.
#![allow(clippy::needless_pass_by_value)]

use serde_json::{Value, json};

use super::host::Identity;

/// A pod's object: where it runs, its addresses, its labels (an object of strings).
#[must_use]
pub fn pod(namespace: &str, name: &str, node: &str, identity: &Identity, labels: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node},
        "status": {"podIPs": [{"ip": identity.v4.to_string()}, {"ip": identity.v6.to_string()}]},
    })
}

/// A namespace with labels.
#[must_use]
pub fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A NetworkPolicy of namespace `default`.
#[must_use]
pub fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A policy under which the pod labelled `app: APP` gets nothing but what `rules` (a list) let in.
#[must_use]
pub fn ingress(name: &str, app: &str, rules: Value) -> Value {
    policy(
        name,
        json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": rules}),
    )
}

/// A policy under which the pod labelled `app: APP` sends nothing but what `rules` (a list) let out.
#[must_use]
pub fn egress(name: &str, app: &str, rules: Value) -> Value {
    policy(
        name,
        json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"], "egress": rules}),
    )
}

/// A rule's `from` or `to` for pods labelled `app: APP`.
#[must_use]
pub fn app(app: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"app": app}}}])
}

/// A rule's `ports` with one port.
#[must_use]
pub fn port(protocol: &str, port: u16) -> Value {
    json!([{"protocol": protocol, "port": port}])
}
