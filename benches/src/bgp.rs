//! A router with a large table, and what a node makes of it: BIRD tells [`ROUTES`] routes of another AS.
//!
//! "Taken" is what the default configuration asks for: received, let in by import, chosen, and installed in the
//! host's kernel. The clock runs from the established session to the last route in the kernel. Meanwhile two pods of the
//! node play UDP ping-pong. The same BIRD has told the same table to another BIRD before, which installs it too: what
//! the ping-pong suffers then is the machine's doing, for all of them share its processors. BIRD itself runs only when
//! nobody else wants to (`SCHED_IDLE`): in a data centre it is another machine.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::api::{BgpQuery, BgpReport, Request};
use vswitch::lab::{Attached, Daemon, Lab, Options, Programs, Shape, Stop, TunnelKind, run_words, within};
use vswitch_tests::routers::{Make, Router};

use crate::stats::quantile;

/// Routes told.
pub const ROUTES: usize = 1_000_000;
/// Routes with one set of attributes, about as in the Internet's table.
const ALIKE: usize = 6;
/// How long loading may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two rounds of the ping-pong.
const PAUSE: Duration = Duration::from_millis(1);
const PORT: u16 = 9200;

/// What was seen.
#[derive(Debug, Default, serde::Serialize)]
pub struct Loaded {
    /// Routes told.
    pub routes: usize,
    /// Seconds from the established session to all routes received and chosen.
    pub chosen_s: f64,
    /// Seconds until they were in the kernel as well.
    pub taken_s: f64,
    /// Most memory the switch's process had, MiB: `VmHWM`, everything in it.
    pub rss_mib: f64,
    /// The same before the session, MiB.
    pub before_mib: f64,
    /// Seconds until all of them were gone again, after the router withdrew them.
    pub gone_s: f64,
    /// Microseconds of the ping-pong's round trips at the median and the 99th percentile: while nothing happened.
    pub quiet_us: [f64; 2],
    /// While BIRD told the table to another BIRD.
    pub third_us: [f64; 2],
    /// While the node took it.
    pub load_us: [f64; 2],
}

impl Loaded {
    /// The table's lines.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} routes from BIRD (eBGP, {ALIKE} with one set of attributes): chosen after {:.1} s, in the kernel after {:.1} s (goal 10), \
             withdrawn after {:.1} s\n  memory of the switch {:.0} MiB at most (goal 512), {:.0} before\n",
            self.routes, self.chosen_s, self.taken_s, self.gone_s, self.rss_mib, self.before_mib
        );
        let row = |us: [f64; 2]| format!("{:.0} us at the median, {:.0} us p99", us[0], us[1]);
        for (what, us) in [
            ("quiet", self.quiet_us),
            ("BIRD loads another BIRD", self.third_us),
            ("BIRD loads the node", self.load_us),
        ] {
            let _ = writeln!(text, "  ping-pong of two pods, {what:24} {}", row(us));
        }
        let _ = writeln!(
            text,
            "  p99 while loading / quiet: {:.2}, / other BIRD: {:.2} (goal 1.2)",
            self.load_us[1] / self.quiet_us[1],
            self.load_us[1] / self.third_us[1]
        );
        text
    }
}

/// Loads the table.
///
/// # Errors
/// When something cannot be built, or the table is not taken.
pub fn run(programs: &Programs, stop: &Stop, routes: usize) -> Result<Loaded> {
    let shape = Shape { nodes: 1, outside: true, ..Shape::default() };
    let options = Options { shape, tunnel: TunnelKind::Direct, ..Options::default() };
    let mut lab = Lab::bed_only(programs, options, stop)?;
    let mut router = router(&lab, 9);
    router.start(&bird(9, &[(1, false), (10, false)], &table(routes)));
    for pid in router.pids() {
        run_words(&format!("chrt --idle -p 0 {pid}"))?;
    }
    until("BIRD's own table", stop, || Ok(count(&router, "told") >= routes))?;
    start(&mut lab, stop, 9)?;
    let pods = [lab.pod(0, "a")?, lab.pod(0, "b")?];
    let rounds = Rounds::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let playing = scope.spawn(|| rounds.play(&pods, &over));
        let seen = measure(&lab, &router, &rounds, stop, routes);
        over.store(true, Ordering::Relaxed);
        playing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        seen
    })
}

fn measure(lab: &Lab, router: &Router, rounds: &Rounds, stop: &Stop, routes: usize) -> Result<Loaded> {
    let daemon = lab.daemon(0).context("it runs")?;
    let mut seen = Loaded { routes, before_mib: peak(daemon)?, ..Loaded::default() };
    rounds.take();
    std::thread::sleep(Duration::from_secs(5));
    seen.quiet_us = rounds.take();

    let mut sink = self::router(lab, 10);
    sink.start(&bird(10, &[(9, true)], ""));
    until("two BIRDs to meet", stop, || {
        let _ = router.ask("enable n10");
        Ok(router.ask("show protocols n10").contains("Established"))
    })?;
    rounds.take();
    until("the other BIRD to have the table", stop, || Ok(count(&sink, "n9") >= routes))?;
    seen.third_us = rounds.take();
    let _ = router.ask("disable n10");
    sink.stop(true);
    drop(sink);
    std::thread::sleep(Duration::from_secs(2));

    let _ = router.ask("enable n1");
    until("a session", stop, || Ok(neighbour(daemon)?.0 == "Established"))?;
    rounds.take();
    let began = Instant::now();
    until("all routes to be chosen", stop, || Ok(neighbour(daemon)?.1 as usize >= routes))?;
    seen.chosen_s = began.elapsed().as_secs_f64();
    until("all routes to be written", stop, || Ok(neighbour(daemon)?.2 == 0))?;
    seen.taken_s = began.elapsed().as_secs_f64();
    seen.load_us = rounds.take();
    ensure!(in_kernel(lab)? >= routes, "{} routes in the kernel", in_kernel(lab)?);
    seen.rss_mib = peak(daemon)?;

    let _ = router.ask("disable told");
    let began = Instant::now();
    until("all routes to be gone", stop, || {
        let (_, received, waiting) = neighbour(daemon)?;
        Ok(received == 0 && waiting == 0)
    })?;
    seen.gone_s = began.elapsed().as_secs_f64();
    ensure!(in_kernel(lab)? < 100, "{} routes stay in the kernel", in_kernel(lab)?);
    Ok(seen)
}

/// State of the router's session, prefixes of it that are chosen, and changes that wait for the kernel.
pub(crate) fn neighbour(daemon: &Daemon) -> Result<(String, u32, u64)> {
    let report: BgpReport = daemon.ask(&Request::Bgp { query: BgpQuery::Peers })?;
    let peer = report.peers.first().context("the router is a neighbour")?;
    let least = peer.received[0].min(peer.accepted[0]).min(peer.chosen[0]);
    Ok((peer.state.clone(), least, report.waiting))
}

/// Prefixes in the node's kernel, as it counts them itself.
fn in_kernel(lab: &Lab) -> Result<usize> {
    let text = lab.bed.nodes[0].run("cat /proc/net/fib_triestat")?;
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse().ok());
    counts.max().context("/proc/net/fib_triestat has counts")
}

/// Most memory that the process with the tables had, MiB.
fn peak(daemon: &Daemon) -> Result<f64> {
    let kib = |pid: u32| -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    let all = daemon.children().into_iter().filter_map(kib);
    all.reduce(f64::max).map(|kib| kib / 1024.0).context("the switch runs")
}

/// Routes of one protocol of a BIRD.
fn count(router: &Router, protocol: &str) -> usize {
    let text = router.ask(&format!("show route protocol {protocol} count"));
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

/// Waits; the state is looked at every 20 ms.
pub(crate) fn until(what: &str, stop: &Stop, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        stop.check()?;
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A router on the bed's wire.
pub(crate) fn router(lab: &Lab, host: u8) -> Router {
    Router::new(&lab.bed.name(&format!("r{host}")), &lab.bed.name("wire"), Make::Bird, host)
}

/// Starts the node with one neighbour for each of these routers.
pub(crate) fn start(lab: &mut Lab, stop: &Stop, host: u8) -> Result<()> {
    let neighbour = format!("[[bgp.peer]]\naddress = \"{}\"\nasn = {}\n", Router::address(host), asn(host));
    start_with(lab, stop, &neighbour)
}

/// Starts the node with these neighbours.
pub(crate) fn start_with(lab: &mut Lab, stop: &Stop, neighbours: &str) -> Result<()> {
    let config = lab.write_config(0)?;
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{text}[bgp]\nasn = 64512\nmesh = false\n{neighbours}"))?;
    let run = lab.run_dir(0);
    lab.daemons[0] = Some(Daemon::start(&lab.programs, &lab.bed.nodes[0], 1, &config, &run, stop)?);
    Ok(())
}

/// The AS of a router, or of the node.
pub(crate) fn asn(host: u8) -> u32 {
    if host == 1 { 64_512 } else { 65_000 + u32::from(host) }
}

/// BIRD as router `host` with these neighbours, each of another AS and switched on or not.
fn bird(host: u8, neighbours: &[(u8, bool)], told: &str) -> String {
    let mut text = format!(
        "log stderr {{ warning, error, fatal }};\nrouter id {};\nprotocol device {{}}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n{told}",
        Router::address(host)
    );
    for (other, enabled) in neighbours {
        let _ = write!(
            text,
            "protocol bgp n{other} {{ disabled {}; local as {}; neighbor {} as {}; connect delay time 1;\n\
             connect retry time 1; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n",
            if *enabled { "no" } else { "yes" },
            asn(host),
            Router::address(*other),
            asn(*other)
        );
    }
    text
}

/// That many routes with the lengths that the Internet's table has most, from 20.0.0.0 on.
fn table(routes: usize) -> String {
    const LENGTHS: [u8; 10] = [24, 24, 22, 24, 23, 24, 24, 20, 24, 24];
    let mut text = "protocol static told { ipv4;\n".to_owned();
    let mut at = u32::from_be_bytes([20, 0, 0, 0]);
    for (i, length) in LENGTHS.iter().cycle().take(routes).enumerate() {
        let size = 1 << (32 - length);
        at = at.next_multiple_of(size);
        let set = i / ALIKE;
        let _ = writeln!(
            text,
            "route {}/{length} blackhole {{ bgp_community.add(({},{})); }};",
            Ipv4Addr::from(at),
            1 + (set >> 16),
            set & 0xffff
        );
        at += size;
    }
    text + "}\n"
}

/// Round trips of the ping-pong since they were last taken, microseconds.
#[derive(Default)]
struct Rounds(Mutex<Vec<f64>>);

impl Rounds {
    /// Median and 99th percentile.
    fn take(&self) -> [f64; 2] {
        let rounds = self.0.lock().map(|mut rounds| std::mem::take(&mut *rounds)).unwrap_or_default();
        [quantile(&rounds, 0.5), quantile(&rounds, 0.99)]
    }

    /// Plays until it is over.
    fn play(&self, pods: &[Attached; 2], over: &AtomicBool) -> Result<()> {
        let wall = within(pods[1].netns.path(), || UdpSocket::bind(("0.0.0.0", PORT)))??;
        let ball = within(pods[0].netns.path(), || UdpSocket::bind(("0.0.0.0", PORT)))??;
        for socket in [&wall, &ball] {
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        }
        let to = SocketAddr::new(pods[1].v4, PORT);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Ok((n, from)) = wall.recv_from(&mut [0; 64]) {
                        let _ = wall.send_to(&[0; 64][..n], from);
                    }
                }
            });
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                ball.send_to(&[0; 16], to)?;
                // One that is lost counts with the whole wait.
                let _ = ball.recv_from(&mut [0; 64]);
                if let Ok(mut rounds) = self.0.lock() {
                    rounds.push(began.elapsed().as_secs_f64() * 1e6);
                }
                std::thread::sleep(PAUSE);
            }
            Ok(())
        })
    }
}
