//! `[store]`: where objects, and with etcd the nodes too, come from.

use std::fmt;
use std::path::PathBuf;

use super::check::Errors;
use super::{ConfigFile, Problem, StoreSection};

/// flannel's keys.
const PREFIX: &str = "/coreos.com/network";
/// Our own.
const OWN_PREFIX: &str = "/vswitch";

/// The store in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Nodes as the file has them.
    Static {
        /// The watched directory of objects, if any; absolute.
        manifests: Option<PathBuf>,
    },
    /// Nodes and objects as etcd has them.
    Etcd(EtcdSettings),
}

/// How etcd is reached, and where its keys begin.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Its members' URLs, `http` or `https`; never empty, all of one scheme.
    pub endpoints: Vec<String>,
    /// What flannel's keys begin with; no slash at the end.
    pub prefix: String,
    /// What our own keys begin with.
    pub own_prefix: String,
    /// Certificate of the authority, PEM; always there for `https`.
    pub ca: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Where the node's subnet is told to flannel's plugin and others, as flannel does; absolute. None = nowhere.
    pub subnet_env: Option<PathBuf>,
    /// User name and password.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for EtcdSettings {
    /// All but the password: this is what ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("own_prefix", &self.own_prefix)
            .field("ca", &self.ca)
            .field("subnet_env", &self.subnet_env)
            .field("identity", &self.identity)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

impl EtcdSettings {
    /// Without TLS and user, flannel's keys and ours where they usually are.
    #[must_use]
    pub fn plain(endpoint: &str) -> EtcdSettings {
        EtcdSettings {
            endpoints: vec![endpoint.to_owned()],
            prefix: PREFIX.to_owned(),
            own_prefix: OWN_PREFIX.to_owned(),
            ca: None,
            identity: None,
            subnet_env: None,
            user: None,
        }
    }
}

pub(super) fn check(file: &ConfigFile, errors: &mut Errors) -> Store {
    const HAVE: &str = "static, etcd";
    let section = &file.store;
    match section.kind.as_deref().unwrap_or("static") {
        "etcd" => {
            // Policy in files that nobody reads would be missed too late.
            if let Some(text) = &section.manifests {
                errors.add("store.manifests", text, Problem::StoreKey { wants: "static" });
            }
            others(file, errors);
            return Store::Etcd(etcd(section, errors));
        }
        "static" => {}
        kind @ "kubernetes" => errors.add("store.type", kind, Problem::TypeNotSupported { have: HAVE }),
        kind => errors.add("store.type", kind, Problem::UnknownType { have: HAVE }),
    }
    let manifests = section.manifests.as_deref();
    Store::Static { manifests: manifests.map(|text| errors.path("store.manifests", Some(text), "")) }
}

/// What etcd says for all nodes alike may not be said here again.
fn others(file: &ConfigFile, errors: &mut Errors) {
    let given = [
        ("network.cluster-cidrs", file.network.cluster_cidrs.is_some()),
        ("network.pod-cidrs", file.network.pod_cidrs.is_some()),
        ("tunnel.type", file.tunnel.kind.is_some()),
        ("tunnel.vni", file.tunnel.vni.is_some()),
        ("tunnel.port", file.tunnel.port.is_some()),
        ("tunnel.cross-subnet", file.tunnel.cross_subnet.is_some()),
        ("[[peer]]", !file.peer.is_empty()),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        errors.absent(*key, Problem::FromStore);
    }
}

fn etcd(section: &StoreSection, errors: &mut Errors) -> EtcdSettings {
    let default = ["http://127.0.0.1:2379".to_owned()];
    let endpoints = section.endpoints.as_deref().unwrap_or(&default);
    if endpoints.is_empty() {
        errors.absent("store.endpoints", Problem::Missing);
    }
    for endpoint in endpoints.iter().filter(|endpoint| !is_endpoint(endpoint)) {
        errors.add("store.endpoints", endpoint, Problem::NotEndpoint);
    }
    let env = section.subnet_env.as_deref().unwrap_or(crate::flannel::subnet_env::PATH);
    let subnet_env = (!env.is_empty()).then(|| errors.path("store.subnet-env", Some(env), ""));
    let secure = endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if secure != 0 && secure != endpoints.len() {
        errors.absent("store.endpoints", Problem::MixedSchemes);
    }
    let prefix = section.prefix.as_deref().unwrap_or(PREFIX);
    let trimmed = prefix.trim_end_matches('/');
    if !trimmed.starts_with('/') || trimmed.chars().any(char::is_control) {
        errors.add("store.prefix", prefix, Problem::NotPrefix);
    }
    let mut path = |key, text: &Option<String>| text.as_deref().map(|text| errors.path(key, Some(text), ""));
    let ca = path("store.ca", &section.ca);
    let (cert, key) = (path("store.cert", &section.cert), path("store.key", &section.key));
    if secure > 0 && ca.is_none() {
        errors.absent("store.ca", Problem::EndpointWithoutCa);
    }
    for (name, given) in
        [("store.ca", ca.is_some()), ("store.cert", cert.is_some()), ("store.key", key.is_some())]
    {
        if given && secure == 0 {
            errors.absent(name, Problem::WithoutTls);
        }
    }
    let mut both = |has: bool, other: bool, missing| {
        if has && !other {
            errors.absent(missing, Problem::Missing);
        }
    };
    both(cert.is_some(), key.is_some(), "store.key");
    both(key.is_some(), cert.is_some(), "store.cert");
    both(section.username.is_some(), section.password.is_some(), "store.password");
    both(section.password.is_some(), section.username.is_some(), "store.username");
    EtcdSettings {
        endpoints: endpoints.to_vec(),
        prefix: trimmed.to_owned(),
        own_prefix: OWN_PREFIX.to_owned(),
        ca,
        identity: cert.zip(key),
        subnet_env,
        user: section.username.clone().zip(section.password.clone()),
    }
}

/// `http://` or `https://`, a host, and perhaps a port; nothing behind it.
fn is_endpoint(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, port)) => (v6.parse::<std::net::Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) = rest.find(':').map_or((rest, ""), |at| rest.split_at(at));
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            (!name.is_empty() && name.bytes().all(good), port)
        }
    };
    let port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|p| p > 0));
    host && port
}
