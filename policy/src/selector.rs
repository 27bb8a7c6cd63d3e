//! Labels and the expressions that select by them.
//!
//! An endpoint's labels are **flattened** into one map before anything is selected, so that one expression language
//! serves Kubernetes' and Calico's selectors:
//!
//! | key | value |
//! |---|---|
//! | `K` | the pod's own label, unless the key is one of those below: what a pod says about itself can never pass for what its namespace object says |
//! | `projectcalico.org/namespace` | the namespace (absent for host endpoints and global network sets) |
//! | `projectcalico.org/orchestrator` | `k8s`, for pods |
//! | `projectcalico.org/serviceaccount` | the pod's service account |
//! | `pcns.K` | label `K` of the namespace object (`kubernetes.io/metadata.name` always there) |
//! | `pcsa.K` | label `K` of the service account object |
//!
//! A Kubernetes `namespaceSelector` therefore selects on `pcns.…`, and "the policy's own namespace" is
//! `projectcalico.org/namespace == '…'`.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use parse::ParseError;

mod parse;

/// The key that holds an endpoint's namespace.
pub const NAMESPACE: &str = "projectcalico.org/namespace";
/// The key that holds `k8s` for pods.
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// The key that holds the service account.
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Prefix of labels of the namespace object.
pub const OF_NAMESPACE: &str = "pcns.";
/// Prefix of labels of the service account object.
pub const OF_SERVICE_ACCOUNT: &str = "pcsa.";

/// A flattened label map, shared and compared by content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Labels(pub Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|v| &**v)
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Labels(Arc::new(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}

/// An expression over flattened labels (the grammar is Calico's; Kubernetes' operators are a subset).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// `all()`: everything with labels, even none.
    All,
    /// `has(K)`.
    Has(Arc<str>),
    /// `K == 'V'`.
    Eq(Arc<str>, Arc<str>),
    /// `K != 'V'`: also where the key is absent.
    Ne(Arc<str>, Arc<str>),
    /// `K in {…}`.
    In(Arc<str>, Vec<Arc<str>>),
    /// `K not in {…}`: also where the key is absent.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// `K contains 'V'`.
    Contains(Arc<str>, Arc<str>),
    /// `K starts with 'V'`.
    StartsWith(Arc<str>, Arc<str>),
    /// `K ends with 'V'`.
    EndsWith(Arc<str>, Arc<str>),
    /// `!E`.
    Not(Box<Selector>),
    /// `E && …`; empty = true.
    And(Vec<Selector>),
    /// `E || …`; empty = false.
    Or(Vec<Selector>),
}

impl Selector {
    /// Does it select something with these labels?
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::All => true,
            Selector::Has(k) => labels.get(k).is_some(),
            Selector::Eq(k, v) => labels.get(k) == Some(v),
            Selector::Ne(k, v) => labels.get(k) != Some(v),
            Selector::In(k, vs) => labels.get(k).is_some_and(|have| vs.iter().any(|v| **v == *have)),
            Selector::NotIn(k, vs) => !labels.get(k).is_some_and(|have| vs.iter().any(|v| **v == *have)),
            Selector::Contains(k, v) => labels.get(k).is_some_and(|have| have.contains(&**v)),
            Selector::StartsWith(k, v) => labels.get(k).is_some_and(|have| have.starts_with(&**v)),
            Selector::EndsWith(k, v) => labels.get(k).is_some_and(|have| have.ends_with(&**v)),
            Selector::Not(e) => !e.matches(labels),
            Selector::And(es) => es.iter().all(|e| e.matches(labels)),
            Selector::Or(es) => es.iter().any(|e| e.matches(labels)),
        }
    }
}
