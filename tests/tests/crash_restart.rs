//! The switch dies, or everything does: what the pods notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vswitch::lab::{Attached, Daemon, Echo, Lab, Netns, Options, PingRun, Session, Shape, Stop, ping};
use vswitch_tests::live::{Listener, PORT, Sender};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

fn two_pods() -> (Attached, Attached, Lab) {
    let lab = Lab::start(programs(), Options::default(), &Stop::default()).unwrap();
    let pods = (lab.pod(0, "a").unwrap(), lab.pod(1, "b").unwrap());
    (pods.0, pods.1, lab)
}

/// The switch's process, once there is exactly one.
fn switch(daemon: &Daemon) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let [pid] = daemon.children()[..] {
            return pid;
        }
        assert!(Instant::now() < deadline, "no switch process: {:?}", daemon.children());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a pod's interface is: index, MTU, MAC, and the addresses it was given.
fn interface(pod: &Attached) -> Vec<String> {
    let link = pod.netns.ip("-o link show dev eth0").unwrap();
    let link: Vec<&str> = link.split_whitespace().collect();
    let after = |word: &str| link[link.iter().position(|w| *w == word).unwrap() + 1].to_owned();
    let mut seen = vec![link[0].to_owned(), after("mtu"), after("link/ether")];
    let addresses = pod.netns.ip("-o addr show dev eth0 scope global").unwrap();
    seen.extend(addresses.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()));
    assert_eq!(seen.len(), 5, "{seen:?}");
    seen
}

#[test]
fn killing_the_switch_loses_no_packet_and_no_connection() {
    let _turn = turn();
    let (a, b, lab) = two_pods();
    let _echo = Echo::start(b.netns.path()).unwrap();
    let mut session = Session::open(a.netns.path(), b.v4, Duration::from_secs(5)).unwrap();
    session.exchange().unwrap();
    let keepers: Vec<u32> = lab.daemons.iter().flatten().map(Daemon::pid).collect();

    // 500 packets a second for five seconds; each switch is killed four times meanwhile.
    let pinging = PingRun::start(&a.netns, b.v4, 2500, 2).unwrap();
    for _ in 0..4 {
        for daemon in lab.daemons.iter().flatten() {
            std::thread::sleep(Duration::from_millis(400));
            Daemon::signal(switch(daemon), Signal::KILL);
            session.exchange().unwrap();
        }
    }
    let pinged = pinging.finish().unwrap();
    assert_eq!(pinged.sent, 2500);
    session.exchange().unwrap();
    assert_eq!(keepers, lab.daemons.iter().flatten().map(Daemon::pid).collect::<Vec<_>>());
    for daemon in lab.daemons.iter().flatten() {
        assert!(daemon.status().unwrap().restarts >= 4, "{:?}", daemon.status());
    }
    assert_eq!(pinged.received, 2500, "packets were lost");
}

/// Packets go round at a thousand a second and node, so that one kill in ten or so finds a switch with one that it has read
/// and not yet written: the next one takes it up. No switch is killed more often, or its keeper holds it to be one that
/// cannot live and waits longer than a queue lasts.
#[test]
fn what_a_killed_switch_had_in_hand_is_handed_on_by_the_next() {
    const NODES: usize = 4;
    let _turn = turn();
    let shape = Shape { nodes: NODES, ..Shape::default() };
    let lab = Lab::start(programs(), Options { shape, ..Options::default() }, &Stop::default()).unwrap();
    let pods: Vec<Attached> = (0..NODES).map(|node| lab.pod(node, &format!("p{node}")).unwrap()).collect();
    let listeners: Vec<_> = pods.iter().map(|pod| Listener::start(pod.netns.path(), PORT)).collect();
    let pace = Duration::from_millis(1);
    let next = |i: usize| (i + 1) % NODES;
    let send = |i: usize| Sender::start(pods[i].netns.path(), 0, pods[next(i)].v4, 7, pace);
    let senders: Vec<Sender> = (0..NODES).map(send).collect();
    for _ in 0..4 {
        for daemon in lab.daemons.iter().flatten() {
            let pid = switch(daemon);
            std::thread::sleep(Duration::from_millis(130));
            Daemon::signal(pid, Signal::KILL);
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    for (i, sent) in senders.into_iter().map(Sender::stop).enumerate() {
        assert!(sent > 1500, "{sent}");
        let missing = listeners[next(i)].missing(7, sent);
        assert!(missing.is_empty(), "{} of {sent}: {:?}", missing.len(), &missing[..missing.len().min(9)]);
    }
}

/// Two runtimes attach and detach without a pause, so that each kill finds requests under way.
#[test]
fn who_attaches_while_the_switch_dies_does_not_hear_of_it() {
    let _turn = turn();
    let lab = Lab::start(programs(), Options::default(), &Stop::default()).unwrap();
    let over = AtomicBool::new(false);
    let attach = |container: &str| {
        let netns = Netns::new(&lab.bed.name(container)).unwrap();
        let (cni, path) = (lab.cni(0), netns.path().display().to_string());
        let config = cni.config(&serde_json::Value::Null);
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) {
            cni.must("ADD", container, &path, "", &config).unwrap();
            let pinged = PingRun::start(&netns, [169, 254, 1, 1].into(), 1, 10).unwrap().finish().unwrap();
            assert!(pinged.all());
            cni.must("DEL", container, &path, "", &config).unwrap();
            rounds += 1;
        }
        rounds
    };
    let daemon = lab.daemon(0).unwrap();
    std::thread::scope(|scope| {
        let attaching = ["x", "y"].map(|container| scope.spawn(|| attach(container)));
        let patience = Instant::now() + Duration::from_secs(20);
        for killed in 1..=4 {
            std::thread::sleep(Duration::from_millis(300));
            Daemon::signal(switch(daemon), Signal::KILL);
            // The dying one may have taken the question.
            let followed = || daemon.status().is_ok_and(|status| status.restarts >= killed);
            while !followed() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        for rounds in attaching.map(|thread| thread.join().unwrap()) {
            assert!(rounds > 5, "{rounds}");
        }
    });
    let status = daemon.status().unwrap();
    assert_eq!((status.restarts, status.ports), (4, 0), "{status:?}");
}

#[test]
fn pods_survive_the_death_of_keeper_and_switch() {
    let _turn = turn();
    let (a, b, mut lab) = two_pods();
    let _echo = Echo::start(b.netns.path()).unwrap();
    let before = [interface(&a), interface(&b)];
    let mut session = Session::open(a.netns.path(), b.v4, Duration::from_secs(20)).unwrap();
    session.exchange().unwrap();
    for node in 0..2 {
        lab.daemons[node].as_mut().unwrap().kill_all();
        lab.start_node(node).unwrap();
        session.exchange().unwrap();
        assert!(ping(&a.netns, b.v4, 3, 10).unwrap().all());
    }
    assert_eq!([interface(&a), interface(&b)], before, "the pods keep interface, MAC and addresses");
    assert!(ping(&a.netns, b.v6, 3, 10).unwrap().all());
    // What was taken over is still accounted for: a new pod gets another address.
    let c = lab.pod(0, "c").unwrap();
    assert_ne!(c.v4, a.v4);
    assert!(ping(&c.netns, a.v4, 3, 10).unwrap().all());
}

#[test]
fn a_graceful_restart_keeps_the_pods_too() {
    let _turn = turn();
    let (a, b, mut lab) = two_pods();
    let before = interface(&a);
    let status = lab.daemons[0].as_mut().unwrap().end();
    assert!(status.is_some_and(|status| status.success()), "SIGTERM ends it with 0: {status:?}");
    lab.start_node(0).unwrap();
    assert_eq!(interface(&a), before);
    assert!(ping(&a.netns, b.v4, 3, 10).unwrap().all());
    assert!(ping(&b.netns, a.v6, 3, 10).unwrap().all());
}

#[test]
fn an_upgrade_loses_no_packet_and_keeps_the_control_socket() {
    let _turn = turn();
    let (a, b, lab) = two_pods();
    let daemon = lab.daemons[0].as_ref().unwrap();
    let old = switch(daemon);
    let pinging = PingRun::start(&a.netns, b.v4, 1000, 2).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    Daemon::signal(daemon.pid(), Signal::HUP);
    let pinged = pinging.finish().unwrap();
    assert_eq!((pinged.sent, pinged.received), (1000, 1000), "packets were lost");
    assert_ne!(switch(daemon), old, "the switch is the old one");
    assert_eq!(daemon.status().unwrap().restarts, 1);
}
