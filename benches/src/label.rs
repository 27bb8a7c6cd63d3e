//! From a label that changes to packets that feel it: a node with 10,000 pods' and 2,000 policies' objects and
//! 250 pods of its own.
//!
//! A sender without pause, a receiver, and between them a policy that admits one label. The clock starts when the
//! sender's manifest has been replaced and ends when the first datagram arrives: the file's watch, reading, compiling and
//! every worker's acknowledgement are all in it.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use vswitch::lab::{Attached, Lab, Options, Programs, Shape, Stop, within};

const NAMESPACES: usize = 100;
const PODS: usize = 10_000;
const POLICIES: usize = 2_000;
/// Pods attached to the node.
const LOCAL: usize = 250;
const PORT: u16 = 9100;
/// How long a change may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Milliseconds from each of `changes` changes to the first packet that it admits.
///
/// # Errors
/// When the node cannot be built, or a change is never felt.
pub fn run(programs: &Programs, stop: &Stop, changes: usize) -> Result<Vec<f64>> {
    let dir = std::env::temp_dir().join(format!("vswitch-label-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = measure(programs, stop, changes, &dir);
    fs::remove_dir_all(&dir)?;
    result
}

fn measure(programs: &Programs, stop: &Stop, changes: usize, dir: &Path) -> Result<Vec<f64>> {
    (0..NAMESPACES).try_for_each(|n| write(dir, &format!("ns{n:03}"), &namespace(n)))?;
    write(dir, "default", &here())?;
    write(dir, "sender", &[pod("default", "sender", "other", None)])?;
    let shape = Shape { nodes: 1, ..Shape::default() };
    let options = Options { shape, manifests: Some(dir.to_owned()), ..Options::default() };
    let lab = Lab::start(programs, options, stop)?;
    let (sender, receiver) = (lab.pod(0, "sender")?, lab.pod(0, "receiver")?);
    let others: Result<Vec<Attached>, _> = (2..LOCAL).map(|i| lab.pod(0, &format!("l{i}"))).collect();
    let others = others?;
    let socket = within(receiver.netns.path(), || UdpSocket::bind(("0.0.0.0", PORT)))??;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&sender, receiver.v4, &over));
        let times = (0..changes).map(|_| {
            stop.check()?;
            admit(dir, &socket)
        });
        let times: Result<Vec<f64>> = times.collect();
        over.store(true, Ordering::Relaxed);
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        times
    })?;
    drop(others);
    Ok(times)
}

/// Datagrams of another flow each, so that no remembered verdict answers for the policy, 5,000 a second.
fn send(sender: &Attached, to: IpAddr, over: &AtomicBool) -> Result<()> {
    within(sender.netns.path(), || -> std::io::Result<()> {
        let sockets: Vec<UdpSocket> =
            (0..64).map(|_| UdpSocket::bind(("0.0.0.0", 0))).collect::<Result<_, _>>()?;
        for socket in sockets.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            socket.send_to(b"?", SocketAddr::new(to, PORT))?;
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    })?
    .context("send")
}

/// One change that admits, timed; then it is taken back.
fn admit(dir: &Path, socket: &UdpSocket) -> Result<f64> {
    silent(socket)?;
    write(dir, "sender", &[pod("default", "sender", "admitted", None)])?;
    let began = Instant::now();
    while socket.recv(&mut [0; 8]).is_err() {
        if began.elapsed() > PATIENCE {
            bail!("a label changed and nothing arrived within {PATIENCE:?}");
        }
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    write(dir, "sender", &[pod("default", "sender", "other", None)])?;
    Ok(took)
}

/// Returns once nothing has arrived for a while.
fn silent(socket: &UdpSocket) -> Result<()> {
    let began = Instant::now();
    while socket.recv(&mut [0; 8]).is_ok() {
        if began.elapsed() > PATIENCE {
            bail!("a label was taken back and packets still arrive after {PATIENCE:?}");
        }
    }
    Ok(())
}

/// Replaces a manifest as a careful writer does.
fn write(dir: &Path, name: &str, objects: &[Value]) -> Result<()> {
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    let new = dir.join(format!(".{name}.new"));
    fs::write(&new, text.join("\n---\n"))?;
    fs::rename(&new, dir.join(format!("{name}.yaml")))?;
    Ok(())
}

fn pod(namespace: &str, name: &str, app: &str, addr: Option<String>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, "pod": name}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": addr.map_or_else(|| json!({}), |addr| json!({"podIP": addr}))
    })
}

/// The pods attached to the node, and the policy that is looked at.
fn here() -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        pod("default", "receiver", "receiver", None),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "admit", "namespace": "default"},
            "spec": {"podSelector": {"matchLabels": {"app": "receiver"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "admitted"}}}]}]}
        }),
    ];
    objects.extend((0..POLICIES / NAMESPACES).map(|i| policy("default", 200, i)));
    objects.extend((2..LOCAL).map(|i| pod("default", &format!("l{i}"), &format!("app{}", i % 20), None)));
    objects
}

/// One namespace with its share of pods (of other nodes) and policies.
fn namespace(n: usize) -> Vec<Value> {
    let name = format!("ns{n}");
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}}),
    ];
    for i in 0..PODS / NAMESPACES {
        let addr = format!("10.100.{n}.{}", i + 2);
        objects.push(pod(&name, &format!("p{i}"), &format!("app{}", i % 20), Some(addr)));
    }
    objects.extend((0..POLICIES / NAMESPACES).map(|i| policy(&name, n, i)));
    objects
}

/// A policy of a namespace whose pods have labels `app0` to `app19`.
fn policy(namespace: &str, n: usize, i: usize) -> Value {
    let app = |of: usize| json!({"matchLabels": {"app": format!("app{}", (i + of) % 20)}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("n{i}"), "namespace": namespace},
        "spec": {"podSelector": app(0), "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": app(1)}, {"namespaceSelector": {}, "podSelector": app(7)}],
                    "ports": [{"port": "http"}, {"port": 443}]},
                {"from": [{"ipBlock": {"cidr": "172.16.0.0/16", "except": [format!("172.16.{n}.0/24")]}}]}
            ],
            "egress": [{"to": [{"podSelector": app(2)}], "ports": [{"port": 8080}]}]}
    })
}
