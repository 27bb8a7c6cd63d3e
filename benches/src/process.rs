//! What a node's daemon costs, keeper and switch together: memory, processor time, wakeups. Read from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vswitch::lab::Daemon;

/// Resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Pages in memory, KiB. A page that both processes map counts twice.
    pub rss_kib: u64,
    /// The same, each page divided by how many processes of the machine map it.
    pub pss_kib: u64,
}

impl Memory {
    /// Of a node's processes now.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn of(daemon: &Daemon) -> Result<Memory> {
        let mut sum = Memory::default();
        for pid in pids(daemon)? {
            // Exact, unlike VmRSS, which counts in batches of a thread each.
            let text = read(&format!("/proc/{pid}/smaps_rollup"))?;
            let field =
                |name| field(&text, name).with_context(|| format!("{name} in /proc/{pid}/smaps_rollup"));
            sum.rss_kib += field("Rss:")?;
            sum.pss_kib += field("Pss:")?;
        }
        Ok(sum)
    }
}

/// What the processes did over a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Busy {
    /// Share of one processor, percent.
    pub cpu_percent: f64,
    /// How often a second one of their threads went to sleep of its own will, and so had been woken.
    pub wakeups_s: f64,
}

impl Busy {
    /// Looks at a node's processes for `length`.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn over(daemon: &Daemon, length: Duration) -> Result<Busy> {
        let pids = pids(daemon)?;
        let (before, began) = (threads(&pids)?, Instant::now());
        std::thread::sleep(length);
        let (after, took) = (threads(&pids)?, began.elapsed());
        Ok(between(&before, &after, took))
    }
}

/// Seconds of processor time that a node's processes have used so far.
///
/// # Errors
/// When one of them is gone.
pub fn ran(daemon: &Daemon) -> Result<f64> {
    Ok(threads(&pids(daemon)?)?.values().map(|[ran, _]| *ran as f64 / 1e9).sum())
}

/// Nanoseconds run and voluntary switches of each thread.
type Threads = BTreeMap<u32, [u64; 2]>;

fn between(before: &Threads, after: &Threads, took: Duration) -> Busy {
    let mut sum = [0; 2];
    for (tid, now) in after {
        let earlier = before.get(tid).copied().unwrap_or_default();
        for ((sum, now), earlier) in sum.iter_mut().zip(now).zip(earlier) {
            *sum += now.saturating_sub(earlier);
        }
    }
    let seconds = took.as_secs_f64();
    Busy { cpu_percent: sum[0] as f64 / 1e7 / seconds, wakeups_s: sum[1] as f64 / seconds }
}

fn threads(pids: &[u32]) -> Result<Threads> {
    let mut all = Threads::new();
    for pid in pids {
        let dir = format!("/proc/{pid}/task");
        for task in fs::read_dir(&dir).context(dir)? {
            let tid = task?.file_name().to_string_lossy().into_owned();
            let at = |file: &str| format!("/proc/{pid}/task/{tid}/{file}");
            // A thread may end between being listed and being read.
            let (Ok(times), Ok(status)) = (read(&at("schedstat")), read(&at("status"))) else { continue };
            let ran = times.split_whitespace().next().and_then(|word| word.parse().ok());
            let ran = ran.with_context(|| at("schedstat"))?;
            let slept = field(&status, "voluntary_ctxt_switches:").with_context(|| at("status"))?;
            all.insert(tid.parse()?, [ran, slept]);
        }
    }
    ensure!(!all.is_empty(), "no thread of {pids:?} is left");
    Ok(all)
}

/// Keeper and switch.
fn pids(daemon: &Daemon) -> Result<Vec<u32>> {
    let children = daemon.children();
    ensure!(!children.is_empty(), "the keeper {} has no switch", daemon.pid());
    Ok([vec![daemon.pid()], children].concat())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t9\nPss_Dirty:  1 kB\nPss:   1234 kB\n";
        assert_eq!(field(text, "Pss:"), Some(1234));
        assert_eq!(field(text, "voluntary_ctxt_switches:"), None);
    }

    #[test]
    fn a_thread_that_is_new_counts_from_its_start_and_one_that_ended_does_not() {
        let before = Threads::from([(1, [1_000_000, 5]), (2, [70, 70])]);
        let after = Threads::from([(1, [11_000_000, 15]), (3, [10_000_000, 10])]);
        let busy = between(&before, &after, Duration::from_secs(2));
        assert!((busy.cpu_percent - 1.0).abs() < 1e-9, "{busy:?}");
        assert!((busy.wakeups_s - 10.0).abs() < 1e-9, "{busy:?}");
    }

    #[test]
    fn this_very_process_can_be_read() {
        let mine = [std::process::id()];
        let before = threads(&mine).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert!(between(&before, &threads(&mine).unwrap(), Duration::from_millis(5)).wakeups_s >= 1.0);
    }
}
