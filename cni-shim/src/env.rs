//! The environment: command, attachment, and the `CNI_ARGS` that runtimes put a pod's identity into.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use control::api::{PodId, code};
use control::names::{AttachmentId, check_container_id, check_ifname};

use crate::spec::CniError;

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The variables that we read, as they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env(pub(crate) BTreeMap<&'static str, OsString>);

const NAMES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

fn wrong(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

impl Env {
    pub(crate) fn of_process() -> Env {
        Env(NAMES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))).collect())
    }

    /// A variable's text; absent and empty are the same.
    fn text(&self, name: &'static str) -> Result<&str, CniError> {
        match self.0.get(name) {
            None => Ok(""),
            Some(value) => value.to_str().ok_or_else(|| wrong(format!("{name} is not UTF-8"))),
        }
    }

    fn needed(&self, name: &'static str) -> Result<&str, CniError> {
        match self.text(name)? {
            "" => Err(wrong(format!("{name} is missing"))),
            text => Ok(text),
        }
    }

    pub(crate) fn command(&self) -> Result<Command, CniError> {
        match self.needed("CNI_COMMAND")? {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Gc),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            other => Err(wrong(format!("CNI_COMMAND {other:?} is unknown"))),
        }
    }

    /// Container id and interface name, checked.
    pub(crate) fn attachment(&self) -> Result<AttachmentId, CniError> {
        let container_id = self.needed("CNI_CONTAINERID")?.to_owned();
        let ifname = self.needed("CNI_IFNAME")?.to_owned();
        check_container_id(&container_id)
            .map_err(|err| wrong("CNI_CONTAINERID is not usable").because(err))?;
        check_ifname(&ifname).map_err(|err| wrong("CNI_IFNAME is not usable").because(err))?;
        Ok(AttachmentId { container_id, ifname })
    }

    /// The namespace of ADD and CHECK: there, and not the node's own.
    pub(crate) fn netns(&self) -> Result<String, CniError> {
        let text = self.needed("CNI_NETNS")?;
        if !Path::new(text).is_absolute() {
            return Err(wrong(format!("CNI_NETNS {text:?} is not an absolute path")));
        }
        let meta = std::fs::metadata(text)
            .map_err(|err| wrong(format!("CNI_NETNS {text:?} cannot be looked at")).because(err))?;
        let own = std::fs::metadata("/proc/self/ns/net")
            .map_err(|err| CniError::new(code::IO, "look at /proc/self/ns/net").because(err))?;
        if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
            return Err(wrong(format!("CNI_NETNS {text:?} is the node's own network namespace")));
        }
        Ok(text.to_owned())
    }

    /// The namespace of DEL, which may be gone or never named.
    pub(crate) fn netns_if_any(&self) -> Result<String, CniError> {
        Ok(self.text("CNI_NETNS")?.to_owned())
    }

    pub(crate) fn args(&self) -> Result<Args, CniError> {
        Args::parse(self.text("CNI_ARGS")?)
    }
}

/// `CNI_ARGS`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Args {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) mac: Option<String>,
    /// Keys that we do not know and were not told to ignore.
    pub(crate) unknown: Vec<String>,
}

impl Args {
    /// `KEY=VALUE;KEY=VALUE`, in any order.
    pub(crate) fn parse(text: &str) -> Result<Args, CniError> {
        let mut args = Args::default();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(wrong(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")));
            };
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = match value.unwrap_or_default().to_ascii_lowercase().as_str() {
                        "1" | "true" | "t" => true,
                        "0" | "false" | "f" | "" => false,
                        other => {
                            return Err(wrong(format!(
                                "CNI_ARGS: IgnoreUnknown={other:?} is neither 1 nor 0"
                            )));
                        }
                    };
                }
                "K8S_POD_NAMESPACE" => args.namespace = value,
                "K8S_POD_NAME" => args.name = value,
                "K8S_POD_UID" => args.uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => {
                    for ip in value.iter().flat_map(|v| v.split(',')) {
                        args.ips.push(
                            address(ip).ok_or_else(|| wrong(format!("CNI_ARGS: IP={ip:?} is no address")))?,
                        );
                    }
                }
                "MAC" => args.mac = value,
                other => args.unknown.push(other.to_owned()),
            }
        }
        if ignore_unknown {
            args.unknown.clear();
        }
        Ok(args)
    }

    /// The pod's identity: `default/<container id>` as far as nothing better is known.
    pub(crate) fn pod(&self, container_id: &str) -> Result<PodId, CniError> {
        let pod = PodId {
            namespace: self.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: self.name.clone().unwrap_or_else(|| container_id.to_owned()),
            uid: self.uid.clone().unwrap_or_default(),
        };
        pod.check().map_err(|err| wrong("CNI_ARGS names no usable pod").because(err))?;
        Ok(pod)
    }
}

/// An address, with or without a prefix length; the length is not ours to choose.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    match text.split_once('/') {
        None => text.parse().ok(),
        Some(_) => text.parse::<ipnet::IpNet>().ok().map(|net| net.addr()),
    }
}
