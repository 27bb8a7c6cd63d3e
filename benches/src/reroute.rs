//! From an UPDATE on the wire to the first packet that takes the new way.
//!
//! Two routers (BIRD) tell the same prefix, the first by the shorter path. It withdraws it and tells it again; a pod sends
//! datagrams there without pause. Both the UPDATE and the datagrams cross the node's `eth0`, where one capture gives
//! each the kernel's time: the first datagram to the other router's MAC address is the change's effect. Once for a
//! prefix of pods, which is the switch's own affair, and once for another one, which the host's kernel routes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitch::lab::{Attached, Lab, Options, Programs, Shape, Stop, TunnelKind, within};
use vswitch_tests::routers::Router;

use crate::bgp::{asn, router, start_with, until};
use crate::stats::quantile;

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(200);
/// Between two changes; another one each time, so that no timer is met again and again.
const BETWEEN: [u64; 5] = [61, 83, 97, 71, 109];
/// The prefixes: of pods, and another.
const POD: &str = "10.244.200.0/24";
const OTHER: &str = "172.20.0.0/24";

/// Milliseconds of each change.
#[derive(Debug, Default, serde::Serialize)]
pub struct Changes {
    /// Of a prefix of pods.
    pub pods: Vec<f64>,
    /// Of another prefix.
    pub other: Vec<f64>,
}

impl Changes {
    /// The table's lines.
    #[must_use]
    pub fn table(&self) -> String {
        let row = |what: &str, ms: &[f64]| {
            format!(
                "  {what:40} {:>6.2} ms at the median, {:>6.2} ms p99, {:>6.2} ms at most, of {}\n",
                quantile(ms, 0.5),
                quantile(ms, 0.99),
                quantile(ms, 1.0),
                ms.len()
            )
        };
        "\nfrom an UPDATE of BIRD to the first packet that takes the new way (goal: 20 ms p99)\n".to_owned()
            + &row("a pods' prefix, by the switch", &self.pods)
            + &row("another prefix, by the host's kernel", &self.other)
    }
}

/// Makes `changes` changes of each prefix.
///
/// # Errors
/// When something cannot be built, or a change has no effect.
pub fn run(programs: &Programs, stop: &Stop, changes: usize) -> Result<Changes> {
    let shape = Shape { nodes: 1, outside: true, ..Shape::default() };
    let options = Options { shape, tunnel: TunnelKind::Direct, ..Options::default() };
    let mut lab = Lab::bed_only(programs, options, stop)?;
    let (mut near, mut far) = (router(&lab, 9), router(&lab, 8));
    near.start(&bird(9, 0));
    far.start(&bird(8, 2));
    let neighbours: String = [9, 8]
        .map(|host| format!("[[bgp.peer]]\naddress = \"{}\"\nasn = {}\n", Router::address(host), asn(host)))
        .concat();
    start_with(&mut lab, stop, &neighbours)?;
    let pod = lab.pod(0, "a")?;
    for r in [&near, &far] {
        r.netns.ip("addr add 10.244.200.1/24 dev lo")?;
        r.netns.ip("addr add 172.20.0.1/24 dev lo")?;
        until("a session", stop, || Ok(r.ask("show protocols node").contains("Established")))?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let times =
        |to: Ipv4Addr, protocol: &str| times(&lab, &pod, (&near, &far), (to, protocol), stop, changes);
    Ok(Changes {
        pods: times(Ipv4Addr::new(10, 244, 200, 1), "pods")?,
        other: times(Ipv4Addr::new(172, 20, 0, 1), "kern")?,
    })
}

/// A BIRD that tells both prefixes, with its AS so many times more in the path.
fn bird(host: u8, prepend: usize) -> String {
    let longer = format!("bgp_path.prepend({}); ", asn(host)).repeat(prepend);
    format!(
        "log stderr {{ warning, error, fatal }};\nrouter id {};\nprotocol device {{}}\n\
         protocol static pods {{ ipv4; route {POD} blackhole; }}\n\
         protocol static kern {{ ipv4; route {OTHER} blackhole; }}\n\
         protocol bgp node {{ local as {}; neighbor {} as {}; connect delay time 1; connect retry time 1;\n\
         ipv4 {{ import none; export filter {{ {longer}accept; }}; }}; }}\n",
        Router::address(host),
        asn(host),
        Router::address(1),
        asn(1)
    )
}

fn times(
    lab: &Lab,
    pod: &Attached,
    (near, far): (&Router, &Router),
    (to, protocol): (Ipv4Addr, &str),
    stop: &Stop,
    changes: usize,
) -> Result<Vec<f64>> {
    let file = lab.bed.dir().join(format!("{protocol}.pcap"));
    let capture = Capture::start(lab, &file)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(pod, to, &over));
        let changed = (0..changes).zip(BETWEEN.iter().cycle()).try_for_each(|(i, pause)| {
            stop.check()?;
            std::thread::sleep(Duration::from_millis(*pause));
            let verb = if i % 2 == 0 { "disable" } else { "enable" };
            let said = near.ask(&format!("{verb} {protocol}"));
            ensure!(said.contains("abled"), "birdc {verb} {protocol}: {said}");
            Ok(())
        });
        std::thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::Relaxed);
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        changed
    })?;
    capture.end();
    let bytes = std::fs::read(&file)?;
    let frames = frames(&bytes).context("the capture cannot be read")?;
    let found = effects(&frames, mac(near)?, mac(far)?, Router::address(9), to);
    ensure!(found.len() >= changes * 9 / 10, "{} of {changes} changes were seen", found.len());
    Ok(found)
}

fn send(pod: &Attached, to: Ipv4Addr, over: &AtomicBool) -> Result<()> {
    let socket = within(pod.netns.path(), || UdpSocket::bind(("0.0.0.0", 0)))??;
    while !over.load(Ordering::Relaxed) {
        // Without a route for a moment: that is what is measured.
        let _ = socket.send_to(b"?", SocketAddr::new(to.into(), 9));
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn mac(router: &Router) -> Result<[u8; 6]> {
    let text = router.netns.ip("-o link show eth0")?;
    let address = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let bytes = address.context("eth0 has an address")?.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
    <[u8; 6]>::try_from(bytes).ok().context("a MAC address has six bytes")
}

/// `dumpcap` on the node's `eth0`.
struct Capture(Child);

impl Capture {
    fn start(lab: &Lab, file: &Path) -> Result<Capture> {
        let mut command = lab.bed.nodes[0].command(Path::new("/usr/bin/dumpcap"));
        command
            .args(["-q", "-P", "-i", "eth0", "-s", "2048", "-B", "16", "-f", "ip and not icmp", "-w"])
            .arg(file);
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("/usr/bin/dumpcap")?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(Capture(child))
    }

    fn end(mut self) {
        vswitch::lab::Daemon::signal(self.0.id(), rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

/// A frame and the kernel's time, microseconds.
type Frame<'a> = (f64, &'a [u8]);

/// The frames of a capture file (pcap, of this machine's byte order, microseconds or nanoseconds).
fn frames(file: &[u8]) -> Option<Vec<Frame<'_>>> {
    let unit = match u32::from_ne_bytes(*file.first_chunk()?) {
        0xa1b2_c3d4 => 1.0,
        0xa1b2_3c4d => 1e-3,
        _ => return None,
    };
    let mut rest = file.get(24..)?;
    let mut all = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let Some((frame, behind)) = behind.split_at_checked(word(8) as usize) else { break };
        all.push((f64::from(word(0)) * 1e6 + f64::from(word(4)) * unit, frame));
        rest = behind;
    }
    Some(all)
}

/// Milliseconds from each UPDATE of the near router to the first datagram that goes where it says.
fn effects(frames: &[Frame<'_>], near: [u8; 6], far: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<f64> {
    let mut found = Vec::new();
    let mut waiting: Option<(f64, [u8; 6])> = None;
    for (at, frame) in frames {
        let Some(ip) = frame.get(14..) else { continue };
        let (source, target) = (ip.get(12..16), ip.get(16..20));
        if ip.get(9) == Some(&6) && source == Some(&from.octets()) {
            if let Some(announces) = ip.get(20..).and_then(update) {
                waiting = Some((*at, if announces { near } else { far }));
            }
        } else if ip.get(9) == Some(&17)
            && target == Some(&to.octets())
            && let Some((since, mac)) = waiting
            && frame.first_chunk() == Some(&mac)
        {
            found.push((at - since) / 1e3);
            waiting = None;
        }
    }
    found
}

/// Is there an UPDATE in this TCP segment, and does it announce (true) or withdraw?
fn update(tcp: &[u8]) -> Option<bool> {
    let mut rest = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    while let Some(head) = rest.first_chunk::<19>() {
        let length = usize::from(u16::from_be_bytes([head[16], head[17]])).max(19);
        if head[18] == 2 {
            // Withdrawn routes: their length is not 0.
            return Some(rest.get(19..21)? == [0, 0]);
        }
        rest = rest.get(length..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_found_behind_other_messages() {
        let message = |kind: u8, body: &[u8]| {
            let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
            [&[0xff; 16][..], &length, &[kind], body].concat()
        };
        let tcp = |payload: &[u8]| [&[0; 12][..], &[0x50], &[0; 7], payload].concat();
        let keepalive = message(4, &[]);
        let withdrawal = message(2, &[0, 4, 24, 10, 244, 200, 0, 0]);
        assert_eq!(update(&tcp(&keepalive)), None);
        assert_eq!(update(&tcp(&[keepalive, withdrawal].concat())), Some(false));
        assert_eq!(update(&tcp(&message(2, &[0, 0, 0, 0]))), Some(true));
    }
}
