//! Attaching and detaching a pod, against the reference plugins `bridge` and `host-local`.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use vswitch::lab::{Bed, Lab, Netns, Options, Programs, Shape, Stop};

/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Milliseconds of each ADD and each DEL, of both, in pairs.
#[derive(Debug, Default, serde::Serialize)]
pub struct Timings {
    /// `bridge` + `host-local`: ADD.
    pub reference_add: Vec<f64>,
    /// `bridge` + `host-local`: DEL.
    pub reference_del: Vec<f64>,
    /// `vswitch-cni`: ADD.
    pub ours_add: Vec<f64>,
    /// `vswitch-cni`: DEL.
    pub ours_del: Vec<f64>,
}

/// Attaches and detaches `count` pods with each, alternating.
///
/// # Errors
/// When a plugin refuses.
pub fn run(programs: &Programs, stop: &Stop, count: usize) -> Result<Timings> {
    let bed = Bed::build(Shape { nodes: 1, ..Shape::default() })?;
    let lab = Lab::start(
        programs,
        Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() },
        stop,
    )?;
    let reference = json!({
        "cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": bed.dir().join("host-local"),
            "ranges": [[{"subnet": bed.plan(0).pod_cidr()}], [{"subnet": bed.plan(0).pod_cidr6()}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        }
    });
    let ours = lab.cni(0).config(&Value::Null);
    let mut timings = Timings::default();
    for i in 0..count {
        stop.check()?;
        let theirs = || -> Result<[f64; 2]> {
            let pod = Netns::new(&bed.name(&format!("c{i}")))?;
            let add = call(&bed.nodes[0], &Path::new(REFERENCE).join("bridge"), "ADD", &pod, &reference)?;
            Ok([add, call(&bed.nodes[0], &Path::new(REFERENCE).join("bridge"), "DEL", &pod, &reference)?])
        };
        let mine = || -> Result<[f64; 2]> {
            let pod = Netns::new(&lab.bed.name(&format!("c{i}")))?;
            let add = call(&lab.bed.nodes[0], &programs.cni(), "ADD", &pod, &ours)?;
            Ok([add, call(&lab.bed.nodes[0], &programs.cni(), "DEL", &pod, &ours)?])
        };
        let (their, my) = if i % 2 == 0 {
            let their = theirs()?;
            (their, mine()?)
        } else {
            let my = mine()?;
            (theirs()?, my)
        };
        timings.reference_add.push(their[0]);
        timings.reference_del.push(their[1]);
        timings.ours_add.push(my[0]);
        timings.ours_del.push(my[1]);
    }
    Ok(timings)
}

/// Runs a plugin in the node's namespace and returns its milliseconds.
fn call(node: &Netns, plugin: &Path, verb: &str, pod: &Netns, config: &Value) -> Result<f64> {
    let began = Instant::now();
    let mut child = node
        .command(plugin)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod.name())
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new(REFERENCE)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}", plugin.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let out = child.wait_with_output()?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    if !out.status.success() {
        bail!("{} {verb}: {}", plugin.display(), String::from_utf8_lossy(&out.stdout));
    }
    Ok(ms)
}
