//! One named network namespace, deleted when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cmd;
use super::error::LabError;

/// A network namespace below `/run/netns` that the lab made and will delete.
#[derive(Debug)]
pub struct Netns {
    name: Box<str>,
    path: PathBuf,
    keep: bool,
}

impl Netns {
    /// Makes the namespace and sets its loopback device up.
    ///
    /// # Errors
    /// When `ip netns add` fails: no privilege, or the name is taken.
    pub fn new(name: &str) -> Result<Netns, LabError> {
        cmd::run(&format!("ip netns add {name}"))?;
        let netns = Netns { name: name.into(), path: Path::new("/run/netns").join(name), keep: false };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it: `/run/netns/<name>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `ip <line>` inside.
    ///
    /// # Errors
    /// As [`super::run_words`].
    pub fn ip(&self, line: &str) -> Result<String, LabError> {
        cmd::run(&format!("ip -n {} {line}", self.name))
    }

    /// Runs any command line inside, split at white space.
    ///
    /// # Errors
    /// As [`super::run_words`].
    pub fn run(&self, line: &str) -> Result<String, LabError> {
        cmd::run(&format!("nsenter --net={} {line}", self.path.display()))
    }

    /// Runs a command inside whose arguments may contain spaces.
    ///
    /// # Errors
    /// As [`super::run_args`].
    pub fn run_args(&self, words: &[&str]) -> Result<String, LabError> {
        let net = format!("--net={}", self.path.display());
        let mut all = vec!["nsenter", net.as_str()];
        all.extend_from_slice(words);
        cmd::run_args(&all)
    }

    /// A command that will run inside; the caller adds arguments and starts it. Its process is the program itself.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = cmd::command("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Sets a sysctl below `net.` inside, e.g. `("ipv4.ip_forward", "1")`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = PathBuf::from("/proc/sys/net").join(key.replace('.', "/"));
        super::within(&self.path, || std::fs::write(&path, value))?.map_err(LabError::file(&path))
    }

    /// Makes IPv6 addresses of links made from now on usable at once: no duplicate address detection, which takes a
    /// second or two and would be measured instead of the network.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn without_dad(&self) -> Result<(), LabError> {
        self.sysctl("ipv6.conf.all.accept_dad", "0")?;
        self.sysctl("ipv6.conf.default.accept_dad", "0")?;
        self.sysctl("ipv6.conf.default.dad_transmits", "0")
    }

    /// Leaves the namespace in place when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Deletes the namespace now. Links inside go with it.
    fn delete(&self) {
        // Nothing useful can be done when it fails: someone else deleted it, which is what we want.
        let _ = cmd::run(&format!("ip netns del {}", self.name));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep {
            self.delete();
        }
    }
}
