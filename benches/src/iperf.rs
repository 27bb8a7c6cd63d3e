//! iperf3 between two pods, with the machine's processor time around it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use vswitch::lab::Netns;

use crate::cpu::Cpu;
use crate::network::Pair;

/// What one run gave.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Run {
    /// Received, in Gbit/s, first second left out.
    pub gbit_s: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Busy processor seconds of the whole machine for each 10^9 bytes received.
    pub cpu_s_per_gb: f64,
    /// Share of both processors that the hypervisor took, 0 to 1.
    pub steal: f64,
}

/// The server's process, ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// TCP streams at the same time.
    pub streams: u32,
    /// The receiver sends.
    pub reverse: bool,
}

impl Default for Load {
    fn default() -> Load {
        Load { streams: 1, reverse: false }
    }
}

/// TCP streams (cubic) between the pods for `seconds` after one second of warm-up.
///
/// # Errors
/// When iperf3 is missing or fails.
pub fn run(pair: Pair<'_>, load: Load, seconds: u32) -> anyhow::Result<Run> {
    let Pair { from, far, to } = pair;
    let _server = serve(far)?;
    let (before, began) = (Cpu::now()?, Instant::now());
    let out = client(pair, load, seconds).arg("-J").output().context("iperf3 -c")?;
    let (used, wall) = (Cpu::now()?.since(before), began.elapsed().as_secs_f64());
    let json: Value = serde_json::from_slice(&out.stdout)
        .with_context(|| format!("iperf3 in {} printed no JSON", from.name()))?;
    if let Some(error) = json["error"].as_str() {
        bail!("iperf3 to {to}: {error}");
    }
    read(&json, used, wall).context("iperf3's report lacks its sums")
}

/// A stream that runs until it is dropped.
pub struct Busy {
    client: Child,
    _server: Server,
}

/// Starts one stream and waits a second, so that it runs at full speed.
///
/// # Errors
/// When iperf3 is missing, or ends at once.
pub fn busy(pair: Pair<'_>) -> anyhow::Result<Busy> {
    let server = serve(pair.far)?;
    let client = client(pair, Load::default(), 3600).stdout(Stdio::null()).spawn().context("iperf3 -c")?;
    let mut busy = Busy { client, _server: server };
    std::thread::sleep(Duration::from_secs(1));
    anyhow::ensure!(busy.client.try_wait()?.is_none(), "iperf3 to {} ended at once", pair.to);
    Ok(busy)
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn client(pair: Pair<'_>, load: Load, seconds: u32) -> Command {
    let mut command = pair.from.command(Path::new("iperf3"));
    let (to, seconds, streams) = (pair.to.to_string(), seconds.to_string(), load.streams.to_string());
    command.args(["-c", &to, "-C", "cubic", "-O", "1", "-t", &seconds, "-P", &streams]);
    if load.reverse {
        command.arg("-R");
    }
    command
}

fn serve(far: &Netns) -> anyhow::Result<Server> {
    let server = far
        .command(Path::new("iperf3"))
        .args(["-s", "-1"])
        .stdout(Stdio::null())
        .spawn()
        .context("iperf3 -s")?;
    let server = Server(server);
    wait_listening(far)?;
    Ok(server)
}

fn wait_listening(far: &Netns) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !far.run("ss -Hltn sport = :5201")?.contains(":5201") {
        if Instant::now() > deadline {
            bail!("the iperf3 server did not listen within 3 s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn read(json: &Value, used: Cpu, wall: f64) -> Option<Run> {
    let end = &json["end"];
    let gbit_s = end["sum_received"]["bits_per_second"].as_f64()? / 1e9;
    let retransmits = end["sum_sent"]["retransmits"].as_u64()?;
    // The processors worked through the warm-up as well, so its bytes count here.
    let bytes: f64 = json["intervals"].as_array()?.iter().filter_map(|i| i["sum"]["bytes"].as_f64()).sum();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[allow(clippy::cast_precision_loss)]
    let steal = used.steal / (wall * cores as f64);
    Some(Run { gbit_s, retransmits, cpu_s_per_gb: used.busy / (bytes / 1e9), steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_counts_for_the_processors_only() {
        let json = serde_json::json!({
            "intervals": [{"sum": {"bytes": 1e9, "omitted": true}}, {"sum": {"bytes": 3e9, "omitted": false}}],
            "end": {"sum_sent": {"retransmits": 3}, "sum_received": {"bits_per_second": 24e9}},
        });
        let run = read(&json, Cpu { busy: 8.0, steal: 0.0 }, 2.0).unwrap();
        assert!((run.gbit_s - 24.0).abs() < 1e-9);
        assert!((run.cpu_s_per_gb - 2.0).abs() < 1e-9);
        assert_eq!(run.retransmits, 3);
    }
}
