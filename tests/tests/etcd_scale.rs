//! How soon a change of a lease is felt by packets, and what five thousand leases cost: a real daemon and a real etcd.

#![allow(clippy::print_stdout)] // the times measured are for people to read

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use vswitch::lab::{Daemon, Lab, ping, within};
use vswitch_tests::etcd::{Etcd, LivePod, SUBNETS, attach, bed, start, vxlan_lease};
use vswitch_tests::live::Sender;
use vswitch_tests::serial::turn;

/// Two addresses of one far node: who listens there for VXLAN.
fn ends(lab: &Lab) -> [UdpSocket; 2] {
    let out = lab.bed.outside.as_ref().unwrap();
    ["192.168.77.251", "192.168.77.252"].map(|addr| {
        out.ip(&format!("addr add {addr}/24 dev eth0")).unwrap();
        let socket = within(out.path(), || UdpSocket::bind((addr, 8472))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
}

/// What a change took, each sorted: from the put to the first packet that goes by it, and of that what came after etcd's
/// answer, which it gives once the change is on its disk.
struct Took {
    all: Vec<Duration>,
    since_answer: Vec<Duration>,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Took { all, since_answer } = self;
        write!(f, "p50 {:.2?}, p99 {:.2?}, most {:.2?}; ", all[49], all[98], all[99])?;
        write!(
            f,
            "since etcd's answer p50 {:.2?}, p99 {:.2?}, most {:.2?}",
            since_answer[49], since_answer[98], since_answer[99]
        )
    }
}

/// The node of `net` moves to and fro, while a pod sends to a pod there 2,000 times a second.
fn in_force(etcd: &Etcd, from: &LivePod, net: &str, ends: &[UdpSocket; 2]) -> Took {
    let key = format!("{SUBNETS}{net}.0-24");
    let to = format!("{net}.7").parse().unwrap();
    let sender = Sender::start(from.netns.path(), 0, to, 9, Duration::from_micros(500));
    let (mut all, mut since_answer) = (Vec::new(), Vec::new());
    for end in ends.iter().cycle().take(101) {
        std::thread::sleep(Duration::from_millis(50));
        let addr = end.local_addr().unwrap().ip().to_string();
        end.set_nonblocking(true).unwrap();
        while end.recv(&mut [0; 2000]).is_ok() {}
        end.set_nonblocking(false).unwrap();
        let began = Instant::now();
        etcd.put_fast(&key, &vxlan_lease(&addr, "0e:00:00:00:00:fa"));
        let answered = began.elapsed();
        end.recv(&mut [0; 2000]).unwrap();
        all.push(began.elapsed());
        since_answer.push(began.elapsed() - answered);
    }
    assert!(sender.stop() > 1000);
    // The first one made the lease.
    for took in [&mut all, &mut since_answer] {
        took.remove(0);
        took.sort();
    }
    Took { all, since_answer }
}

#[test]
fn a_change_in_etcd_is_soon_in_force() {
    let _turn = turn();
    let (etcd, mut lab) = bed(1, r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#);
    start(&mut lab, 0, &etcd);
    let (pod, ends) = (attach(&lab, 0, "p"), ends(&lab));
    let took = in_force(&etcd, &pod, "10.244.250", &ends);
    println!("from a put to the first packet by it, 100 times: {took}");
    assert!(took.all[98] < Duration::from_secs(1));
}

/// Resident memory of a daemon's processes, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    of(daemon.pid()) + daemon.children().into_iter().map(of).sum::<u64>()
}

#[test]
fn five_thousand_leases() {
    let _turn = turn();
    let (etcd, mut lab) = bed(1, r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#);
    start(&mut lab, 0, &etcd);
    let alone = memory(lab.daemon(0).unwrap());
    lab.daemons[0].as_mut().unwrap().end().unwrap();
    lab.daemons[0] = None;
    let many = (0..5000_u32).map(|n| {
        let (high, low) = (n >> 8, n & 255);
        let value =
            vxlan_lease(&format!("172.{}.{low}.1", 16 + high), &format!("0e:00:00:01:{high:02x}:{low:02x}"));
        (format!("{SUBNETS}10.{}.{low}.0-24", 100 + high), value)
    });
    etcd.put_many(many);
    // As a node that knows nothing yet.
    std::fs::remove_dir_all(lab.bed.dir().join("n1")).unwrap();
    let began = Instant::now();
    start(&mut lab, 0, &etcd);
    let took = began.elapsed();
    let found = lab.daemon(0).unwrap().peers().unwrap().len();
    let pod = attach(&lab, 0, "p");
    assert!(ping(&pod.netns, "192.168.77.1".parse().unwrap(), 1, 10).unwrap().all());
    std::thread::sleep(Duration::from_secs(1));
    let with = memory(lab.daemon(0).unwrap());
    println!(
        "5000 leases ({found} peers): forwarding {took:.2?} after the start, RSS {with} KiB, {} KiB more than alone",
        with.saturating_sub(alone)
    );
    assert!(found > 4900 && took < Duration::from_secs(10));
    let took = in_force(&etcd, &pod, "10.99.1", &ends(&lab));
    println!("one of 5000 leases changed, from the put to the first packet by it, 100 times: {took}");
    assert!(took.all[98] < Duration::from_secs(2));
}
