//! One iperf3 run between two pods, with the machine's processor time around it.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use vswitch::lab::Netns;

use crate::cpu::Cpu;

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

/// One TCP stream (cubic) from `from` to `to`, an address inside `far`, for `seconds` after one second of warm-up.
///
/// # Errors
/// When iperf3 is missing or fails.
pub fn run(from: &Netns, far: &Netns, to: IpAddr, seconds: u32) -> anyhow::Result<Run> {
    let program = Path::new("iperf3");
    let server =
        far.command(program).args(["-s", "-1"]).stdout(Stdio::null()).spawn().context("iperf3 -s")?;
    let _server = Server(server);
    wait_listening(far)?;
    let (to, seconds) = (to.to_string(), seconds.to_string());
    let (before, began) = (Cpu::now()?, Instant::now());
    let out = from
        .command(program)
        .args(["-c", &to, "-C", "cubic", "-O", "1", "-t", &seconds, "-J"])
        .output()
        .context("iperf3 -c")?;
    let (used, wall) = (Cpu::now()?.since(before), began.elapsed().as_secs_f64());
    let json: Value = serde_json::from_slice(&out.stdout).context("iperf3 printed no JSON")?;
    if let Some(error) = json["error"].as_str() {
        bail!("iperf3 to {to}: {error}");
    }
    read(&json, used, wall).context("iperf3's report lacks its sums")
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
