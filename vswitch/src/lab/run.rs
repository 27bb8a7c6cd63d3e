//! `vsctl lab`: builds, checks, reports, takes down.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::attach::Attached;
use super::bed::Shape;
use super::checks::Checks;
use super::daemon::{Lab, Options};
use super::error::LabError;
use super::plan::TunnelKind;
use super::programs::Programs;
use super::report::Report;
use super::rootless;
use super::stop::Stop;

/// Options of `vsctl lab`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How the nodes reach each other: vxlan, udp, ipip or direct.
    #[arg(long, default_value = "vxlan")]
    pub tunnel: TunnelKind,
    /// How many nodes.
    #[arg(long, default_value_t = 2)]
    pub nodes: usize,
    /// How many pods on each node.
    #[arg(long, default_value_t = 2)]
    pub pods: usize,
    /// A directory of manifests to run under; pods are known as default/n1p1 and so on, with labels `pod: n1p1` and
    /// `node: n1`, and a check passes when a packet fares as `vsctl trace` says.
    #[arg(long, value_name = "DIR")]
    pub policy: Option<PathBuf>,
    /// Leave everything running, and say how to look at it and how to remove it.
    #[arg(long)]
    pub keep: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the lab, prints its report to standard output and its errors to standard error.
#[allow(clippy::print_stdout, clippy::print_stderr)] // the body of a program
pub fn run(args: &Args) -> ExitCode {
    match checked(args) {
        Ok(report) => {
            if args.json {
                println!("{}", report.json());
            } else {
                print!("{}", report.table());
            }
            if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("vsctl lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn checked(args: &Args) -> Result<Report, LabError> {
    for (option, value, min, max) in [("nodes", args.nodes, 1, 50), ("pods", args.pods, 1, 50)] {
        if !(min..=max).contains(&value) {
            return Err(LabError::Range { option, value, min, max });
        }
    }
    rootless::ensure_root()?;
    let stop = Stop::on_signals()?;
    let programs = Programs::find()?;
    let shape = Shape { nodes: args.nodes, outside: true, ..Shape::default() };
    let options = Options { shape, tunnel: args.tunnel, policy: args.policy.clone(), ..Options::default() };
    say(args, &format!("{} nodes, {} pods on each, tunnel {}", args.nodes, args.pods, args.tunnel));
    let mut lab = Lab::start(&programs, options, &stop)?;
    let mut pods: Vec<(usize, Attached)> = Vec::new();
    for node in 0..args.nodes {
        for i in 1..=args.pods {
            pods.push((node, lab.pod(node, &format!("n{}p{i}", node + 1))?));
        }
    }
    lab.settle()?;
    let report = Checks::new(&lab, &pods, args.tunnel, &stop).all();
    if args.keep {
        pods.iter_mut().for_each(|(_, pod)| pod.keep());
        lab.keep();
        let text = keep(&lab, &pods)?;
        say(args, &text);
    }
    // Pods go first, then the daemons, then the namespaces.
    drop(pods);
    drop(lab);
    report
}

/// Progress goes to standard error, so that standard output holds the report alone.
#[allow(clippy::print_stderr)]
fn say(args: &Args, text: &str) {
    if !args.json || args.keep {
        eprintln!("lab: {text}");
    }
}

/// Writes the script that removes a kept lab, and says what there is to see.
fn keep(lab: &Lab, pods: &[(usize, Attached)]) -> Result<String, LabError> {
    let mut script = String::from("#!/bin/sh\n# Removes this lab.\n");
    let daemons: Vec<String> = lab.daemons.iter().flatten().map(|daemon| daemon.pid().to_string()).collect();
    let _ = writeln!(script, "kill {}\nsleep 1", daemons.join(" "));
    let list = super::run_words("ip netns list")?;
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if name.starts_with(lab.bed.prefix()) {
            let _ = writeln!(script, "ip netns del {name}");
        }
    }
    let _ = writeln!(script, "rm -r {}", lab.bed.dir().display());
    let path = lab.bed.dir().join("down.sh");
    fs::write(&path, script).map_err(LabError::file(&path))?;
    let mut text = String::from("kept running\n");
    for (node, pod) in pods {
        let (name, v4, v6) = (pod.netns.name(), pod.v4, pod.v6);
        let _ = writeln!(text, "  ip netns exec {name} sh    # a pod of node {}: {v4}, {v6}", node + 1);
    }
    for daemon in lab.daemons.iter().flatten() {
        let _ = writeln!(text, "  vsctl --socket {} status", daemon.socket().display());
    }
    let _ = write!(text, "  sh {}    # removes it", path.display());
    Ok(text)
}
