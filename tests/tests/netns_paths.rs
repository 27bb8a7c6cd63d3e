//! The ways between nodes: a router whose next link is narrower, one that tells and one that swallows; what pods, peers and
//! metrics see of it, and that it is noticed when the way is wide again.

use std::path::Path;
use std::time::{Duration, Instant};

use vswitch::lab::{
    Attached, Daemon, Echo, Lab, Netns, Options, Stop, TunnelKind, ping, run_words, transfer, udp_echo,
};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// Two nodes with two routers between them: n1 - r1 - r2 - n2. The link in the middle is the narrow one.
struct Bed {
    lab: Lab,
    routers: [Netns; 2],
}

impl Bed {
    fn new(tunnel: TunnelKind) -> Bed {
        let mut lab =
            Lab::bed_only(programs(), Options { tunnel, ..Options::default() }, &Stop::default()).unwrap();
        lab.bed.nodes[0].ip("link del eth0").unwrap();
        let routers = [1, 2].map(|n| {
            let router = Netns::new(&lab.bed.name(&format!("r{n}"))).unwrap();
            router.without_dad().unwrap();
            router.sysctl("ipv4.ip_forward", "1").unwrap();
            // As fast as a test needs it to be told.
            router.sysctl("ipv4.icmp_ratelimit", "0").unwrap();
            let node = &lab.bed.nodes[n - 1];
            run_words(&format!(
                "ip link add eth0 netns {} type veth peer name in netns {}",
                node.name(),
                router.name()
            ))
            .unwrap();
            let net = 76 + n;
            node.ip(&format!("addr add 192.168.{net}.{n}/24 dev eth0")).unwrap();
            router.ip(&format!("addr add 192.168.{net}.250/24 dev in")).unwrap();
            node.ip("link set eth0 up").unwrap();
            router.ip("link set dev in up").unwrap();
            node.ip(&format!("route add default via 192.168.{net}.250")).unwrap();
            router
        });
        let [r1, r2] = &routers;
        run_words(&format!(
            "ip link add mid netns {} type veth peer name mid netns {}",
            r1.name(),
            r2.name()
        ))
        .unwrap();
        for (n, router, other) in [(1, r1, 78), (2, r2, 77)] {
            router.ip(&format!("addr add 10.9.9.{n}/24 dev mid")).unwrap();
            router.ip("link set mid up").unwrap();
            router.ip(&format!("route add 192.168.{other}.0/24 via 10.9.9.{}", 3 - n)).unwrap();
        }
        for i in 0..2 {
            let config = lab.write_config(i).unwrap();
            let text = std::fs::read_to_string(&config).unwrap();
            let four = text.lines().filter(|line| !line.starts_with("address6"));
            let text: String = four.flat_map(|line| [line, "\n"]).collect();
            std::fs::write(&config, text.replace("192.168.77.2\"", "192.168.78.2\"")).unwrap();
            let run: &Path = &lab.run_dir(i);
            let daemon = Daemon::start(programs(), &lab.bed.nodes[i], i + 1, &config, run, &Stop::default());
            lab.daemons[i] = Some(daemon.unwrap());
        }
        Bed { lab, routers }
    }

    /// Gives the link in the middle this MTU.
    fn narrow(&self, mtu: u32) {
        self.routers.iter().for_each(|r| drop(r.ip(&format!("link set mid mtu {mtu}")).unwrap()));
    }

    /// The routers say nothing about what is too large.
    fn silence(&self) {
        for router in &self.routers {
            for rule in [
                "add table ip hush",
                "add chain ip hush out { type filter hook output priority 0; }",
                "add rule ip hush out icmp type destination-unreachable drop",
            ] {
                router.run_args(&["nft", rule]).unwrap();
            }
        }
    }

    /// The largest packet toward the other node, as node `i` has it.
    fn mtu(&self, i: usize) -> u32 {
        self.lab.daemon(i).unwrap().peers().unwrap()[0].mtu
    }

    /// Waits until both nodes have this MTU toward each other, or one `less` bytes smaller.
    fn expect(&self, mtu: u32, less: u32, patience: u64) {
        let started = Instant::now();
        loop {
            let now = [self.mtu(0), self.mtu(1)];
            if now.iter().all(|m| (mtu - less..=mtu).contains(m)) {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(patience),
                "{now:?} after {patience} s, not {mtu}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Bulk TCP and large datagrams in both directions.
fn flows(a: &Attached, b: &Attached, what: &str) {
    for (from, to) in [(a, b), (b, a)] {
        transfer(from.netns.path(), to.netns.path(), to.v4, 4 << 20)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        udp_echo(from.netns.path(), to.v4, 20_000).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

/// The MTU that ping is told for a packet that may not be fragmented.
fn told(from: &Attached, to: &Attached, size: u32) -> String {
    let line = format!("ping -n -M do -c 2 -i 0.2 -W 1 -s {} {}", size - 28, to.v4);
    let words: Vec<&str> = line.split(' ').collect();
    let mut command = from.netns.command(Path::new(words[0]));
    let out = command.args(&words[1..]).output().unwrap();
    String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
}

#[test]
fn a_narrow_way_is_found_and_a_wide_one_too() {
    let _turn = turn();
    for (tunnel, overhead) in [(TunnelKind::Vxlan, 50), (TunnelKind::Ipip, 20)] {
        let bed = Bed::new(tunnel);
        let (a, b) = (bed.lab.pod(0, "a").unwrap(), bed.lab.pod(1, "b").unwrap());
        let _echoes = [&a, &b].map(|pod| Echo::start(pod.netns.path()).unwrap());
        assert!(ping(&a.netns, b.v4, 3, 10).unwrap().all());
        bed.expect(1500 - overhead, 0, 5);
        flows(&a, &b, "wide");

        bed.narrow(1400);
        // At once, before anybody can have noticed: never a black hole.
        flows(&a, &b, "just become narrow");
        let mtu = 1400 - overhead;
        bed.expect(mtu, 0, 10);
        flows(&a, &b, "narrow");
        let said = told(&a, &b, 1430);
        assert!(said.contains(&format!("mtu = {mtu}")) || said.contains(&format!("mtu={mtu}")), "{said}");
        let fits = format!("ping -n -M do -c 1 -W 1 -s {} {}", mtu - 28, b.v4);
        a.netns.run(&fits).unwrap_or_else(|e| panic!("what fits arrives: {e}"));
        // What may be fragmented is not held up.
        a.netns.run(&format!("ping -n -M dont -c 1 -W 1 -s 1400 {}", b.v4)).unwrap();
        let peers = bed.lab.daemon(0).unwrap().peers().unwrap();
        assert!(peers[0].rtt_us.is_some_and(|us| us < 1_000_000) && peers[0].echoes > 0, "{peers:?}");
        assert_eq!(peers[0].echoes_lost, 0);

        bed.narrow(1500);
        bed.expect(1500 - overhead, 0, 30);
        flows(&a, &b, "wide again");
    }
}

#[test]
fn a_way_that_swallows_large_packets_is_searched() {
    let _turn = turn();
    let bed = Bed::new(TunnelKind::Ipip);
    bed.silence();
    let (a, b) = (bed.lab.pod(0, "a").unwrap(), bed.lab.pod(1, "b").unwrap());
    let _echoes = [&a, &b].map(|pod| Echo::start(pod.netns.path()).unwrap());
    assert!(ping(&a.netns, b.v4, 3, 10).unwrap().all());
    bed.expect(1480, 0, 5);
    // Let it be known that large packets pass.
    std::thread::sleep(Duration::from_secs(4));
    bed.narrow(1400);
    // At first only what is known to pass, then exactly what does.
    bed.expect(1380, 100, 12);
    flows(&a, &b, "swallowing");
    bed.expect(1380, 8, 60);
    flows(&a, &b, "searched");
    // A peer that answers nothing keeps what it has, and is told to be silent.
    let before = bed.mtu(0);
    bed.routers[0].ip("link set mid down").unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let peer = bed.lab.daemon(0).unwrap().peers().unwrap().remove(0);
    assert_eq!(peer.mtu, before);
    assert!(peer.echoes_lost > 0, "{peer:?}");
}
