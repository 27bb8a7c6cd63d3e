use super::super::NodeAddrs;
use super::*;

/// A directory of its own for each test, with `m` for manifests and `s` for state; removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("vswitch-manifests-{}-{test}", std::process::id()));
        for sub in ["m", "s"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        Dir(dir)
    }

    fn open(&self) -> Manifests {
        Manifests::open(&self.0.join("m"), &self.0.join("s"))
    }

    /// As a careful writer does it.
    fn write(&self, name: &str, text: &str) {
        let new = self.0.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.0.join("m").join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join("m").join(name)).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Looks at everything, and keeps a copy.
fn reload(manifests: &mut Manifests) -> bool {
    let changed = manifests.reload(&Changed::Anything);
    if manifests.stale() {
        let written = manifests.copy().write();
        manifests.kept(written);
    }
    changed
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: x}}, \
         spec: {spec}}}\n"
    )
}

const OPEN: &str = "{ingress: [{}]}";
const INVALID: &str = "{ingress: [{from: [{}]}]}";

/// The policies in force, and how many rules for ingress each has.
fn in_force(manifests: &mut Manifests) -> Vec<(String, usize)> {
    let (world, _) = manifests.objects().world(&[], &NodeAddrs { name: "n".into(), addrs: Vec::new() });
    let policies = world.policies.iter();
    policies.map(|p| (p.id.name.to_string(), p.ingress.as_ref().map_or(0, Vec::len))).collect()
}

fn one(name: &str, rules: usize) -> Vec<(String, usize)> {
    vec![(name.to_owned(), rules)]
}

#[test]
fn a_change_is_seen_once() {
    let (dir, text) = (Dir::new("change"), policy("p", OPEN));
    let mut manifests = dir.open();
    assert!(!reload(&mut manifests));
    dir.write("a.yaml", &text);
    dir.write("ignored.txt", &policy("q", OPEN));
    dir.write(".hidden.yaml", &policy("q", OPEN));
    fs::create_dir(dir.0.join("m/sub.yaml")).unwrap();
    assert!(reload(&mut manifests) && !reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems()), (one("p", 1), vec![]));
    // Another version of the file with the same objects changes nothing.
    dir.write("a.yaml", &format!("# comment\n{text}"));
    assert!(!reload(&mut manifests));
    dir.write("a.yaml", &policy("p", "{ingress: [{}, {}]}"));
    assert!(reload(&mut manifests));
    assert_eq!(in_force(&mut manifests), one("p", 2));
    dir.remove("a.yaml");
    assert!(reload(&mut manifests) && !reload(&mut manifests));
    assert_eq!(in_force(&mut manifests), []);
}

#[test]
fn a_broken_file_keeps_its_objects_and_an_empty_one_too() {
    let dir = Dir::new("broken");
    let mut manifests = dir.open();
    dir.write("a.yaml", &policy("p", OPEN));
    reload(&mut manifests);
    for (text, says) in [("{apiVersion: networking.k8s", "line 2"), ("", "empty"), ("a: 1\0", "control")] {
        dir.write("a.yaml", text);
        assert!(reload(&mut manifests) && !reload(&mut manifests));
        assert_eq!(in_force(&mut manifests), one("p", 1));
        let problems = manifests.problems();
        assert!(problems.len() == 1 && problems[0].to_string().contains(says), "{problems:?}");
    }
    dir.write("a.yaml", &policy("p", INVALID));
    assert!(reload(&mut manifests));
    assert_eq!(in_force(&mut manifests), one("p", 1));
    dir.write("a.yaml", &policy("q", OPEN));
    assert!(reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems()), (one("q", 1), vec![]));
}

#[test]
fn a_directory_that_is_gone_is_not_an_empty_one() {
    let dir = Dir::new("gone");
    let mut manifests = dir.open();
    dir.write("a.yaml", &policy("p", OPEN));
    reload(&mut manifests);
    fs::rename(dir.0.join("m"), dir.0.join("away")).unwrap();
    assert!(reload(&mut manifests) && !reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems().len()), (one("p", 1), 1));
    fs::rename(dir.0.join("away"), dir.0.join("m")).unwrap();
    assert!(reload(&mut manifests) && !reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems()), (one("p", 1), vec![]));
}

#[test]
fn a_copy_that_could_not_be_kept_is_tried_again() {
    let dir = Dir::new("unkept");
    let mut manifests = dir.open();
    fs::rename(dir.0.join("s"), dir.0.join("away")).unwrap();
    dir.write("a.yaml", &policy("p", OPEN));
    assert!(reload(&mut manifests) && manifests.stale());
    assert!(matches!(&manifests.problems()[..], [Problem::Kept(_)]));
    fs::rename(dir.0.join("away"), dir.0.join("s")).unwrap();
    assert!(!reload(&mut manifests) && !manifests.stale());
    assert_eq!(manifests.problems(), []);
    assert_eq!(in_force(&mut dir.open()), one("p", 1));
}

#[test]
fn of_duplicates_the_first_counts() {
    let dir = Dir::new("duplicates");
    let mut manifests = dir.open();
    dir.write("b.yaml", &policy("p", "{ingress: [{}, {}]}"));
    reload(&mut manifests);
    assert_eq!(in_force(&mut manifests), one("p", 2));
    dir.write("a.yaml", &(policy("p", OPEN) + &policy("p", "{}")));
    assert!(reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems().len()), (one("p", 1), 2));
    dir.remove("a.yaml");
    assert!(reload(&mut manifests));
    assert_eq!((in_force(&mut manifests), manifests.problems()), (one("p", 2), vec![]));
}

#[test]
fn a_restart_has_the_last_valid_version() {
    let dir = Dir::new("restart");
    dir.write("a.yaml", &(policy("p", OPEN) + &policy("gone", OPEN)));
    dir.write("b.yaml", &policy("q", OPEN));
    let mut manifests = dir.open();
    reload(&mut manifests);
    dir.write("a.yaml", &policy("p", INVALID));
    dir.write("b.yaml", "{broken");
    reload(&mut manifests);
    let mut next = dir.open();
    assert_eq!(in_force(&mut next), [("p".to_owned(), 1), ("q".to_owned(), 1)]);
    reload(&mut next);
    assert_eq!(in_force(&mut next), [("p".to_owned(), 1), ("q".to_owned(), 1)]);
    assert_eq!(next.problems().len(), 2, "{:?}", next.problems());
    // A file removed between two runs is removed.
    dir.remove("b.yaml");
    let mut next = dir.open();
    reload(&mut next);
    assert_eq!(in_force(&mut next), one("p", 1));
}

#[test]
fn a_restart_reads_only_what_is_not_wholly_in_the_copy() {
    let dir = Dir::new("unread");
    let refused = policy("r", OPEN) + &policy("s", INVALID);
    let repeated = policy("p", "{}") + &policy("t", OPEN);
    for (name, text) in [
        ("a.yaml", policy("p", OPEN)),
        ("b.yaml", policy("q", OPEN)),
        ("c.yaml", refused),
        ("d.yaml", repeated),
        ("e.yaml", "# nothing\n".to_owned()),
        ("f.yaml", policy("u", OPEN)),
    ] {
        dir.write(name, &text);
    }
    let mut manifests = dir.open();
    reload(&mut manifests);
    dir.write("f.yaml", &policy("u", "{ingress: [{}, {}]}"));
    let problems = manifests.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");

    let mut next = dir.open();
    let sources = |manifests: &Manifests, name: &str| -> Vec<Arc<Value>> {
        let known = manifests.files[name].items.iter().map(|item| match item {
            Item::Known { source, .. } => Arc::clone(source),
            Item::Unknown { .. } => panic!("{item:?}"),
        });
        known.collect()
    };
    let kept = ["a.yaml", "b.yaml", "c.yaml", "d.yaml", "f.yaml"].map(|name| (name, sources(&next, name)));
    assert!(reload(&mut next), "what is wrong comes to light");
    assert_eq!(next.problems(), problems);
    let read = kept.map(|(name, before)| {
        let now = sources(&next, name);
        before.len() != now.len() || before.iter().zip(&now).any(|(before, now)| !Arc::ptr_eq(before, now))
    });
    assert_eq!(read, [false, false, true, true, true]);
    let rules = |(name, rules): (&str, usize)| (name.to_owned(), rules);
    assert_eq!(in_force(&mut next), [("p", 1), ("q", 1), ("r", 1), ("s", 0), ("t", 1), ("u", 2)].map(rules));
}

#[test]
fn a_damaged_copy_is_reported_and_ignored() {
    let dir = Dir::new("damaged");
    for text in [
        "",
        "{",
        "[]",
        "{\"format\":1,\"files\":{\"a\":7}}",
        "{\"format\":99,\"files\":{}}",
        &"[".repeat(9999),
    ] {
        fs::write(dir.0.join("s").join(KEPT), text).unwrap();
        let mut manifests = dir.open();
        assert_eq!((in_force(&mut manifests), manifests.problems().len()), (vec![], 1), "{text}");
    }
    // Its objects are checked like any: here one is none, and one is not valid.
    fs::write(dir.0.join("s").join(KEPT), "{\"format\":1,\"files\":{\"a.yaml\":[7,{\"kind\":\"Pod\"}]}}")
        .unwrap();
    assert_eq!(dir.open().problems().len(), 2);
}

#[test]
fn named_files_are_looked_at_and_no_others() {
    let dir = Dir::new("named");
    let mut manifests = dir.open();
    let named = |names: &[&str]| Changed::Names(names.iter().map(ToString::to_string).collect());
    dir.write("a.yaml", &(policy("p", OPEN) + &policy("q", OPEN)));
    dir.write("b.yaml", &policy("q", "{ingress: [{}, {}]}"));
    assert!(!manifests.reload(&named(&["a.txt", ".a.yaml", "none.yaml"])));
    assert!(manifests.reload(&named(&["b.yaml"])));
    assert_eq!(in_force(&mut manifests), one("q", 2));
    assert!(manifests.reload(&named(&["a.yaml"])) && !manifests.reload(&Changed::Anything));
    assert_eq!(in_force(&mut manifests), [("p".to_owned(), 1), ("q".to_owned(), 1)]);
    // Another version of an object that does not count changes nothing, of one that does, it does.
    dir.write("b.yaml", &policy("q", "{ingress: [{}, {}, {}]}"));
    assert!(!manifests.reload(&named(&["b.yaml"])));
    dir.write("a.yaml", &(policy("p", OPEN) + &policy("q", "{ingress: []}")));
    assert!(manifests.reload(&named(&["a.yaml", "b.yaml"])));
    assert_eq!(in_force(&mut manifests), [("p".to_owned(), 1), ("q".to_owned(), 0)]);
    manifests.copy().write().unwrap();
    assert_eq!(in_force(&mut dir.open()), in_force(&mut manifests));
    dir.write("a.yaml", &policy("p", INVALID));
    assert!(manifests.reload(&named(&["a.yaml"])));
    assert_eq!(in_force(&mut manifests), [("p".to_owned(), 1), ("q".to_owned(), 3)]);
    assert_eq!(manifests.problems().len(), 1);
    manifests.copy().write().unwrap();
    assert_eq!(in_force(&mut dir.open()), in_force(&mut manifests));
    dir.remove("a.yaml");
    assert!(manifests.reload(&named(&["a.yaml"])));
    assert_eq!((in_force(&mut manifests), manifests.problems()), (one("q", 3), vec![]));
    // What is kept is what is in force, whichever way it came there.
    manifests.copy().write().unwrap();
    assert_eq!(in_force(&mut dir.open()), one("q", 3));
}

#[test]
fn a_mounted_config_map_is_followed() {
    let dir = Dir::new("mounted");
    let mut manifests = dir.open();
    let put = |version: &str, spec: &str| {
        fs::create_dir(dir.0.join("m").join(version)).unwrap();
        fs::write(dir.0.join("m").join(version).join("a.yaml"), policy("p", spec)).unwrap();
        std::os::unix::fs::symlink(version, dir.0.join("m/..new")).unwrap();
        fs::rename(dir.0.join("m/..new"), dir.0.join("m/..data")).unwrap();
        Changed::Names([version, "..new", "..data"].map(str::to_owned).into())
    };
    std::os::unix::fs::symlink("..data/a.yaml", dir.0.join("m/a.yaml")).unwrap();
    let changed = put("..1", OPEN);
    assert!(manifests.reload(&changed));
    assert_eq!(in_force(&mut manifests), one("p", 1));
    let changed = put("..2", "{ingress: [{}, {}]}");
    assert!(manifests.reload(&changed));
    assert_eq!(in_force(&mut manifests), one("p", 2));
}
