//! Kubernetes' label selectors, made into expressions over flattened labels.

use std::sync::Arc;

use policy::selector::{self, Selector};
use serde::Deserialize;

use super::field::{At, Errors, Reason};
use super::labels::is_reserved;
use super::meta::{LabelMap, check_label_key, check_label_value};

/// `metav1.LabelSelector`. Empty selects everything.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LabelSelector {
    match_labels: Option<LabelMap>,
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

/// Whose labels a selector is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The pod's own.
    Pod,
    /// Its namespace's.
    Namespace,
}

impl Of {
    fn key(self, key: &str, at: &At<'_>, errors: &mut Errors) -> Arc<str> {
        match self {
            Of::Namespace => format!("{}{key}", selector::OF_NAMESPACE).into(),
            Of::Pod => {
                if is_reserved(key) {
                    errors.add(at, Reason::Reserved { key: key.to_owned() });
                }
                key.into()
            }
        }
    }
}

impl LabelSelector {
    /// The conditions, all of which must hold; none = everything.
    pub(super) fn conditions(&self, of: Of, at: &At<'_>, errors: &mut Errors) -> Vec<Selector> {
        let mut all = Vec::new();
        let labels = at.key("matchLabels");
        for (key, value) in self.match_labels.iter().flatten() {
            check_label_key(key, &labels, errors);
            check_label_value(value, &labels.key(key), errors);
            all.push(Selector::Eq(of.key(key, &labels, errors), value.as_str().into()));
        }
        let expressions = at.key("matchExpressions");
        for (i, requirement) in self.match_expressions.iter().flatten().enumerate() {
            all.extend(requirement.condition(of, &expressions.index(i), errors));
        }
        all
    }
}

impl Requirement {
    fn condition(&self, of: Of, at: &At<'_>, errors: &mut Errors) -> Option<Selector> {
        let at_key = at.key("key");
        check_label_key(&self.key, &at_key, errors);
        let key = of.key(&self.key, &at_key, errors);
        let at_values = at.key("values");
        let values = self.values.as_deref().unwrap_or_default();
        for (i, value) in values.iter().enumerate() {
            check_label_value(value, &at_values.index(i), errors);
        }
        let set = || values.iter().map(|v| Arc::from(v.as_str())).collect();
        let takes_values = match self.operator.as_str() {
            "In" | "NotIn" => true,
            "Exists" | "DoesNotExist" => false,
            other => {
                let allowed = "In, NotIn, Exists, DoesNotExist";
                errors.add(&at.key("operator"), Reason::Choice { value: other.to_owned(), allowed });
                return None;
            }
        };
        if takes_values && values.is_empty() {
            errors.add(&at_values, Reason::Empty);
        } else if !takes_values && !values.is_empty() {
            errors.add(&at_values, Reason::Conflict("must be empty with Exists and DoesNotExist"));
        }
        Some(match self.operator.as_str() {
            "In" => Selector::In(key, set()),
            "NotIn" => Selector::NotIn(key, set()),
            "Exists" => Selector::Has(key),
            _ => Selector::Not(Box::new(Selector::Has(key))),
        })
    }
}

/// Pods, and nothing else that has labels.
pub(super) fn is_pod() -> Selector {
    Selector::Eq(selector::ORCHESTRATOR.into(), "k8s".into())
}

/// Things of this namespace.
pub(super) fn in_namespace(namespace: &str) -> Selector {
    Selector::Eq(selector::NAMESPACE.into(), namespace.into())
}
