//! Calico's NetworkSet and GlobalNetworkSet.

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::super::decode;
use super::super::field::{At, Errors};
use super::super::meta::LabelMap;
use super::Doc;
use super::rule::net_or_ip;

/// Addresses with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    pub(crate) labels: LabelMap,
    /// Its prefixes.
    pub nets: Vec<IpNet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    nets: Option<Vec<String>>,
}

pub(in super::super) fn read(value: &Value, errors: &mut Errors) -> Option<NetworkSet> {
    let doc: Doc<Spec> = decode(value, errors)?;
    doc.metadata.check_labels(errors);
    let at = At::root("spec");
    let at = at.key("nets");
    let texts = doc.spec.nets.unwrap_or_default();
    let nets =
        texts.iter().enumerate().filter_map(|(i, text)| net_or_ip(text, &at.index(i), errors)).collect();
    Some(NetworkSet { labels: doc.metadata.labels.unwrap_or_default(), nets })
}
