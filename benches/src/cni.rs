//! Attaching and detaching a pod, against the reference plugins `bridge` and `host-local`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use vswitch::lab::{Bed, Lab, Netns, Options, Programs, Shape, Stop};

use crate::levels::Levels;
use crate::rows::Goal;
use crate::stats::quantile;

/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Pods that a runtime attaches at the same time, as after a node's start.
const CROWD: usize = 50;
/// Of the median of attaching one pod, and of the 99th percentile among a crowd's, to the reference's.
const ALONE: Levels = Levels::with_record(Goal::AtMost(1.0, 0.6), 0.4);
const CROWDED: Levels = Levels::of(Goal::AtMost(2.0, 1.0));

/// What was measured, in pairs.
#[derive(Debug, Default, serde::Serialize)]
pub struct Timings {
    /// Of `bridge` + `host-local`.
    pub reference: Times,
    /// Of `vswitch-cni`.
    pub ours: Times,
}

/// Milliseconds of one plugin's calls.
#[derive(Debug, Default, serde::Serialize)]
pub struct Times {
    /// Each ADD, one after the other.
    pub add: Vec<f64>,
    /// The DEL after it.
    pub del: Vec<f64>,
    /// ADDs of which fifty began together.
    pub crowd: Vec<f64>,
}

/// Attaches and detaches `count` pods with each plugin, alternating, and `crowds` times many pods at once.
///
/// # Errors
/// When a plugin refuses.
pub fn run(programs: &Programs, stop: &Stop, count: usize, crowds: usize) -> Result<Timings> {
    let shape = Shape { nodes: 1, ..Shape::default() };
    let bed = Bed::build(shape)?;
    let lab = Lab::start(programs, Options { shape, ..Options::default() }, stop)?;
    let reference = json!({
        "cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": bed.dir().join("host-local"),
            "ranges": [[{"subnet": bed.plan(0).pod_cidr()}], [{"subnet": bed.plan(0).pod_cidr6()}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        }
    });
    let reference = Plugin { path: Path::new(REFERENCE).join("bridge"), bed: &bed, config: reference };
    let ours = Plugin { path: programs.cni(), bed: &lab.bed, config: lab.cni(0).config(&Value::Null) };
    let mut timings = Timings::default();
    let Timings { reference: theirs, ours: mine } = &mut timings;
    let mut sides = [(&reference, theirs), (&ours, mine)];
    for n in 0..count + crowds {
        for (plugin, times) in &mut sides {
            stop.check()?;
            if n < count { plugin.one(n, times)? } else { plugin.crowd(times)? }
        }
        sides.reverse();
    }
    Ok(timings)
}

impl Timings {
    /// Whether the figures are what they must be.
    #[must_use]
    pub fn met(&self) -> bool {
        let [alone, crowded] = self.ratios();
        ALONE.met(alone) && CROWDED.met(crowded)
    }

    /// Ours / theirs: the median of an ADD alone, and the 99th percentile in a crowd.
    fn ratios(&self) -> [f64; 2] {
        let of = |times: fn(&Times) -> &[f64], share| {
            quantile(times(&self.ours), share) / quantile(times(&self.reference), share)
        };
        [of(|times| &times.add, 0.5), of(|times| &times.crowd, 0.99)]
    }

    /// The table's lines.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{:26} {:>16} {:>12} {:>6}\n",
            "attach a pod, ms", "bridge+host-local", "vswitch-cni", "B/A"
        );
        let mut line = |name: &str, of: &dyn Fn(&Times) -> f64, verdict: &str| {
            let (a, b) = (of(&self.reference), of(&self.ours));
            let _ = writeln!(text, "{name:26} {a:>16.1} {b:>12.1} {:>6.2}  {verdict}", b / a);
        };
        let [alone, crowded] = self.ratios();
        line("ADD p50", &|t| quantile(&t.add, 0.5), &ALONE.verdict(alone));
        line("ADD p99", &|t| quantile(&t.add, 0.99), "");
        line("DEL p50", &|t| quantile(&t.del, 0.5), "");
        let both = |t: &Times| t.add.iter().zip(&t.del).map(|(add, del)| add + del).collect::<Vec<_>>();
        line("ADD + DEL p50", &|t| quantile(&both(t), 0.5), "");
        line(&format!("{CROWD} ADDs at once, p50"), &|t| quantile(&t.crowd, 0.5), "");
        line(&format!("{CROWD} ADDs at once, p99"), &|t| quantile(&t.crowd, 0.99), &CROWDED.verdict(crowded));
        text
    }
}

/// A plugin and the node it attaches pods to.
struct Plugin<'a> {
    path: PathBuf,
    bed: &'a Bed,
    config: Value,
}

impl Plugin<'_> {
    /// One pod: attached, detached.
    fn one(&self, n: usize, times: &mut Times) -> Result<()> {
        let pod = Netns::new(&self.bed.name(&format!("c{n}")))?;
        times.add.push(self.call("ADD", &pod)?);
        times.del.push(self.call("DEL", &pod)?);
        Ok(())
    }

    /// Many pods attached at once, then detached.
    fn crowd(&self, times: &mut Times) -> Result<()> {
        let pods: Result<Vec<Netns>, _> =
            (0..CROWD).map(|n| Netns::new(&self.bed.name(&format!("m{n}")))).collect();
        let pods = pods?;
        let added: Result<Vec<f64>> = std::thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| self.call("ADD", pod))).collect();
            let ends = calls.into_iter().map(std::thread::ScopedJoinHandle::join);
            ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        times.crowd.extend(added?);
        pods.iter().try_for_each(|pod| self.call("DEL", pod).map(drop))
    }

    /// Runs it in the node's namespace and returns its milliseconds.
    fn call(&self, verb: &str, pod: &Netns) -> Result<f64> {
        let began = Instant::now();
        let mut child = self.bed.nodes[0]
            .command(&self.path)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.name())
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.path.parent().unwrap_or(Path::new(REFERENCE)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}", self.path.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.config.to_string().as_bytes())?;
        }
        let out = child.wait_with_output()?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        if !out.status.success() {
            bail!("{} {verb}: {}", self.path.display(), String::from_utf8_lossy(&out.stdout));
        }
        Ok(ms)
    }
}
