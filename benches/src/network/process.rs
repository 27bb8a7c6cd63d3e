//! A program of a network: started inside a node, its words in a file, ended by its process id. And the question all
//! networks are asked before they are handed out.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use vswitch::lab::{Daemon, Netns, ping};

use super::{Network, Pair};

/// How long a program may take until it serves, and a network until its pods answer.
const START: Duration = Duration::from_secs(10);
/// How long a program may take to end after SIGTERM before it is killed.
const END: Duration = Duration::from_secs(5);

/// A running program. Dropped: SIGTERM, then after 5 s SIGKILL.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `words` in `netns` with `env` added to the environment; both outputs go to the file `log`.
    ///
    /// # Errors
    /// When the log cannot be made, or the program cannot be started.
    pub(super) fn start(
        netns: &Netns,
        name: &str,
        words: &[&str],
        env: &[(&str, &Path)],
        log: PathBuf,
    ) -> Result<Process> {
        let name = format!("{name} in {}", netns.name());
        let (program, args) = words.split_first().context("a command has a program")?;
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let errors = file.try_clone().with_context(|| log.display().to_string())?;
        let child = netns
            .command(Path::new(program))
            .args(args)
            .envs(env.iter().copied())
            .stdout(Stdio::from(file))
            .stderr(Stdio::from(errors))
            .process_group(0) // Ctrl-C is ours to handle.
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { child, name, log })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has made the file `path`.
    ///
    /// # Errors
    /// When it ends before, or has not within 10 s.
    pub(super) fn wait_for(&mut self, path: &Path) -> Result<()> {
        let began = Instant::now();
        while !path.exists() {
            if let Ok(Some(status)) = self.child.try_wait() {
                bail!("{} ended with {status}; {}", self.name, self.last_words());
            }
            if began.elapsed() > START {
                let (name, path, words) = (&self.name, path.display(), self.last_words());
                bail!("{name} did not make {path} within {} s; {words}", START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last lines it wrote.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join(" | ");
        format!("last words of {}: {}", self.name, if last.is_empty() { "(none)" } else { &last })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = Instant::now() + END;
        Daemon::signal(self.pid(), Signal::TERM);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Both fail only when it is gone, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the pods of both pairs answer a ping.
///
/// # Errors
/// When one does not within 10 s; the error holds the last words of `programs`.
pub(super) fn answers(network: &impl Network, programs: &[&Process]) -> Result<()> {
    for Pair { from, to, .. } in [network.pair(), network.beside()] {
        let began = Instant::now();
        while !ping(from, to, 1, 0)?.all() {
            if began.elapsed() > START {
                let words: String =
                    programs.iter().map(|program| format!("; {}", program.last_words())).collect();
                bail!("{to} did not answer {} within {} s{words}", from.name(), START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
