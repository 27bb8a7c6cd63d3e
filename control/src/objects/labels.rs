//! Flattened labels: what an endpoint or a set is to selectors ([`policy::selector`] has the table).

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::selector::{self, Labels};

use super::meta::LabelMap;

/// The label that names a namespace.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// Calico's name label, which its namespaces and service accounts have.
const NAME: &str = "projectcalico.org/name";

/// A key that an object cannot give itself: there, it means what someone else said.
pub(crate) fn is_reserved(key: &str) -> bool {
    matches!(key, selector::NAMESPACE | selector::ORCHESTRATOR | selector::SERVICE_ACCOUNT | NAME)
        || key.starts_with(selector::OF_NAMESPACE)
        || key.starts_with(selector::OF_SERVICE_ACCOUNT)
}

/// A label map under construction.
pub(crate) struct Flat(BTreeMap<Arc<str>, Arc<str>>);

impl Flat {
    /// An object's own labels, without those it cannot give itself.
    pub(crate) fn own(labels: &LabelMap) -> Flat {
        let own = labels.iter().filter(|(key, _)| !is_reserved(key));
        Flat(own.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
    }

    fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.into(), value.into());
    }

    /// In a namespace, whose object may be missing.
    pub(crate) fn in_namespace(mut self, name: &str, labels: Option<&LabelMap>) -> Flat {
        self.set(selector::NAMESPACE, name);
        self.of(selector::OF_NAMESPACE, name, labels);
        // The API server keeps this label what it is; a file cannot say otherwise either.
        self.set(&format!("{}{METADATA_NAME}", selector::OF_NAMESPACE), name);
        self
    }

    /// A pod.
    pub(crate) fn pod(mut self) -> Flat {
        self.set(selector::ORCHESTRATOR, "k8s");
        self
    }

    /// Running as a service account, whose object may be missing.
    pub(crate) fn run_as(mut self, service_account: &str, labels: Option<&LabelMap>) -> Flat {
        // As Calico has it: a longer name is no label value.
        if service_account.len() < 63 {
            self.set(selector::SERVICE_ACCOUNT, service_account);
        }
        self.of(selector::OF_SERVICE_ACCOUNT, service_account, labels);
        self
    }

    fn of(&mut self, prefix: &str, name: &str, labels: Option<&LabelMap>) {
        for (key, value) in labels.into_iter().flatten() {
            self.set(&format!("{prefix}{key}"), value);
        }
        self.set(&format!("{prefix}{NAME}"), name);
    }

    pub(crate) fn done(self) -> Labels {
        Labels(Arc::new(self.0))
    }
}
