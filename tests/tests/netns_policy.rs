//! NetworkPolicy on real packets: cases of `tests/data/netpol-cases.json` between real pods on two real nodes.
//!
//! Nine pods stay attached for the whole test; each state of a case is one manifest that is renamed into place on both
//! nodes. Then every pod tries every other pod on every port of the case's table, all at once: TCP by connecting, UDP by a
//! datagram that is seen or not, SCTP (which this test's kernel need not speak) by an INIT that a raw socket sees or not.
//! What arrives must be what the table says, and `vsctl trace`, asked on the sender's node, must have said so before.
//!
//! Pods have the addresses of the case, but for those on the second node: their last octet is 128 higher, so that each node
//! has ranges of its own. Addresses of policies are changed alike where they are single pods'.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{Proto, Request, StatusReport, Trace, TraceReport};
use control::client::Client;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use vswitch::lab::{Cni, Daemon, Lab, Netns, Options, Stop, within};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

const CASES: &str = include_str!("../data/netpol-cases.json");
/// How long a packet may take that is allowed; none that is denied is waited for longer.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a manifest may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(2);
const SCTP: i32 = 132;
/// Ports on which sending sockets are bound: from here on, one a try, so that no flow is an older one's.
const FIRST_SOURCE: u16 = 10_000;

/// Every `STRIDE`th case is played; each kind of rule has several neighbours. `VSWITCH_NETPOL=all` plays all of them.
const STRIDE: usize = 3;

/// Where a pod of the cases is, by its last octet: `a` and `c` on the first node, `b` on the second.
fn placed(case_addr: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = case_addr.octets();
    Ipv4Addr::new(a, b, c, if d == 11 { d + 128 } else { d })
}

/// A protocol and a port.
type Target = (String, u16);

/// A pod that stays attached.
struct Pod {
    node: usize,
    addr: Ipv4Addr,
    netns: Netns,
    cni: Cni,
    tcp: BTreeMap<u16, TcpListener>,
    udp: BTreeMap<u16, UdpSocket>,
    sctp: UdpSocket,
}

fn opened(socket: Socket) -> io::Result<OwnedFd> {
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Pod {
    fn attach(lab: &Lab, namespace: &str, name: &str, node: usize, addr: Ipv4Addr) -> Pod {
        let (cni, netns) = (lab.cni(node), Netns::new(&lab.bed.name(&format!("{namespace}{name}"))).unwrap());
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};IP={addr}");
        let path = netns.path().to_string_lossy().into_owned();
        cni.must("ADD", netns.name(), &path, &args, &cni.config(&Value::Null)).unwrap();
        let raw = || opened(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP)))?);
        let sctp = within(netns.path(), raw).unwrap().unwrap().into();
        Pod { node, addr, netns, cni, tcp: BTreeMap::new(), udp: BTreeMap::new(), sctp }
    }

    /// Opens what does not listen yet.
    fn listen(&mut self, ports: &BTreeSet<Target>) {
        let open = |kind, port: u16| -> io::Result<OwnedFd> {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            if kind == Type::STREAM {
                socket.listen(64)?;
            }
            opened(socket)
        };
        let (tcp, udp) = (&mut self.tcp, &mut self.udp);
        within(self.netns.path(), || {
            for (proto, port) in ports {
                match proto.as_str() {
                    "TCP" if !tcp.contains_key(port) => {
                        tcp.insert(*port, open(Type::STREAM, *port).unwrap().into());
                    }
                    "UDP" if !udp.contains_key(port) => {
                        udp.insert(*port, open(Type::DGRAM, *port).unwrap().into());
                    }
                    _ => {}
                }
            }
        })
        .unwrap();
    }

    /// Takes everything that came: the numbers of UDP and SCTP tries.
    fn received(&self) -> BTreeSet<u32> {
        let (mut got, mut buffer) = (BTreeSet::new(), [0; 256]);
        let mut drain = |socket: &UdpSocket, at: usize| {
            while let Ok(n) = socket.recv(&mut buffer) {
                if let Some(number) = buffer[..n].get(at..at + 4).and_then(<[u8]>::first_chunk) {
                    got.insert(u32::from_be_bytes(*number));
                }
            }
        };
        self.udp.values().for_each(|socket| drain(socket, 0));
        // A raw socket gives the IP header, too; the number is the INIT's initiate tag.
        drain(&self.sctp, 20 + 12 + 4);
        self.tcp.values().for_each(|listener| while listener.accept().is_ok() {});
        got
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let path = self.netns.path().to_string_lossy().into_owned();
        let _ = self.cni.call("DEL", self.netns.name(), &path, "", &self.cni.config(&Value::Null));
    }
}

/// An INIT (RFC 9260, section 3.3.2) with a number as its tag. Nobody here looks at its checksum.
fn init(sport: u16, dport: u16, number: u32) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[..2].copy_from_slice(&sport.to_be_bytes());
    packet[2..4].copy_from_slice(&dport.to_be_bytes());
    packet[12] = 1;
    packet[15] = 20;
    packet[16..20].copy_from_slice(&number.to_be_bytes());
    packet[20..24].copy_from_slice(&[0, 1, 0, 0]);
    packet[25] = 1;
    packet[27] = 1;
    packet
}

/// One row of a table.
struct Row {
    src: String,
    dst: String,
    target: Target,
    allowed: bool,
}

/// What a row's packet set off from its sender.
enum Try {
    Tcp(Socket),
    /// UDP and SCTP: the receiver tells.
    Datagram,
}

/// Sends one packet for each row of a sender, from inside its namespace.
fn send(pod: &Pod, rows: &[(u32, &Row)], pods: &BTreeMap<String, Pod>, source: u16) -> Vec<(u32, Try)> {
    let one = |(number, row): &(u32, &Row)| -> io::Result<(u32, Try)> {
        let (proto, port) = &row.target;
        let to = SocketAddr::from((pods[&row.dst].addr, *port));
        let sport = source + (*number % 50_000) as u16;
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, sport));
        let done = match proto.as_str() {
            "TCP" => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.set_reuse_address(true)?;
                socket.set_linger(Some(Duration::ZERO))?;
                socket.bind(&from.into())?;
                match socket.connect(&to.into()) {
                    Err(e) if e.raw_os_error() != Some(115) => return Err(e),
                    _ => Try::Tcp(socket),
                }
            }
            "UDP" => {
                UdpSocket::bind(from)?.send_to(&number.to_be_bytes(), to)?;
                Try::Datagram
            }
            _ => {
                pod.sctp.send_to(&init(sport, *port, *number), to)?;
                Try::Datagram
            }
        };
        Ok((*number, done))
    };
    within(pod.netns.path(), || rows.iter().map(one).collect::<io::Result<Vec<_>>>()).unwrap().unwrap()
}

/// Which rows' packets arrive.
fn arrivals(rows: &[Row], pods: &BTreeMap<String, Pod>, first: u32) -> BTreeSet<u32> {
    let mut by_sender: BTreeMap<&str, Vec<(u32, &Row)>> = BTreeMap::new();
    for (number, row) in (first..).zip(rows) {
        by_sender.entry(&row.src).or_default().push((number, row));
    }
    let mut tcp: Vec<(u32, Socket)> = Vec::new();
    for (src, rows) in &by_sender {
        for (number, sent) in send(&pods[*src], rows, pods, FIRST_SOURCE) {
            if let Try::Tcp(socket) = sent {
                tcp.push((number, socket));
            }
        }
    }
    let expected = rows.iter().filter(|row| row.allowed).count();
    let (began, mut got) = (Instant::now(), BTreeSet::new());
    // What is denied must have its time to arrive all the same; what is allowed may be late on a busy machine.
    while began.elapsed() < PATIENCE || (got.len() < expected && began.elapsed() < 8 * PATIENCE) {
        std::thread::sleep(Duration::from_millis(10));
        pods.values().for_each(|pod| got.extend(pod.received()));
        got.extend(tcp.iter().filter(|(_, socket)| socket.peer_addr().is_ok()).map(|(number, _)| *number));
    }
    got
}

/// The objects of a state, its namespaces and pods included, in one document.
fn manifest(state: &Value, marker: u32) -> String {
    let mut items = Vec::new();
    for policy in state["policies"].as_array().unwrap() {
        let mut policy = policy.clone();
        move_blocks(&mut policy);
        items.push(policy);
    }
    for (name, namespace) in state["namespaces"].as_object().unwrap() {
        let metadata = json!({"name": name, "labels": namespace["labels"]});
        items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        for (pod, of) in namespace["pods"].as_object().unwrap() {
            let addr: Ipv4Addr = of["ip"].as_str().unwrap().parse().unwrap();
            let ports = of["ports"].as_array().into_iter().flatten().map(|port| {
                json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
            });
            items.push(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": name, "labels": of["labels"]},
                "spec": {"containers": [{"name": "c", "ports": ports.collect::<Vec<_>>()}]},
                "status": {"podIP": placed(addr).to_string()},
            }));
        }
    }
    // Makes each state another one, so that its coming into force can be seen.
    items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "marker",
        "labels": {"state": marker.to_string()}}}));
    items.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("m{marker}"),
        "namespace": "marker"}, "status": {"podIP": format!("10.77.200.{}", marker % 250 + 1)}}));
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Single addresses of pods in `ipBlock`s go where the pods are.
fn move_blocks(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(addr) = text.strip_suffix("/32").and_then(|a| a.parse::<Ipv4Addr>().ok())
                && addr.octets()[..2] == [10, 77]
            {
                *text = format!("{}/32", placed(addr));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(move_blocks),
        Value::Object(fields) => fields.values_mut().for_each(move_blocks),
        _ => {}
    }
}

/// Can the case be played with the nine pods where they are? Ranges longer than /24 would part what was moved.
fn playable(case: &Value) -> bool {
    let steps = case["steps"].as_array().into_iter().flatten();
    let at_home = |namespace: &str, pod: &str, ip: &str| {
        let third = ["x", "y", "z"].iter().position(|n| *n == namespace).map(|i| i + 1);
        let last = ["a", "b", "c"].iter().position(|n| *n == pod).map(|i| i + 10);
        matches!((third, last), (Some(third), Some(last)) if ip == format!("10.77.{third}.{last}"))
    };
    std::iter::once(case).chain(steps).all(|state| {
        let pods = state["namespaces"].as_object().unwrap().iter().all(|(namespace, of)| {
            of["pods"]
                .as_object()
                .unwrap()
                .iter()
                .all(|(pod, of)| at_home(namespace, pod, of["ip"].as_str().unwrap()))
        });
        let text = state["policies"].to_string();
        let narrow = text.split('"').filter_map(|word| word.strip_prefix("10.77."));
        pods && narrow
            .filter_map(|word| word.rsplit_once('/'))
            .all(|(_, len)| matches!(len, "16" | "24" | "32"))
    })
}

fn rows(state: &Value, pods: &BTreeMap<String, Pod>) -> Vec<Row> {
    let table = state["expect"]["table"].as_array().unwrap().iter();
    let row = |row: &Value| {
        let text = |i: usize| row[i].as_str().unwrap().to_owned();
        let (src, dst, port) = (text(0), text(1), u16::try_from(row[3].as_u64().unwrap()).unwrap());
        // A pod reaches itself without its switch.
        let between = src != dst && pods.contains_key(&src) && pods.contains_key(&dst);
        between.then(|| Row { src, dst, target: (text(2), port), allowed: row[4].as_bool().unwrap() })
    };
    table.filter_map(row).collect()
}

/// What `vsctl trace` says about a row, asked on the sender's node.
fn traced(clients: &mut [Client], row: &Row, pods: &BTreeMap<String, Pod>) -> bool {
    let proto = match row.target.0.as_str() {
        "TCP" => Proto::Tcp,
        "UDP" => Proto::Udp,
        _ => Proto::Sctp,
    };
    let (from, to) = (row.src.clone(), pods[&row.dst].addr.into());
    let request = Request::Trace(Trace { from, to, port: Some(row.target.1), proto });
    let report: TraceReport = clients[pods[&row.src].node].call(&request).unwrap();
    report.delivered
}

/// The configuration of a node: three ranges of half a /24 for its pods.
fn config(lab: &Lab, node: usize, manifests: &Path) -> String {
    let plans = lab.bed.plans();
    let half = |i: usize| -> String {
        let last = if i == 0 { 0 } else { 128 };
        (1..4).map(|third| format!("\"10.77.{third}.{last}/25\"")).collect::<Vec<_>>().join(", ")
    };
    let (own, peer, dir) = (plans[node], plans[1 - node], lab.bed.dir().display());
    format!(
        "[node]\nname = \"n{n}\"\nuplink = \"eth0\"\naddress = \"{}\"\nstate-dir = \"{dir}/n{n}/state\"\n\
         run-dir = \"{dir}/n{n}/run\"\n[network]\ncluster-cidrs = [\"10.77.0.0/16\"]\npod-cidrs = [{}]\n\
         [tunnel]\ntype = \"vxlan\"\nvtep-mac = \"{}\"\n[store]\nmanifests = \"{}\"\n\
         [[peer]]\nname = \"n{}\"\naddress = \"{}\"\npod-cidrs = [{}]\nvtep-mac = \"{}\"\n",
        own.address(),
        half(node),
        own.vtep_mac(),
        manifests.display(),
        peer.n,
        peer.address(),
        half(1 - node),
        peer.vtep_mac(),
        n = own.n,
    )
}

#[test]
fn what_the_tables_say_is_what_packets_experience() {
    let _turn = turn();
    let before = Leftovers::now();
    play();
    before.assert_same();
}

fn play() {
    let stop = Stop::default();
    let mut lab = Lab::bed_only(programs(), Options::default(), &stop).unwrap();
    let manifests = lab.bed.dir().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    for node in 0..2 {
        let path = lab.write_config(node).unwrap();
        std::fs::write(&path, config(&lab, node, &manifests)).unwrap();
        let run_dir = lab.run_dir(node);
        let daemon = Daemon::start(&lab.programs, &lab.bed.nodes[node], node + 1, &path, &run_dir, &stop);
        lab.daemons[node] = Some(daemon.unwrap());
    }
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    for (third, namespace) in (1..).zip(["x", "y", "z"]) {
        for (last, name) in (10..).zip(["a", "b", "c"]) {
            let addr = placed(Ipv4Addr::new(10, 77, third, last));
            let pod = Pod::attach(&lab, namespace, name, usize::from(last == 11), addr);
            pods.insert(format!("{namespace}/{name}"), pod);
        }
    }
    let connect =
        |node: usize| Client::connect(&lab.run_dir(node).join("vswitchd.sock"), 5 * IN_FORCE).unwrap();
    let mut clients = [connect(0), connect(1)];
    let all = std::env::var("VSWITCH_NETPOL").is_ok_and(|v| v == "all");
    let cases: Value = serde_json::from_str(CASES).unwrap();
    let playable: Vec<&Value> = cases["cases"].as_array().unwrap().iter().filter(|c| playable(c)).collect();
    assert!(playable.len() > 90, "{}", playable.len());
    let chosen = playable.iter().step_by(if all { 1 } else { STRIDE });
    let (mut states, mut tried, mut wrong) = (0, 0, Vec::new());
    for case in chosen {
        let steps = case["steps"].as_array().into_iter().flatten();
        for (step, state) in std::iter::once(*case).chain(steps).enumerate() {
            states += 1;
            let rows = rows(state, &pods);
            let ports = rows.iter().map(|row| row.target.clone()).collect();
            pods.values_mut().for_each(|pod| pod.listen(&ports));
            enforce(&mut clients, &lab, &manifests, &manifest(state, states));
            let told: Vec<bool> = rows.iter().map(|row| traced(&mut clients, row, &pods)).collect();
            let first = tried;
            tried += rows.len() as u32;
            let arrived = arrivals(&rows, &pods, first);
            for ((number, row), told) in (first..).zip(&rows).zip(told) {
                let got = arrived.contains(&number);
                if got != row.allowed || told != row.allowed {
                    let Row { src, dst, target: (proto, port), allowed } = row;
                    wrong.push(format!(
                        "{} state {step}: {src} to {dst} {proto} {port}: table {allowed}, trace {told}, packet {got}",
                        case["name"]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} tries: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(states >= 30 && tried > 10_000, "{states} states, {tried} tries");
}

/// Puts the state in force on both nodes.
fn enforce(clients: &mut [Client; 2], lab: &Lab, manifests: &Path, text: &str) {
    let mut epoch = |node: usize| clients[node].call::<StatusReport>(&Request::Status).unwrap();
    let before = [epoch(0).epoch, epoch(1).epoch];
    let temporary = lab.bed.dir().join("state.json");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, manifests.join("state.json")).unwrap();
    let began = Instant::now();
    for (node, before) in before.into_iter().enumerate() {
        loop {
            let status = epoch(node);
            assert_eq!(status.policy_problems, Vec::<String>::new());
            if status.epoch > before {
                break;
            }
            assert!(began.elapsed() < IN_FORCE, "not in force on node {node} after {IN_FORCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
