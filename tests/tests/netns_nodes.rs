//! A node whose peers are Node manifests with flannel's annotations, as a cluster's API has them.

use std::fs;
use std::time::Duration;

use vswitch::lab::{Daemon, Lab, Options, Shape, Stop, TunnelKind, ping};
use vswitch_tests::etcd::attach;
use vswitch_tests::live::Manifests;
use vswitch_tests::programs::programs;
use vswitch_tests::routers::{wait, wait_for};
use vswitch_tests::serial::turn;

fn manifest(lab: &Lab, i: usize, mac: &str) -> String {
    let plan = lab.bed.plan(i);
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n{n}\n  annotations:\n    \
         flannel.alpha.coreos.com/kube-subnet-manager: 'true'\n    \
         flannel.alpha.coreos.com/backend-type: vxlan\n    \
         flannel.alpha.coreos.com/backend-data: '{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}'\n    \
         flannel.alpha.coreos.com/public-ip: {address}\nspec: {{podCIDRs: ['{cidr}']}}\n",
        n = plan.n,
        address = plan.address(),
        cidr = plan.pod_cidr(),
    )
}

#[test]
fn node_manifests_are_peers_that_come_change_and_go() {
    let _turn = turn();
    let shape = Shape { nodes: 2, ..Shape::default() };
    let mut lab =
        Lab::bed_only(programs(), Options { shape, ..Options::default() }, &Stop::default()).unwrap();
    let manifests = Manifests::new();
    let mac = |i: usize| lab.bed.plan(i).vtep_mac();
    let (right, other) = (mac(1), mac(0));
    manifests.put("nodes.yaml", &format!("{}---\n{}", manifest(&lab, 0, &other), manifest(&lab, 1, &right)));
    // The first knows the second by its manifest, the second the first by its configuration.
    for i in 0..2 {
        let dir = lab.bed.dir().to_owned();
        let plans = if i == 0 { Vec::new() } else { lab.bed.plans() };
        let text = lab.bed.plan(i).config(
            TunnelKind::Vxlan,
            &dir,
            "eth0",
            &plans,
            (i == 0).then(|| manifests.dir()).as_deref(),
        );
        let path = dir.join(format!("n{}.toml", i + 1));
        fs::create_dir_all(lab.run_dir(i)).unwrap();
        fs::write(&path, text).unwrap();
        let (netns, run) = (&lab.bed.nodes[i], lab.run_dir(i));
        lab.daemons[i] =
            Some(Daemon::start(&lab.programs, netns, i + 1, &path, &run, &Stop::default()).unwrap());
    }
    let peers = |lab: &Lab| lab.daemon(0).unwrap().peers().unwrap();
    assert_eq!(peers(&lab).iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["n2"], "not itself");
    let (a, b) = (attach(&lab, 0, "a"), attach(&lab, 1, "b"));
    let reaches = || ping(&a.netns, b.v4, 1, 10).unwrap().all();
    wait("the manifest's node is reached", reaches);

    // Another MAC: its packets are not taken any more, until the right one is back.
    manifests.put("nodes.yaml", &manifest(&lab, 1, "0e:00:00:00:00:77"));
    wait_for("the new MAC counts", Duration::from_secs(2), || !reaches());
    // What cannot be read changes nothing, and is told of.
    manifests.put("nodes.yaml", &manifest(&lab, 1, &right));
    wait_for("the right one counts", Duration::from_secs(2), reaches);
    manifests.put("nodes.yaml", &manifest(&lab, 1, "no mac"));
    let problems = || lab.daemon(0).unwrap().status().unwrap().policy_problems;
    wait("it is told of", || {
        problems().iter().any(|line| line.contains("n2: metadata.annotations: flannel"))
    });
    assert!(reaches() && peers(&lab).len() == 1);
    // A node that is gone is no peer any more.
    manifests.put("nodes.yaml", "");
    manifests.put("nodes.yaml", "---\n");
    fs::remove_file(manifests.dir().join("nodes.yaml")).unwrap();
    wait_for("it is gone", Duration::from_secs(2), || peers(&lab).is_empty());
    assert!(!reaches());
    manifests.put("nodes.yaml", &manifest(&lab, 1, &right));
    wait_for("it is there again", Duration::from_secs(2), reaches);
}
