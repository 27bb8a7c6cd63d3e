//! Policy while things change: pods come, policies are replaced, addresses are given to others.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vswitch::lab::{Attached, Echo, Lab, Netns, Options, PodName, Session, Stop, within};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;
use vswitch_tests::stream::{Sink, Stream};

/// Two nodes under policies that `write` makes.
fn lab() -> Lab {
    let empty = std::env::temp_dir().join(format!("vsl{}-no-manifests", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let options = Options { policy: Some(empty.clone()), ..Options::default() };
    let lab = Lab::start(programs(), options, &Stop::default()).unwrap();
    std::fs::remove_dir(&empty).unwrap();
    lab
}

/// Lets only the pods of these names in to pod `v`.
fn allow(peers: &[&str]) -> Value {
    let peer = |name: &&str| json!({"podSelector": {"matchLabels": {"pod": name}}});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "guard", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"pod": "v"}},
            "policyTypes": ["Ingress"],
            "ingress": if peers.is_empty() { json!([]) } else {
                json!([{"from": peers.iter().map(peer).collect::<Vec<_>>()}])
            },
        },
    })
}

fn write(lab: &Lab, objects: &[Value]) {
    lab.manifests.as_ref().unwrap().write("guard", objects).unwrap();
}

fn stream(from: &Attached, to: &Attached) -> Stream {
    Stream::start(from.netns.path(), 0, to.v4)
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn what_is_revoked_ends_within_a_second_and_nothing_else_does() {
    let _turn = turn();
    let lab = lab();
    write(&lab, &[allow(&["w", "y"])]);
    let v = lab.pod(0, "v").unwrap();
    let (y, w) = (lab.pod(1, "y").unwrap(), lab.pod(1, "w").unwrap());
    lab.settle().unwrap();
    let (sink, _echo) = (Sink::start(v.netns.path()), Echo::start(v.netns.path()).unwrap());
    let mut session = Session::open(y.netns.path(), v.v4, Duration::from_millis(300)).unwrap();
    session.exchange().unwrap();
    let (revoked, unrelated) = (stream(&y, &v), stream(&w, &v));
    sleep(300);
    write(&lab, &[allow(&["w"])]);
    sleep(1000);
    let arrived = sink.from(y.v4);
    assert!(arrived > 0);
    assert!(session.exchange().is_err(), "the connection goes on");
    sleep(500);
    assert_eq!(sink.from(y.v4), arrived, "datagrams go on");
    assert!(revoked.finish().1 > 0);
    let (sent, answered) = unrelated.finish();
    assert_eq!(sent, answered, "an unrelated flow lost something");
}

#[test]
fn policies_replaced_without_pause_neither_lose_nor_leak() {
    let _turn = turn();
    let lab = lab();
    let objects = [allow(&["w", "y"]), allow(&["w", "z"])];
    write(&lab, &objects[..1]);
    let v = lab.pod(0, "v").unwrap();
    let (w, d, near) = (lab.pod(1, "w").unwrap(), lab.pod(1, "d").unwrap(), lab.pod(0, "near").unwrap());
    lab.settle().unwrap();
    let sink = Sink::start(v.netns.path());
    let streams = (stream(&w, &v), stream(&d, &v), stream(&near, &v));
    let epoch = || lab.daemon(0).unwrap().status().unwrap().epoch;
    let (first, began) = (epoch(), Instant::now());
    for i in 0..500_u32 {
        write(&lab, std::slice::from_ref(&objects[i as usize % 2]));
        std::thread::sleep((Duration::from_millis(10) * (i + 1)).saturating_sub(began.elapsed()));
    }
    assert!(epoch() >= first + 20, "a writer without pause is read all the same: {first} {}", epoch());
    let (sent, answered) = streams.0.finish();
    assert!(sent > 2000, "{sent}");
    assert_eq!(sent, answered, "a flow allowed by both lost something");
    assert!(streams.1.finish().0 > 2000 && streams.2.finish().0 > 2000);
    assert_eq!((sink.from(d.v4), sink.from(near.v4)), (0, 0), "a denied datagram arrived");
}

#[test]
fn a_pod_is_isolated_before_its_first_packet() {
    let _turn = turn();
    let lab = lab();
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "closed"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    });
    write(&lab, &[deny]);
    let victims = [lab.pod(0, "v").unwrap(), lab.pod(1, "far").unwrap()];
    lab.settle().unwrap();
    let sinks = victims.each_ref().map(|v| Sink::start(v.netns.path()));
    let mut sent = 0;
    for i in 0..20 {
        let netns = Netns::new(&lab.bed.name(&format!("early{i}"))).unwrap();
        let path = netns.path().to_owned();
        let stop = AtomicBool::new(false);
        sent += std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                within(&path, || {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                    let mut sent = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        for v in &victims {
                            sent += u64::from(socket.send_to(b"early", (v.v4, 9020)).is_ok());
                        }
                        std::thread::yield_now();
                    }
                    sent
                })
                .unwrap()
            });
            let name = PodName::new("closed", &format!("early{i}"));
            let pod = Attached::add(lab.cni(0), netns, &name, &[]);
            sleep(30);
            stop.store(true, Ordering::Relaxed);
            let sent = sender.join().unwrap();
            drop(pod.unwrap());
            sent
        });
    }
    assert!(sent > 1000, "{sent}");
    assert!(lab.drops(0, "policy-egress").unwrap() > 0);
    assert_eq!(sinks.each_ref().map(Sink::total), [0, 0], "of {sent}");
}

#[test]
fn an_address_given_to_another_pod_brings_no_rights() {
    let _turn = turn();
    let lab = lab();
    write(&lab, &[allow(&["y"])]);
    let (v, y) = (lab.pod(0, "v").unwrap(), lab.pod(1, "y").unwrap());
    lab.settle().unwrap();
    let sink = Sink::start(v.netns.path());
    let addrs = y.addresses();
    let allowed = Stream::start(y.netns.path(), 5000, v.v4);
    sleep(200);
    assert!(allowed.finish().1 > 0);
    let arrived = sink.from(addrs[0]);
    drop(y);
    lab.manifests.as_ref().unwrap().remove("lab-pod-y").unwrap();
    lab.settle().unwrap();
    // The same address, the same ports, nobody's labels.
    let netns = Netns::new(&lab.bed.name("other")).unwrap();
    let other = Attached::add(lab.cni(1), netns, &PodName::new("default", "other"), &addrs).unwrap();
    let denied = Stream::start(other.netns.path(), 5000, v.v4);
    sleep(300);
    assert!(denied.finish().0 > 50);
    assert_eq!(sink.from(addrs[0]), arrived, "the new pod has the old one's rights");
}
