//! Versions and errors of the CNI specification.

use std::fmt::Display;

use control::api::{ApiError, code};
use control::client::ClientError;
use serde_json::{Value, json};

/// A version of the specification that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses lose their `version`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTU of an interface.
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// What is said when nothing else is known.
    pub(crate) const LATEST: Version = Version::V1_1_0;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.name() == name)
    }

    /// Interfaces of a result carry an MTU.
    pub(crate) fn has_mtu(self) -> bool {
        self >= Version::V1_1_0
    }

    /// Addresses of a result carry `"version": "4"` or `"6"`.
    pub(crate) fn has_ip_version(self) -> bool {
        self < Version::V1_0_0
    }
}

/// An error as the runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) version: Version,
    pub(crate) error: ApiError,
}

impl CniError {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { version: Version::LATEST, error: ApiError::new(code, msg) }
    }

    /// With its cause.
    pub(crate) fn because(mut self, cause: impl Display) -> CniError {
        self.error = self.error.with_details(cause.to_string());
        self
    }

    /// In the version of the configuration.
    pub(crate) fn at(self, version: Version) -> CniError {
        CniError { version, ..self }
    }

    /// From a call of the daemon; `transient` is the code for a daemon that does not answer.
    pub(crate) fn of_call(err: ClientError, transient: u32) -> CniError {
        if let ClientError::Refused(error) = err {
            return CniError { version: Version::LATEST, error };
        }
        let code = if err.is_transient() { transient } else { code::INTERNAL };
        CniError::new(code, err.to_string())
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({
            "cniVersion": self.version.name(),
            "code": self.error.code,
            "msg": self.error.msg,
        });
        if !self.error.details.is_empty() {
            value["details"] = Value::String(self.error.details.clone());
        }
        value
    }
}
