//! A real `vswitchd` in a node's namespace, and the lab of such nodes.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use control::api::{DropInfo, PeerInfo, Proto, Request, StatusReport, Trace, TraceReport};
use control::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::attach::{Attached, Cni, PodName};
use super::bed::{Bed, Shape};
use super::error::LabError;
use super::manifests::Manifests;
use super::netns::Netns;
use super::plan::TunnelKind;
use super::programs::Programs;
use super::stop::Stop;

/// How long a daemon may take until it serves.
const START: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM before it is killed.
const END: Duration = Duration::from_secs(5);

/// A running daemon. Dropped: SIGTERM, then after 5 s SIGKILL, to this process and the ones it started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    run_dir: PathBuf,
    node: usize,
    keep: bool,
}

impl Daemon {
    /// Starts `vswitchd --config <config>` in `netns`, its messages going to `log`, and waits until it says it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready within 10 s.
    pub fn start(
        programs: &Programs,
        netns: &Netns,
        node: usize,
        config: &Path,
        run_dir: &Path,
        stop: &Stop,
    ) -> Result<Daemon, LabError> {
        let log = config.with_extension("log");
        let file = || File::options().create(true).append(true).open(&log).map_err(LabError::file(&log));
        let program = programs.vswitchd();
        let child = netns
            .command(&program)
            .arg("--config")
            .arg(config)
            .stdout(Stdio::from(file()?))
            .stderr(Stdio::from(file()?))
            .process_group(0) // Ctrl-C is ours to handle; the daemon hears of it when we end it.
            .spawn()
            .map_err(|source| LabError::Start { program, source })?;
        let mut daemon =
            Daemon { child, config: config.into(), log, run_dir: run_dir.into(), node, keep: false };
        daemon.wait_ready(stop)?;
        Ok(daemon)
    }

    fn wait_ready(&mut self, stop: &Stop) -> Result<(), LabError> {
        let began = Instant::now();
        loop {
            stop.check()?;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(LabError::DaemonEnded { node: self.node, status, last_words: self.last_words() });
            }
            if self.ask::<()>(&Request::Ready).is_ok() {
                return Ok(());
            }
            if began.elapsed() > START {
                let seconds = START.as_secs();
                return Err(LabError::NotReady { node: self.node, seconds, last_words: self.last_words() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The keeper's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes it started: the switch.
    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("vswitchd.sock")
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_words(&self) -> Box<str> {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        if lines.is_empty() {
            "(none)".into()
        } else {
            lines.into_iter().rev().collect::<Vec<_>>().join(" | ").into()
        }
    }

    /// One request over the control socket.
    ///
    /// # Errors
    /// When the daemon does not answer within 5 s, or refuses.
    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, LabError> {
        let control = |source| LabError::Control { path: self.socket(), source };
        let mut client = Client::connect(&self.socket(), Duration::from_secs(5)).map_err(control)?;
        client.call(request).map_err(control)
    }

    /// The node at a glance.
    ///
    /// # Errors
    /// As [`Daemon::ask`].
    pub fn status(&self) -> Result<StatusReport, LabError> {
        self.ask(&Request::Status)
    }

    /// The other nodes, as it sees them.
    ///
    /// # Errors
    /// As [`Daemon::ask`].
    pub fn peers(&self) -> Result<Vec<PeerInfo>, LabError> {
        self.ask(&Request::Peers)
    }

    /// Sends a signal to one process of this daemon. Nothing happens when it is gone already.
    pub fn signal(pid: u32, signal: Signal) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it as a service manager would (SIGTERM, 5 s, SIGKILL) and returns how it ended; `None` when it had to be killed.
    pub fn end(&mut self) -> Option<ExitStatus> {
        let children = self.children();
        Self::signal(self.pid(), Signal::TERM);
        let ended = self.wait(END);
        if ended.is_none() {
            Self::signal(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
        // A switch whose keeper is gone ends by itself; one that does not is ours to end.
        let deadline = Instant::now() + Duration::from_secs(2);
        for pid in children {
            while is_vswitchd(pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if is_vswitchd(pid) {
                Self::signal(pid, Signal::KILL);
            }
            while alive(pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        ended
    }

    /// Kills keeper and switch at once, as a power cut would, and waits until both are gone.
    pub fn kill_all(&mut self) {
        let children = self.children();
        Self::signal(self.pid(), Signal::KILL);
        for pid in &children {
            Self::signal(*pid, Signal::KILL);
        }
        let _ = self.child.wait();
        let deadline = Instant::now() + END;
        while children.iter().any(|pid| alive(*pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end, at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.keep && !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.end();
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Whether `pid` still holds files: a dying process does until its last thread is gone and it is a zombie.
fn alive(pid: u32) -> bool {
    let zombie = |stat: String| stat.contains(") Z ");
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !zombie(stat) || threads() > 1)
}

/// Whether `pid` is alive and runs our daemon: process ids are reused.
fn is_vswitchd(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    alive(pid) && exe.is_ok_and(|exe| exe.to_string_lossy().contains("vswitchd"))
}

/// What lab to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// The underlay.
    pub shape: Shape,
    /// The tunnel between the nodes.
    pub tunnel: TunnelKind,
    /// Every node watches this very directory of manifests, to which the lab adds nothing. [`Options::policy`] goes before.
    pub manifests: Option<PathBuf>,
    /// Lines added to every node's configuration, e.g. a `[metrics]` section.
    pub extra: String,
    /// Lines added to its `[node]` section.
    pub node: String,
    /// Run under the policies of this directory: every node reads one copy of it, to which a Pod object is added for
    /// each pod that [`Lab::pod`] attaches.
    pub policy: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shape: Shape::default(),
            tunnel: TunnelKind::Vxlan,
            manifests: None,
            extra: String::new(),
            node: String::new(),
            policy: None,
        }
    }
}

/// A bed with a daemon on each node. Pods are attached by the caller and must be dropped first; the fields here drop in
/// order, daemons before the bed.
#[derive(Debug)]
pub struct Lab {
    /// One daemon per node; `None` where the caller took it or the node is left to the kernel.
    pub daemons: Vec<Option<Daemon>>,
    /// The namespaces.
    pub bed: Bed,
    /// The programs in use.
    pub programs: Programs,
    /// The manifests that every node reads, when it runs under policy.
    pub manifests: Option<Manifests>,
    options: Options,
    stop: Stop,
}

impl Lab {
    /// Builds the bed and starts a daemon on every node.
    ///
    /// # Errors
    /// The first step that failed; everything made before it is taken down.
    pub fn start(programs: &Programs, options: Options, stop: &Stop) -> Result<Lab, LabError> {
        let mut lab = Lab::bed_only(programs, options, stop)?;
        for node in 0..lab.bed.nodes.len() {
            lab.start_node(node)?;
        }
        Ok(lab)
    }

    /// Builds the bed and starts no daemon yet.
    ///
    /// # Errors
    /// As [`Bed::build`].
    pub fn bed_only(programs: &Programs, options: Options, stop: &Stop) -> Result<Lab, LabError> {
        stop.check()?;
        let bed = Bed::build(options.shape)?;
        let daemons = bed.nodes.iter().map(|_| None).collect();
        let copy = |from: &PathBuf| Manifests::copy(from, &bed.dir().join("manifests"));
        let manifests = options.policy.as_ref().map(copy).transpose()?;
        Ok(Lab { daemons, bed, programs: programs.clone(), manifests, options, stop: stop.clone() })
    }

    /// Writes node `i`'s configuration (counted from 0) and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, i: usize) -> Result<PathBuf, LabError> {
        let plan = self.bed.plan(i);
        let dir = self.bed.dir().join(format!("n{}", plan.n));
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        let path = dir.join("vswitch.toml");
        let manifests = self.manifests.as_ref().map(Manifests::dir).or(self.options.manifests.as_deref());
        let mut text = plan.config(self.options.tunnel, self.bed.dir(), "eth0", &self.bed.plans(), manifests);
        text = text.replacen("[node]\n", &format!("[node]\n{}", self.options.node), 1);
        text.push_str(&self.options.extra);
        fs::write(&path, text).map_err(LabError::file(&path))?;
        Ok(path)
    }

    /// Starts node `i`'s daemon, again after it ended.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_node(&mut self, i: usize) -> Result<(), LabError> {
        self.stop.check()?;
        let config = self.write_config(i)?;
        let daemon =
            Daemon::start(&self.programs, &self.bed.nodes[i], i + 1, &config, &self.run_dir(i), &self.stop)?;
        self.daemons[i] = Some(daemon);
        Ok(())
    }

    /// Node `i`'s run directory.
    pub fn run_dir(&self, i: usize) -> PathBuf {
        self.bed.dir().join(format!("n{}/run", i + 1))
    }

    /// Node `i`'s daemon.
    pub fn daemon(&self, i: usize) -> Option<&Daemon> {
        self.daemons[i].as_ref()
    }

    /// The CNI plugin, pointed at node `i`.
    pub fn cni(&self, i: usize) -> Cni {
        Cni::new(self.programs.cni(), self.run_dir(i).join("vswitchd.sock"))
    }

    /// Makes a pod's namespace and attaches it to node `i` through the plugin. Under policy, what is known of the pod is
    /// written to the manifests: namespace `default`, labels `pod` (its name) and `node`.
    ///
    /// # Errors
    /// When the namespace cannot be made, or the plugin refuses.
    pub fn pod(&self, i: usize, name: &str) -> Result<Attached, LabError> {
        self.stop.check()?;
        let netns = Netns::new(&self.bed.name(name))?;
        let pod = Attached::add(self.cni(i), netns, &PodName::new("default", name), &[])?;
        if let Some(manifests) = &self.manifests {
            let node = format!("n{}", i + 1);
            let labels = json!({"pod": name, "node": node});
            manifests.write(&format!("lab-pod-{name}"), &[pod.object(&node, &labels, &json!([]))])?;
        }
        Ok(pod)
    }

    /// Waits until everything written to the manifests so far is in force on every node that runs.
    ///
    /// # Errors
    /// [`LabError::NotInForce`] after 5 s.
    pub fn settle(&self) -> Result<(), LabError> {
        let Some(manifests) = &self.manifests else { return Ok(()) };
        manifests.settle(&self.daemons)
    }

    /// Whether the packet arrives, as the daemon of the sender's node (`i`) explains it.
    ///
    /// # Errors
    /// When the daemon does not answer, or does not know the pod.
    pub fn trace(
        &self,
        i: usize,
        from: &PodName,
        to: IpAddr,
        proto: Proto,
        port: Option<u16>,
    ) -> Result<bool, LabError> {
        let Some(daemon) = self.daemon(i) else { return Ok(false) };
        let trace = Request::Trace(Trace { from: from.to_string(), to, port, proto });
        Ok(daemon.ask::<TraceReport>(&trace)?.delivered)
    }

    /// Packets dropped on node `i` for reasons whose name contains `word`, as the control socket tells.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn drops(&self, i: usize, word: &str) -> Result<u64, LabError> {
        let Some(daemon) = self.daemon(i) else { return Ok(0) };
        let reasons: Vec<DropInfo> = daemon.ask(&Request::Drops)?;
        Ok(reasons.iter().filter(|drop| drop.reason.contains(word)).map(|drop| drop.count).sum())
    }

    /// Leaves everything running when dropped.
    pub fn keep(&mut self) {
        self.daemons.iter_mut().flatten().for_each(Daemon::keep);
        self.bed.keep();
    }

    /// The node's own addresses on the underlay.
    pub fn node_addresses(&self, i: usize) -> [IpAddr; 2] {
        let plan = self.bed.plan(i);
        [plan.address().into(), plan.address6().into()]
    }
}
