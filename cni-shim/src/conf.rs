//! The network configuration on standard input.
//!
//! Read as loose JSON and picked from: a configuration may hold anything for other plugins. Keys below
//! `runtimeConfig` are compared without regard to case, because go-cni writes Go field names there.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use control::api::{DEFAULT_SOCKET, code};
use control::mac::Mac;
use control::names::{AttachmentId, check_network};
use serde_json::{Map, Value};

use crate::env::address;
use crate::spec::{CniError, Version};

/// A configuration whose version we speak.
#[derive(Debug)]
pub(crate) struct Conf {
    pub(crate) version: Version,
    root: Map<String, Value>,
}

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_CONFIG, msg)
}

/// What is there: null counts as absent.
fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// Likewise, without regard to case; the exact key comes first.
fn get_any_case<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    get(map, key).or_else(|| {
        map.iter().find(|(k, v)| k.eq_ignore_ascii_case(key) && !v.is_null()).map(|(_, value)| value)
    })
}

/// A JSON object of bounded depth (the parser's own limit, 128).
fn object(input: &[u8]) -> Result<Map<String, Value>, CniError> {
    let failed = || CniError::new(code::DECODE, "the network configuration is not a JSON object");
    match serde_json::from_slice(input) {
        Ok(Value::Object(root)) => Ok(root),
        Ok(_) => Err(failed()),
        Err(err) => Err(failed().because(err)),
    }
}

/// VERSION: the version that the caller speaks, if it says one; whatever it is, it gets an answer.
pub(crate) fn asked_version(input: &[u8]) -> String {
    let asked = object(input).ok().and_then(|root| root.get("cniVersion")?.as_str().map(str::to_owned));
    asked
        .filter(|v| (1..=32).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        .unwrap_or_else(|| Version::LATEST.name().to_owned())
}

impl Conf {
    /// # Errors
    /// 6 not JSON, 1 a version that we do not speak.
    pub(crate) fn parse(input: &[u8]) -> Result<Conf, CniError> {
        let root = object(input)?;
        let version = match root.get("cniVersion") {
            // Specification 0.4.0, "Network Configuration": without a version it is 0.1.0.
            None => "0.1.0",
            Some(Value::String(version)) => version,
            Some(_) => return Err(CniError::new(code::DECODE, "cniVersion is not a string")),
        };
        match Version::of(version) {
            Some(version) => Ok(Conf { version, root }),
            None => {
                let have = Version::ALL.map(Version::name).join(", ");
                let version: String = version.chars().take(64).collect();
                Err(CniError::new(
                    code::INCOMPATIBLE_VERSION,
                    format!("cniVersion {version:?} is not supported"),
                )
                .because(format!("supported are {have}")))
            }
        }
    }

    pub(crate) fn name(&self) -> Result<String, CniError> {
        let name = match get(&self.root, "name") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(invalid("name is not a string")),
            None => return Err(invalid("name is missing")),
        };
        check_network(name).map_err(|err| invalid("name is not usable").because(err))?;
        Ok(name.clone())
    }

    pub(crate) fn socket(&self) -> Result<PathBuf, CniError> {
        match get(&self.root, "socket") {
            None => Ok(PathBuf::from(DEFAULT_SOCKET)),
            Some(Value::String(path)) if Path::new(path).is_absolute() && !path.contains('\0') => {
                Ok(PathBuf::from(path))
            }
            Some(_) => Err(invalid("socket is not an absolute path")),
        }
    }

    /// What we would have to do and cannot is refused rather than left undone.
    pub(crate) fn check_supported(&self) -> Result<(), CniError> {
        let unsupported = |key: &str, why: &str| {
            Err(CniError::new(code::UNSUPPORTED_FIELD, format!("{key} is not supported")).because(why))
        };
        if let Some(ipam) = get(&self.root, "ipam") {
            match ipam {
                Value::Object(ipam) if get(ipam, "type").is_none_or(|kind| kind == "") => {}
                Value::Object(_) => return unsupported("ipam.type", "vswitchd itself gives out addresses"),
                _ => return Err(invalid("ipam is not an object")),
            }
        }
        if let Some(runtime) = self.runtime_config()? {
            for key in ["portMappings", "bandwidth"] {
                let asked = get_any_case(runtime, key).is_some_and(|value| match value {
                    Value::Array(items) => !items.is_empty(),
                    Value::Object(fields) => !fields.is_empty(),
                    _ => true,
                });
                if asked {
                    return unsupported(
                        &format!("runtimeConfig.{key}"),
                        "leave it out of the capabilities of vswitch-cni and chain a plugin that does it",
                    );
                }
            }
        }
        Ok(())
    }

    fn runtime_config(&self) -> Result<Option<&Map<String, Value>>, CniError> {
        match get(&self.root, "runtimeConfig") {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(invalid("runtimeConfig is not an object")),
        }
    }

    /// `args.cni` (CNI conventions).
    fn args_cni(&self) -> Option<&Map<String, Value>> {
        get(self.root.get("args")?.as_object()?, "cni")?.as_object()
    }

    /// Addresses asked for in the configuration, in the order in which they stand.
    pub(crate) fn ips(&self) -> Result<Vec<IpAddr>, CniError> {
        let places = [
            ("args.cni.ips", self.args_cni().and_then(|args| get_any_case(args, "ips"))),
            ("runtimeConfig.ips", self.runtime_config()?.and_then(|config| get_any_case(config, "ips"))),
        ];
        let mut ips = Vec::new();
        for (key, value) in places {
            let Some(value) = value else { continue };
            let items = value.as_array().ok_or_else(|| invalid(format!("{key} is not a list")))?;
            for item in items {
                let ip = item.as_str().and_then(address);
                ips.push(ip.ok_or_else(|| invalid(format!("{key}: an entry is no address")).because(item))?);
            }
        }
        Ok(ips)
    }

    /// The MAC asked for: `runtimeConfig`, then `args.cni`, then `CNI_ARGS` (`from_env`).
    pub(crate) fn mac(&self, from_env: Option<&str>) -> Result<Option<String>, CniError> {
        let places = [
            ("runtimeConfig.mac", self.runtime_config()?.and_then(|config| get_any_case(config, "mac"))),
            ("args.cni.mac", self.args_cni().and_then(|args| get_any_case(args, "mac"))),
        ];
        for (key, value) in places {
            match value {
                None => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(Value::String(text)) => return check_mac(key, text, code::INVALID_CONFIG).map(Some),
                Some(_) => return Err(invalid(format!("{key} is not a string"))),
            }
        }
        from_env.map(|text| check_mac("CNI_ARGS: MAC", text, code::INVALID_ENVIRONMENT)).transpose()
    }

    /// The result of the plugins before us.
    pub(crate) fn prev_result(&self) -> Result<Option<&Map<String, Value>>, CniError> {
        match get(&self.root, "prevResult") {
            None => Ok(None),
            Some(Value::Object(prev)) => Ok(Some(prev)),
            Some(_) => Err(CniError::new(code::DECODE, "prevResult is not an object")),
        }
    }

    /// `dns`, which is handed through to the result.
    pub(crate) fn dns(&self) -> Option<&Value> {
        get(&self.root, "dns").filter(|dns| dns.as_object().is_some_and(|fields| !fields.is_empty()))
    }

    /// GC: what is still in use. libcni writes the list under two keys; both are taken. Without either, nothing is
    /// known to be in use, and nothing is known to be unused.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<AttachmentId>, CniError> {
        let mut found = false;
        let mut valid = Vec::new();
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let Some(list) = get(&self.root, key) else { continue };
            found = true;
            for item in list.as_array().ok_or_else(|| invalid(format!("{key} is not a list")))? {
                let field =
                    |name| item.as_object().and_then(|map| get_any_case(map, name)).and_then(Value::as_str);
                let (Some(container_id), Some(ifname)) = (field("containerID"), field("ifname")) else {
                    return Err(invalid(format!("{key}: an entry lacks containerID or ifname")).because(item));
                };
                let id = AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
                if !valid.contains(&id) {
                    valid.push(id);
                }
            }
        }
        if found { Ok(valid) } else { Err(invalid("cni.dev/valid-attachments is missing")) }
    }
}

fn check_mac(key: &str, text: &str, code: u32) -> Result<String, CniError> {
    match text.parse::<Mac>() {
        Ok(mac) if mac.is_unicast() => Ok(mac.to_string()),
        Ok(_) => Err(CniError::new(code, format!("{key} = {text:?} is no unicast address"))),
        Err(err) => Err(CniError::new(code, format!("{key} = {text:?} is unusable")).because(err)),
    }
}
