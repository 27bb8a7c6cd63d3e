//! A node's store on a test's etcd, and everything it told.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::config::{EtcdSettings, Peer};
use control::fleet::Fleet;
use control::mac::Mac;
use control::store::Objects;
use control::store::etcd::{EtcdStore, First, Health, NodeFacts, PublishedPod, StoreEvent, Timing};

use super::{PATIENCE, scratch, wait};

/// Short times, for a test that waits for them. etcd's least lease is of 2 s.
#[must_use]
pub fn quick() -> Timing {
    Timing {
        ttl: Duration::from_secs(30),
        backoff: (Duration::from_millis(20), Duration::from_millis(400)),
        connect: Duration::from_millis(500),
        call: Duration::from_secs(2),
        ..Timing::default()
    }
}

/// What a store told.
#[derive(Debug, Default)]
pub struct Heard {
    /// The last fleet.
    pub fleet: Option<Arc<Fleet>>,
    /// How many there were.
    pub fleets: usize,
    /// The objects in force.
    pub objects: Objects,
    /// The last problems.
    pub problems: Vec<(String, String)>,
    /// Every health there was.
    pub health: Vec<Health>,
}

/// A node's store.
pub struct Node {
    /// Where it keeps what it knows.
    pub dir: PathBuf,
    store: Option<EtcdStore>,
    heard: Arc<Mutex<Heard>>,
    facts: NodeFacts,
    settings: EtcdSettings,
    timing: Timing,
}

impl Node {
    /// Node `number`, 1 to 60000: named `n<number>`, address in 192.168.0.0/16 and fd00:77::/64, MAC likewise.
    #[must_use]
    pub fn start(number: u16, settings: &EtcdSettings) -> Node {
        Node::start_with(number, settings, quick())
    }

    /// With times of its own.
    #[must_use]
    pub fn start_with(number: u16, settings: &EtcdSettings, timing: Timing) -> Node {
        let [high, low] = number.to_be_bytes();
        let facts = NodeFacts {
            name: format!("n{number}"),
            address: Some(Ipv4Addr::new(192, 168, high, low)),
            address6: Some(format!("fd00:77::{number:x}").parse().expect("an address")),
            vtep_mac: Some(Mac([0x0e, 0, 0, 0, high, low])),
            subnet_env: None,
            pools: false,
        };
        Node::start_as(facts, settings, timing)
    }

    /// As this node.
    #[must_use]
    pub fn start_as(facts: NodeFacts, settings: &EtcdSettings, timing: Timing) -> Node {
        let dir = scratch("node");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut node = Node { dir, store: None, heard, facts, settings: settings.clone(), timing };
        node.resume();
        node
    }

    /// Starts it again, with what it kept.
    ///
    /// # Panics
    /// When there is no thread for it.
    pub fn resume(&mut self) {
        self.heard = Arc::new(Mutex::new(Heard::default()));
        let heard = Arc::clone(&self.heard);
        let on_event = Box::new(move |event| {
            let mut heard = heard.lock().expect("no test panics with it held");
            match event {
                StoreEvent::Fleet(fleet) => (heard.fleet, heard.fleets) = (Some(fleet), heard.fleets + 1),
                StoreEvent::Objects(changes) => {
                    for change in changes {
                        change.apply(&mut heard.objects);
                    }
                }
                StoreEvent::Problems(problems) => heard.problems = problems,
                StoreEvent::Health(health) => heard.health.push(health),
            }
        });
        let (settings, facts) = (self.settings.clone(), self.facts.clone());
        let store = EtcdStore::start(settings, self.timing, facts, &self.dir, on_event);
        self.store = Some(store.expect("the store starts"));
    }

    /// Ends it.
    pub fn stop(&mut self, release: bool) {
        if let Some(store) = self.store.take() {
            store.stop(release);
        }
    }

    /// The store.
    ///
    /// # Panics
    /// When it was stopped.
    #[must_use]
    pub fn store(&self) -> &EtcdStore {
        self.store.as_ref().expect("it runs")
    }

    /// Waits for the first fleet from etcd.
    ///
    /// # Panics
    /// When it does not come.
    #[must_use]
    pub fn first(&self) -> First {
        let first =
            self.store().wait_first(PATIENCE).unwrap_or_else(|err| panic!("{}: {err}", self.facts.name));
        assert_eq!(first.kept, None, "etcd itself says so");
        first
    }

    /// Its own IPv4 subnet.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn subnet(&self) -> String {
        let fleet = self.with(|heard| heard.fleet.clone()).expect("a fleet");
        fleet.pod_cidrs[0].to_string()
    }

    /// Looks at what was told.
    ///
    /// # Panics
    /// When another look panicked.
    pub fn with<T>(&self, look: impl FnOnce(&mut Heard) -> T) -> T {
        look(&mut self.heard.lock().expect("no test panics with it held"))
    }

    /// Waits until something was told.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&mut Heard) -> bool) {
        wait(what, || self.with(&mut is_so));
    }

    /// The peer of this name, if there is one.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<Peer> {
        self.with(|heard| {
            heard.fleet.as_ref()?.peers.iter().find(|peer| peer.name == name).map(|peer| Peer::clone(peer))
        })
    }

    /// What is wrong with a key.
    #[must_use]
    pub fn problem(&self, key: &str) -> Option<String> {
        self.with(|heard| heard.problems.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone()))
    }

    /// A pod of this node, to be published: default/`name`, the last byte of its address `last`.
    ///
    /// # Panics
    /// When the node has no subnet.
    #[must_use]
    pub fn pod(&self, name: &str, last: u8) -> PublishedPod {
        let fleet = self.with(|heard| heard.fleet.clone()).expect("a fleet");
        let IpAddr::V4(net) = fleet.pod_cidrs[0].network() else { panic!("IPv4 comes first") };
        let [a, b, c, _] = net.octets();
        PublishedPod {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            addrs: vec![Ipv4Addr::new(a, b, c, last).into()],
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop(false);
        let _ = fs::remove_dir_all(&self.dir);
    }
}
