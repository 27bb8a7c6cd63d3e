//! From an object that changes to tables: 10,000 pods in 100 namespaces, 2,000 NetworkPolicies, 250 pods attached here.
//!
//! Not criterion's mean but the quantiles of many changes are wanted. What publishing adds is in `tables.rs`; what reading
//! a manifest adds is the first line.

use std::sync::Arc;
use std::time::Instant;

use control::objects::{Item, read};
use control::store::{LocalPod, NodeAddrs, Objects};
use policy::model::EndpointId;
use policy::{Compiler, addr};
use vswitch_benches::stats::quantile;

const PODS: usize = 10_000;
const POLICIES: usize = 2_000;
const NAMESPACES: usize = 100;
const LOCAL: usize = 250;
const CHANGES: usize = 300;

fn pod(i: usize, version: usize) -> String {
    let (namespace, app) = (i % NAMESPACES, i / NAMESPACES % 20);
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{i}","namespace":"ns{namespace}",
        "labels":{{"app":"app{app}","pod":"p{i}","version":"v{version}"}}}},
        "spec":{{"containers":[{{"name":"c","ports":[{{"name":"http","containerPort":8080}}]}}]}},
        "status":{{"podIP":"10.{}.{}.{}"}}}}"#,
        100 + i / 60_000,
        i / 250 % 240,
        i % 250 + 2
    )
}

fn policy(i: usize) -> String {
    let (namespace, app) = (i % NAMESPACES, i / NAMESPACES);
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"n{i}","namespace":"ns{namespace}"}},
        "spec":{{"podSelector":{{"matchLabels":{{"app":"app{app}"}}}},"policyTypes":["Ingress","Egress"],
        "ingress":[{{"from":[{{"podSelector":{{"matchLabels":{{"app":"app{}"}}}}}},{{"namespaceSelector":{{}},"podSelector":{{"matchLabels":{{"version":"v7"}}}}}}],
        "ports":[{{"port":"http"}},{{"port":443}}]}},{{"from":[{{"ipBlock":{{"cidr":"172.16.0.0/16","except":["172.16.{}.0/24"]}}}}]}}],
        "egress":[{{"to":[{{"podSelector":{{"matchLabels":{{"app":"app{}"}}}}}}],"ports":[{{"port":8080}}]}}]}}}}"#,
        (app + 1) % 20,
        i % 250,
        (app + 2) % 20
    )
}

fn put(objects: &mut Objects, text: &str) {
    for item in read(text.as_bytes()).expect("it is JSON") {
        match item {
            Item::Known { key, source, object } => assert!(objects.put(key, source, object)),
            Item::Unknown { what, .. } => panic!("{what:?}"),
        }
    }
}

#[allow(clippy::print_stdout)] // the body of a program
fn main() {
    let mut objects = Objects::new();
    let began = Instant::now();
    (0..PODS).for_each(|i| put(&mut objects, &pod(i, 0)));
    (0..POLICIES).for_each(|i| put(&mut objects, &policy(i)));
    let read = began.elapsed();
    let local: Vec<LocalPod> = (0..PODS)
        .step_by(PODS / LOCAL)
        .map(|i| LocalPod {
            namespace: format!("ns{}", i % NAMESPACES).into(),
            name: format!("p{i}").into(),
            addrs: vec![addr::ip(addr::bits([10, 99, (i / 250) as u8, (i % 250) as u8 + 2].into()))],
        })
        .collect();
    let of =
        |p: &LocalPod| EndpointId::Pod { namespace: Arc::clone(&p.namespace), name: Arc::clone(&p.name) };
    let ids: Vec<EndpointId> = local.iter().map(of).collect();
    let node = NodeAddrs { name: "n1".into(), addrs: Vec::new() };
    let mut compiler = Compiler::new();
    let began = Instant::now();
    let (world, problems) = objects.world(&local, &node);
    assert!(problems.is_empty(), "{:?}", problems.first());
    let made = began.elapsed();
    let compiled = compiler.update(&world, &ids);
    assert_eq!(compiled.endpoints().count(), LOCAL);
    let full = began.elapsed() - made;
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let (mut models, mut changes) = (Vec::with_capacity(CHANGES), Vec::with_capacity(CHANGES));
    for n in 1..=CHANGES {
        let text = pod(n * 7919 % PODS, n);
        let began = Instant::now();
        put(&mut objects, &text);
        let (world, _) = objects.world(&local, &node);
        models.push(ms(began.elapsed()));
        compiler.update(&world, &ids);
        changes.push(ms(began.elapsed()));
    }
    println!("{PODS} pods, {POLICIES} policies, {LOCAL} pods here");
    println!("  read and check all objects   {:8.1} ms", ms(read));
    println!("  make the model of them       {:8.1} ms", ms(made));
    println!("  compile all of it            {:8.1} ms", ms(full));
    println!(
        "  one pod's label changes      {:8.1} ms at the median, {:.1} ms p99 of {CHANGES}",
        quantile(&changes, 0.5),
        quantile(&changes, 0.99)
    );
    println!(
        "  of that, its model           {:8.1} ms at the median, {:.1} ms p99",
        quantile(&models, 0.5),
        quantile(&models, 0.99)
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: ?");
    println!("  memory of all that, objects included: {}", resident.trim_start_matches("VmRSS:").trim());
}
