//! Other people's BGP speakers (BIRD, FRR, GoBGP), each in a network namespace of a test's own.
//!
//! They are started by path, with every file in a directory that is removed with them, and ended by their process id.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vswitch::lab::{Lab, Netns, run_words};

/// Which program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    /// BIRD 2.
    Bird,
    /// FRR: zebra and bgpd.
    Frr,
    /// GoBGP; it installs no kernel routes.
    GoBgp,
}

/// A router on a bed's wire.
#[derive(Debug)]
pub struct Router {
    /// Where it runs.
    pub netns: Netns,
    make: Make,
    dir: PathBuf,
    children: Vec<Child>,
}

impl Router {
    /// In a namespace that is there already.
    ///
    /// # Panics
    /// When its directory cannot be made.
    #[must_use]
    pub fn inside(netns: Netns, make: Make) -> Router {
        let dir = std::env::temp_dir().join(format!("{}-files", netns.name()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory can be made");
        Router { netns, make, dir, children: Vec::new() }
    }

    /// A namespace with `eth0` on the bridge `br0` of `hub`, the addresses 192.168.77.`host` and fd77::`host` (in
    /// hexadecimal digits as they are), and no program yet.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(name: &str, hub: &str, make: Make, host: u8) -> Router {
        let netns = Netns::new(name).expect("a namespace can be made");
        netns.without_dad().expect("settings can be made");
        for setting in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            netns.sysctl(setting, "1").expect("settings can be made");
        }
        let port = format!("r{host}");
        run_words(&format!("ip link add {port} netns {hub} type veth peer name eth0 netns {name}"))
            .and_then(|_| run_words(&format!("ip -n {hub} link set {port} master br0 up")))
            .and_then(|_| netns.ip("link set eth0 up"))
            .and_then(|_| netns.ip("link set lo up"))
            .and_then(|_| netns.ip(&format!("addr add {}/24 dev eth0", Router::address(host))))
            .and_then(|_| netns.ip(&format!("-6 addr add fd77::{host}/64 dev eth0")))
            .expect("the router's link can be made");
        Router::inside(netns, make)
    }

    /// Its address.
    #[must_use]
    pub fn address(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, host)
    }

    /// Starts the program with this configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self, config: &str) {
        self.launch(config, &[]);
    }

    /// Starts a BIRD again that kept its kernel routes, as after a crash.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn recover(&mut self, config: &str) {
        self.launch(config, &["-R"]);
    }

    fn launch(&mut self, config: &str, more: &[&str]) {
        let path = self.dir.join("config");
        fs::write(&path, config).expect("a file can be written");
        let at = |name: &str| self.dir.join(name).display().to_string();
        let file = path.display().to_string();
        match self.make {
            Make::Bird => {
                let (ctl, pid) = (at("ctl"), at("pid"));
                let words = [&["-f", "-c", &file, "-s", &ctl, "-P", &pid], more].concat();
                self.spawn("/usr/sbin/bird", &words);
            }
            Make::GoBgp => {
                self.spawn("/usr/bin/gobgpd", &["-f", &file, "-t", "toml", "--api-hosts", "127.0.0.1:50051"]);
            }
            Make::Frr => {
                let none = at("zebra.conf");
                fs::write(&none, "").expect("a file can be written");
                // It gives up root, and its sockets lie in the directory.
                run_words(&format!("chown -R frr:frr {}", self.dir.display()))
                    .expect("the user frr is there");
                let common = |me: &str| {
                    vec![
                        "-P".to_owned(),
                        "0".to_owned(),
                        "-z".to_owned(),
                        at("zserv"),
                        "--vty_socket".to_owned(),
                        at(""),
                        "-i".to_owned(),
                        at(&format!("{me}.pid")),
                        "--log".to_owned(),
                        "stdout".to_owned(),
                    ]
                };
                let zebra: Vec<String> = [vec!["-f".to_owned(), none.clone()], common("zebra")].concat();
                let bgpd: Vec<String> = [vec!["-f".to_owned(), file.clone()], common("bgpd")].concat();
                self.spawn("/usr/lib/frr/zebra", &zebra);
                let zserv = self.dir.join("zserv");
                wait("zebra", || zserv.exists());
                self.spawn("/usr/lib/frr/bgpd", &bgpd);
            }
        }
    }

    fn spawn(&mut self, program: &str, words: &[impl AsRef<str>]) {
        let log =
            File::create(self.dir.join(format!("log{}", self.children.len()))).expect("a log can be made");
        let mut command = self.netns.command(Path::new(program));
        command.args(words.iter().map(AsRef::as_ref)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = command.spawn().unwrap_or_else(|err| panic!("{program}: {err} (package missing?)"));
        self.children.push(child);
    }

    /// What its own tool says: `birdc`, `vtysh`-like commands of bgpd, `gobgp`.
    ///
    /// # Panics
    /// When the tool cannot be started.
    #[must_use]
    pub fn ask(&self, line: &str) -> String {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut command = match self.make {
            Make::Bird => {
                let mut command = Command::new("/usr/sbin/birdc");
                command.args(["-s", &at("ctl")]).args(line.split_whitespace());
                command
            }
            Make::Frr => {
                let mut command = Command::new("/usr/bin/vtysh");
                command.args(["--vty_socket", &at(""), "-d", "bgpd", "-c", line]);
                command
            }
            Make::GoBgp => {
                let mut command = self.netns.command(Path::new("/usr/bin/gobgp"));
                command.args(line.split_whitespace());
                command
            }
        };
        let Output { stdout, stderr, .. } = command.output().expect("the router's tool can be started");
        String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)
    }

    /// What the programs wrote.
    #[must_use]
    pub fn log(&self) -> String {
        (0..self.children.len())
            .map(|i| fs::read_to_string(self.dir.join(format!("log{i}"))).unwrap_or_default())
            .collect()
    }

    /// Process ids of its programs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Sends all its processes a signal.
    pub fn signal(&self, signal: Signal) {
        for child in &self.children {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended already needs none.
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Ends its processes; without a word to its neighbours when `rudely`.
    pub fn stop(&mut self, rudely: bool) {
        self.signal(if rudely { Signal::KILL } else { Signal::TERM });
        let patience = Instant::now() + Duration::from_secs(5);
        for child in &mut self.children {
            while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                if Instant::now() > patience {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.children.clear();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop(true);
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Puts node 3 of a lab into a subnet of its own, 192.168.78.0/24, behind a router that knows no pod.
///
/// # Panics
/// When a link cannot be made.
#[must_use]
pub fn behind_a_router(lab: &Lab) -> Netns {
    let router = Netns::new(&lab.bed.name("router")).unwrap();
    router.without_dad().unwrap();
    router.sysctl("ipv4.ip_forward", "1").unwrap();
    let (far, hub, name) = (&lab.bed.nodes[2], lab.bed.name("wire"), router.name());
    far.ip("link del eth0").unwrap();
    run_words(&format!("ip link add eth0 netns {} type veth peer name r1 netns {name}", far.name())).unwrap();
    run_words(&format!("ip link add far netns {hub} type veth peer name r0 netns {name}")).unwrap();
    run_words(&format!("ip -n {hub} link set far master br0 up")).unwrap();
    router.ip("addr add 192.168.77.250/24 dev r0").unwrap();
    router.ip("addr add 192.168.78.1/24 dev r1").unwrap();
    far.ip("addr add 192.168.78.3/24 dev eth0").unwrap();
    for link in ["r0", "r1"] {
        router.ip(&format!("link set {link} up")).unwrap();
    }
    far.ip("link set eth0 up").unwrap();
    far.ip("route add default via 192.168.78.1").unwrap();
    for node in &lab.bed.nodes[..2] {
        node.ip("route add 192.168.78.0/24 via 192.168.77.250").unwrap();
    }
    router
}

/// Waits until something is so.
///
/// # Panics
/// When it is not within 20 seconds.
pub fn wait(what: &str, is_so: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(20), is_so);
}

/// Waits until something is so, at most that long; how long it took.
///
/// # Panics
/// When it is not so by then.
pub fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}
