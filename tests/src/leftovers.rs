//! What a lab could leave behind on this machine, compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use vswitch::lab::run_words;

/// Everything of this test program's labs that is there now, and the links and firewall tables of the machine itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftovers {
    /// Network namespaces of our labs.
    pub namespaces: BTreeSet<String>,
    /// Links of the namespace the tests run in.
    pub links: BTreeSet<String>,
    /// nft tables of the namespace the tests run in.
    pub tables: BTreeSet<String>,
    /// Processes started with a file of our labs on their command line.
    pub processes: BTreeSet<String>,
    /// Files and directories of our labs.
    pub files: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Looks for the labs of this process.
    ///
    /// # Panics
    /// When `ip` or `nft` cannot be run.
    #[must_use]
    pub fn now() -> Leftovers {
        Self::of(std::process::id())
    }

    /// Looks for the labs of process `pid`.
    ///
    /// # Panics
    /// When `ip` or `nft` cannot be run.
    #[must_use]
    pub fn of(pid: u32) -> Leftovers {
        let ours = format!("vsl{pid}-");
        let words = |line: &str| run_words(line).expect("ip and nft run");
        Leftovers {
            namespaces: words("ip netns list")
                .lines()
                .filter(|line| line.starts_with(&ours))
                .map(str::to_owned)
                .collect(),
            links: words("ip -o link show")
                .lines()
                .filter_map(|line| line.split(':').nth(1))
                .map(|name| name.trim().to_owned())
                .collect(),
            tables: words("nft list tables").lines().map(str::to_owned).collect(),
            processes: processes(&ours),
            files: fs::read_dir(std::env::temp_dir())
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().contains(&ours))
                .collect(),
        }
    }

    /// Fails the test when anything is there now that was not when `self` was taken, or the other way round. Processes
    /// that are being reaped get a second.
    ///
    /// # Panics
    /// On a difference.
    pub fn assert_same(&self) {
        self.assert_same_for(std::process::id());
    }

    /// The same with the labs that process `pid` made since.
    ///
    /// # Panics
    /// On a difference.
    pub fn assert_same_for(&self, pid: u32) {
        for _ in 0..20 {
            if Self::of(pid) == *self {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!(Self::of(pid), *self, "something was left behind (left: now, right: before)");
    }
}

fn processes(word: &str) -> BTreeSet<String> {
    let me = std::process::id().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != me)
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(word).then(|| format!("{pid} {line}"))
        })
        .collect()
}
