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
fn only_a_change_that_contradicts_another_lease_of_the_same_node_is_named() {
    let vxlan = |ip: &str, mac: u8| {
        format!(
            r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:00:{mac:02x}"}}}}"#
        )
    };
    let mut nodes = Nodes::new("/net");
    nodes.listing();
    assert!(!nodes.put(&kv("/net/config", r#"{"Network":"10.5.0.0/16"}"#, 1)));
    assert!(!nodes.put(&kv("/net/subnets/10.5.1.0-24", &vxlan("192.168.1.1", 1), 2)));
    assert!(!nodes.put(&kv("/net/subnets/10.5.7.0-24", &vxlan("192.168.1.1", 7), 2)), "it is only listed");
    nodes.delete(b"/net/subnets/10.5.7.0-24");
    nodes.listed(2);
    let mut put =
        |name: &str, value: &str, revision| nodes.put(&kv(&format!("/net/subnets/{name}"), value, revision));
    assert!(!put("10.5.2.0-24", &vxlan("192.168.1.2", 2), 3), "another node");
    assert!(!put("10.5.3.0-24", &vxlan("192.168.1.1", 1), 4), "a second subnet of the same node");
    assert!(!put("10.5.3.0-24", "{", 5));
    assert!(!put("10.5.1.0-24", &vxlan("192.168.1.1", 8), 7), "its own, with another MAC");
    assert!(put("10.5.4.0-24", &vxlan("192.168.1.1", 66), 8));
    assert!(put("10.5.4.0-24", LEASE, 9), "another form");
    assert!(!put("10.5.4.0-24", "{", 10), "nothing is said");
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
                _ => {
                    nodes.put(&kv);
                }
            }
        }
        let _ = nodes.roster(&Own::default());
    }
}
