use proptest::prelude::*;

use super::*;

fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
    let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 5 }
}

fn problems(nodes: &Nodes) -> BTreeMap<String, String> {
    let mut problems = BTreeMap::new();
    nodes.notes.collect("", &mut problems);
    problems
}

const LEASE: &str = r#"{"PublicIP":"192.168.1.1"}"#;

#[test]
fn a_list_is_right_and_events_go_on_from_there() {
    let mut nodes = Nodes::new("/net");
    nodes.listing();
    nodes.put(&kv("/net/config", r#"{"Network":"10.5.0.0/16"}"#, 1));
    nodes.put(&kv("/net/subnets/10.5.1.0-24", LEASE, 2));
    nodes.put(&kv("/net/subnets/10.5.2.0-24", LEASE, 3));
    nodes.put(&kv("/net/elsewhere", LEASE, 3));
    nodes.put(&kv("/net/subnets/10.9.2.0-24", LEASE, 3));
    nodes.listed(3);
    assert_eq!(nodes.leases.len(), 2);
    assert_eq!(problems(&nodes).len(), 2, "{:?}", problems(&nodes));
    // Late and doubled events.
    nodes.put(&kv("/net/subnets/10.5.1.0-24", r#"{"PublicIP":"192.168.1.9"}"#, 5));
    nodes.put(&kv("/net/subnets/10.5.1.0-24", LEASE, 4));
    let entry = &nodes.leases["10.5.1.0-24"];
    assert_eq!(
        (entry.modified, entry.value.as_ref().unwrap().public_ip.to_string()),
        (5, "192.168.1.9".to_owned())
    );
    nodes.delete(b"/net/subnets/10.5.1.0-24");
    nodes.delete(b"/net/elsewhere");
    assert_eq!(nodes.leases.len(), 1);
    // A list of an earlier day counts whatever was there.
    nodes.listing();
    nodes.put(&kv("/net/subnets/10.5.2.0-24", r#"{"PublicIP":"192.168.1.7"}"#, 1));
    nodes.listed(1);
    assert_eq!(nodes.leases["10.5.2.0-24"].modified, 1);
    assert_eq!(nodes.network_problem().unwrap(), "it is gone; everything stays as it was until it is back");
    assert!(nodes.network.is_some());
}

#[test]
fn what_a_node_has_to_answer_waits_for_it() {
    let vxlan = |ip: &str, mac: u8| {
        format!(
            r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:00:{mac:02x}"}}}}"#
        )
    };
    let lease = |name: &str, value: &str, revision| kv(&format!("/net/subnets/{name}"), value, revision);
    let own = Own {
        address: Some("192.168.1.9".parse().unwrap()),
        key: Some("10.5.9.0-24".parse().unwrap()),
        ..Own::default()
    };
    let start = Instant::now();
    let mut nodes = Nodes::new("/net");
    nodes.listing();
    nodes.put(&kv("/net/config", r#"{"Network":"10.5.0.0/16"}"#, 1));
    for n in [1, 2, 9] {
        nodes.put(&lease(&format!("10.5.{n}.0-24"), &vxlan(&format!("192.168.1.{n}"), n), 2));
    }
    nodes.listed(2);
    let names = |nodes: &Nodes| nodes.leases.keys().cloned().collect::<Vec<_>>().join(" ");
    let all = "10.5.1.0-24 10.5.2.0-24 10.5.9.0-24";

    // One that is gone and comes back was never gone; one that does not come back is.
    nodes.deleted(b"/net/subnets/10.5.1.0-24", &own, start);
    assert_eq!((names(&nodes), nodes.next()), (all.to_owned(), Some(start + LINGER)));
    nodes.changed(&lease("10.5.1.0-24", &vxlan("192.168.1.1", 1), 3), &own, start);
    assert!(!nodes.ripen(start + LINGER) && nodes.next().is_none());
    nodes.deleted(b"/net/subnets/10.5.1.0-24", &own, start);
    assert!(!nodes.ripen(start + LINGER / 2) && nodes.ripen(start + LINGER));
    assert_eq!(names(&nodes), "10.5.2.0-24 10.5.9.0-24");
    // Our own is gone at once: it is we who have to answer.
    nodes.deleted(b"/net/subnets/10.5.9.0-24", &own, start);
    assert_eq!(names(&nodes), "10.5.2.0-24");
    nodes.changed(&lease("10.5.9.0-24", &vxlan("192.168.1.9", 9), 4), &own, start);

    // Another one of the same node waits, if it says another thing; what is said of ourselves does not.
    nodes.changed(&lease("10.5.3.0-24", &vxlan("192.168.1.2", 2), 5), &own, start);
    nodes.changed(&lease("10.5.4.0-24", &vxlan("192.168.1.2", 66), 6), &own, start);
    nodes.changed(&lease("10.5.5.0-24", &vxlan("192.168.1.9", 66), 7), &own, start);
    assert_eq!(names(&nodes), "10.5.2.0-24 10.5.3.0-24 10.5.5.0-24 10.5.9.0-24");
    assert!(nodes.ripen(start + LINGER));
    assert_eq!(nodes.leases["10.5.4.0-24"].modified, 6);
    // Its own lease with another MAC is believed at once, and so is what says nothing.
    nodes.changed(&lease("10.5.3.0-24", "{", 8), &own, start);
    nodes.changed(&lease("10.5.4.0-24", "{", 9), &own, start);
    nodes.changed(&lease("10.5.2.0-24", &vxlan("192.168.1.2", 7), 10), &own, start);
    assert_eq!((nodes.leases["10.5.2.0-24"].modified, nodes.next()), (10, None));
    // A list is right whatever waited.
    nodes.deleted(b"/net/subnets/10.5.2.0-24", &own, start);
    nodes.listing();
    nodes.listed(11);
    assert!(nodes.leases.is_empty() && nodes.next().is_none());
}

#[test]
fn other_names_for_subnets_are_bounded() {
    let mut nodes = Nodes::new("/net");
    nodes.put(&kv("/net/config", r#"{"Network":"10.0.0.0/8"}"#, 1));
    for i in 0..3 * MOST_ODD {
        nodes.put(&kv(&format!("/net/subnets/x{i}/10.5.1.0-24"), LEASE, 2));
    }
    nodes.put(&kv("/net/subnets/10.5.1.0-24", LEASE, 3));
    assert_eq!(nodes.leases.len(), MOST_ODD + 1);
    nodes.delete(b"/net/subnets/x1/10.5.1.0-24");
    nodes.put(&kv("/net/subnets/y/10.5.1.0-24", LEASE, 4));
    assert_eq!(nodes.leases.len(), MOST_ODD + 1, "room is made by what goes");
}

proptest! {
    #[test]
    fn any_keys_and_values_are_taken(
        pairs in proptest::collection::vec(("(config|subnets(/?)[0-9.&:a-f-]{0,24}|\\PC{0,9})", proptest::collection::vec(any::<u8>(), 0..40), 0_u8..4), 0..40)
    ) {
        let mut nodes = Nodes::new("/net");
        nodes.put(&kv("/net/config", r#"{"Network":"10.0.0.0/8"}"#, 1));
        for (name, value, what) in pairs {
            let kv = KeyValue { value, ..kv(&format!("/net/{name}"), "", 2) };
            match what {
                0 => nodes.listing(),
                1 => nodes.listed(2),
                2 => nodes.delete(&kv.key),
                _ => nodes.put(&kv),
            }
        }
        let _ = nodes.roster(&Own::default());
    }
}
