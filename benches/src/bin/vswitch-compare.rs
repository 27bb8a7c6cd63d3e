//! `vswitch-compare`: throughput, processor time and attach time beside the kernel's own pod network.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use vswitch::lab::{Programs, Stop};
use vswitch_benches::cubic::Allowed;
use vswitch_benches::network::Network;
use vswitch_benches::report::{Comparison, Measured};
use vswitch_benches::rows::{self, Bench};
use vswitch_benches::scenario::Run;
use vswitch_benches::{bgp, cni, flows, label, loss, pods, policy, reroute, routes, soak};

/// What is measured beside [`rows::ALL`].
const OTHERS: [&str; 11] =
    ["cni", "rates", "policy", "pods", "routes", "flows", "loss", "soak", "label", "bgp", "reroute"];

/// Compares pod networks in interleaved pairs. Needs root.
#[derive(Debug, Parser)]
struct Args {
    /// Pairs for each row; 12 or more for figures to be quoted.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Seconds of each run after its warm-up.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Only these rows, by their short names.
    #[arg(long, value_delimiter = ',', value_parser = row_names())]
    rows: Vec<String>,
    /// The most telling rows, two pairs of two seconds each: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Seconds of row `soak`.
    #[arg(long, default_value_t = 600)]
    soak: u64,
    /// Writes everything measured to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a chart of each curve that is measured into this directory, as SVG.
    #[arg(long)]
    charts: Option<PathBuf>,
    /// Fails when a row stays below what it must reach.
    #[arg(long)]
    check: bool,
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn main() -> ExitCode {
    let args = Args::parse();
    let (comparison, failed) = match compare(&args) {
        Ok(done) => done,
        Err(error) => {
            eprintln!("vswitch-compare: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", comparison.table());
    for error in &failed {
        eprintln!("vswitch-compare: {error:#}");
    }
    let short = args.check && !comparison.met();
    if failed.is_empty() && !short { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What could be measured, and why the rest could not: a tool that one row misses costs the others nothing.
#[allow(clippy::print_stderr)]
fn compare(args: &Args) -> anyhow::Result<(Comparison, Vec<anyhow::Error>)> {
    let (pairs, seconds) = if args.quick { (2, 2) } else { (args.pairs.max(1), args.seconds.max(1)) };
    // All but the large ones, which take minutes each, unless they are asked for.
    let wanted = |id: &str, quick: bool| {
        if args.rows.is_empty() { quick || !args.quick } else { args.rows.iter().any(|row| row == id) }
    };
    let (stop, programs) = (Stop::on_signals()?, Programs::find()?);
    let cubic = Allowed::add()?;
    let mut failed = Vec::new();
    let mut rows = Vec::new();
    let chosen: Vec<&Bench> = rows::ALL.iter().filter(|bench| wanted(bench.id, bench.quick)).collect();
    for group in chosen.chunk_by(|one, next| one.shares(next)) {
        let networks = group[0]
            .networks(&programs, &stop, &cubic)
            .with_context(|| format!("networks of row {}", group[0].id));
        let Some(networks) = done(networks, &stop, &mut failed)? else { continue };
        for bench in group {
            let measured =
                measure(bench, &networks, pairs, seconds, &stop).with_context(|| format!("row {}", bench.id));
            rows.extend(done(measured, &stop, &mut failed)?.into_iter().flatten());
        }
    }
    // One of the others, where it is wanted.
    macro_rules! other {
        ($id:literal, $quick:literal, $what:literal, $run:expr) => {
            if wanted($id, $quick) {
                eprintln!("{}: {}", $id, $what);
                done($run.context($id), &stop, &mut failed)?
            } else {
                None
            }
        };
    }
    let few = |quick, all| if args.quick { quick } else { all };
    let comparison = Comparison {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("kernel release")?
            .trim()
            .to_owned(),
        commit: commit(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        seconds,
        rows,
        cni: other!("cni", true, "attach and detach", cni::run(&programs, &stop, few(10, 40), few(1, 4))),
        rates: other!(
            "rates",
            false,
            "new connections under 10,000 rules",
            policy::rates::run(&programs, &stop, &cubic, pairs, seconds)
        ),
        policy: other!("policy", false, "1 to 100,000 rules", policy::run(&programs, &stop, &cubic)),
        pods: other!(
            "pods",
            false,
            "2 to 250 on a node",
            pods::run(&programs, &stop, &cubic, pairs, seconds)
        ),
        routes: other!(
            "routes",
            false,
            "1 to 100,000",
            routes::run(&programs, &stop, &cubic, pairs, seconds)
        ),
        flows: other!("flows", false, "1,000 to 1,000,000", flows::run(&programs, &stop, pairs, seconds)),
        loss: other!(
            "loss",
            false,
            "one packet of 1,000 lost",
            loss::run(&programs, &stop, &cubic, pairs, seconds)
        ),
        soak: other!(
            "soak",
            false,
            "small datagrams for long",
            soak::run(&programs, &stop, Duration::from_secs(args.soak.max(1)))
        ),
        label: other!("label", false, "a change felt by packets", label::run(&programs, &stop, few(20, 200))),
        bgp: other!("bgp", false, "a large table", bgp::run(&programs, &stop, few(100_000, bgp::ROUTES))),
        reroute: other!(
            "reroute",
            false,
            "an UPDATE felt by packets",
            reroute::run(&programs, &stop, few(20, 200))
        ),
    };
    if let Some(dir) = &args.charts {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        for (stem, chart) in comparison.charts() {
            let path = dir.join(format!("{stem}.svg"));
            std::fs::write(&path, chart.svg()).with_context(|| path.display().to_string())?;
        }
    }
    if let Some(path) = &args.json {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        serde_json::to_writer_pretty(file, &comparison)?;
    }
    Ok((comparison, failed))
}

/// What came of a step; none = it is among those that failed.
///
/// # Errors
/// After Ctrl-C: then nothing further is to be measured.
#[allow(clippy::print_stderr)]
fn done<T>(
    step: anyhow::Result<T>,
    stop: &Stop,
    failed: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Option<T>> {
    stop.check()?;
    Ok(step.inspect_err(|error| eprintln!("  {error:#}")).map_err(|error| failed.push(error)).ok())
}

/// The runs of one row, and what its lines read off them.
#[allow(clippy::print_stderr)]
fn measure(
    bench: &Bench,
    networks: &[Box<dyn Network>; 2],
    pairs: usize,
    seconds: u32,
    stop: &Stop,
) -> anyhow::Result<Vec<Measured>> {
    eprintln!("{}: {}", bench.id, bench.lines.first().map_or("", |line| line.title));
    let offloads = [networks[0].offloads()?, networks[1].offloads()?];
    let mut runs: [Vec<Run>; 2] = [Vec::new(), Vec::new()];
    for pair in 0..pairs {
        for side in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            stop.check()?;
            let run = bench.scenario.run(&*networks[side], seconds)?;
            let values: Vec<String> = run.values.iter().map(|value| format!("{value:.2}")).collect();
            eprintln!("  {} {}", ["A", "B"][side], values.join(" "));
            runs[side].push(run);
        }
    }
    Ok(bench.lines.iter().map(|line| Measured::new(bench, line, &runs, &offloads)).collect())
}

/// The names that `--rows` takes.
fn row_names() -> Vec<&'static str> {
    rows::ALL.iter().map(|bench| bench.id).chain(OTHERS).collect()
}

/// The commit of the tree this runs in.
fn commit() -> String {
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let text = git.ok().filter(|out| out.status.success()).map(|out| out.stdout);
    text.and_then(|text| String::from_utf8(text).ok())
        .map_or("unknown".to_owned(), |text| text.trim().to_owned())
}
