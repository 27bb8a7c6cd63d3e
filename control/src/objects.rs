//! Objects as people write them (Kubernetes' and Calico's, YAML or JSON), made into what the rest works with.
//!
//! Three steps, each total: text → plain values ([`yaml`], bounded), value → serde struct of its kind (unknown fields
//! are errors), struct → checked working form. A policy's working form is [`policy::model::Policy`] itself: nothing
//! after this module sees a field of the API again. The checks are those of the API server, since behind a directory
//! of files there is none: limits, syntax, defaults.
//!
//! Of Namespace, ServiceAccount, Pod and Node only the fields that matter here are read and the others are skipped;
//! of the kinds that decide about packets every field is known, and any other is an error.
//!
//! Pure; on the control thread; no I/O.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use policy::model::{Policy, PolicyKind, Tier};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::calico::host::HostEndpoint;
pub use self::calico::pool::{IpPool, PoolMode};
pub use self::calico::set::NetworkSet;
pub use self::core::{Namespace, Node, Pod, ServiceAccount, Wishes};
pub use self::field::{FieldError, Reason};
pub use self::yaml::TextError;

use self::field::{At, Errors};

mod calico;
mod cluster;
mod core;
mod field;
pub(crate) mod labels;
pub(crate) mod meta;
mod netpol;
mod selector;
pub mod yaml;

/// The kinds that are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    ServiceAccount,
    /// `v1`.
    Pod,
    /// `v1`.
    Node,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// `projectcalico.org/v3`, kind NetworkPolicy.
    CalicoNetworkPolicy,
    /// `projectcalico.org/v3`.
    GlobalNetworkPolicy,
    /// `projectcalico.org/v3`.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3`.
    StagedGlobalNetworkPolicy,
    /// `projectcalico.org/v3`.
    StagedKubernetesNetworkPolicy,
    /// `projectcalico.org/v3`.
    Tier,
    /// `projectcalico.org/v3`.
    NetworkSet,
    /// `projectcalico.org/v3`.
    GlobalNetworkSet,
    /// `projectcalico.org/v3`.
    HostEndpoint,
    /// `projectcalico.org/v3`.
    IpPool,
    /// `projectcalico.org/v3`.
    IpReservation,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 17] = [
        Kind::Namespace,
        Kind::ServiceAccount,
        Kind::Pod,
        Kind::Node,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::CalicoNetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
        Kind::Tier,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::HostEndpoint,
        Kind::IpPool,
        Kind::IpReservation,
    ];

    /// The kind that somebody means: its name, its plural or its short name as `kubectl` has it, in any case.
    #[must_use]
    pub fn named(text: &str) -> Option<Kind> {
        let text = text.to_ascii_lowercase();
        let short = match text.as_str() {
            "ns" => Some(Kind::Namespace),
            "sa" => Some(Kind::ServiceAccount),
            "po" => Some(Kind::Pod),
            "no" => Some(Kind::Node),
            "netpol" => Some(Kind::NetworkPolicy),
            "cnp" => Some(Kind::ClusterNetworkPolicy),
            "gnp" => Some(Kind::GlobalNetworkPolicy),
            "hep" => Some(Kind::HostEndpoint),
            _ => None,
        };
        short.or_else(|| {
            Kind::ALL.into_iter().find(|kind| {
                let name = kind.as_str().to_ascii_lowercase();
                let plural =
                    name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
                text == name || text == plural
            })
        })
    }

    /// The kinds that are policies.
    pub(crate) const POLICIES: RangeInclusive<Kind> =
        Kind::NetworkPolicy..=Kind::StagedKubernetesNetworkPolicy;

    fn find(api_version: &str, kind: &str) -> Option<Kind> {
        Some(match (api_version, kind) {
            ("v1", "Namespace") => Kind::Namespace,
            ("v1", "ServiceAccount") => Kind::ServiceAccount,
            ("v1", "Pod") => Kind::Pod,
            ("v1", "Node") => Kind::Node,
            ("networking.k8s.io/v1", "NetworkPolicy") => Kind::NetworkPolicy,
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => Kind::ClusterNetworkPolicy,
            ("projectcalico.org/v3" | "crd.projectcalico.org/v1", kind) => match kind {
                "NetworkPolicy" => Kind::CalicoNetworkPolicy,
                "GlobalNetworkPolicy" => Kind::GlobalNetworkPolicy,
                "StagedNetworkPolicy" => Kind::StagedNetworkPolicy,
                "StagedGlobalNetworkPolicy" => Kind::StagedGlobalNetworkPolicy,
                "StagedKubernetesNetworkPolicy" => Kind::StagedKubernetesNetworkPolicy,
                "Tier" => Kind::Tier,
                "NetworkSet" => Kind::NetworkSet,
                "GlobalNetworkSet" => Kind::GlobalNetworkSet,
                "HostEndpoint" => Kind::HostEndpoint,
                "IPPool" => Kind::IpPool,
                "IPReservation" => Kind::IpReservation,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The kind of policy it is, of Calico's.
    fn calico_policy(self) -> Option<PolicyKind> {
        Some(match self {
            Kind::CalicoNetworkPolicy => PolicyKind::NetworkPolicy,
            Kind::GlobalNetworkPolicy => PolicyKind::GlobalNetworkPolicy,
            Kind::StagedNetworkPolicy => PolicyKind::StagedNetworkPolicy,
            Kind::StagedGlobalNetworkPolicy => PolicyKind::StagedGlobalNetworkPolicy,
            _ => return None,
        })
    }

    /// Do objects of this kind lie in a namespace?
    #[must_use]
    pub fn namespaced(self) -> bool {
        match self {
            Kind::Namespace
            | Kind::Node
            | Kind::ClusterNetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::Tier
            | Kind::GlobalNetworkSet
            | Kind::HostEndpoint
            | Kind::IpPool
            | Kind::IpReservation => false,
            Kind::ServiceAccount
            | Kind::Pod
            | Kind::NetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy
            | Kind::NetworkSet => true,
        }
    }

    /// As users write it; Calico's have its prefix where Kubernetes has the same name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Pod => "Pod",
            Kind::Node => "Node",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::CalicoNetworkPolicy => "CalicoNetworkPolicy",
            Kind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Kind::StagedNetworkPolicy => "StagedNetworkPolicy",
            Kind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Kind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Kind::Tier => "Tier",
            Kind::NetworkSet => "NetworkSet",
            Kind::GlobalNetworkSet => "GlobalNetworkSet",
            Kind::HostEndpoint => "HostEndpoint",
            Kind::IpPool => "IPPool",
            Kind::IpReservation => "IPReservation",
        }
    }
}

/// What names an object. Displays as `KIND NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; none for cluster-wide kinds.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match &self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

/// A valid object in its working form.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A service account.
    ServiceAccount(ServiceAccount),
    /// A pod.
    Pod(Pod),
    /// A node.
    Node(Node),
    /// A policy of any kind.
    Policy(Arc<Policy>),
    /// A tier.
    Tier(Arc<Tier>),
    /// A set of addresses, of a namespace or global.
    Set(NetworkSet),
    /// A host endpoint.
    Host(HostEndpoint),
    /// A pool of addresses.
    Pool(Arc<IpPool>),
    /// Addresses of pools that only who asks for them gets: ranges with clear host bits.
    Reservation(Arc<[IpNet]>),
    /// Valid, and without effect: a staged policy that is to be ignored.
    Inert,
}

/// An object that is not valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// What is wrong with it; never empty.
    pub errors: Vec<FieldError>,
    /// For a policy whose subject can be read all the same: a policy that selects it and denies, to stand in while
    /// there is no valid version.
    pub deny: Option<Arc<Policy>>,
}

/// One object of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Of a kind that is read, with a name.
    Known {
        /// What names it.
        key: Key,
        /// As it was written.
        source: Arc<Value>,
        /// What it means.
        object: Result<Object, Refused>,
    },
    /// Not of a kind that is read, or without a usable name.
    Unknown {
        /// What can be said of it.
        what: String,
        /// What is wrong.
        error: FieldError,
    },
}

/// The objects of a text in order, lists taken apart.
///
/// # Errors
/// A text that is not YAML, or exceeds the bounds of [`yaml`]. Invalid objects are no error here.
pub fn read(text: &[u8]) -> Result<Vec<Item>, TextError> {
    let mut items = Vec::new();
    for document in yaml::documents(text)? {
        read_value(document, &mut items);
    }
    Ok(items)
}

/// One object, or those of a list, from a plain value.
pub fn read_value(mut value: Value, items: &mut Vec<Item>) {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    let (Some(api_version), Some(kind)) = (&api_version, &kind) else {
        let path = if api_version.is_none() { "apiVersion" } else { "kind" };
        let error = FieldError { path: path.to_owned(), reason: Reason::Required };
        return items.push(Item::Unknown { what: name_of(&value, kind.as_deref()), error });
    };
    if let Some(of) = kind.strip_suffix("List")
        && let Some(Value::Array(list)) = value.get_mut("items").map(Value::take)
    {
        for mut item in list {
            // The elements of a typed list need not repeat what the list says.
            if let (Value::Object(map), false) = (&mut item, of.is_empty()) {
                map.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
                map.entry("kind").or_insert_with(|| of.into());
            }
            read_value(item, items);
        }
        return;
    }
    let found = Kind::find(api_version, kind).ok_or_else(|| FieldError {
        path: String::new(),
        reason: Reason::Kind { api_version: api_version.clone(), kind: kind.clone() },
    });
    items.push(match found.and_then(|kind| key(kind, &value)) {
        Ok(key) => {
            let object = check(&key, &value);
            Item::Known { key, source: Arc::new(value), object }
        }
        Err(error) => Item::Unknown { what: name_of(&value, Some(kind)), error },
    });
}

/// What an object without a usable key may be called in a report.
fn name_of(value: &Value, kind: Option<&str>) -> String {
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
    format!("{} {name}", kind.unwrap_or("object")).chars().take(300).collect()
}

fn key(kind: Kind, value: &Value) -> Result<Key, FieldError> {
    let metadata = At::root("metadata");
    let error = |field, reason| FieldError { path: metadata.key(field).to_string(), reason };
    let field = |field: &'static str| match value.pointer("/metadata").and_then(|m| m.get(field)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(error(field, Reason::Shape("invalid type: expected a string".to_owned()))),
    };
    let syntax = |field, good, value: &str, what| {
        let value = value.chars().take(300).collect();
        if good { Ok(()) } else { Err(error(field, Reason::Syntax { value, what })) }
    };
    let name = field("name")?.ok_or_else(|| error("name", Reason::Required))?;
    if kind == Kind::Namespace {
        syntax("name", meta::is_dns_label(name), name, "namespace name")?;
    } else {
        syntax("name", meta::is_dns_subdomain(name), name, "name")?;
    }
    let namespace = field("namespace")?.filter(|namespace| !namespace.is_empty());
    let namespace = match (kind.namespaced(), namespace) {
        (true, namespace) => {
            let namespace = namespace.unwrap_or("default");
            syntax("namespace", meta::is_dns_label(namespace), namespace, "namespace name")?;
            Some(namespace.into())
        }
        (false, None) => None,
        (false, Some(_)) => {
            return Err(error("namespace", Reason::Conflict("an object of this kind lies in no namespace")));
        }
    };
    Ok(Key { kind, namespace, name: name.into() })
}

fn check(key: &Key, value: &Value) -> Result<Object, Refused> {
    let (name, mut errors) = (&key.name, Errors::default());
    let namespace = key.namespace.clone().unwrap_or_default();
    let errors = &mut errors;
    let object = match key.kind {
        Kind::Namespace => core::namespace(value, errors).map(Object::Namespace),
        Kind::ServiceAccount => core::service_account(value, errors).map(Object::ServiceAccount),
        Kind::Pod => core::pod(value, errors).map(Object::Pod),
        Kind::Node => core::node(value, errors).map(Object::Node),
        Kind::NetworkPolicy => netpol::read(&namespace, name, value, errors).map(Object::Policy),
        Kind::ClusterNetworkPolicy => cluster::read(name, value, errors).map(Object::Policy),
        Kind::StagedKubernetesNetworkPolicy => calico::read_kubernetes(key, value, errors),
        Kind::Tier => calico::tier::read(name, value, errors).map(Object::Tier),
        Kind::NetworkSet | Kind::GlobalNetworkSet => calico::set::read(value, errors).map(Object::Set),
        Kind::HostEndpoint => calico::host::read(value, errors).map(Object::Host),
        Kind::IpPool => calico::pool::read(value, errors).map(Object::Pool),
        Kind::IpReservation => calico::reservation::read(value, errors).map(Object::Reservation),
        Kind::CalicoNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => {
            key.kind.calico_policy().and_then(|kind| calico::read(kind, key, value, errors))
        }
    };
    match object {
        Some(object) if errors.0.is_empty() => Ok(object),
        _ => {
            let deny = match key.kind {
                Kind::NetworkPolicy => netpol::deny(&namespace, name, value),
                Kind::ClusterNetworkPolicy => cluster::deny(name, value),
                kind => kind.calico_policy().and_then(|kind| calico::deny(kind, key, value)),
            };
            Err(Refused { errors: std::mem::take(&mut errors.0), deny: deny.map(Arc::new) })
        }
    }
}

/// A value as a struct; what does not fit is added to `errors` with its path.
fn decode<T: DeserializeOwned>(value: &Value, errors: &mut Errors) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(decoded) => Some(decoded),
        Err(err) => {
            let path = err.path().to_string();
            let path = if path == "." { String::new() } else { path };
            errors.0.push(FieldError { path, reason: Reason::Shape(err.inner().to_string()) });
            None
        }
    }
}

#[cfg(test)]
mod tests;
