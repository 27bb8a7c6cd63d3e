//! A real etcd, and nodes on it, for tests: on free loopback ports, in a directory of its own, gone when dropped.

mod bed;
mod nodes;
mod proxy;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use control::config::EtcdSettings;
use vswitch::lab::{Netns, within};

pub use bed::{
    CONFIG, LivePod, SUBNETS, attach, bed, config, config_with, start, start_all, start_with, vsctl,
    vxlan_lease,
};
pub use nodes::{Heard, Node, quick};
pub use proxy::Proxy;

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One member.
#[derive(Debug)]
pub struct Etcd {
    child: Option<Child>,
    dir: PathBuf,
    args: Vec<String>,
    host: Ipv4Addr,
    port: u16,
    /// The network namespace it runs in; none = this process's.
    netns: Option<PathBuf>,
    scheme: &'static str,
    /// For `etcdctl`, before its verb.
    pub login: Vec<String>,
}

/// A directory of this test run's own.
#[must_use]
pub fn scratch(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("vswitch-{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// A loopback port that nobody has, and that nobody gets by chance before etcd takes it: below those that the kernel
/// gives to connections going out, of which the tests make thousands; and no port twice in one test run.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the kernel says it");
    let end: u32 = range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("a port");
    let start = end.saturating_sub(20_000).max(1024);
    assert!(start < end, "ip_local_port_range {range:?} leaves no port to listen at");
    // Test runs beside each other begin at different ones.
    let offset = std::process::id().wrapping_mul(97);
    let mut ports = std::iter::repeat_with(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset);
        u16::try_from(start + next % (end - start)).expect("below the range's end")
    });
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).expect("one is free")
}

/// Runs a program to its end; what it printed.
///
/// # Panics
/// When it does not run, or fails.
pub fn run(command: &mut Command) -> String {
    let text: String = format!("{command:?}").chars().take(500).collect();
    let out = command.output().unwrap_or_else(|err| panic!("{text}: {err}: see scripts/deps"));
    assert!(out.status.success(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(text.len() * 4 / 3 + 4);
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) as usize & 63;
            out.push(if digit <= chunk.len() { char::from(DIGITS[at]) } else { '=' });
        }
    }
    out
}

/// Waits until something is so.
///
/// # Panics
/// When it is not within [`PATIENCE`].
pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Etcd {
    /// One member without TLS.
    #[must_use]
    pub fn start() -> Etcd {
        Etcd::start_with(&[], "http")
    }

    /// One member with these arguments more.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(more: &[&str], scheme: &'static str) -> Etcd {
        Etcd::launch((Ipv4Addr::LOCALHOST, free_port()), &[free_port()], 0, None, more, scheme)
    }

    /// So many members of one store.
    #[must_use]
    pub fn members(count: usize) -> Vec<Etcd> {
        let peers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let start = |i| Etcd::launch((Ipv4Addr::LOCALHOST, free_port()), &peers, i, None, &[], "http");
        (0..count).map(start).collect()
    }

    /// One member in a network namespace, at an address of that and etcd's own ports.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn inside(netns: &Netns, host: Ipv4Addr) -> Etcd {
        Etcd::launch((host, 2379), &[2380], 0, Some(netns.path().to_owned()), &[], "http")
    }

    /// The member `own` of those that find each other at these ports.
    fn launch(
        (host, port): (Ipv4Addr, u16),
        members: &[u16],
        own: usize,
        netns: Option<PathBuf>,
        more: &[&str],
        scheme: &'static str,
    ) -> Etcd {
        let dir = scratch("etcd");
        let client = format!("{scheme}://{host}:{port}");
        let at = |peer: &u16| format!("http://127.0.0.1:{peer}");
        let peers = at(&members[own]);
        let cluster: Vec<String> =
            members.iter().enumerate().map(|(i, peer)| format!("t{i}={}", at(peer))).collect();
        // Here nobody need wait long for others before it leads.
        let fixed = "--log-level error --max-txn-ops 5000 --heartbeat-interval 20 --election-timeout 200";
        let mut args: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        args.extend(["--name".to_owned(), format!("t{own}"), "--data-dir".to_owned()]);
        args.push(dir.join("data").display().to_string());
        for (flag, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peers),
            ("--initial-advertise-peer-urls", &peers),
            ("--initial-cluster", &cluster.join(",")),
        ] {
            args.extend([flag.to_owned(), value.clone()]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let mut etcd = Etcd { child: None, dir, args, host, port, netns, scheme, login: Vec::new() };
        etcd.resume();
        etcd
    }

    /// Starts it again, with what it had.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn resume(&mut self) {
        let log = fs::File::create(self.dir.join("log")).expect("a log file");
        let mut command = self.command("etcd");
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("etcd runs: see scripts/deps"));
        wait("etcd listens", || self.connect().is_ok());
    }

    /// A program where etcd is.
    fn command(&self, program: &str) -> Command {
        let Some(netns) = &self.netns else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).args(["--", program]);
        command
    }

    /// A connection to it.
    fn connect(&self) -> std::io::Result<TcpStream> {
        let at = SocketAddr::from((self.host, self.port));
        match &self.netns {
            None => TcpStream::connect(at),
            Some(netns) => within(netns, || TcpStream::connect(at)).map_err(std::io::Error::other)?,
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How a node finds it.
    #[must_use]
    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings::plain(&self.url())
    }

    /// Runs `etcdctl`.
    ///
    /// # Panics
    /// When that fails.
    pub fn ctl(&self, args: &[&str]) -> String {
        let mut command = self.command("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url()))
            .args(&self.login)
            .args(args);
        run(&mut command)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", key, value]);
    }

    /// Writes a key if etcd takes it now.
    #[must_use]
    pub fn try_put(&self, key: &str, value: &str) -> bool {
        let mut command = self.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.url())).args(&self.login);
        command.args(["--command-timeout=1s", "put", "--", key, value]);
        command.output().is_ok_and(|out| out.status.success())
    }

    /// Writes many keys, two thousand in a transaction, through etcd's JSON gateway: `etcdctl` takes a second for a large
    /// value.
    ///
    /// # Panics
    /// When etcd refuses them.
    pub fn put_many(&self, pairs: impl IntoIterator<Item = (String, String)>) {
        let mut pairs = pairs.into_iter().peekable();
        while pairs.peek().is_some() {
            let put = |(key, value): (String, String)| {
                format!(r#"{{"request_put":{{"key":"{}","value":"{}"}}}}"#, base64(&key), base64(&value))
            };
            let puts: Vec<String> = pairs.by_ref().take(2000).map(put).collect();
            let body = format!(r#"{{"success":[{}]}}"#, puts.join(","));
            self.post("txn", &body);
        }
    }

    /// Writes a key in a millisecond or two, through etcd's JSON gateway.
    ///
    /// # Panics
    /// When etcd refuses it.
    pub fn put_fast(&self, key: &str, value: &str) {
        self.post("put", &format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key), base64(value)));
    }

    /// Removes a key as fast.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn delete_fast(&self, key: &str) {
        self.post("deleterange", &format!(r#"{{"key":"{}"}}"#, base64(key)));
    }

    fn post(&self, verb: &str, body: &str) {
        let mut stream = self.connect().expect("etcd listens");
        let head = format!(
            "POST /v3/kv/{verb} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    /// Removes all that it had, while it is down.
    ///
    /// # Panics
    /// When that fails.
    pub fn wipe(&self) {
        fs::remove_dir_all(self.dir.join("data")).expect("its directory goes");
    }

    /// A key's value; empty when there is none.
    #[must_use]
    pub fn get(&self, key: &str) -> String {
        self.ctl(&["get", "--print-value-only", "--", key]).trim_end_matches('\n').to_owned()
    }

    /// Names of the keys that begin so.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", "--", prefix]);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The etcd lease of a key, as hexadecimal digits; 0 = it has none.
    ///
    /// # Panics
    /// When there is no such key.
    #[must_use]
    pub fn lease_of(&self, key: &str) -> i64 {
        let text = self.ctl(&["get", "-w", "json", "--", key]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("etcdctl writes JSON");
        json["kvs"][0].get("lease").map_or(0, |lease| lease.as_i64().expect("a number"))
    }

    /// The revision it is at.
    ///
    /// # Panics
    /// When `etcdctl` does not say.
    #[must_use]
    pub fn revision(&self) -> i64 {
        let text = self.ctl(&["get", "-w", "json", "--", "none"]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("etcdctl writes JSON");
        json["header"]["revision"].as_i64().expect("a number")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("etcd said:\n{log}");
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An authority, a server's and a client's certificate, in PEM files of `dir`: `ca.pem`, `server.pem`, `server.key`,
/// `client.pem`, `client.key`, by `openssl`.
///
/// # Panics
/// When that fails.
pub fn certificates(dir: &Path) {
    let file = |name: &str| dir.join(name).display().to_string();
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    let more = ["-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&["req"][..], &curve, &more].concat());
    for (name, extensions) in [
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"),
        ("client", "subjectAltName=DNS:node\nextendedKeyUsage=clientAuth\n"),
    ] {
        let (key, csr, pem, ext) =
            (file(&format!("{name}.key")), file("csr"), file(&format!("{name}.pem")), file("ext"));
        fs::write(&ext, extensions).expect("a file");
        let subject = format!("/CN={name}");
        openssl(&[&["req"][..], &curve, &["-subj", &subject, "-keyout", &key, "-out", &csr]].concat());
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &ext,
            "-out",
            &pem,
        ]);
    }
}
