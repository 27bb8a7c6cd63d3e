//! `vswitch-compare`: throughput, processor time and attach time beside the kernel's own pod network.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use vswitch::lab::{Programs, Stop};
use vswitch_benches::cubic::Allowed;
use vswitch_benches::report::{Comparison, Measured};
use vswitch_benches::rows::Row;
use vswitch_benches::{bgp, cni, iperf, label, policy, reroute};

/// Compares pod networks in interleaved pairs. Needs root.
#[derive(Debug, Parser)]
struct Args {
    /// Pairs for each row; 12 or more for figures to be quoted.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Seconds of each run after its warm-up.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Rows, by their short names: aa g1 g2 g4 g5 cni policy label bgp reroute.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Two pairs of two seconds.
    #[arg(long)]
    quick: bool,
    /// Writes everything measured to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fails when a row stays below what it must reach.
    #[arg(long)]
    check: bool,
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn main() -> ExitCode {
    let args = Args::parse();
    match compare(&args) {
        Ok(comparison) => {
            println!("{}", comparison.table());
            if args.check && !comparison.rows.iter().all(Measured::met) {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            eprintln!("vswitch-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr)]
fn compare(args: &Args) -> anyhow::Result<Comparison> {
    let (pairs, seconds) = if args.quick { (2, 2) } else { (args.pairs.max(1), args.seconds.max(1)) };
    for id in &args.rows {
        anyhow::ensure!(
            ["cni", "policy", "label", "bgp", "reroute"].contains(&id.as_str())
                || Row::ALL.iter().any(|row| row.id() == id),
            "--rows {id}: no such row"
        );
    }
    let wanted = |id: &str| args.rows.is_empty() || args.rows.iter().any(|row| row == id);
    let (stop, programs) = (Stop::on_signals()?, Programs::find()?);
    let cubic = Allowed::add()?;
    let mut comparison = Comparison {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("kernel release")?
            .trim()
            .to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        seconds,
        rows: Vec::new(),
        cni: None,
        policy: None,
        label: None,
        bgp: None,
        reroute: None,
    };
    for row in Row::ALL.into_iter().filter(|row| wanted(row.id())) {
        eprintln!("{}: {}", row.id(), row.title());
        let networks = row.networks(&programs, &stop, &cubic).with_context(|| format!("row {}", row.id()))?;
        let mut runs: [Vec<iperf::Run>; 2] = [Vec::new(), Vec::new()];
        for pair in 0..pairs {
            let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                stop.check()?;
                let run = networks[side].measure(seconds).with_context(|| format!("row {}", row.id()))?;
                eprintln!("  {} {:.2} Gbit/s, {} retransmits", ["A", "B"][side], run.gbit_s, run.retransmits);
                runs[side].push(run);
            }
        }
        let [a, b] = runs;
        comparison.rows.push(Measured::new(row, a, b));
    }
    if wanted("cni") {
        eprintln!("cni: attach and detach");
        comparison.cni = Some(cni::run(&programs, &stop, if args.quick { 10 } else { 40 })?);
    }
    if wanted("policy") {
        eprintln!("policy: rules");
        comparison.policy = Some(policy::run(&programs, &stop, &cubic, pairs, seconds)?);
    }
    if wanted("label") {
        eprintln!("label: a change felt by packets");
        comparison.label = Some(label::run(&programs, &stop, if args.quick { 20 } else { 200 })?);
    }
    if wanted("bgp") {
        eprintln!("bgp: a large table");
        comparison.bgp = Some(bgp::run(&programs, &stop, if args.quick { 100_000 } else { bgp::ROUTES })?);
    }
    if wanted("reroute") {
        eprintln!("reroute: an UPDATE felt by packets");
        comparison.reroute = Some(reroute::run(&programs, &stop, if args.quick { 20 } else { 200 })?);
    }
    if let Some(path) = &args.json {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        serde_json::to_writer_pretty(file, &comparison)?;
    }
    Ok(comparison)
}
