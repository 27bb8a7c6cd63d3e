//! `metadata`, and the syntax of names and labels.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::field::{At, Errors, Reason};

/// Labels as an object has them.
pub(crate) type LabelMap = BTreeMap<String, String>;

/// `metadata`. Fields that mean nothing here are named so that any other is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub(super) labels: Option<LabelMap>,
    // Read before, with the object's key.
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(rename = "namespace")]
    _namespace: Option<IgnoredAny>,
    /// Whatever stands there; see [`Meta::annotation`].
    annotations: Option<Value>,
    #[serde(rename = "uid")]
    _uid: Option<IgnoredAny>,
    #[serde(rename = "resourceVersion")]
    _resource_version: Option<IgnoredAny>,
    #[serde(rename = "generation")]
    _generation: Option<IgnoredAny>,
    #[serde(rename = "generateName")]
    _generate_name: Option<IgnoredAny>,
    #[serde(rename = "creationTimestamp")]
    _creation_timestamp: Option<IgnoredAny>,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: Option<IgnoredAny>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(rename = "finalizers")]
    _finalizers: Option<IgnoredAny>,
    #[serde(rename = "ownerReferences")]
    _owner_references: Option<IgnoredAny>,
    #[serde(rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    #[serde(rename = "selfLink")]
    _self_link: Option<IgnoredAny>,
}

impl Meta {
    /// An annotation's text.
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_str()
    }

    /// The labels' syntax; names were checked when the object's key was made.
    pub(super) fn check_labels(&self, errors: &mut Errors) {
        let at = At::root("metadata");
        let at = at.key("labels");
        for (key, value) in self.labels.iter().flatten() {
            check_label_key(key, &at, errors);
            check_label_value(value, &at.key(key), errors);
        }
    }
}

fn alphanumeric_ends(text: &str, inner: impl Fn(u8) -> bool, ends: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| ends(*b))
        && bytes.last().is_some_and(|b| ends(*b))
        && bytes.iter().all(|b| inner(*b) || ends(*b))
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// RFC 1123 label: 1 to 63 lower-case letters, digits and `-`, a letter or digit at both ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && alphanumeric_ends(text, |b| b == b'-', lower)
}

/// RFC 1123 subdomain: labels joined by `.`, at most 253 characters.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| alphanumeric_ends(part, |b| b == b'-', lower))
}

/// `[prefix/]name`: a subdomain, then 1 to 63 letters, digits, `-`, `_`, `.` with letter or digit at both ends.
pub(super) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Empty, or like a key's name.
pub(super) fn is_label_value(value: &str) -> bool {
    let inner = |b| matches!(b, b'-' | b'_' | b'.');
    value.is_empty() || value.len() <= 63 && alphanumeric_ends(value, inner, |b| b.is_ascii_alphanumeric())
}

/// 1 to 15 lower-case letters, digits and single inner `-`, one letter at least (RFC 6335).
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && alphanumeric_ends(name, |b| b == b'-', lower)
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
}

pub(super) fn check_label_key(key: &str, at: &At<'_>, errors: &mut Errors) {
    errors.syntax(at, is_label_key(key), key, "label key");
}

pub(super) fn check_label_value(value: &str, at: &At<'_>, errors: &mut Errors) {
    errors.syntax(at, is_label_value(value), value, "label value");
}

/// A number of a port as it came, 1 to 65535.
pub(super) fn port_number(number: i64, at: &At<'_>, errors: &mut Errors) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            errors.add(at, Reason::Range { value: number, min: 1, max: 65535 });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        for good in ["a", "a-b", "0", &"x".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(
            is_dns_subdomain("a.b-c.d") && !is_dns_subdomain("a..b") && !is_dns_subdomain(&"x".repeat(254))
        );
        for good in ["a", "A_b.c", "example.com/a", "kubernetes.io/metadata.name"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a b", "a/b/c", "Ex.com/a", "-a", &"k".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(
            is_label_value("") && is_label_value("V-1_x") && !is_label_value("v.") && !is_label_value("a b")
        );
        assert!(
            is_port_name("http-80") && !is_port_name("80") && !is_port_name("a--b") && !is_port_name("Http")
        );
        assert!(!is_port_name(&"a".repeat(16)));
    }
}
