//! Processor time of the whole machine, from /proc/stat.

use std::fs;

use anyhow::Context;

/// Ticks a second of /proc/stat, fixed by the kernel's ABI.
const TICKS: f64 = 100.0;

/// Processor time since boot, all cores together, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// Neither idle nor stolen.
    pub busy: f64,
    /// Taken by the hypervisor.
    pub steal: f64,
}

impl Cpu {
    /// Reads it now.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn now() -> anyhow::Result<Cpu> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        parse(&text).context("/proc/stat has no cpu line")
    }

    /// What passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu { busy: self.busy - earlier.busy, steal: self.steal - earlier.steal }
    }
}

/// The `cpu` line: user nice system idle iowait irq softirq steal guest guest_nice. Guest time is within user.
fn parse(text: &str) -> Option<Cpu> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let t: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = t[..] else { return None };
    Some(Cpu { busy: (user + nice + system + irq + softirq) / TICKS, steal: steal / TICKS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_steal_are_not_busy() {
        let cpu = parse("cpu  100 10 40 9000 500 20 30 70 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!(cpu, Cpu { busy: 2.0, steal: 0.7 });
    }
}
