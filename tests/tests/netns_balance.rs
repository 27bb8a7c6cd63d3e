//! A pod that shares its worker with a busy one gets another, and loses nothing on the way.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::api::{PortInfo, Request};
use vswitch::lab::{Attached, Lab, Options, PingRun, Stop, within};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

const PORT: u16 = 5299;

fn worker(lab: &Lab, pod: &Attached) -> u32 {
    let ports: Vec<PortInfo> = lab.daemon(0).unwrap().ask(&Request::Ports).unwrap();
    let of = |p: &&PortInfo| p.addresses.contains(&pod.v4);
    ports.iter().find(of).unwrap().worker
}

/// Sends from `from` to `to` until told to stop; returns the bytes that arrived.
fn stream(from: &Attached, to: &Attached, stop: &AtomicBool) -> u64 {
    let (listener, got) = (
        within(to.netns.path(), || TcpListener::bind(("0.0.0.0", PORT)).unwrap()).unwrap(),
        AtomicU64::new(0),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = vec![0; 1 << 20];
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                got.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        let mut out = within(from.netns.path(), || TcpStream::connect((to.v4, PORT)).unwrap()).unwrap();
        let chunk = vec![7; 1 << 20];
        while !stop.load(Ordering::Relaxed) {
            out.write_all(&chunk).unwrap();
        }
    });
    got.load(Ordering::Relaxed)
}

#[test]
fn a_pod_beside_a_busy_one_gets_another_worker_and_loses_nothing() {
    let _turn = turn();
    let before = Leftovers::now();
    for kind in ["vxlan", "ipip"] {
        let options = Options { tunnel: kind.parse().unwrap(), ..Options::default() };
        let lab = Lab::start(programs(), options, &Stop::default()).unwrap();
        let workers = lab.daemon(0).unwrap().status().unwrap().workers;
        assert!(workers > 1, "a machine with one processor has nothing to balance");
        let busy = lab.pod(0, "busy").unwrap();
        let mut beside = None;
        for i in 0..=workers {
            let pod = lab.pod(0, &format!("p{i}")).unwrap();
            if worker(&lab, &pod) == worker(&lab, &busy) {
                beside = Some(pod);
            }
        }
        let beside = beside.expect("addresses go to the workers in turn");
        let far = [lab.pod(1, "sink").unwrap(), lab.pod(1, "echo").unwrap()];
        let home = worker(&lab, &busy);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| stream(&busy, &far[0], &stop));
            let to: IpAddr = far[1].v4;
            let pings = PingRun::start(&beside.netns, to, 1_200, 8).unwrap();
            let began = Instant::now();
            while worker(&lab, &beside) == home && began.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let (moved, stayed) = (worker(&lab, &beside), worker(&lab, &busy));
            let pinged = pings.finish().unwrap();
            stop.store(true, Ordering::Relaxed);
            let bytes = sending.join().unwrap();
            let log = lab.daemon(0).unwrap().log();
            assert_ne!(moved, home, "{kind}: {log}");
            assert_eq!(stayed, home, "{kind}: the busy one stays: {log}");
            assert!(pinged.sent == 1_200 && pinged.all(), "{kind}: {pinged:?}");
            assert!(bytes > 100 << 20, "{kind}: {bytes} bytes arrived");
        });
        // It is reached where it is now, also by those who begin only now.
        assert!(vswitch::lab::ping(&far[0].netns, beside.v4, 20, 5).unwrap().all(), "{kind}");
    }
    assert_eq!(Leftovers::now(), before);
}
