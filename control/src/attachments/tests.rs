use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vswitch-state-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        network: "vswitch".into(),
        container_id: container.into(),
        ifname: "eth0".into(),
        pod: PodId { namespace: "shop".into(), name: "web".into(), uid: "u1".into() },
        netns: "/run/netns/x".into(),
        netns_id: NetnsId { dev: 4, ino: 4_026_532_000 },
        boot_id: "b".into(),
        addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
    }
}

#[test]
fn keeps_what_it_was_given() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    assert!(state.load().unwrap().attachments.is_empty());
    let (a, b) = (attachment("a"), attachment("b"));
    state.save(&b).unwrap();
    state.save(&a).unwrap();
    state.save(&Attachment { mtu: 1400, ..a.clone() }).unwrap();
    drop(state);

    let state = StateDir::open(&scratch.0).unwrap();
    let loaded = state.load().unwrap();
    assert_eq!(loaded.attachments, [Attachment { mtu: 1400, ..a.clone() }, b.clone()]);
    assert!(loaded.problems.is_empty());
    assert!(state.remove(&a.id()).unwrap());
    assert!(!state.remove(&a.id()).unwrap());
    assert_eq!(state.load().unwrap().attachments, [b]);
}

#[test]
fn is_nobody_elses_to_read() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    state.save(&attachment("a")).unwrap();
    let mode = |path: &str| fs::metadata(scratch.0.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("ports"), mode("ports/a--eth0.json")), (0o700, 0o700, 0o600));
}

#[test]
fn two_daemons_cannot_share_it() {
    let scratch = Scratch::new();
    let first = StateDir::open(&scratch.0).unwrap();
    let err = StateDir::open(&scratch.0).unwrap_err();
    assert!(matches!(err, StateError::Locked { .. }), "{err}");
    assert!(err.to_string().contains("another vswitchd"), "{err}");
    drop(first);
    StateDir::open(&scratch.0).unwrap();
}

#[test]
fn a_bad_file_is_named_and_spoils_no_other() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    state.save(&attachment("good")).unwrap();
    let ports = scratch.0.join("ports");
    let good = fs::read_to_string(ports.join("good--eth0.json")).unwrap();
    fs::write(ports.join("cut--eth0.json"), &good[..good.len() / 2]).unwrap();
    fs::write(ports.join("empty--eth0.json"), "").unwrap();
    fs::write(ports.join("copy--eth0.json"), &good).unwrap();
    fs::write(ports.join("new--eth0.json"), r#"{"format": 2, "attachment": {}}"#).unwrap();
    fs::write(ports.join("odd--eth0.json"), good.replace("\"good\"", "\"../good\"")).unwrap();
    fs::write(ports.join(".new-file"), "half").unwrap();
    fs::write(ports.join("README"), "not ours").unwrap();

    let loaded = state.load().unwrap();
    assert_eq!(loaded.attachments, [attachment("good")]);
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert!(problems[0].contains("copy--eth0.json describes eth0 of good"), "{problems:#?}");
    assert!(problems[1].contains("cut--eth0.json is damaged"), "{problems:#?}");
    assert!(problems[1].contains("remove the file"), "{problems:#?}");
    assert!(problems[2].contains("empty--eth0.json is damaged"), "{problems:#?}");
    assert!(problems[3].contains("format 2"), "{problems:#?}");
    assert!(problems[4].contains("\"../good\""), "{problems:#?}");
    assert!(!ports.join(".new-file").exists(), "what an interrupted write left is gone");
    assert!(ports.join("README").exists() && ports.join("cut--eth0.json").exists());
}

#[test]
fn a_path_in_an_id_reaches_no_file() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    let evil = attachment("../../evil");
    assert!(matches!(state.save(&evil), Err(StateError::Name(_))));
    assert!(matches!(state.remove(&evil.id()), Err(StateError::Name(_))));
}

#[test]
fn a_failed_write_leaves_the_old_content() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    // A directory where the file belongs: the rename fails after the write succeeded.
    fs::create_dir(scratch.0.join("ports/a--eth0.json")).unwrap();
    let err = state.save(&attachment("a")).unwrap_err();
    assert!(err.to_string().contains("a--eth0.json"), "{err}");
    assert!(!scratch.0.join("ports/.new-file").exists());
}

#[test]
fn the_tunnel_mac_survives() {
    let scratch = Scratch::new();
    let state = StateDir::open(&scratch.0).unwrap();
    assert_eq!(state.vtep_mac().unwrap(), None);
    let mac = Mac([0x0e, 0, 0, 0, 0, 9]);
    state.save_vtep_mac(mac).unwrap();
    assert_eq!(state.vtep_mac().unwrap(), Some(mac));
    for bad in ["", "0e:00", "ff:ff:ff:ff:ff:ff"] {
        fs::write(scratch.0.join("vtep-mac"), bad).unwrap();
        assert!(state.vtep_mac().unwrap_err().to_string().contains("vtep-mac"), "{bad}");
    }
}

#[test]
fn a_namespace_is_known_by_its_inode() {
    let own = NetnsId::of(Path::new("/proc/self/ns/net")).unwrap();
    assert_eq!(NetnsId::of(Path::new("/proc/thread-self/ns/net")).unwrap(), own);
    assert_ne!(NetnsId::of(Path::new("/proc/self/ns/mnt")).unwrap(), own);
    assert_eq!(boot_id().unwrap().len(), 36);
}
