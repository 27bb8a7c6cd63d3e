//! Pods attached through the real CNI plugin, run as a container runtime runs it.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use super::cmd;
use super::error::LabError;
use super::netns::Netns;

/// The plugin and the network configuration it is given.
#[derive(Clone, Debug)]
pub struct Cni {
    plugin: PathBuf,
    socket: PathBuf,
}

/// What one run of the plugin gave.
#[derive(Clone, Debug)]
pub struct CniReply {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output as JSON; null when it printed nothing or no JSON.
    pub json: Value,
    /// Its standard output as it was.
    pub text: String,
}

impl CniReply {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// The CNI error code it printed.
    pub fn error(&self) -> Option<u64> {
        self.json["code"].as_u64()
    }
}

impl Cni {
    /// `plugin` speaking to the daemon behind `socket`.
    pub fn new(plugin: PathBuf, socket: PathBuf) -> Cni {
        Cni { plugin, socket }
    }

    /// The network configuration as a runtime hands it over, with `more` (an object) merged in.
    pub fn config(&self, more: &Value) -> Value {
        let mut config =
            json!({"cniVersion": "1.1.0", "name": "vswitch", "type": "vswitch-cni", "socket": self.socket});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    /// Runs `verb` with this environment. Empty `container`, `netns` or `args` are left out or left empty as runtimes do.
    ///
    /// # Errors
    /// When the plugin cannot be run at all; its own refusals are in the reply.
    pub fn call(
        &self,
        verb: &'static str,
        container: &str,
        netns: &str,
        args: &str,
        config: &Value,
    ) -> Result<CniReply, LabError> {
        let start = |source| LabError::Start { program: self.plugin.clone(), source };
        let dir = self.plugin.parent().unwrap_or(Path::new("/"));
        let mut child = cmd::command(&self.plugin)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .env("CNI_PATH", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that refuses the environment may end without reading; its exit code tells.
            let _ = stdin.write_all(config.to_string().as_bytes());
        }
        let out = child.wait_with_output().map_err(start)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(CniReply { code: out.status.code(), json, text })
    }

    /// As [`Cni::call`], but a refusal is an error.
    ///
    /// # Errors
    /// [`LabError::Cni`] with what the plugin printed.
    pub fn must(
        &self,
        verb: &'static str,
        container: &str,
        netns: &str,
        args: &str,
        config: &Value,
    ) -> Result<CniReply, LabError> {
        let reply = self.call(verb, container, netns, args, config)?;
        if reply.ok() {
            Ok(reply)
        } else {
            Err(LabError::Cni { verb, container: container.into(), answer: reply.text.trim().into() })
        }
    }
}

/// A pod's name; written `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodName {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name in there.
    pub name: Box<str>,
}

impl PodName {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> PodName {
        PodName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod's namespace, attached. Dropped: detached through the plugin, then deleted.
#[derive(Debug)]
pub struct Attached {
    /// The pod's namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
    /// What ADD printed.
    pub result: Value,
    /// The container id.
    pub container: Box<str>,
    /// The pod's name.
    pub name: PodName,
    cni: Cni,
    keep: bool,
}

impl Attached {
    /// Runs ADD for this pod in `netns`, asking for the addresses `ips`, or any.
    ///
    /// # Errors
    /// When the plugin refuses, or its result lacks an address of either family.
    pub fn add(cni: Cni, netns: Netns, name: &PodName, ips: &[IpAddr]) -> Result<Attached, LabError> {
        let container: Box<str> = netns.name().into();
        let path = netns.path().to_string_lossy().into_owned();
        let mut args = pod_args(name, &container);
        if !ips.is_empty() {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            let _ = write!(args, ";IP={}", ips.join(","));
        }
        let reply = cni.must("ADD", &container, &path, &args, &cni.config(&Value::Null))?;
        // From here on DEL runs whatever happens.
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let mut pod = Attached {
            netns,
            v4: unknown,
            v6: unknown,
            result: reply.json,
            container,
            name: name.clone(),
            cni,
            keep: false,
        };
        pod.v4 = pod.address("IPv4", IpAddr::is_ipv4)?;
        pod.v6 = pod.address("IPv6", IpAddr::is_ipv6)?;
        Ok(pod)
    }

    /// The Pod object that Kubernetes would have of it on node `node`: `labels` is a map, `ports` a list of container
    /// ports.
    pub fn object(&self, node: &str, labels: &Value, ports: &Value) -> Value {
        let (v4, v6) = (self.v4.to_string(), self.v6.to_string());
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name.name, "namespace": self.name.namespace, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]},
        })
    }

    fn address(&self, family: &'static str, is: impl Fn(&IpAddr) -> bool) -> Result<IpAddr, LabError> {
        let ips = self.result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        ips.iter()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
            .find(is)
            .ok_or_else(|| LabError::NoAddress {
                container: self.container.clone(),
                family,
                answer: self.result.to_string().into(),
            })
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// The MTU that ADD reported, else the interface's.
    pub fn mtu(&self) -> u64 {
        self.result["interfaces"][0]["mtu"].as_u64().unwrap_or(1500)
    }

    /// Leaves it attached when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        self.netns.keep();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.keep {
            let path = self.netns.path().to_string_lossy().into_owned();
            // DEL may fail when the daemon is gone; the namespace's end takes the interface with it.
            let _ = self.cni.call("DEL", &self.container, &path, "", &self.cni.config(&Value::Null));
        }
    }
}

/// CNI_ARGS as containerd sends them.
pub(crate) fn pod_args(pod: &PodName, container: &str) -> String {
    let PodName { namespace, name } = pod;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID=00000000-0000-4000-8000-000000000000"
    )
}
