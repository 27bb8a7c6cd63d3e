//! Who may know whom (ARCHITECTURE.md): fails when an arrow is added.
//!
//! Reads the manifests through `cargo metadata` and the sources as text. Only code counts: comments, string literals
//! and test modules are taken out first.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use scan::{code, crate_paths, has_word, module_path};

/// Workspace crates a crate may depend on. A crate that is not listed may have none.
const CRATES: &[(&str, &[&str])] = &[
    ("control", &["policy"]),
    ("cni-shim", &["control"]),
    ("vswitch", &["encap", "policy", "bgp", "control"]),
    ("vswitch-benches", &["encap", "policy", "bgp", "control", "vswitch", "vswitch-tests"]),
    ("vswitch-tests", &["encap", "policy", "bgp", "control", "vswitch"]),
];

/// Modules of `vswitch` that a module of `vswitch` may name. Modules that are not listed (`daemon`, `lab`, …) stand at
/// the top and may name any.
const MODULES: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("fib", &[]),
    ("flow", &[]),
    ("group", &[]),
    ("icmp_limit", &[]),
    ("polling", &[]),
    ("share", &["counters"]),
    ("slices", &[]),
    ("balance", &[]),
    ("reply", &[]),
    ("counters", &[]),
    ("conntrack", &["sys"]),
    ("events", &["counters"]),
    ("port", &["sys"]),
    ("uplink", &["sys"]),
    ("snapshot", &["counters", "fib", "group", "port", "slices"]),
    ("pipeline", &["counters", "fib", "reply", "snapshot"]),
    ("judge", &["counters", "pipeline", "snapshot"]),
    (
        "datapath",
        &[
            "conntrack",
            "counters",
            "events",
            "fib",
            "flow",
            "icmp_limit",
            "judge",
            "pipeline",
            "port",
            "reply",
            "slices",
            "snapshot",
            // Only to fetch memory ahead, which is an instruction.
            "sys",
            "uplink",
        ],
    ),
    ("hand", &["snapshot", "sys", "uplink"]),
    (
        "worker",
        &[
            "conntrack",
            "counters",
            "datapath",
            "flow",
            "hand",
            "pipeline",
            "polling",
            "port",
            "share",
            "snapshot",
            "sys",
            "uplink",
        ],
    ),
];

/// Modules of `vswitch` that must not name some of our other crates.
const FOREIGN: &[(&str, &[&str])] = &[
    ("sys", &["encap", "policy", "control", "bgp"]),
    ("fib", &["control", "bgp"]),
    ("flow", &["control", "bgp"]),
    ("group", &["control", "bgp"]),
    ("reply", &["control", "bgp"]),
    ("pipeline", &["control", "bgp"]),
    ("datapath", &["control", "bgp"]),
    ("hand", &["control", "bgp"]),
    ("worker", &["control", "bgp"]),
    ("port", &["control", "bgp"]),
    ("uplink", &["control", "bgp"]),
];

/// Where time is an argument.
const TIMELESS: &[&str] = &[
    "bgp/src",
    "encap/src",
    "policy/src",
    "control/src/blocks",
    "vswitch/src/pipeline",
    "vswitch/src/datapath",
    "vswitch/src/snapshot",
    "vswitch/src/fib",
    "vswitch/src/flow",
    "vswitch/src/reply",
    "vswitch/src/icmp_limit",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// Every `.rs` file of the workspace, its path relative to the root and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    assert!(
        found.iter().any(|(name, _)| name == "tests/tests/layering.rs"),
        "the walk does not find this file"
    );
    found
}

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn crates_depend_downwards_only() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let allowed: BTreeMap<&str, &[&str]> = CRATES.iter().copied().collect();
    assert!(ours.contains("vswitch") && ours.contains("cni-shim"), "{ours:?}");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let arrow = ours.contains(on) && !allowed.get(name).is_some_and(|a| a.contains(&on));
            let full = name == "cni-shim"
                && on == "control"
                && (dependency["uses_default_features"] != false
                    || dependency["features"].as_array().is_none_or(|f| !f.is_empty()));
            // One store speaks gRPC, which is async; nobody has it who does not ask for it.
            let is_async = on.starts_with("tokio") || on.starts_with("tonic") || on.starts_with("prost");
            let asked = name == "control" && dependency["optional"] == true;
            if arrow || full || (is_async && !asked) {
                wrong.push(format!("{name} -> {on}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies that may not be: {wrong:?}");
}

#[test]
fn netlink_crates_are_named_by_one_module_only() {
    for (name, text) in sources().iter().filter(|(name, _)| !name.starts_with("vswitch/src/sys/netlink")) {
        for word in ["netlink_sys", "netlink_packet_core", "netlink_packet_route"] {
            assert!(!has_word(&code(text), word), "{name} names {word}");
        }
    }
}

#[test]
fn async_code_lies_in_the_etcd_store_only() {
    let inside = |name: &str| name.starts_with("control/src/store/etcd");
    assert!(sources().iter().any(|(name, text)| inside(name) && has_word(&code(text), "tokio")));
    // The steps of the block allocator are futures that anybody can poll: the store's thread, or a test step by step.
    let steps = |name: &str| name.starts_with("control/src/blocks/") || name == "tests/tests/etcd_ipam.rs";
    assert!(sources().iter().any(|(name, text)| steps(name) && has_word(&code(text), "await")));
    for (name, text) in sources().iter().filter(|(name, _)| !inside(name)) {
        for word in ["tokio", "tonic", "prost", "await"] {
            let allowed = word == "await" && (steps(name) || name == "tests/tests/ipam_live.rs");
            assert!(allowed || !has_word(&code(text), word), "{name} names {word}");
        }
    }
}

#[test]
fn unsafe_code_lies_in_sys_only() {
    for (name, text) in sources() {
        let code = code(&text);
        if !name.starts_with("vswitch/src/sys/") {
            assert!(!has_word(&code, "unsafe"), "{name} has unsafe code");
            assert!(
                !code.contains("expect(unsafe_code") && !code.contains("allow(unsafe_code"),
                "{name} lifts the lint"
            );
        }
    }
    for dir in std::fs::read_dir(root()).unwrap().map(|d| d.unwrap().path()) {
        let Ok(manifest) = std::fs::read_to_string(dir.join("Cargo.toml")) else { continue };
        let denies =
            if dir.ends_with("vswitch") { "unsafe_code = \"deny\"" } else { "[lints]\nworkspace = true" };
        assert!(manifest.contains(denies), "{} does not say {denies:?}", dir.display());
    }
}

#[test]
fn modules_of_the_switch_point_downwards_only() {
    let modules: BTreeMap<&str, &[&str]> = MODULES.iter().copied().collect();
    let foreign: BTreeMap<&str, &[&str]> = FOREIGN.iter().copied().collect();
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, text) in sources() {
        let Some(path) = name.strip_prefix("vswitch/src/").map(module_path) else { continue };
        let Some(top) = path.first().map(String::as_str) else { continue };
        if path.last().is_some_and(|m| m == "tests") {
            continue;
        }
        seen.insert(top.to_owned());
        let code = code(&text);
        if let Some(allowed) = modules.get(top) {
            for on in crate_paths(&code, path.len()) {
                if on != top && !allowed.contains(&on.as_str()) {
                    wrong.push(format!("{name} -> crate::{on}"));
                }
            }
        }
        for on in foreign.get(top).into_iter().flat_map(|f| f.iter()) {
            if code.match_indices(&format!("{on}::")).any(|(at, _)| !code[..at].ends_with(scan::is_word)) {
                wrong.push(format!("{name} -> {on}"));
            }
        }
    }
    for (module, _) in MODULES {
        assert!(seen.contains(*module), "{module} is gone; so should its line be");
    }
    assert!(wrong.is_empty(), "paths that may not be: {wrong:#?}");
}

#[test]
fn time_is_an_argument() {
    let all = sources();
    for dir in TIMELESS {
        assert!(all.iter().any(|(name, _)| name.starts_with(dir)), "{dir} is gone; so should its line be");
    }
    for (name, text) in all.iter().filter(|(name, _)| TIMELESS.iter().any(|dir| name.starts_with(dir))) {
        let code = code(text);
        for clock in ["Instant::now", "SystemTime::now", "clock_gettime"] {
            assert!(!code.contains(clock), "{name} reads the clock");
        }
    }
}
