//! Policy on a live node: real daemons, real pods, real packets, while pods come and processes die.

use std::fs;
use std::time::{Duration, Instant};

use control::api::{EventKind, EventReport, FlowInfo, PolicyReport, PolicyRule, Request};
use rustix::process::Signal;
use vswitch::lab::{Attached, Daemon, Echo, Lab, Netns, Options, PodName, Session, Shape, Stop, tcp_echo};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::live::{Listener, Manifests, PORT, Sender, admit, netpol, pods};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// 500 datagrams a second.
const PACE: Duration = Duration::from_millis(2);
/// What every test begins with.
const DENY_ALL: &str = "podSelector: {}, policyTypes: [Ingress, Egress]";

fn lab(manifests: &Manifests) -> Lab {
    let shape = Shape { nodes: 1, ..Shape::default() };
    let options = Options { shape, manifests: Some(manifests.dir()), ..Options::default() };
    Lab::start(programs(), options, &Stop::default()).unwrap()
}

fn node(lab: &Lab) -> &Daemon {
    lab.daemon(0).unwrap()
}

/// The switch's process, once there is exactly one that is not `old`.
fn switch(daemon: &Daemon, old: u32) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match daemon.children()[..] {
            [pid] if pid != old => return pid,
            _ => assert!(Instant::now() < deadline, "no new switch: {:?}", daemon.children()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Waits until `seen` holds, at most 3 s.
fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !seen() {
        assert!(Instant::now() < deadline, "not within 3 s: {what}");
        pause(10);
    }
}

#[test]
fn no_packet_leaves_a_pod_before_its_isolation_is_in_force() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let manifests = Manifests::new();
        // The victim takes everything: all that can stop a new pod is its own policy.
        let open = "podSelector: {matchLabels: {app: victim}}, ingress: [{}]";
        let good = "podSelector: {matchLabels: {app: good}}, policyTypes: [Egress], \
                    egress: [{to: [{podSelector: {matchLabels: {app: victim}}}]}]";
        let text = pods(&["victim", "good"]) + &netpol("deny", DENY_ALL);
        manifests.put("all.yaml", &(text + &netpol("open", open) + &netpol("good", good)));
        let lab = lab(&manifests);
        let victim = lab.pod(0, "victim").unwrap();
        let listener = Listener::start(victim.netns.path(), PORT);
        let attach = |name: &str, id: u8| {
            let netns = Netns::new(&lab.bed.name(name)).unwrap();
            let sender = Sender::start(netns.path(), 0, victim.v4, id, Duration::from_micros(200));
            let pod = Attached::add(lab.cni(0), netns, &PodName::new("default", name), &[]).unwrap();
            pause(100);
            let sent = sender.stop();
            assert!(sent > 0, "{name} sent nothing");
            pod
        };
        let pods: Vec<Attached> = (0..15).map(|i| attach(&format!("new{i}"), 1)).collect();
        let good = attach("good", 2);
        assert!(listener.count(2, 1) > 0, "what is allowed does not arrive");
        assert_eq!(listener.of(1).len(), 0, "a new pod was not isolated yet");
        drop((pods, good));
    }
    before.assert_same();
}

#[test]
fn policy_outlives_switch_keeper_and_manifest() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let manifests = Manifests::new();
        let text = pods(&["server", "good", "bad"]) + &admit("server", &["good"]);
        manifests.put("all.yaml", &text);
        let mut lab = lab(&manifests);
        let [server, good, bad] = ["server", "good", "bad"].map(|name| lab.pod(0, name).unwrap());
        let _echo = Echo::start(server.netns.path()).unwrap();
        let listener = Listener::start(server.netns.path(), PORT);
        let mut session = Session::open(good.netns.path(), server.v4, Duration::from_secs(5)).unwrap();
        session.exchange().unwrap();

        let denied = Sender::start(bad.netns.path(), 0, server.v4, 1, PACE);
        let allowed = Sender::start(good.netns.path(), 0, server.v4, 2, PACE);
        let mut pid = switch(node(&lab), 0);
        for round in 0..5 {
            pause(300);
            if round == 4 {
                fs::write(manifests.dir().join("all.yaml"), "}{ garbage").unwrap();
            }
            Daemon::signal(pid, Signal::KILL);
            pid = switch(node(&lab), pid);
            session.exchange().unwrap();
        }
        eventually("the broken manifest is told", || {
            node(&lab).status().is_ok_and(|s| s.restarts == 5 && !s.policy_problems.is_empty())
        });
        pause(300);
        let sent = allowed.stop();
        let missing = listener.missing(2, sent);
        assert!(missing.is_empty(), "{missing:?} of {sent} allowed datagrams");
        assert!(sent > 500, "{sent}");

        // Everything dies, and the directory is still broken: the kept copy is all there is.
        lab.daemons[0].as_mut().unwrap().kill_all();
        lab.start_node(0).unwrap();
        assert!(!node(&lab).status().unwrap().policy_problems.is_empty());
        session.exchange().unwrap();
        drop(session); // the echo server has one client at a time
        tcp_echo(good.netns.path(), server.v4).unwrap();
        let again = Sender::start(good.netns.path(), 0, server.v4, 3, PACE);
        pause(300);
        let sent = again.stop();
        assert_eq!(listener.count(3, sent), sent);
        let sent = denied.stop();
        assert!(sent > 500, "{sent}");
        assert_eq!(listener.of(1).len(), 0, "denied datagrams arrived");
    }
    before.assert_same();
}

#[test]
fn revoked_flows_end_and_others_lose_nothing() {
    let _turn = turn();
    let manifests = Manifests::new();
    let objects = pods(&["server", "y", "w"]);
    manifests.put("all.yaml", &(objects.clone() + &admit("server", &["y", "w"])));
    let lab = lab(&manifests);
    let [server, y, w] = ["server", "y", "w"].map(|name| lab.pod(0, name).unwrap());
    let _echo = Echo::start(server.netns.path()).unwrap();
    let listener = Listener::start(server.netns.path(), PORT);
    let mut session = Session::open(y.netns.path(), server.v4, Duration::from_millis(1500)).unwrap();
    let (revoked, kept) = (
        Sender::start(y.netns.path(), 0, server.v4, 1, PACE),
        Sender::start(w.netns.path(), 0, server.v4, 2, PACE),
    );
    pause(300);
    session.exchange().unwrap();
    assert!(listener.count(1, 1) > 0);
    let change = Instant::now();
    manifests.put("all.yaml", &(objects + &admit("server", &["w"])));
    let mut last_exchange = None;
    while session.exchange().is_ok() {
        last_exchange = Some(Instant::now());
        assert!(change.elapsed() < Duration::from_secs(4), "the revoked connection goes on");
        pause(5);
    }
    pause(500);
    let second = Duration::from_secs(1);
    assert!(last_exchange.is_none_or(|at| at - change < second), "{:?}", last_exchange.map(|at| at - change));
    let last = listener.of(1).last().unwrap().at.saturating_duration_since(change);
    assert!(last < second, "a revoked datagram came {last:?} after the change");
    let (sent, kept) = (revoked.stop(), kept.stop());
    assert!(sent > 800 && listener.of(1).len() < sent, "{sent} sent");
    assert_eq!(listener.count(2, kept), kept, "an unrelated flow lost datagrams");
}

/// A Calico policy for `server`: w is logged, x denied, all else allowed. And a staged one that would deny w.
const CALICO: &str = "---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: guard, namespace: default},
 spec: {order: 10, selector: app == 'server', types: [Ingress], ingress: [
  {action: Log, source: {selector: app == 'w'}}, {action: Deny, source: {selector: app == 'x'}}, {action: Allow}]}}
---
{apiVersion: projectcalico.org/v3, kind: StagedNetworkPolicy, metadata: {name: trial, namespace: default},
 spec: {order: 5, selector: app == 'server', types: [Ingress], ingress: [
  {action: Deny, source: {selector: app == 'w'}}]}}
";

#[test]
fn what_policy_does_is_told() {
    let _turn = turn();
    let manifests = Manifests::new();
    let text = pods(&["server", "w", "x"]) + CALICO;
    manifests.put("all.yaml", &text);
    let lab = lab(&manifests);
    let [server, w, x] = ["server", "w", "x"].map(|name| lab.pod(0, name).unwrap());
    let listener = Listener::start(server.netns.path(), PORT);
    let first: EventReport = node(&lab).ask(&Request::Events { after: 0 }).unwrap();
    let (denied, allowed) = (
        Sender::start(x.netns.path(), 0, server.v4, 1, PACE),
        Sender::start(w.netns.path(), 0, server.v4, 2, PACE),
    );
    pause(200);

    let mut events: EventReport = node(&lab).ask(&Request::Events { after: first.next }).unwrap();
    events.events.retain(|e| e.kind == EventKind::Drop && e.src == Some(x.v4) && e.dst == Some(server.v4));
    let drop = events.events.first().expect("the drop is told");
    assert_eq!(
        (drop.src_pod.as_deref(), drop.dst_pod.as_deref()),
        (Some("default/x"), Some("default/server"))
    );
    assert_eq!((drop.reason.as_str(), drop.dport), ("policy-ingress", PORT));
    let by = drop.policy.as_deref().unwrap();
    assert!(by.contains("default/guard") && by.ends_with("rule 1"), "{by}");

    let flows: Vec<FlowInfo> = node(&lab).ask(&Request::Flows).unwrap();
    let flow = flows.iter().find(|f| f.src == Some(w.v4) && f.dst == Some(server.v4)).unwrap();
    let by = flow.ingress_rule.as_deref().unwrap();
    assert!(by.contains("default/guard") && by.ends_with("rule 2"), "{by}");
    eventually("the Log rule's line", || {
        let (log, from) = (node(&lab).log(), w.v4.to_string());
        log.lines()
            .any(|line| line.contains("default/guard") && line.contains("allowed") && line.contains(&from))
    });
    let policy: PolicyReport =
        node(&lab).ask(&Request::Policy { pod: Some("default/server".to_owned()) }).unwrap();
    let trial =
        |r: &&PolicyRule| r.staged && r.policy.as_deref().is_some_and(|p| p.contains("default/trial"));
    let hits: u64 = policy.rules.iter().filter(trial).map(|r| r.hits).sum();
    assert!(hits > 0, "{policy:#?}");

    assert!(node(&lab).status().unwrap().policy_problems.is_empty());
    manifests
        .put("all.yaml", &text.replace("action: Deny, source: {selector: app == 'x'}", "action: Perhaps"));
    eventually("the invalid policy is told", || {
        node(&lab)
            .status()
            .unwrap()
            .policy_problems
            .iter()
            .any(|p| p.contains("guard") && p.contains("Perhaps"))
    });
    pause(200);
    let (sent, denied) = (allowed.stop(), denied.stop());
    assert_eq!(
        listener.count(2, sent),
        sent,
        "the staged policy was enforced, or the last valid one forgotten"
    );
    assert!(denied > 100 && listener.of(1).is_empty(), "the last valid policy is not in force");
}

#[test]
fn an_address_given_on_takes_no_rights_along() {
    let _turn = turn();
    let manifests = Manifests::new();
    let to_old = "podSelector: {matchLabels: {app: server}}, policyTypes: [Egress]";
    manifests.put(
        "all.yaml",
        &(pods(&["server", "old", "new"]) + &admit("server", &["old"]) + &netpol("silent", to_old)),
    );
    let lab = lab(&manifests);
    let [server, old] = ["server", "old"].map(|name| lab.pod(0, name).unwrap());
    let listener = Listener::start(server.netns.path(), PORT);
    let (v4, v6, port) = (old.v4, old.v6, 4000);
    // The server may answer what old asks, and send nothing else.
    let sender = Sender::start(old.netns.path(), port, server.v4, 1, PACE);
    pause(200);
    assert!(listener.count(1, 1) > 0);
    assert!(sender.stop() > 0);
    let answered = Listener::start(old.netns.path(), port);
    listener.answer(3, (v4, port).into());
    assert_eq!(answered.count(3, 1), 1, "an answer passes");
    drop((answered, old));

    let netns = Netns::new(&lab.bed.name("new")).unwrap();
    let (cni, path) = (lab.cni(0), netns.path().to_string_lossy().into_owned());
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=new;K8S_POD_INFRA_CONTAINER_ID=new;IP={v4},{v6}"
    );
    let config = cni.config(&serde_json::Value::Null);
    let reply = cni.must("ADD", "new", &path, &args, &config).unwrap();
    assert!(reply.text.contains(&format!("{v4}/32")), "{}", reply.text);
    let inherited = Listener::start(netns.path(), port);
    listener.answer(3, (v4, port).into());
    let _echo = Echo::start(server.netns.path()).unwrap();
    assert!(tcp_echo(netns.path(), server.v4).is_err(), "a connection was opened");
    pause(100);
    assert_eq!(inherited.of(3).len(), 0, "an answer to the old pod came to the new one");
    drop(inherited);
    let sender = Sender::start(netns.path(), port, server.v4, 2, PACE);
    pause(300);
    assert!(sender.stop() > 100);
    assert_eq!(listener.of(2).len(), 0, "the old pod's flow passes for the new one");
    cni.must("DEL", "new", &path, "", &config).unwrap();
}

#[test]
fn policies_in_constant_change_let_nothing_slip_and_lose_nothing() {
    let _turn = turn();
    let manifests = Manifests::new();
    let objects = pods(&["server", "w", "x", "y", "z"]);
    // No two versions are alike, so that each one that is read becomes an epoch.
    let version = |i: u32| {
        let other = if i.is_multiple_of(2) { "y" } else { "z" };
        objects.clone() + &admit("server", &["w", other, &format!("v{i}")])
    };
    manifests.put("all.yaml", &version(0));
    let lab = lab(&manifests);
    let [server, w, x] = ["server", "w", "x"].map(|name| lab.pod(0, name).unwrap());
    let listener = Listener::start(server.netns.path(), PORT);
    let (denied, allowed) = (
        Sender::start(x.netns.path(), 0, server.v4, 1, PACE),
        Sender::start(w.netns.path(), 0, server.v4, 2, PACE),
    );
    let (first, began) = (node(&lab).status().unwrap().epoch, Instant::now());
    for i in 0..500_u32 {
        manifests.put("all.yaml", &version(i + 1));
        std::thread::sleep((Duration::from_millis(10) * (i + 1)).saturating_sub(began.elapsed()));
    }
    let epochs = node(&lab).status().unwrap().epoch - first;
    let (denied, sent) = (denied.stop(), allowed.stop());
    assert!(epochs >= 100, "{epochs} epochs");
    assert!(denied > 1500 && sent > 1500, "{denied} and {sent} sent");
    assert_eq!(listener.count(2, sent), sent, "datagrams were lost over {epochs} epochs");
    assert_eq!(listener.of(1).len(), 0, "denied datagrams arrived over {epochs} epochs");
}
